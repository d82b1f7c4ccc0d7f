"""Measurements of a policy network that are terms of its estimated value: which logged records sway the decision?

The model gives logits over actions, (b, k). A query row is a logged round, y (b, 3): action, propensity, reward; its
term's mean over the rounds is the estimate. Give one as `Task(measure=...)`, then ask for `aggregate` over the rounds.
Scores keep their sign rule: a row is helpful where removing it raises what is measured. Here that is the value itself,
so a helpful row held the value down.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from counterlog.core.errors import LogError, message
from counterlog.core.torch_models import RowLoss


def _columns(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if y.dim() != 2 or y.shape[1] != 3 or not bool((y[:, 1] > 0).all()):
        msg = message(
            f"rounds have shape {tuple(y.shape)}",
            expected="(n, 3): action, propensity above 0, reward",
        )
        raise LogError(msg)
    return y[:, 0].long(), y[:, 1], y[:, 2]


def importance_weighted_value(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(b,) pi(a | x) / p r."""
    action, propensity, reward = _columns(y)
    chance = model(x).softmax(dim=-1).gather(1, action[:, None])[:, 0]
    return chance / propensity * reward


def doubly_robust_value(reward_model: Callable[[Tensor], Tensor]) -> RowLoss:
    """The row measurement sum_a pi(a | x) m(x, a) + pi(a | x) / p (r - m(x, a)), for m(x) of shape (b, k)."""

    def rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        action, propensity, reward = _columns(y)
        chance = model(x).softmax(dim=-1)
        with torch.no_grad():
            expected = reward_model(x)
        own, taken = (v.gather(1, action[:, None])[:, 0] for v in (chance, expected))
        return (chance * expected).sum(dim=1) + own / propensity * (reward - taken)

    return rows
