"""Exact removal from a boosted-tree model: train again without the rows, once the recipe has proved itself.

A model file may hold the parameters of its training. They are believed only when training on all rows with them gives
the file's own model; then training without the rows is what the model would have been.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, message, need_extra
from counterlog.core.saved_trees import SavedTrees
from counterlog.core.tree_models import TreeEnsemble, read_trees
from counterlog.trace.boosting_path import take_rows

Rows = NDArray[np.int64]
SUFFIX = {"LightGBM": ".txt", "XGBoost": ".json", "CatBoost": ".cbm"}
LARGEST_GAP = 1e-4


def retrain_trees(
    saved: SavedTrees,
    trees: TreeEnsemble,
    X: Any,
    y: Any,
    weight: Any,
    keep: Rows,
    options: Sequence[str] = (),
) -> tuple[Any, float]:
    """The model of the rows `keep`, and the distance of the recipe's model of all rows from the file (raw score).

    `options` are parameters `name=value` that the file lacks. Raises `ConfigError` when the recipe is not known, and
    `LogError` when it does not give the file's model from all rows.
    """
    recipe = recipe_of(saved, options)
    code = y if trees.classes is None or saved.library == "CatBoost" else _codes(trees, y)
    every = np.arange(len(code))
    again = _fit(saved, recipe, X, code, weight, every)
    gap = float(np.abs(read_trees(again).library_raw(X) - trees.library_raw(X)).max())
    scale = max(1.0, float(np.abs(trees.library_raw(X)).max()))
    if gap > LARGEST_GAP * scale:
        msg = message(
            f"trained again on all rows, these parameters give another model (raw scores differ by up to {gap:.3g})",
            expected=f"the model of the file, to within {LARGEST_GAP * scale:.3g}",
            hint="exact removal needs the same rows in the same order, weights, parameters and library version; "
            "name missing parameters with --set, or train anew where the model was made",
        )
        raise LogError(msg)
    return _fit(saved, recipe, X, code, weight, keep), gap


def recipe_of(saved: SavedTrees, options: Sequence[str] = ()) -> dict[str, Any]:
    """The parameters of training: the file's, with `options` on top. Raises `ConfigError` when there are none."""
    given = {}
    for option in options:
        name, sign, text = option.partition("=")
        if not sign:
            raise ConfigError(message(f"setting {option!r} has no '='", expected="name=value"))
        given[name.strip()] = _value(text.strip())
    if not saved.parameters and not given:
        msg = message(
            f"an {saved.library} file does not keep the parameters of training, so the model cannot be trained again",
            hint="say all that were set in training, as --set eta=0.1 --set max_depth=4; they are checked",
        )
        raise ConfigError(msg)
    return {**saved.parameters, **given}


def save_trees(saved: SavedTrees, model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write the model as the library writes it and return the path."""
    path = Path(folder) / f"model{SUFFIX[saved.library]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_model(str(path))
    return path


def _codes(trees: TreeEnsemble, y: Any) -> Any:
    target = trees.targets(y)
    return target.argmax(axis=1) if trees.objective == "softmax" else target[:, 0]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _fit(saved: SavedTrees, recipe: Mapping[str, Any], X: Any, y: Any, weight: Any, rows: Rows) -> Any:
    part, target = take_rows(X, rows), np.asarray(y)[rows]
    w = None if weight is None else np.asarray(weight)[rows]
    return {"LightGBM": _lightgbm, "XGBoost": _xgboost, "CatBoost": _catboost}[saved.library](
        saved, dict(recipe), part, target, w
    )


def _lightgbm(saved: SavedTrees, recipe: dict[str, Any], X: Any, y: Any, w: Any) -> Any:
    lightgbm = need_extra("lightgbm", "trees")
    recipe.pop("num_iterations", None)
    recipe |= {"verbosity": -1, "num_threads": 1, "early_stopping_round": 0}
    data = lightgbm.Dataset(X, y, weight=w, feature_name=list(saved.names), params={"verbosity": -1})
    return lightgbm.train(recipe, data, num_boost_round=saved.rounds)


def _xgboost(saved: SavedTrees, recipe: dict[str, Any], X: Any, y: Any, w: Any) -> Any:
    import json

    xgboost = need_extra("xgboost", "trees")
    learner = json.loads(saved.model.save_config())["learner"]
    recipe = {"objective": learner["objective"]["name"], "nthread": 1, **recipe}
    if (count := int(learner["learner_model_param"]["num_class"])) > 0:
        recipe["num_class"] = count
    names = list(saved.names) or None
    data = xgboost.DMatrix(X, y, weight=w, feature_names=names, enable_categorical=True)
    return xgboost.train(recipe, data, num_boost_round=saved.rounds)


def _catboost(saved: SavedTrees, recipe: dict[str, Any], X: Any, y: Any, w: Any) -> Any:
    catboost = need_extra("catboost", "trees")
    recipe |= {"verbose": False, "thread_count": 1, "allow_writing_files": False, "iterations": saved.rounds}
    recipe.pop("class_names", None)
    cats = saved.model.get_cat_feature_indices()
    return catboost.CatBoost(recipe).fit(X, y, cat_features=cats or None, sample_weight=w)
