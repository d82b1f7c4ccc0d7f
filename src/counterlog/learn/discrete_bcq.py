"""Discrete BCQ: Q-learning that only looks at actions which the log's policy would take often enough.

Use when    actions are discrete and you do not know how well the log covers them: the safe first choice.
Not when    the logging policy was uniform everywhere: nothing is ruled out and this is dqn with extra work.
Data        Episodes(state, action, reward)
Paper       Fujimoto, Conti, Ghavamzadeh, Pineau, Benchmarking Batch Deep Reinforcement Learning Algorithms, 2019,
            arXiv 1910.01708.
Equation    G(.|s) = softmax f(s);   a allowed in s:  G(a|s) / max G(.|s) > threshold                 (1)
            a* = argmax over allowed a of Q(s', a),   y = r + gamma (1 - terminated) Q'(s', a*)       (2)
            L  = mean h(Q(s, a) - y) - mean log G(a|s) + weight mean f(s)^2                           (3)
            pi(s) = argmax over allowed a of Q(s, a)
Shapes      Q, f (seeds, b, actions), two networks stepped as one | L (seeds,)
Units       Q, y: shaped reward units, discounted | log G: nats
Raises      LogError: a role is missing | SupportError: rewards are all alike | ConfigError: continuous actions
            ConvergenceError: the loss is not finite
Differs     f has a trunk of its own, as in the comparison of arXiv 2111.04714; the paper shares it on images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head, allowed_values
from counterlog.core.config import param
from counterlog.core.discrete_values import (
    ACTIVATION,
    DiscreteConfig,
    DiscreteLearner,
    double_target,
    huber,
    taken,
    value_network,
)
from counterlog.core.stacked_nets import Descent, StackedMLP
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class DiscreteBCQConfig(DiscreteConfig):
    """Parameters of discrete BCQ."""

    threshold: float = param(
        0.3, "least chance of an allowed action, relative to the likeliest; 0 is dqn", at_least=0, below=1
    )
    weight: float = param(0.01, "weight of the squared logits (3)", at_least=0)


def imitation_loss(f: Tensor, action: Tensor, weight: float) -> Tensor:
    """The second and third part of (3).  (seeds, b, actions), (seeds, b) -> (seeds,)"""
    log_g = taken(torch.log_softmax(f, dim=-1), action)
    return -log_g.mean(dim=1) + weight * f.square().mean(dim=(1, 2))


class DiscreteBCQ(DiscreteLearner):
    """Batch-constrained Q-learning, discrete actions."""

    config: DiscreteBCQConfig

    def __init__(self, config: DiscreteBCQConfig | None = None) -> None:
        self.config = config or DiscreteBCQConfig()

    def build(self, data: Transitions) -> None:
        """Two members: the values and the logits f."""
        super().build(data)
        c = self.config
        self.critic = value_network(data.state_size, c.hidden, self.actions, self.seeds, members=2)
        self.critic_target = self.critic.frozen()
        self.critic_descent = Descent(self.critic, lr=c.lr)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(1) to (3)."""
        c = self.config
        with torch.no_grad():
            choosing, f_after = self.critic(batch.next_state).unbind(dim=1)
            valuing = self.critic_target(batch.next_state, 0)
            choosing = allowed_values(choosing, f_after, c.threshold)
            target = double_target(batch.reward, batch.terminated, choosing, valuing, c.gamma)
        values, f = self.critic(batch.state).unbind(dim=1)
        td = huber(taken(values, batch.action) - target).mean(dim=1)
        cloning = imitation_loss(f, batch.action, c.weight)
        share = torch.isfinite(allowed_values(values, f, c.threshold)).float().mean(dim=(1, 2))
        return td + cloning, {"td_loss": td.detach(), "cloning_loss": cloning.detach(), "allowed": share}

    def acting(self) -> Actor:
        """One network of both, block by block, under the head that rules actions out."""
        return side_by_side(self.critic, self.actions, Head("allowed", threshold=self.config.threshold))


def side_by_side(net: StackedMLP, actions: int, head: Head) -> Actor:
    """Two members as one perceptron of twice the width, whose outputs lie one after the other."""
    inputs, hidden = net.sizes[0], net.sizes[1:-1]
    made = Actor(inputs, [2 * w for w in hidden], actions, seeds=net.seeds, head=head, activation=ACTIVATION)
    with torch.no_grad():
        for i in range(net.layers):
            weight, bias = net[f"weight{i}"], net[f"bias{i}"]
            rows, width = weight.shape[-2:]
            whole = made[f"weight{i}"]
            whole.zero_()
            for m in (0, 1):
                start = 0 if i == 0 else m * rows
                whole[:, start : start + rows, m * width : (m + 1) * width] = weight[:, m]
            made[f"bias{i}"].copy_(torch.cat([bias[:, 0], bias[:, 1]], dim=-1))
    return made
