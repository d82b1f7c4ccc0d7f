"""BVE: value the policy that made the log, step by step, then take its best action once.

Use when    the log is good or broad and you want one safe step beyond it: no value of an unlogged action is ever
            learnt from.
Not when    the log is mostly poor: one step beyond a poor policy is still poor.
Data        Episodes(state, action, reward)
Paper       Gulcehre et al., Regularized Behavior Value Estimation, 2021, arXiv 2103.09575 (the unregularised part);
            compared as in Schweighofer et al., 2022, arXiv 2111.04714.
Equation    y = r + gamma (1 - terminated) Q(s', a'),  a' the next logged action, no target network    (1)
            L = mean h(Q(s, a) - y),   h: Huber with bound 1;   pi(s) = argmax_a Q(s, a)               (2)
Shapes      s (seeds, b, d) | a, a' (seeds, b) codes | Q (seeds, b, actions) | r, y (seeds, b) | L (seeds,)
Units       Q, y: shaped reward units, discounted
Raises      LogError: a role is missing | SupportError: rewards are all alike, no step has a known next action
            ConfigError: continuous actions | ConvergenceError: the loss is not finite
Differs     the last step of a cut trajectory has no next action and is left out; cut="own" repeats its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner, huber, taken
from counterlog.core.episodes import Episodes
from counterlog.core.errors import SupportError, message
from counterlog.core.stacked_critics import bootstrap_target
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class BVEConfig(DiscreteConfig):
    """Parameters of BVE."""

    cut: str = param(
        "drop",
        "last step of a cut trajectory: left out (drop), or followed by its own action (own)",
        choices=("drop", "own"),
    )


def sarsa_target(reward: Tensor, terminated: Tensor, after: Tensor, action: Tensor, gamma: float) -> Tensor:
    """Equation (1); `after` (seeds, b, actions) are the values at s', `action` the next logged ones."""
    return bootstrap_target(reward, terminated, taken(after, action), gamma)


class BVE(DiscreteLearner):
    """Behaviour value estimation."""

    config: BVEConfig

    def __init__(self, config: BVEConfig | None = None) -> None:
        self.config = config or BVEConfig()

    def prepare(
        self, log: Episodes, low: ArrayLike | None = None, high: ArrayLike | None = None
    ) -> Transitions:
        """The transitions whose next action is known, or not needed."""
        data = super().prepare(log, low, high)
        if self.config.cut == "own":
            return data
        last = np.zeros(log.rows, bool)
        last[log.last] = True
        keep = (~last | log.terminated)[log.continues | log.terminated]
        if not keep.any():
            msg = message("no step has a known next action", hint="log at least two steps a trajectory")
            raise SupportError(msg)
        return data.select(keep)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(1) and (2)."""
        with torch.no_grad():
            after = self.critic(batch.next_state)
            target = sarsa_target(batch.reward, batch.terminated, after, batch.next_action, self.config.gamma)
        values = self.critic(batch.state)
        found = huber(taken(values, batch.action) - target).mean(dim=1)
        return found, {"q": taken(values.detach(), batch.action).mean(dim=1)}
