"""Scores of learnt policies: returns from the same starts, normalised, interquartile means over seeds, intervals.

    score = 100 (R - R_min) / (R_max - R_min)                                                          (1)
    IQM   = mean of the middle half of all runs (seeds times tasks)                                    (2)
The interval resamples seeds within each task (stratified bootstrap). Last and best checkpoints are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import trim_mean

from counterlog.core.bootstrap import check_level, percentile_ends
from counterlog.core.environments import MakeEnvironment, episode_returns
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.neural_policies import NeuralPolicy
from counterlog.core.results import Result
from counterlog.core.seed_streams import SeedStreams

Floats = NDArray[np.float64]

# D4RL's reference returns (random, expert), shared by versions 0 to 2 of a task unless it is named here.
REFERENCES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-umaze-dense": (68.537689, 193.66285642),
    "maze2d-medium-dense": (44.264742, 297.45525478),
    "maze2d-large-dense": (30.569041, 303.48573827),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017827),
    "hammer": (-274.856578, 12794.134825157),
    "relocate": (-6.425911, 4233.877797729),
    "door": (-56.512833, 2880.5693087299),
    "minigrid-fourrooms": (0.01442, 2.89685),
}


def reference_of(task: str) -> tuple[float, float]:
    """(R_min, R_max) of a D4RL task by its id or its longest known beginning. Raises `SupportError` for another.

    Gymnasium's MuJoCo of version 4 and later pays other returns than D4RL's: ids such as "Hopper-v5" are refused.
    """
    known = [k for k in REFERENCES if task == k or task.startswith(f"{k}-")]
    if not known or task[:1].isupper():
        msg = message(
            f"there are no reference returns for {task!r}",
            expected=f"a task of {', '.join(REFERENCES)}",
            hint="give references=(worst, best) of your own; Gymnasium's -v4 and -v5 returns are not D4RL's",
        )
        raise SupportError(msg)
    name = max(known, key=len)
    dense = f"{'-'.join(task.split('-')[:2])}-dense"
    return REFERENCES[dense if "-dense" in task and dense in REFERENCES else name]


def normalised_score(returns: ArrayLike, references: tuple[float, float] | str) -> Floats:
    """Equation (1); `references` are (R_min, R_max), or a D4RL task."""
    low, high = reference_of(references) if isinstance(references, str) else references
    if not high > low:
        raise ConfigError(message(f"references ({low:g}, {high:g})", expected="worst below best"))
    return np.asarray(100 * (np.asarray(returns, np.float64) - low) / (high - low), np.float64)


def interquartile_mean(values: ArrayLike) -> float:
    """Equation (2) of all values: a quarter is cut at each end, whole values only (SciPy's trimmed mean)."""
    return float(trim_mean(np.asarray(values, np.float64).ravel(), 0.25))


def iqm_interval(
    values: ArrayLike, *, level: float = 0.95, replicates: int = 2000, rng: int = 0
) -> tuple[float, float, float]:
    """IQM with its interval from (seeds,) or (seeds, tasks): seeds are redrawn within each task.

    Raises `SupportError` for fewer than 2 seeds.
    """
    check_level(level)
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not np.isfinite(table).all():
        raise LogError(
            message(f"scores of shape {table.shape}", expected="finite, (seeds,) or (seeds, tasks)")
        )
    seeds, tasks = table.shape
    if seeds < 2:
        raise SupportError(message("one seed has no interval over seeds", hint="train at least 2, better 5"))
    gen = np.random.default_rng(rng)
    drawn = table[gen.integers(0, seeds, (replicates, seeds, tasks)), np.arange(tasks)]
    low, high = percentile_ends(np.asarray(trim_mean(drawn.reshape(replicates, -1), 0.25, axis=1)), level)
    return interquartile_mean(table), low, high


@dataclass(frozen=True, kw_only=True)
class PolicyScore(Result):
    """Mean return of each seed over the same starts, and the IQM over seeds. `overestimate`: Q(s0, pi(s0)) minus the
    realised discounted return, per seed, where a critic was given. `n` counts episodes of all seeds."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    level: float
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    discounted: tuple[float, ...]
    overestimate: tuple[float, ...] = ()
    normalised: tuple[float, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One row a seed."""
        rows: list[dict[str, Any]] = []
        for k, seed in enumerate(self.seeds):
            row = {"seed": seed, "mean_return": self.returns[k], "discounted": self.discounted[k]}
            if self.overestimate:
                row["overestimate"] = self.overestimate[k]
            if self.normalised:
                row["normalised"] = self.normalised[k]
            rows.append(row)
        return rows


def stacked_returns(
    policy: NeuralPolicy,
    make: MakeEnvironment,
    *,
    starts: int = 20,
    gamma: float = 1.0,
    rng: int = 0,
    sample: bool = False,
) -> tuple[Floats, Floats]:
    """(seeds, starts) returns and discounted returns: all seeds play the same starts, all copies in one call a step."""
    seeds = len(policy.seeds)
    env = make(seeds * starts)
    streams = SeedStreams(policy.seeds, f"evaluation {rng}") if sample else None

    def act(state: Any) -> Any:
        given = state.reshape(seeds, starts, *state.shape[1:])
        action = policy.act_stacked(given, streams)
        return action.reshape(seeds * starts, *action.shape[2:])

    total, discounted = episode_returns(env, act, gamma=gamma, rng=rng, groups=seeds)
    return total.reshape(seeds, starts), discounted.reshape(seeds, starts)


def evaluate_policy(
    policy: NeuralPolicy,
    make: MakeEnvironment,
    *,
    starts: int = 20,
    gamma: float = 0.99,
    rng: int = 0,
    sample: bool = False,
    level: float = 0.95,
    references: tuple[float, float] | str | None = None,
    value_at: Callable[[Any], ArrayLike] | None = None,
) -> PolicyScore:
    """Play `starts` episodes with every seed from the same starts: the mode of the policy, or samples.

    `make(copies)` makes the environment. `value_at(start states (starts, d)) -> (seeds, starts)` is the critic's claim
    about the discounted return. With one seed the interval is the point itself.
    """
    total, discounted = stacked_returns(policy, make, starts=starts, gamma=gamma, rng=rng, sample=sample)
    means = total.mean(axis=1)
    value, low, high = (float(means[0]),) * 3
    if len(means) > 1:
        value, low, high = iqm_interval(means, level=level, rng=rng)
    over: tuple[float, ...] = ()
    env = make(starts)
    if value_at is not None:
        claimed = np.asarray(value_at(env.reset(rng)), np.float64)
        over = tuple((claimed - discounted).mean(axis=1).tolist())
    return PolicyScore(
        value=value,
        low=low,
        high=high,
        unit=f"{env.reward_unit} per episode",
        n=total.size,
        level=level,
        seeds=policy.seeds,
        returns=tuple(means.tolist()),
        discounted=tuple(discounted.mean(axis=1).tolist()),
        overestimate=over,
        normalised=() if references is None else tuple(normalised_score(means, references).tolist()),
    )


def score_callback(make: MakeEnvironment, **options: Any) -> Callable[[NeuralPolicy], Mapping[str, Any]]:
    """For `fit(log, evaluate=...)`: mean return of every seed, as `mean_return`."""

    def evaluate(policy: NeuralPolicy) -> Mapping[str, Any]:
        total, _ = stacked_returns(policy, make, **options)
        return {"mean_return": total.mean(axis=1)}

    return evaluate
