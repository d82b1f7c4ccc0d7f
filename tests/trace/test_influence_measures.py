from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

from counterlog.core.errors import LogError
from counterlog.trace.influence_measures import (
    average_rank,
    flip_labels,
    mislabel_detection,
    most_helpful,
    other_label,
    relabelling,
    relative_gain,
    removal,
)
from counterlog.trace.retraining import loss_of
from counterlog.trace.tree_influence import TreeInfluence


def fit(X, y):
    return HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=8).fit(X, y)


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    return X[:300], y[:300], X[300:], y[300:]


def test_the_most_helpful_rows_come_first_and_are_at_least_one():
    assert most_helpful([0.1, 3.0, -2.0, 3.0], 0.5).tolist() == [1, 3]
    assert most_helpful([0.1, 3.0, -2.0, 3.0], 0.001).tolist() == [1]
    for bad in ([np.nan, 1.0], [[1.0]]):
        with pytest.raises(LogError, match="one number a training row"):
            most_helpful(bad, 0.5)
    with pytest.raises(LogError, match="above 0 and below 1"):
        most_helpful([1.0, 2.0], 1.0)


def test_removal_is_the_loss_of_a_model_without_the_rows(cancer):
    X, y, X_test, y_test = cancer
    scores = np.zeros(300)
    scores[[4, 9, 2]] = 3, 2, 1
    (record,) = removal(fit, X, y, scores, X_test, y_test, (0.01,))
    model = fit(np.delete(X, [4, 9, 2], 0), np.delete(y, [4, 9, 2]))
    p = np.clip(model.predict_proba(X_test)[:, 1], 1e-5, 1 - 1e-5)
    expected = -np.log(np.where(y_test == 1, p, 1 - p)).mean()
    assert record["loss"] == pytest.approx(expected, abs=1e-12)
    assert record["loss_increase"] == pytest.approx(expected - loss_of(fit(X, y), X_test, y_test).mean())
    assert record["accuracy"] == pytest.approx((model.predict(X_test) == y_test).mean())


def test_removing_a_whole_label_is_left_out(cancer):
    X, y, X_test, y_test = cancer
    shares = ((y == 0).sum() / 300, 0.01)
    assert [r["fraction"] for r in removal(fit, X, y, (y == 0) * 1.0, X_test, y_test, shares)] == [0.01]


def test_rows_named_by_boostin_matter_more_than_random_ones(cancer):
    X, y, X_test, y_test = cancer
    found = TreeInfluence(fit(X, y), X, y)
    scores, chance = found.aggregate(X_test, y_test), np.random.default_rng(0).normal(size=300)
    (ours,), (theirs,) = (removal(fit, X, y, s, X_test, y_test, (0.3,)) for s in (scores, chance))
    assert ours["loss_increase"] > 3 * abs(theirs["loss_increase"])
    (ours,), (theirs,) = (relabelling(fit, X, y, s, X_test, y_test, 1 - y, (0.2,)) for s in (scores, chance))
    assert ours["loss_increase"] > 1.5 * theirs["loss_increase"]


def test_another_label_is_another_and_flips_are_counted():
    y = np.array(["a", "b", "c"] * 20)
    assert (other_label(y, 3) != y).all()
    noisy, rows = flip_labels(y, 0.4, 7)
    assert np.flatnonzero(noisy != y).tolist() == rows.tolist() and len(rows) == 24
    np.testing.assert_array_equal(noisy, flip_labels(y, 0.4, 7)[0])


def test_an_oracle_finds_every_flip_and_mending_all_restores_the_model(cancer):
    X, y, X_test, y_test = cancer
    noisy, rows = flip_labels(y, 0.2, 0)
    truth = np.isin(np.arange(300), rows) * 1.0
    first, last = mislabel_detection(fit, X, y, noisy, truth, X_test, y_test, (0.1, 0.2))
    assert (first["found"], last["found"]) == (0.5, 1.0)
    assert last["loss"] == pytest.approx(loss_of(fit(X, y), X_test, y_test).mean())
    assert last["loss"] < first["loss"]


def test_ranks_share_ties_and_gains_are_relative():
    assert average_rank({"a": [3.0, 1.0], "b": [2.0, 1.0], "c": [1.0, 0.0]}) == {
        "a": 1.25,
        "b": 1.75,
        "c": 3.0,
    }
    assert relative_gain([2.0, 8.0], [1.0, 1.0]) == pytest.approx(4.0)
    assert relative_gain([-1.0], [1.0]) == pytest.approx(1e-4)
