"""How often does the audit alarm on a clean log, and how often does each check find its defect?

World       5,000 decisions over 10 days, context x (number), c (three categories), z (0/1), reward 0/1 with mean
            0.1 + 0.1 1{action 1} + 0.05 z. Logging: uniform over 4 actions; a fixed 70:10:10:10 split; softmax in x;
            adaptive (the shares of 20 actions are redrawn every day from a sparse Dirichlet, floor 1e-4).
Defects     one at a time, planted in the uniform log unless its name says otherwise.
Baseline    the usual z test of every action's mean weight against 1 (Bonferroni), which the betting test replaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import beta, norm

from counterlog.audit.decision_log import audit
from counterlog.audit.propensity_calibration import PropensityCalibration
from counterlog.core.policies import Always, Policy
from counterlog.core.policies import Table as PolicyTable
from counterlog.core.results import SEVERITIES
from counterlog.core.rounds import Rounds
from counterlog.core.study import Check, Clock, Study, Table, versions

DAY = 86_400 * 1_000_000
LOGGING = ("uniform", "split", "softmax", "adaptive")
Columns = dict[str, Any]


def logging_matrix(kind: str, x: NDArray[Any], day: NDArray[Any], gen: np.random.Generator) -> NDArray[Any]:
    """(n, actions) logging probabilities of the world."""
    if kind == "uniform":
        return np.full((len(x), 4), 0.25)
    if kind == "split":
        return np.tile([0.7, 0.1, 0.1, 0.1], (len(x), 1))
    if kind == "softmax":
        odds = np.exp(np.outer(x, np.linspace(-1, 1, 4)))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))
    shares = np.maximum(gen.dirichlet(np.full(20, 0.3), size=int(day.max()) + 1), 1e-4)
    return np.asarray((shares / shares.sum(axis=1, keepdims=True))[day])


def clean_columns(n: int, rng: int, kind: str = "uniform") -> Columns:
    """The columns of a clean log."""
    gen = np.random.default_rng(rng)
    when = np.sort(gen.random(n)) * 10
    columns: Columns = {"x": gen.normal(size=n), "c": gen.choice(list("abc"), n), "z": gen.integers(0, 2, n)}
    chance = logging_matrix(kind, columns["x"], when.astype(int), gen)
    draw = (chance.cumsum(axis=1) > gen.random((n, 1))).argmax(axis=1)
    columns["a"], columns["p"] = draw, chance[np.arange(n), draw]
    columns["y"] = (gen.random(n) < 0.1 + 0.1 * (draw == 1) + 0.05 * columns["z"]).astype(float)
    columns["t"] = np.datetime64("2026-01-01", "us") + (when * DAY).astype("timedelta64[us]")
    return columns


def as_log(columns: Columns, **roles: Any) -> Rounds:
    """The columns as a log, with further roles."""
    named = {"propensity": "p", "context": ["x", "c", "z"], "segment": "c", "time": "t", **roles}
    return Rounds(pl.DataFrame(columns), action="a", reward="y", **named)


@dataclass(frozen=True)
class Defect:
    """A planted defect: how it is made, and the check and least severity that must report it."""

    make: Callable[[int, int], Rounds]
    check: str
    severity: str = "warning"
    policies: Callable[[Rounds], tuple[Policy | str, ...]] = field(default=lambda log: ())


def _edit(
    change: Callable[[Columns, np.random.Generator], Columns], kind: str = "uniform", **roles: Any
) -> Any:
    """A defect that changes the columns of a clean log."""

    def make(n: int, rng: int) -> Rounds:
        return as_log(change(clean_columns(n, rng, kind), np.random.default_rng([rng, 7])), **roles)

    return make


def _redraw(columns: Columns, rows: NDArray[Any], shares: list[float], gen: np.random.Generator) -> Columns:
    """The actions of `rows` drawn with `shares`; the propensities stay as they were."""
    action = columns["a"].copy()
    action[rows] = gen.choice(len(shares), size=int(rows.sum()), p=shares)
    return {**columns, "a": action, "p": np.full(len(action), 0.25)}


def _keep(columns: Columns, rows: NDArray[Any]) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _policy_change(n: int, rng: int) -> Rounds:
    columns, gen = clean_columns(n, rng), np.random.default_rng([rng, 7])
    late, shares = np.arange(n) >= 0.6 * n, np.array([0.4, 0.3, 0.2, 0.1])
    changed = _redraw(columns, late, list(shares), gen)
    return as_log({**changed, "p": np.where(late, shares[changed["a"]], 0.25)})


def _last_day(c: Columns, gen: np.random.Generator) -> Columns:
    last = (c["t"] - c["t"][0]).astype("int64") >= 9 * DAY
    return {**c, "y": np.where(last & (gen.random(len(last)) < 0.7), 0.0, c["y"])}


def _open_delays(c: Columns, gen: np.random.Generator) -> Columns:
    delay = gen.exponential(0.2, len(c["a"])) * 86_400
    age = (c["t"].max() - c["t"]).astype("int64") / 1e6
    return {**c, "d": [float(d) if d <= g else None for d, g in zip(delay, age, strict=True)]}


def _near_action_zero(log: Rounds) -> tuple[Policy, ...]:
    matrix = np.full((log.n, len(log.actions)), 0.002 / (len(log.actions) - 1))
    matrix[:, np.argmin(np.bincount(log.action))] = 0.998
    return (PolicyTable("rarest action", matrix),)


def _unlogged(c: Columns, gen: np.random.Generator) -> Columns:
    c = _keep(c, c["a"] != 3)
    return {**c, "p": np.full(len(c["a"]), 1 / 4), "av": ["0|1|2|3"] * len(c["a"]), "a": c["a"].astype(str)}


DEFECTS: dict[str, Defect] = {
    "propensities wrong": Defect(
        _edit(lambda c, g: _redraw(c, np.ones(len(c["a"]), bool), [0.17, 0.33, 0.25, 0.25], g)),
        "propensity calibration",
    ),
    "propensities wrong in one segment": Defect(
        _edit(lambda c, g: _redraw(c, c["c"] == "a", [0.15, 0.35, 0.25, 0.25], g)),
        "propensity calibration by segment",
    ),
    "propensities wrong from day 6 on": Defect(
        _edit(
            lambda c, g: _redraw(c, np.arange(len(c["a"])) >= 0.6 * len(c["a"]), [0.15, 0.35, 0.25, 0.25], g)
        ),
        "propensity calibration over time",
    ),
    "policy changed unseen": Defect(
        _edit(
            lambda c, g: _redraw(c, np.arange(len(c["a"])) >= 0.6 * len(c["a"]), [0.15, 0.35, 0.25, 0.25], g)
        ),
        "logging drift",
    ),
    "policy changed, propensities right": Defect(_policy_change, "logging drift", "note"),
    "softmax propensities of last week": Defect(
        _edit(lambda c, g: {**c, "p": np.clip(c["p"] ** 1.3, 1e-3, 1)}, "softmax"), "propensity calibration"
    ),
    "rows of one action lost": Defect(
        _edit(lambda c, g: _keep(c, (c["a"] != 1) | (g.random(len(c["a"])) < 0.8))), "sample ratio"
    ),
    "constant propensities that sum to 2": Defect(
        _edit(lambda c, g: {**c, "p": np.full(len(c["a"]), 0.5)}), "sample ratio"
    ),
    "reward in the context": Defect(_edit(lambda c, g: {**c, "x": 3 * c["y"] - 1}), "reward leakage", "stop"),
    "near copy of the reward": Defect(
        _edit(lambda c, g: {**c, "x": c["y"] + 0.25 * g.normal(size=len(c["a"]))}), "reward leakage"
    ),
    "outcome of the reward in the context": Defect(
        _edit(lambda c, g: {**c, "z": c["y"] * (g.random(len(c["a"])) < 0.2)}), "reward leakage"
    ),
    "column after the action": Defect(
        _edit(lambda c, g: {**c, "x": c["x"] + 0.3 * (c["a"] == 1)}), "column after action"
    ),
    "column after the action, softmax": Defect(
        _edit(lambda c, g: {**c, "z": (g.random(len(c["a"])) < 0.5 + 0.3 * (c["a"] == 1)) * 1}, "softmax"),
        "column after action",
    ),
    "a few rows carry the reward": Defect(
        _edit(lambda c, g: {**c, "y": np.exp(4.5 * g.normal(size=len(c["a"])))}), "heavy tails"
    ),
    "candidate far from the log": Defect(
        lambda n, rng: as_log(clean_columns(n, rng, "adaptive")), "overlap", "warning", _near_action_zero
    ),
    "candidate on an unlogged action": Defect(
        _edit(_unlogged, available="av"), "overlap", "stop", lambda log: (Always("3"),)
    ),
    "action available but never logged": Defect(
        _edit(_unlogged, available="av"), "log hygiene: unlogged actions"
    ),
    "repeated rows": Defect(
        _edit(lambda c, g: _keep(c, np.sort(np.r_[np.arange(len(c["a"])), np.arange(len(c["a"]) // 50)]))),
        "log hygiene: repeated rows",
    ),
    "time goes backwards": Defect(
        _edit(lambda c, g: {**c, "t": np.roll(c["t"], len(c["a"]) // 3)}), "log hygiene: time order", "note"
    ),
    "constant reward": Defect(
        _edit(lambda c, g: {**c, "y": np.zeros(len(c["a"]))}), "log hygiene: constant reward", "stop"
    ),
    "one action": Defect(
        _edit(lambda c, g: {**c, "a": np.zeros(len(c["a"]), int), "p": np.ones(len(c["a"]))}),
        "log hygiene: one action",
        "stop",
    ),
    "identifier in the context": Defect(
        _edit(lambda c, g: {**c, "c": [f"u{i}" for i in range(len(c["a"]))]}, segment=()),
        "log hygiene: identifiers",
        "note",
    ),
    "new category at the end": Defect(
        _edit(
            lambda c, g: {**c, "c": np.where(np.arange(len(c["a"])) > 0.95 * len(c["a"]), "new", c["c"])},
            segment=(),
        ),
        "log hygiene: new categories",
        "note",
    ),
    "deterministic logging": Defect(
        _edit(lambda c, g: {**c, "a": c["z"], "p": np.ones(len(c["a"]))}), "propensity values", "stop"
    ),
    "no propensities": Defect(_edit(lambda c, g: c, propensity=None), "propensity values", "stop"),
    "estimated propensities": Defect(_edit(lambda c, g: c, propensity="estimate"), "propensity values"),
    "tiny propensities": Defect(
        _edit(lambda c, g: {**c, "p": np.where(np.arange(len(c["a"])) == 5, 1e-6, c["p"])}, "softmax"),
        "propensity values",
    ),
    "rounded propensities": Defect(
        _edit(lambda c, g: {**c, "p": np.maximum(np.round(c["p"], 2), 0.01)}, "softmax"),
        "propensity values",
        "note",
    ),
    "rewards of the last day missing": Defect(_edit(_last_day), "reward maturity"),
    "rewards still open": Defect(_edit(_open_delays, delay="d"), "reward maturity"),
}


def found(defect: Defect, n: int, rng: int) -> bool:
    """Whether the audit reports the planted defect under its check with at least its severity."""
    log = defect.make(n, rng)
    least = SEVERITIES.index(defect.severity)
    findings = audit(log, defect.policies(log), rng=rng).of(defect.check)
    return any(SEVERITIES.index(f.severity) >= least for f in findings)


def z_test_alarms(log: Rounds, alpha: float = 0.001) -> bool:
    """The baseline: the z test of every action's mean weight, Bonferroni over the actions."""
    k = len(log.actions)
    total = np.bincount(log.action, 1 / log.propensity, minlength=k)
    square = np.bincount(log.action, 1 / log.propensity**2, minlength=k)
    mean = total / log.n
    z = (mean - 1) / np.sqrt(np.maximum(square / log.n - mean**2, 1e-12) / log.n)
    return bool((2 * norm.sf(np.abs(z)) < alpha / k).any())


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """Clopper-Pearson 95% interval of a share."""
    lo = float(beta.ppf(0.025, hits, of - hits + 1)) if hits else 0.0
    hi = float(beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return lo, hi


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Quick: 10 clean logs a world and 2 of each defect. Full: 500 and 100."""
    clock = Clock()
    n = 5_000
    clean, planted = (500, 100) if full else (10, 2)
    worlds: list[dict[str, Any]] = []
    alarms_total = 0
    z_rate = bets_rate = 0.0
    for kind in LOGGING:
        alarms, by_check, z, bets = 0, Counter[str](), 0, 0
        for i in range(clean):
            log = as_log(clean_columns(n, rng + 10_000 + i, kind))
            worst = audit(log, rng=rng).worst("warning")
            alarms += bool(worst)
            by_check.update({f.check for f in worst})
            z += z_test_alarms(log)
            bets += PropensityCalibration().check(log)[0].severity in ("warning", "stop")
        lo, hi = share_interval(alarms, clean)
        worlds.append(
            {
                "logging": kind, "clean logs": clean, "alarms": alarms, "rate": alarms / clean, "lo": lo, "hi": hi,
                "by check": ", ".join(f"{c} {m}" for c, m in by_check.most_common()),
                "z test alarms": z, "betting test alarms": bets,
            }
        )  # fmt: skip
        alarms_total += alarms if kind != "adaptive" else 0
        if kind == "adaptive":
            z_rate, bets_rate = z / clean, bets / clean
    power: list[dict[str, Any]] = []
    for name, defect in DEFECTS.items():
        hits = sum(found(defect, n, rng + i) for i in range(planted))
        lo, hi = share_interval(hits, planted)
        power.append(
            {
                "defect": name, "check": defect.check, "at least": defect.severity, "logs": planted, "found": hits,
                "rate": hits / planted, "lo": lo, "hi": hi,
            }
        )  # fmt: skip
    rate = alarms_total / (clean * (len(LOGGING) - 1))
    least = min(power, key=lambda row: row["rate"])
    checks = (
        Check(
            claim="clean logs (uniform, split, softmax) without any finding of `warning` or worse",
            measured=1 - rate,
            bar="at least 0.95",
            passed=rate <= 0.05,
        ),
        Check(
            claim="every planted defect is found by its check, least rate over the defects",
            measured=least["rate"],
            bar="at least 0.95",
            passed=least["rate"] >= 0.95,
            note=f"least: {least['defect']}",
        ),
        Check(
            claim="on clean adaptive logs the betting test of the mean weights alarms at most as often as its level",
            measured=bets_rate,
            bar="at most 0.01",
            passed=bets_rate <= 0.01,
            note=f"the z test alarms on {z_rate:.1%} of the same logs",
        ),
    )
    return Study(
        slug="log-audit",
        mode="full" if full else "quick",
        rng=rng,
        unit="logs",
        n=clean,
        tables=(
            Table(title="Clean logs with a finding of warning or worse", rows=tuple(worlds), unit="logs"),
            Table(title="Planted defects found", rows=tuple(power), unit="logs"),
        ),
        checks=checks,
        notes=(
            f"{n:,} rows a log",
            "the adaptive world is clean in its propensities, but its weights are heavy: warnings on tails and tiny "
            "propensities are true there and are listed, not counted as false",
        ),
        seconds=clock.seconds(),
        versions=versions("numpy", "scipy", "polars"),
    )
