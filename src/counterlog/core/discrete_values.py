"""Values of discrete actions: what learners of the Q-learning family share.

    h(x)  = x^2 / 2 if |x| < 1 else |x| - 1/2                                                             (1)
    a*    = argmax_a Q(s', a),   y = r + gamma (1 - terminated) Q'(s', a*)        double Q-learning       (2)
    Q'    <- Q every `target_every` updates

A network's outputs are the values of all actions; the policy takes the largest. Perceptrons with SELU, weights
N(0, 1/inputs), biases 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.stacked_critics import bootstrap_target
from counterlog.core.stacked_learner import OfflineConfig, OfflineLearner
from counterlog.core.stacked_nets import Descent, StackedMLP
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions

ROLE, ACTIVATION, START = "critic", "selu", "normal"


@dataclass(frozen=True, kw_only=True)
class DiscreteConfig(OfflineConfig):
    """What learners of discrete values share."""

    hidden: tuple[int, ...] = param((256, 256, 256), "hidden units a layer", at_least=1)
    batch: int = param(128, "rows a step and seed", at_least=1)
    steps: int = param(500_000, "gradient steps", at_least=1)
    lr: float = param(1e-4, "Adam step size", above=0)
    gamma: float = param(0.95, "discount a step", at_least=0, at_most=1)
    target_every: int = param(100, "updates between copies of the network to its target", at_least=1)


def huber(x: Tensor) -> Tensor:
    """Equation (1), element by element."""
    size = x.abs()
    return torch.where(size < 1, 0.5 * x * x, size - 0.5)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """(seeds, b) the values (seeds, b, actions) of the actions (seeds, b)."""
    return values.gather(-1, action[..., None])[..., 0]


def double_target(
    reward: Tensor, terminated: Tensor, choosing: Tensor, valuing: Tensor, gamma: float
) -> Tensor:
    """Equation (2); `choosing`, `valuing` (seeds, b, actions) are the online and the target network at s'."""
    return bootstrap_target(reward, terminated, taken(valuing, choosing.argmax(dim=-1)), gamma)


def value_network(
    inputs: int, hidden: Sequence[int], outputs: int, seeds: Sequence[int], members: int | None = None
) -> StackedMLP:
    """The family's perceptron."""
    return StackedMLP(
        (inputs, *hidden, outputs),
        seeds=seeds,
        role=ROLE,
        members=members,
        activation=ACTIVATION,
        start=START,
    )


def as_actor(net: StackedMLP, actions: int, head: Head) -> Actor:
    """An actor with copies of a perceptron's parameters; outputs that are several heads of each action are averaged."""
    made = Actor(
        net.sizes[0],
        net.sizes[1:-1],
        actions,
        seeds=net.seeds,
        head=head,
        activation=net.activation,
        start=START,
    )
    last = net.layers - 1
    with torch.no_grad():
        for name, leaf in made.leaves.items():
            found = net.leaves[name]
            if name in (f"weight{last}", f"bias{last}") and found.shape != leaf.shape:
                # heads lie action by action: (..., actions, heads)
                found = found.unflatten(-1, (actions, -1)).mean(dim=-1)
            leaf.copy_(found)
    return made


class DiscreteLearner(OfflineLearner):
    """A learner of values: write `loss(batch) -> ((seeds,), metrics)`. `heads` outputs an action."""

    config: DiscreteConfig
    heads = 1

    def build(self, data: Transitions) -> None:
        """The network, its target and its descent. Raises `ConfigError` for continuous actions."""
        c = self.config
        if not data.discrete:
            name = type(self).__name__
            hint = "use a learner of continuous actions (td3-bc, iql, cql)"
            raise ConfigError(message(f"{name} needs discrete actions", hint=hint))
        self.actions = data.action_size
        self.critic = value_network(data.state_size, c.hidden, self.actions * self.heads, self.seeds)
        self.critic_target = self.critic.frozen()
        self.critic_descent = Descent(self.critic, lr=c.lr)

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss of each seed, (seeds,), and what to report."""

    def update(self, batch: Batch) -> Metrics:
        """One step down the loss; the target copies the network when it is due."""
        self.updates += 1
        loss, metrics = self.loss(batch)
        self.critic_descent.step(loss)
        if self.updates % self.config.target_every == 0:
            self.critic_target.follow(self.critic, 1.0)
        return {"critic_loss": loss.detach(), **metrics}

    def double_q(self, batch: Batch) -> Tensor:
        """The target (2), without a gradient."""
        with torch.no_grad():
            choosing, valuing = self.critic(batch.next_state), self.critic_target(batch.next_state)
            return double_target(batch.reward, batch.terminated, choosing, valuing, self.config.gamma)

    def acting(self) -> Actor:
        """The network as a greedy policy; several heads are averaged."""
        return as_actor(self.critic, self.actions, Head("greedy"))
