"""Which training rows moved a classifier's margin, by random projections and a few trained models?

Use when    many queries are asked, gradients of all rows fit when projected, and one or several trained models exist.
Not when    one model and few rows: projections lose more than curvature factors; ekfac-influence ranks better there.
Data        a torch classifier, x (n, ...), y (n,) class numbers; queries alike; models: further ones, trained apart
Paper       Park, Georgiev, Ilyas, Leclerc, Madry: TRAK: Attributing Model Behavior at Scale, ICML 2023,
            arXiv 2303.14186
Equation    f = log(p / (1 - p)) of the label,   phi_i = R' grad f(z_i)                                             (1)
            tau(q, i) = mean_models [ phi_q' (Phi' Phi + ridge I)^-1 phi_i ] x mean_models (1 - p_i)                (2)
Shapes      scores (n, q) | R (weights, k) | Phi (n, k)
Units       logits: fall of the query's margin when the row is removed. Positive: the row helps
Raises      ConfigError: labels that are no class numbers, a loss that averages | LogError: no query
            ConvergenceError: Phi'Phi cannot be inverted, a gradient that is not finite
Differs     gradients of the traced layers; no soft threshold of small scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, ConvergenceError, message
from counterlog.core.gradient_projections import projected
from counterlog.core.row_tasks import Task, margin_rows
from counterlog.core.torch_models import RowLoss, losses
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces, Rows


@dataclass(frozen=True, kw_only=True)
class TRAKConfig(LayerConfig):
    """The projection and the ridge."""

    dimension: int = param(512, "k: numbers a projected gradient has", at_least=1)
    projection: str = param("rademacher", "entries of R", choices=("rademacher", "normal"))
    ridge: float = param(0.0, "added to the diagonal of Phi'Phi", at_least=0)


def attribution(phi_query: Tensor, phi: Tensor, ridge: float) -> Tensor:
    """phi_q' (Phi'Phi + ridge I)^-1 phi_i, (q, n). Raises `ConvergenceError` when the matrix is singular."""
    square = (phi.T @ phi).double()
    square.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(square)
    if int(failed):
        msg = message(
            f"Phi'Phi of {len(phi)} rows and {phi.shape[1]} dimensions has no inverse",
            hint="lower dimension below the number of rows, or set ridge above 0",
        )
        raise ConvergenceError(msg)
    return torch.cholesky_solve(phi_query.double().T, factor).T @ phi.double().T


class TRAK(NetworkInfluence):
    """TRAK over one or several models."""

    method = "trak"
    removal = False

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        models: Sequence[nn.Module] = (),
        task: Task | None = None,
        config: TRAKConfig | None = None,
        rng: int = 0,
    ) -> None:
        """`models` are further models of the same kind, trained alike on the rows or on parts of them."""
        super().__init__(model, x, y, task=task, config=config or TRAKConfig(), rng=rng)
        if self.y.is_floating_point() or self.y.dim() != 1:
            msg = message(
                f"labels are {self.y.dtype} of shape {tuple(self.y.shape)}", expected="(n,) class numbers"
            )
            raise ConfigError(msg)
        self.models = [model, *models]
        self._phi: list[Tensor] = []
        self._doubt: Tensor | None = None

    @property
    def unit(self) -> str:
        """Of a score."""
        return "logits (fall of the query's margin when the row is removed)"

    def _project(self, rows: Rows, number: int) -> Tensor:
        c = self.config
        found = [projected(p, name, c.dimension, c.projection, self.rng + number) for name, p in rows.items()]
        return torch.stack(found).sum(dim=0)

    def _features(self) -> tuple[list[Tensor], Tensor]:
        """Phi (n, k) of every model, and the mean of 1 - p_i (n,)."""
        if self._doubt is None:
            doubts = [1 - (-losses(m, self.x, self.y, self.task.loss)).exp() for m in self.models]
            for number, model in enumerate(self.models):
                parts = []
                for start in range(0, self.n, self.config.batch):
                    at = slice(start, start + self.config.batch)
                    parts.append(
                        self._project(self._trace(margin_rows, self.x[at], self.y[at], start, model), number)
                    )
                self._phi.append(torch.cat(parts))
            self._doubt = torch.stack(doubts).mean(dim=0)
        return self._phi, self._doubt

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        phi, doubt = self._features()
        found = [
            attribution(
                self._project(self._trace(margin_rows, x, y, model=m), number), phi[number], self.config.ridge
            )
            for number, m in enumerate(self.models)
        ]
        at = only or slice(0, self.n)
        yield at, slice(0, len(x)), (torch.stack(found).mean(dim=0) * doubt.double())[:, at]
