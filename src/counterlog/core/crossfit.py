"""Predictions that never saw their own unit: models fitted on the other folds, folds by hash of the unit.

`reward_model` gives q(x, a) for every action; any scikit-learn estimator may be passed instead of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.features import Encoder
from counterlog.core.hashing import Keys, row_keys, scatter, unit_keys
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
REWARD_MODELS = ("boosting", "linear")
MOST_INTERACTIONS = 600
_FOLD_SALT = 101


@dataclass(frozen=True)
class FoldModel:
    """A reward model with the rows that it was fitted on, their features (see `action_features`), and the rows that
    it predicts."""

    fit: NDArray[np.int64]
    rest: NDArray[np.int64]
    model: Any
    features: Floats


def folds_of(log: Rounds, folds: int, *, rng: int = 0) -> NDArray[np.int64]:
    """(n,) fold of every row; rows of one unit share a fold."""
    keys = unit_keys(log.table[log.unit_column]) if log.unit_column else row_keys(log.n, log.first_row)
    return folds_by_key(keys, folds, rng=rng)


def folds_by_key(keys: Keys, folds: int, *, rng: int = 0) -> NDArray[np.int64]:
    """(n,) fold of every key; equal keys share a fold."""
    return scatter(keys, folds, salt=_FOLD_SALT + rng)


def splits(fold: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows to fit on, rows to predict) for every fold that has rows."""
    for k in np.unique(fold):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def action_features(x: Floats, action: NDArray[np.int64], actions: int, *, interact: bool) -> Floats:
    """phi(x, a) = [x, one-hot(a)], and the products of the two when `interact` and their number stays moderate."""
    one_hot = (action[:, None] == np.arange(actions)).astype(np.float64)
    parts = [x, one_hot]
    if interact and 0 < x.shape[1] * actions <= MOST_INTERACTIONS:
        parts.append((x[:, :, None] * one_hot[:, None, :]).reshape(len(x), -1))
    return np.hstack(parts)


def reward_model(
    log: Rounds,
    *,
    model: Any = "boosting",
    folds: int = 3,
    rng: int = 0,
    sample_weight: Floats | None = None,
    kept: list[FoldModel] | None = None,
) -> Floats:
    """(n, actions) out-of-fold predictions of the primary reward, q(x, a).

    `model`: `boosting`, `linear` (logistic for 0/1 rewards, ridge otherwise), or any scikit-learn estimator, which is
    cloned; classifiers are asked for probabilities. `sample_weight` weights the fit, row by row; `kept`
    collects the fitted models. Models run on one thread: on a busy machine the threads of boosted trees wait for
    each other.
    """
    x = Encoder.fit(log.context).transform(log.context)
    fold = folds_of(log, folds, rng=rng)
    made = fit_folds(
        model, x, log.action, log.reward, fold, len(log.actions), weight=sample_weight, kept=kept, rng=rng
    )
    return made.predict(x, fold)


@dataclass(frozen=True)
class FoldModels:
    """A prediction function for every fold, each fitted on the other folds' rows."""

    predict_fold: dict[int, Predict]
    actions: int
    interact: bool

    def predict(self, x: Floats, fold: NDArray[np.int64]) -> Floats:
        """(n, actions) predictions of encoded contexts by the model that never saw their fold."""
        q = np.empty((len(x), self.actions))
        with threadpool_limits(1):
            for k in np.unique(fold).tolist():
                rest = np.flatnonzero(fold == k)
                for a in range(self.actions):
                    every = np.full(len(rest), a)
                    phi = action_features(x[rest], every, self.actions, interact=self.interact)
                    q[rest, a] = self.predict_fold[k](phi)
        return q


def fit_folds(
    model: Any,
    x: Floats,
    action: NDArray[np.int64],
    reward: Floats,
    fold: NDArray[np.int64],
    actions: int,
    *,
    weight: Floats | None = None,
    kept: list[FoldModel] | None = None,
    rng: int = 0,
) -> FoldModels:
    """The models of all folds, fitted on encoded contexts in memory; `kept` collects them with their rows."""
    binary = bool(np.isin(reward, (0.0, 1.0)).all())
    interact = model != "boosting"
    make_model(model, binary=binary, rng=rng)  # loads the libraries whose threads are limited next
    fitted: dict[int, Predict] = {}
    with threadpool_limits(1):
        for fit, rest in splits(fold):
            phi = action_features(x[fit], action[fit], actions, interact=interact)
            part = None if weight is None else weight[fit]
            predict, found = _fit(model, phi, reward[fit], binary=binary, weight=part, rng=rng)
            fitted[int(fold[rest[0]])] = predict
            if kept is not None and found is not None:
                kept.append(FoldModel(fit, rest, found, phi))
    return FoldModels(fitted, actions, interact)


def _fit(model: Any, phi: Floats, reward: Floats, *, binary: bool, weight: Floats | None, rng: int) -> Any:
    """A prediction function of a model fitted on (phi, reward), and the model (None for a constant). Raises
    `SupportError` when there is nothing to fit on."""
    if len(reward) == 0:
        msg = message(
            "the log has too few independent units to fit a model on other folds",
            hint="collect more decisions",
        )
        raise SupportError(msg)
    if len(np.unique(reward)) < 2:
        constant = float(reward[0])
        return lambda new: np.full(len(new), constant), None
    fitted = make_model(model, binary=binary, rng=rng)
    extra = {} if weight is None else {_weight_name(fitted): weight}
    fitted.fit(phi, reward.astype(int) if binary and hasattr(fitted, "predict_proba") else reward, **extra)
    if hasattr(fitted, "predict_proba"):
        return lambda new: fitted.predict_proba(new) @ fitted.classes_.astype(float), fitted
    return fitted.predict, fitted


def _weight_name(model: Any) -> str:
    """The fit argument that carries row weights: inside a pipeline it belongs to the last step."""
    return f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"


def make_model(model: Any, *, binary: bool, rng: int) -> Any:
    """An unfitted scikit-learn estimator of that name, or a clone of the one given."""
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    if model == "boosting":
        settings = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 40}
        kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
        return kind(random_state=rng, l2_regularization=1.0, **settings)
    if model == "linear":
        return LogisticRegression(C=1.0, max_iter=1000) if binary else Ridge(alpha=1.0)
    if hasattr(model, "fit") and hasattr(model, "predict"):
        return clone(model)
    msg = message(
        f"{model!r} is not a reward model",
        expected=f"one of {', '.join(REWARD_MODELS)}, or a scikit-learn estimator",
    )
    raise ConfigError(msg)
