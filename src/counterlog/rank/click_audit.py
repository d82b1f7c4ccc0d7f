"""Can this click log tell position from relevance at all? Asked before anything is trained.

Position bias is seen only where items of equal worth stood at different positions: the same item moved, or items
that the features make alike. A log in which a good ranker always put the same item at the same place shows neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from counterlog.core.clicks import Clicks
from counterlog.core.ragged import owners
from counterlog.core.results import Result

Floats = NDArray[np.float64]
LEAST_REPEATS = 0.05
MOST_AGREEMENT = 0.5
ROUNDS = 60
RIDGE = 1e-3


class IdentifiabilityWarning(UserWarning):
    """Relevance and position can hardly be told apart in this log; the result stands, with the audit's numbers."""


@dataclass(frozen=True, kw_only=True)
class ClickAudit(Result):
    """What the log can say of position bias. `n` counts lists.

    `repeat_share`: query-item pairs seen at two positions or more. `position_entropy`: mean over pairs, in bits,
    of where they stood. `score_click`: correlation of the logging score with clicks inside a position.
    `agreement`: correlation, inside positions, of the logging score with the click that the features predict;
    without a score, of the height in the list with that prediction. `condition`, `implied_sd`: of the log-odds of
    positions from repeated pairs alone (sd by position; infinite when no moved pair links a position to the others).
    """

    n: int
    pairs: int
    repeat_share: float
    position_entropy: float
    score_click: float
    agreement: float
    condition: float
    implied_sd: tuple[float, ...]
    identified: bool
    advice: str
    unit: str = "share of query-item pairs"


def displays(log: Clicks, size: int) -> tuple[Floats, Floats]:
    """How often each query-item pair was shown and clicked at each position, both (P, size)."""
    kept = log.position <= size
    key = log.query[owners(log.offsets)[kept]] * len(log.features) + log.doc[kept]
    _, code = np.unique(key, return_inverse=True)
    cell = code * size + log.position[kept] - 1
    cells = (int(code.max()) + 1) * size
    shown = np.bincount(cell, minlength=cells).reshape(-1, size).astype(np.float64)
    clicked = np.bincount(cell, log.click[kept], minlength=cells).reshape(-1, size)
    return shown, clicked.astype(np.float64)


def position_information(shown: Floats, clicked: Floats) -> Floats:
    """(K - 1, K - 1) Fisher information of the positions' log-odds, the first being 0, each pair having its own
    level.

    Logistic model click ~ pair + position, fitted by Newton steps; the levels are taken out (Schur complement).
    """
    level, place = np.zeros(len(shown)), np.zeros(shown.shape[1])
    for _ in range(ROUNDS):
        mean = expit(level[:, None] + place)
        curve = shown * mean * (1 - mean)
        gap = clicked - shown * mean
        level += np.clip((gap.sum(1) - RIDGE * level) / (curve.sum(1) + RIDGE), -1, 1)
        move = np.clip(gap.sum(0) / np.maximum(curve.sum(0), 1e-9), -1, 1)
        place += move - move[0]
    mean = expit(level[:, None] + place)
    curve = shown * mean * (1 - mean)
    whole = np.diag(curve.sum(0)) - (curve / np.maximum(curve.sum(1, keepdims=True), 1e-300)).T @ curve
    return np.asarray(whole[1:, 1:])


def within(values: Any, position: NDArray[np.int64]) -> Floats:
    """`values` less their mean at their position."""
    count = np.maximum(np.bincount(position), 1)
    return np.asarray(values - (np.bincount(position, values) / count)[position])


def correlation(a: Any, b: Any) -> float:
    """Pearson's, nan when one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-12 * max(len(a), 1) else float("nan")


def predicted_click(log: Clicks, rows: NDArray[np.int64]) -> Floats:
    """Least-squares click by the features, position taken out first: relevance as the log alone shows it."""
    position = log.position[rows]
    X = log.features[log.doc[rows]].astype(np.float64)
    X /= np.maximum(X.std(axis=0), 1e-12)
    count = np.maximum(np.bincount(position), 1)
    centred: Any = X - np.stack([np.bincount(position, c) / count for c in X.T], axis=1)[position]
    gram: Any = centred.T @ centred
    beta = np.linalg.solve(
        gram + 1e-6 * len(rows) * np.eye(len(gram)), centred.T @ within(log.click[rows] * 1.0, position)
    )
    return np.asarray(X @ beta)


def audit_clicks(
    log: Clicks, size: int | None = None, *, most_rows: int = 200_000, rng: int = 0
) -> ClickAudit:
    """The audit of positions 1..size. Correlations use at most `most_rows` rows, of lists drawn by `rng`."""
    depth = min(log.depth, size or log.depth)
    shown, clicked = displays(log, depth)
    seen = (shown > 0).sum(axis=1)
    pairs = int((seen > 0).sum())
    moved = seen > 1
    share = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    entropy = float(-(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=1)[seen > 0].mean())
    rows = np.flatnonzero(log.position <= depth)
    if len(rows) > most_rows:
        rows = np.sort(np.random.default_rng(rng).choice(rows, most_rows, replace=False))
    position, guess = log.position[rows], predicted_click(log, rows)
    raw = float("nan")
    if log.score is not None:
        score = within(log.score[rows], position)
        raw = correlation(score, within(log.click[rows] * 1.0, position))
        agreement = correlation(score, within(guess, position))
    else:
        agreement = correlation(-position * 1.0, guess)
    information = (
        position_information(shown[moved], clicked[moved]) if moved.any() else np.zeros((depth - 1,) * 2)
    )
    values, vectors = np.linalg.eigh(information)
    solid = values[0] > 1e-9 * max(values[-1], 1e-300) and values[0] > 1e-9
    spread = np.sqrt((vectors**2 / values).sum(axis=1)) if solid else np.full(depth - 1, np.inf)
    repeats = float(moved.sum()) / pairs
    poor = repeats < LEAST_REPEATS and agreement > MOST_AGREEMENT
    return ClickAudit(
        n=log.lists,
        pairs=pairs,
        repeat_share=repeats,
        position_entropy=entropy,
        score_click=raw,
        agreement=agreement,
        condition=float(values[-1] / values[0]) if solid else float("inf"),
        implied_sd=tuple(spread.tolist()),
        identified=not poor,
        advice=_advice(poor, repeats, agreement),
    )


def _advice(poor: bool, repeats: float, agreement: float) -> str:
    if poor:
        return (
            f"only {repeats:.1%} of query-item pairs were seen at two positions and the old order agrees with "
            f"clicks inside positions ({agreement:.2f}): low positions will look more examined than they are; swap "
            "neighbouring items at random in a share of the lists"
        )
    if repeats < LEAST_REPEATS:
        return "few pairs moved: position and relevance are told apart by items with like features, not by moved items"
    return "enough pairs were seen at several positions"
