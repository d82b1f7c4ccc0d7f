"""DQN: double Q-learning from a fixed log of discrete actions, with nothing that keeps it near the log.

Use when    the log holds (nearly) every action in every state that matters: SACo near 1, coverage complete.
Not when    some pairs were never logged: the maximum finds them, and their values are made up (use discrete-bcq, -cql).
Data        Episodes(state, action, reward)
Paper       Mnih et al., Human-level control through deep reinforcement learning, 2015; van Hasselt, Guez, Silver, Deep
            Reinforcement Learning with Double Q-learning, 2016, arXiv 1509.06461. On logs as in arXiv 2111.04714.
Equation    a* = argmax_a Q(s', a),   y = r + gamma (1 - terminated) Q'(s', a*)                       (1)
            L  = mean h(Q(s, a) - y),   h: Huber with bound 1                                         (2)
Shapes      s (seeds, b, d) | a (seeds, b) codes | Q (seeds, b, actions) | r, y (seeds, b) | L (seeds,)
Units       Q, y: shaped reward units, discounted | L: those squared, linear beyond 1
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: the loss is not finite
Differs     a time limit keeps its bootstrap; the paper's comparison counts it as an end.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner, huber, taken
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class DQNConfig(DiscreteConfig):
    """Parameters of DQN: those that the family shares."""


def td_loss(values: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Equation (2).  (seeds, b, actions), (seeds, b), (seeds, b) -> (seeds,)"""
    return huber(taken(values, action) - target).mean(dim=1)


class DQN(DiscreteLearner):
    """Double Q-learning on a fixed log."""

    config: DQNConfig

    def __init__(self, config: DQNConfig | None = None) -> None:
        self.config = config or DQNConfig()

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(1) and (2)."""
        target = self.double_q(batch)
        values = self.critic(batch.state)
        found = td_loss(values, batch.action, target)
        return found, {"q": values.detach().amax(dim=-1).mean(dim=1)}
