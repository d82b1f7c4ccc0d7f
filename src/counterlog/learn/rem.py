"""REM: Q-learning of random mixtures of many heads.

Use when    the log is large and varied (as for dqn): the mixtures act like an ensemble at the price of one network.
Not when    pairs are missing from the log: nothing here keeps the maximum from unlogged actions.
Data        Episodes(state, action, reward)
Paper       Agarwal, Schuurmans, Norouzi, An Optimistic Perspective on Offline Reinforcement Learning, 2020,
            arXiv 1907.04543.
Equation    alpha_h = U_h / sum U,   U_h uniform,   Q_alpha = sum_h alpha_h Q_h                       (1)
            y = r + gamma (1 - terminated) Q'_alpha(s', argmax_a Q_alpha(s', a))                      (2)
            L = mean h(Q_alpha(s, a) - y),   h: Huber with bound 1;   pi(s) = argmax_a mean_h Q_h     (3)
Shapes      Q_h (seeds, b, actions, H) | alpha (seeds, H), one draw an update | L (seeds,)
Units       Q, y: shaped reward units, discounted
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: the loss is not finite
Differs     the paper takes max_a Q'_alpha; here the online mixture chooses, as in the comparison of arXiv 2111.04714.
            official=True draws alpha anew for each of the three forwards, as that comparison's code does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner, double_target, huber, taken
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class REMConfig(DiscreteConfig):
    """Parameters of REM."""

    mixed: int = param(200, "H heads that are mixed", at_least=1)
    official: bool = param(False, "a new mixture for each forward, as the comparison's code draws them")


def mixture(drawn: Tensor) -> Tensor:
    """alpha of (1).  (seeds, H) uniform -> (seeds, H) summing to 1"""
    return drawn / drawn.sum(dim=-1, keepdim=True)


def mixed_values(heads: Tensor, alpha: Tensor) -> Tensor:
    """Q_alpha of (1).  (seeds, b, actions, H), (seeds, H) -> (seeds, b, actions)"""
    return (heads @ alpha[:, None, :, None])[..., 0]


class REM(DiscreteLearner):
    """Random ensemble mixture."""

    config: REMConfig

    def __init__(self, config: REMConfig | None = None) -> None:
        self.config = config or REMConfig()

    def build(self, data: Transitions) -> None:
        """H outputs an action, and the stream of the mixtures."""
        self.heads = self.config.mixed
        self.mixing = SeedStreams(self.seeds, "mixtures")
        super().build(data)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(1) to (3)."""
        c, shape = self.config, (self.actions, self.heads)
        alpha = [mixture(self.mixing.uniform(self.heads)) for _ in range(3 if c.official else 1)]
        with torch.no_grad():
            choosing = mixed_values(self.critic(batch.next_state).unflatten(-1, shape), alpha[0])
            valuing = mixed_values(self.critic_target(batch.next_state).unflatten(-1, shape), alpha[-1])
            target = double_target(batch.reward, batch.terminated, choosing, valuing, c.gamma)
        values = mixed_values(self.critic(batch.state).unflatten(-1, shape), alpha[len(alpha) // 2])
        loss = huber(taken(values, batch.action) - target).mean(dim=1)
        return loss, {"q": values.detach().amax(dim=-1).mean(dim=1)}
