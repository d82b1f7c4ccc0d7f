"""A reward model that costs one pass: ridge by action around a pooled ridge, cross-fitted from sums alone.

    z = [1, x];   q(x, a) = z' (beta + delta_a)
    beta    = argmin sum_i (r_i - z_i' b)^2 + |b|^2                        over all rows fitted on           (1)
    delta_a = argmin sum_{i: a_i = a} (r_i - z_i' beta - z_i' d)^2 + penalty |d|^2                           (2)

Rarely logged actions fall back to the pooled curve. Every fit leaves one fold out by subtracting its sums, so `folds`
fits cost what one does; the penalty is the one of `PENALTIES` with the least squared error on the folds left out.
A row `weight` multiplies its squared error; 0 leaves the row out of the fits, and it is still predicted.
Shapes: x (n, d), action (n,) codes, reward (n,), q (n, actions), coefficients (d + 1, actions). Units: the reward's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def action_ridge(
    x: Floats,
    action: Codes,
    reward: Floats,
    actions: int,
    *,
    fold: Codes,
    weight: Floats | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Floats, Floats]:
    """Out-of-fold q (n, actions), and the coefficients (d + 1, actions) of a fit to all rows.

    Raises `LogError` for x that is not finite, or for fewer than 2 folds with rows.
    """
    if not np.isfinite(x).all():
        msg = message(
            "the encoded context holds values that are not finite", hint="repair these context columns"
        )
        raise LogError(msg)
    z = np.column_stack([np.ones(len(x)), x])
    folds, place = np.unique(fold, return_inverse=True)
    if len(folds) < 2:
        msg = message("every row falls in one fold", expected="at least 2 folds with rows, or more units")
        raise LogError(msg)
    w = np.ones(len(x)) if weight is None else weight
    errors, thetas, whole = _solve(z, w, action, reward, actions, place, len(folds), penalties)
    best = int(np.argmin(errors))
    q = np.empty((len(x), actions))
    for k in range(len(folds)):
        rows = np.flatnonzero(place == k)
        q[rows] = z[rows] @ thetas[best, k]
    return q, whole[best]


def predict(coefficients: Floats, x: Floats) -> Floats:
    """q (n, actions) of coefficients (d + 1, actions) at x (n, d)."""
    q: Floats = x @ coefficients[1:] + coefficients[0]
    return q


def _solve(
    z: Floats,
    w: Floats,
    action: Codes,
    reward: Floats,
    actions: int,
    place: Codes,
    folds: int,
    penalties: Sequence[float],
) -> tuple[Floats, Floats, Floats]:
    """Squared error on folds left out (p,), coefficients (p, folds, d, actions), and of all rows (p, d, actions)."""
    d = z.shape[1]
    gram, cross = np.zeros((folds, d, d)), np.zeros((folds, d))
    for k in range(folds):
        gram[k], cross[k] = _sums(z, w, reward, np.flatnonzero(place == k))
    # the last "fold" leaves nothing out
    kept_gram = np.concatenate([gram.sum(axis=0) - gram, gram.sum(axis=0)[None]])
    kept_cross = np.concatenate([cross.sum(axis=0) - cross, cross.sum(axis=0)[None]])
    eye = np.eye(d)
    beta = np.linalg.solve(kept_gram + eye, kept_cross[..., None])[..., 0]
    errors = np.zeros(len(penalties))
    theta = np.empty((len(penalties), folds + 1, d, actions))
    order = np.argsort(action * folds + place, kind="stable")
    bounds = np.searchsorted((action * folds + place)[order], np.arange(actions * folds + 1))
    for a in range(actions):
        own_gram, own_cross = np.zeros((folds, d, d)), np.zeros((folds, d))
        for k in range(folds):
            rows = order[bounds[a * folds + k] : bounds[a * folds + k + 1]]
            own_gram[k], own_cross[k] = _sums(z, w, reward, rows)
        g = np.concatenate([own_gram.sum(axis=0) - own_gram, own_gram.sum(axis=0)[None]])
        c = np.concatenate([own_cross.sum(axis=0) - own_cross, own_cross.sum(axis=0)[None]])
        residual = c - np.einsum("kij,kj->ki", g, beta)
        for p, penalty in enumerate(penalties):
            full = beta + np.linalg.solve(g + penalty * eye, residual[..., None])[..., 0]
            theta[p, :, :, a] = full
            out = full[:-1]
            errors[p] += np.einsum("ki,kij,kj->", out, own_gram, out) - 2.0 * (out * own_cross).sum()
    return errors, theta[:, :-1], theta[:, -1]


def _sums(z: Floats, w: Floats, reward: Floats, rows: Codes) -> tuple[Floats, Floats]:
    """Z'WZ (d, d) and Z'Wr (d,) of the rows."""
    part = z[rows]
    scaled = part * w[rows, None]
    return scaled.T @ part, scaled.T @ reward[rows]
