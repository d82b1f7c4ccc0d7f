"""Study of A2PR: pull to the better of the logged and a proposed action, on logs that are mostly poor.

Three logs of a pendulum. In `pendulum-eps` a good controller has seven tenths of its actions replaced by uniform ones,
in `pendulum-mix` nine tenths of the episodes are uniform: copying the row's own action copies noise, and a row without
an advantage should not pull at all. In `pendulum-weak` nine tenths come from one narrow weak controller, and advantages
of actions that nobody tried are guesses. A log of the good controller alone shows how many rows go unguided when there
is nothing to improve. All learners have one budget and play the same starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.environments import episode_returns, record_episodes
from counterlog.core.episodes import Episodes
from counterlog.core.rl_evaluation import iqm_interval, stacked_returns
from counterlog.core.stacked_learner import OfflineLearner
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.pendulum import Pendulum, controller, pendulum_log, swing_up
from counterlog.learn.a2pr import A2PR, A2PRConfig
from counterlog.learn.bc import BC, BCConfig
from counterlog.learn.cql import CQL, CQLConfig
from counterlog.learn.iql import IQL, IQLConfig
from counterlog.learn.prdc import PRDC, PRDCConfig
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

GAMMA, STARTS, START_RNG = 0.97, 20, 1000
MIX, EPS, WEAK, GOOD = "pendulum-mix", "pendulum-eps", "pendulum-weak", "good controller alone"
OURS, OWN_ROW, TIED = "A2PR", "A2PR, logged actions only", "TD3+BC, alpha 2.5"
CLONE, NEAR, EXPECTILE, CAUTIOUS = "BC", "PRDC, beta 2", "IQL", "CQL, n 2"
FULL: dict[str, Any] = {
    "hidden": (64, 64),
    "batch": 64,
    "steps": 4000,
    "seeds": 5,
    "gamma": GAMMA,
    "lr": 1e-3,
    "tau": 0.01,
}
QUICK: dict[str, Any] = {**FULL, "steps": 2500, "seeds": 2}
FEWER_SEEDS, COSTLY_SEEDS = 3, 2  # of cells that no claim is about; of the slowest of them
CELLS = [
    (EPS, OURS), (MIX, OURS), (WEAK, OURS), (EPS, CAUTIOUS), (EPS, OWN_ROW), (EPS, TIED), (MIX, TIED), (GOOD, OURS),
    (EPS, NEAR), (MIX, NEAR), (EPS, EXPECTILE), (WEAK, TIED), (EPS, CLONE),
]  # fmt: skip
COSTLY = ((EPS, CAUTIOUS),)
QUICK_CELLS = [(EPS, OURS), (EPS, TIED)]
SHARES = ("positive_share", "guided_proposed", "guided_logged", "unguided")


def learner(method: str, settings: dict[str, Any]) -> OfflineLearner:
    """The learner of that name; critics as wide as the policy, the VAE twice."""
    width = settings["hidden"][0]
    own = {"critic_hidden": settings["hidden"], "vae_hidden": (2 * width, 2 * width)}
    if method == OURS:
        return A2PR(A2PRConfig(**own, **settings))
    if method == OWN_ROW:
        return A2PR(A2PRConfig(guide="data", **own, **settings))
    if method == TIED:
        return TD3BC(TD3BCConfig(**settings))
    others: dict[str, OfflineLearner] = {
        CLONE: BC(BCConfig(**{k: v for k, v in settings.items() if k != "tau"})),
        NEAR: PRDC(PRDCConfig(beta=2.0, **settings)),
        EXPECTILE: IQL(IQLConfig(**settings)),
        CAUTIOUS: CQL(CQLConfig(samples=2, policy_lr=settings["lr"], **settings)),
    }
    return others[method]


def named_log(name: str, rng: int) -> Episodes:
    """A log of 20,000 steps."""
    if name == GOOD:
        return record_episodes(Pendulum(100), controller(), rng=rng)
    return pendulum_log(name, rng=rng)


def cell(name: str, method: str, settings: dict[str, Any], rng: int) -> dict[str, Any]:
    """One learner on one log: the return of every seed from the same starts, its overestimate, its shares of guides."""
    import warnings

    import torch

    from counterlog.core.episodes import EpisodeWarning

    made = learner(method, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisodeWarning)  # shares near 0 or 1 are part of what is shown
        policy = made.fit(named_log(name, rng), rng=100 * rng, low=Pendulum.low, high=Pendulum.high)
    total, discounted = stacked_returns(policy, Pendulum, starts=STARTS, gamma=GAMMA, rng=START_RNG)
    found: dict[str, Any] = {"log": name, "method": method, "last": total.mean(axis=1).tolist()}
    if isinstance(made, TD3BC):
        scaled = policy.scale.transform(np.tile(Pendulum(STARTS).reset(START_RNG), (len(total), 1, 1)))
        with torch.no_grad():
            state = torch.from_numpy(scaled)
            claimed = made.critic.least(state, made.actor.mode(state)).numpy()
        found["overestimate"] = float((claimed - discounted).mean())
    if isinstance(made, A2PR):
        half = settings["steps"] // 2
        for share in SHARES:
            known = any(share in r for r in policy.report.metrics)  # type: ignore[union-attr]
            curves = policy.report.curve(share) if known else {}  # type: ignore[union-attr]
            late = [v for points in curves.values() for step, v in points if step > half]
            found[share] = float(np.mean(late)) if late else None
    return found


def seeds_of(c: tuple[str, str]) -> int:
    """Seeds of a cell of the full study: all for the claims, fewer for what stands beside them."""
    if c in COSTLY:
        return COSTLY_SEEDS
    claimed = c[0] in (EPS, MIX) and c[1] in (OURS, OWN_ROW, TIED)
    return int(FULL["seeds"]) if claimed else FEWER_SEEDS


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Returns on the logs, where targets came from, and the claims."""
    from joblib import Parallel, delayed

    clock, settings = Clock(), FULL if full else QUICK
    jobs = [
        (*c, {**settings, "seeds": seeds_of(c)} if full else settings)
        for c in (CELLS if full else QUICK_CELLS)
    ]
    cells = Parallel(n_jobs=2 if full else 1)(delayed(cell)(*job, rng) for job in jobs)
    found = {(c["log"], c["method"]): c for c in cells}
    good, _ = episode_returns(Pendulum(STARTS), swing_up, rng=START_RNG)
    return Study(
        slug="a2pr",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per episode",
        n=int(settings["seeds"]),
        tables=(
            Table(
                title=f"Return of {STARTS} episodes from the same starts, {settings['steps']:,} updates",
                unit="reward per episode; interquartile mean over seeds with 95 % interval; overestimate: of Q at the "
                "starts, discounted reward",
                rows=tuple(row(c, rng) for c in sorted(cells, key=lambda c: c["log"])),
            ),
            Table(
                title="Where targets came from, second half of training",
                unit="share of rows in [0, 1]",
                rows=tuple(
                    {"log": c["log"], "learner": c["method"], **{s: c[s] for s in SHARES}}
                    for c in cells
                    if SHARES[0] in c
                ),
            ),
            Table(
                title="The good controller", unit="reward per episode", rows=({"return": float(good.mean())},)
            ),
        ),
        checks=tuple(claims(found, full=full)),
        notes=(
            f"{settings['steps']:,} updates of {settings['batch']} rows, step size {settings['lr']:g}; "
            "the paper: 1e6 of 256, 3e-4.",
            "Cells that no claim is about have 2 or 3 seeds; CQL draws 2 actions of each kind a row.",
            "The studies offline-baselines and prdc have IQL, CQL and PRDC on the other logs, with another budget.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scipy", "torch"),
    )


def row(c: dict[str, Any], rng: int) -> dict[str, Any]:
    """A learner's return with its interval."""
    value, low, high = iqm_interval(c["last"], rng=rng)
    return {
        "log": c["log"],
        "learner": c["method"],
        "last": value,
        "low": low,
        "high": high,
        "seeds": len(c["last"]),
        "overestimate": c.get("overestimate"),
    }


def claims(found: dict[tuple[str, str], dict[str, Any]], *, full: bool) -> list[Check]:
    """Differences of mean returns, paired by seed, and the order of shares."""

    def gain(log: str, a: str, b: str) -> float:
        return float(np.mean(np.subtract(found[log, a]["last"], found[log, b]["last"])))

    def least(claim: str, measured: float, bar: float) -> Check:
        return Check(claim=claim, measured=measured, bar=f">= {bar:g}", passed=measured >= bar)

    if not full:
        return [least("noisy controller's log: A2PR over TD3+BC", gain(EPS, OURS, TIED), 100.0)]
    idle = found[MIX, OURS]["unguided"] - found[GOOD, OURS]["unguided"]
    return [
        least("noisy controller's log: A2PR over TD3+BC", gain(EPS, OURS, TIED), 250.0),
        least("mixed log: A2PR over TD3+BC", gain(MIX, OURS, TIED), 250.0),
        least(
            "noisy controller's log: A2PR over A2PR with logged actions only", gain(EPS, OURS, OWN_ROW), 0.0
        ),
        least(
            "noisy controller's log: A2PR with logged actions only over TD3+BC", gain(EPS, OWN_ROW, TIED), 0.0
        ),
        least("more rows go unguided on the mixed log than on the good controller's", idle, 0.0),
    ]
