"""Did the logging change over time? Action shares and mean propensities by window, and when they changed.

Use when    the log has a time column.
Not when    rows were shuffled or time is only a label: nothing here then means anything.
Data        Rounds(action, time), optionally propensity
Paper       Csorgo and Horvath, "Limit theorems in change-point analysis", 1997 (maximal CUSUM); permutation
            p-value as in Antoch and Huskova, 2001.
Equation    S_k(b) = sum_{j <= b} (x_jk - n_j mean_k) / sqrt(sum_j (x_jk - n_j mean_k)^2)                     (1)
            T = max over k and b of |S_k(b)|; x_jk: how often block j took action k, n_j its rows
            p-value: rank of T among permutations of the blocks
            the change is absorbed when E[1{a = k} / p] <= 1 in every window (core.weight_means)              (2)
Shapes      blocks (B, actions)
Units       S: none | change point: the time at which |S| is largest
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     whole blocks are permuted, so that dependence between neighbouring rows does not count as change.
Builds on   sample-ratio (which rows count when a unit keeps its action)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.sample_ratio import one_row_a_unit
from counterlog.core.config import Config, param
from counterlog.core.multiplicity import holm
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, Rounds
from counterlog.core.time_windows import periods, time_values, window_starts, windows
from counterlog.core.weight_means import fixed_split, weight_means

CHECK = "logging drift"
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LoggingDriftConfig(Config):
    """Thresholds of the drift check."""

    alpha: float = param(0.001, "chance of a false alarm", above=0, below=1)
    blocks: int = param(100, "time blocks of the change-point test", at_least=4)
    block_rows: int = param(20, "fewest rows a block should have", at_least=1)
    permutations: int = param(1_999, "permutations of the blocks", at_least=99)
    windows: int = param(8, "windows in which the propensities must absorb the change", at_least=2)
    actions: int = param(30, "actions in the evidence table, the most frequent ones", at_least=1)


class LoggingDrift:
    """The check. One finding with one evidence record per day (or period) and action."""

    def __init__(self, config: LoggingDriftConfig = LoggingDriftConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Look for a change of the action shares, and whether the propensities absorb it. `rng` permutes the blocks."""
        c, k = self.config, len(log.actions)
        if log.time_column is None:
            text = "the log has no time column, so changes of the logging cannot be seen"
            remedy = "name the time of the decisions: Rounds(..., time='column')"
            return (Finding(check=CHECK, severity="note", message=text, remedy=remedy, n=log.n),)
        values = time_values(log)
        once = one_row_a_unit(log)  # a unit that keeps its action decides once
        block = windows(values[once], max(4, min(c.blocks, len(once) // c.block_rows)))
        evidence = by_period(log, c.actions, c.windows)
        if block.max() < 3:
            text = "the log spans fewer than 4 distinct times, too few for a change to be tested"
            return (Finding(check=CHECK, severity="ok", message=text, n=log.n, evidence=evidence),)
        shares = blocks_of(block, log.action[once], k)
        p, at, which = change_point(shares, permutations=c.permutations, rng=rng)
        known = log.propensity_role not in (None, ESTIMATED)
        p_weights = 1.0
        if known:
            p_weights = p if fixed_split(log) is not None else unabsorbed(log, windows(values, c.windows))
        if p >= c.alpha:
            text = f"the shares of the actions do not change over time (p = {p:.2g})"
            return (
                Finding(
                    check=CHECK,
                    severity="ok",
                    message=text,
                    unit="p-value",
                    n=log.n,
                    value=p,
                    evidence=evidence,
                ),
            )
        start = window_starts(log.take(once), block)[min(at + 1, int(block.max()))]
        before, after = _shares(block <= at, log.action[once], which)
        what = f"most for {log.actions[which]!r}, from {before:.1%} to {after:.1%} of the rows around {start}"
        if known and p_weights >= c.alpha:
            text = f"the action shares change over time, and the propensities agree with it ({what}; p = {p:.2g})"
            remedy = (
                "the values hold for the mix of these periods; use an interval that allows adaptive logging"
            )
            severity = "note"
        else:
            text = (
                f"the action shares change over time and the propensities do not follow ({what}; p = {p:.2g})"
                if known
                else f"the action shares change over time ({what}; p = {p:.2g})"
            )
            remedy = (
                "log the propensity in force at each decision, split the log at the change, or estimate the "
                "propensities with time among the context"
            )
            severity = "warning"
        return (
            Finding(
                check=CHECK,
                severity=severity,
                message=text,
                remedy=remedy,
                unit="p-value",
                n=log.n,
                value=p,
                evidence=evidence,
            ),
        )


def unabsorbed(log: Rounds, window: NDArray[np.int64]) -> float:
    """Equation (2): p-value that the propensities absorb the change, over all windows and actions."""
    unit = log.unit if log.unit is not None and log.unit.max() + 1 < log.n else None
    cells = int(window.max()) + 1
    table = weight_means(
        log.action,
        log.propensity,
        len(log.actions),
        cell=window,
        cells=cells,
        unit=unit,
        available=log.available,
    )
    return float(np.nanmin(holm(table.p_high)))


def blocks_of(block: NDArray[np.int64], action: NDArray[np.int64], actions: int) -> Floats:
    """(B, actions) deviations of each block's counts from its rows times the overall shares."""
    count = int(block.max()) + 1
    total = np.asarray(np.bincount(block * actions + action, minlength=count * actions), dtype=np.float64)
    total = total.reshape(count, actions)
    size = np.bincount(block, minlength=count)
    deviation: Floats = total - np.outer(size, total.sum(axis=0) / size.sum())
    return deviation


def cusum(blocks: Floats) -> Floats:
    """Equation (1): |S_k(b)|, (..., B, actions), for blocks of that shape."""
    scale = np.sqrt((blocks**2).sum(axis=-2, keepdims=True))
    path = np.abs(np.cumsum(blocks, axis=-2))
    share: Floats = np.divide(path, scale, out=np.zeros_like(path), where=scale > 1e-9)
    return share


def change_point(blocks: Floats, *, permutations: int, rng: int) -> tuple[float, int, int]:
    """(p-value, last block before the change, action that changes most)."""
    gen = np.random.default_rng(rng)
    observed = cusum(blocks)
    at, which = (int(i) for i in np.unravel_index(int(np.argmax(observed)), observed.shape))
    top, reached, left = observed.max() * (1 - 1e-12), 1, permutations
    while left > 0:
        some = min(left, max(1, 2_000_000 // blocks.size))
        order = gen.permuted(np.tile(np.arange(len(blocks)), (some, 1)), axis=1)
        reached += int((cusum(blocks[order]).max(axis=(1, 2)) >= top).sum())
        left -= some
    return reached / (permutations + 1), at, which


def by_period(log: Rounds, most: int, count: int) -> tuple[dict[str, Any], ...]:
    """Rows, share and mean logged propensity of the `most` frequent actions in every day (or period), and the period's
    mean reward."""
    period, starts = periods(log, count)
    k, cells = len(log.actions), len(starts)
    key = period * k + log.action
    rows: NDArray[Any] = np.bincount(key, minlength=cells * k).reshape(cells, k)
    size = rows.sum(axis=1)
    reward = np.bincount(period, log.reward, minlength=cells) / size
    known = log.propensity_role is not None
    mass = np.bincount(key, log.propensity, minlength=cells * k).reshape(cells, k) if known else None
    shown = np.sort(np.argsort(-rows.sum(axis=0), kind="stable")[:most])
    return tuple(
        {
            "from": starts[w],
            "action": str(log.actions[j]),
            "rows": int(rows[w, j]),
            "share": float(rows[w, j] / size[w]),
            "propensity": float(mass[w, j] / rows[w, j]) if mass is not None and rows[w, j] else None,
            "reward": float(reward[w]),
        }
        for w in range(cells)
        for j in shown
    )


def _shares(early: NDArray[np.bool_], action: NDArray[np.int64], which: int) -> tuple[float, float]:
    hit = action == which
    return float(hit[early].mean()), float(hit[~early].mean()) if (~early).any() else 0.0
