"""Influence in a small random corner of every layer: gradients are projected before they are formed.

Use when    the model is wide and rows are many: projections (k_out x k_in a layer and row) answer any later query.
Not when    layers are small: nothing is saved; ekfac-influence keeps all directions.
Data        a torch module, x (n, ...), y (n, ...) it was trained on; queries x (q, ...), y (q, ...)
Paper       Choe et al.: What is Your Data Worth to GPT? LLM-Scale Data Valuation with Influence Functions, 2024,
            arXiv 2405.13954, section 3 (LoGra, random initialisation)
Equation    g_i = vec( sum_t (R_out' s_t)(R_in' a_t)' )                                                            (1)
            F = mean_i g_i g_i' by layer,   score(q, i) = sum over layers g_q' (F + damping I)^-1 g_i               (2)
Shapes      scores (n, q) | R_in (M, k_in), R_out (P, k_out) | g (k_out k_in,) a layer
Units       score / n: nats, rise of the query's measurement when the row is removed. Positive: the row helps
Raises      ConfigError: a loss that averages, no traced layer | LogError: no query
            ConvergenceError: a gradient that is not finite
Differs     projections are random orthonormal; the paper's other choice, principal directions, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.gradient_projections import random_matrix
from counterlog.core.kronecker_factors import heuristic_damping
from counterlog.core.layer_rows import LayerRows, OuterRows
from counterlog.core.layer_traces import Layer
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import RowLoss
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces, Rows


@dataclass(frozen=True, kw_only=True)
class LoGraConfig(LayerConfig):
    """The sizes of the corner, and the damping."""

    k_in: int = param(16, "directions of a layer's input that are kept", at_least=1)
    k_out: int = param(16, "directions of a layer's output that are kept", at_least=1)
    damping: float | None = param(
        None, "added to F; none: a tenth of its mean eigenvalue by layer", at_least=0
    )


def corner(rows: LayerRows, left: Tensor, right: Tensor) -> Tensor:
    """Equation (1), (b, k_out k_in)."""
    if isinstance(rows, OuterRows):
        return rows.rotated(left, right).gradients().flatten(1)
    return torch.cat([(left.T @ part.gradients() @ right).flatten(1) for part in rows.blocks()])


class LoGra(NetworkInfluence):
    """Projected-gradient influence; the projections of the training rows are held, nothing else."""

    method = "logra"

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        task: Task | None = None,
        config: LoGraConfig | None = None,
        rng: int = 0,
    ) -> None:
        super().__init__(model, x, y, task=task, config=config or LoGraConfig(), rng=rng)
        like = next(model.parameters())
        self._sides = {layer.name: self._side(layer, like) for layer in self.layers}
        self._index: dict[str, Tensor] = {}

    def _side(self, layer: Layer, like: Tensor) -> tuple[Tensor, Tensor]:
        c, out = self.config, []
        for size, k, word in ((layer.outputs, c.k_out, "out"), (layer.inputs, c.k_in, "in")):
            start = random_matrix(
                size,
                min(k, size),
                "normal",
                self.rng,
                layer.name,
                word,
                like=torch.zeros((), dtype=torch.float64),
            )
            out.append(torch.linalg.qr(start)[0].to(like))
        return out[0], out[1]

    def _corners(self, rows: Rows) -> dict[str, Tensor]:
        return {name: corner(part, *self._sides[name]) for name, part in rows.items()}

    @property
    def index(self) -> dict[str, Tensor]:
        """Layer -> (n, k_out k_in) projections of the training rows, made once."""
        if not self._index:
            blocks = [self._corners(rows) for _, rows in self._training()]
            self._index = {name: torch.cat([b[name] for b in blocks]) for name in blocks[0]}
        return self._index

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        asked = self._corners(self._trace(rows or self.task.measured, x, y))
        total = torch.zeros(())
        for name, g in self.index.items():
            values, vectors = torch.linalg.eigh((g.T @ g).double() / self.n)
            given = self.config.damping
            amount = heuristic_damping(values) if given is None else given
            v = (asked[name].double() @ vectors / (values.clamp_min(0) + amount)) @ vectors.T
            total = total + v.to(g) @ g.T
        at = only or slice(0, self.n)
        yield at, slice(0, len(x)), total[:, at]
