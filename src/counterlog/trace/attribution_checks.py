"""Do scores predict what really happens? Subsets retrained, rows left out, the proximal problem, predictions flipped.

Shapes: n training rows, q queries, S subsets. Scores are (n, q), positive where the row helps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from counterlog.core.errors import LogError, message
from counterlog.core.torch_models import RowLoss, cross_entropy_rows, weights_of
from counterlog.core.torch_training import TrainConfig, train_stack

Floats = NDArray[np.float64]
Fit = Callable[[int], nn.Module]


@dataclass(frozen=True)
class LDS:
    """Linear datamodeling score: mean over queries of a rank correlation, its bootstrap interval, and every query's."""

    value: float
    lo: float
    hi: float
    by_query: Floats


def rank_correlation(left: Floats, right: Floats) -> Floats:
    """Spearman's correlation of the columns of two (S, q), (q,)."""
    a, b = (rankdata(v, axis=0) for v in (left, right))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    below = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.asarray((a * b).sum(axis=0) / np.maximum(below, 1e-300))


def lds(
    scores: Floats, masks: NDArray[np.bool_], measured: Floats, *, rng: int = 0, level: float = 0.95
) -> LDS:
    """How well sums of scores over a subset rank the queries' loss `measured` (S, q) after training on it alone.

    `masks` (S, n) says which rows each subset holds; the interval resamples queries.
    """
    if masks.shape != (len(measured), len(scores)) or scores.shape[1] != measured.shape[1]:
        msg = message(
            f"scores {scores.shape}, masks {masks.shape}, measured {measured.shape}",
            expected="(n, q), (S, n), (S, q)",
        )
        raise LogError(msg)
    each = rank_correlation(-(masks.astype(np.float64) @ scores), measured)
    drawn = np.random.default_rng(rng).integers(len(each), size=(2_000, len(each)))
    means = each[drawn].mean(axis=1)
    lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return LDS(float(each.mean()), float(lo), float(hi), each)


def random_subsets(n: int, count: int, rng: int, share: float = 0.5) -> NDArray[np.bool_]:
    """(S, n) subsets of one size, rows drawn without replacement."""
    gen = np.random.default_rng(rng)
    masks = np.zeros((count, n), dtype=bool)
    for row in masks:
        row[gen.permutation(n)[: round(share * n)]] = True
    return masks


def retrained(
    make: Fit,
    x: Tensor,
    y: Tensor,
    masks: NDArray[np.bool_],
    config: TrainConfig,
    *,
    seeds: Sequence[int] = (0,),
) -> list[list[nn.Module]]:
    """For every seed, a model trained on each subset; subsets must be of one size. `make(seed)` gives fresh weights."""
    chosen = [np.flatnonzero(m) for m in masks]
    if len({len(c) for c in chosen}) != 1:
        raise LogError(
            message("subsets have different sizes", expected="one size, to be trained side by side")
        )
    rows = torch.from_numpy(np.stack(chosen))
    return [
        train_stack([make(seed) for _ in chosen], x[rows], y[rows], config, rng=[seed] * len(chosen))
        for seed in seeds
    ]


def measured_losses(
    models: Sequence[nn.Module], x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows
) -> Floats:
    """(models, q) losses of the queries."""
    found = []
    with torch.no_grad():
        for m in models:
            wide = next(iter(m.parameters())).dtype
            found.append(loss(m, x.to(wide) if x.is_floating_point() else x, y).double().numpy())
    return np.stack(found)


def flipped(models: Sequence[nn.Module], x: Tensor, before: NDArray[np.int64]) -> float:
    """Share of queries whose predicted class is no longer `before`; model j answers query j."""
    with torch.no_grad():
        after = [int(m(x[j : j + 1]).argmax()) for j, m in enumerate(models)]
    return float(np.mean(np.asarray(after) != before))


def without_best(scores: Floats, k: int) -> NDArray[np.bool_]:
    """(q, n) subsets that lack each query's k most helpful rows."""
    masks = np.ones(scores.T.shape, dtype=bool)
    np.put_along_axis(masks, np.argsort(-scores.T, axis=1)[:, :k], False, axis=1)
    return masks


def pbrf_model(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    row: int,
    *,
    weight: float,
    damping: float,
    loss: RowLoss = cross_entropy_rows,
    steps: int = 200,
) -> nn.Module:
    """The model that minimises mean KL(outputs now, outputs) + weight loss(row) + damping/2 |weights - now|^2.

    It is what influence with curvature G + damping I approximates, for any network, converged or not.
    """
    moved = copy.deepcopy(model).double().eval()
    x = x.double() if x.is_floating_point() else x
    y = y.double() if y.is_floating_point() else y
    weights = weights_of(moved)
    start = [w.detach().clone() for w in weights]
    with torch.no_grad():
        now = moved(x).log_softmax(dim=-1)
    solver: Any = torch.optim.LBFGS(
        weights,
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        kl = (now.exp() * (now - moved(x).log_softmax(dim=-1))).sum(dim=-1).mean()
        near = sum(
            ((w - s).square().sum() for w, s in zip(weights, start, strict=True)), start=kl.new_zeros(())
        )
        value = kl + weight * loss(moved, x[row : row + 1], y[row : row + 1]).sum() + damping / 2 * near
        value.backward()
        return value

    solver.step(objective)
    return moved


def pbrf_changes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rows: Sequence[int],
    x_query: Tensor,
    y_query: Tensor,
    *,
    damping: float,
    weight: float | None = None,
    loss: RowLoss = cross_entropy_rows,
    steps: int = 200,
) -> Floats:
    """(rows, q) change of the queries' loss when a row is weighted down by 1/n (or `weight`) in the proximal problem;
    score / n predicts it."""
    step = -1 / len(x) if weight is None else weight
    before = measured_losses([copy.deepcopy(model).double()], x_query, y_query, loss)[0]
    found = [
        measured_losses(
            [pbrf_model(model, x, y, r, weight=step, damping=damping, loss=loss, steps=steps)],
            x_query,
            y_query,
            loss,
        )[0]
        for r in rows
    ]
    return np.asarray(np.stack(found) - before)
