"""The Open Bandit sample: what one logger's rows say of the other logger, beside what that one really earned.

Six pairs: the Thompson policy valued on the uniform-random log and the uniform policy on the Thompson log,
in three campaigns. Truth is the mean of the other log, itself known only to the width of its own interval.
There are 38 to 69 clicks a log, so the intervals are wide, and six pairs cannot prove a coverage; the study
shows what can be had.
"""

from __future__ import annotations

import math
from typing import Any

from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Policy, Uniform
from counterlog.core.results import Estimate
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.examples import CAMPAIGNS, Thompson, open_bandit

ESTIMATORS = ("IPS", "SNIPS", "DR", "SNDR")
LEVEL = 0.95


def run(*, full: bool = False, rng: int = 0) -> Study:
    """All six pairs in both modes; it takes seconds. `rng` seeds the folds of the reward model."""
    clock, rows = Clock(), []
    for campaign in CAMPAIGNS:
        thompson = Thompson(campaign)
        uniform = evaluate(open_bandit(campaign, "random"), ["logged"], ["IPS"], segments=False).estimates[0]
        rows += _pair(campaign, "random", thompson, thompson.earned(level=LEVEL), rng)
        rows += _pair(campaign, "bts", Uniform(), uniform, rng)
    trusted = [r for r in rows if r["valid"]]
    agree = [r for r in trusted if r["difference covers 0"]]
    narrowest = min(trusted, key=lambda r: r["half width / truth"])
    checks = (
        Check(
            claim="where the interval is called valid, estimate and the other log's own mean agree within noise",
            measured=len(agree) / len(trusted),
            bar="all but 1 in 20",
            passed=len(agree) >= 0.95 * len(trusted) - 1,
            note=f"{len(agree)} of {len(trusted)} rows; they share logs, so this is no coverage experiment",
        ),
        Check(
            claim="an interval from these samples is wide: the narrowest half width over the true rate",
            measured=narrowest["half width / truth"],
            bar="at least 0.25",
            passed=narrowest["half width / truth"] >= 0.25,
            note=f"{narrowest['campaign']}, {narrowest['estimator']}",
        ),
        Check(
            claim="the uniform policy on the women's Thompson log is refused trust (weights up to a million)",
            measured=float(sum(r["valid"] for r in rows if r["campaign"] == "women" and r["log"] == "bts")),
            bar="no estimator valid",
            passed=not any(
                r["valid"]
                for r in rows
                if r["campaign"] == "women" and r["log"] == "bts" and r["estimator"] in ("IPS", "SNIPS")
            ),
        ),
    )
    return Study(
        slug="open-bandit",
        mode="full" if full else "quick",
        rng=rng,
        unit="clicks per impression",
        n=len(rows),
        tables=(
            Table(
                title="One logger's rows, the other logger's value",
                rows=tuple(rows),
                unit="clicks per impression",
            ),
        ),
        checks=checks,
        notes=(
            "The Thompson policy is estimated by item shares a position; it kept learning, so this is its average.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "polars", "scikit-learn"),
    )


def _pair(campaign: str, logger: str, policy: Policy, truth: Estimate, rng: int) -> list[dict[str, Any]]:
    log = open_bandit(campaign, logger)
    found = evaluate(log, [policy], ESTIMATORS, model="linear", segments=False, level=LEVEL, rng=rng)
    rows = []
    for e in found.estimates:
        spread = math.hypot(e.se, truth.se)
        rows.append(
            {
                "campaign": campaign,
                "log": logger,
                "policy": policy.name,
                "estimator": e.estimator,
                "clicks": int(log.reward.sum()),
                "estimate": e.value,
                "lo": e.lo,
                "hi": e.hi,
                "its own log": truth.value,
                "own lo": truth.lo,
                "own hi": truth.hi,
                "difference covers 0": bool(abs(e.value - truth.value) <= 1.96 * spread),
                "half width / truth": (e.hi - e.lo) / 2 / truth.value,
                "effective rows": e.ess,
                "valid": e.valid,
                "reason": e.reason,
            }
        )
    return rows
