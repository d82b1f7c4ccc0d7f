"""Advantages of a rollout: generalised advantage estimation, with time limits kept apart from terminations.

    delta_t = r_t + gamma (1 - terminated_t) V(x_t) - V(s_t)                                           (1)
    A_t     = delta_t + gamma lam (1 - ended_t) A_{t+1},   ended = terminated or truncated             (2)

x_t is the state that the action led to: at an end the true last state, never the next episode's first. A truncated
step keeps its bootstrap, and nothing flows over an end. lam 1 is the discounted sum minus the value.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

TINY = 1e-8


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Equation (2), backwards over the first axis: (T, ...) each -> (T, ...). `next_value` is V(x_t)."""
    delta = reward + gamma * (1 - terminated) * next_value - value
    carry = gamma * lam * (1 - ended)
    out = torch.empty_like(delta)
    after = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        torch.addcmul(delta[t], carry[t], after, out=out[t])
        after = out[t]
    return out


def standardised(advantage: Tensor) -> Tensor:
    """(seeds, b) minus its mean, over its deviation (b - 1 below), seed by seed.

    Advantages that are all alike teach nothing: they become 0, with a warning.
    """
    centred = advantage - advantage.mean(dim=1, keepdim=True)
    deviation = advantage.std(dim=1, keepdim=True)
    flat = deviation <= TINY * (1 + advantage.abs().amax(dim=1, keepdim=True))
    if bool(flat.any()):
        warnings.warn(
            f"the advantages of {int(flat.sum())} seeds are all alike and count as 0: are the rewards constant?",
            UserWarning,
            stacklevel=2,
        )
        return torch.where(flat, 0.0, centred / (deviation + TINY))
    return centred / (deviation + TINY)
