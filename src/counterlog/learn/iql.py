"""IQL: values by expectile regression on logged actions alone, then cloning weighted by how good an action was.

Use when    the log has continuous actions, some of them good, and no value of an unlogged action should be trusted.
Not when    actions are discrete, or the best answer mixes parts of actions that nobody took in such a state.
Data        Episodes(state, action, reward)
Paper       Kostrikov, Nair and Levine, Offline RL with Implicit Q-Learning, 2021, arXiv 2110.06169.
Equation    V:  mean |tau_e - 1(u < 0)| u^2,   u = min_j Q'_j(s, a) - V(s)                            (1)
            Q:  mean over j of mean (Q_j(s, a) - r - gamma (1 - terminated) V(s'))^2                  (2)
            pi: - mean min(exp(beta u), 100) log pi(a | s)                                            (3)
Shapes      s (seeds, b, d) | a (seeds, b, k) in [-1, 1] | u, V (seeds, b) | Q (seeds, 2, b) | losses (seeds,)
Units       Q, V, u: shaped reward units, discounted | beta: 1 / that unit | (3): nats
Raises      LogError: a role is missing, actions out of bounds | SupportError: rewards are all alike
            ConfigError: discrete actions | ConvergenceError: a loss is not finite
Differs     none in the equations; V(s') in (2) is that before the step of V, as in the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.stacked_critics import Critic, StateValue, bootstrap_target, squared_errors
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class IQLConfig(OfflineConfig):
    """Parameters of IQL."""

    expectile: float = param(
        0.7, "tau_e of (1): 0.5 is the mean, towards 1 the best logged action", above=0, below=1
    )
    beta: float = param(3.0, "how sharply better actions are preferred (3); 0 is plain cloning", at_least=0)
    most_weight: float = param(100.0, "largest weight of a row in (3)", above=0)
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)
    head: str = param(
        "gaussian", "policy: with a density, or deterministic (tanh)", choices=("gaussian", "tanh")
    )
    cosine: bool = param(True, "let the policy's step size fall to 0 by a cosine over all steps")


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """Equation (1).  (seeds, b) -> (seeds,)"""
    weight = torch.where(u < 0, 1 - expectile, expectile)
    return (weight * u.square()).mean(dim=1)


def cloning_weight(u: Tensor, beta: float, most: float) -> Tensor:
    """min(exp(beta u), most) of (3).  (seeds, b)"""
    return (beta * u).exp().clamp(max=most)


def cosine_lr(lr: float, step: int, steps: int) -> float:
    """The step size of step 1, 2, ..., `steps`: lr at first, near 0 at last."""
    return lr * (1 + math.cos(math.pi * (step - 1) / steps)) / 2


class IQL(OfflineLearner):
    """Implicit Q-learning."""

    config: IQLConfig

    def __init__(self, config: IQLConfig | None = None) -> None:
        self.config = config or IQLConfig()

    def build(self, data: Transitions) -> None:
        """Policy, twin critics with targets, state value."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("IQL here needs continuous actions", hint="use a discrete learner"))
        d, k = data.state_size, data.action_size
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds, head=Head(c.head))
        self.critic = Critic(d, k, c.hidden, seeds=self.seeds, members=2)
        self.value = StateValue(d, c.hidden, seeds=self.seeds)
        self.critic_target = self.critic.frozen()
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)
        self.value_descent = Descent(self.value, lr=c.lr)

    def update(self, batch: Batch) -> Metrics:
        """V, then Q and its target, then the policy."""
        c = self.config
        self.updates += 1
        with torch.no_grad():
            after = self.value.values(batch.next_state)
            best = self.critic_target.least(batch.state, batch.action)
        u = best - self.value.values(batch.state)
        value_loss = expectile_loss(u, c.expectile)
        self.value_descent.step(value_loss)

        target = bootstrap_target(batch.reward, batch.terminated, after, c.gamma)
        values = self.critic.values(batch.state, batch.action)
        critic_loss = squared_errors(values, target) / 2
        self.critic_descent.step(critic_loss)
        self.critic_target.follow(self.critic, c.tau)

        weight = cloning_weight(u.detach(), c.beta, c.most_weight)
        if c.head == "tanh":
            misfit = (self.actor.mode(batch.state) - batch.action).square().sum(dim=2)
        else:
            misfit = -self.actor.log_prob(batch.state, batch.action)
        actor_loss = (weight * misfit).mean(dim=1)
        lr = cosine_lr(c.lr, self.updates, max(c.steps, self.updates)) if c.cosine else c.lr
        self.actor_descent.step(actor_loss, lr=lr)
        return {
            "value_loss": value_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "q": values.detach().mean(dim=(1, 2)),
            "advantage": u.detach().mean(dim=1),
        }
