"""Do the scores point at the right rows? The paper's five measures of an influence method, each by training again.

A method is judged by what happens when its rows are really removed or changed. `scores` are (n,) for one target or the
sum over many, positive = helpful; `fit(X, y)` trains a model that `read_trees` can read. Fractions are of n.
1 remove the most helpful rows for one target; 2 change their labels; 3 and 4 the same for a validation set; 5 flip
labels at random, inspect the rows ranked most suspicious, mend them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from counterlog.core.errors import LogError, message
from counterlog.core.tree_models import Floats
from counterlog.trace.boosting_path import take_rows
from counterlog.trace.retraining import loss_of

Fit = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any, Any], Floats]
Record = dict[str, float]
SINGLE = (0.001, 0.005, 0.01, 0.015, 0.02)
MULTI = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
INSPECT = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def most_helpful(scores: Floats, fraction: float) -> Any:
    """Rows of the highest scores: at least one, ties by row number. Raises `LogError` unless (n,) and finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        msg = message(
            f"scores have shape {scores.shape} or are not finite", expected="one number a training row"
        )
        raise LogError(msg)
    if not 0 < fraction < 1:
        raise LogError(message(f"fraction = {fraction}", expected="above 0 and below 1"))
    return np.argsort(-scores, kind="stable")[: max(1, round(fraction * len(scores)))]


def removal(
    fit: Fit,
    X: Any,
    y: Any,
    scores: Floats,
    X_test: Any,
    y_test: Any,
    fractions: Sequence[float] = SINGLE,
    loss: Loss = loss_of,
    model: Any = None,
) -> list[Record]:
    """Measure 1 (one target) and 3 (many): rise of the mean loss of the test rows, and their accuracy, after removing
    the most helpful rows. A fraction that would leave one label is left out. `model` saves the training on all rows."""
    y = np.asarray(y)
    before = float(loss(fit(X, y) if model is None else model, X_test, y_test).mean())
    out = []
    for fraction in fractions:
        keep = np.setdiff1d(np.arange(len(y)), most_helpful(scores, fraction))
        if len(np.unique(y[keep])) < min(2, len(np.unique(y))):
            continue
        without = fit(take_rows(X, keep), y[keep])
        out.append(_record(fraction, without, before, X_test, y_test, loss))
    return out


def relabelling(
    fit: Fit,
    X: Any,
    y: Any,
    scores: Floats,
    X_test: Any,
    y_test: Any,
    new_label: Any,
    fractions: Sequence[float] = SINGLE,
    loss: Loss = loss_of,
) -> list[Record]:
    """Measure 2 (one target) and 4 (many): the same after giving the most helpful rows other labels.

    `new_label` is one label for all, or (n,) what each row would get (see `other_label`)."""
    y = np.asarray(y)
    given = np.broadcast_to(np.asarray(new_label), y.shape)
    before = float(loss(fit(X, y), X_test, y_test).mean())
    out = []
    for fraction in fractions:
        changed, rows = y.copy(), most_helpful(scores, fraction)
        changed[rows] = given[rows]
        out.append(_record(fraction, fit(X, changed), before, X_test, y_test, loss))
    return out


def _record(fraction: float, model: Any, before: float, X_test: Any, y_test: Any, loss: Loss) -> Record:
    after = float(loss(model, X_test, y_test).mean())
    right = float(np.mean(np.asarray(model.predict(X_test)).ravel() == np.asarray(y_test)))
    return {"fraction": float(fraction), "loss_increase": after - before, "loss": after, "accuracy": right}


def other_label(y: Any, rng: int) -> Any:
    """(n,) a label of every row that it does not have, drawn uniformly from the others."""
    labels, code = np.unique(np.asarray(y), return_inverse=True)
    shift = np.random.default_rng(rng).integers(1, len(labels), len(code))
    return labels[(code + shift) % len(labels)]


def flip_labels(y: Any, share: float, rng: int) -> tuple[Any, Any]:
    """(n,) labels with a `share` of them changed, and the rows that were changed, in increasing order."""
    y = np.asarray(y)
    rows = np.sort(np.random.default_rng(rng).choice(len(y), round(share * len(y)), replace=False))
    noisy = y.copy()
    noisy[rows] = other_label(y, rng + 1)[rows]
    return noisy, rows


def mislabel_detection(
    fit: Fit,
    X: Any,
    y: Any,
    noisy: Any,
    suspicion: Floats,
    X_test: Any,
    y_test: Any,
    fractions: Sequence[float] = INSPECT,
    loss: Loss = loss_of,
) -> list[Record]:
    """Measure 5: inspect the most suspicious rows first and mend those that were flipped.

    `y` are the true labels, `noisy` those that the scored model was trained with, `suspicion` (n,) is high for rows to
    inspect first (self-influence; or minus the influence on a validation set). `found` is the share of all flips
    among the inspected; `loss` and `accuracy` are of a model trained after mending.
    """
    y, noisy = np.asarray(y), np.asarray(noisy)
    wrong = y != noisy
    out = []
    for fraction in fractions:
        rows = most_helpful(suspicion, fraction)
        mended = noisy.copy()
        mended[rows] = y[rows]
        model = fit(X, mended)
        record = _record(fraction, model, 0.0, X_test, y_test, loss)
        del record["loss_increase"]
        out.append({**record, "found": float(wrong[rows].sum() / max(1, wrong.sum()))})
    return out


def average_rank(gains: dict[str, Sequence[float]]) -> dict[str, float]:
    """Mean rank of each method over settings (1 = largest gain; ties share)."""
    from scipy.stats import rankdata

    names = list(gains)
    table = np.array([list(gains[name]) for name in names])
    return dict(zip(names, rankdata(-table, axis=0).mean(axis=1).tolist(), strict=True))


def relative_gain(gains: Sequence[float], random: Sequence[float]) -> float:
    """Geometric mean over settings of gain / random's gain, both held above 1e-4 of the largest gain."""
    a, b = np.asarray(gains, dtype=np.float64), np.asarray(random, dtype=np.float64)
    floor = 1e-4 * max(float(np.abs(a).max()), float(np.abs(b).max()), 1e-300)
    return float(np.exp(np.mean(np.log(np.maximum(a, floor) / np.maximum(b, floor)))))
