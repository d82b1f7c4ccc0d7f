"""Behaviour cloning: copy the logged actions, of all trajectories or of the best share of them.

Use when    the people or programs that made the log were good, or you need the baseline that every learner must beat.
Not when    the log is mostly poor actions and rewards are known: clone the best share, or learn from values.
Data        Episodes(state, action), and reward for share < 1
Paper       Pomerleau, Efficient Training of Artificial Neural Networks for Autonomous Navigation, 1991; the share of
            best trajectories ("10 % BC") as in Chen et al., Decision Transformer, 2021, arXiv 2106.01345.
Equation    deterministic:  L = mean over rows and dimensions of (pi(s) - a)^2                        (1)
            otherwise:      L = - mean log pi(a | s)                                                  (2)
            best share:     keep the max(1, floor(share n)) trajectories with the largest return      (3)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1], or codes (seeds, b) | L (seeds,)
Units       (1): half-ranges squared | (2): nats per decision
Raises      LogError: a role is missing, actions out of bounds | ConvergenceError: the loss is not finite
Differs     trajectories are ranked by undiscounted return; rank_gamma below 1 ranks as some published code does.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.episodes import Episodes
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions, best_trajectories


@dataclass(frozen=True, kw_only=True)
class BCConfig(OfflineConfig):
    """Parameters of behaviour cloning."""

    share: float = param(1.0, "share of trajectories kept, the best by return (3)", above=0, at_most=1)
    rank_gamma: float = param(1.0, "discount of the return that ranks trajectories", above=0, at_most=1)
    head: str = param(
        "tanh",
        "policy of continuous actions: tanh is deterministic (1), the others have a density (2)",
        choices=("tanh", "gaussian", "tanh_gaussian"),
    )


def squared_distance(action: Tensor, logged: Tensor) -> Tensor:
    """Equation (1).  (seeds, b, k) twice -> (seeds,)"""
    return (action - logged).square().mean(dim=(1, 2))


def negative_log_likelihood(log_prob: Tensor) -> Tensor:
    """Equation (2).  (seeds, b) -> (seeds,)"""
    return -log_prob.mean(dim=1)


class BC(OfflineLearner):
    """Behaviour cloning of continuous or discrete actions."""

    reward_needed = False
    config: BCConfig

    def __init__(self, config: BCConfig | None = None) -> None:
        self.config = config or BCConfig()

    def prepare(
        self, log: Episodes, low: ArrayLike | None = None, high: ArrayLike | None = None
    ) -> Transitions:
        """The transitions of the best share (3); states are scaled by what is kept."""
        c = self.config
        kept = log if c.share == 1 else best_trajectories(log, c.share, c.rank_gamma)
        return super().prepare(kept, low, high)

    def build(self, data: Transitions) -> None:
        """One policy a seed."""
        c = self.config
        head = Head("categorical" if data.discrete else c.head)
        self.actor = Actor(data.state_size, c.hidden, data.action_size, seeds=self.seeds, head=head)
        self.actor_descent = Descent(self.actor, lr=c.lr)

    def update(self, batch: Batch) -> Metrics:
        """One step down (1) or (2)."""
        self.updates += 1
        if self.actor.head.kind == "tanh":
            loss = squared_distance(self.actor.mode(batch.state), batch.action)
        else:
            loss = negative_log_likelihood(self.actor.log_prob(batch.state, batch.action))
        self.actor_descent.step(loss)
        return {"actor_loss": loss.detach()}
