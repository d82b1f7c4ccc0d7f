"""Influence with the exact inverse of the empirical Fisher matrix: dear in rows, free of any approximation of G.

Use when    rows are few (thousands): as an oracle for factored methods, or because nothing may be approximated.
Not when    rows are many: it holds n^2 numbers and solves an n x n system; use ekfac-influence.
Data        a torch module, x (n, ...), y (n, ...) it was trained on; queries x (q, ...), y (q, ...)
Paper       Woodbury form of natural-gradient influence: Grosse et al., 2023, arXiv 2308.03296, section 2; the n x n
            dual as in Dangel, Tatzel and Hennig: ViViT, 2022, arXiv 2106.02624
Equation    F = (1/n) sum_i g_i g_i',     score(q, i) = g_q' (F + damping I)^-1 g_i                                (1)
            = [ K_qt - K_qt/n (K_tt/n + damping I)^-1 K_tt ]_i / damping = [ K_qt (K_tt/n + damping I)^-1 ]_i       (2)
Shapes      scores (n, q) | K_qt (q, n), K_tt (n, n) inner products of gradients over all traced weights
Units       score / n: nats, rise of the query's measurement when the row is removed. Positive: the row helps
Raises      ConfigError: more than max_rows rows, a loss that averages, no traced layer | LogError: no query
            ConvergenceError: a gradient that is not finite
Differs     the second form of (2), which is equal and solves for the queries alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.curvature_solvers import woodbury_scores
from counterlog.core.errors import ConfigError, message
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import RowLoss
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces, Rows


@dataclass(frozen=True, kw_only=True)
class FisherInfluenceConfig(LayerConfig):
    """How the matrix is damped, and how many rows are too many."""

    damping: float = param(1e-3, "added to the diagonal of F", above=0)
    max_rows: int = param(10_000, "training rows above which the n x n system is refused", at_least=1)


def inner_products(left: Rows, right: Rows) -> Tensor:
    """(b, b') over all layers."""
    total: Tensor = sum(part.kernel(right[name]) for name, part in left.items())
    return total


class FisherInfluence(NetworkInfluence):
    """Exact empirical-Fisher influence through the Gram matrix."""

    method = "fisher"

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        task: Task | None = None,
        config: FisherInfluenceConfig | None = None,
        rng: int = 0,
    ) -> None:
        super().__init__(model, x, y, task=task, config=config or FisherInfluenceConfig(), rng=rng)
        if self.n > self.config.max_rows:
            msg = message(
                f"{self.n:,} training rows", expected=f"at most max_rows = {self.config.max_rows:,}"
            )
            raise ConfigError(message(msg, hint="use ekfac-influence, or raise max_rows"))
        self._gram: Tensor | None = None

    @property
    def gram(self) -> Tensor:
        """(n, n) inner products of the training gradients, a block of rows against a block at a time."""
        if self._gram is None:
            self._gram = torch.empty(self.n, self.n, dtype=torch.float64)
            for at, left in self._training():
                for to, right in self._training(slice(at.start, self.n)):
                    block = inner_products(left, right).double().cpu()
                    self._gram[at, to], self._gram[to, at] = block, block.T
        return self._gram

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        asked = self._trace(rows or self.task.measured, x, y)
        cross = torch.cat(
            [inner_products(asked, block).double().cpu() for _, block in self._training()], dim=1
        )
        found = woodbury_scores(cross, self.gram, self.config.damping)
        at = only or slice(0, self.n)
        yield at, slice(0, len(x)), found[:, at]
