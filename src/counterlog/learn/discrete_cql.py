"""Discrete CQL: double Q-learning that pushes down the values of actions that were not logged.

Use when    actions are discrete, coverage is in doubt, and you fear over-trusted values most.
Not when    the log covers everything: the penalty then only slows learning (dqn).
Data        Episodes(state, action, reward)
Paper       Kumar, Zhou, Tucker, Levine, Conservative Q-Learning, 2020, arXiv 2006.04779, on DQN.
Equation    L = mean h(Q(s, a) - y) + alpha mean [logsumexp_a' Q(s, a') - Q(s, a)],   y as in dqn      (1)
            gradient of the penalty in Q(s, .):  alpha (softmax Q(s, .) - onehot(a)) / b               (2)
Shapes      s (seeds, b, d) | a (seeds, b) codes | Q (seeds, b, actions) | L (seeds,)
Units       Q, y, gap: shaped reward units, discounted
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: the loss is not finite
Differs     nothing in (1); alpha is fixed, without the Lagrange variant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner, huber, taken
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class DiscreteCQLConfig(DiscreteConfig):
    """Parameters of discrete CQL."""

    alpha: float = param(0.1, "weight of the penalty (1); 0 is dqn", at_least=0)


def conservative_gap(values: Tensor, action: Tensor) -> Tensor:
    """The penalty of (1).  (seeds, b, actions), (seeds, b) -> (seeds,)"""
    return (torch.logsumexp(values, dim=-1) - taken(values, action)).mean(dim=1)


class DiscreteCQL(DiscreteLearner):
    """Conservative Q-learning, discrete actions."""

    config: DiscreteCQLConfig

    def __init__(self, config: DiscreteCQLConfig | None = None) -> None:
        self.config = config or DiscreteCQLConfig()

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (1)."""
        target = self.double_q(batch)
        values = self.critic(batch.state)
        td = huber(taken(values, batch.action) - target).mean(dim=1)
        gap = conservative_gap(values, batch.action)
        metrics = {
            "td_loss": td.detach(),
            "gap": gap.detach(),
            "q": values.detach().amax(dim=-1).mean(dim=1),
        }
        return td + self.config.alpha * gap, metrics
