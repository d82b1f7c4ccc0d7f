"""Whose training gradients pointed the way the query wanted, at every checkpoint of the training?

Use when    checkpoints of the training are at hand, or a quick first look at one (GradDot, GradCos) is enough.
Not when    curvature matters and its factors can be had: ekfac-influence ranks better on the same model.
Data        a torch module, x (n, ...), y (n, ...); checkpoints: modules of the same kind, with their learning rates
Paper       Pruthi, Liu, Kale, Sundararajan: Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS
            2020, arXiv 2002.08484, section 3.2 (TracInCP). GradDot is its one-checkpoint form, GradCos the cosine.
Equation    score(q, i) = sum_c lr_c <grad m_q(theta_c), grad l_i(theta_c)>                                        (1)
            cosine: each term divided by the two gradients' lengths at that checkpoint                              (2)
Shapes      scores (n, q) | a gradient: all traced weights of the network
Units       (1) nats times learning rate, (2) none. Positive: the row's steps lowered the query's loss
Raises      ConfigError: checkpoints and rates of unequal number, a loss that averages | LogError: no query
            ConvergenceError: a gradient that is not finite
Differs     gradients of the traced layers (Linear, Conv2d, Conv1D by default) instead of all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.query_products import DenseQueries
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import RowLoss
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces, Rows


@dataclass(frozen=True, kw_only=True)
class TracInConfig(LayerConfig):
    """How gradients are compared."""

    cosine: bool = param(False, "compare directions alone, equation (2)")


def lengths(rows: Rows) -> Tensor:
    """(b,) length of every row's gradient over all layers."""
    total: Tensor = sum(part.norms() for part in rows.values())
    return total.clamp_min(1e-30).sqrt()


class TracIn(NetworkInfluence):
    """TracInCP; with the trained model alone it is GradDot, with `cosine` GradCos."""

    method = "tracin"
    removal = False

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        checkpoints: Sequence[nn.Module] = (),
        rates: Sequence[float] = (),
        task: Task | None = None,
        config: TracInConfig | None = None,
        rng: int = 0,
    ) -> None:
        """`checkpoints` are copies of the model along its training (none: the model itself), `rates` their steps."""
        super().__init__(model, x, y, task=task, config=config or TracInConfig(), rng=rng)
        self.checkpoints = list(checkpoints) or [model]
        self.rates = list(rates) or [1.0] * len(self.checkpoints)
        if len(self.rates) != len(self.checkpoints):
            msg = message(
                f"{len(self.checkpoints)} checkpoints and {len(self.rates)} rates",
                expected="one a checkpoint",
            )
            raise ConfigError(msg)

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        asked, queries, cosine = rows or self.task.measured, [], self.config.cosine
        for model, rate in zip(self.checkpoints, self.rates, strict=True):
            traced = self._trace(asked, x, y, model=model)
            scale = rate / lengths(traced) if cosine else torch.full((len(x),), rate, device=x.device)
            queries.append(
                {n: DenseQueries(r.gradients() * scale[:, None, None].to(r.s)) for n, r in traced.items()}
            )
        walks = [self._training(only, model) for model in self.checkpoints]
        for blocks in zip(*walks, strict=True):
            total = torch.zeros(())
            for prepared, (_, traced) in zip(queries, blocks, strict=True):
                found = sum(q.dot(traced[name]) for name, q in prepared.items())
                total = total.to(found) + (found / lengths(traced) if cosine else found)
            yield blocks[0][0], slice(0, len(x)), total
