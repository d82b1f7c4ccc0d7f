"""Are the propensities right? The mean weight of every action against 1, overall, by segment and over time.

Use when    the log holds logging probabilities (a column, a constant, or uniform).
Not when    propensities were estimated from this log: their weights average 1 by construction, right or wrong.
Data        Rounds(action, propensity), optionally unit, segment, time, available
Paper       Li, Chen, Kleban, Gupta, "Counterfactual estimation and optimization of click metrics in search engines",
            WWW 2015 (mean tests of propensities). Interval: Fay and Feuer, 1997. Test: Waudby-Smith and Ramdas,
            "Estimating means of bounded random variables by betting", 2024, arXiv 2010.09686.
Equation    m_k = (1/n_k) sum_i 1{a_i = k} / p_i,  n_k = rows in which k was available;   E m_k = 1          (1)
            E(lambda) = prod_c (1 + lambda (y_ck - 1)),  p-value 2 / mean over lambda of E                   (2)
Shapes      action, propensity (n,) | m (cells, actions)
Units       m: none, 1 is right | p-values: Holm-adjusted over all cells and actions of one table
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     (2) replaces the z test, which rejects correct logs whose weights have a heavy tail; it is valid for
            adaptive logging and any number of rows. A mean above 1 proves the propensities wrong; one below 1 may also
            mean that the action could not be taken in some rows, so it is never more than a warning. Intervals are
            simultaneous (Bonferroni over the table).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.multiplicity import holm
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, Rounds
from counterlog.core.time_windows import time_values, window_starts, windows
from counterlog.core.weight_means import WeightMeans, fixed_split, largest_weights, weight_means

CHECK = "propensity calibration"
SUPPORT = "name the column of the available actions if it could not be taken in some rows"
REMEDY = (
    "log the probability that was in force when the action was drawn, after every filter and fallback, and look for "
    "rows that were lost after logging; until then say propensity='estimate' or leave these rows out"
)


@dataclass(frozen=True, kw_only=True)
class PropensityCalibrationConfig(Config):
    """Thresholds of the calibration check."""

    alpha: float = param(0.001, "chance of a false alarm per table", above=0, below=1)
    level: float = param(0.95, "simultaneous coverage of a table's intervals", above=0, below=1)
    stop_gap: float = param(0.1, "how far above 1 the lower interval end makes it `stop`", above=0, below=1)
    small_gap: float = param(0.01, "deviations of the mean up to this are a `note`", at_least=0, below=1)
    windows: int = param(8, "time windows, of about equal rows", at_least=2)
    sharp: float = param(
        0.25, "an action whose interval is no wider than this on either side is confirmed", above=0
    )
    records: int = param(2_000, "evidence records kept, smallest p-values first", at_least=1)
    segments: int = param(200, "most values of a segment column that are tested", at_least=1)


class PropensityCalibration:
    """The check. `check` gives one finding for the whole log, one per segment column and one over time."""

    def __init__(self, config: PropensityCalibrationConfig = PropensityCalibrationConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Findings with one evidence record per cell and action: mean, lo, hi, p, rows, logged, ess.

        `rng` is unused: nothing here is random.
        """
        if log.propensity_role is None:
            return (_untested(log, "the log gives no propensities, so their calibration cannot be tested"),)
        if log.propensity_role == ESTIMATED:
            return (
                _untested(
                    log,
                    "the propensities were estimated from this log, so their weights average 1 whether "
                    "they are right or wrong",
                ),
            )
        if len(log.actions) > 1 and bool((log.propensity >= 1).all()):
            text = "every propensity is 1: nothing was random, so there is nothing to calibrate"
            return (_untested(log, text),)
        findings = [self._table(log, CHECK, np.zeros(log.n, dtype=np.int64), [""], "")]
        for name in log.segment_columns:
            column = log.table[name]
            values = column.unique().sort().to_list()
            if len(values) <= self.config.segments:
                code = (column.rank("dense").cast(int) - 1).to_numpy().astype(np.int64)
                findings.append(self._table(log, f"{CHECK} by segment", code, [str(v) for v in values], name))
        if log.time_column is not None:
            window = windows(time_values(log), self.config.windows)
            if window.max() > 0:
                findings.append(
                    self._table(log, f"{CHECK} over time", window, window_starts(log, window), "from")
                )
        return tuple(findings)

    def _table(self, log: Rounds, check: str, cell: NDArray[np.int64], labels: list[str], by: str) -> Finding:
        c, k = self.config, len(log.actions)
        unit = log.unit if log.unit is not None and log.unit.max() + 1 < log.n else None
        bound = largest_weights(log.action, log.propensity, k)
        table = weight_means(
            log.action,
            log.propensity,
            k,
            cell=cell,
            cells=len(labels),
            unit=unit,
            available=log.available,
            bound=bound,
            level=1 - (1 - c.level) / max(len(labels) * k, 1),
        )
        p = holm(table.p)
        evidence = records(log, table, p, labels, by, c.records)
        off = p < c.alpha
        worst = int(np.nanargmin(np.where(np.isnan(table.p), np.inf, table.p)))
        tested = int((~np.isnan(p)).sum())
        if not off.any():
            sharp = np.maximum(table.hi - table.mean, table.mean - table.lo) <= c.sharp
            covered = float(table.logged[sharp].sum() / log.n)
            cells = "cells" if by else "actions"
            text = (
                f"the mean weights agree with 1 ({tested:,} {cells} tested, the largest deviation is chance)"
            )
            weak = not by and fixed_split(log) is None and covered < 0.5
            if weak:
                text = (
                    f"no mean weight contradicts 1, but weights are too heavy or rows too few to confirm it: "
                    f"only {int(sharp.sum()):,} of {tested:,} actions ({covered:.0%} of the rows) are known to "
                    f"within {c.sharp:g}"
                )
            return Finding(
                check=check,
                severity="note" if weak else "ok",
                message=text,
                remedy="check the logging code instead, or log more rows" if weak else "",
                unit="adjusted p-value",
                n=log.n,
                value=float(p.ravel()[worst]),
                evidence=evidence,
            )
        high = off & (table.mean > 1)
        big = high & (table.lo - 1 >= c.stop_gap)
        small = np.abs(table.mean - 1) <= c.small_gap
        severity = "stop" if big.any() else ("note" if (off <= small).all() else "warning")
        cells = f"{int(off.sum()):,} of {tested:,} {'cells' if by else 'actions'}"
        worst = int(np.argmin(np.where(high, table.p, np.inf))) if high.any() else worst
        shown = self._show(log, table, worst, labels, by)
        text = (
            f"the propensities are wrong for {cells}; worst is {shown}: it was taken more often than they say"
            if high.any()
            else f"the mean weights fall short of 1 for {cells}; worst is {shown}: its propensities are too large, or "
            "it could not be taken in some rows"
        )
        return Finding(
            check=check,
            severity=severity,
            message=text,
            remedy=REMEDY if high.any() else f"{SUPPORT}; if it could always be taken: {REMEDY}",
            unit="adjusted p-value",
            n=log.n,
            value=float(p.ravel()[worst]),
            evidence=evidence,
        )

    def _show(self, log: Rounds, table: WeightMeans, at: int, labels: list[str], by: str) -> str:
        c, k = divmod(at, len(log.actions))
        where = f" in {by} {labels[c]!r}" if by else ""
        mean, lo, hi = table.mean[c, k], table.lo[c, k], table.hi[c, k]
        return f"{log.actions[k]!r}{where}, mean weight {mean:.3g} [{lo:.3g}, {hi:.3g}] where 1 is right"


def records(
    log: Rounds, table: WeightMeans, p: NDArray[np.float64], labels: list[str], by: str, most: int
) -> tuple[dict[str, Any], ...]:
    """One record per cell and action, in their order; the `most` with the smallest p-values when there are more."""
    k = len(log.actions)
    shown = np.flatnonzero(table.rows.ravel() > 0)
    if len(shown) > most:
        shown = np.sort(shown[np.argsort(table.p.ravel()[shown], kind="stable")[:most]])
    return tuple(
        {
            **({by: labels[c]} if by else {}),
            "action": str(log.actions[j]),
            "mean": float(table.mean[c, j]),
            "lo": float(table.lo[c, j]),
            "hi": float(table.hi[c, j]),
            "p": float(p[c, j]),
            "rows": int(table.rows[c, j]),
            "logged": int(table.logged[c, j]),
            "ess": float(table.ess[c, j]),
        }
        for c, j in (divmod(int(i), k) for i in shown)
    )


def _untested(log: Rounds, text: str) -> Finding:
    return Finding(
        check=CHECK,
        severity="note",
        message=text,
        n=log.n,
        remedy="log the probability with which each action is drawn",
    )
