"""SAC: a stochastic policy that climbs twin critics and is paid for its entropy, from a replay of all its steps.

Use when    actions are continuous and steps are dear: every step is learnt from many times.
Not when    actions are discrete, or steps are free and processor time is not (ppo, mdpo).
Data        an environment: a Gymnasium id, or a function of the number of copies; beside it or alone
            Episodes(state, action, reward)
Paper       Haarnoja and others, Soft Actor-Critic Algorithms and Applications, 2018, arXiv 1812.05905. Ensembles and
            several updates a step: Chen and others (REDQ), 2021, arXiv 2101.05982; Ball and others (RLPD), 2023, arXiv
            2302.02948.
Equation    y = r + gamma (1 - terminated) (min_j Q'_j(s', a') - alpha log pi(a'|s')),   a' ~ pi(s')      (1)
            critics:  1/2 sum_j mean w (Q_j(s, a) - y)^2                                                  (2)
            actor:    mean w (alpha log pi(a~|s) - min_j Q_j(s, a~)),   a~ = tanh(mean + std noise)       (3)
            alpha:    - log alpha (mean log pi(a~|s) - size of the action)                                (4)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | r, y, w (seeds, b) | Q (seeds, members, b) | losses (seeds,)
Units       Q, y, alpha: reward units, discounted (alpha a nat) | losses: as they are
Raises      ConfigError: discrete actions, infinite bounds, more target critics than critics
            SupportError: the environment gave numbers that are not finite, rewards of a log all alike
            LogError: a role is missing, actions out of bounds | ConvergenceError: a loss is not finite
Differs     the first steps are uniform over the actions; targets move every gradient step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.off_policy_learner import OffPolicyConfig, OffPolicyLearner
from counterlog.core.stacked_critics import Critic, bootstrap_target
from counterlog.core.stacked_nets import Descent
from counterlog.core.temperature import Temperature
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicyConfig):
    """Parameters of SAC."""

    alpha: float = param(1.0, "weight of the entropy, or where it begins when it is learnt", at_least=0)
    learn_alpha: bool = param(True, "learn the weight of the entropy (4)")
    target_entropy: float | None = param(
        None, "entropy that (4) keeps; none: minus the action's size", unit="nats"
    )
    critics: int = param(2, "critics a seed", at_least=1)
    target_critics: int | None = param(
        None, "critics drawn for each target (1); none: all of them", at_least=1
    )
    layer_norm: bool = param(False, "layer norm in the critics")
    actor_value: str = param("least", "(3) climbs the least critic, or their mean", choices=("least", "mean"))
    backup_entropy: bool = param(True, "pay for the entropy of the next action in (1)")


def soft_target(
    reward: Tensor, terminated: Tensor, q: Tensor, log_p: Tensor, alpha: Tensor, gamma: float
) -> Tensor:
    """Equation (1) from the least target critic q.  (seeds, b); alpha (seeds,)"""
    return bootstrap_target(reward, terminated, q - alpha[:, None] * log_p, gamma)


def critic_loss(values: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Equation (2).  (seeds, members, b), (seeds, b) -> (seeds,)"""
    errors = (values - target[:, None]).square()
    return 0.5 * (errors if weight is None else errors * weight[:, None]).mean(dim=2).sum(dim=1)


def actor_loss(log_p: Tensor, q: Tensor, alpha: Tensor, weight: Tensor | None = None) -> Tensor:
    """Equation (3).  (seeds, b) -> (seeds,)"""
    found = alpha[:, None] * log_p - q
    return (found if weight is None else found * weight).mean(dim=1)


class SAC(OffPolicyLearner):
    """Soft actor-critic."""

    config: SACConfig

    def __init__(self, config: SACConfig | None = None) -> None:
        self.config = config or SACConfig()
        c = self.config
        if c.target_critics is not None and c.target_critics > c.critics:
            msg = message(f"{c.target_critics} target critics of {c.critics}", hint="raise critics")
            raise ConfigError(msg)
        if c.learn_alpha and c.alpha == 0:
            raise ConfigError(message("alpha 0 cannot be learnt: its logarithm is", hint="learn_alpha=False"))

    def build_networks(self) -> None:
        """Actor, critics, targets, temperature, descents."""
        c, d, k = self.config, self.worlds.state_size, self.worlds.action_size
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds, head=Head("tanh_gaussian"))
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=c.critics, layer_norm=c.layer_norm)
        self.critic_target = self.critic.frozen()
        entropy = -float(k) if c.target_entropy is None else c.target_entropy
        self.temperature = Temperature(self.seeds, target_entropy=entropy, start=c.alpha or 1.0)
        self.actor_descent, self.critic_descent = Descent(self.actor, lr=c.lr), Descent(self.critic, lr=c.lr)
        self.temperature_descent = Descent(self.temperature, lr=c.lr)

    def weight_of_entropy(self) -> Tensor:
        """(seeds,) alpha."""
        if self.config.learn_alpha:
            return self.temperature.alpha
        return torch.full((len(self.seeds),), self.config.alpha)

    def update(self, batch: Batch) -> Metrics:
        """(4), (1), (2), (3) and the targets."""
        c = self.config
        self.updates += 1
        weight = batch.weight if batch.has("weight") else None
        shape = batch.action.shape[1:]
        action, log_p = self.actor.sample(batch.state, self.noise.normal(*shape))
        alpha = self.weight_of_entropy()
        if c.learn_alpha:
            self.temperature_descent.step(self.temperature.loss(log_p))
        with torch.no_grad():
            after, log_after = self.actor.sample(batch.next_state, self.noise.normal(*shape))
            paid = alpha if c.backup_entropy else torch.zeros_like(alpha)
            q = self._drawn(self.critic_target.values(batch.next_state, after)).amin(dim=1)
            target = soft_target(batch.reward, batch.terminated, q, log_after, paid, c.gamma)
        values = self.critic.values(batch.state, batch.action)
        error = critic_loss(values, target, weight)
        self.critic_descent.step(error)
        there = self.critic.values(batch.state, action)
        q = there.amin(dim=1) if c.actor_value == "least" else there.mean(dim=1)
        loss = actor_loss(log_p, q, alpha, weight)
        self.actor_descent.step(loss)
        self.critic_target.follow(self.critic, c.tau)
        return {
            "critic_loss": error.detach(),
            "q": values.detach().mean(dim=(1, 2)),
            "actor_loss": loss.detach(),
            "alpha": alpha,
            "entropy": -log_p.detach().mean(dim=1),
        }

    def _drawn(self, values: Tensor) -> Tensor:
        """The members that a target uses: all, or `target_critics` drawn a seed."""
        few = self.config.target_critics
        if few is None or few == self.config.critics:
            return values
        chosen = self.noise.uniform(self.config.critics).argsort(dim=1)[:, :few]
        return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
