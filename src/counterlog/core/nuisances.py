"""Nuisance models by name: conditional means and chances as predictions, from scikit-learn learners.

    name        a 0/1 target                                    any number
    constant    share                                           mean
    linear      least squares                                   least squares
    quadratic   least squares on products                       least squares on products
    logit       logistic regression, next to no penalty         -
    logit2      logistic regression on products, C = 1          -
    ridge2      -                                               ridge on products, penalty 1
    forest      random forest                                   random forest
    boosting    histogram boosting                              histogram boosting

`products` are the columns, their squares, and, up to twelve columns, their pairwise products. Any scikit-learn
estimator stands beside these under a name of the caller's; it sees the columns as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.crossfit import make_model
from counterlog.core.errors import ConfigError, message
from counterlog.core.second_order import SecondOrder

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Learners = Mapping[str, Any]
CHANCES = ("constant", "linear", "quadratic", "logit", "logit2", "forest", "boosting")
MEANS = ("constant", "linear", "quadratic", "ridge2", "forest", "boosting")
ON_PRODUCTS = ("quadratic", "logit2", "ridge2")
FOREST: dict[str, Any] = {"n_estimators": 50, "min_samples_leaf": 20, "max_features": 0.5, "max_samples": 0.5}
BOOSTING: dict[str, Any] = {"max_iter": 60, "learning_rate": 0.1, "max_leaf_nodes": 8, "min_samples_leaf": 40}


@dataclass(frozen=True)
class Features:
    """The covariates as the named learners want them; the products are made once."""

    plain: Floats
    learners: Learners = field(default_factory=dict)

    @cached_property
    def products(self) -> Floats:
        """Second-order terms, standardised."""
        return SecondOrder.fit(self.plain).transform(self.plain)

    @cached_property
    def binned(self) -> Floats:
        """Columns as codes of at most 200 bins of equal counts, for boosting, which bins weighted rows slowly."""
        edges = [np.unique(np.quantile(c, np.linspace(0, 1, 201)[1:-1])) for c in self.plain.T]
        codes = [np.searchsorted(e, c, side="right") for e, c in zip(edges, self.plain.T, strict=True)]
        return np.column_stack(codes).astype(np.float64) if codes else self.plain

    def of(self, name: str) -> Floats:
        """(n, d) what the learner of that name is given."""
        if name in self.learners:
            return self.plain
        return self.products if name in ON_PRODUCTS else self.binned if name == "boosting" else self.plain

    def fit(
        self,
        name: str,
        rows: Rows,
        target: Floats,
        weight: Floats | None = None,
        *,
        chance: bool,
        rng: int = 0,
    ) -> Callable[[Rows], Floats]:
        """Fit the learner on `rows` of the features and their `target` (m,); a function from rows to predictions.

        `chance`: the target is 0/1 and the prediction a probability. A target with one value is predicted as that.
        """
        if len(target) == 0 or (target == target[0]).all():
            only = float(target[0]) if len(target) else 0.0
            return lambda at: np.full(len(at), only)
        if name == "constant" and name not in self.learners:
            mean = float(np.average(target, weights=weight))
            return lambda at: np.full(len(at), mean)
        if weight is not None and (weight == weight[0]).all():
            weight = None  # the same fit, and boosting bins its columns five times faster
        x, model = self.of(name), make_learner(name, chance=chance, rng=rng, learners=self.learners)
        extra = {} if weight is None else {_weight_name(model): weight}
        if hasattr(model, "predict_proba"):
            model.fit(x[rows], target.astype(np.int64), **extra)
            return lambda at: model.predict_proba(x[at])[:, 1] if len(at) else np.zeros(0)
        model.fit(x[rows], target, **extra)
        return lambda at: np.asarray(model.predict(x[at]), dtype=np.float64) if len(at) else np.zeros(0)


def make_learner(name: str, *, chance: bool, rng: int = 0, learners: Learners | None = None) -> Any:
    """An unfitted learner. Raises `ConfigError` for a name that is unknown for this kind of target."""
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

    if learners and name in learners:
        model = make_model(learners[name], binary=chance, rng=rng)
        if chance and not hasattr(model, "predict_proba"):
            msg = message(
                f"learner {name!r} ({type(model).__name__}) has no predict_proba",
                expected="a classifier with predict_proba for chances (instrument, 0/1 treatment)",
                hint="wrap it in sklearn.calibration.CalibratedClassifierCV, or name another learner",
            )
            raise ConfigError(msg)
        return model
    known = CHANCES if chance else MEANS
    if name not in known:
        kind = "chances (instrument, 0/1 treatment)" if chance else "means"
        msg = message(
            f"there is no learner {name!r} for {kind}",
            expected=f"one of {', '.join((*known, *(learners or ())))}",
            hint="or pass your own scikit-learn estimator in learners={name: estimator}",
        )
        raise ConfigError(msg)
    if name in ("linear", "quadratic", "constant"):
        return LinearRegression()
    if name in ("logit", "logit2"):
        return LogisticRegression(C=1e4 if name == "logit" else 1.0, max_iter=2_000)
    if name == "ridge2":
        return Ridge(alpha=1.0)
    if name == "boosting":
        boosting = HistGradientBoostingClassifier if chance else HistGradientBoostingRegressor
        return boosting(random_state=rng, **BOOSTING)
    forest = RandomForestClassifier if chance else RandomForestRegressor
    return forest(random_state=rng, **FOREST)


def _weight_name(model: Any) -> str:
    """The fit argument that carries row weights: inside a pipeline it belongs to the last step."""
    return f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"


def out_of_fold_loss(target: Floats, prediction: Floats, weight: Floats, *, chance: bool) -> float:
    """Mean squared error, or log-loss in nats for chances (held 1e-6 inside)."""
    if chance:
        p = np.clip(prediction, 1e-6, 1 - 1e-6)
        losses = -np.where(target == 1, np.log(p), np.log1p(-p))
    else:
        losses = (target - prediction) ** 2
    return float(np.average(losses, weights=weight))
