"""The policies that the report of a trajectory log learns: which, on which trajectories, and how far from the log.

The trajectories are split in two folds. A learner makes one policy from each, and each is valued on the other fold, so
that no row both teaches and judges. "The policy" of a learner is then: toss a coin for one of the two before every
trajectory; its value is what the report estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.scaling import ActionBounds, StateScale

if TYPE_CHECKING:
    from counterlog.core.neural_policies import NeuralPolicy

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
FOLDS = 2
FEWEST = 8  # trajectories: two folds, each of two halves, each of two
FAST = {"tau": 0.05}  # a few thousand steps: targets must follow ten times as fast as in runs of a million
NEAREST, QUESTIONS, MOST_ROWS = 25, 2000, 50_000


@dataclass(frozen=True)
class Learner:
    """A learner by name: `module` and `kind` say where it is, `settings` what differs from its defaults."""

    about: str
    module: str
    kind: str
    continuous: bool
    discrete: bool
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self, **shared: Any) -> Any:
        """The learner with its own settings and those that all share."""
        module = import_module(f"counterlog.learn.{self.module}")
        return getattr(module, self.kind)(
            getattr(module, f"{self.kind}Config")(**{**shared, **self.settings})
        )


LEARNERS: dict[str, Learner] = {
    "bc": Learner("clones the log", "bc", "BC", True, True),
    "bc-best": Learner("clones the best tenth of the trajectories", "bc", "BC", True, True, {"share": 0.1}),
    "td3-bc": Learner("climbs a learnt value, pulled back to the log", "td3_bc", "TD3BC", True, False, FAST),
    "iql": Learner("clones actions by how good they were", "iql", "IQL", True, False, FAST),
    "cql": Learner("holds values of unlogged actions down", "cql", "CQL", True, False, FAST),
    "rebrac": Learner(
        "climbs a learnt value, pulled twice to the log", "rebrac", "ReBRAC", True, False, FAST
    ),
    "discrete-cql": Learner(
        "climbs a learnt value, held down where nobody acted",
        "discrete_cql",
        "DiscreteCQL",
        False,
        True,
        {"target_every": 20},
    ),
    "discrete-bcq": Learner(
        "climbs a learnt value among the log's likelier actions",
        "discrete_bcq",
        "DiscreteBCQ",
        False,
        True,
        {"target_every": 20},
    ),
}
DEFAULT = {
    True: ("bc", "bc-best", "discrete-cql"),
    False: ("bc", "bc-best", "td3-bc"),
}  # by whether actions are discrete


def chosen_learners(log: Episodes, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The learners by name, those that fit the log by default. Raises `ConfigError` for one that cannot read it."""
    picked = tuple(names) or DEFAULT[log.discrete]
    fit = [k for k, v in LEARNERS.items() if (v.discrete if log.discrete else v.continuous)]
    if wrong := [n for n in picked if n not in fit]:
        kind = "discrete" if log.discrete else "continuous"
        msg = message(f"no learner {wrong[0]!r} for {kind} actions", expected=f"some of {', '.join(fit)}")
        raise ConfigError(msg)
    if len(set(picked)) < len(picked):
        raise ConfigError(message("a learner is named twice", expected="each once"))
    return picked


def folds_of(log: Episodes, rng: int) -> NDArray[np.int64]:
    """(n,) fold of each trajectory. Raises `SupportError` for a log of too few."""
    if log.n < FEWEST:
        msg = message(
            f"{log.n} trajectories cannot both teach and judge a policy",
            expected=f"at least {FEWEST}",
            hint="log more trajectories; cutting one into pieces gives no independent ones",
        )
        raise SupportError(msg)
    return np.random.default_rng([rng, 7]).permutation(log.n) % FOLDS


@dataclass(frozen=True, eq=False)
class Learnt:
    """Policies by learner, one stack of seeds each, learnt on the trajectories outside a fold.

    `claims` is what the learner's own critic says its policy earns from the fold's starts, mean over them; NaN without.
    """

    fold: int
    policies: dict[str, NeuralPolicy]
    claims: dict[str, float]


def learn_outside(
    log: Episodes,
    fold: NDArray[np.int64],
    k: int,
    names: Sequence[str],
    *,
    shared: dict[str, Any],
    low: Any,
    high: Any,
    rng: int,
    folder: Path | None,
    progress: Progress,
) -> Learnt:
    """Learn from the trajectories outside fold k."""
    import torch

    train, starts = log.take(fold != k), log.state[log.first[fold == k]]
    policies, claims = {}, {}
    for i, name in enumerate(names):
        learner = LEARNERS[name].make(**shared)

        def say(text: str, share: float, i: int = i, name: str = name) -> None:
            progress(f"fold {k + 1} of {FOLDS}, {name}: {text.split(': ')[-1]}", (i + share) / len(names))

        say("starting", 0.0)
        policies[name] = learner.fit(
            train,
            rng=rng,
            low=low,
            high=high,
            folder=None if folder is None else folder / f"fold-{k}" / name,
            save_every=max(250, shared["steps"] // 4),
            progress=say,
        )
        claims[name] = float("nan")
        if hasattr(learner, "critic") and not log.discrete:
            with torch.no_grad():
                state = torch.from_numpy(policies[name].scale.transform(starts))[None].expand(
                    len(policies[name].seeds), -1, -1
                )
                claims[name] = float(learner.critic.least(state, learner.actor.mode(state)).mean())
    return Learnt(k, policies, claims)


class Mode:
    """A learnt policy of one seed that takes its most likely action: what the report values, and what is deployed."""

    def __init__(self, policy: NeuralPolicy, seed: int) -> None:
        self.policy = policy.take(seed)

    def act(self, states: Any) -> Any:
        """(n, k) actions, (n,) codes. A policy of few trajectories may be far from home in most of the log: it acts all
        the same, as it would in the world, and `away_from_log` says so."""
        return self.policy.act_stacked(np.asarray(states)[None])[0]


class ModeOfCodes(Mode):
    """The same for discrete actions."""

    def probs(self, states: Any) -> Floats:
        """(n, actions), all mass on the most likely action."""
        return np.asarray(np.eye(self.policy.actor.actions)[self.act(states)], np.float64)


def deployed(policy: NeuralPolicy, seed: int) -> Mode:
    """One seed as it would act."""
    return (ModeOfCodes if policy.bounds is None else Mode)(policy, seed)


def away_from_log(log: Episodes, policy: Any, *, low: Any, high: Any, rng: int) -> float:
    """Share of a policy's decisions in logged states that no other trajectory knows.

    Continuous: the nearest logged pair of scaled state and action in another trajectory is farther than it is for 95%
    of the logged pairs themselves. Discrete: none of the 25 nearest states of other trajectories chose the action.
    """
    gen = np.random.default_rng([rng, 11])
    rows = np.sort(gen.choice(log.rows, min(MOST_ROWS, log.rows), replace=False))
    asked = np.sort(gen.choice(len(rows), min(QUESTIONS, len(rows)), replace=False))
    state = StateScale.fit(log).transform(log.state[rows])
    owner = log.owners[rows]
    if log.discrete:
        near = np.asarray(cKDTree(state).query(state[asked], k=min(4 * NEAREST, len(rows)))[1])
        other = owner[near] != owner[asked][:, None]
        kept = other & (np.cumsum(other, axis=1) <= NEAREST)
        seen = np.zeros((len(asked), len(log.actions)), bool)
        at, column = np.nonzero(kept)
        seen[at, log.action[rows][near[at, column]]] = True
        p = policy.probs(log.state[rows[asked]])
        return float((p * ~seen).sum() / len(asked))
    bounds = ActionBounds.fit(log, low, high)
    logged = np.hstack([state, bounds.inwards(log.action[rows])])
    acted = np.hstack([state[asked], bounds.inwards(policy.act(log.state[rows[asked]]))])
    tree = cKDTree(logged)

    def nearest(points: Any) -> Floats:
        far, near = tree.query(points, k=min(4 * NEAREST, len(rows)))
        own = owner[near] == owner[asked][:, None]
        least = np.asarray(np.where(own, np.inf, far), np.float64).min(axis=1)
        return np.asarray(np.minimum(least, least[np.isfinite(least)].max(initial=0.0)), np.float64)

    usual = np.quantile(nearest(logged[asked]), 0.95)
    return float((nearest(acted) > usual).mean())
