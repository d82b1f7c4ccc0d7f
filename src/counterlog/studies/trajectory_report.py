"""Study of the report of trajectory logs: do its intervals hold, does it rank rightly, does it ever claim wrongly?

Whole reports are made on generated pendulum logs, where every learnt policy can be played for its true value. Three
logs: one in which a few good trajectories stand among many poor ones, one of a weak controller, and one so short that
little can be said. Policies are learnt anew from every log. No report sees the truth; the study holds it beside them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from counterlog.core.environments import episode_returns
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up
from counterlog.estimate.sharpe_ratio_at_k import spearman
from counterlog.report.trajectory_report import TrajectoryReportConfig, build_trajectories, default_gamma
from counterlog.report.trajectory_values import MAIN, ON_POLICY, SECOND
from counterlog.report.trajectory_verdict import barred_policies, claimed
from counterlog.report.wording import BASELINE

LONG, WEAK, SHORT = "mixed, 100 trajectories", "weak, 100 trajectories", "mixed, 16 trajectories"
LOGS: dict[str, tuple[str, int]] = {
    LONG: ("pendulum-mix", 20_000),
    WEAK: ("pendulum-weak", 20_000),
    SHORT: ("pendulum-mix", 3200),
}
FULL = TrajectoryReportConfig(steps=1000, starts=4000)
QUICK = TrajectoryReportConfig(
    steps=200, members=4, starts=300, hidden=(32, 32), learners=("bc", "bc-best"), batch=64
)
SEEDS = 6
TRUE_ROWS = 800_000
OWN = "the learner's critic"


def cell(name: str, config: TrajectoryReportConfig, rng: int) -> dict[str, Any]:
    """One report: what it said of every policy and pair, and the truth."""
    kind, rows = LOGS[name]
    log = pendulum_log(kind, rows, rng=rng)
    true_rows = TRUE_ROWS if config.starts >= FULL.starts else TRUE_ROWS // 10
    logged = float(pendulum_log(kind, true_rows, rng=10_000 + rng).returns(default_gamma(log)).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = build_trajectories(
            log, config, low=-2, high=2, simulator=Pendulum, truth={BASELINE: logged}, rng=rng
        )
    main = {e.policy: e for e in reversed(report.estimates)}
    stands = claimed(report.leads, barred_policies(main, report.policies)) if report.check.passed else []
    estimates = [
        {
            "policy": e.policy,
            "estimator": e.estimator,
            "value": e.value,
            "lo": e.lo,
            "hi": e.hi,
            "valid": e.valid,
            "true": report.truth[e.policy],
        }
        for e in report.estimates
    ]
    leads = [
        {
            "first": x.first,
            "second": x.second,
            "value": x.value,
            "lo": x.lo,
            "hi": x.hi,
            "true": x.true,
            "claimed": x in stands,
        }
        for x in report.leads
    ]
    return {
        "log": name,
        "rng": rng,
        "estimates": estimates,
        "leads": leads,
        "told": report.told_apart,
        "passed": report.check.passed,
        "claims": [
            {"value": p.claim, "true": report.truth[p.name]}
            for p in report.policies
            if math.isfinite(p.claim)
        ],
    }


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The tables and the claims."""
    from joblib import Parallel, delayed

    clock = Clock()
    jobs = [(name, s) for s in range(SEEDS if full else 1) for name in (LOGS if full else (SHORT,))]
    config = FULL if full else QUICK
    cells = Parallel(n_jobs=2 if full else 1)(delayed(cell)(name, config, 100 * rng + s) for name, s in jobs)
    tables = [
        Table(
            title="Values by estimator, against the truth",
            unit="reward per trajectory, discounted; coverage: share of the 95 % intervals that hold the truth",
            rows=tuple(estimator_rows(cells)),
        ),
        Table(
            title="Differences and claims",
            unit="reports, or pairs of policies; a claim is wrong when the true difference has the other sign",
            rows=tuple(claim_rows(cells)),
        ),
    ]
    if full:
        tables.append(
            Table(
                title="Marginal weights of two controllers by learner, on one mixed log",
                unit="reward per trajectory, discounted",
                rows=tuple(weight_rows(rng)),
            )
        )
    return Study(
        slug="trajectory-report",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per trajectory, discounted",
        n=SEEDS if full else 1,
        tables=tuple(tables),
        checks=tuple(checks(cells, full=full)),
        notes=(
            "Each report learns its own policies, one from each half of its log; the truth is both played, their mean.",
            f"True values: {config.starts:,} episodes a policy from common starts; a fresh log for what was done.",
            "Policies of one log share its trajectories: coverages count policies, and are less certain than "
            "their number says.",
            f"{OWN}: TD3+BC's own twin critics at the starts of the other half; it has no interval.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "torch"),
    )


def estimator_rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Error and coverage of every estimator on every log, and of the learners' own critics."""
    rows = []
    for name in dict.fromkeys(c["log"] for c in cells):
        mine = [c for c in cells if c["log"] == name]
        for estimator in (ON_POLICY, MAIN, *SECOND):
            found = [e for c in mine for e in c["estimates"] if e["estimator"] == estimator]
            ranks = [rank_agreement(c, estimator) for c in mine] if estimator != ON_POLICY else []
            rows.append(_row(name, estimator, found, ranks))
        claims = [x for c in mine for x in c["claims"]]
        if claims:
            rows.append(_row(name, OWN, claims, []))
    return rows


def _row(log: str, estimator: str, found: list[dict[str, Any]], ranks: list[float]) -> dict[str, Any]:
    error = np.array([e["value"] - e["true"] for e in found])
    held = [e["lo"] <= e["true"] <= e["hi"] for e in found if "lo" in e]
    return {
        "log": log,
        "estimator": estimator,
        "values": len(found),
        "mean error": float(error.mean()),
        "root mean square error": float(np.sqrt((error**2).mean())),
        "coverage": float(np.mean(held)) if held else None,
        "mean half-width": float(np.mean([(e["hi"] - e["lo"]) / 2 for e in found])) if held else None,
        "rank agreement": float(np.nanmean(ranks)) if ranks else None,
    }


def rank_agreement(c: dict[str, Any], estimator: str) -> float:
    """Spearman's correlation of estimates and truth over the learnt policies and what was done."""
    best = {e["policy"]: e for e in reversed(c["estimates"]) if e["estimator"] in (estimator, ON_POLICY)}
    return spearman([e["true"] for e in best.values()], [e["value"] for e in best.values()])


def claim_rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often reports claimed, and how often wrongly."""
    rows = []
    for name in dict.fromkeys(c["log"] for c in cells):
        mine = [c for c in cells if c["log"] == name]
        leads = [x for c in mine for x in c["leads"]]
        claims = [x for x in leads if x["claimed"]]
        rows.append(
            {
                "log": name,
                "reports": len(mine),
                "found a better policy": sum(c["told"] for c in mine),
                "refused by its own check": sum(not c["passed"] for c in mine),
                "pairs": len(leads),
                "coverage of differences": float(np.mean([x["lo"] <= x["true"] <= x["hi"] for x in leads])),
                "claims": len(claims),
                "wrong claims": sum(x["true"] <= 0 for x in claims),
                "wrong signs of all pairs": sum(x["true"] <= 0 for x in leads),
            }
        )
    return rows


class Controller:
    """The good controller of the simulator, scaled."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def act(self, states: Any) -> Any:
        """(n, 1) torques."""
        return swing_up(states, self.gain)


def weight_rows(rng: int) -> list[dict[str, Any]]:
    """Weighted and doubly robust values with weights from learnt features, and by descent and ascent."""
    from counterlog.estimate.neural_marginal_weights import (
        NeuralMarginalWeights,
        NeuralMarginalWeightsConfig,
        neural_estimates,
    )

    log, rows = pendulum_log("pendulum-mix", 20_000, rng=rng), []
    players: dict[str, Any] = {"good": Controller(1.0), "lazy": Controller(0.25)}
    true = {
        k: float(episode_returns(Pendulum(4000), p.act, gamma=0.97, rng=9)[1].mean())
        for k, p in players.items()
    }
    for learner in ("features", "bestdice"):
        c = NeuralMarginalWeightsConfig(gamma=0.97, learner=learner, members=4, steps=1000)
        pieces = NeuralMarginalWeights(c).fit(log, players, low=-2, high=2, rng=rng)
        rows += [
            {
                "learner": learner,
                "policy": e.policy,
                "estimator": e.estimator,
                "value": e.value,
                "lo": e.lo,
                "hi": e.hi,
                "true": true[e.policy],
                "effective trajectories": e.ess,
                "largest weight": float(pieces.weights.max()),
            }
            for e in neural_estimates(pieces, ("NMIS", "NDR"))
        ]
    return rows


def checks(cells: list[dict[str, Any]], *, full: bool) -> list[Check]:
    """What the report promises, against what happened."""
    leads = [x for c in cells for x in c["leads"]]
    claims = [x for x in leads if x["claimed"]]
    wrong = sum(x["true"] <= 0 for x in claims)
    made = [
        Check(
            claim="share of claims with the wrong sign",
            measured=wrong / max(1, len(claims)),
            bar="<= 0.05",
            passed=wrong <= 0.05 * len(claims),
            note=f"{wrong} of {len(claims)} claims",
        )
    ]
    if not full:
        return made

    def share(claim: str, values: list[bool], least: float, note: str = "") -> Check:
        measured = float(np.mean(values))
        return Check(claim=claim, measured=measured, bar=f">= {least:g}", passed=measured >= least, note=note)

    main = [e for c in cells for e in c["estimates"] if e["estimator"] in (MAIN, ON_POLICY)]
    long = [c for c in cells if c["log"] == LONG]
    short = [c for c in cells if c["log"] == SHORT]
    critics = [e for c in cells for e in c["estimates"] if e["policy"] == "td3-bc" and e["estimator"] == MAIN]
    errors = [abs(e["value"] - e["true"]) for e in critics]
    own = [abs(x["value"] - x["true"]) for c in cells for x in c["claims"]]
    ranks = float(np.nanmean([rank_agreement(c, MAIN) for c in long]))
    ratio = float(np.mean(own) / np.mean(errors))
    return [
        *made,
        share(
            "95 % intervals of values hold the truth, all logs",
            [e["lo"] <= e["true"] <= e["hi"] for e in main],
            0.9,
            f"{len(main)} values",
        ),
        share(
            "simultaneous intervals of differences hold the truth, all logs",
            [x["lo"] <= x["true"] <= x["hi"] for x in leads],
            0.95,
            f"{len(leads)} pairs",
        ),
        share("mixed log: a better policy is found", [c["told"] for c in long], 2 / 3),
        share("short log: the report says that it cannot tell", [not c["told"] for c in short], 2 / 3),
        Check(
            claim="mixed log: rank agreement of NDR with the truth",
            measured=ranks,
            bar=">= 0.9",
            passed=ranks >= 0.9,
        ),
        Check(
            claim="error of TD3+BC's own critic over that of NDR about the same policies",
            measured=ratio,
            bar=">= 3",
            passed=ratio >= 3,
        ),
    ]
