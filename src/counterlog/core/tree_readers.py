"""How each library says what its trees are: one reader a library, each returning a `TreeEnsemble`.

Leaf numbers always come from the library (for scikit-learn's histogram trees, from its compiled predictor),
never from split tests written again.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

from counterlog.core.errors import ConfigError, NotFittedError, message, need_extra
from counterlog.core.tree_models import Floats, Leaves, Objective, TreeEnsemble


def refuse_objective(backend: str, name: str) -> NoReturn:
    """Only three losses have leaves that are Newton steps of a known form."""
    msg = message(
        f"the {backend} model minimises {name!r}",
        expected="squared error, binary log-loss or softmax log-loss",
    )
    raise ConfigError(msg)


def refuse_booster(backend: str, what: str) -> NoReturn:
    """Forests, dropped trees, linear leaves."""
    msg = message(
        f"the {backend} model is {what}: its prediction is not a sum of Newton steps over all rows",
        hint="train a plain gradient-boosted model",
    )
    raise ConfigError(msg)


def refuse_unfitted(model: Any) -> NoReturn:
    """Nothing to read yet."""
    msg = message(f"this {type(model).__name__} is not fitted", hint="call its fit first")
    raise NotFittedError(msg)


def numbered(start: list[Any]) -> tuple[Floats, Any, Any]:
    """Leaf values a tree (round-major, T x K lists) -> flat values, tree of each leaf, first leaf of each tree."""
    counts = np.array([len(v) for v in start])
    values = np.concatenate([np.asarray(v, dtype=np.float64) for v in start])
    return values, np.repeat(np.arange(len(counts)), counts), np.concatenate([[0], np.cumsum(counts)[:-1]])


# ---------------------------------------------------------------------------------------------------- LightGBM


def _lightgbm_leaf_values(node: dict[str, Any]) -> list[float]:
    """Leaf values of one dumped tree, by leaf index."""
    found: dict[int, float] = {}
    stack = [node]
    while stack:
        at = stack.pop()
        if "leaf_value" in at:
            found[int(at.get("leaf_index", 0))] = float(at["leaf_value"])
        else:
            stack += [at["left_child"], at["right_child"]]
    return [found[i] for i in range(len(found))]


def lightgbm_trees(model: Any) -> TreeEnsemble:
    """An LGBMClassifier, an LGBMRegressor or a Booster (also one loaded from its text file)."""
    classes = None
    booster = model
    if hasattr(model, "booster_") or hasattr(model, "fit"):
        if not getattr(model, "fitted_", False):
            refuse_unfitted(model)
        booster, classes = model.booster_, getattr(model, "classes_", None)
    dump, text = booster.dump_model(), booster.model_to_string()
    settings = {}
    for line in text[text.rfind("\nparameters:") :].splitlines():
        name, colon, value = line.strip("[]").partition(": ")
        if colon:
            settings[name] = value
    objective, *details = str(dump.get("objective", "none")).split(" ")
    kinds: dict[str, Objective] = {"regression": "squared", "binary": "logistic", "multiclass": "softmax"}
    if objective not in kinds or "sqrt" in details:
        refuse_objective("LightGBM", " ".join([objective, *details]))
    if dump.get("average_output") or settings.get("boosting") in ("rf", "dart"):
        refuse_booster("LightGBM", settings.get("boosting", "a random forest"))
    if settings.get("linear_tree") == "1":
        refuse_booster("LightGBM", "linear in its leaves")
    K = int(dump["num_tree_per_iteration"])
    trees = dump["tree_info"]
    values, tree_of_leaf, start = numbered([_lightgbm_leaf_values(t["tree_structure"]) for t in trees])
    T = len(trees) // K
    neutral = {
        "lambda_l1": "0",
        "path_smooth": "0",
        "max_delta_step": "0",
        "bagging_freq": "0",
        "data_sample_strategy": "bagging",
        "is_unbalance": "0",
        "scale_pos_weight": "1",
        "sigmoid": "1",
    }
    unusual = tuple(f"{k}={settings[k]}" for k, v in neutral.items() if settings.get(k, v) != v)

    def find(X: Any) -> Leaves:
        local = np.asarray(booster.predict(X, pred_leaf=True), dtype=np.int64).reshape(-1, T * K)
        return np.asarray((local + start).reshape(-1, T, K), dtype=np.int32)

    def raw(X: Any) -> Floats:
        return np.asarray(booster.predict(X, raw_score=True), dtype=np.float64).reshape(-1, K)

    return TreeEnsemble(
        backend="LightGBM",
        objective=kinds[objective],
        values=values,
        tree_of_leaf=tree_of_leaf,
        shape=(T, K),
        bias=np.zeros(K),
        learning_rate=float(settings.get("learning_rate", 0.1)),
        l2=float(settings.get("lambda_l2", 0.0)),
        hessian_factor=K / (K - 1) if K > 1 else 1.0,
        full_hessian=False,
        bias_in_first_round=settings.get("boost_from_average", "1") == "1",
        n_features=int(booster.num_feature()),
        classes=classes,
        warnings=unusual,
        find_leaves=find,
        library_raw=raw,
    )


# ---------------------------------------------------------------------------------------------------- XGBoost


def xgboost_trees(model: Any) -> TreeEnsemble:
    """An XGBClassifier, an XGBRegressor or a Booster (its file loses learning_rate and lambda: say them again)."""
    xgb = need_extra("xgboost", "trees")
    classes, booster, last = None, model, None
    missing = np.nan
    if hasattr(model, "get_booster"):
        if not model.__sklearn_is_fitted__():
            refuse_unfitted(model)
        booster, classes, missing = model.get_booster(), getattr(model, "classes_", None), model.missing
        last = getattr(model, "best_iteration", None) if model.early_stopping_rounds else None
    config = json.loads(booster.save_config())["learner"]
    content = json.loads(booster.save_raw("json"))["learner"]
    name = config["objective"]["name"]
    kinds: dict[str, Objective] = {
        "reg:squarederror": "squared",
        "binary:logistic": "logistic",
        "reg:logistic": "logistic",
        "multi:softprob": "softmax",
        "multi:softmax": "softmax",
    }
    if name not in kinds:
        refuse_objective("XGBoost", name)
    gradient_booster = content["gradient_booster"]
    if gradient_booster["name"] != "gbtree":
        refuse_booster("XGBoost", gradient_booster["name"])
    inner = gradient_booster["model"]
    if int(inner["gbtree_model_param"]["num_parallel_tree"]) != 1:
        refuse_booster("XGBoost", "a forest in every round")
    K = max(1, int(config["learner_model_param"]["num_class"]))
    if int(config["learner_model_param"].get("num_target", "1")) > 1:
        refuse_booster("XGBoost", "one of several targets")
    trees = inner["trees"]
    T = len(trees) // K if last is None else last + 1
    trees = trees[: T * K]
    if not np.array_equal(inner["tree_info"][: T * K], np.tile(np.arange(K), T)):
        refuse_booster("XGBoost", "not one tree a class and round, in order")
    is_leaf = [np.asarray(t["left_children"]) == -1 for t in trees]
    values, tree_of_leaf, start = numbered(
        [np.asarray(t["split_conditions"])[leaf] for t, leaf in zip(trees, is_leaf, strict=True)]
    )
    nodes, _, first_node = numbered([np.cumsum(leaf) - 1 for leaf in is_leaf])
    leaf_of_node = nodes.astype(np.int64)
    base = np.atleast_1d(
        np.asarray(json.loads(config["learner_model_param"]["base_score"]), dtype=np.float64)
    )
    # The library keeps the start value in single precision.
    base = base.astype(np.float32).astype(np.float64)
    if kinds[name] == "logistic":
        base = np.log(base / (1 - base))
    train = config["gradient_booster"]["tree_train_param"]
    neutral = {"alpha": 0.0, "max_delta_step": 0.0, "subsample": 1.0}
    unusual = [f"{k}={train[k]}" for k, v in neutral.items() if float(train.get(k, v)) != v]
    scale = config["objective"].get("reg_loss_param", {}).get("scale_pos_weight", "1")
    if float(scale) != 1.0:
        unusual.append(f"scale_pos_weight={scale}")

    def matrix(X: Any) -> Any:
        names = None if hasattr(X, "columns") else booster.feature_names
        kinds = None if hasattr(X, "columns") else booster.feature_types
        return xgb.DMatrix(
            X, missing=missing, feature_names=names, feature_types=kinds, enable_categorical=True
        )

    def find(X: Any) -> Leaves:
        local = np.asarray(booster.predict(matrix(X), pred_leaf=True, iteration_range=(0, T)))
        local = local.reshape(-1, T * K).astype(np.int64)
        return np.asarray((leaf_of_node[local + first_node] + start).reshape(-1, T, K), dtype=np.int32)

    def raw(X: Any) -> Floats:
        out = booster.predict(matrix(X), output_margin=True, iteration_range=(0, T))
        return np.asarray(out, dtype=np.float64).reshape(-1, K)

    return TreeEnsemble(
        backend="XGBoost",
        objective=kinds[name],
        values=values,
        tree_of_leaf=tree_of_leaf,
        shape=(T, K),
        bias=np.broadcast_to(base, (K,)).copy(),
        learning_rate=float(train["eta"]),
        l2=float(train["lambda"]),
        hessian_factor=2.0 if K > 1 else 1.0,
        full_hessian=False,
        bias_in_first_round=False,
        n_features=int(booster.num_features()),
        classes=classes,
        warnings=tuple(unusual),
        find_leaves=find,
        library_raw=raw,
    )


# ---------------------------------------------------------------------------------------------------- CatBoost


def catboost_trees(model: Any) -> TreeEnsemble:
    """A CatBoostClassifier, a CatBoostRegressor or a CatBoost object (also one loaded from its file)."""
    if not model.is_fitted():
        refuse_unfitted(model)
    settings = model.get_all_params()
    name = str(settings.get("loss_function", "")).split(":")[0]
    kinds: dict[str, Objective] = {"RMSE": "squared", "Logloss": "logistic", "MultiClass": "softmax"}
    if name not in kinds:
        refuse_objective("CatBoost", name or "an unknown loss")
    counts = np.asarray(model.get_tree_leaf_counts(), dtype=np.int64)
    scale, bias = model.get_scale_and_bias()
    T = len(counts)
    flat = scale * np.asarray(model.get_leaf_values(), dtype=np.float64)
    K = len(flat) // int(counts.sum())
    # Row-major blocks (leaves, K): leaf s of all trees has its K values at s K, s K + 1, ...
    tree_of_leaf = np.repeat(np.arange(T), counts)[:, None] * K + np.arange(K)
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    unusual = []
    if int(settings.get("leaf_estimation_iterations", 1)) != 1:
        unusual.append(f"leaf_estimation_iterations={settings['leaf_estimation_iterations']}")
    if settings.get("leaf_estimation_method", "Newton") != "Newton" and name != "RMSE":
        unusual.append(f"leaf_estimation_method={settings['leaf_estimation_method']}")
    if settings.get("boosting_type", "Plain") != "Plain":
        unusual.append(f"boosting_type={settings['boosting_type']}")
    if settings.get("auto_class_weights", "None") != "None":
        unusual.append(f"auto_class_weights={settings['auto_class_weights']}")
    weights = ("class_weights", "scale_pos_weight")
    unusual += [f"{name} is set" for name in weights if settings.get(name) not in (None, {}, [], 1, 1.0)]

    def find(X: Any) -> Leaves:
        local = np.asarray(model.calc_leaf_indexes(X), dtype=np.int64).reshape(-1, T)
        return np.asarray((local + start)[:, :, None] * K + np.arange(K), dtype=np.int32)

    def raw(X: Any) -> Floats:
        return np.asarray(model.predict(X, prediction_type="RawFormulaVal"), dtype=np.float64).reshape(-1, K)

    classes = np.asarray(model.classes_) if name != "RMSE" and len(model.classes_) else None
    return TreeEnsemble(
        backend="CatBoost",
        objective=kinds[name],
        values=flat,
        tree_of_leaf=tree_of_leaf.ravel(),
        shape=(T, K),
        bias=np.broadcast_to(np.asarray(bias, dtype=np.float64), (K,)).copy(),
        learning_rate=float(settings["learning_rate"]),
        l2=float(settings["l2_leaf_reg"]),
        hessian_factor=1.0,
        full_hessian=K > 1,
        bias_in_first_round=False,
        n_features=len(model.feature_names_),
        classes=classes,
        warnings=tuple(unusual),
        find_leaves=find,
        library_raw=raw,
    )
