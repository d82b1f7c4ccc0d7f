"""Influence unlearning: one Newton step to where the kept rows' optimum should be.

Use when    the loss is convex or the network small, and curvature is affordable: on convex losses it is near exact.
Not when    the network is large and far from an optimum: the step is then wild and needs heavy damping.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       Koh and Liang (2017), arXiv:1703.04730 | Newton step: Guo et al. (2020), arXiv:1911.03030
            WoodFisher recursion: Singh and Alistarh (2020), arXiv:2004.14340
Equation    theta = theta0 - scale (H_retain + damping I)^-1 grad [ mean_retain l + (l2/2) |theta|^2 ]        (1)
            woodfisher: theta = theta0 + scale M v,  v = (n_f/n) (grad mean_forget l - grad mean_retain l)    (2)
            k <- k - o (k.g) / (N + o.g);   o <- o - o (o.g) / (N + o.g);   o = first g, k = v, k_end = M v   (3)
Shapes      H (p, p) | v, k, o, g (p,), g the gradient of one kept row
Units       damping: nats per squared weight | scale: none (1 is the full step)
Raises      LogError: rows overlap, do not exist, are none or all | ConfigError: too many weights for a dense Hessian
            ConvergenceError: a weight is no longer finite, or the curvature is not positive
Differs     (3) is the recursion of released code: it keeps one vector o and is not the full WoodFisher inverse,
            which is why its `scale` must be searched. `cg` uses the Gauss-Newton matrix of cross-entropy for H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, message
from counterlog.core.newton_products import (
    conjugate_gradient,
    explicit_hessian,
    gauss_newton_product,
    row_gradients,
)
from counterlog.core.torch_models import cross_entropy_rows, flat, mean_gradient, unflat, weights_of
from counterlog.unlearn.forget_request import Request, Unlearner


@dataclass(frozen=True, kw_only=True)
class InfluenceNewtonConfig(Config):
    """Which curvature, and how much of the step."""

    curvature: str = param("cg", "how H is inverted", choices=("explicit", "cg", "woodfisher"))
    scale: float = param(1.0, "share of the step taken", above=0)
    damping: float = param(1e-3, "added to the diagonal of H", at_least=0)
    l2: float = param(0.0, "ridge l2/2 |theta|^2 of the training objective", at_least=0)
    steps: int = param(50, "conjugate gradient steps, for cg", at_least=1)
    rows: int = param(1000, "N of (3): kept rows of the recursion, for woodfisher", at_least=1)


def woodfisher(v: Tensor, gradients: Tensor, N: int) -> Tensor:
    """Equation (3): (p,), (rows, p) -> (p,)."""
    k, o = v.clone(), gradients[0].clone()
    for g in gradients[1:]:
        below = N + o.dot(g)
        k = k - o * (k.dot(g) / below)
        o = o - o * (o.dot(g) / below)
    return k


class InfluenceNewton(Unlearner):
    """IU and the Newton step."""

    def __init__(self, config: InfluenceNewtonConfig | None = None) -> None:
        self.config: InfluenceNewtonConfig = config or InfluenceNewtonConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c, weights, (x, y) = self.config, weights_of(model), request.kept
        notes: tuple[str, ...] = ()
        kept = flat(mean_gradient(model, x, y, request.loss)) + c.l2 * flat(weights)
        rows = float(len(x))
        if c.curvature == "woodfisher":
            gone = flat(mean_gradient(model, *request.gone, request.loss))
            v = (gone - kept) * (len(request.forget) / len(request.x))
            chosen = np.random.default_rng(request.rng).permutation(len(x))[: c.rows]
            block = row_gradients(
                model, x[torch.from_numpy(chosen)], y[torch.from_numpy(chosen)], request.loss
            )
            move = woodfisher(v, block(0, len(chosen)), c.rows)
            rows += len(request.forget) + len(chosen)
        elif c.curvature == "explicit":
            hessian = explicit_hessian(model, x, y, request.loss, l2=c.l2 + c.damping)
            move = -torch.linalg.solve(hessian, kept.double()).to(kept.dtype)
            rows += len(x) * len(kept)
        else:
            if request.loss is not cross_entropy_rows:
                msg = message(
                    "curvature='cg' knows the curvature of cross-entropy only", hint="use 'explicit'"
                )
                raise ConfigError(msg)
            product = gauss_newton_product(model, x, y)
            solved, left = conjugate_gradient(product, kept, damping=c.l2 + c.damping, steps=c.steps)
            move, notes = -solved, (f"conjugate gradients ended at {left:.2g} of the right-hand side",)
            rows += 2 * len(x) * c.steps
        with torch.no_grad():
            for w, m in zip(weights, unflat(move, weights), strict=True):
                w.add_(c.scale * m)
        return rows, notes
