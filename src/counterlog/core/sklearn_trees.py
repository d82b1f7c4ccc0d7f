"""scikit-learn's boosted trees as a `TreeEnsemble`.

Histogram trees have no `apply`, but their compiled predictor returns what stands in the leaf: a copy of the node table
whose leaves hold their own numbers gives the leaf of every row, by the library's own splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, message
from counterlog.core.tree_models import Floats, Leaves, Objective, TreeEnsemble
from counterlog.core.tree_readers import numbered, refuse_booster, refuse_objective, refuse_unfitted


def sklearn_trees(model: Any) -> TreeEnsemble:
    """HistGradientBoosting or GradientBoosting, classifier or regressor."""
    name = type(model).__name__
    if name.startswith("HistGradientBoosting"):
        if not hasattr(model, "_predictors"):
            refuse_unfitted(model)
        return _histogram_trees(model)
    if name in ("GradientBoostingClassifier", "GradientBoostingRegressor"):
        if not hasattr(model, "estimators_"):
            refuse_unfitted(model)
        return _exact_trees(model)
    msg = message(
        f"a {name} is not a boosted-tree model that can be read",
        expected="HistGradientBoosting or GradientBoosting (or LightGBM, XGBoost, CatBoost)",
    )
    raise ConfigError(msg)


def _sklearn_objective(model: Any, classes: Any) -> Objective:
    if classes is None:
        if model.loss != "squared_error":
            refuse_objective("scikit-learn", str(model.loss))
        return "squared"
    if model.loss != "log_loss":
        refuse_objective("scikit-learn", str(model.loss))
    return "logistic" if len(classes) == 2 else "softmax"


def numbered_tree(tree: Any, first: int) -> Any:
    """A copy of a histogram tree that predicts leaf numbers, `first` and up, instead of values."""
    nodes = tree.nodes.copy()
    nodes["value"] = np.cumsum(nodes["is_leaf"].astype(bool)) - 1 + first
    return type(tree)(nodes, tree.binned_left_cat_bitsets, tree.raw_left_cat_bitsets)


def rows_trained_on(model: Any, y: Any) -> NDArray[np.int64]:
    """The rows that a fitted histogram model grew its trees on: all, or those that early stopping did not set aside.

    The split is drawn again from the seed that the model drew in `fit`.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(y))
    if not model.do_early_stopping_ or model.validation_fraction is None:
        return rows
    kept, _ = train_test_split(
        rows,
        test_size=model.validation_fraction,
        stratify=y if hasattr(model, "classes_") else None,
        random_state=model._random_seed,
    )
    return np.asarray(kept, dtype=np.int64)


def _histogram_trees(model: Any) -> TreeEnsemble:
    classes = getattr(model, "classes_", None)
    objective = _sklearn_objective(model, classes)
    rounds = model._predictors
    T, K = len(rounds), model.n_trees_per_iteration_
    trees = [tree for one in rounds for tree in one]
    is_leaf = [t.nodes["is_leaf"].astype(bool) for t in trees]
    values, tree_of_leaf, start = numbered(
        [t.nodes["value"][leaf] for t, leaf in zip(trees, is_leaf, strict=True)]
    )
    finders = [numbered_tree(tree, int(first)) for tree, first in zip(trees, start, strict=True)]
    known_cats, place = model._bin_mapper.make_known_categories_bitsets()

    def find(X: Any) -> Leaves:
        encoded = np.asarray(model._preprocess_X(X, reset=False), dtype=np.float64)
        out = np.empty((len(encoded), T * K), dtype=np.int32)
        for j, finder in enumerate(finders):
            out[:, j] = finder.predict(encoded, known_cats, place, 1)
        return out.reshape(-1, T, K)

    def raw(X: Any) -> Floats:
        return np.asarray(model._raw_predict(X), dtype=np.float64).reshape(-1, K)

    return TreeEnsemble(
        backend="scikit-learn HistGradientBoosting",
        objective=objective,
        values=values,
        tree_of_leaf=tree_of_leaf,
        shape=(T, K),
        bias=np.asarray(model._baseline_prediction, dtype=np.float64).reshape(K).copy(),
        learning_rate=float(model.learning_rate),
        l2=float(model.l2_regularization),
        hessian_factor=1.0,
        full_hessian=False,
        bias_in_first_round=False,
        n_features=int(model.n_features_in_),
        classes=classes,
        warnings=("early_stopping",) if model.do_early_stopping_ else (),
        find_leaves=find,
        library_raw=raw,
    )


def _exact_trees(model: Any) -> TreeEnsemble:
    classes = getattr(model, "classes_", None)
    objective = _sklearn_objective(model, classes)
    trees = [t.tree_ for t in model.estimators_.ravel()]
    T, K = model.estimators_.shape
    is_leaf = [t.children_left == -1 for t in trees]
    values, tree_of_leaf, start = numbered(
        [t.value[leaf, 0, 0] * model.learning_rate for t, leaf in zip(trees, is_leaf, strict=True)]
    )
    nodes, _, first_node = numbered([np.cumsum(leaf) - 1 for leaf in is_leaf])
    leaf_of_node = nodes.astype(np.int64)
    probe = np.zeros((1, model.n_features_in_), dtype=np.float32)
    if model.init is not None and model.init != "zero":
        refuse_booster("scikit-learn", "started from another model (init)")
    bias = np.asarray(model._raw_predict_init(probe), dtype=np.float64).reshape(K)

    def find(X: Any) -> Leaves:
        local = np.asarray(model.apply(X)).reshape(-1, T * K).astype(np.int64)
        return np.asarray((leaf_of_node[local + first_node] + start).reshape(-1, T, K), dtype=np.int32)

    def raw(X: Any) -> Floats:
        out = model._raw_predict(np.asarray(X, dtype=np.float32))
        return np.asarray(out, dtype=np.float64).reshape(-1, K)

    return TreeEnsemble(
        backend="scikit-learn GradientBoosting",
        objective=objective,
        values=values,
        tree_of_leaf=tree_of_leaf,
        shape=(T, K),
        bias=bias.copy(),
        learning_rate=float(model.learning_rate),
        l2=0.0,
        hessian_factor=K / (K - 1) if K > 1 else 1.0,
        full_hessian=False,
        bias_in_first_round=False,
        n_features=int(model.n_features_in_),
        classes=classes,
        warnings=(f"subsample={model.subsample}",) if model.subsample < 1 else (),
        find_leaves=find,
        library_raw=raw,
    )
