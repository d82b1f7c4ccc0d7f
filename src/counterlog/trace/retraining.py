"""Influence by training again: leave-one-out, subsampled values, truncated Shapley values.

`losses(rows)` trains on those rows (an index array) and gives the targets' losses (m,). These are the scores to compare
with, and the ones to pay for: one training a row, or hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, message
from counterlog.core.tree_models import Floats, read_trees
from counterlog.trace.boosting_path import take_rows

Rows = NDArray[np.int64]
Losses = Callable[[Rows], Floats]


def trainer(model: Any) -> Callable[..., Any]:
    """`fit(X, y, sample_weight=None)` on a fresh copy of a model with scikit-learn's interface. Raises `ConfigError`
    for a bare booster, which does not know how it was trained."""
    if not (hasattr(model, "fit") and hasattr(model, "get_params")):
        msg = message(
            f"a {type(model).__name__} cannot be trained again",
            hint="pass the estimator (LGBMClassifier, XGBRegressor, ...), or your own fit(X, y, sample_weight)",
        )
        raise ConfigError(msg)

    def fit(X: Any, y: Any, sample_weight: Any = None) -> Any:
        fresh = type(model)(**model.get_params())
        return fresh.fit(X, y) if sample_weight is None else fresh.fit(X, y, sample_weight=sample_weight)

    return fit


def losses_without(
    fit: Callable[..., Any], X: Any, y: Any, weight: Any, X_test: Any, y_test: Any
) -> tuple[Losses, Rows]:
    """`rows -> (m,)` losses of the targets after training on those rows; and all rows."""
    y, weight = np.asarray(y), None if weight is None else np.asarray(weight)

    def losses(rows: Rows) -> Floats:
        part = None if weight is None else weight[rows]
        return loss_of(fit(take_rows(X, rows), y[rows], part), X_test, y_test)

    return losses, np.arange(len(y))


def loss_of(model: Any, X_test: Any, y_test: Any) -> Floats:
    """(m,) losses of a fitted model, from the library's own raw scores."""
    trees = read_trees(model)
    return trees.loss(trees.library_raw(X_test), trees.targets(y_test))


def leave_one_out(losses: Losses, rows: Rows, jobs: int = 1) -> Floats:
    """(n, m) loss after training without row i, minus loss after training with all rows."""
    from joblib import Parallel, delayed

    now = losses(rows)
    found = Parallel(n_jobs=jobs)(delayed(losses)(np.delete(rows, i)) for i in range(len(rows)))
    return np.asarray(np.stack(found) - now)


def subsampled(losses: Losses, rows: Rows, fits: int, share: float, rng: int) -> Floats:
    """(n, m) mean loss of models trained without row i minus mean loss of models trained with it.

    Each model sees a random `share` of the rows; a row that was always in, or always out, scores 0.
    """
    gen, n = np.random.default_rng(rng), len(rows)
    size = min(n - 1, max(1, round(share * n)))
    total: Any = 0.0
    inside: Any = 0.0
    count = np.zeros(n)
    for _ in range(fits):
        chosen = np.sort(gen.choice(n, size, replace=False))
        found, mask = losses(rows[chosen]), np.zeros(n)
        mask[chosen] = 1.0
        inside, total, count = inside + mask[:, None] * found, total + found, count + mask
    out = fits - count
    with_row = inside / np.maximum(count, 1)[:, None]
    without = (total - inside) / np.maximum(out, 1)[:, None]
    return np.asarray(np.where(((count > 0) & (out > 0))[:, None], without - with_row, 0.0))


def shapley(
    losses: Losses, rows: Rows, empty: Floats, permutations: int, truncation: float, step: int, rng: int
) -> Floats:
    """(n, m) truncated Monte-Carlo Shapley values: rows enter in random order; a row is paid the loss it takes away.

    `empty` (m,) are the losses of a constant guess. Rows enter `step` at a time and share what the step earned. A
    permutation stops after `truncation` of the rows (the rest earn 0 in it), the paper's shortcut.
    """
    gen, n = np.random.default_rng(rng), len(rows)
    value = np.zeros((n, len(empty)))
    for _ in range(permutations):
        order, before = gen.permutation(n), empty
        for end in range(step, min(n, max(step, round(truncation * n))) + 1, step):
            after = losses(rows[np.sort(order[:end])])
            value[order[end - step : end]] += (before - after) / step
            before = after
    return value / permutations
