"""Which training rows moved the output, by a closed form that needs no factor and no solver?

Use when    layers are small or adapters are tuned (LoRA), and one cheap pass without eigendecompositions is wanted.
Not when    layers are wide: the average of inverses strays from the inverse of the average as weights outnumber rows.
Data        a torch module, x (n, ...), y (n, ...) it was trained on; queries x (q, ...), y (q, ...)
Paper       Kwon, Wu, Wu, Zou: DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and Diffusion Models,
            ICLR 2024, arXiv 2310.00902, equation (5)
Equation    v_q = (1/n) sum_j (1/damping) [ g_q - g_j (g_j . g_q) / (damping + |g_j|^2) ]        by layer          (1)
            score(q, i) = sum over layers v_q . g_i                                                               (2)
Shapes      scores (n, q) | g, v: one layer's gradient (P, M)
Units       score / n: nats, rise of the query's measurement when the row is removed. Positive: the row helps
Raises      ConfigError: a loss that averages, no traced layer | LogError: no query
            ConvergenceError: a gradient that is not finite
Differs     none known; damping defaults to the paper's tenth of the mean squared gradient of the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import RowLoss
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces


@dataclass(frozen=True, kw_only=True)
class DataInfConfig(LayerConfig):
    """How the inverses are damped."""

    damping: float | None = param(None, "of (1); none: a tenth of the layer's mean squared gradient", above=0)


def mixing(products: Tensor, squares: Tensor, damping: float) -> Tensor:
    """(q, b) how much of every g_j is taken from v_q in (1), before the division by n and damping."""
    return products / (damping + squares)


class DataInf(NetworkInfluence):
    """The average of rank-one inverses, layer by layer."""

    method = "datainf"

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        task: Task | None = None,
        config: DataInfConfig | None = None,
        rng: int = 0,
    ) -> None:
        super().__init__(model, x, y, task=task, config=config or DataInfConfig(), rng=rng)
        self._damping: dict[str, float] = {}

    @property
    def damping(self) -> dict[str, float]:
        """By layer."""
        if not self._damping:
            given = self.config.damping
            total = {layer.name: 0.0 for layer in self.layers}
            for _, rows in self._training() if given is None else ():
                for name, part in rows.items():
                    total[name] += float(part.norms().sum())
            self._damping = {
                m.name: given if given is not None else max(0.1 * total[m.name] / (self.n * m.weights), 1e-30)
                for m in self.layers
            }
        return self._damping

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        traced = self._trace(rows or self.task.measured, x, y)
        g = {name: part.gradients() for name, part in traced.items()}
        taken = {name: torch.zeros_like(v) for name, v in g.items()}
        for _, block in self._training():
            for name, part in block.items():
                taken[name] += part.weighted(mixing(part.dot(g[name]), part.norms(), self.damping[name]))
        v = {name: (g[name] - taken[name] / self.n) / self.damping[name] for name in g}
        for at, block in self._training(only):
            found = sum(part.dot(v[name]) for name, part in block.items())
            yield at, slice(0, len(x)), found
