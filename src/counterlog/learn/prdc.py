"""PRDC: a deterministic policy pulled to the nearest logged pair, not to the action of its own row.

Use when    actions are continuous and the log is mostly mediocre: an action logged in a similar state may be borrowed.
Not when    good actions were logged nowhere near, or similar states are not alike (set state_weights); on narrow logs a
            small beta trusts the critic too far.
Data        Episodes(state, action, reward)
Paper       Ran, Li, Zhang, Zhang and Yu, Policy Regularization with Dataset Constraint for Offline Reinforcement
            Learning, ICML 2023, arXiv 2306.06569.
Equation    d((x, a), (x', a'))^2 = beta^2 |x - x'|^2 + |a - a'|^2                                    (1)
            i* = argmin_i d((x, pi(x)), (x_i, a_i)) over all rows i,   n = a_i*  (a constant)         (2)
            actor:   - lambda mean Q_1(s, pi(s)) + mean (pi(s) - n)^2,  lambda = alpha / mean |Q_1|   (3)
            critics, targets, smoothing: as TD3
Shapes      s (seeds, b, d) | a, n (seeds, b, k) in [-1, 1] | Q (seeds, 2, b) | d (seeds, b) | losses (seeds,)
Units       d, n: half-ranges of the actions; a state counts beta half-ranges a deviation | Q: reward units, discounted
Raises      ConfigError: discrete actions, more neighbours than rows, weights that do not fit the states
            LogError: an action column that never changes, a role is missing, actions out of bounds
            SupportError: rewards are all alike | ConvergenceError: a loss is not finite
Differs     the search is as exact but faster (core.nearest_pairs). Choices beyond the paper: k_mode, state_weights,
            candidates, explain.
Builds on   td3-bc
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.episodes import EpisodeWarning
from counterlog.core.errors import (
    ConfigError,
    ConvergenceError,
    LogError,
    NotFittedError,
    SupportError,
    message,
)
from counterlog.core.nearest_pairs import NearestPairs, Pairs
from counterlog.core.results import Result
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig, actor_loss, value_weight

UNEVEN = 1e3
CHECKED_AT, ALWAYS_SELF, WANTED_SELF = 500, 0.98, 0.9


@dataclass(frozen=True, kw_only=True)
class PRDCConfig(TD3BCConfig):
    """Parameters of PRDC."""

    beta: float = param(
        2.0,
        "how much states count beside actions (1): large is TD3+BC, 0 lets any logged action do",
        at_least=0,
        at_most=1e6,
    )
    k: int = param(1, "neighbours", at_least=1)
    k_mode: str = param(
        "kth",
        "what k neighbours give: the k-th alone (the authors' code), their mean, or a mean that favours near ones",
        choices=("kth", "mean", "softmax"),
    )
    temperature: float = param(0.1, "of the softmax over distances", above=0)
    state_weights: tuple[float, ...] = param(
        (), "weight of each scaled state column in (1); empty: all 1", at_least=0
    )
    candidates: float = param(
        1.0, "share of rows, best by return to go, whose actions may be borrowed", above=0, at_most=1
    )


@dataclass(frozen=True, kw_only=True)
class Support(Result):
    """The logged rows nearest to what the policy does in each state, nearest first.

    A row is a state asked about and one of its pairs: where it was logged (`trajectory`, `step`), what was done there
    (`logged`, beside the policy's `action`, in the environment's units), `reward`, and the distance with its two parts.
    """

    unit: str
    n: int
    beta: float
    pairs: tuple[dict[str, float], ...]

    def records(self) -> list[dict[str, float]]:
        """One record a state and neighbour."""
        return [dict(p) for p in self.pairs]


def borrowed_action(logged: Tensor, distance: Tensor, mode: str, temperature: float) -> Tensor:
    """n of (2) from k neighbours.  (m, k, columns) actions, (m, k) distances, nearest first -> (m, columns)"""
    if mode == "kth":
        return logged[:, -1]
    if mode == "mean":
        return logged.mean(dim=1)
    return (torch.softmax(-distance / temperature, dim=1)[..., None] * logged).sum(dim=1)


def rows_of(batch: Batch) -> Tensor:
    """(seeds b,) row numbers in the log. Raises `ConfigError` for a batch that was not drawn from it."""
    if batch.index is None:
        raise ConfigError(message("a batch without row numbers", hint="draw it with Transitions.batch"))
    return batch.index.reshape(-1)


class PRDC(TD3BC):
    """Policy regularisation with a dataset constraint."""

    config: PRDCConfig

    def __init__(self, config: PRDCConfig | None = None) -> None:
        self.config = config or PRDCConfig()

    def build(self, data: Transitions) -> None:
        """TD3's networks, and the index of the log's pairs."""
        c = self.config
        if data.discrete:
            hint = "actions need a metric; use a learner for discrete actions"
            raise ConfigError(message("PRDC needs continuous actions", hint=hint))
        state, self.actions = data.column("state"), data.column("action").contiguous()
        self.weights = _weights(state, c.state_weights)
        if (flat := np.flatnonzero(np.ptp(self.actions.numpy(), axis=0) == 0)).size:
            msg = message(f"action column {flat[0]} is {float(self.actions[0, flat[0]]):g} in every row")
            raise LogError(message(msg, hint="leave the column out: its nearest action is always the same"))
        among = None
        if c.candidates < 1:
            worth = data.column("return_to_go").numpy()
            among = np.argsort(-worth, kind="stable")[: max(1, int(c.candidates * len(data)))]
        self.index = NearestPairs(state * self.weights, self.actions, beta=c.beta, among=among)
        if c.k > self.index.size:
            msg = message(
                f"k = {c.k} neighbours", expected=f"at most {self.index.size:,}, the rows there are"
            )
            raise ConfigError(msg)
        super().build(data)

    def actor_step(self, batch: Batch) -> Metrics:
        """(2) and (3), with the critic of this step."""
        c = self.config
        action = self.actor.mode(batch.state)
        if not bool(action.isfinite().all()):
            msg = message(f"the policy's actions are not finite at update {self.updates}")
            raise ConvergenceError(message(msg, hint="lower lr, or scale the rewards"))
        found = self.index.of_rows(rows_of(batch), action.detach().flatten(0, 1), c.k)
        distance = found.squared.sqrt()
        target = borrowed_action(self.actions[found.row], distance, c.k_mode, c.temperature).view_as(action)
        q = self.critic.first(batch.state, action)
        value, pull = actor_loss(q, action, target, c.alpha)
        self.actor_descent.step(value + pull if c.constraint else value)
        match = self._own(found, action.detach(), batch)
        once = CHECKED_AT <= self.updates < CHECKED_AT + c.policy_every
        if once and c.beta > 0 and c.candidates == 1 and float(match.mean()) > ALWAYS_SELF:
            self._warn_of_selves(batch, action.detach())
        first = distance[:, 0].view(match.shape)
        return {
            "actor_loss": (value + pull).detach(),
            "neighbour_gap": pull.detach(),
            "self_match": match.mean(dim=1),
            "distance_median": first.median(dim=1).values,
            "distance_95": first.quantile(0.95, dim=1),
            "state_distance": found.state_part[:, 0].sqrt().view_as(first).mean(dim=1),
            "value_weight": value_weight(q, c.alpha),
        }

    def _own(self, found: Pairs, action: Tensor, batch: Batch) -> Tensor:
        """(seeds, b) 1 where no pair is nearer than the row's own."""
        own = (action - batch.action).square().sum(dim=2)
        return (found.squared[:, 0].view_as(own) >= own * (1 - 1e-6)).float()

    def _warn_of_selves(self, batch: Batch, action: Tensor) -> None:
        rows, acts = rows_of(batch)[:100], action.flatten(0, 1)[:100]
        lower = float(self.index.losing_betas(rows, acts).quantile(WANTED_SELF))
        warnings.warn(
            f"at beta = {self.config.beta:g} the nearest pair is the row itself in more than {ALWAYS_SELF:.0%} "
            f"of the questions: PRDC is TD3+BC here. Lower beta (at {lower:.2g} it would be {WANTED_SELF:.0%}) or use "
            "more rows",
            EpisodeWarning,
            stacklevel=2,
        )

    def explain(self, states: ArrayLike, *, k: int = 5, seed: int = 0) -> Support:
        """The k logged pairs nearest to what the policy of position `seed` does in these raw states (n, d).

        Raises `NotFittedError` before `fit`, `SupportError` for a state far from the log's.
        """
        if not hasattr(self, "index"):
            raise NotFittedError(message("there is nothing to explain yet", hint="call fit(log) first"))
        if not 0 <= seed < len(self.seeds):
            raise ConfigError(message(f"seed {seed}", expected=f"a position below {len(self.seeds)}"))
        data, raw = self.data, np.asarray(states)
        if not raw.size:
            raise SupportError(message("no states to explain", expected="one row or more"))
        scaled = data.scale.transform(raw)
        data.scale.check_near(scaled)
        state = torch.from_numpy(scaled)
        with torch.no_grad():
            action = self.actor.take(seed).mode(state[None])[0]
        found = self.index.of_pairs(state * self.weights, action, k)
        bounds, reward = data.bounds, data.column("reward")
        outwards = bounds.outwards if bounds is not None else np.asarray
        acted, logged = outwards(action.numpy()), outwards(self.actions[found.row].numpy())
        rows = [
            {
                "state": i,
                "rank": j + 1,
                "trajectory": int(data.trajectory[row]),
                "step": int(data.step[row]),
                "reward": float(reward[row]),
                "distance": float(found.squared[i, j].sqrt()),
                "state_part": float(found.state_part[i, j].sqrt()),
                "action_part": float(found.action_part[i, j].sqrt()),
                **{f"action_{m}": float(a) for m, a in enumerate(acted[i])},
                **{f"logged_{m}": float(a) for m, a in enumerate(logged[i, j])},
            }
            for i, picked in enumerate(found.row.tolist())
            for j, row in enumerate(picked)
        ]
        return Support(
            unit="half-ranges of the actions", n=len(state), beta=self.config.beta, pairs=tuple(rows)
        )


def _weights(state: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The weights of the state columns, checked; a warning when one column decides every distance."""
    if weights and len(weights) != state.shape[1]:
        msg = message(f"{len(weights)} state_weights", expected=f"{state.shape[1]}, one a state column")
        raise ConfigError(msg)
    found = torch.tensor(weights) if weights else torch.ones(state.shape[1])
    spread = (state.std(dim=0) * found).numpy()
    moving = spread[spread > 0]
    if moving.size and moving.max() > UNEVEN * moving.min():
        warnings.warn(
            f"state column {int(spread.argmax())} varies {moving.max() / moving.min():,.0f} times as much as another: "
            "distances are its alone; use states='td3' or state_weights",
            EpisodeWarning,
            stacklevel=3,
        )
    return found
