"""A trained ensemble together with its training rows: gradients on the path of boosting, sums by leaf, row blocks.

What a row adds to a leaf depends on its own raw score only, so every pass reads the rows in blocks and keeps numbers by
leaf: memory is bounded by a block and the leaves, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.tree_models import Floats, Leaves, TreeEnsemble

TINY = 1e-12
LIKELY = (
    "the likely causes: these are not all the rows (with their sample weights) that the model was trained on; bagging, "
    "GOSS or subsample; class weights; L1, path smoothing or max_delta_step; early stopping on a part of the rows; "
    "CatBoost without leaf_estimation_iterations=1 and leaf_estimation_method='Newton'"
)


def take_rows(X: Any, rows: slice | NDArray[Any]) -> Any:
    """Rows of an array or of a frame of any library, in its own kind."""
    from sklearn.utils import _safe_indexing

    return X[rows] if isinstance(X, np.ndarray) else _safe_indexing(X, rows)


@dataclass(frozen=True)
class Block:
    """Rows `at`: leaves, predictions before every round, weighted gradients and curvatures, all (b, T, K)."""

    at: slice
    leaves: Leaves
    path: Floats  # (b, T + 1, K) raw scores
    p: Floats
    g: Floats
    h: Floats


@dataclass(frozen=True)
class TrainedTrees:
    """An ensemble, its n training rows, and their sums in every leaf (L,). Made by `trained`."""

    trees: TreeEnsemble
    X: Any
    target: Floats  # (n, K)
    weight: Floats  # (n,)
    rows_per_block: int
    gradient: Floats  # (L,) weighted sum of g
    hessian: Floats  # (L,) weighted sum of the curvature plus l2
    inverse: Floats  # (L / K, K, K) inverse of the K x K sums plus l2; empty unless full_hessian
    count: Floats  # (L,) training rows in the leaf

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.target)

    def blocks(self) -> Iterator[Block]:
        """The training rows in order, a bounded number at a time."""
        for start in range(0, self.n, self.rows_per_block):
            at = slice(start, min(start + self.rows_per_block, self.n))
            yield block(self.trees, take_rows(self.X, at), self.target[at], self.weight[at], at)

    def reconstruction(self) -> Floats:
        """(T,) largest distance between the library's leaf and the Newton step of its rows, by round (raw units)."""
        T, K = self.trees.shape
        filled = self.count > 0
        distance = np.where(filled, np.abs(newton_leaves(self) - self.trees.values), 0.0)
        worst = np.zeros(T)
        np.maximum.at(worst, self.trees.tree_of_leaf // K, distance)
        return worst


def block(trees: TreeEnsemble, X: Any, target: Floats, weight: Floats, at: slice) -> Block:
    """The path of some rows through the rounds."""
    leaves = trees.leaves(X)
    path = trees.path(leaves)
    p = trees.link(path[:, :-1])
    w = weight[:, None, None]
    return Block(at, leaves, path, p, w * (p - target[:, None, :]), w * trees.curvature(p))


def rows_for(trees: TreeEnsemble, bytes_allowed: float, extra: int = 0) -> int:
    """Rows a block so that about a dozen (T, K) arrays and `extra` numbers a row stay within `bytes_allowed`."""
    T, K = trees.shape
    return max(1, int(bytes_allowed // (8 * (12 * (T + 1) * K + extra + trees.n_features))))


def trained(
    trees: TreeEnsemble, X: Any, y: Any, sample_weight: Any = None, *, bytes_allowed: float = 2**28
) -> TrainedTrees:
    """One pass over the training rows. Raises `LogError` for lengths that differ, missing or unknown labels, weights
    that are not finite and positive."""
    target = trees.targets(y)
    n = len(target)
    rows = X.shape[0]
    if rows != n or n == 0:
        msg = message(f"X has {rows} rows and y has {n}", expected="the same number, at least one")
        raise LogError(msg)
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,) or (bad := np.flatnonzero(~(np.isfinite(weight) & (weight > 0)))).size:
        where = "" if weight.shape != (n,) else f" in {first_rows(bad)}"
        msg = message(f"sample_weight is not a positive number{where}", expected=f"{n} positive numbers")
        raise LogError(msg)
    trees = trees.with_start(target, weight)
    K, L = trees.shape[1], trees.n_leaves
    empty = np.zeros((0, K, K))
    found = TrainedTrees(
        trees,
        X,
        target,
        weight,
        rows_for(trees, bytes_allowed),
        np.zeros(L),
        np.zeros(L),
        empty,
        np.zeros(L),
    )
    full = np.zeros((L // K, K, K)) if trees.full_hessian else empty
    for b in found.blocks():
        flat = b.leaves.ravel()
        found.gradient[:] += np.bincount(flat, b.g.ravel(), minlength=L)
        found.hessian[:] += np.bincount(flat, b.h.ravel(), minlength=L)
        found.count[:] += np.bincount(flat, minlength=L)
        if trees.full_hessian:
            shared = b.leaves[:, :, 0].ravel() // K
            for k in range(K):
                for j in range(K):
                    both = (
                        b.h[..., k] if j == k else -weight[b.at, None] * b.p[..., k] * b.p[..., j]
                    ).ravel()
                    full[:, k, j] += np.bincount(shared, both, minlength=L // K)
    found.hessian[:] += trees.l2
    if trees.full_hessian:
        full += max(trees.l2, TINY) * np.eye(K)
        object.__setattr__(found, "inverse", np.linalg.inv(full))
    return found


def newton_leaves(data: TrainedTrees) -> Floats:
    """(L,) what every leaf would be as - learning rate * sum g / (sum h + l2) of the training rows; 0 when empty."""
    trees = data.trees
    if trees.full_hessian:
        g = data.gradient.reshape(-1, trees.shape[1])
        return np.asarray(-trees.learning_rate * np.einsum("skj,sj->sk", data.inverse, g).ravel())
    H = data.hessian
    return np.asarray(-trees.learning_rate * np.where(H > TINY, data.gradient / np.maximum(H, TINY), 0.0))


def require_newton(data: TrainedTrees, atol: float) -> None:
    """Raise `LogError` when the leaves are not the Newton steps of these rows: no influence can then be computed."""
    by_round = data.reconstruction()
    worst, scale = float(by_round.max(initial=0.0)), float(np.abs(data.trees.values).max(initial=0.0))
    if worst > atol + 1e-5 * scale:
        first = int(np.flatnonzero(by_round > atol + 1e-5 * scale)[0])
        named = f"; settings of the model: {', '.join(data.trees.warnings)}" if data.trees.warnings else ""
        msg = message(
            f"leaves of the {data.trees.backend} model differ from the Newton steps of these rows by up to {worst:.3g} "
            f"(first in round {first}; largest leaf {scale:.3g}){named}",
            expected=f"at most {atol + 1e-5 * scale:.3g}",
            hint=f"{LIKELY}. allow_inexact=True goes on and records the distance",
        )
        raise LogError(msg)


def solve_leaf(data: TrainedTrees, leaves: Leaves, right: Floats) -> Floats:
    """(b, T, K) `right` divided by the curvature of the row's leaf: scalar, or the K x K system of CatBoost."""
    if data.trees.full_hessian:
        inverse = data.inverse[leaves[..., 0] // data.trees.shape[1]]
        return np.asarray(np.einsum("btkj,btj->btk", inverse, right))
    return np.asarray(right / np.maximum(data.hessian[leaves], TINY))


def curve_times(data: TrainedTrees, b: Block, theta: Floats) -> Floats:
    """(b, T, K) the row's own second derivative times `theta`."""
    if data.trees.full_hessian:
        return np.asarray(b.h * theta - _off_diagonal(b.p, theta) * data.weight[b.at, None, None])
    return np.asarray(b.h * theta)


def _off_diagonal(p: Floats, theta: Floats) -> Floats:
    """sum over other classes of p_k p_j theta_j: (h_k = p_k (1 - p_k) is the diagonal)."""
    return np.asarray(p * ((p * theta).sum(axis=-1, keepdims=True) - p * theta))


def members(leaves: Leaves, first: int, count: int, values: Floats | None = None) -> sparse.csr_matrix:
    """(count, n) indicator (or `values` (n,)) of who is in which leaf of one tree, for sums by leaf as a product."""
    n = len(leaves)
    return sparse.csc_matrix(
        (np.ones(n) if values is None else values, leaves.astype(np.int64) - first, np.arange(n + 1)),
        shape=(count, n),
    ).tocsr()
