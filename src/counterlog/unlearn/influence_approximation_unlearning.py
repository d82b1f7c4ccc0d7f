"""Forgetting by incremental learning: one signed gradient step away from the rows that must go (IAU).

Use when    rows must go now, the model is a network, and retraining takes too long.
Not when    a certificate of deletion is needed: this is an approximation, and nothing here proves removal.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       Liu, Wu, Lian and Chen (2025), Efficient Machine Unlearning via Influence Approximation, arXiv:2507.23257
Equation    theta_-z - theta0 ~ (1/n) H^-1 grad l(z) = theta_+z' - theta0  where grad l(z') = -grad l(z)     (1)
            G = c_r grad mean_retain l - c_f grad mean_forget l                                            (2)
            theta = theta0 - lr G                      (step='sgd')                                        (3)
            theta = theta0 - lr G / (|G| + eps)        (step='adam', the first step of a fresh Adam)        (4)
            l_GR(B) = l(B) + alpha sum_p || grad_p l(B) ||_2                                               (5)
Shapes      G as the parameters | l (b,) one loss a row | H (p, p) over all parameters
Units       lr with step='adam': weight units, every weight moves by lr | l: nats
Raises      LogError: rows overlap, do not exist, are none or all | ConfigError: no gradients, a loss that averages
            ConvergenceError: a weight or a loss is no longer finite
Differs     Paper and released code take one step; `steps`, `trust`, `salient`, `lrs` and `curvature` are additions.
            Released code: equation (4); the paper's text: equation (3). Both keep full-set means of equal weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, message
from counterlog.core.newton_products import explicit_hessian
from counterlog.core.torch_models import (
    RowLoss,
    cross_entropy_rows,
    flat,
    losses,
    mean_gradient,
    unflat,
    weights_of,
)
from counterlog.core.torch_training import Objective
from counterlog.unlearn.forget_request import Request, Unlearner, refuse_nan, share_right

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class IAUConfig(Config):
    """The update; the defaults are those of the released code."""

    step: str = param("adam", "equation (4) or (3)", choices=("adam", "sgd"))
    lr: float = param(1e-3, "step size; the training step size in the released code", above=0)
    lrs: tuple[float, ...] = param(
        (), "step sizes to choose from: the largest that keeps `most_lost`", above=0
    )
    most_lost: float = param(
        0.01, "retained accuracy that `lrs` may give up", unit="share", at_least=0, below=1
    )
    c_f: float = param(1.0, "weight of the rows to forget", at_least=0)
    c_r: float = param(1.0, "weight of the rows to keep", at_least=0)
    steps: int = param(1, "updates, each with a fresh G", at_least=1)
    trust: float = param(
        float("inf"), "stop before the mean retained loss rises by more", unit="nats", above=0
    )
    rows: int = param(1024, "rows a pass; the means do not depend on it", at_least=1)
    retain_rows: int = param(0, "retained rows drawn for the means; 0 takes all", at_least=0)
    salient: float = param(
        1.0, "share of weights that may move, by size of the forget gradient", above=0, at_most=1
    )
    curvature: str = param(
        "none", "multiply G by (n_f / n) H^-1; needs step='sgd'", choices=("none", "explicit")
    )
    l2: float = param(0.0, "ridge l2/2 |theta|^2 added to the mean loss in training", at_least=0)


def influence_equivalence(hessian: Floats, gradient: Floats, n: int) -> tuple[Floats, Floats]:
    """Equation (1): the move of the optimum when a row of this gradient goes, and when its mirror row comes.

    (p, p) Hessian of the mean loss, (p,), rows -> two (p,) moves; they are equal.
    """
    removed = np.linalg.solve(hessian, gradient) / n
    mirror = -gradient
    return removed, -np.linalg.solve(hessian, mirror) / n


def direction(kept: Sequence[Tensor], gone: Sequence[Tensor], c_r: float, c_f: float) -> list[Tensor]:
    """Equation (2): the gradient to descend, one tensor a parameter."""
    return [c_r * r - c_f * f for r, f in zip(kept, gone, strict=True)]


def with_ridge(gradient: Sequence[Tensor], weights: Sequence[Tensor], l2: float) -> list[Tensor]:
    """The gradient when every row's loss carries l2/2 |theta|^2, as it does when a ridge is added to the mean."""
    return [g + l2 * w.detach() for g, w in zip(gradient, weights, strict=True)]


def adam_moves(G: Sequence[Tensor], state: list[list[Tensor]], t: int, eps: float = 1e-8) -> list[Tensor]:
    """Equation (4) at t = 1: Adam's move before the step size, with betas .9 and .999; `state` carries the means."""
    moves = []
    for g, (m, v) in zip(G, state, strict=True):
        m.mul_(0.9).add_(g, alpha=0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        moves.append((m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + eps))
    return moves


def gradient_restriction(alpha: float, norm: str = "per_tensor") -> Objective:
    """Equation (5) as an objective for `train` and `train_stack`: mean loss plus alpha times its gradient norms.

    `norm='per_tensor'` sums one norm a parameter tensor (released code), `'global'` takes one norm of all (paper).
    """
    if not alpha >= 0:
        raise ConfigError(message(f"alpha = {alpha}", expected="alpha >= 0"))
    if norm not in ("per_tensor", "global"):
        raise ConfigError(message(f"norm = {norm!r}", expected="'per_tensor' or 'global'"))

    def objective(loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
        found = torch.autograd.grad(loss.sum(), list(weights), create_graph=True)
        parts = [g.reshape(*loss.shape, -1) for g in found]
        if norm == "global":
            parts = [torch.cat(parts, dim=-1)]
        return loss + alpha * torch.stack([torch.linalg.vector_norm(p, dim=-1) for p in parts]).sum(dim=0)

    return objective


def salient_mask(gone: Sequence[Tensor], share: float) -> list[Tensor]:
    """1 for the `share` of all weights with the largest forget gradient, else 0."""
    size = flat(gone).abs()
    mask = torch.zeros_like(size)
    mask[size.topk(max(1, round(share * len(size)))).indices] = 1
    return unflat(mask, gone)


class IAU(Unlearner):
    """Influence approximation unlearning."""

    def __init__(self, config: IAUConfig | None = None) -> None:
        self.config: IAUConfig = config or IAUConfig()
        if self.config.curvature != "none" and self.config.step != "sgd":
            msg = message(
                "curvature is given with step='adam'", hint="Adam throws the size of G away: step='sgd'"
            )
            raise ConfigError(msg)

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c, weights = self.config, weights_of(model)
        kept, notes, rows = _drawn(request, c.retain_rows), [], 0
        state = [[torch.zeros_like(w), torch.zeros_like(w)] for w in weights]
        limit = (
            float(losses(model, *kept, request.loss).mean()) + c.trust if c.trust < float("inf") else c.trust
        )
        for t in range(1, c.steps + 1):
            gone_g = mean_gradient(model, *request.gone, request.loss, rows=c.rows)
            kept_g = mean_gradient(model, *kept, request.loss, rows=c.rows) if c.c_r else gone_g
            gone_g, kept_g = (with_ridge(g, weights, c.l2) for g in (gone_g, kept_g))
            G = direction(kept_g, gone_g, c.c_r, c.c_f)
            rows += len(request.forget) + len(kept[0]) * (c.c_r > 0)
            if t == 1:
                notes.append(f"|G| = {float(flat(G).norm()):.3g}")
            if c.curvature == "explicit":
                G = _preconditioned(model, request, G, c.l2)
            moves = adam_moves(G, state, t) if c.step == "adam" else G
            if c.salient < 1:
                moves = [m * k for m, k in zip(moves, salient_mask(gone_g, c.salient), strict=True)]
            before = [w.detach().clone() for w in weights]
            if c.lrs:
                lr, held = largest_step(model, before, moves, request, kept, c)
                notes.append(
                    f"lr = {lr:g} of {len(c.lrs)}" + ("" if held else ": even the smallest loses more")
                )
            else:
                lr = c.lr
            move_to(weights, before, moves, lr)
            refuse_nan(model, f"step {t}")
            if limit < float("inf") and float(losses(model, *kept, request.loss).mean()) > limit:
                move_to(weights, before, moves, 0.0)
                notes.append(
                    f"stopped before step {t}: the retained loss would rise by more than {c.trust:g}"
                )
                break
        return float(rows), tuple(notes)


def move_to(weights: Sequence[Tensor], start: Sequence[Tensor], moves: Sequence[Tensor], lr: float) -> None:
    """Set every weight to its start minus lr times its move."""
    with torch.no_grad():
        for w, s, m in zip(weights, start, moves, strict=True):
            w.copy_(s - lr * m)


def largest_step(
    model: nn.Module,
    start: Sequence[Tensor],
    moves: Sequence[Tensor],
    request: Request,
    kept: tuple[Tensor, Tensor],
    config: IAUConfig,
) -> tuple[float, bool]:
    """The largest of `config.lrs` that loses at most `most_lost` of retained accuracy, and whether any does."""
    if request.y.is_floating_point():
        raise ConfigError(message("`lrs` chooses by accuracy and the targets are no classes", hint="give lr"))
    weights = weights_of(model)
    floor = share_right(model, *kept) - config.most_lost
    for lr in sorted(config.lrs, reverse=True):
        move_to(weights, start, moves, lr)
        if share_right(model, *kept) >= floor:
            return lr, True
    return min(config.lrs), False


def _drawn(request: Request, rows: int) -> tuple[Tensor, Tensor]:
    if rows == 0 or rows >= len(request.retain):
        return request.kept
    chosen = np.random.default_rng(request.rng).choice(len(request.retain), rows, replace=False)
    i = request.retain[torch.from_numpy(np.sort(chosen))]
    return request.x[i], request.y[i]


def _preconditioned(model: nn.Module, request: Request, G: Sequence[Tensor], l2: float) -> list[Tensor]:
    """(n_f / n) H^-1 G, with H the Hessian of the mean loss over forgotten and kept rows, plus the ridge."""
    i = torch.cat([request.forget, request.retain])
    hessian = explicit_hessian(model, request.x[i], request.y[i], request.loss, l2=l2)
    solved = torch.linalg.solve(hessian, flat(G).double()) * (len(request.forget) / len(i))
    return [s.to(g.dtype) for s, g in zip(unflat(solved, G), G, strict=True)]


def restricted_loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    alpha: float,
    norm: str = "per_tensor",
    loss: RowLoss = cross_entropy_rows,
) -> Tensor:
    """Equation (5) over all the rows given, (), differentiable."""
    return gradient_restriction(alpha, norm)(loss(model, x, y).mean(), weights_of(model))
