from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)

from counterlog.core.errors import ConfigError, LogError, NotFittedError
from counterlog.core.sklearn_trees import rows_trained_on
from counterlog.core.tree_models import read_trees

TASKS = ("binary", "multiclass", "regression")
LIBRARIES = (
    pytest.param("lightgbm", marks=pytest.mark.trees),
    pytest.param("xgboost", marks=pytest.mark.trees),
    pytest.param("catboost", marks=pytest.mark.trees),
    "hist",
    "exact",
)
ROUNDS = 12


def plain(task):
    load = {"binary": load_breast_cancer, "multiclass": load_iris, "regression": load_diabetes}[task]
    X, y = load(return_X_y=True)
    return X, y if task == "regression" else np.array(["ape", "bee", "cat"])[y]


def mixed(task, n=400):
    """Numbers with missing values and two categorical columns, one of them with many levels."""
    gen = np.random.default_rng(3)
    x = gen.normal(size=(n, 3))
    colour, town = gen.integers(0, 4, n), gen.integers(0, 12, n)
    raw = x[:, 0] + np.where(colour % 2 == 0, 1.5, -1.0) + 0.8 * np.sin(town) + 0.3 * gen.normal(size=n)
    y = {"binary": (raw > 0).astype(int), "multiclass": np.digitize(raw, [-1, 1]), "regression": raw * 10}[
        task
    ]
    x[gen.random((n, 3)) < 0.15] = np.nan
    X = pd.DataFrame(x, columns=["a", "b", "c"])
    X["colour"] = pd.Categorical(np.array(["red", "blue", "green", "grey"])[colour])
    X["town"] = pd.Categorical(np.array([f"t{i}" for i in range(12)])[town])
    return X, y


def fitted(library, task, X, y, **extra):
    classify = task != "regression"
    if library == "hist":
        kind = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
        cats = "from_dtype" if isinstance(X, pd.DataFrame) else None
        return kind(max_iter=ROUNDS, max_leaf_nodes=8, categorical_features=cats, **extra).fit(X, y)
    if library == "exact":
        kind = GradientBoostingClassifier if classify else GradientBoostingRegressor
        return kind(n_estimators=ROUNDS, random_state=0, **extra).fit(X, y)
    module = pytest.importorskip(library, reason=f"{library} is not installed (extra trees)")
    if library == "lightgbm":
        kind = module.LGBMClassifier if classify else module.LGBMRegressor
        return kind(n_estimators=ROUNDS, num_leaves=8, verbose=-1, n_jobs=1, **extra).fit(X, y)
    if library == "xgboost":
        kind = module.XGBClassifier if classify else module.XGBRegressor
        code = np.unique(y, return_inverse=True)[1] if classify else y
        return kind(n_estimators=ROUNDS, max_depth=3, n_jobs=1, enable_categorical=True, **extra).fit(X, code)
    kind = module.CatBoostClassifier if classify else module.CatBoostRegressor
    cats = [c for c in ("colour", "town") if isinstance(X, pd.DataFrame) and c in X]
    given = {"leaf_estimation_iterations": 1, "leaf_estimation_method": "Newton", **extra}
    model = kind(iterations=ROUNDS, depth=3, verbose=0, thread_count=1, allow_writing_files=False, **given)
    return model.fit(X, y, cat_features=cats or None)


def refit_leaves(trees, X, y, weight=None):
    """Every leaf again by the Newton step, summed row by row: the largest distance to the library's leaves."""
    w = np.ones(len(y)) if weight is None else weight
    target = trees.targets(y)
    trees = trees.with_start(target, w)
    leaves, worst = trees.leaves(X), 0.0
    path = trees.path(leaves)
    for t in range(trees.shape[0]):
        p = trees.link(path[:, t])
        g, h = w[:, None] * (p - target), w[:, None] * trees.curvature(p)
        for first in np.unique(leaves[:, t, 0]):
            rows = leaves[:, t, 0] == first
            if trees.full_hessian:
                H = (w[rows, None, None] * (np.einsum("ik,kl->ikl", p[rows], np.eye(p.shape[1])))).sum(axis=0)
                H -= np.einsum("i,ik,il->kl", w[rows], p[rows], p[rows])
                H += trees.l2 * np.eye(p.shape[1])
                new = -trees.learning_rate * np.linalg.solve(H, g[rows].sum(axis=0))
                worst = max(worst, np.abs(new - trees.values[leaves[rows][0, t]]).max())
        if not trees.full_hessian:
            for k in range(trees.shape[1]):
                for leaf in np.unique(leaves[:, t, k]):
                    rows = leaves[:, t, k] == leaf
                    new = -trees.learning_rate * g[rows, k].sum() / (h[rows, k].sum() + trees.l2)
                    worst = max(worst, abs(new - trees.values[leaf]))
    return worst


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_flat_form_predicts_what_the_library_predicts(library, task):
    X, y = plain(task)
    model = fitted(library, task, X, y)
    trees = read_trees(model)
    expected = trees.library_raw(X)
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(trees.raw(X), expected, rtol=0, atol=1e-6 * scale)
    assert trees.shape == (ROUNDS, 3 if task == "multiclass" else 1)
    if task != "regression":
        p = model.predict_proba(X)
        ours = trees.link(trees.raw(X))
        np.testing.assert_allclose(
            ours if task == "multiclass" else ours[:, 0], p if task == "multiclass" else p[:, 1], atol=1e-6
        )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", [p for p in LIBRARIES if p != "exact"])
def test_missing_values_and_categories_go_where_the_library_sends_them(library, task):
    X, y = mixed(task)
    if library == "catboost":
        pytest.importorskip("catboost", reason="catboost is not installed (extra trees)")
        X = X.assign(colour=X.colour.astype(str), town=X.town.astype(str))
    trees = read_trees(fitted(library, task, X, y))
    expected = trees.library_raw(X)
    np.testing.assert_allclose(trees.raw(X), expected, rtol=0, atol=1e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_leaf_is_the_newton_step_of_its_rows(library, task):
    X, y = plain(task)
    if library == "xgboost" and task != "regression":
        y = np.unique(y, return_inverse=True)[1]
    trees = read_trees(fitted(library, task, X, y))
    assert refit_leaves(trees, X, y) <= 1e-5 + 1e-5 * np.abs(trees.values).max()


@pytest.mark.parametrize("library", LIBRARIES)
def test_raw_scores_grow_from_the_start_value_to_the_prediction(library):
    X, y = plain("regression")
    trees = read_trees(fitted(library, "regression", X, y))
    trees = trees.with_start(trees.targets(y), np.ones(len(y)))
    path = trees.path(trees.leaves(X))
    np.testing.assert_allclose(path[:, -1], trees.raw(X), atol=1e-9)
    np.testing.assert_allclose(path[:, 0], y.mean(), rtol=1e-5)
    assert ((path - y[:, None, None]) ** 2).mean(axis=(0, 2))[[0, -1]].argmax() == 0


@pytest.mark.trees
def test_a_lightgbm_model_read_from_its_text_is_the_same_model():
    lgb = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    X, y = plain("binary")
    model = fitted("lightgbm", "binary", X, y, learning_rate=0.2, reg_lambda=0.7)
    loaded = read_trees(lgb.Booster(model_str=model.booster_.model_to_string()))
    np.testing.assert_array_equal(loaded.raw(X), read_trees(model).raw(X))
    assert (loaded.learning_rate, loaded.l2) == (0.2, 0.7)


@pytest.mark.trees
def test_an_xgboost_file_needs_its_learning_rate_said_again(tmp_path):
    xgb = pytest.importorskip("xgboost", reason="xgboost is not installed (extra trees)")
    X, y = plain("multiclass")
    code = np.unique(y, return_inverse=True)[1]
    model = fitted("xgboost", "multiclass", X, code, learning_rate=0.2, reg_lambda=2.0)
    model.save_model(tmp_path / "m.json")
    booster = xgb.Booster()
    booster.load_model(tmp_path / "m.json")
    trees = read_trees(booster, learning_rate=0.2, l2=2.0)
    np.testing.assert_allclose(trees.raw(X), model.predict(X, output_margin=True), atol=1e-6)
    assert refit_leaves(trees, X, code) < 1e-5


def test_rows_set_aside_for_early_stopping_are_known_again():
    gen = np.random.default_rng(0)
    X = gen.normal(size=(600, 3))
    for y, kind in (
        (X[:, 0] + gen.normal(size=600), HistGradientBoostingRegressor),
        ((X[:, 0] + gen.normal(size=600) > 0.7).astype(int), HistGradientBoostingClassifier),
    ):
        model = kind(max_iter=8, early_stopping=True, validation_fraction=0.2, random_state=3).fit(X, y)
        rows = rows_trained_on(model, y)
        assert len(rows) == 480
        trees = read_trees(model)
        assert refit_leaves(trees, X[rows], y[rows]) <= 1e-5 + 1e-5 * np.abs(trees.values).max()
        assert refit_leaves(trees, X, y) > 1e-3
        assert len(rows_trained_on(kind(max_iter=2, early_stopping=False).fit(X, y), y)) == 600


def test_link_curvature_and_moved_agree_with_differences():
    trees = read_trees(fitted("hist", "multiclass", *plain("multiclass")))
    gen = np.random.default_rng(0)
    F, step = gen.normal(size=(2, 5, 3))
    for kind in ("squared", "logistic", "softmax"):
        from dataclasses import replace

        some = replace(trees, objective=kind, hessian_factor=1.5)
        up, down = some.link(F + 1e-6 * step), some.link(F - 1e-6 * step)
        g, h = some.moved(some.link(F), step)
        np.testing.assert_allclose((up - down) / 2e-6, g, atol=1e-8)
        np.testing.assert_allclose((some.curvature(up) - some.curvature(down)) / 2e-6, h, atol=1e-8)


def test_what_cannot_be_read_is_refused():
    X, y = plain("binary")
    with pytest.raises(ConfigError, match="RandomForestClassifier"):
        read_trees(RandomForestClassifier().fit(X, y))
    with pytest.raises(ConfigError, match="dict"):
        read_trees({})
    with pytest.raises(NotFittedError, match="not fitted"):
        read_trees(HistGradientBoostingClassifier())
    with pytest.raises(ConfigError, match="poisson"):
        read_trees(HistGradientBoostingRegressor(loss="poisson", max_iter=2).fit(X, np.ones(len(X))))
    trees = read_trees(fitted("hist", "binary", X, y))
    with pytest.raises(LogError, match="29 columns and the model was trained on 30"):
        trees.leaves(X[:, 1:])
    with pytest.raises(LogError, match="shape"):
        trees.leaves(X[0])
    with pytest.raises(LogError, match=r"'dog'.*row 1"):
        trees.targets(np.array(["ape", "dog"]))
    with pytest.raises(LogError, match="missing in row 1"):
        trees.targets(np.array([0.0, np.nan]))
    with pytest.raises(LogError, match="missing in row 0"):
        trees.targets(np.array([None, "ape"], dtype=object))
    with pytest.raises(LogError, match="labels as in fit"):
        trees.targets(np.array([0, 1]))
    assert trees.leaves(X[:0]).shape == (0, ROUNDS, 1)


@pytest.mark.trees
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"boosting_type": "dart"}, "dart"),
        ({"objective": "regression_l1"}, "regression_l1"),
        ({"linear_tree": True}, "linear"),
    ],
)
def test_lightgbm_models_without_newton_leaves_are_refused(settings, said):
    pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    X, y = plain("regression")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fitted("lightgbm", "regression", X, y, **settings)
    with pytest.raises(ConfigError, match=said):
        read_trees(model)


@pytest.mark.trees
def test_settings_that_break_the_newton_form_are_named():
    pytest.importorskip("catboost", reason="catboost is not installed (extra trees)")
    pytest.importorskip("xgboost", reason="xgboost is not installed (extra trees)")
    X, y = plain("binary")
    code = np.unique(y, return_inverse=True)[1]
    found = read_trees(fitted("catboost", "binary", X, y, leaf_estimation_iterations=10))
    assert "leaf_estimation_iterations=10" in found.warnings
    assert "subsample=0.5" in read_trees(fitted("xgboost", "binary", X, code, subsample=0.5)).warnings
