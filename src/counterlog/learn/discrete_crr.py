"""Discrete CRR: clone the logged actions that a critic finds better than the policy's own average.

Use when    actions are discrete and the log mixes good and poor decisions: the good ones are filtered out and copied.
Not when    the log holds no good decision to copy: the policy never leaves the logged actions by itself.
Data        Episodes(state, action, reward)
Paper       Wang et al., Critic Regularized Regression, 2020, arXiv 2006.15134.
Equation    A(s, a) = Q(s, a) - sum_a' pi(a'|s) Q(s, a')          or max_a' Q(s, a')                   (1)
            weight  = 1(A > 0), or min(exp(A / beta), 20);   L_pi = mean weight (- log pi(a|s))         (2)
            y = r + gamma (1 - terminated) sum_a' pi'(a'|s') Q'(s', a');   L_Q = mean h(Q(s, a) - y)    (3)
Shapes      Q, logits of pi (seeds, b, actions) | A, weight (seeds, b) | L (seeds,)
Units       Q, A: shaped reward units, discounted | L_pi: nats
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: a loss is not finite
Differs     the expectations in (1) and (3) are exact; official=True draws 4 actions and 1 instead, as the paper does
            for continuous actions and the comparison of arXiv 2111.04714 for discrete ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.discrete_values import (
    ACTIVATION,
    START,
    DiscreteConfig,
    DiscreteLearner,
    huber,
    taken,
)
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_critics import bootstrap_target
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions

MOST_WEIGHT = 20.0


@dataclass(frozen=True, kw_only=True)
class DiscreteCRRConfig(DiscreteConfig):
    """Parameters of discrete CRR."""

    weights: str = param("binary", "weight of a cloned row (2)", choices=("binary", "exp"))
    baseline: str = param("mean", "what an action must beat (1)", choices=("mean", "max"))
    beta: float = param(1.0, "temperature of exp weights", unit="value", above=0)
    official: bool = param(False, "draw actions instead of exact expectations")
    samples: int = param(4, "actions drawn for (1) with official", at_least=1)


def advantage(values: Tensor, action: Tensor, probs: Tensor, baseline: str = "mean") -> Tensor:
    """Equation (1).  (seeds, b, actions), (seeds, b), (seeds, b, actions) -> (seeds, b)"""
    floor = (probs * values).sum(dim=-1) if baseline == "mean" else values.amax(dim=-1)
    return taken(values, action) - floor


def row_weight(gain: Tensor, kind: str = "binary", beta: float = 1.0) -> Tensor:
    """The weight of (2).  (seeds, b) -> (seeds, b)"""
    return (gain > 0).float() if kind == "binary" else (gain / beta).exp().clamp(max=MOST_WEIGHT)


class DiscreteCRR(DiscreteLearner):
    """Critic regularised regression, discrete actions."""

    config: DiscreteCRRConfig

    def __init__(self, config: DiscreteCRRConfig | None = None) -> None:
        self.config = config or DiscreteCRRConfig()

    def build(self, data: Transitions) -> None:
        """The critic, the policy, their targets."""
        super().build(data)
        c = self.config
        self.actor = Actor(
            data.state_size,
            c.hidden,
            self.actions,
            seeds=self.seeds,
            head=Head("categorical"),
            activation=ACTIVATION,
            start=START,
        )
        self.actor_target = self.actor.frozen()
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.drawing = SeedStreams(self.seeds, "drawn actions")

    def update(self, batch: Batch) -> Metrics:
        """The policy's step, then the critic's; both targets are copied when it is due."""
        metrics = self.actor_step(batch)
        metrics |= super().update(batch)
        if self.updates % self.config.target_every == 0:
            self.actor_target.follow(self.actor, 1.0)
        return metrics

    def actor_step(self, batch: Batch) -> Metrics:
        """(1) and (2)."""
        c = self.config
        with torch.no_grad():
            probs = self.actor.probs(batch.state)
            if c.official:
                probs = self.frequencies(probs, c.samples)
            gain = advantage(self.critic(batch.state), batch.action, probs, c.baseline)
            weight = row_weight(gain, c.weights, c.beta)
        loss = -(weight * self.actor.log_prob(batch.state, batch.action)).mean(dim=1)
        self.actor_descent.step(loss)
        return {"actor_loss": loss.detach(), "cloned": (weight > 0).float().mean(dim=1)}

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Equation (3)."""
        with torch.no_grad():
            probs = self.actor_target.probs(batch.next_state)
            if self.config.official:
                probs = self.frequencies(probs, 1)
            after = (probs * self.critic_target(batch.next_state)).sum(dim=-1)
            target = bootstrap_target(batch.reward, batch.terminated, after, self.config.gamma)
        values = self.critic(batch.state)
        loss = huber(taken(values, batch.action) - target).mean(dim=1)
        return loss, {"q": taken(values.detach(), batch.action).mean(dim=1)}

    def frequencies(self, probs: Tensor, samples: int) -> Tensor:
        """(seeds, b, actions) shares of `samples` actions drawn from `probs`."""
        u = self.drawing.uniform(probs.shape[1], samples)
        code = (u[..., None] >= probs.cumsum(dim=-1)[..., None, :]).sum(dim=-1).clamp(max=self.actions - 1)
        return torch.nn.functional.one_hot(code, self.actions).float().mean(dim=-2)

    def acting(self) -> Actor:
        """The policy network: a distribution, whose mode `act` takes without a seed."""
        return self.actor.frozen()
