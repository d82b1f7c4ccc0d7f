"""Exploration rules behind one shape: `probs(scores, eligible, ...) -> (n, k)`, and the draw that logs its own
probability.

`scores` (n, k) are predicted rewards, `eligible` (n, k) says which actions each row may take. Every rule returns
rows that sum to 1, are zero outside the eligible actions, and break ties for the best action by the lowest code.

Equation    b = argmax over eligible a of f(x, a);  K = number of eligible actions
            greedy         p_a = 1{a = b}                                                                    (1)
            epsilon        p_a = (1 - eps) 1{a = b} + eps / K                                                (2)
            softmax        p_a = exp(f_a / temperature) / sum_j exp(f_j / temperature)                       (3)
            thompson       p_a = (#{members whose best action is a} + 1/K) / (B + 1)                         (4)
            draw           a = first index with cumsum(p)_a > u sum(p), u ~ U[0, 1); logged p_a / sum(p)     (5)

Equation (4) is the exact probability of the action, because the action is drawn from it: no Monte Carlo error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]


def checked_scores(scores: Floats, eligible: Mask | None) -> tuple[Floats, Mask]:
    """Scores as float64 and the eligible mask, (n, k) each.

    Raises `LogError` for shapes that differ, a row without an eligible action, or a score that is not a number.
    """
    f = np.asarray(scores, dtype=np.float64)
    if f.ndim != 2:
        msg = message(f"scores have shape {f.shape}", expected="(rows, actions)")
        raise LogError(msg)
    mask = np.ones(f.shape, bool) if eligible is None else np.asarray(eligible, dtype=bool)
    if mask.shape != f.shape:
        msg = message(
            f"the eligible mask has shape {mask.shape}", expected=f"{f.shape}, the shape of the scores"
        )
        raise LogError(msg)
    if (empty := np.flatnonzero(~mask.any(axis=1))).size:
        msg = message(
            f"no action is eligible in {empty.size:,} of {len(f):,} rows: {first_rows(empty)}",
            hint="drop these decisions, or list a default action for them",
        )
        raise LogError(msg)
    if (bad := np.flatnonzero((mask & ~np.isfinite(f)).any(axis=1))).size:
        msg = message(
            f"the predicted reward is not a finite number in {bad.size:,} of {len(f):,} rows: {first_rows(bad)}",
            hint="look at the regressor's training data; it must answer a score for every eligible action",
        )
        raise LogError(msg)
    return f, mask


def best_action(scores: Floats, eligible: Mask) -> Codes:
    """(n,) the eligible action with the largest score; ties go to the lowest code."""
    return np.asarray(np.where(eligible, scores, -np.inf).argmax(axis=1), dtype=np.int64)


def uniform(eligible: Mask) -> Floats:
    """1/K over the eligible actions."""
    return np.asarray(eligible / eligible.sum(axis=1, keepdims=True), dtype=np.float64)


def greedy(scores: Floats, eligible: Mask | None = None) -> Floats:
    """Equation (1)."""
    f, mask = checked_scores(scores, eligible)
    p: Floats = (best_action(f, mask)[:, None] == np.arange(f.shape[1])).astype(np.float64)
    return p


def epsilon_greedy(scores: Floats, eligible: Mask | None = None, *, epsilon: float) -> Floats:
    """Equation (2)."""
    f, mask = checked_scores(scores, eligible)
    return (1.0 - epsilon) * greedy(f, mask) + epsilon * uniform(mask)


def softmax(scores: Floats, eligible: Mask | None = None, *, temperature: float) -> Floats:
    """Equation (3). Raises `ConfigError` for a temperature that is not positive."""
    if not temperature > 0:
        msg = message(f"temperature = {temperature:g}", expected="> 0", hint="use greedy for the limit of 0")
        raise ConfigError(msg)
    f, mask = checked_scores(scores, eligible)
    masked = np.where(mask, f, -np.inf)
    p = np.exp((masked - masked.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(p / p.sum(axis=1, keepdims=True), dtype=np.float64)


def thompson(member_scores: Floats, eligible: Mask | None = None) -> Floats:
    """Equation (4). `member_scores` (members, n, k): predictions of regressors fitted on Poisson(1) weighted rows."""
    members = np.asarray(member_scores, dtype=np.float64)
    votes = sum(greedy(member, eligible) for member in members)
    mask = np.ones(members.shape[1:], bool) if eligible is None else np.asarray(eligible, bool)
    return np.asarray((votes + uniform(mask)) / (len(members) + 1.0), dtype=np.float64)


def draw(probs: Floats, rng: np.random.Generator) -> tuple[Codes, Floats]:
    """Equation (5): (action (n,), its probability (n,) float64), one uniform number a row in row order.

    The probability is that of the final normalised row. Raises `LogError` for negative or all-zero rows.
    """
    p = np.asarray(probs, dtype=np.float64)
    action, logged = np.empty(len(p), np.int64), np.empty(len(p))
    u = rng.random(len(p))
    block = max(1, 65_536 // max(1, p.shape[1]))
    for start in range(0, len(p), block):
        rows = slice(start, start + block)
        part = p[rows]
        running = np.cumsum(part, axis=1)
        total = running[:, -1]
        if not ((part >= 0).all() and (total > 0).all()):
            bad = start + np.flatnonzero(~((part >= 0).all(axis=1) & (total > 0)))
            msg = message(
                f"{first_rows(bad)} of the probabilities is no distribution", expected="numbers of at least 0"
            )
            raise LogError(msg)
        cut = np.minimum(u[rows] * total, np.nextafter(total, 0.0))
        chosen = (running > cut[:, None]).argmax(axis=1)
        action[rows] = chosen
        logged[rows] = part[np.arange(len(part)), chosen] / total
    return action, logged
