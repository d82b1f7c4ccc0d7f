"""A trained boosted-tree model as flat arrays: leaf values, leaf of every row, start value, and per-round gradients.

`read_trees(model)` takes a fitted LightGBM, XGBoost, CatBoost or scikit-learn model and retrains nothing. Every leaf of
every tree of every round has one number in [0, L), so that a round's work is a gather (`values[leaves]`) or a sum by
leaf (`bincount`). The leaf of a row is asked of the library itself, so missing values and categorical splits are the
library's own. With F the raw score (log-odds, or the predicted number) of a row and Y its target:

    F_0 = bias;   F_t = F_{t-1} + values[leaf of round t];   g = link(F) - Y;   h = c p (1 - p), or 1 for squares
    a leaf of the library = - learning rate * sum of g / (sum of h + l2)                      (the Newton step)

`c` is 1, or what the library multiplies the softmax's second derivative with; `full_hessian` means that a leaf of
CatBoost solves for its K numbers together with the whole K x K matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, NotFittedError, first_rows, message

Floats = NDArray[np.float64]
Leaves = NDArray[np.int32]
Objective = Literal["squared", "logistic", "softmax"]
CLIP = 1e-5
UNITS = {
    "squared": "half squared units of the target",
    "logistic": "nats",
    "softmax": "nats",
}


@dataclass(frozen=True)
class TreeEnsemble:
    """One boosted model. Shapes: T rounds, K outputs, L leaves in all; raw scores in log-odds or target units."""

    backend: str
    objective: Objective
    values: Floats  # (L,) what a leaf adds to the raw score, learning rate included
    tree_of_leaf: NDArray[np.int64]  # (L,) round * K + output
    shape: tuple[int, int]  # (T, K)
    bias: Floats  # (K,)
    learning_rate: float
    l2: float
    hessian_factor: float
    full_hessian: bool
    bias_in_first_round: bool  # LightGBM writes the start value into the first trees; see `with_start`
    n_features: int
    classes: NDArray[Any] | None
    warnings: tuple[str, ...]  # settings of the model that break the Newton form of its leaves
    find_leaves: Callable[[Any], Leaves]
    library_raw: Callable[[Any], Floats]

    @property
    def n_leaves(self) -> int:
        """L, leaves of all trees together."""
        return len(self.values)

    def leaves(self, X: Any) -> Leaves:
        """(n, T, K) leaf numbers of the rows, from the library. Raises `LogError` for another number of columns."""
        found = getattr(X, "shape", (0, 0))
        if len(found) != 2:
            msg = message(f"X has shape {tuple(found)}", expected="rows x columns, as it was given to fit")
            raise LogError(msg)
        if found[1] != self.n_features:
            msg = message(
                f"X has {found[1]} columns and the model was trained on {self.n_features}",
                hint="pass the columns that were given to fit, in the same order",
            )
            raise LogError(msg)
        if found[0] == 0:
            return np.zeros((0, *self.shape), dtype=np.int32)
        leaves: Leaves = self.find_leaves(X)
        return leaves

    def path(self, leaves: Leaves) -> Floats:
        """(n, T, K) leaf numbers -> (n, T + 1, K) raw scores before the first round, after it, ..., at the end."""
        out = np.empty((len(leaves), self.shape[0] + 1, self.shape[1]))
        out[:, 0] = self.bias
        np.cumsum(self.values[leaves], axis=1, out=out[:, 1:])
        out[:, 1:] += self.bias
        return out

    def raw(self, X: Any) -> Floats:
        """(n, K) raw scores from the flat arrays."""
        return np.asarray(self.bias + self.values[self.leaves(X)].sum(axis=1))

    def targets(self, y: Any) -> Floats:
        """(n,) labels or numbers -> (n, K): the number, 0 or 1, or one-hot. Raises `LogError` for unknown labels."""
        y = np.asarray(y)
        if y.ndim != 1:
            raise LogError(message(f"y has shape {y.shape}", expected="one label or number a row"))
        if y.dtype.kind in "fO":
            missing = np.isnan(y) if y.dtype.kind == "f" else np.array([v is None or v != v for v in y])
            if missing.any():
                msg = message(
                    f"y is missing in {first_rows(np.flatnonzero(missing))}", hint="drop these rows"
                )
                raise LogError(msg)
        if self.objective == "squared":
            return np.asarray(y, dtype=np.float64)[:, None]
        if self.classes is None:
            raise NotFittedError(
                message("the classes of the model are not known", hint="see read_trees(classes=...)")
            )
        known, code = np.unique(self.classes, return_inverse=True)
        if (known.dtype.kind in "biuf") != (y.dtype.kind in "biuf"):
            msg = message(
                f"y holds {y.dtype} labels",
                expected=f"labels as in fit, {known.dtype}: {known.tolist()[:10]}",
            )
            raise LogError(msg)
        place = np.searchsorted(known, y)
        place = np.minimum(place, len(known) - 1)
        if (bad := np.flatnonzero(known[place] != y)).size:
            msg = message(
                f"y holds {y[bad[0]]!r} ({first_rows(bad)}), which the model never saw",
                expected=f"one of {', '.join(map(repr, self.classes.tolist()[:10]))}",
            )
            raise LogError(msg)
        index = np.argsort(code)[place]
        if self.objective == "logistic":
            return np.asarray(index, dtype=np.float64)[:, None]
        return np.asarray(np.eye(self.shape[1])[index])

    def link(self, raw: Floats) -> Floats:
        """(..., K) raw scores -> predicted numbers or probabilities."""
        if self.objective == "squared":
            return raw
        if self.objective == "logistic":
            return np.asarray(0.5 * (1 + np.tanh(0.5 * raw)))
        e = np.exp(raw - raw.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def curvature(self, p: Floats) -> Floats:
        """(..., K) predictions -> the diagonal second derivative that the library puts into a leaf."""
        return np.ones_like(p) if self.objective == "squared" else self.hessian_factor * p * (1 - p)

    def moved(self, p: Floats, step: Floats) -> tuple[Floats, Floats]:
        """How g and `curvature` change when the raw scores move by `step` (same shape as p): exact, classes coupled."""
        if self.objective == "squared":
            return step, np.zeros_like(step)
        mean = p * step if self.objective == "logistic" else (p * step).sum(axis=-1, keepdims=True)
        g = p * (step - mean)
        return g, self.hessian_factor * (1 - 2 * p) * g

    def loss(self, raw: Floats, target: Floats) -> Floats:
        """(..., K) raw scores and targets -> (...) loss; probabilities are held inside [1e-5, 1 - 1e-5]."""
        if self.objective == "squared":
            return np.asarray(0.5 * ((raw - target) ** 2)[..., 0])
        p = np.clip(self.link(raw), CLIP, 1 - CLIP)
        if self.objective == "logistic":
            return np.asarray(-(target * np.log(p) + (1 - target) * np.log(1 - p))[..., 0])
        return np.asarray(-(target * np.log(p)).sum(axis=-1))

    def with_start(self, target: Floats, weight: Floats) -> TreeEnsemble:
        """The same model with LightGBM's start value taken out of the first round: (n, K) targets, (n,) weights."""
        if not self.bias_in_first_round:
            return self
        mean = (weight[:, None] * target).sum(axis=0) / weight.sum()
        if self.objective == "logistic":
            start = np.log(np.clip(mean, 1e-15, None) / np.clip(1 - mean, 1e-15, None))
        else:
            start = np.log(np.clip(mean, 1e-15, None)) if self.objective == "softmax" else mean
        values, K = self.values.copy(), self.shape[1]
        first = self.tree_of_leaf < K
        values[first] -= start[self.tree_of_leaf[first]]
        return replace(self, values=values, bias=self.bias + start, bias_in_first_round=False)


def read_trees(
    model: Any,
    *,
    learning_rate: float | None = None,
    l2: float | None = None,
    classes: Any = None,
) -> TreeEnsemble:
    """The flat form of a fitted model. Give `learning_rate` and `l2` when a saved model no longer knows them (XGBoost
    files), `classes` when a booster has no label names (then 0, 1, ... is assumed).

    Raises `ConfigError` for a kind, an objective or a booster that is not read, `NotFittedError` before `fit`.
    """
    from counterlog.core import sklearn_trees, tree_readers

    module = type(model).__module__.split(".")[0]
    readers = {
        "lightgbm": tree_readers.lightgbm_trees,
        "xgboost": tree_readers.xgboost_trees,
        "catboost": tree_readers.catboost_trees,
        "sklearn": sklearn_trees.sklearn_trees,
    }
    if module not in readers:
        msg = message(
            f"a {type(model).__name__} is not a boosted-tree model that can be read",
            expected="LightGBM, XGBoost, CatBoost, or scikit-learn's (Hist)GradientBoosting",
        )
        raise ConfigError(msg)
    found = readers[module](model)
    if learning_rate is not None:
        found = replace(found, learning_rate=learning_rate)
    if l2 is not None:
        found = replace(found, l2=l2)
    if classes is not None:
        found = replace(found, classes=np.asarray(classes))
    elif found.classes is None and found.objective != "squared":
        found = replace(found, classes=np.arange(max(2, found.shape[1])))
    return found
