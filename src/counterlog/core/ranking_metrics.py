"""Quality of an order against graded labels: nDCG, ERR, average precision; all lists at once.

Ties between scores keep the order in which the items were given. Lists are ragged: `offsets` (L + 1,).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message
from counterlog.core.ragged import Codes, lengths

Floats = NDArray[np.float64]
BLOCK = 2_000_000  # cells of a rectangle held at a time


def ndcg(score: Floats, label: Floats, offsets: Codes, k: int = 10, *, empty: float = np.nan) -> Floats:
    """(L,) DCG@k over its best possible value; gain 2^y - 1, discount 1 / log2(rank + 1).

    A list without a relevant item gets `empty` (nan: left out by `mean`).
    """
    out = []
    for ranked in _ranked(score, label, offsets):
        got = dcg(ranked, k)
        best = dcg(-np.sort(-ranked, axis=1), k)
        out.append(np.where(best > 0, got / np.where(best > 0, best, 1.0), empty))
    return np.concatenate(out)


def dcg(ranked: Floats, k: int) -> Floats:
    """(L,) discounted gain of labels in rank order (L, K); -1 marks no item."""
    cut = np.maximum(ranked[:, :k], 0.0)
    return np.asarray((np.exp2(cut) - 1) @ (1 / np.log2(np.arange(cut.shape[1]) + 2)))


def err(score: Floats, label: Floats, offsets: Codes, k: int = 10, *, grades: int | None = None) -> Floats:
    """(L,) expected reciprocal rank: a reader stops at an item with chance (2^y - 1) / 2^Y, Y the highest grade."""
    top = int(label.max()) if grades is None else grades
    if label.max() > top:
        raise LogError(message(f"a label is {label.max():g}", expected=f"at most grades={top}"))
    out = []
    for ranked in _ranked(score, label, offsets):
        stop = (np.exp2(np.maximum(ranked[:, :k], 0.0)) - 1) / 2.0**top
        going = np.cumprod(np.column_stack([np.ones(len(stop)), 1 - stop[:, :-1]]), axis=1)
        out.append((going * stop) @ (1 / (np.arange(stop.shape[1]) + 1)))
    return np.concatenate(out)


def average_precision(score: Floats, label: Floats, offsets: Codes, *, relevant: float = 3) -> Floats:
    """(L,) mean over relevant items (y >= `relevant`) of the precision at their rank; nan without any."""
    out = []
    for ranked in _ranked(score, label, offsets):
        hit = ranked >= relevant
        total = hit.sum(axis=1)
        precision = hit.cumsum(axis=1) / (np.arange(hit.shape[1]) + 1)
        out.append(np.where(total > 0, (precision * hit).sum(axis=1) / np.maximum(total, 1), np.nan))
    return np.concatenate(out)


def mean(values: Floats) -> float:
    """Mean over the lists that have a value; nan when none has."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def ranks(score: Floats, offsets: Codes) -> Codes:
    """(N,) rank of every item in its list, from 1."""
    owner = np.repeat(np.arange(len(offsets) - 1), lengths(offsets))
    order = np.lexsort((-np.asarray(score), owner))
    out = np.empty(len(order), np.int64)
    out[order] = np.arange(len(order)) - np.repeat(offsets[:-1], lengths(offsets)) + 1
    return out


def _ranked(score: Floats, label: Floats, offsets: Codes) -> Iterator[Floats]:
    """Labels in rank order, (l, K) for some lists at a time, -1 beyond a list's end."""
    score, label = np.asarray(score), np.asarray(label, np.float64)
    if not len(score) == len(label) == offsets[-1]:
        msg = message(f"{len(score)} scores, {len(label)} labels", expected=f"{offsets[-1]} of each")
        raise LogError(msg)
    if np.isnan(score).any():
        raise LogError(message(f"the score of row {int(np.isnan(score).argmax())} is not a number"))
    size = lengths(offsets)
    step = max(1, BLOCK // int(size.max()))
    for start in range(0, len(size), step):
        part = slice(start, start + step)
        width, rows = size[part], slice(int(offsets[start]), int(offsets[min(start + step, len(size))]))
        K = int(width.max())
        if (width == K).all():
            s, y = score[rows].reshape(-1, K), label[rows].reshape(-1, K)
        else:
            held = np.arange(K) < width[:, None]
            s, y = np.full(held.shape, -np.inf), np.full(held.shape, -1.0)
            s[held], y[held] = score[rows], label[rows]
        yield np.take_along_axis(y, np.argsort(-s, axis=1, kind="stable"), axis=1)
