"""LeafInfluence of all rows on one number in a single backward pass over the rounds.

The number A is any function of raw scores of target rows: a sum of losses, a policy's predicted value. `pull` (L,) is
its slope by every leaf, sum over targets in the leaf of dA / dF. With a_j = dA / dF_j of training row j after round t,

    B_l        = pull_l + sum_{j in l} a_j                                        slope of A by leaf l, all that follows
    dA / dw_j += - eta B_l (g_j + theta* h_j) / H_l                               theta* = leaf / eta
    a_j       += - eta B_l w_j (dg_j / dF + theta* dh_j / dF) / H_l               for the round before

which is the sum over targets of what `leaf_derivatives.leaf_influence` finds forwards, at the cost of one target.
Shapes: n rows, T rounds, K outputs, L leaves. Memory: the leaf numbers, 4 n T K bytes, and a dozen (n, K) arrays.
"""

from __future__ import annotations

import numpy as np

from counterlog.core.errors import ConfigError, message
from counterlog.core.tree_models import Floats, Leaves, TreeEnsemble
from counterlog.trace.boosting_path import TINY, TrainedTrees


def leaf_pull(leaves: Leaves, slopes: Floats, n_leaves: int) -> Floats:
    """(L,) slopes (m, K) or (m, T, K) of target rows added up by their leaves (m, T, K)."""
    by_round = slopes if slopes.ndim == 3 else np.broadcast_to(slopes[:, None, :], leaves.shape)
    return np.asarray(np.bincount(leaves.ravel(), by_round.ravel(), minlength=n_leaves), dtype=np.float64)


def adjoint(data: TrainedTrees, pulls: Floats, boostin: Floats | None = None) -> tuple[Floats, Floats]:
    """(n, q) w dA / dw of every training row, what adding it does to first order, for q numbers with slopes `pulls`
    (L, q); and (n,) what BoostIn says of adding it, for the slopes by round `boostin` (L,) (zeros when not asked for).

    Raises `ConfigError` for CatBoost's K x K leaves.
    """
    trees, (T, K), q = data.trees, data.trees.shape, pulls.shape[1]
    if trees.full_hessian:
        msg = message(
            "the backward pass has no form for leaves that solve for all classes together (CatBoost softmax)",
            hint="use leafinfluence forwards, or boostin",
        )
        raise ConfigError(msg)
    leaves = np.empty((T, data.n, K), dtype=np.int32)
    raw = np.empty((data.n, K))
    for b in data.blocks():
        leaves[:, b.at], raw[b.at] = b.leaves.swapaxes(0, 1), b.path[:, -1]
    out, added, carried = np.zeros((data.n, q)), np.zeros(data.n), np.zeros((q, data.n, K))
    w, eta = data.weight[:, None], trees.learning_rate
    step = -eta / np.maximum(data.hessian, TINY)
    for t in reversed(range(T)):
        leaf, value = leaves[t], trees.values[leaves[t]]
        raw -= value
        low, high = np.searchsorted(trees.tree_of_leaf, [t * K, (t + 1) * K])
        local, count = (leaf - low).ravel(), high - low
        p = trees.link(raw)
        g, h, scale = p - data.target, trees.curvature(p), step[leaf]
        if boostin is not None:
            added += (scale * boostin[leaf] * (g + value * h)).sum(axis=1)
        first = scale * (g + value / eta * h)
        turn = w * scale
        for j in range(q):
            slope = pulls[low:high, j] + np.bincount(local, carried[j].ravel(), minlength=count)
            B = slope[local].reshape(leaf.shape)
            out[:, j] += (B * first).sum(axis=1)
            carried[j] += _turned(trees, p, turn * B, value / eta)
    return out * w, added * data.weight


def _turned(trees: TreeEnsemble, p: Floats, u: Floats, theta: Floats) -> Floats:
    """(n, K) sum over outputs k of u_k (dg_k / dF + theta_k dh_k / dF): the transpose of `same_leaf.second_order`."""
    if trees.objective == "squared":
        return u
    z = u * (1.0 + trees.hessian_factor * theta * (1.0 - 2.0 * p))
    mean = p * z if trees.objective == "logistic" else (p * z).sum(axis=1, keepdims=True)
    return np.asarray(p * (z - mean))
