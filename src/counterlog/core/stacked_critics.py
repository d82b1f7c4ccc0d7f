"""Critics of all seeds: an ensemble of action values as one stack, and its targets.

Q_j(s, a) for members j: (seeds, members, b). Two members are the twin critics of TD3 and SAC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterlog.core.stacked_nets import StackedMLP


class Critic(StackedMLP):
    """Values of state-action pairs, `members` a seed."""

    def __init__(
        self,
        state: int,
        action: int,
        hidden: Sequence[int],
        *,
        seeds: Sequence[int],
        members: int = 2,
        role: str = "critic",
        **options: Any,
    ) -> None:
        super().__init__((state + action, *hidden, 1), seeds=seeds, members=members, role=role, **options)

    def values(self, state: Tensor, action: Tensor) -> Tensor:
        """(seeds, b, d), (seeds, b, k) -> (seeds, members, b)."""
        return self(torch.cat([state, action], dim=-1))[..., 0]

    def first(self, state: Tensor, action: Tensor, member: int = 0) -> Tensor:
        """One member's values, (seeds, b): half the work of twins."""
        return self(torch.cat([state, action], dim=-1), member)[..., 0]

    def least(self, state: Tensor, action: Tensor) -> Tensor:
        """The smallest member's value, (seeds, b)."""
        return self.values(state, action).amin(dim=1)


class StateValue(StackedMLP):
    """Values of states, one a seed."""

    def __init__(
        self, state: int, hidden: Sequence[int], *, seeds: Sequence[int], role: str = "value", **options: Any
    ) -> None:
        super().__init__((state, *hidden, 1), seeds=seeds, role=role, **options)

    def values(self, state: Tensor) -> Tensor:
        """(seeds, b, d) -> (seeds, b)."""
        return self(state)[..., 0]


def bootstrap_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - terminated) V(s'), (seeds, b): a time limit is not a termination and keeps its bootstrap."""
    return torch.addcmul(reward, 1 - terminated, next_value, value=gamma)


def squared_errors(values: Tensor, target: Tensor) -> Tensor:
    """(seeds, members, b) against (seeds, b) -> (seeds,): mean over rows, summed over members."""
    return (values - target[:, None]).square().mean(dim=2).sum(dim=1)
