"""TD3+BC: a deterministic policy that climbs a twin critic and is pulled to the logged action.

Use when    the log has continuous actions and you want a strong, simple first policy with one knob (alpha).
Not when    actions are discrete, or the log is mostly poor actions: alpha = 2.5 then copies them (see prdc, a2pr).
Data        Episodes(state, action, reward)
Paper       Fujimoto and Gu, A Minimalist Approach to Offline Reinforcement Learning, 2021, arXiv 2106.06860.
Equation    a' = clip(pi'(s') + eps, +-1),  eps = clip(N(0, noise), +-noise_clip)
            y  = r + gamma (1 - terminated) min_j Q'_j(s', a')                                        (1)
            critic:  sum_j mean (Q_j(s, a) - y)^2                                                     (2)
            lambda = alpha / mean |Q_1(s, pi(s))|                                                     (3)
            actor:   - lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2                                 (4)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | r, y (seeds, b) | Q (seeds, 2, b) | losses (seeds,)
Units       Q, y: shaped reward units, discounted | lambda: 1 / Q | losses: none
Raises      LogError: a role is missing, actions out of bounds | SupportError: rewards are all alike
            ConfigError: discrete actions | ConvergenceError: a loss is not finite
Differs     networks of all seeds are stepped together; targets move on actor steps only, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_critics import Critic, bootstrap_target, squared_errors
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(OfflineConfig):
    """Parameters of TD3+BC."""

    alpha: float = param(
        2.5, "weight of the value against the pull to the log; 0 is plain cloning", at_least=0
    )
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)
    policy_noise: float = param(0.2, "deviation of the noise on target actions", at_least=0)
    noise_clip: float = param(0.5, "bound of that noise", at_least=0)
    policy_every: int = param(2, "critic steps an actor step", at_least=1)
    constraint: bool = param(True, "keep the pull to the log; without it this is TD3 on a fixed log")


def smoothed_action(actor: Actor, state: Tensor, noise: Tensor, scale: float, clip: float) -> Tensor:
    """a' of (1): the target policy's action with clipped noise.  (seeds, b, k) in [-1, 1]"""
    return (actor.mode(state) + (scale * noise).clamp(-clip, clip)).clamp(-1, 1)


def value_weight(q: Tensor, alpha: float) -> Tensor:
    """Equation (3), no gradient.  (seeds, b) -> (seeds,)"""
    return alpha / q.detach().abs().mean(dim=1)


def actor_loss(q: Tensor, action: Tensor, logged: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Equation (4): the value part and the pull, (seeds,) each; their sum is the loss."""
    pull = (action - logged).square().mean(dim=(1, 2))
    return -value_weight(q, alpha) * q.mean(dim=1), pull


class TD3BC(OfflineLearner):
    """TD3 with behaviour cloning."""

    config: TD3BCConfig

    def __init__(self, config: TD3BCConfig | None = None) -> None:
        self.config = config or TD3BCConfig()

    def build(self, data: Transitions) -> None:
        """Actor, twin critics, their targets and descents."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("TD3+BC needs continuous actions", hint="use a discrete learner"))
        d, k = data.state_size, data.action_size
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds)
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=2)
        self.actor_target, self.critic_target = self.actor.frozen(), self.critic.frozen()
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)
        self.smoothing = SeedStreams(self.seeds, "target noise")

    def update(self, batch: Batch) -> Metrics:
        """Algorithm 1 of TD3 with loss (4) every `policy_every` steps."""
        c = self.config
        self.updates += 1
        metrics = self.critic_step(batch, self.smoothing.normal(*batch.action.shape[1:]))
        if self.updates % c.policy_every == 0:
            metrics |= self.actor_step(batch)
            self.actor_target.follow(self.actor, c.tau)
            self.critic_target.follow(self.critic, c.tau)
        return metrics

    def critic_step(self, batch: Batch, noise: Tensor) -> Metrics:
        """(1) and (2)."""
        c = self.config
        with torch.no_grad():
            after = smoothed_action(self.actor_target, batch.next_state, noise, c.policy_noise, c.noise_clip)
            target = bootstrap_target(
                batch.reward, batch.terminated, self.critic_target.least(batch.next_state, after), c.gamma
            )
        values = self.critic.values(batch.state, batch.action)
        loss = squared_errors(values, target)
        self.critic_descent.step(loss)
        return {"critic_loss": loss.detach(), "q": values.detach().mean(dim=(1, 2))}

    def actor_step(self, batch: Batch) -> Metrics:
        """(3) and (4), with the critic of this step."""
        c = self.config
        action = self.actor.mode(batch.state)
        value, pull = actor_loss(self.critic.first(batch.state, action), action, batch.action, c.alpha)
        self.actor_descent.step(value + pull if c.constraint else value)
        return {"actor_loss": (value + pull).detach(), "action_distance": pull.detach()}
