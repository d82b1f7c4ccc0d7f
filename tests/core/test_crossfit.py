"""Cross-fitting: no row is predicted by a model that saw its unit, and folds are a function of the unit alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.neighbors import KNeighborsRegressor

from counterlog.core.crossfit import action_features, folds_of, reward_model, splits
from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.hashing import row_keys, scatter, unit_keys
from counterlog.core.propensity import estimate_propensity
from counterlog.core.rounds import Rounds

ROLES: dict[str, Any] = {"action": "item", "reward": "click", "propensity": "p", "context": ["x", "device"]}


def test_a_unit_is_whole_in_its_fold_and_folds_move_with_the_rows(small_log: pl.DataFrame) -> None:
    log = Rounds(small_log, **ROLES, unit="user")
    fold = folds_of(log, 3)
    assert pl.DataFrame({"u": small_log["user"], "f": fold}).group_by("u").n_unique()["f"].max() == 1
    order = np.random.default_rng(0).permutation(400)
    moved = Rounds(small_log[order], **ROLES, unit="user")
    np.testing.assert_array_equal(folds_of(moved, 3), fold[order])


def test_an_overfitting_model_cannot_see_its_own_row() -> None:
    gen = np.random.default_rng(3)
    n = 3000
    frame = {
        "item": gen.integers(0, 2, n),
        "click": gen.normal(size=n),
        "p": np.full(n, 0.5),
        "x": gen.normal(size=n),
    }
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x"])
    q = reward_model(log, model=KNeighborsRegressor(n_neighbors=1))
    in_q = q[np.arange(n), log.action]
    assert abs(np.corrcoef(in_q, log.reward)[0, 1]) < 3 / np.sqrt(n)


@pytest.mark.parametrize("model", ["boosting", "linear"])
def test_models_learn_a_reward_that_depends_on_action_and_context(model: str) -> None:
    gen = np.random.default_rng(4)
    n = 4000
    x, action = gen.normal(size=n), gen.integers(0, 2, n)
    truth = 1 / (1 + np.exp(-2 * x * (2 * action - 1)))
    frame = {"item": action, "click": (gen.random(n) < truth).astype(int), "p": np.full(n, 0.5), "x": x}
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x"])
    q = reward_model(log, model=model)
    assert np.corrcoef(q[:, 1] - q[:, 0], np.tanh(x))[0, 1] > 0.9
    assert (q >= 0).all()
    assert (q <= 1).all()


def test_features_of_action_and_context_by_hand() -> None:
    phi = action_features(np.array([[2.0], [3.0]]), np.array([1, 0]), 2, interact=True)
    np.testing.assert_array_equal(phi, [[2, 0, 1, 0, 2], [3, 1, 0, 3, 0]])


def test_the_same_seed_gives_the_same_predictions(small_log: pl.DataFrame) -> None:
    log = Rounds(small_log, **ROLES)
    np.testing.assert_array_equal(reward_model(log, rng=1), reward_model(log, rng=1))
    with pytest.raises(ConfigError, match="'forest' is not a reward model"):
        reward_model(log, model="forest")


def test_splits_cover_every_row_once() -> None:
    fold = scatter(row_keys(1000), 5, salt=1)
    seen = np.concatenate([rest for _, rest in splits(fold)])
    np.testing.assert_array_equal(np.sort(seen), np.arange(1000))


def test_hashing_spreads_consecutive_keys_evenly_and_salts_are_independent() -> None:
    one, two = scatter(row_keys(100_000), 16, salt=1), scatter(row_keys(100_000), 16, salt=2)
    assert stats.chisquare(np.bincount(one, minlength=16)).pvalue > 1e-4
    joint = np.bincount(one * 16 + two, minlength=256)
    assert stats.chisquare(joint).pvalue > 1e-4


def test_text_keys_depend_on_the_text_alone() -> None:
    first = unit_keys(pl.Series(["ann", "bob", "ann"]))
    second = unit_keys(pl.Series(["bob", "ann"]))
    assert first[0] == first[2] == second[1]
    assert first[1] == second[0] != first[0]


def test_estimated_propensities_recover_the_truth(small_log: pl.DataFrame) -> None:
    frame = pl.concat([small_log] * 12)
    log = Rounds(
        frame.with_row_index("row"), action="item", reward="click", propensity="estimate", context=["x"]
    )
    assert log.propensity_label == "estimated"
    estimated = estimate_propensity(log)
    np.testing.assert_allclose(estimated.matrix.sum(axis=1), 1.0)
    assert np.abs(estimated.logged - frame["p"].to_numpy()).mean() < 0.08


def test_without_context_the_propensity_is_the_share_of_the_other_folds() -> None:
    frame = {"item": ["a"] * 300 + ["b"] * 100, "click": [0, 1] * 200}
    log = Rounds(frame, action="item", reward="click", propensity="estimate")
    np.testing.assert_allclose(log.propensity[:300], 0.75, atol=0.05)


def test_an_action_too_rare_for_its_propensity_is_refused() -> None:
    frame = {"item": ["a"] * 50 + ["b"], "click": [0, 1, 0] * 17}
    log = Rounds(frame, action="item", reward="click", propensity="estimate")
    with pytest.raises(SupportError, match="'b' is too rare"):
        log.propensity
