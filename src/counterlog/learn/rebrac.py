"""ReBRAC: TD3+BC with a penalty in the critic too, deeper normalised critics and separate weights of the two pulls.

Use when    TD3+BC is close but not enough, and you can try a few weights of the two pulls.
Not when    actions are discrete, or there is no way to choose the weights: they differ by log.
Data        Episodes(state, action, reward)
Paper       Tarasov, Kurenkov, Nikulin and Kolesnikov, Revisiting the Minimalist Approach to Offline RL, 2023,
            arXiv 2305.09836.
Equation    y  = r + gamma (1 - terminated) [min_j Q'_j(s', a') - critic_pull |a' - a'_log|^2]        (1)
            critic:  sum_j mean (Q_j(s, a) - y)^2                                                     (2)
            actor:   mean [- min_j Q_j(s, p) / mean |min_j Q_j(s, p)| + actor_pull |p - a|^2], p = pi(s)  (3)
Shapes      s (seeds, b, d) | a, a'_log (seeds, b, k) in [-1, 1] | y (seeds, b) | Q (seeds, 2, b) | losses (seeds,)
Units       Q, y: shaped reward units, discounted | actor_pull: none | critic_pull: Q per half-range squared
Raises      LogError: a role is missing, actions out of bounds | SupportError: rewards are all alike
            ConfigError: discrete actions | ConvergenceError: a loss is not finite
Differs     a'_log of a trajectory's last step is its own action (it has no successor).
Builds on   td3-bc
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.stacked_critics import Critic, bootstrap_target, squared_errors
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions
from counterlog.learn.td3_bc import smoothed_action, value_weight


@dataclass(frozen=True, kw_only=True)
class ReBRACConfig(OfflineConfig):
    """Parameters of ReBRAC."""

    hidden: tuple[int, ...] = param((256, 256, 256), "hidden units a layer", at_least=1)
    batch: int = param(1024, "rows a step and seed", at_least=1)
    lr: float = param(1e-3, "Adam step size", above=0)
    states: str = param("none", "scale of states: none, td3 or fine", choices=("none", "td3", "fine"))
    actor_pull: float = param(0.01, "weight of the pull of the policy to the log (3)", at_least=0)
    critic_pull: float = param(0.01, "weight of the penalty in the target (1)", at_least=0)
    actor_q: str = param(
        "min", "value that the policy climbs: the smaller twin, or the first", choices=("min", "first")
    )
    layer_norm: bool = param(True, "normalise the layers of the critics")
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)
    policy_noise: float = param(0.2, "deviation of the noise on target actions", at_least=0)
    noise_clip: float = param(0.5, "bound of that noise", at_least=0)
    policy_every: int = param(2, "critic steps an actor step", at_least=1)


def distance(action: Tensor, logged: Tensor) -> Tensor:
    """|a - a_log|^2, summed over dimensions.  (seeds, b, k) twice -> (seeds, b)"""
    return (action - logged).square().sum(dim=2)


class ReBRAC(OfflineLearner):
    """Behaviour-regularised actor-critic, revisited."""

    config: ReBRACConfig

    def __init__(self, config: ReBRACConfig | None = None) -> None:
        self.config = config or ReBRACConfig()

    def build(self, data: Transitions) -> None:
        """Actor, twin critics with targets."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("ReBRAC needs continuous actions", hint="use a discrete learner"))
        d, k = data.state_size, data.action_size
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds)
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=2, layer_norm=c.layer_norm)
        self.actor_target, self.critic_target = self.actor.frozen(), self.critic.frozen()
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)

    def update(self, batch: Batch) -> Metrics:
        """Critics every step; actor and targets every `policy_every` steps."""
        c = self.config
        self.updates += 1
        with torch.no_grad():
            noise = self.noise.normal(*batch.action.shape[1:])
            after = smoothed_action(self.actor_target, batch.next_state, noise, c.policy_noise, c.noise_clip)
            value = self.critic_target.least(batch.next_state, after)
            value = value - c.critic_pull * distance(after, batch.next_action)
            target = bootstrap_target(batch.reward, batch.terminated, value, c.gamma)
        values = self.critic.values(batch.state, batch.action)
        loss = squared_errors(values, target)
        self.critic_descent.step(loss)
        metrics = {"critic_loss": loss.detach(), "q": values.detach().mean(dim=(1, 2))}
        if self.updates % c.policy_every:
            return metrics
        action = self.actor.mode(batch.state)
        q = (
            self.critic.least(batch.state, action)
            if c.actor_q == "min"
            else self.critic.first(batch.state, action)
        )
        pull = distance(action, batch.action).mean(dim=1)
        actor_loss = -value_weight(q, 1.0) * q.mean(dim=1) + c.actor_pull * pull
        self.actor_descent.step(actor_loss)
        self.actor_target.follow(self.actor, c.tau)
        self.critic_target.follow(self.critic, c.tau)
        return {**metrics, "actor_loss": actor_loss.detach(), "action_distance": pull.detach()}
