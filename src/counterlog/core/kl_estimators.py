"""Estimators of KL(pi || ref) from tokens that pi sampled, and what their gradients are gradients of.

With d = log pi - log ref: k1 = d has the right value and, as a loss, a gradient of mean zero; k2 = d^2 / 2 has a
biased value and, on policy, the gradient of KL(pi || ref); k3 = exp(-d) - 1 + d has the right value, is never negative,
and has the gradient of KL(ref || pi). Show k3; descend k2.
"""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("k1", "k2", "k3", "abs", "low-var-k3", "k3-with-k2-gradient")


def kl(logp: Tensor, ref: Tensor, kind: str = "k3", *, ratio: Tensor | None = None) -> Tensor:
    """One estimate a token, nats. `ratio` = pi / pi_sampler, held inside [0, 2] and without gradient, corrects for
    tokens that an older policy sampled."""
    d = logp - ref
    if kind == "k1":
        value = d
    elif kind == "k2":
        value = d.square() / 2
    elif kind == "abs":
        value = d.abs()
    elif kind == "k3":
        value = torch.expm1(-d) + d
    elif kind == "low-var-k3":
        held = d.clamp(-20, 20)
        value = (torch.expm1(-held) + held).clamp(-10, 10)
    else:
        shown, descended = kl(logp, ref, "low-var-k3"), kl(logp, ref, "k2")
        value = shown.detach() + descended - descended.detach()
    return value if ratio is None else value * ratio.detach().clamp(0, 2)


def adapted(coefficient: float, measured: float, target: float, rows: float, horizon: float) -> float:
    """The coefficient after a step that measured `measured` nats: raised above `target`, lowered below, by at most a
    fifth a horizon."""
    return coefficient * (1 + min(max(measured / target - 1, -0.2), 0.2) * rows / horizon)
