"""Regressors of the reward on context and action, behind one shape: `scores(x (n, d)) -> (n, k)` in [0, 1].

boosting   histogram gradient boosting of scikit-learn on phi(x, a) = [x, one-hot(a)]
ridge      one ridge regression an action, shrunk towards the mean reward; closed form
trees      LightGBM on the same phi (extra `trees`)
mlp        a small network on the same phi (extra `torch`)
or any object with `fit(X, y[, sample_weight])` and `predict` (or `predict_proba`), which is copied before it is
fitted.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, message, need_extra

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]
FeatureMap = Callable[[Floats, Codes], Floats]
REGRESSORS = ("boosting", "ridge", "trees", "mlp")
ROUNDS, LEAVES, RATE = 80, 15, 0.1
BLOCK = 200_000


class RewardModel(Protocol):
    """What a fitted regressor answers."""

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k) predicted rewards; entries that are not eligible may be 0."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same reward for everybody: before there is a model, or when all known rewards are equal."""

    value: float
    actions: int

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k)."""
        return np.full((len(x), self.actions), self.value)


@dataclass(frozen=True)
class LinearRewards:
    """One linear model an action: `weights` (d, k), `bias` (k,)."""

    weights: Floats
    bias: Floats

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k), cut to [0, 1]."""
        return np.asarray(np.clip(x @ self.weights + self.bias, 0.0, 1.0), dtype=np.float64)


@dataclass(frozen=True)
class PooledRewards:
    """One model over phi(x, a) for all actions."""

    predict: Callable[[Floats], Floats]
    phi: FeatureMap
    actions: int

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k), cut to [0, 1]; only eligible pairs are computed."""
        out = np.zeros((len(x), self.actions))
        rows, codes = np.nonzero(np.ones(out.shape, bool) if eligible is None else eligible)
        for start in range(0, len(rows), BLOCK):
            r, c = rows[start : start + BLOCK], codes[start : start + BLOCK]
            out[r, c] = np.clip(self.predict(self.phi(x[r], c)), 0.0, 1.0)
        return out


@dataclass(frozen=True)
class Shifted:
    """A model whose class balance was changed by weights, moved back: logit f + shift, equation (7)."""

    inner: RewardModel
    shift: float

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k) on the scale of the rewards as they occur."""
        f = np.clip(self.inner.scores(x, eligible), 1e-9, 1 - 1e-9)
        return np.asarray(1.0 / (1.0 + np.exp(-(np.log(f / (1 - f)) + self.shift))), dtype=np.float64)


@dataclass(frozen=True)
class Calibrated:
    """A model followed by an isotonic map learnt out of fold: `knots` (m,) to `values` (m,)."""

    inner: RewardModel
    knots: Floats
    values: Floats

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k) calibrated."""
        return np.asarray(np.interp(self.inner.scores(x, eligible), self.knots, self.values), np.float64)


@dataclass(frozen=True)
class Ensemble:
    """Several models; `scores` is their mean, `member_scores` (members, n, k) each alone."""

    members: tuple[RewardModel, ...]

    def scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(n, k) mean."""
        return np.asarray(self.member_scores(x, eligible).mean(axis=0), dtype=np.float64)

    def member_scores(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """(members, n, k)."""
        return np.stack([m.scores(x, eligible) for m in self.members])


def one_hot_features(actions: int) -> FeatureMap:
    """phi(x, a) = [x, one-hot(a)]."""

    def phi(x: Floats, action: Codes) -> Floats:
        return np.hstack([x, (action[:, None] == np.arange(actions)).astype(np.float64)])

    return phi


def fit_rewards(
    regressor: Any,
    x: Floats,
    action: Codes,
    reward: Floats,
    weight: Floats,
    actions: int,
    *,
    rng: int = 0,
    phi: FeatureMap | None = None,
) -> RewardModel:
    """A reward model from logged pairs. x (n, d) | action (n,) in [0, actions) | reward (n,) in [0, 1] | weight (n,).

    Raises `ConfigError` for an unknown regressor, `LogError` when no row is left or a regressor answers labels.
    """
    keep = weight > 0
    if not keep.any():
        msg = message(
            "no row with a known reward is left to fit on", hint="wait for rewards, or widen the window"
        )
        raise LogError(msg)
    x, action, reward, weight = x[keep], action[keep], reward[keep], weight[keep]
    if np.ptp(reward) == 0:
        return Constant(float(reward[0]), actions)
    if regressor == "ridge" and phi is None:
        return _ridge(x, action, reward, weight, actions)
    features = phi or one_hot_features(actions)
    design = features(x, action)
    binary = bool(np.isin(reward, (0.0, 1.0)).all())
    if regressor == "trees":
        predict = _lightgbm(design, reward, weight, rng)
    elif regressor == "mlp":
        predict = _mlp(design, reward, weight, rng)
    else:
        predict = _estimator(regressor, design, reward, weight, binary, rng)
    return PooledRewards(predict, features, actions)


def _ridge(
    x: Floats, action: Codes, reward: Floats, weight: Floats, actions: int, penalty: float = 1.0
) -> LinearRewards:
    """One weighted ridge an action on the reward minus its mean; an action never logged keeps the mean."""
    mean = float(np.average(reward, weights=weight))
    design = np.column_stack([np.ones(len(x)), x])
    solved = np.zeros((design.shape[1], actions))
    for a in np.unique(action):
        rows = action == a
        scaled = design[rows] * weight[rows, None]
        gram = scaled.T @ design[rows] + penalty * np.eye(design.shape[1])
        solved[:, a] = np.linalg.solve(gram, scaled.T @ (reward[rows] - mean))
    return LinearRewards(solved[1:], solved[0] + mean)


def _estimator(
    regressor: Any, design: Floats, reward: Floats, weight: Floats, binary: bool, rng: int
) -> Callable[[Floats], Floats]:
    model = _unfitted(regressor, binary, rng)
    target = reward.astype(int) if binary and hasattr(model, "predict_proba") else reward
    takes_weight = "sample_weight" in inspect.signature(model.fit).parameters
    if not takes_weight and np.ptp(weight) > 0:
        msg = message(
            f"{type(model).__name__}.fit takes no sample_weight, and the rows have unequal weights",
            hint="use weights='none' and delay='drop', or a regressor that takes weights",
        )
        raise ConfigError(msg)
    unequal = (
        takes_weight and np.ptp(weight) > 0
    )  # equal weights are left out: scikit-learn bins faster without
    model.fit(design, target, **({"sample_weight": weight} if unequal else {}))
    if hasattr(model, "predict_proba"):
        return lambda new: np.asarray(model.predict_proba(new) @ model.classes_.astype(float), np.float64)
    answers = np.asarray(model.predict(design[:2000]), dtype=np.float64)
    if binary and np.isin(answers, (0.0, 1.0)).all():
        msg = message(
            f"{type(model).__name__} answers labels (0 or 1) instead of scores",
            expected="a predicted reward between 0 and 1",
            hint="use a regressor, or a classifier with predict_proba",
        )
        raise LogError(msg)
    return lambda new: np.asarray(model.predict(new), dtype=np.float64)


def _unfitted(regressor: Any, binary: bool, rng: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if regressor == "boosting":
        kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
        return kind(
            max_iter=ROUNDS, max_leaf_nodes=LEAVES, learning_rate=RATE, early_stopping=False, random_state=rng
        )
    if regressor == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1.0)
    if hasattr(regressor, "fit") and (hasattr(regressor, "predict") or hasattr(regressor, "predict_proba")):
        return copy.deepcopy(regressor)
    msg = message(
        f"{regressor!r} is not a regressor",
        expected=f"one of {', '.join(REGRESSORS)}, or an object with fit and predict",
    )
    raise ConfigError(msg)


def _lightgbm(design: Floats, reward: Floats, weight: Floats, rng: int) -> Callable[[Floats], Floats]:
    lightgbm = need_extra("lightgbm", "trees")
    objective = "cross_entropy" if reward.min() >= 0 and reward.max() <= 1 else "regression"
    settings = {"objective": objective, "num_leaves": LEAVES, "learning_rate": RATE, "seed": rng}
    quiet = {"verbose": -1, "num_threads": 1, "deterministic": True, "force_row_wise": True}
    booster = lightgbm.train({**settings, **quiet}, lightgbm.Dataset(design, reward, weight=weight), ROUNDS)
    return lambda new: np.asarray(booster.predict(new), dtype=np.float64)


def _mlp(design: Floats, reward: Floats, weight: Floats, rng: int) -> Callable[[Floats], Floats]:
    torch = need_extra("torch", "torch")
    generator = torch.Generator().manual_seed(rng)
    sizes = (design.shape[1], 64, 64, 1)
    layers = []
    for a, b in pairwise(sizes):
        w = (torch.rand(a, b, generator=generator) * 2 - 1) * (3.0 / a) ** 0.5
        layers.append((w.requires_grad_(), torch.zeros(b).requires_grad_()))

    def forward(h: Any) -> Any:
        for i, (w, b) in enumerate(layers):
            h = h @ w + b
            h = torch.relu(h) if i < len(layers) - 1 else h
        return h[:, 0]

    adam = torch.optim.Adam([p for pair in layers for p in pair], lr=3e-3)
    inputs, target, row_weight = (torch.as_tensor(v, dtype=torch.float32) for v in (design, reward, weight))
    inside = bool(reward.min() >= 0 and reward.max() <= 1)
    losses = torch.nn.functional
    for _ in range(20):
        for rows in torch.randperm(len(inputs), generator=generator).split(256):
            adam.zero_grad()
            z, y, w = forward(inputs[rows]), target[rows], row_weight[rows]
            if inside:
                loss = losses.binary_cross_entropy_with_logits(z, y, weight=w)
            else:
                loss = (w * (torch.sigmoid(z) - y) ** 2).mean()
            loss.backward()
            adam.step()

    def predict(new: Floats) -> Floats:
        with torch.no_grad():
            answer = torch.sigmoid(forward(torch.as_tensor(new, dtype=torch.float32)))
        return np.asarray(answer.numpy(), dtype=np.float64)

    return predict
