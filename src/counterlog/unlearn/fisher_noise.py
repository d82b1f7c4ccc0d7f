"""Noise where the kept rows do not look: each weight blurred by the inverse of its Fisher information.

Use when    forgetting by noise is wanted, whatever the rows to forget were.
Not when    the network is small: nearly every weight matters, and noise costs accuracy.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       Golatkar, Achille and Soatto (2020), Eternal Sunshine of the Spotless Net, arXiv:1911.04933, section 4
Equation    theta_i <- theta_i + N(0, alpha / F_ii),   F_ii = mean over kept rows of (d l / d theta_i)^2
Shapes      F (p,) over all weights
Units       F: squared nats per squared weight | deviation: weight units
Raises      LogError: rows overlap, do not exist, are none or all | ConfigError: no gradients, a loss that averages
            ConvergenceError: a weight is no longer finite
Differs     F is the empirical Fisher (labels of the rows); the paper's is over the model's own labels.
            The deviation is cut at `most` and multiplied by `last` in the last layer, as in released benchmark code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.config import Config, param
from counterlog.core.newton_products import row_gradients
from counterlog.core.torch_models import flat, unflat, weights_of
from counterlog.unlearn.forget_request import Request, Unlearner


@dataclass(frozen=True, kw_only=True)
class FisherNoiseConfig(Config):
    """How much noise."""

    alpha: float = param(1e-8, "variance of the noise times the Fisher information", above=0)
    most: float = param(1e-3, "largest deviation of the noise", unit="weight units", above=0)
    last: float = param(10.0, "factor of the deviation in the last layer", at_least=0)
    rows: int = param(64, "rows a pass", at_least=1)


def diagonal_fisher(model: nn.Module, request: Request, rows: int) -> Tensor:
    """F_ii over the kept rows, (p,)."""
    x, y = request.kept
    block = row_gradients(model, x, y, request.loss)
    total = torch.zeros_like(flat(weights_of(model)))
    for start in range(0, len(x), rows):
        total += block(start, min(start + rows, len(x))).square().sum(dim=0)
    return total / len(x)


class FisherNoise(Unlearner):
    """Forgetting by noise."""

    def __init__(self, config: FisherNoiseConfig | None = None) -> None:
        self.config: FisherNoiseConfig = config or FisherNoiseConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c, weights = self.config, weights_of(model)
        deviation = unflat(
            (c.alpha / diagonal_fisher(model, request, c.rows)).sqrt().clamp(max=c.most), weights
        )
        layers = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
        final = {id(w) for w in layers[-1].parameters(recurse=False)}
        gen = np.random.default_rng(request.rng)
        with torch.no_grad():
            for w, d in zip(weights, deviation, strict=True):
                noise = torch.from_numpy(gen.normal(size=tuple(w.shape))).to(w.device, w.dtype)
                w.add_(noise * d * (c.last if id(w) in final else 1.0))
        return float(len(request.retain)), ()
