"""LeafInfluence and LeafRefit: what later trees do when a row goes, the structure held fixed.

LeafRefit takes the row away and computes every leaf again, round after round: exact. LeafInfluence is its derivative by
the row's weight: the first leaf moves, with it the scores of all rows in the leaf, with them the gradients of later
rounds. Both hold one column a removed row: (n, columns) numbers an output, so n^2 in all; columns come in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from counterlog.core.tree_models import Floats, Leaves
from counterlog.trace.boosting_path import TINY, Block, TrainedTrees, curve_times, members
from counterlog.trace.same_leaf import second_order


def column_blocks(n: int, m: int, K: int, bytes_allowed: float) -> Iterator[NDArray[np.int64]]:
    """Training rows whose removal is computed together."""
    width = int(max(1, bytes_allowed // (8 * 6 * K * (n + m))))
    for start in range(0, n, width):
        yield np.arange(start, min(start + width, n))


def refitted(
    data: TrainedTrees, leaves: Leaves, test: Leaves, weight: Floats, target: Floats | None = None
) -> Floats:
    """Raw scores (m, B, K) of the targets when the leaves are computed again with row weights `weight` (n, B).

    `target` (n, B, K), if given, replaces the labels. A leaf that loses all its rows becomes 0.
    """
    trees, (T, K), (n, B) = data.trees, data.trees.shape, weight.shape
    label = data.target[:, None, :] if target is None else target
    F = np.broadcast_to(trees.bias, (n, B, K)).copy()
    out = np.broadcast_to(trees.bias, (len(test), B, K)).copy()
    for t in range(T):
        p = trees.link(F)
        g = weight[..., None] * (p - label)
        if trees.full_hessian:
            first, step = _full_step(data, t, leaves[:, t, 0] // K, weight, p, g)
            F += step[leaves[:, t, 0] // K - first]
            out += step[test[:, t, 0] // K - first]
            continue
        h = weight[..., None] * trees.curvature(p)
        for k in range(K):
            first, size = _span(data, t, k)
            member = members(leaves[:, t, k], first, size)
            G, H = member @ g[..., k], member @ h[..., k] + trees.l2
            step = np.where(H > TINY, -trees.learning_rate * G / np.maximum(H, TINY), 0.0)
            F[..., k] += step[leaves[:, t, k] - first]
            out[..., k] += step[test[:, t, k] - first]
    return out


def _full_step(
    data: TrainedTrees, t: int, shared: Leaves, weight: Floats, p: Floats, g: Floats
) -> tuple[int, Floats]:
    """CatBoost's K x K Newton step of one round: number of its first leaf, and (leaves, B, K) new leaf values."""
    trees, (n, B, K) = data.trees, p.shape
    first, count = (number // K for number in _span(data, t, 0))
    member = members(shared, first, count)
    G = (member @ g.reshape(n, -1)).reshape(count, B, K)
    H = np.empty((count, B, K, K))
    for k in range(K):
        for j in range(K):
            H[..., k, j] = member @ (weight * p[..., k] * ((j == k) - p[..., j]))
    H += max(trees.l2, TINY) * np.eye(K)
    return first, -trees.learning_rate * np.linalg.solve(H, G[..., None])[..., 0]


def leaf_refit(
    data: TrainedTrees, leaves: Leaves, test: Leaves, target: Floats, rows: NDArray[np.int64]
) -> Floats:
    """(B, m) loss of the targets with row i left out of every leaf, minus their loss now: positive for helpful rows."""
    weight = np.repeat(data.weight[:, None], len(rows), axis=1)
    weight[rows, np.arange(len(rows))] = 0.0
    return _against_now(data, refitted(data, leaves, test, weight), test, target)


def leaf_refit_relabelled(
    data: TrainedTrees, leaves: Leaves, test: Leaves, target: Floats, rows: NDArray[np.int64], label: Floats
) -> Floats:
    """(B, m) the same for row i kept with another label (K,): positive when the new label raises the target's loss."""
    weight = np.repeat(data.weight[:, None], len(rows), axis=1)
    labels = np.repeat(data.target[:, None, :], len(rows), axis=1)
    labels[rows, np.arange(len(rows))] = label
    return _against_now(data, refitted(data, leaves, test, weight, labels), test, target)


def _against_now(data: TrainedTrees, raw: Floats, test: Leaves, target: Floats) -> Floats:
    now = refitted_now(data, test)
    return np.asarray((data.trees.loss(raw, target[:, None, :]) - data.trees.loss(now, target)[:, None]).T)


def refitted_now(data: TrainedTrees, test: Leaves) -> Floats:
    """(m, K) raw scores of the model as it stands."""
    return np.asarray(data.trees.bias + data.trees.values[test].sum(axis=1))


def leaf_influence(
    data: TrainedTrees, whole: Block, test: Leaves, target: Floats, rows: NDArray[np.int64]
) -> Floats:
    """(B, m) minus the derivative of the targets' loss by the weight of row i, through all rows and all later trees.

    J[j, b, k] is the derivative of row j's raw score by the weight of rows[b].
    """
    trees, (T, K), n, B = data.trees, data.trees.shape, data.n, len(rows)
    J, P = np.zeros((n, B, K)), np.zeros((len(test), B, K))
    theta = trees.values[whole.leaves] / trees.learning_rate
    own = (whole.g + curve_times(data, whole, theta))[rows]
    column = np.arange(B)
    for t in range(T):
        p, leaf = whole.p[:, t], whole.leaves[:, t]
        if K == 1:
            slope = data.weight[:, None] * second_order(trees, p, np.ones_like(p), theta[:, t])
            first, size = _span(data, t, 0)
            S = members(leaf[:, 0], first, size, slope[:, 0]) @ J[..., 0]
            np.add.at(S, (leaf[rows, 0] - first, column), own[:, t, 0])
            D = -trees.learning_rate * S / np.maximum(data.hessian[first : first + size], TINY)[:, None]
            J[..., 0] += D[leaf[:, 0] - first]
            P[..., 0] += D[test[:, t, 0] - first]
            continue
        later = data.weight[:, None, None] * second_order(trees, p[:, None], J, theta[:, t, None])
        if trees.full_hessian:
            first, size = _span(data, t, 0)
            shared, first, size = leaf[:, 0] // K, first // K, size // K
            R = (members(shared, first, size) @ later.reshape(n, -1)).reshape(size, B, K)
            np.add.at(R, (shared[rows] - first, column), own[:, t])
            D = -trees.learning_rate * np.einsum("skj,sbj->sbk", data.inverse[first : first + size], R)
            J += D[shared - first]
            P += D[test[:, t, 0] // K - first]
            continue
        for k in range(K):
            first, size = _span(data, t, k)
            S = members(leaf[:, k], first, size) @ later[..., k]
            np.add.at(S, (leaf[rows, k] - first, column), own[:, t, k])
            D = -trees.learning_rate * S / np.maximum(data.hessian[first : first + size], TINY)[:, None]
            J[..., k] += D[leaf[:, k] - first]
            P[..., k] += D[test[:, t, k] - first]
    slope = trees.link(refitted_now(data, test)) - target
    return np.asarray(-np.einsum("mk,mbk->bm", slope, P))


def _span(data: TrainedTrees, t: int, k: int) -> tuple[int, int]:
    """First leaf and number of leaves of a tree; with shared leaves, of the whole round."""
    trees, K = data.trees, data.trees.shape[1]
    if trees.full_hessian:
        low, high = np.searchsorted(trees.tree_of_leaf[::K], [t * K, (t + 1) * K])
        return int(low) * K, int(high - low) * K
    low, high = np.searchsorted(trees.tree_of_leaf, [t * K + k, t * K + k + 1])
    return int(low), int(high - low)
