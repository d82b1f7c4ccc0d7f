"""Have the rewards had time to arrive? Delays that are still open, young rows, a drop at the end of the log.

Use when    rewards come after the decision (clicks in seconds, purchases in days, returns in weeks).
Not when    the reward is known at once.
Data        Rounds(reward, time), optionally delay
Paper       none: plain counts. (The problem: Chapelle, "Modeling delayed feedback in display advertising", KDD 2014.)
Equation    young: rows with age (last time - time) below the `quantile` of the known delays                   (1)
            drop: z = (m_before - m_last) / sqrt(s^2/n_last + between^2 (1 + 1/D)), D earlier days;            (2)
            one-sided p-value from t with Satterthwaite's degrees of freedom (D - 1 for the part of `between`)
Shapes      reward, time, delay (n,)
Units       as the time column; date-times in seconds
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     `between` is the standard deviation of the earlier days' means beyond sampling noise, so that ordinary
            swings from day to day are no alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import t as student

from counterlog.core.config import Config, param
from counterlog.core.results import Finding, show
from counterlog.core.rounds import Rounds
from counterlog.core.time_windows import periods, time_values

CHECK = "reward maturity"
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RewardMaturityConfig(Config):
    """Thresholds of the maturity check."""

    alpha: float = param(0.001, "chance of a false alarm of the last-day test", above=0, below=1)
    quantile: float = param(0.95, "rows younger than this quantile of the delays are young", above=0, below=1)
    warn_share: float = param(
        0.01, "share of open or young rows from which it is a `warning`", above=0, below=1
    )
    drop: float = param(0.2, "relative drop of the last day from which it is reported", above=0, below=1)
    days: int = param(4, "fewest days before the last one", at_least=3)
    periods: int = param(20, "periods of equal length when the time is no date", at_least=5)


class RewardMaturity:
    """The check. One finding from the delays, when there are any, and one from the end of the log."""

    def __init__(self, config: RewardMaturityConfig = RewardMaturityConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Open delays, young rows, and the last period against those before. `rng` is unused."""
        found = []
        if log.delay_column is not None:
            found.append(self._delays(log))
        if log.time_column is not None:
            found.append(self._last(log))
        if not found:
            text = "without time and delay columns it cannot be seen whether the rewards had time to arrive"
            remedy = "name them: Rounds(..., time=, delay=)"
            return (Finding(check=CHECK, severity="note", message=text, remedy=remedy, n=log.n),)
        return tuple(found)

    def _delays(self, log: Rounds) -> Finding:
        c = self.config
        column = log.table[log.delay_column or ""]
        if column.dtype == pl.Duration:
            column = column.dt.total_microseconds() / 1e6
        delay = column.cast(pl.Float64).to_numpy().astype(np.float64)
        open_, known = np.isnan(delay), delay[~np.isnan(delay)]
        usual = float(np.quantile(known, c.quantile)) if known.size else float("inf")
        young = np.zeros(log.n, dtype=bool)
        if log.time_column is not None and known.size and usual > 0:
            age = time_values(log)
            young = (age.max() - age) < usual
        late = open_ | young
        share = float(late.mean())
        evidence: dict[str, Any] = {
            "open rows": int(open_.sum()),
            "young rows": int(young.sum()),
            f"{c.quantile:.0%} of the delays are at most": usual,
            "share open or young": share,
        }
        if share == 0:
            return Finding(
                check=CHECK,
                severity="ok",
                message="every reward has arrived",
                n=log.n,
                unit="share of rows",
                value=0.0,
                evidence=(evidence,),
            )
        text = (
            f"{int(open_.sum()):,} rows wait for their reward, and {int(young.sum()):,} are younger than the delay "
            f"within which {c.quantile:.0%} of the rewards came ({usual:,.4g}): {share:.1%} of the rows may "
            "still change"
        )
        return Finding(
            check=CHECK,
            severity="warning" if share >= c.warn_share else "note",
            message=text,
            n=log.n,
            unit="share of rows",
            value=share,
            evidence=(evidence,),
            remedy="end the log that long before its last row, or wait; an open row counted as 0 lowers every value",
        )

    def _last(self, log: Rounds) -> Finding:
        c = self.config
        day, labels = periods(log, c.periods)
        rows = np.bincount(day)
        scale = float(np.abs(log.reward).max()) or 1.0
        reward = log.reward / scale  # no square overflows
        mean = np.bincount(day, reward) / np.maximum(rows, 1)
        square = np.bincount(day, reward**2) / np.maximum(rows, 1)
        spread = np.maximum(square - mean**2, 0.0)
        evidence = tuple(
            {"from": labels[d], "rows": int(rows[d]), "reward": float(mean[d] * scale)}
            for d in range(len(rows))
        )
        if len(rows) - 1 < c.days:
            text = f"the log has {len(rows)} days or periods, too few to tell a drop at its end"
            return Finding(check=CHECK, severity="ok", message=text, n=log.n, evidence=evidence)
        p, before = last_drop(rows, mean, spread)
        fall = (before - mean[-1]) / abs(before) if before else 0.0
        if p < c.alpha and fall >= c.drop and mean[-1] < mean[:-1].min():
            text = (
                f"the mean reward falls to {show(float(mean[-1]) * scale)} from {labels[-1]} on, {fall:.0%} below the "
                f"{show(before * scale)} "
                f"before (p = {p:.2g}): its rewards may not have arrived yet"
            )
            remedy = "leave the last period out, or wait until its rewards are in; then name the delay column"
            return Finding(
                check=CHECK,
                severity="warning",
                message=text,
                remedy=remedy,
                n=log.n,
                unit="p-value",
                value=p,
                evidence=evidence,
            )
        text = f"the mean reward does not drop at the end of the log (p = {p:.2g})"
        return Finding(
            check=CHECK,
            severity="ok",
            message=text,
            n=log.n,
            unit="p-value",
            value=p,
            evidence=evidence,
        )


def last_drop(rows: NDArray[Any], mean: Floats, spread: Floats) -> tuple[float, float]:
    """Equation (2): one-sided p-value that the last day is no lower, and the mean reward before it."""
    n, m = rows[:-1].astype(float), mean[:-1]
    before = float((n * m).sum() / n.sum())
    pooled = float((n * spread[:-1]).sum() / n.sum())
    days = len(m)
    noise = pooled / n
    between = max(float(((m - before) ** 2).sum() / (days - 1) - noise.mean()), 0.0)
    sampling, swing = pooled / max(int(rows[-1]), 1) + pooled / n.sum(), between * (1 + 1 / days)
    if sampling + swing == 0:
        return (0.0 if mean[-1] < before else 1.0), before
    freedom = min((sampling + swing) ** 2 / (swing**2 / (days - 1) + sampling**2 / n.sum()), 1e9)
    return float(student.sf((before - float(mean[-1])) / np.sqrt(sampling + swing), freedom)), before
