from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from counterlog.core.errors import ConfigError, LogError
from counterlog.online.reward_regressors import Constant, LinearRewards, Shifted, fit_rewards


def world(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x, a = random.normal(size=(n, 2)), random.integers(3, size=n)
    chance = 0.5 + 0.3 * np.tanh(x[:, 0]) * (a - 1)
    return x, a, (random.random(n) < chance).astype(float), np.ones(n)


def truth(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.3 * np.tanh(x[:, :1]) * np.array([-1, 0, 1])


def test_ridge_by_hand() -> None:
    # one action, x = -1, 1, rewards 0, 1, mean 1/2: slope = sum x (r - m) / (2 + 1), intercept 0 + 1/2
    model = fit_rewards(
        "ridge", np.array([[-1.0], [1.0]]), np.zeros(2, int), np.array([0.0, 1.0]), np.ones(2), 2
    )
    assert isinstance(model, LinearRewards)
    assert model.weights == pytest.approx(np.array([[1 / 3, 0]])) and model.bias == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("regressor", ["boosting", "ridge", pytest.param("trees", marks=pytest.mark.trees)])
def test_regressors_learn_the_truth(regressor: str) -> None:
    if regressor == "trees":
        pytest.importorskip("lightgbm")
    model = fit_rewards(regressor, *world(8000), 3)
    x = np.random.default_rng(1).normal(size=(2000, 2))
    error = np.sqrt(((model.scores(x) - truth(x)) ** 2).mean())
    assert error < 0.09


@pytest.mark.torch
def test_the_network_learns_the_truth() -> None:
    pytest.importorskip("torch")
    model = fit_rewards("mlp", *world(8000), 3)
    x = np.random.default_rng(1).normal(size=(2000, 2))
    assert np.sqrt(((model.scores(x) - truth(x)) ** 2).mean()) < 0.09


def test_ineligible_pairs_are_not_computed_and_the_rest_agrees() -> None:
    model = fit_rewards("boosting", *world(), 3)
    x, mask = np.random.default_rng(2).normal(size=(50, 2)), np.random.default_rng(3).random((50, 3)) < 0.5
    full, part = model.scores(x), model.scores(x, mask)
    assert (part[~mask] == 0).all() and (part[mask] == full[mask]).all()


def test_own_estimators_are_copied_and_classifiers_give_probabilities() -> None:
    own = LogisticRegression()
    model = fit_rewards(own, *world(), 3)
    assert not hasattr(own, "coef_")
    scores = model.scores(np.zeros((1, 2)))
    assert ((scores > 0.2) & (scores < 0.8)).all()


def test_own_feature_map_serves_an_action_that_was_never_logged() -> None:
    size = np.array([1.0, 2.0, 3.0, 4.0])
    x, a, _, w = world()
    reward = 0.2 * size[a]
    phi = lambda x, a: size[a][:, None]  # noqa: E731
    model = fit_rewards(LinearRegression(), x, a, reward, w, 4, phi=phi)
    assert model.scores(np.zeros((1, 2)))[0] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_equal_rewards_give_a_constant() -> None:
    x, a, r, w = world(50)
    assert fit_rewards("boosting", x, a, r * 0 + 1, w, 3) == Constant(1.0, 3)


def test_rows_without_weight_do_not_count() -> None:
    x, a, r, w = world()
    w = (np.arange(len(w)) < 1500).astype(float)
    one = fit_rewards("ridge", x, a, r, w, 3)
    two = fit_rewards("ridge", x[:1500], a[:1500], r[:1500], w[:1500], 3)
    assert one.scores(x).tolist() == two.scores(x).tolist()


def test_the_shift_back_by_hand() -> None:
    # 0.5 under balance means the base rate itself
    model = Shifted(Constant(0.5, 1), np.log(0.8 / 0.2))
    assert model.scores(np.zeros((1, 1))) == pytest.approx(np.array([[0.8]]))


class NoWeights:
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.full(len(X), 0.5)


def test_refusals() -> None:
    x, a, r, w = world(200)
    with pytest.raises(LogError, match="no row with a known reward"):
        fit_rewards("ridge", x, a, r, w * 0, 3)
    with pytest.raises(ConfigError, match="'forest' is not a regressor"):
        fit_rewards("forest", x, a, r, w, 3)
    with pytest.raises(LogError, match="Perceptron answers labels"):
        fit_rewards(Perceptron(), x, a, r, w, 3)
    with pytest.raises(ConfigError, match="takes no sample_weight"):
        fit_rewards(NoWeights(), x, a, r, w + np.arange(200), 3)
    assert fit_rewards(DecisionTreeClassifier(max_depth=2), x, a, r, w, 3).scores(x).shape == (200, 3)
    assert fit_rewards(DecisionTreeRegressor(max_depth=2), x, a, r, w, 3).scores(x).shape == (200, 3)
