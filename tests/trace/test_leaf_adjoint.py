from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from counterlog.core.errors import ConfigError
from counterlog.trace import same_leaf
from counterlog.trace.leaf_adjoint import adjoint, leaf_pull
from counterlog.trace.tree_influence import TreeInfluence, TreeInfluenceConfig

TASKS = ("regression", "binary", "multiclass")


def explained(task, method="leafinfluence", weighted=True):
    gen = np.random.default_rng(1)
    X = gen.normal(size=(70, 3))
    raw = X[:, 0] - X[:, 1] ** 2 + 0.5 * gen.normal(size=70)
    y = {"regression": raw, "binary": (raw > -0.5) * 1, "multiclass": np.digitize(raw, [-1.2, 0.0])}[task]
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    w = gen.uniform(0.5, 2, 50) if weighted else None
    settings = {"max_iter": 6, "max_leaf_nodes": 5, "min_samples_leaf": 4, "learning_rate": 0.3}
    model = kind(l2_regularization=0.5, **settings).fit(X[:50], y[:50], sample_weight=w)
    config = TreeInfluenceConfig(method=method, memory_mb=0.05)
    return TreeInfluence(model, X[:50], y[:50], w, config=config), X[50:], y[50:]


@pytest.mark.parametrize("task", TASKS)
def test_the_backward_pass_is_the_sum_of_the_forward_scores(task):
    found, X_test, y_test = explained(task)
    forwards = found.explain(X_test, y_test).sum(axis=1)
    np.testing.assert_allclose(found.aggregate(X_test, y_test), forwards, atol=1e-12, rtol=1e-9)
    assert np.abs(forwards).max() > 1e-3


@pytest.mark.parametrize("task", TASKS)
def test_boostin_comes_out_of_the_same_pass(task):
    found, X_test, y_test = explained(task, "boostin")
    d = found.data
    leaves, sides = same_leaf.target_sides(d.trees, X_test, d.trees.targets(y_test), "path")
    pull = leaf_pull(leaves, sides, d.trees.n_leaves)
    _, added = adjoint(d, pull[:, None], pull)
    np.testing.assert_allclose(-added, found.aggregate(X_test, y_test), atol=1e-12)


def test_several_numbers_at_once_are_each_alone():
    found, *_ = explained("binary")
    pulls = np.random.default_rng(0).normal(size=(found.data.trees.n_leaves, 3))
    together, nothing = adjoint(found.data, pulls)
    alone = np.column_stack([adjoint(found.data, pulls[:, [j]])[0][:, 0] for j in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-14)
    assert not nothing.any()


@pytest.mark.trees
def test_leaves_that_solve_for_all_classes_are_refused():
    catboost = pytest.importorskip("catboost", reason="catboost is not installed (extra trees)")
    gen = np.random.default_rng(0)
    X, y = gen.normal(size=(60, 2)), gen.integers(0, 3, 60)
    model = catboost.CatBoostClassifier(
        loss_function="MultiClass", iterations=3, depth=2, verbose=0, thread_count=1, leaf_estimation_iterations=1,
        leaf_estimation_method="Newton", allow_writing_files=False,
    ).fit(X, y)  # fmt: skip
    found = TreeInfluence(model, X, y)
    with pytest.raises(ConfigError, match="all classes together"):
        adjoint(found.data, np.zeros((found.data.trees.n_leaves, 1)))
    summed = found.using(method="leafinfluence")
    np.testing.assert_allclose(summed.aggregate(X[:5], y[:5]), summed.explain(X[:5], y[:5]).sum(axis=1))
