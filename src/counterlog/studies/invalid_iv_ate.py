"""Study of the effect with an invalid instrument: bias and coverage where learners are wrong, selection, 401(k).

The simulation has a direct effect of the instrument and a hidden confounder; the truth is 7/6. One run fits every
triple of right and wrong learners. The 401(k) part runs all comparators on the same predictions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from joblib import Parallel, delayed

from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.core.units import Units
from counterlog.datasets.encouragement import ATE, encouragement
from counterlog.datasets.registry import get
from counterlog.estimate.invalid_iv_ate import InvalidIV, InvalidIVConfig

SLUG = "invalid-iv-ate"
FULL_RUNS, LEARNT_RUNS = 100, 12
GRID = InvalidIVConfig(
    repeats=1,
    instrument_learners=("logit", "constant"),
    treatment_learners=("linear", "constant"),
    outcome_learners=("quadratic/ridge", "constant/constant", "quadratic/constant"),
)
LEARNT = InvalidIVConfig(
    repeats=1,
    instrument_learners=("logit", "boosting"),
    treatment_learners=("logit", "boosting"),
    outcome_learners=("ridge2/ridge", "boosting/ridge"),
)
CELLS = {
    "all right": ("logit", "linear", "quadratic/ridge"),
    "f wrong": ("constant", "linear", "quadratic/ridge"),
    "e wrong": ("logit", "constant", "quadratic/ridge"),
    "outcome side wrong": ("logit", "linear", "constant/constant"),
    "effect taken as constant": ("logit", "linear", "quadratic/constant"),
    "f and e wrong": ("constant", "constant", "quadratic/ridge"),
    "f and outcome side wrong": ("constant", "linear", "constant/constant"),
    "e and outcome side wrong": ("logit", "constant", "constant/constant"),
    "all wrong": ("constant", "constant", "constant/constant"),
}
ONE_WRONG = tuple(CELLS)[:5]
SELECTED = "selected (minimax, split)"
BASELINES = ("OLS of Y on A, Z, X", "2SLS", "LATE-DML", "PLR-DML", "GENIUS")
SQUARED = ("age", "inc", "fsize", "educ")
COVARIATES = (*SQUARED, "db", "marr", "twoearn", "pira", "hown")


def simulated(n: int, rng: int, config: InvalidIVConfig) -> dict[str, tuple[float, float]]:
    """Estimate and error of every cell, of the selected triple, and of the baselines, on one draw."""
    units = Units(
        encouragement(n, rng=rng), outcome="y", treatment="a", instrument="z", covariates=["x1", "x2"]
    )
    found = InvalidIV(config).estimate(units, rng=rng)
    triples = {
        (r["instrument"], r["treatment"], r["outcome"]): (r["estimate"], r["se"]) for r in found.selection
    }
    named = (
        {cell: triples[key] for cell, key in CELLS.items()}
        if config is GRID
        else {" + ".join(key): value for key, value in triples.items()}
    )
    return {
        **named,
        SELECTED: (found.value, found.se),
        **{e.estimator: (e.value, e.se) for e in found.beside},
    }


def summary(runs: list[dict[str, tuple[float, float]]]) -> tuple[dict[str, Any], ...]:
    """A record a way: bias with its Monte-Carlo error, spread, mean error, coverage of 95 % intervals."""
    rows = []
    for way in runs[0]:
        value, se = np.array([r[way] for r in runs]).T
        rows.append(
            {
                "way": way,
                "bias": float(value.mean() - ATE),
                "of the mean": float(value.std(ddof=1) / np.sqrt(len(runs))),
                "sd": float(value.std(ddof=1)),
                "mean se": float(se.mean()),
                "coverage": float(np.mean(np.abs(value - ATE) <= 1.96 * se)),
            }
        )
    return tuple(rows)


def pension() -> Units:
    """The 401(k) households: net financial assets, participation, eligibility, thirteen covariates."""
    frame = pl.read_csv(get("pension-401k"))
    frame = frame.with_columns((pl.col(c) ** 2).alias(f"{c}^2") for c in SQUARED)
    names = [*COVARIATES, *(f"{c}^2" for c in SQUARED)]
    return Units(frame, outcome="net_tfa", treatment="p401", instrument="e401", covariates=names)


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study. Quick: n = 1,000, 20 runs, least squares, no 401(k). Raises `DatasetError` in full mode without it."""
    clock = Clock()
    n, repeats = (4_000, FULL_RUNS) if full else (1_000, 20)
    grid = Parallel(n_jobs=2 if full else 1)(
        delayed(simulated)(n, 1_000 * rng + s, GRID) for s in range(repeats)
    )
    cells = summary(list(grid))
    tables = [Table(title=f"Least squares, n = {n:,}, {repeats} runs", rows=cells, unit="truth 7/6")]
    checks = simulation_checks({row["way"]: row for row in cells}, full)
    notes: list[str] = []
    if full:
        learnt = Parallel(n_jobs=2)(
            delayed(simulated)(n, 1_000 * rng + s, LEARNT) for s in range(LEARNT_RUNS)
        )
        found = summary(list(learnt))
        tables.append(
            Table(title=f"Machine learning, n = {n:,}, {LEARNT_RUNS} runs", rows=found, unit="truth 7/6")
        )
        checks += learnt_checks({row["way"]: row for row in found})
        more, extra, notes = pension_part(rng)
        tables += more
        checks += extra
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="units of the outcome a unit of treatment",
        n=repeats,
        tables=tuple(tables),
        checks=tuple(checks),
        notes=tuple(notes),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scikit-learn"),
    )


def simulation_checks(rows: dict[str, dict[str, Any]], full: bool) -> list[Check]:
    """The claims on the grid; in quick mode bars leave room for a quarter of the rows."""
    most, (least, highest) = (0.06, (0.91, 0.98)) if full else (0.25, (0.75, 1.0))
    checks = []
    for cell in ONE_WRONG:
        bias = rows[cell]["bias"]
        checks.append(
            Check(
                claim=f"{cell}: the estimate is on the truth",
                measured=bias,
                bar=f"|bias| < {most}",
                passed=abs(bias) < most,
                note=f"Monte-Carlo error {rows[cell]['of the mean']:.3f}",
            )
        )
    cover = rows["all right"]["coverage"]
    checks.append(
        Check(
            claim="all right: 95 % intervals cover the truth",
            measured=cover,
            bar=f"{least} to {highest}",
            passed=least <= cover <= highest,
        )
    )
    for way, bar in (("OLS of Y on A, Z, X", 0.3), ("2SLS", 2.0)):
        bias = rows[way]["bias"]
        checks.append(Check(claim=f"{way} is biased", measured=bias, bar=f"> {bar}", passed=bias > bar))
    best = min(abs(rows[c]["bias"]) for c in CELLS)
    chosen = abs(rows[SELECTED]["bias"])
    checks.append(
        Check(
            claim="the selected learners are nearly as good as the best fixed ones",
            measured=chosen,
            bar=f"<= {best + (0.05 if full else 0.3):.3f}",
            passed=chosen <= best + (0.05 if full else 0.3),
        )
    )
    return checks


def learnt_checks(rows: dict[str, dict[str, Any]]) -> list[Check]:
    """The claims with machine learners."""
    chosen = rows[SELECTED]
    fixed = [abs(row["bias"]) for way, row in rows.items() if " + " in way]
    return [
        Check(
            claim="machine learning: the selected learners are nearly as good as the best fixed ones",
            measured=abs(chosen["bias"]),
            bar=f"<= {min(fixed) + 0.05:.3f}",
            passed=abs(chosen["bias"]) <= min(fixed) + 0.05,
            note=f"Monte-Carlo error {chosen['of the mean']:.3f}",
        ),
        Check(
            claim="machine learning: 95 % intervals after selection cover the truth",
            measured=chosen["coverage"],
            bar=f">= 0.8 of {LEARNT_RUNS} runs",
            passed=chosen["coverage"] >= 0.8,
        ),
    ]


def pension_part(rng: int) -> tuple[list[Table], list[Check], list[str]]:
    """401(k): the selected estimate beside the others, and the published numbers that must come to the dollar."""
    units = pension()
    found = InvalidIV(InvalidIVConfig(repeats=1)).estimate(units, rng=rng)
    tables = [
        Table(
            title="401(k): participation and net financial assets", rows=tuple(found.rows()), unit="dollars"
        ),
        Table(title="401(k): the ten steadiest triples", rows=found.selection[:10], unit="dollars"),
        Table(
            title="401(k): relevance and sensitivity",
            rows=(
                {
                    "mean D": found.relevance.mean,
                    "share of rows with D < 0": found.relevance.negative,
                    "concentration": found.relevance.strength,
                    "Gamma that flips the sign": found.sensitivity.flips,
                    "robust set": "; ".join(f"{low:,.0f} to {high:,.0f}" for low, high in found.robust),
                },
            ),
        ),
    ]
    beside = {e.estimator: e.value for e in found.beside}
    checks = [
        Check(
            claim=f"401(k): {way} comes to the published number",
            measured=beside[way],
            bar=f"{published:,} to the dollar",
            passed=round(beside[way]) == published,
        )
        for way, published in (("OLS of Y on A, Z, X", 14_783), ("2SLS", 14_155))
    ]
    return tables, checks, list(found.notes)
