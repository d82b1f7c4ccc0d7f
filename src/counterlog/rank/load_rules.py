"""Simple ad-load policies to beat: one level for all, one level a segment, and the reward model's favourite.

    v_sl    = sum_{s,l} R / p  /  sum_{s,l} 1 / p                       SNIPS of level l in segment s          (1)
    e_sl    = v_sl - mean_l v_sl;  g_l = precision-weighted mean over s                                       (2)
    b_sl    = t_l^2 / (t_l^2 + se_sl^2),  t_l^2 = max(0, mean_s[(e_sl - g_l)^2 - se_sl^2])
    e'_sl   = g_l + b_sl (e_sl - g_l),  spread sqrt(b_sl) se_sl         small segments lean on the whole       (3)
    level   = argmax_l  e'_sl - z sqrt(b_sl) se_sl                                                            (4)
    q'_k    = max_{i<=k} min_{j>=k} mean(q_i..q_j)                      nearest curve that never falls        (5)

Shapes: action, segment (n,) codes; tables (segments, levels); policies (n, levels) of 0 and 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]


def static(level: int, n: int, levels: int, available: Mask | None) -> Floats:
    """One level everywhere; where it is not available, the highest one below it, or else the lowest there is."""
    choice = np.full(n, level)
    if available is not None:
        below = np.where(available & (np.arange(levels) <= level), np.arange(levels), -1).max(axis=1)
        choice = np.where(below >= 0, below, available.argmax(axis=1))
    return one_hot(choice, levels)


def best(scores: Floats, available: Mask | None) -> Floats:
    """The available level with the highest score (n, levels), as a policy."""
    allowed = scores if available is None else np.where(available, scores, -np.inf)
    return one_hot(allowed.argmax(axis=1), scores.shape[1])


def one_hot(choice: Codes, levels: int) -> Floats:
    """(n,) -> (n, levels)."""
    return np.asarray(choice[:, None] == np.arange(levels), dtype=np.float64)


def segment_values(
    segment: Codes, action: Codes, propensity: Floats, reward: Floats, segments: int, levels: int
) -> tuple[Floats, Floats]:
    """Equation (1): value and standard error (segments, levels); NaN and infinite where a level was never logged."""
    cell, w = segment * levels + action, 1.0 / propensity
    mass = np.bincount(cell, w, minlength=segments * levels)
    total = np.bincount(cell, w * reward, minlength=segments * levels)
    value = np.divide(total, mass, out=np.full(len(mass), np.nan), where=mass > 0)
    square = np.bincount(cell, (w * (reward - value[cell])) ** 2, minlength=len(mass))
    se = np.divide(np.sqrt(square), mass, out=np.full(len(mass), np.inf), where=mass > 0)
    few = np.bincount(cell, minlength=len(mass)) < 2
    return value.reshape(segments, levels), np.where(few, np.inf, se).reshape(segments, levels)


def shrink(value: Floats, se: Floats) -> tuple[Floats, Floats]:
    """Equations (2) and (3): effects (segments, levels) pulled to the common curve, and their spread."""
    effect = value - np.nanmean(value, axis=1, keepdims=True)
    known = np.isfinite(effect) & np.isfinite(se)
    precision = np.where(known, 1.0 / np.maximum(se, 1e-12) ** 2, 0.0)
    mass = precision.sum(axis=0)
    filled = np.where(known, effect, 0.0)
    common = np.divide(
        (precision * filled).sum(axis=0), mass, out=np.full(len(mass), -np.inf), where=mass > 0
    )
    if len(value) == 1:
        return np.where(known, effect, -np.inf), np.where(known, se, 0.0)
    gap = np.where(known, (filled - common) ** 2 - np.where(known, se, 0.0) ** 2, 0.0)
    between = np.maximum(gap.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.0)
    share = np.where(known, between / (between + np.where(known, se, 1.0) ** 2 + 1e-300), 0.0)
    pulled = np.where(known, common + share * (filled - common), common)
    return pulled, np.sqrt(share) * np.where(known, se, 0.0)


def segment_levels(
    segment: Codes, action: Codes, propensity: Floats, reward: Floats, segments: int, levels: int, *, z: float
) -> Floats:
    """Equation (4): the lower bounds (segments, levels) that the rule compares."""
    value, se = segment_values(segment, action, propensity, reward, segments, levels)
    seen = np.isfinite(value).any(axis=1)
    bound = np.zeros((segments, levels))
    if seen.any():
        effect, spread = shrink(value[seen], se[seen])
        bound[seen] = effect - z * spread
        bound[~seen] = bound[seen].mean(axis=0)
    return bound


def monotone(q: Floats, *, rising: bool) -> Floats:
    """Equation (5) along the levels of every row (n, levels): the least-squares curve that never falls (or rises)."""
    if not rising:
        return -monotone(-q, rising=True)
    n, levels = q.shape
    sums = np.concatenate([np.zeros((n, 1)), q.cumsum(axis=1)], axis=1)
    out = np.full((n, levels), -np.inf)
    for i in range(levels):
        lowest = np.full(n, np.inf)
        for j in range(levels - 1, i - 1, -1):  # min over j >= k of the mean of i..j, for k = j
            lowest = np.minimum(lowest, (sums[:, j + 1] - sums[:, i]) / (j + 1 - i))
            np.maximum(out[:, j], lowest, out=out[:, j])
    return out
