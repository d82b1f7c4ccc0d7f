"""QR-DQN: Q-learning of the return's quantiles instead of its mean.

Use when    the log covers what matters (as for dqn) and returns vary much, so that few rows drive a mean.
Not when    pairs are missing from the log: nothing here keeps the maximum from unlogged actions.
Data        Episodes(state, action, reward)
Paper       Dabney, Rowland, Bellemare, Munos, Distributional Reinforcement Learning with Quantile Regression, 2018,
            arXiv 1710.10044.
Equation    a*   = argmax_a mean_i theta_i(s', a),   T_j = r + gamma (1 - terminated) theta'_j(s', a*) (1)
            u_ij = T_j - theta_i(s, a),   tau_i = (i - 1/2) / K                                        (2)
            L    = mean over rows of  sum_i mean_j |tau_i - 1(u_ij < 0)| h(u_ij),   h: Huber, bound 1  (3)
Shapes      theta (seeds, b, actions, K) | T (seeds, b, K) | u (seeds, b, K, K) | L (seeds,)
Units       theta, T: shaped reward units, discounted
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: the loss is not finite
Differs     official=True weighs u_ij by tau_j = j / K of the target, as the code of arXiv 2111.04714 does: all
            quantiles of a state then fall together. Here tau belongs to the predicted quantile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner
from counterlog.core.stacked_critics import bootstrap_target
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class QRDQNConfig(DiscreteConfig):
    """Parameters of QR-DQN."""

    quantiles: int = param(50, "K quantiles an action", at_least=1)
    official: bool = param(False, "the loss as the authors of the comparison coded it (quantiles collapse)")


def quantile_loss(theta: Tensor, target: Tensor, *, official: bool = False) -> Tensor:
    """Equations (2) and (3).  (seeds, b, K) predicted, (seeds, b, K) targets -> (seeds,)"""
    k = theta.shape[-1]
    level = (torch.arange(k) + (1.0 if official else 0.5)) / k
    found: Tensor = PairwiseLoss.apply(theta, target, level[None, :] if official else level[:, None])
    return found


class PairwiseLoss(torch.autograd.Function):  # type: ignore[misc]
    """(3) with its own gradient, - mean_j weight_ij clip(u_ij, +-1): no graph over the K x K differences."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, target: Tensor, level: Tensor) -> Tensor:
        """(seeds,)"""
        u = target[..., None, :] - theta[..., :, None]
        weight = torch.where(u < 0, 1 - level, level)
        slope = u.clamp(-1, 1)
        ctx.save_for_backward((weight * slope).mean(dim=-1).neg_().div_(theta.shape[1]))
        # h(u) = clip(u) (u - clip(u) / 2)
        return (weight.mul_(slope).mul_(u.sub_(slope, alpha=0.5))).mean(dim=-1).sum(dim=-1).mean(dim=1)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        """Of theta alone."""
        (slope,) = ctx.saved_tensors
        return grad[0][:, None, None] * slope, None, None


class QRDQN(DiscreteLearner):
    """Quantile regression DQN."""

    config: QRDQNConfig

    def __init__(self, config: QRDQNConfig | None = None) -> None:
        self.config = config or QRDQNConfig()

    def build(self, data: Transitions) -> None:
        """K outputs an action."""
        self.heads = self.config.quantiles
        super().build(data)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(1) to (3)."""
        c, shape = self.config, (self.actions, self.heads)
        with torch.no_grad():
            best = self.critic(batch.next_state).unflatten(-1, shape).mean(dim=-1).argmax(dim=-1)
            after = picked(self.critic_target(batch.next_state).unflatten(-1, shape), best)
            target = bootstrap_target(batch.reward[..., None], batch.terminated[..., None], after, c.gamma)
        theta = picked(self.critic(batch.state).unflatten(-1, shape), batch.action)
        return quantile_loss(theta, target, official=c.official), {"q": theta.detach().mean(dim=(1, 2))}


def picked(heads: Tensor, action: Tensor) -> Tensor:
    """(seeds, b, K) the heads (seeds, b, actions, K) of the actions (seeds, b)."""
    index = action[..., None, None].expand(*action.shape, 1, heads.shape[-1])
    return heads.gather(-2, index)[..., 0, :]
