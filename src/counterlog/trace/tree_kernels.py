"""Baselines of similarity, and TREX: a linear model in the space of leaves that stands in for the ensemble.

In the space `lpw` a row is its leaf indicators, each divided by the training rows of the leaf: two rows have the inner
product  sum over trees of 1[same leaf] / count^2.  `lp` leaves the indicators as they are; `lo` puts the leaf's
value. TREX fits f = W phi by  min (1/n) sum loss + l2 |W|^2; at the optimum W = sum_i alpha_i phi_i with
alpha_i = - (dloss_i / df_i) / (2 l2 n), so a prediction is a sum over training rows and one row can be taken out.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from counterlog.core.errors import ConvergenceError, message
from counterlog.core.tree_models import Floats, Leaves, TreeEnsemble
from counterlog.trace.boosting_path import TrainedTrees


def features(data: TrainedTrees, leaves: Leaves, space: str) -> sparse.csr_matrix:
    """(rows, L) tree-space features: `lp` 1, `lpw` 1 / count, `lo` leaf value, `low` leaf value / count."""
    flat = leaves.reshape(len(leaves), -1)
    value = data.trees.values[flat] if space.startswith("lo") else np.ones(flat.shape)
    if space.endswith("w"):
        value = value / np.maximum(data.count[flat], 1.0)
    ends = np.arange(len(flat) + 1) * flat.shape[1]
    return sparse.csr_matrix((value.ravel(), flat.ravel(), ends), shape=(len(flat), data.trees.n_leaves))


def label_sign(trees: TreeEnsemble, target: Floats, other: Floats, other_raw: Floats) -> Floats:
    """(n, m) +1 where a training row has the target's label, else -1; for numbers, where both lie on one side of the
    target's prediction."""
    if trees.objective == "squared":
        return np.where((target >= other_raw.T) == (other >= other_raw).T, 1.0, -1.0)
    if trees.objective == "logistic":
        return np.where(target == other.T, 1.0, -1.0)
    return np.where(target.argmax(axis=1)[:, None] == other.argmax(axis=1)[None], 1.0, -1.0)


def tree_similarity(phi: sparse.csr_matrix, phi_test: sparse.csr_matrix, measure: str) -> Floats:
    """(n, m) `dot`, `cosine`, or `euclid` (1 / distance, at most 1e12) in tree space."""
    dot = (phi @ phi_test.T).toarray()
    if measure == "dot":
        return np.asarray(dot)
    one = np.asarray(phi.multiply(phi).sum(axis=1)).ravel()
    two = np.asarray(phi_test.multiply(phi_test).sum(axis=1)).ravel()
    if measure == "cosine":
        return np.asarray(dot / np.maximum(np.sqrt(one[:, None] * two[None]), 1e-300))
    square = np.maximum(one[:, None] + two[None] - 2 * dot, 0.0)
    return np.asarray(1.0 / np.maximum(np.sqrt(square), 1e-12))


def input_similarity(X: Floats, X_test: Floats) -> Floats:
    """(n, m) 1 / Euclidean distance of the raw columns (at most 1e12)."""
    square = (X**2).sum(axis=1)[:, None] + (X_test**2).sum(axis=1)[None] - 2 * X @ X_test.T
    return np.asarray(1.0 / np.maximum(np.sqrt(np.maximum(square, 0.0)), 1e-12))


def representers(trees: TreeEnsemble, kernel: Floats, target: Floats, l2: float, tol: float = 1e-8) -> Floats:
    """(n, K) alpha at the optimum, from the kernel (n, n). Raises `ConvergenceError` when the gradient stays above tol.

    Solved in the coordinates B of the kernel's eigenvectors (f = U sqrt(s) B), where the problem is smooth and strictly
    convex; squared loss in closed form, the others by L-BFGS and Newton steps on the n x n system for one output.
    """
    n, K = target.shape
    s, U = np.linalg.eigh(kernel)
    if trees.objective == "squared":
        return np.asarray(U @ ((U.T @ target) / (2 * l2 * n + np.maximum(s, 0))[:, None]))
    keep = s > s.max() * 1e-14
    basis = U[:, keep] * np.sqrt(s[keep])

    def value(flat: Floats) -> tuple[float, Floats]:
        B = flat.reshape(-1, K)
        f = basis @ B
        if trees.objective == "logistic":
            loss = np.logaddexp(0.0, f).sum() - (target * f).sum()
        else:
            top = f.max(axis=1, keepdims=True)
            loss = (np.log(np.exp(f - top).sum(axis=1)) + top[:, 0]).sum() - (target * f).sum()
        slope = basis.T @ (trees.link(f) - target) / n + 2 * l2 * B
        return float(loss / n + l2 * (B**2).sum()), slope.ravel()

    start = np.zeros(basis.shape[1] * K)
    found = minimize(
        value,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-16, "gtol": tol * 1e-2},
    )
    B = found.x.reshape(-1, K)
    if K == 1:
        for _ in range(3):
            p = trees.link(basis @ B)
            slope = basis.T @ (p - target) / n + 2 * l2 * B
            H = (basis * (p * (1 - p))).T @ basis / n + 2 * l2 * np.eye(basis.shape[1])
            B = B - np.linalg.solve(H, slope)
    worst = float(np.abs(value(B.ravel())[1]).max())
    if worst > tol:
        msg = message(
            f"the surrogate's gradient is {worst:.2g}", expected=f"at most {tol:g}", hint="raise trex_l2"
        )
        raise ConvergenceError(msg)
    return np.asarray((target - trees.link(basis @ B)) / (2 * l2 * n))


def trex(
    data: TrainedTrees, train: Leaves, test: Leaves, test_target: Floats, space: str, l2: float
) -> Floats:
    """(n, m) loss of the surrogate without the row's term minus with it: positive for helpful rows."""
    trees = data.trees
    phi, phi_test = features(data, train, space), features(data, test, space)
    alpha = representers(trees, (phi @ phi.T).toarray(), data.target, l2)
    cross = (phi @ phi_test.T).toarray()
    whole = cross.T @ alpha
    out = np.empty(cross.shape)
    now = trees.loss(whole, test_target)
    for j in range(len(whole)):
        without = whole[j] - cross[:, j, None] * alpha
        out[:, j] = trees.loss(without, np.broadcast_to(test_target[j], without.shape)) - now[j]
    return out
