"""Study of the base learners from a fixed log: what a log of mostly poor actions does to each of them.

Two logs of a pendulum. In `pendulum-mix` nine tenths of the actions are uniform: an exact anchor to the log copies
them, and a learner that trusts its critic wins. In `pendulum-weak` nine tenths come from one narrow weak controller: a
critic is believed where nobody acted, and a learner without an anchor falls. All learners have one budget and play the
same starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.environments import episode_returns
from counterlog.core.rl_evaluation import iqm_interval, score_callback, stacked_returns
from counterlog.core.stacked_learner import OfflineLearner
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up
from counterlog.learn.bc import BC, BCConfig
from counterlog.learn.cql import CQL, CQLConfig
from counterlog.learn.iql import IQL, IQLConfig
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

GAMMA, STARTS, START_RNG = 0.97, 20, 1000
LOGS = ("pendulum-mix", "pendulum-weak")
FULL: dict[str, Any] = {"hidden": (64, 64), "batch": 128, "steps": 8000, "seeds": 5, "gamma": GAMMA}
QUICK: dict[str, Any] = {
    "hidden": (32, 32),
    "batch": 64,
    "steps": 1500,
    "seeds": 2,
    "gamma": GAMMA,
    "lr": 1e-3,
}
EVERY = 1000
OVER = (TD3BC, CQL)


def learners(settings: dict[str, Any], *, full: bool) -> dict[str, OfflineLearner]:
    """The learners by name; a quick run has four."""
    few: dict[str, OfflineLearner] = {
        "BC": BC(BCConfig(**settings)),
        "BC, best 10 %": BC(BCConfig(share=0.1, **settings)),
        "TD3+BC, alpha 2.5": TD3BC(TD3BCConfig(**settings)),
        "TD3, no constraint": TD3BC(TD3BCConfig(constraint=False, **settings)),
    }
    if not full:
        return few
    return {
        **few,
        "TD3+BC, alpha 20": TD3BC(TD3BCConfig(alpha=20.0, **settings)),
        "IQL": IQL(IQLConfig(**settings)),
        "CQL, n 2": CQL(CQLConfig(samples=2, policy_lr=3e-4, **settings)),
    }


def cell(name: str, method: str, settings: dict[str, Any], full: bool, rng: int) -> dict[str, Any]:
    """One learner on one log: returns of the last and of the best checkpoint of every seed, and the overestimate."""
    import torch

    learner = learners(settings, full=full)[method]
    low, high = Pendulum.low, Pendulum.high
    evaluate = score_callback(Pendulum, starts=STARTS, rng=START_RNG)
    policy = learner.fit(
        pendulum_log(name, rng=rng),
        rng=100 * rng,
        low=low,
        high=high,
        evaluate=evaluate,
        evaluate_every=EVERY,
    )
    total, discounted = stacked_returns(policy, Pendulum, starts=STARTS, gamma=GAMMA, rng=START_RNG)
    row: dict[str, Any] = {
        "log": name,
        "method": method,
        "last": total.mean(axis=1).tolist(),
        "best": policy.report.best("mean_return"),  # type: ignore[union-attr]
        "overestimate": None,
    }
    if isinstance(learner, OVER):
        start = policy.scale.transform(np.tile(Pendulum(STARTS).reset(START_RNG), (len(total), 1, 1)))
        with torch.no_grad():
            state = torch.from_numpy(start)
            claimed = learner.critic.least(state, learner.actor.mode(state)).numpy()
        row["overestimate"] = float((claimed - discounted).mean())
    return row


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The table of returns and the claims."""
    from joblib import Parallel, delayed

    clock, settings = Clock(), FULL if full else QUICK
    names = LOGS if full else LOGS[1:]
    jobs = [(name, method, settings, full, rng) for name in names for method in learners(settings, full=full)]
    workers = 2 if full else 1
    cells = Parallel(n_jobs=workers)(delayed(cell)(*job) for job in jobs)
    found = {(c["log"], c["method"]): c for c in cells}
    rows = []
    for (name, method), c in found.items():
        value, low, high = iqm_interval(c["last"], rng=rng)
        rows.append(
            {
                "log": name,
                "learner": method,
                "last": value,
                "low": low,
                "high": high,
                "best": float(np.mean(c["best"])),
                "overestimate": c["overestimate"],
            }
        )
    return Study(
        slug="offline-baselines",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per episode",
        n=int(settings["seeds"]),
        tables=(
            Table(
                title=f"Return of {STARTS} episodes from the same starts, {settings['steps']:,} updates",
                unit="reward per episode; last: interquartile mean over seeds with 95 % interval; best: mean of best",
                rows=tuple(rows),
            ),
            Table(title="What the logs hold", unit="reward per episode", rows=tuple(map(log_row, names))),
        ),
        checks=tuple(claims(found, full=full)),
        notes=(
            "The best checkpoint can be chosen with a simulator only; it is never the result.",
            "overestimate: Q(s, pi(s)) at the starts minus the realised discounted return, mean over seeds.",
            "CQL draws n = 2 actions of each kind a row, not the paper's 10: ten would take the time of all others.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "torch"),
    )


def log_row(name: str) -> dict[str, Any]:
    """Mean returns of the two kinds of episodes in a log, and of the good controller from the study's starts."""
    log = pendulum_log(name)
    returns = log.returns()
    poor = round(0.9 * log.n)
    good, _ = episode_returns(Pendulum(STARTS), swing_up, rng=START_RNG)
    return {
        "log": name,
        "nine tenths": float(returns[:poor].mean()),
        "one tenth": float(returns[poor:].mean()),
        "good controller, same starts": float(good.mean()),
    }


def claims(found: dict[tuple[str, str], dict[str, Any]], *, full: bool) -> list[Check]:
    """Differences of mean last returns, paired by seed."""
    mix, weak = LOGS

    def gain(log: str, a: str, b: str) -> float:
        return float(np.mean(np.subtract(found[log, a]["last"], found[log, b]["last"])))

    def check(claim: str, measured: float, least: float) -> Check:
        return Check(claim=claim, measured=measured, bar=f">= {least:g}", passed=measured >= least)

    free, tied, clone = "TD3, no constraint", "TD3+BC, alpha 2.5", "BC"
    checks = [
        check("weak log: TD3+BC keeps this much over TD3 without constraint", gain(weak, tied, free), 200.0),
    ]
    if full:
        checks += [
            check("mixed log: TD3 without constraint over BC", gain(mix, free, clone), 500.0),
            check(
                "mixed log: TD3+BC with alpha 20 over alpha 2.5", gain(mix, "TD3+BC, alpha 20", tied), 300.0
            ),
            check("mixed log: BC of the best tenth over BC of all", gain(mix, "BC, best 10 %", clone), 300.0),
            check(
                "weak log: TD3 without constraint believes this much more of its starts than TD3+BC",
                float(found[weak, free]["overestimate"] - found[weak, tied]["overestimate"]),
                10.0,
            ),
        ]
    return checks
