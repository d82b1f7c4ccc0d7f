"""CQL: a soft actor-critic whose values of actions that nobody logged are pushed down.

Use when    the log has continuous actions and over-trusted values of unlogged actions are what you fear most.
Not when    actions are discrete, or time is short: it evaluates some thirty actions a row.
Data        Episodes(state, action, reward)
Paper       Kumar, Zhou, Tucker and Levine, Conservative Q-Learning, 2020, arXiv 2006.04779, variant CQL(H).
Equation    y = r + gamma (1 - terminated) min_j Q'_j(s', a'),   a' ~ pi(.|s')                        (1)
            gap_j = mean [ T logsumexp_k(q_k / T) - Q_j(s, a) ]                                       (2)
                q_k: n uniform actions minus log 0.5^k, n of pi(.|s) and n of pi(.|s') minus log pi
            critics: sum_j mean (Q_j(s, a) - y)^2 + weight gap_j                                      (3)
            actor:   mean (alpha log pi(a|s) - min_j Q_j(s, a)),  a ~ pi(.|s)                         (4)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | Q (seeds, 2, b) | q_k (seeds, 2, b, 3n) | losses (seeds,)
Units       Q, gap: shaped reward units, discounted | alpha: reward units per nat
Raises      LogError: a role is missing, actions out of bounds | SupportError: rewards are all alike
            ConfigError: discrete actions | ConvergenceError: a loss is not finite
Differs     log pi is computed exactly (no 1e-6 inside a logarithm); all 3n values enter (2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_critics import Critic, bootstrap_target
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent, StackedTensors
from counterlog.core.temperature import Temperature
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions

MOST_WEIGHT = 1e6


@dataclass(frozen=True, kw_only=True)
class CQLConfig(OfflineConfig):
    """Parameters of CQL."""

    hidden: tuple[int, ...] = param((256, 256, 256), "hidden units a layer", at_least=1)
    weight: float = param(10.0, "weight of the gap (3); 0 is SAC on a fixed log", at_least=0)
    samples: int = param(10, "n actions of each of the three kinds in (2)", at_least=1)
    temperature: float = param(1.0, "T of (2)", above=0)
    policy_lr: float = param(3e-5, "Adam step size of policy and alpha", above=0)
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)
    backup_entropy: bool = param(False, "subtract alpha log pi in (1)")
    threshold: float | None = param(
        None, "gap that the weight is tuned to (Lagrange variant); none keeps the weight"
    )


def conservative_gap(sampled: Tensor, logged: Tensor, temperature: float) -> Tensor:
    """Equation (2).  (seeds, j, b, 3n), (seeds, j, b) -> (seeds, j)"""
    soft = temperature * torch.logsumexp(sampled / temperature, dim=-1)
    return (soft - logged).mean(dim=2)


def soft_actor_loss(log_prob: Tensor, value: Tensor, alpha: Tensor) -> Tensor:
    """Equation (4).  (seeds, b), (seeds, b), (seeds,) -> (seeds,)"""
    return (alpha[:, None] * log_prob - value).mean(dim=1)


class CQL(OfflineLearner):
    """Conservative Q-learning, CQL(H)."""

    config: CQLConfig

    def __init__(self, config: CQLConfig | None = None) -> None:
        self.config = config or CQLConfig()

    def build(self, data: Transitions) -> None:
        """Policy, twin critics with targets, temperature and, in the Lagrange variant, the weight."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("CQL here needs continuous actions", hint="use a discrete learner"))
        d, k = data.state_size, data.action_size
        head = Head("tanh_gaussian", low=-20.0, high=2.0, scale=1.0, shift=-1.0)
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds, head=head)
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=2)
        self.critic_target = self.critic.frozen()
        self.entropy = Temperature(self.seeds, target_entropy=-float(k))
        self.log_weight = StackedTensors({"log": ()}, self.seeds)
        self.actor_descent = Descent(self.actor, lr=c.policy_lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)
        self.entropy_descent = Descent(self.entropy, lr=c.policy_lr)
        self.weight_descent = Descent(self.log_weight, lr=c.lr)
        self.uniform = SeedStreams(self.seeds, "uniform actions")

    def update(self, batch: Batch) -> Metrics:
        """All losses, then the steps of alpha, actor, critics and targets (the authors' order)."""
        c = self.config
        self.updates += 1
        shape = batch.action.shape[1:]
        action, log_prob = self.actor.sample(batch.state, self.noise.normal(*shape))
        actor_loss = soft_actor_loss(log_prob, self.critic.least(batch.state, action), self.entropy.alpha)
        critic_loss, metrics = self.critic_loss(batch)  # before anything moves
        self.entropy_descent.step(self.entropy.loss(log_prob))
        self.actor_descent.step(actor_loss)
        self.critic_descent.step(critic_loss)
        self.critic_target.follow(self.critic, c.tau)
        return {
            **metrics,
            "actor_loss": actor_loss.detach(),
            "alpha": self.entropy.alpha,
            "entropy": -log_prob.detach().mean(dim=1),
        }

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (3), and the step of its weight in the Lagrange variant."""
        c = self.config
        with torch.no_grad():
            after, after_log = self.actor.sample(batch.next_state, self.noise.normal(*batch.action.shape[1:]))
            value = self.critic_target.least(batch.next_state, after)
            if c.backup_entropy:
                value = value - self.entropy.alpha[:, None] * after_log
            target = bootstrap_target(batch.reward, batch.terminated, value, c.gamma)
        logged = self.critic.values(batch.state, batch.action)
        error = (logged - target[:, None]).square().mean(dim=2)
        metrics = {"critic_loss": error.detach().sum(dim=1), "q": logged.detach().mean(dim=(1, 2))}
        if c.weight == 0:
            return error.sum(dim=1), metrics
        gap = conservative_gap(self.sampled_values(batch), logged, c.temperature)
        metrics["gap"] = gap.detach().mean(dim=1)
        if c.threshold is None:
            return (error + c.weight * gap).sum(dim=1), metrics
        factor = self.log_weight["log"].exp().clamp(0, MOST_WEIGHT)
        excess = c.weight * (gap - c.threshold)
        self.weight_descent.step(-(factor[:, None] * excess.detach()).mean(dim=1))
        return (error + factor.detach()[:, None] * excess).sum(dim=1), {**metrics, "weight": factor.detach()}

    def sampled_values(self, batch: Batch) -> Tensor:
        """The q_k of (2), (seeds, j, b, 3n): gradients reach the critics alone."""
        n = self.config.samples
        seeds, b, k = batch.action.shape
        with torch.no_grad():
            drawn = [2 * self.uniform.uniform(b * n, k) - 1]
            logs = [torch.full((seeds, b * n), k * math.log(0.5))]
            for state in (batch.state, batch.next_state):
                repeated = state.repeat_interleave(n, dim=1)
                action, log_prob = self.actor.sample(repeated, self.noise.normal(b * n, k))
                drawn.append(action)
                logs.append(log_prob)
            actions = torch.cat([a.view(seeds, b, n, k) for a in drawn], dim=2).view(seeds, b * 3 * n, k)
            log_probs = torch.cat([p.view(seeds, b, n) for p in logs], dim=2)
        values = self.critic.values(batch.state.repeat_interleave(3 * n, dim=1), actions)
        return values.view(seeds, -1, b, 3 * n) - log_probs[:, None]
