"""Rewards that arrive late: which rows are known when a model is retrained, and what weight makes them fair.

Times and delays share one unit (days, or generations). A delay that is NaN means that the reward has not been seen.

Equation    row i is mature at time t       decision_i + delay_i <= t                                        (1)
            Kaplan-Meier on the delays      S(d) = prod over seen delays s <= d of (1 - events_s / at_risk_s) (2)
            weight of a mature row          w_i = min(1 / (1 - S(t - decision_i)), cap)                      (3)

A row that is not mature is dropped, never counted as reward 0, unless the user says that silence is failure: then
a row older than `maturity` without a reward counts as 0. Dropping is right when the delay does not depend on the
reward and every age is equally represented; (3) also repairs a model whose rows are unevenly old.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import LogError, first_rows, message

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
LARGEST_WEIGHT = 10.0
FEWEST_EVENTS = 200


def mature(decision: Floats, delay: Floats, now: float) -> Mask:
    """Equation (1), (n,). Raises `LogError` for a reward that was known before its decision."""
    if (bad := np.flatnonzero(np.asarray(delay) < 0)).size:
        msg = message(
            f"the reward was known before the decision in {bad.size:,} of {len(delay):,} rows: {first_rows(bad)}",
            expected="delays of at least 0, or missing when the reward is not known yet",
            hint="check that both times are in the same time zone and unit",
        )
        raise LogError(msg)
    return np.asarray(decision + np.where(np.isnan(delay), np.inf, delay) <= now, dtype=bool)


def kaplan_meier(duration: Floats, seen: Mask) -> tuple[Floats, Floats]:
    """Equation (2): (times (m,), S(times) (m,)), for delays seen or cut off at `duration`.

    At a tie the seen delays count before the cut-off ones, as is usual.
    """
    times, seen_at = np.unique(duration[seen], return_counts=True)
    at_risk = len(duration) - np.searchsorted(np.sort(duration), times, side="left")
    survival = np.cumprod(1.0 - seen_at / at_risk)
    return np.asarray(times, np.float64), np.asarray(survival, np.float64)


def still_unseen(age: Floats, times: Floats, survival: Floats) -> Floats:
    """S(age): the chance that a reward is still unseen at that age; 1 before the first seen delay."""
    step = np.searchsorted(times, age, side="right")
    return np.asarray(np.concatenate([[1.0], survival])[step], dtype=np.float64)


def ipcw_weights(
    decision: Floats, delay: Floats, now: float, *, group: Codes | None = None, cap: float = LARGEST_WEIGHT
) -> Floats:
    """Equation (3), (n,): 0 for rows that are not mature.

    Rows younger than the 5% quantile of the seen delays get 0, since almost none of them can be mature. `group`
    gives each action its own curve where at least 200 of its delays were seen, and the common curve elsewhere.
    """
    seen = mature(decision, delay, now)
    age = now - np.asarray(decision, dtype=np.float64)
    weight = np.zeros(len(age))
    if not seen.any():
        return weight
    duration = np.where(seen, delay, age)
    common = kaplan_meier(duration, seen)
    chance = 1.0 - still_unseen(age, *common)
    for g in np.unique(group) if group is not None else ():
        rows = group == g
        if np.count_nonzero(seen & rows) >= FEWEST_EVENTS:
            curve = kaplan_meier(duration[rows], seen[rows])
            chance[rows] = 1.0 - still_unseen(age[rows], *curve)
    keep = seen & (age >= np.quantile(delay[seen], 0.05)) & (chance > 0)
    weight[keep] = np.minimum(1.0 / chance[keep], cap)
    return weight


def known_rows(
    decision: Floats,
    delay: Floats,
    reward: Floats,
    now: float,
    *,
    rule: str = "drop",
    maturity: float = np.inf,
    silence_is_failure: bool = False,
    group: Codes | None = None,
) -> tuple[Floats, Floats]:
    """(reward (n,), weight (n,)) as they are known at `now`; weight 0 means that the row must not be used.

    `rule` is `drop` (weight 1 for mature rows) or `ipcw` (equation (3)).
    """
    seen = mature(decision, delay, now)
    weight = ipcw_weights(decision, delay, now, group=group) if rule == "ipcw" else seen.astype(np.float64)
    known = np.where(seen, reward, 0.0)
    if silence_is_failure:
        silent = ~seen & (now - decision >= maturity)
        weight = np.where(silent, 1.0, np.where(seen, 1.0, 0.0))
    return known, weight
