"""Scores that are sums over shared leaves: BoostIn, LeafInfSP, LeafSim. Rows stream, targets stand in one matrix.

For a training row i and a target j:   I_ij = sum over rounds t, outputs k of  1[same leaf] move_i[t, k] side_j[t, k].
`move` is how far removing the row shifts its leaf, `side` the slope of the target's loss. With the sides of m targets
laid out by leaf, A (L, m), a block of rows is one sparse product: (b x L, T K entries a row) times A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import sparse

from counterlog.core.errors import LogError, message
from counterlog.core.tree_models import Floats, Leaves, TreeEnsemble
from counterlog.trace.boosting_path import Block, TrainedTrees, block, curve_times, solve_leaf

Moves = Callable[[TrainedTrees, Block], Floats]


def boostin_moves(leaf_scale: str = "shrunk", leaf_weight: str = "none") -> Moves:
    """BoostIn: eta (g + theta h) / H. `shrunk` puts theta as it stands in the model (the released code), `newton` the
    step before shrinking (the derivative of the leaf). `leaf_weight` divides by the leaf's rows once or twice."""

    def moves(data: TrainedTrees, b: Block) -> Floats:
        eta = data.trees.learning_rate
        theta = data.trees.values[b.leaves] / (eta if leaf_scale == "newton" else 1.0)
        out = eta * solve_leaf(data, b.leaves, b.g + curve_times(data, b, theta))
        power = {"none": 0, "size": 1, "size_squared": 2}[leaf_weight]
        return out / data.count[b.leaves] ** power if power else out

    return moves


def single_point_moves(data: TrainedTrees, b: Block) -> Floats:
    """LeafInfSP: the row's leaf moves, and its own score with it, so that later gradients of the row move too.

    (b, T, K): minus the derivative of the leaf by the row's weight, the chain through the row itself only.
    """
    trees, (T, K) = data.trees, data.trees.shape
    w, own = data.weight[b.at, None], np.zeros((len(b.leaves), K))
    theta = trees.values[b.leaves] / trees.learning_rate
    first = b.g + curve_times(data, b, theta)
    out = np.empty_like(b.g)
    for t in range(T):
        later = w * second_order(trees, b.p[:, t], own, theta[:, t])
        step = (
            trees.learning_rate
            * solve_leaf(data, b.leaves[:, t : t + 1], (first[:, t] + later)[:, None])[:, 0]
        )
        out[:, t] = step
        own -= step
    return out


def second_order(trees: TreeEnsemble, p: Floats, step: Floats, theta: Floats) -> Floats:
    """(..., K) how g + H theta of a row changes when its raw score moves by `step`."""
    g, h = trees.moved(p, step)
    if not trees.full_hessian:
        return np.asarray(g + theta * h)
    return np.asarray(
        g
        + g * theta
        - g * (p * theta).sum(axis=-1, keepdims=True)
        - p * (g * theta).sum(axis=-1, keepdims=True)
    )


def leaf_sim_moves(data: TrainedTrees, b: Block) -> Floats:
    """LeafSim: 1 / (rows in the leaf)^2; the sign comes from the labels afterwards."""
    return np.asarray(1.0 / data.count[b.leaves] ** 2)


def target_sides(trees: TreeEnsemble, X: Any, target: Floats, kind: str) -> tuple[Leaves, Floats]:
    """(m, T, K) leaves and slopes of the targets: `path` before each round, `final` at the end, `one` for 1."""
    b = block(trees, X, target, np.ones(len(target)), slice(0, len(target)))
    if kind == "path":
        return b.leaves, b.g
    if kind == "one":
        return b.leaves, np.ones_like(b.g)
    last = trees.link(b.path[:, -1]) - target
    return b.leaves, np.broadcast_to(last[:, None, :], b.g.shape)


def by_leaf(leaves: Leaves, sides: Floats, n_leaves: int) -> sparse.csr_matrix:
    """(m, L) sides at their leaves."""
    m, each = len(leaves), leaves[0].size
    return sparse.csr_matrix((sides.ravel(), leaves.ravel(), np.arange(m + 1) * each), shape=(m, n_leaves))


def stream(
    data: TrainedTrees, moves: Moves, leaves: Leaves, sides: Floats, bytes_allowed: float
) -> Iterator[tuple[slice, slice, Floats]]:
    """(rows, targets, scores (b, m')) of every block; the dense side matrix and the scores share `bytes_allowed`."""
    L, m = data.trees.n_leaves, len(leaves)
    spread = by_leaf(leaves, sides, L)
    width = int(min(m, max(1, bytes_allowed // (32 * L))))
    height = int(min(data.rows_per_block, max(1, bytes_allowed // (32 * width))))
    parts = range(0, m, width)
    dense = [np.ascontiguousarray(spread[:width].toarray().T)] if len(parts) == 1 else []
    for b in data.blocks():
        move = moves(data, b).reshape(len(b.leaves), -1)
        flat = b.leaves.reshape(len(b.leaves), -1)
        for j in parts:
            A = dense[0] if dense else np.ascontiguousarray(spread[j : j + width].toarray().T)
            for i in range(0, len(flat), height):
                part, v = flat[i : i + height], move[i : i + height]
                ends = np.arange(len(part) + 1) * flat.shape[1]
                rows = sparse.csr_matrix((v.ravel(), part.ravel(), ends), shape=(len(part), L))
                at = slice(b.at.start + i, b.at.start + i + len(part))
                yield at, slice(j, min(j + width, m)), rows @ A


def summed(data: TrainedTrees, moves: Moves, leaves: Leaves, sides: Floats) -> Floats:
    """(n,) the scores added over all targets, without the (n, m) matrix: sides are added by leaf first."""
    total = np.bincount(leaves.ravel(), sides.ravel(), minlength=data.trees.n_leaves)
    out = np.empty(data.n)
    for b in data.blocks():
        out[b.at] = (moves(data, b) * total[b.leaves]).sum(axis=(1, 2))
    return out


def own(data: TrainedTrees, moves: Moves, kind: str) -> Floats:
    """(n,) self-influence: each row as its own target."""
    out = np.empty(data.n)
    for b in data.blocks():
        if kind == "final":
            side = (data.trees.link(b.path[:, -1]) - data.target[b.at])[:, None, :]
        else:
            side = np.ones_like(b.g) if kind == "one" else b.p - data.target[b.at, None, :]
        out[b.at] = (moves(data, b) * side).sum(axis=(1, 2))
    return out


def relabel_moves(label: Floats, leaf_scale: str) -> Moves:
    """BoostIn for a changed label (K,) target: eta [(g + theta h) / H - (g' + theta h') / (H - h + h')], with h' = h
    because the curvature of these losses does not depend on the label."""
    base = boostin_moves(leaf_scale)

    def moves(data: TrainedTrees, b: Block) -> Floats:
        changed = Block(
            b.at, b.leaves, b.path, b.p, data.weight[b.at, None, None] * (b.p - label[None, None, :]), b.h
        )
        return base(data, b) - base(data, changed)

    return moves


def refuse_empty(m: int) -> None:
    """No targets, no scores."""
    if m == 0:
        raise LogError(message("there is no target row", expected="at least one row in X_test"))
