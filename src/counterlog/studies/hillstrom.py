"""The Hillstrom e-mail experiment: is a learnt targeting policy better than the best single e-mail?

64,000 customers, three actions drawn uniformly. The value of one action is the mean of its arm, so
estimates can be checked exactly. The learnt policy is cross-fitted (each customer's action comes from a
model that never saw the customer), and it is compared with the best fixed action, also chosen out of fold,
by the paired difference of their doubly robust values.
"""

from __future__ import annotations

from typing import Any

from counterlog.core.crossfit import reward_model
from counterlog.core.derive import difference
from counterlog.core.evaluate import Evaluation, evaluate
from counterlog.core.policies import Always, Policy, Table, best_fixed
from counterlog.core.study import Check, Clock, Study, versions
from counterlog.core.study import Table as StudyTable
from counterlog.datasets.examples import hillstrom
from counterlog.learn.softmax_policy import SoftmaxLearnerConfig, crossfit_policy

REWARDS = ("visit", "conversion", "spend")


def run(*, full: bool = False, rng: int = 0) -> Study:
    """All three rewards in full; visits alone in quick mode."""
    clock, log = Clock(), hillstrom(segment=())
    rewards = REWARDS if full else REWARDS[:1]
    values: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    worst = 0.0
    for reward in rewards:
        view = log.with_reward(reward)
        q = {reward: reward_model(view, model="linear", rng=rng)}
        learnt = crossfit_policy(view, SoftmaxLearnerConfig(), folds=3, rng=rng)[0]
        policies: list[Policy] = [Always(a) for a in log.actions]
        policies += [Table("best-fixed", best_fixed(view, rng=rng).matrix), Table("learnt", learnt.matrix)]
        found = evaluate(log, policies, ["SNIPS", "DR"], rewards=[reward], q=q, rng=rng)
        for e in found.estimates:
            names = ("policy", "estimator", "reward", "value", "lo", "hi", "unit", "ess")
            values.append({name: getattr(e, name) for name in names})
        for a in log.actions:
            arm = float(view.reward[log.action == log.actions.index(a)].mean())
            worst = max(worst, abs(found.find(f"always:{a}", "SNIPS", reward=reward).value / arm - 1))
        gaps.append(_gap(found, reward))
    checks = (
        Check(
            claim="the SNIPS value of always one e-mail is the mean of its arm, largest relative error",
            measured=worst,
            bar="below 1e-12",
            passed=worst < 1e-12,
        ),
        Check(
            claim="e-mail targeting learnt from the log is no worse than the best single e-mail on any reward",
            measured=min(g["hi"] for g in gaps),
            bar="no interval of the difference lies below 0",
            passed=min(g["hi"] for g in gaps) >= 0,
            note="; ".join(
                f"{g['reward']}: {g['learnt minus best-fixed']:+.5f} [{g['lo']:+.5f}, {g['hi']:+.5f}] {g['unit']}"
                for g in gaps
            ),
        ),
    )
    return Study(
        slug="hillstrom",
        mode="full" if full else "quick",
        rng=rng,
        unit="per customer",
        n=log.n,
        tables=(
            StudyTable(title="Values", rows=tuple(values), unit="per customer"),
            StudyTable(
                title="Learnt policy minus best single e-mail, paired", rows=tuple(gaps), unit="per customer"
            ),
        ),
        checks=checks,
        notes=(
            "An interval that holds 0 means that this log does not show targeting to beat one e-mail for all.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "polars", "scikit-learn"),
    )


def _gap(found: Evaluation, reward: str) -> dict[str, Any]:
    """The paired doubly robust difference between the learnt policy and the best fixed action."""
    cells = {c.policy: c for c in found.table.cells if c.estimator == "DR"}
    gap, interval = difference(found.table, cells["learnt"], cells["best-fixed"])
    return {
        "reward": reward,
        "learnt minus best-fixed": gap,
        "lo": interval.lo,
        "hi": interval.hi,
        "se": interval.se,
        "unit": cells["learnt"].unit,
    }
