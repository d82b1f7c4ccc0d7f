"""EDAC: a soft actor-critic with many critics that are kept from agreeing; without that, SAC-N.

Use when    the log has continuous actions and covers much: the least of many critics is caution enough.
Not when    the log is narrow (tens of critics are then needed and may all be wrong), or actions are discrete.
Data        Episodes(state, action, reward)
Paper       An, Moon, Kim and Song, Uncertainty-Based Offline RL with Diversified Q-Ensemble, 2021, arXiv 2110.01548.
Equation    y  = r + gamma (1 - terminated) [min_j Q'_j(s', a') - alpha log pi(a'|s')]                (1)
            critics: sum_j mean (Q_j(s, a) - y)^2 + eta / (N - 1) mean sum_{i != j} <g_i, g_j>        (2)
                     g_j = dQ_j(s, a)/da over its norm
            actor:   mean (alpha log pi(a|s) - min_j Q_j(s, a)),  a ~ pi(.|s)                         (3)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | Q (seeds, N, b) | g (seeds, N, b, k) | losses (seeds,)
Units       Q, y: shaped reward units, discounted | alpha: reward units per nat | eta: reward units squared
Raises      LogError: a role is missing, actions out of bounds | SupportError: rewards are all alike
            ConfigError: discrete actions, one critic with eta > 0 | ConvergenceError: a loss is not finite
Differs     log pi is computed exactly (no 1e-6 inside a logarithm).
Builds on   cql
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.stacked_critics import Critic, bootstrap_target, squared_errors
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent
from counterlog.core.temperature import Temperature
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions
from counterlog.learn.cql import soft_actor_loss


@dataclass(frozen=True, kw_only=True)
class EDACConfig(OfflineConfig):
    """Parameters of EDAC; eta 0 is SAC-N."""

    hidden: tuple[int, ...] = param((256, 256, 256), "hidden units a layer", at_least=1)
    states: str = param("none", "scale of states: none, td3 or fine", choices=("none", "td3", "fine"))
    critics: int = param(10, "N, critics a seed", at_least=1)
    eta: float = param(1.0, "weight of the diversity of the critics' gradients (2); 0 is SAC-N", at_least=0)
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)


def likeness(gradient: Tensor) -> Tensor:
    """mean over rows of sum_{i != j} <g_i, g_j> / (N - 1), g of length 1.  (seeds, N, b, k) -> (seeds,)"""
    g = gradient / (gradient.norm(dim=3, keepdim=True) + 1e-10)
    both = g.sum(dim=1).square().sum(dim=2) - g.square().sum(dim=(1, 3))
    return both.mean(dim=1) / (gradient.shape[1] - 1)


class EDAC(OfflineLearner):
    """Ensemble-diversified actor-critic."""

    config: EDACConfig

    def __init__(self, config: EDACConfig | None = None) -> None:
        self.config = config or EDACConfig()

    def build(self, data: Transitions) -> None:
        """Policy, N critics with targets, temperature; the authors' starting values."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("EDAC needs continuous actions", hint="use a discrete learner"))
        if c.critics == 1 and c.eta > 0:
            raise ConfigError(
                message("one critic has nothing to differ from", hint="critics=2 or more, or eta=0")
            )
        d, k = data.state_size, data.action_size
        self.actor = Actor(
            d, c.hidden, k, seeds=self.seeds, head=Head("tanh_gaussian", low=-5.0), last=1e-3, hidden_bias=0.1
        )
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=c.critics, last=3e-3, hidden_bias=0.1)
        self.critic_target = self.critic.frozen()
        self.entropy = Temperature(self.seeds, target_entropy=-float(k))
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)
        self.entropy_descent = Descent(self.entropy, lr=c.lr)

    def update(self, batch: Batch) -> Metrics:
        """alpha, actor, critics, targets, in this order."""
        c = self.config
        self.updates += 1
        shape = batch.action.shape[1:]
        action, log_prob = self.actor.sample(batch.state, self.noise.normal(*shape))
        self.entropy_descent.step(self.entropy.loss(log_prob))
        alpha = self.entropy.alpha
        actor_loss = soft_actor_loss(log_prob, self.critic.least(batch.state, action), alpha)
        self.actor_descent.step(actor_loss)
        with torch.no_grad():
            after, after_log = self.actor.sample(batch.next_state, self.noise.normal(*shape))
            value = self.critic_target.least(batch.next_state, after) - alpha[:, None] * after_log
            target = bootstrap_target(batch.reward, batch.terminated, value, c.gamma)
        loss, alike = self.critic_loss(batch, target)
        self.critic_descent.step(loss)
        self.critic_target.follow(self.critic, c.tau)
        return {
            "critic_loss": loss.detach(),
            "likeness": alike.detach(),
            "actor_loss": actor_loss.detach(),
            "alpha": alpha,
            "entropy": -log_prob.detach().mean(dim=1),
        }

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Equation (2) and its second term alone; the gradients of the critics are differentiated in turn."""
        c = self.config
        if c.eta == 0:
            values = self.critic.values(batch.state, batch.action)
            return squared_errors(values, target), torch.zeros(len(self.seeds))
        actions = batch.action[:, None].expand(-1, c.critics, -1, -1).clone().requires_grad_(True)
        states = batch.state[:, None].expand(-1, c.critics, -1, -1)
        values = self.critic(torch.cat([states, actions], dim=-1))[..., 0]
        (gradient,) = torch.autograd.grad(values.sum(), actions, create_graph=True)
        alike = likeness(gradient)
        return squared_errors(values, target) + c.eta * alike, alike
