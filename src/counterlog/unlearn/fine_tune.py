"""Fine-tuning on the kept rows and hoping that the others fade; sparse and last-layers variants.

Use when    utility must not fall and weak forgetting is acceptable.
Not when    the model interpolates: its kept gradients vanish and nothing is forgotten.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       Golatkar, Achille and Soatto (2020), arXiv:1911.04933 | sparse: Jia et al. (2023), arXiv:2304.04934
            last layers: Goel et al. (2022), arXiv:2201.06640
Equation    min over theta of  mean_retain l(theta) + alpha (1 - e/E) |theta|_1,  e the epoch of E
Shapes      as the model's
Units       l: nats | alpha: nats per weight unit
Raises      LogError: rows overlap, do not exist, are none or all | ConvergenceError: a weight is no longer finite
            ConfigError: a parameter is outside its bounds
Differs     one file for four names: `l1` > 0 is l1-sparse; `last` > 0 is CF-k, with `redraw` EU-k
Builds on   retrain (layers drawn anew)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from counterlog.core.config import param
from counterlog.core.torch_models import checked_loss, weights_of
from counterlog.core.torch_training import TrainConfig, descend, make_optimiser, minibatches
from counterlog.unlearn.forget_request import Request, Unlearner
from counterlog.unlearn.retrain import fresh_weights


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(TrainConfig):
    """Continued training on the kept rows."""

    epochs: int = param(5, "passes over the kept rows", at_least=1)
    lr: float = param(0.01, "step size", above=0)
    optimiser: str = param("sgd", "which optimiser", choices=("adam", "sgd"))
    l1: float = param(0.0, "alpha of the sparse variant", at_least=0)
    last: int = param(0, "train only the last layers, this many; 0 trains all", at_least=0)
    redraw: bool = param(False, "draw those last layers anew first")


class FineTune(Unlearner):
    """FT, l1-sparse, CF-k and EU-k."""

    def __init__(self, config: FineTuneConfig | None = None) -> None:
        self.config: FineTuneConfig = config or FineTuneConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c = self.config
        weights = weights_of(model)
        if c.last:
            layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
            weights = [w for m in layers[-c.last :] for w in m.parameters(recurse=False)]
            if c.redraw:
                fresh_weights(model, request.rng, last=c.last)
        optimiser = make_optimiser(weights, c)
        x, y = request.kept
        for epoch in range(c.epochs):
            for i in minibatches(len(x), c.batch, (request.rng, epoch)):
                value = checked_loss(request.loss, model, x[i], y[i]).mean()
                if c.l1:
                    value = value + c.l1 * (1 - epoch / c.epochs) * sum(w.abs().sum() for w in weights)
                descend(optimiser, value)
        return float(c.epochs * len(x)), ()
