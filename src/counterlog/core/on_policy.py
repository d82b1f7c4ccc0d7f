"""Learning from fresh rollouts: act for a while with a fixed policy, value what happened, learn from it, forget it.

A rollout is one float32 matrix (seeds, steps x copies, columns), so that a minibatch of all seeds is one gather.
Actions are drawn in units where the bounds are +-1 and cut there for the environment only: densities are those of the
action that was drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, Head
from counterlog.core.advantages import generalised_advantages, standardised
from counterlog.core.config import param
from counterlog.core.environments import Moves
from counterlog.core.errors import ConfigError, message
from counterlog.core.online_learner import OnlineConfig, OnlineLearner
from counterlog.core.running_moments import RewardNormaliser, StateNormaliser
from counterlog.core.stacked_critics import StateValue
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch, Columns


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(OnlineConfig):
    """What learners from fresh rollouts share."""

    copies: int = param(4, "copies of the environment that a seed plays at once", at_least=1)
    horizon: int = param(512, "steps of every copy in a rollout", at_least=1)
    lam: float = param(0.95, "lambda of the advantages; 1 is the discounted sum", at_least=0, at_most=1)
    orthogonal: bool = param(True, "orthogonal starting weights, small last layer of the policy")
    normalise_states: bool = param(True, "scale states by their running mean and deviation")
    normalise_rewards: bool = param(False, "scale rewards by the running deviation of the discounted return")


class OnPolicyLearner(OnlineLearner):
    """Write `learn(rollout, round)`; `actor` and `value` are made here, `build_descents` makes the rest."""

    config: OnPolicyConfig

    @property
    def round_size(self) -> int:
        """Environment steps of a seed in a rollout."""
        return self.config.horizon * self.config.copies

    @abstractmethod
    def build_descents(self) -> None:
        """Make descents and whatever else the learner keeps."""

    @abstractmethod
    def learn(self, rollout: Batch, step: int) -> Metrics:
        """Learn from the rollout of round `step`."""

    def build(self) -> None:
        """Policy and value networks, and the normalisers."""
        c, w = self.config, self.worlds
        seeds = len(self.seeds)
        head = Head("categorical") if w.discrete else Head("gaussian", squash_mean=False)
        rule = "orthogonal" if c.orthogonal else "uniform"
        first, last = (0.01, 1.0) if c.orthogonal else (None, None)
        shape: dict[str, Any] = {"seeds": self.seeds, "activation": "tanh", "start": rule}
        self.actor = Actor(w.state_size, c.hidden, w.action_size, head=head, last=first, **shape)
        self.value = StateValue(w.state_size, c.hidden, last=last, **shape)
        self.look = StateNormaliser(seeds, w.state_size, on=c.normalise_states)
        self.pay = RewardNormaliser(seeds, c.copies, c.gamma, on=c.normalise_rewards)
        size = 0 if w.discrete else w.action_size
        widths = {"state": w.state_size, "action": size}
        rest = ("reward", "terminated", "log_propensity", "value", "advantage", "return_to_go")
        self.columns = Columns({**widths, **dict.fromkeys(rest, 0)}, discrete=w.discrete)
        self.build_descents()

    def advance(self, step: int) -> Metrics:
        """A rollout, and what is learnt from it."""
        metrics = self.learn(self.collect(), step)
        return {**metrics, "environment_steps": torch.full((len(self.seeds),), float(step * self.round_size))}

    def collect(self) -> Batch:
        """A rollout (seeds, steps x copies) under the policy as it stands, with values and advantages."""
        c, w = self.config, self.worlds
        shape = (c.horizon, c.copies)
        states: list[Tensor] = []
        actions: list[Tensor] = []
        moves: list[Moves] = []
        paid: list[Any] = []
        cuts: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.inference_mode():
            draw = self._drawing(shape)
            for t in range(c.horizon):
                states.append(self.look(w.states, update=True))
                actions.append(draw(states[-1], t))
                chosen = actions[-1].numpy()
                moved = w.step(chosen if w.bounds is None else w.bounds.outwards(chosen))
                if moved.truncated.any():
                    cuts[t] = torch.from_numpy(moved.truncated), self.look(moved.next_state, update=False)
                moves.append(moved)
                paid.append(self.pay(moved.reward, moved.done))
            states.append(self.look(w.states, update=False))
        with torch.no_grad():
            state, action = torch.stack(states[:-1], dim=1), torch.stack(actions, dim=1)
            following = torch.stack(states[1:], dim=1)
            for t, (cut, last) in cuts.items():
                following[:, t] = torch.where(cut[..., None], last, following[:, t])
            flat = {"state": state.flatten(1, 2), "action": action.flatten(1, 2)}
            value = self.value.values(flat["state"])
            next_value = self.value.values(following.flatten(1, 2))
            log_p = self.actor.log_prob(flat["state"], flat["action"])
        reward, ended, over = (
            torch.from_numpy(np.stack(x, axis=1)).float().flatten(1)
            for x in (paid, [m.done for m in moves], [m.terminated for m in moves])
        )
        steps = [x.unflatten(1, shape).transpose(0, 1) for x in (reward, value, next_value, over, ended)]
        advantage = generalised_advantages(*steps, gamma=c.gamma, lam=c.lam).transpose(0, 1).flatten(1)
        rows = self.columns.join(
            {
                **flat,
                "reward": reward,
                "terminated": over,
                "log_propensity": log_p,
                "value": value,
                "advantage": advantage,
                "return_to_go": advantage + value,
            }
        )
        return Batch(rows, self.columns)

    def _drawing(self, shape: tuple[int, int]) -> Callable[[Tensor, int], Tensor]:
        """(states, step) -> sampled actions, with the noise of the whole rollout drawn before."""
        w, actor = self.worlds, self.actor
        if w.discrete:
            uniform = self.acting.uniform(*shape)
            return lambda state, t: actor.sample(state, uniform[:, t])[0]
        spread = actor["log_std"].clamp(actor.head.low, actor.head.high).exp()
        noise = self.acting.normal(*shape, w.action_size) * spread[:, None]
        return lambda state, t: actor(state) + noise[:, t]

    def minibatches(self, rollout: Batch, size: int, epochs: int) -> Iterator[Batch]:
        """Every row once an epoch in each seed's own order; the last batch of an epoch may be smaller.

        Raises `ConfigError` when one row would be left alone: it has no deviation.
        """
        seeds, total = rollout.shape
        if total % size == 1 or size == 1:
            msg = message(f"batches of {size} from {total:,} rows leave a batch of one row")
            raise ConfigError(message(msg, hint="choose a batch that divides horizon times copies"))
        rows = rollout.rows.flatten(0, 1)
        first = (torch.arange(seeds) * total)[:, None]
        for _ in range(epochs):
            order = self.draws.uniform(total).argsort(dim=1)
            for index in order.split(size, dim=1):
                picked = rows.index_select(0, (index + first).reshape(-1))
                yield Batch(picked.view(seeds, index.shape[1], -1), rollout.columns, index)


def entropy(actor: Actor, state: Tensor) -> Tensor:
    """(seeds, b) entropy of the policy in nats (of the Gaussian before its actions are cut)."""
    if actor.head.kind == "categorical":
        log_p = torch.log_softmax(actor(state), dim=-1)
        return -(log_p.exp() * log_p).sum(dim=-1)
    _, log_std = actor.moments(state)
    return (log_std + 0.5 * (1 + np.log(2 * np.pi))).sum(dim=-1)


def value_error(value: Tensor, batch: Batch, clip: float | None) -> Tensor:
    """max((v - R)^2, (v_old + clip(v - v_old) - R)^2), mean over rows; the first alone without `clip`.  (seeds,)"""
    error = (value - batch.return_to_go).square()
    if clip is not None:
        near = batch.value + (value - batch.value).clamp(-clip, clip)
        error = torch.maximum(error, (near - batch.return_to_go).square())
    return error.mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class PolicyFirstConfig(OnPolicyConfig):
    """What learners share that step the policy on the whole rollout and fit the value after it."""

    normalise_rewards: bool = param(True, "scale rewards by the running deviation of the discounted return")
    value_lr: float = param(1e-3, "Adam step size of the value", above=0)
    value_epochs: int = param(5, "passes of the value over a rollout", at_least=1)
    value_batch: int = param(128, "rows a value step and seed", at_least=2)
    clip_value: float | None = param(
        0.2, "how far a value may move from its old one; none: no bound", above=0
    )
    longest_gradient: float = param(0.5, "bound of the gradient's norm", above=0)


class PolicyFirst(OnPolicyLearner):
    """Write `step_policy(rollout, round)`: the value is fitted after it by minibatches."""

    config: PolicyFirstConfig

    def build_descents(self) -> None:
        """The value's descent; a subclass adds its own."""
        c = self.config
        self.value_descent = Descent(self.value, lr=c.value_lr, eps=1e-5, clip=c.longest_gradient)

    @abstractmethod
    def step_policy(self, rollout: Batch, advantage: Tensor, step: int) -> Metrics:
        """Move the policy, with advantages standardised over the rollout."""

    def learn(self, rollout: Batch, step: int) -> Metrics:
        """The policy, then the value."""
        c = self.config
        metrics = self.step_policy(rollout, standardised(rollout.advantage), step)
        errors = [
            self.update(b)["value_error"] for b in self.minibatches(rollout, c.value_batch, c.value_epochs)
        ]
        return {**metrics, "value_error": torch.stack(errors).mean(dim=0)}

    def update(self, batch: Batch) -> Metrics:
        """One step of the value."""
        self.updates += 1
        error = value_error(self.value.values(batch.state), batch, self.config.clip_value)
        self.value_descent.step(error)
        return {"value_error": error.detach()}
