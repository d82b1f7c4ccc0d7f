"""Gradient ascent on the rows to forget, alone (GA) or against descent on the kept rows (NegGrad+).

Use when    only the rows to forget are at hand (GA), or a slow but simple trade-off is wanted (NegGrad+).
Not when    nobody watches the kept rows: ascent has no floor and soon wrecks the model.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       GA: Thudi et al. (2022), arXiv:2109.13398 | NegGrad+: Kurmanji et al. (2023), arXiv:2302.09880
Equation    GA:       theta <- theta + lr grad l(B_forget)                                  (1)
            NegGrad+: theta <- theta - lr grad [ a l(B_retain) - (1 - a) l(B_forget) ]      (2)
Shapes      as the model's
Units       l: nats | a: share
Raises      LogError: rows overlap, do not exist, are none or all | ConvergenceError: a weight is no longer finite
            ConfigError: a parameter is outside its bounds
Differs     nothing known
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from counterlog.core.config import param
from counterlog.core.torch_models import checked_loss, weights_of
from counterlog.core.torch_training import TrainConfig, descend, make_optimiser, minibatches
from counterlog.unlearn.forget_request import Request, Unlearner, refuse_nan


@dataclass(frozen=True, kw_only=True)
class GradientAscentConfig(TrainConfig):
    """Ascent on the rows to forget."""

    epochs: int = param(5, "passes over the rows to forget", at_least=1)
    lr: float = param(0.005, "step size", above=0)
    optimiser: str = param("sgd", "which optimiser", choices=("adam", "sgd"))


@dataclass(frozen=True, kw_only=True)
class NegGradPlusConfig(TrainConfig):
    """Descent on the kept rows against ascent on the others."""

    epochs: int = param(5, "passes over the kept rows; batches to forget are cycled", at_least=1)
    lr: float = param(0.01, "step size", above=0)
    optimiser: str = param("sgd", "which optimiser", choices=("adam", "sgd"))
    a: float = param(0.95, "weight of the kept rows", at_least=0, at_most=1)


class GradientAscent(Unlearner):
    """Equation (1)."""

    def __init__(self, config: GradientAscentConfig | None = None) -> None:
        self.config: GradientAscentConfig = config or GradientAscentConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c = self.config
        optimiser = make_optimiser(weights_of(model), c)
        x, y = request.gone
        for epoch in range(c.epochs):
            for i in minibatches(len(x), c.batch, (request.rng, epoch)):
                descend(optimiser, -checked_loss(request.loss, model, x[i], y[i]).mean())
            refuse_nan(model, f"epoch {epoch + 1} of ascent")
        return float(c.epochs * len(x)), ()


class NegGradPlus(Unlearner):
    """Equation (2)."""

    def __init__(self, config: NegGradPlusConfig | None = None) -> None:
        self.config: NegGradPlusConfig = config or NegGradPlusConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c = self.config
        optimiser = make_optimiser(weights_of(model), c)
        (x, y), (gone_x, gone_y), rows = request.kept, request.gone, 0
        for epoch in range(c.epochs):
            cycle = list(minibatches(len(gone_x), c.batch, (request.rng, epoch, 1)))
            for k, i in enumerate(minibatches(len(x), c.batch, (request.rng, epoch))):
                j = cycle[k % len(cycle)]
                keep = checked_loss(request.loss, model, x[i], y[i]).mean()
                lose = checked_loss(request.loss, model, gone_x[j], gone_y[j]).mean()
                descend(optimiser, c.a * keep - (1 - c.a) * lose)
                rows += len(i) + len(j)
            refuse_nan(model, f"epoch {epoch + 1}")
        return float(rows), ()
