"""Off-policy MDPO: SAC's loss with a KL penalty to a lagged copy of the policy; SAC is the case without the pull.

Use when    actions are continuous, steps are dear, and the policy must not move far from its last version, or from the
            log's policy (improve(log): the first anchor is then a clone of it).
Not when    actions are discrete (mdpo), or a narrow log asks for a learner made for it (td3-bc, iql, cql).
Data        an environment: a Gymnasium id, or a function of the number of copies; beside it or alone
            Episodes(state, action, reward)
Paper       Tomar, Shani, Efroni and Ghavamzadeh, Mirror Descent Policy Optimization, ICLR 2022, arXiv 2005.09814,
            section 4.2 and appendix on Tsallis entropies.
Equation    Q:     sum_j 1/2 mean (Q_j(s, a) - r - gamma (1 - terminated) V'(s'))^2                       (1)
            V:     1/2 mean (V(s) - [min_j Q_j(s, a~) - lambda log pi(a~|s)])^2,   a~ = tanh(mean + std noise)   (2)
            actor: mean c log pi(a~|s) - (c - lambda) log pi_old(a~|s) - Q_1(s, a~),   c = 1 / t          (3)
                   + regulariser (mean of squared means + mean of squared log-stds)
            Tsallis: ln_q pi and q ln_q pi_old for the logarithms of (3)                                  (4)
            pi_old <- pi every `refresh` steps
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | Q (seeds, 2, b) | V, log pi (seeds, b) | losses (seeds,)
Units       Q, V, c, lambda: reward units, discounted (c, lambda a nat)
Raises      ConfigError: discrete actions, infinite bounds, c below lambda, q outside [1, 2]
            SupportError: the environment gave numbers that are not finite, rewards of a log all alike
            LogError: a role is missing, actions out of bounds | ConvergenceError: a loss is not finite
Differs     steps are sampled from the policy, as the paper says (authors' code: the mean action); the regulariser is
            off (code: 1e-3); Tsallis' logarithm is of the joint density (code: a sum over dimensions, floored at 1e-6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from counterlog.core.actor_heads import LOG_ROOT, Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.off_policy_learner import OffPolicyConfig, OffPolicyLearner
from counterlog.core.policy_distances import tsallis_log
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_critics import Critic, StateValue, bootstrap_target, squared_errors
from counterlog.core.stacked_nets import Descent
from counterlog.core.temperature import Temperature
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch

FLOOR = math.log(1e-6)


@dataclass(frozen=True, kw_only=True)
class OffPolicyMDPOConfig(OffPolicyConfig):
    """Parameters of off-policy MDPO."""

    c: float = param(1.0, "weight of the penalty, 1 / t", unit="reward a nat", above=0)
    entropy_weight: float = param(0.2, "lambda: weight of the entropy", unit="reward a nat", at_least=0)
    learn_entropy: bool = param(False, "learn lambda as SAC does, up to c")
    refresh: int = param(1000, "environment steps a copy between refreshes of the old policy", at_least=1)
    actor_q: str = param("q1", "critic of the actor: the first, or the least", choices=("q1", "least"))
    regulariser: float = param(0.0, "weight of the squared moments in (3)", at_least=0)
    divergence: str = param("kl", "kl, or tsallis (4)", choices=("kl", "tsallis"))
    q: float = param(1.0, "Tsallis index: 1 is KL", at_least=1, at_most=2)
    per_dimension: bool = param(
        False, "sum Tsallis' logarithm over dimensions, with densities floored at 1e-6"
    )
    deterministic_collection: bool = param(False, "act with the mean while collecting")
    clone_steps: int = param(2000, "steps of cloning before learning from a log alone", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c < self.entropy_weight:
            msg = message(f"c = {self.c:g} is below entropy_weight = {self.entropy_weight:g}")
            hint = "the pull to the old policy would push away from it; c = entropy_weight is SAC"
            raise ConfigError(message(msg, expected="c at least entropy_weight", hint=hint))


def actor_loss(
    log_new: Tensor, log_old: Tensor, value: Tensor, c: float, entropy_weight: Tensor | float, q: float = 1.0
) -> Tensor:
    """Equation (3), with (4) for q above 1, from (Tsallis) logarithms of densities.  (seeds, b) -> (seeds,)"""
    weight = entropy_weight[:, None] if isinstance(entropy_weight, Tensor) else entropy_weight
    return (c * log_new - q * (c - weight) * log_old - value).mean(dim=1)


def log_densities(mean: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
    """log-density of tanh(u) a dimension, from the action before tanh: exact near the bounds.  (seeds, b, k)"""
    normal = -0.5 * ((u - mean) * torch.exp(-log_std)).square() - log_std - LOG_ROOT
    return normal - 2 * (math.log(2) - u - functional.softplus(-2 * u))


def moments_penalty(mean: Tensor, log_std: Tensor) -> Tensor:
    """The regulariser of (3).  (seeds, b, k) each -> (seeds,)"""
    return mean.square().mean(dim=(1, 2)) + log_std.square().mean(dim=(1, 2))


class OffPolicyMDPO(OffPolicyLearner):
    """Mirror descent policy optimisation from a replay, or from a log."""

    config: OffPolicyMDPOConfig

    def __init__(self, config: OffPolicyMDPOConfig | None = None) -> None:
        self.config = config or OffPolicyMDPOConfig()

    def build_networks(self) -> None:
        """Actor and its old copy, twin critics, value and its target, descents."""
        c, d, k = self.config, self.worlds.state_size, self.worlds.action_size
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds, head=Head("tanh_gaussian"))
        self.old = self.actor.frozen()
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=2)
        self.value = StateValue(d, c.hidden, seeds=self.seeds)
        self.value_target = self.value.frozen()
        start = c.entropy_weight or 1.0
        self.temperature = Temperature(self.seeds, target_entropy=-float(k), start=start)
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.values_descent = Descent(self.critic, self.value, lr=c.lr)
        self.temperature_descent = Descent(self.temperature, lr=c.lr)

    def explore(self, state: Tensor) -> Tensor:
        """Samples, or the mean."""
        return self.actor.mode(state) if self.config.deterministic_collection else super().explore(state)

    def advance(self, step: int) -> Metrics:
        """As every learner with a replay; the old policy is refreshed first when it is due."""
        if step % self.config.refresh == 0:
            self.old.follow(self.actor, 1.0)
        return super().advance(step)

    def weight_of_entropy(self) -> Tensor:
        """(seeds,) lambda, at most c."""
        c = self.config
        if c.learn_entropy:
            return self.temperature.alpha.clamp(max=c.c)
        return torch.full((len(self.seeds),), c.entropy_weight)

    def logarithm(self, parts: Tensor) -> Tensor:
        """The logarithm of (3) or (4) from log-densities a dimension.  (seeds, b, k) -> (seeds, b)"""
        c = self.config
        if c.divergence == "kl":
            return parts.sum(dim=-1)
        if c.per_dimension:
            return tsallis_log(parts.clamp(min=FLOOR), c.q).sum(dim=-1)
        return tsallis_log(parts.sum(dim=-1), c.q)

    def update(self, batch: Batch) -> Metrics:
        """(2), (1), (3) and the target; without an environment the old policy is refreshed here."""
        c = self.config
        self.updates += 1
        mean, log_std = self.actor.moments(batch.state)
        u = mean + log_std.exp() * self.noise.normal(*batch.action.shape[1:])
        action, parts = torch.tanh(u), log_densities(mean, log_std, u)
        log_new, log_p = self.logarithm(parts), parts.sum(dim=-1).detach()
        weight = self.weight_of_entropy()
        with torch.no_grad():
            target = bootstrap_target(
                batch.reward, batch.terminated, self.value_target.values(batch.next_state), c.gamma
            )
            worth = self.critic.least(batch.state, action) - weight[:, None] * log_new
        value = self.value.values(batch.state)
        value_loss = 0.5 * (value - worth).square().mean(dim=1)
        q = self.critic.values(batch.state, batch.action)
        critic_loss = 0.5 * squared_errors(q, target)
        there = self.critic.first if c.actor_q == "q1" else self.critic.least
        before = log_densities(*self.old.moments(batch.state), u)
        log_old = self.logarithm(before)
        index = 1.0 if c.divergence == "kl" else c.q
        loss = actor_loss(log_new, log_old, there(batch.state, action), c.c, weight, index)
        if c.regulariser:
            loss = loss + c.regulariser * moments_penalty(mean, log_std)
        self.actor_descent.step(loss)
        self.values_descent.step(critic_loss + value_loss)  # no parameter is in both
        if c.learn_entropy:
            self.temperature_descent.step(self.temperature.loss(log_p))
        self.value_target.follow(self.value, c.tau)
        if self.alone and self.updates % c.refresh == 0:
            self.old.follow(self.actor, 1.0)
        return {
            "critic_loss": critic_loss.detach(),
            "value_loss": value_loss.detach(),
            "actor_loss": loss.detach(),
            "q": q.detach().mean(dim=(1, 2)),
            "entropy": -log_p.mean(dim=1),
            "entropy_weight": weight,
            "kl_new_old": (parts - before).detach().sum(dim=-1).mean(dim=1),
        }

    def before_log(self) -> None:
        """Clone the log's policy: it is the first anchor."""
        c = self.config
        draws, descent = SeedStreams(self.seeds, "cloning"), Descent(self.actor, lr=1e-3)
        for _ in range(c.clone_steps):
            batch = self.replay.sample(draws, c.batch)
            descent.step(-self.actor.log_prob(batch.state, batch.action).mean(dim=1))
        self.old.follow(self.actor, 1.0)
