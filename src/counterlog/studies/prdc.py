"""Study of PRDC: borrowing a good action from a similar state, on logs that are mostly poor.

Three logs of a pendulum. In `pendulum-mix` and `pendulum-eps` most actions are uniform, so that the pull of TD3+BC to
the row's own action copies noise; the nearest pair may be a good action nearby. In `pendulum-weak` nine tenths come
from one narrow weak controller: there a constraint is what keeps the critic honest. On the mixed log beta is swept:
with a large one the nearest pair is the row itself and PRDC is TD3+BC.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.environments import episode_returns
from counterlog.core.rl_evaluation import iqm_interval, stacked_returns
from counterlog.core.stacked_learner import OfflineLearner
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up
from counterlog.learn.bc import BC, BCConfig
from counterlog.learn.prdc import PRDC, PRDCConfig
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

GAMMA, STARTS, START_RNG = 0.97, 20, 1000
MIX, EPS, WEAK = "pendulum-mix", "pendulum-eps", "pendulum-weak"
CLONE, TIED, FREE, OURS = "BC", "TD3+BC, alpha 2.5", "TD3, no constraint", "PRDC, beta 2"
FULL: dict[str, Any] = {"hidden": (64, 64), "batch": 128, "steps": 8000, "seeds": 5, "gamma": GAMMA}
SWEPT_SEEDS = 3
QUICK: dict[str, Any] = {
    "hidden": (64, 64),
    "batch": 64,
    "steps": 2500,
    "seeds": 2,
    "gamma": GAMMA,
    "lr": 1e-3,
    "tau": 0.01,
}
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0)
LARGE = 100.0
CELLS = [(log, method) for log in (MIX, EPS, WEAK) for method in (CLONE, TIED, FREE, OURS)]


def learner(method: str, settings: dict[str, Any]) -> OfflineLearner:
    """The learner of that name."""
    if method == CLONE:
        return BC(BCConfig(**settings))
    if method in (TIED, FREE):
        return TD3BC(TD3BCConfig(constraint=method == TIED, **settings))
    return PRDC(PRDCConfig(beta=float(method.split()[-1]), **settings))


def cell(name: str, method: str, settings: dict[str, Any], rng: int) -> dict[str, Any]:
    """One learner on one log: the return of every seed from the same starts, and where its neighbours were."""
    import warnings

    from counterlog.core.episodes import EpisodeWarning

    made = learner(method, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisodeWarning)  # a large beta is warned of; here it is the point
        policy = made.fit(pendulum_log(name, rng=rng), rng=100 * rng, low=Pendulum.low, high=Pendulum.high)
    total, _ = stacked_returns(policy, Pendulum, starts=STARTS, gamma=GAMMA, rng=START_RNG)
    found: dict[str, Any] = {"log": name, "method": method, "last": total.mean(axis=1).tolist()}
    for metric in ("self_match", "distance_median", "distance_95"):
        known = isinstance(made, PRDC)
        found[metric] = float(np.mean(policy.report.last(metric))) if known else None  # type: ignore[union-attr]
    return found


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Returns on three logs, the sweep of beta, and the claims."""
    from joblib import Parallel, delayed

    clock, settings = Clock(), FULL if full else QUICK
    sweep = [f"PRDC, beta {b:g}" for b in (BETAS if full else (2.0, LARGE))]
    few = {**settings, "seeds": SWEPT_SEEDS} if full else settings
    jobs = [(*c, settings) for c in CELLS] if full else []
    jobs += [(MIX, m, few) for m in sweep if not (full and m == OURS)]
    cells = Parallel(n_jobs=2 if full else 1)(delayed(cell)(*job, rng) for job in jobs)
    found = {(c["log"], c["method"]): c for c in cells}
    logs = (MIX, EPS, WEAK) if full else (MIX,)
    table = [row(found[key], rng) for key in CELLS if key in found]
    swept = [
        {"beta": float(m.split()[-1]), **row(found[MIX, m], rng), **_neighbours(found[MIX, m])} for m in sweep
    ]
    return Study(
        slug="prdc",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per episode",
        n=int(settings["seeds"]),
        tables=(
            Table(
                title=f"Return of {STARTS} episodes from the same starts, {settings['steps']:,} updates",
                unit="reward per episode; interquartile mean over seeds with 95 % interval",
                rows=tuple(table),
            ),
            Table(
                title="Mixed log: beta, and how often the nearest pair is the row itself",
                unit="return: reward per episode; distances: half-ranges of the action; shares in [0, 1], last batch",
                rows=tuple(swept),
            ),
            Table(
                title="PRDC's neighbours with beta 2",
                unit="as above",
                rows=tuple(
                    {"log": log, **_neighbours(found[log, OURS])} for log in logs if (log, OURS) in found
                ),
            ),
            Table(title="The good controller", unit="reward per episode", rows=(controller_row(),)),
        ),
        checks=tuple(claims(found, sweep, full=full)),
        notes=(
            f"{settings['steps']:,} updates, {settings['seeds']} seeds a cell ({few['seeds']} in the sweep of beta); "
            "the paper's budget is 1e6.",
            "TD3 without constraint is shown beside it: where the log covers the actions, no constraint is needed.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scipy", "torch"),
    )


def row(c: dict[str, Any], rng: int) -> dict[str, Any]:
    """A learner's return with its interval."""
    value, low, high = iqm_interval(c["last"], rng=rng)
    return {"log": c["log"], "learner": c["method"], "last": value, "low": low, "high": high}


def _neighbours(c: dict[str, Any]) -> dict[str, Any]:
    return {k: c[k] for k in ("self_match", "distance_median", "distance_95")}


def controller_row() -> dict[str, Any]:
    """The mean return of the controller that made the good part of the logs, from the study's starts."""
    good, _ = episode_returns(Pendulum(STARTS), swing_up, rng=START_RNG)
    return {"return": float(good.mean())}


def claims(found: dict[tuple[str, str], dict[str, Any]], sweep: list[str], *, full: bool) -> list[Check]:
    """Differences of mean returns, paired by seed, and the order of self-matches."""

    def gain(log: str, a: str, b: str) -> float:
        pairs = zip(found[log, a]["last"], found[log, b]["last"], strict=False)  # the sweep has fewer seeds
        return float(np.mean([x - y for x, y in pairs]))

    def least(claim: str, measured: float, bar: float) -> Check:
        return Check(claim=claim, measured=measured, bar=f">= {bar:g}", passed=measured >= bar)

    matches = [found[MIX, m]["self_match"] for m in sweep]
    rising = float(np.diff(matches).min())
    checks = [
        least("the share of self-matches rises with beta (smallest step)", rising, 0.0),
    ]
    if not full:
        return [*checks, least("mixed log: beta 2 over beta 100", gain(MIX, OURS, sweep[-1]), 100.0)]
    apart, largest = abs(gain(MIX, sweep[-1], TIED)), f"beta {BETAS[-1]:g}"
    return [
        *checks,
        least("mixed log: PRDC over TD3+BC", gain(MIX, OURS, TIED), 300.0),
        least("noisy controller's log: PRDC over TD3+BC", gain(EPS, OURS, TIED), 300.0),
        least("weak log: PRDC over TD3 without constraint", gain(WEAK, OURS, FREE), 200.0),
        least(f"mixed log: share of self-matches at {largest}", matches[-1], 0.9),
        Check(
            claim=f"mixed log: PRDC at {largest} is within this of TD3+BC",
            measured=apart,
            bar="<= 150",
            passed=apart <= 150,
        ),
    ]
