"""Boosted-tree models from their files, without pickle: LightGBM text, XGBoost JSON or UBJSON, CatBoost cbm or JSON.

What a file forgets is found again from the training rows. Class names are the sorted labels. An XGBoost file keeps
neither learning rate nor ridge, but its leaves do:

    V_l H_l = - eta G_l - l2 V_l        for every leaf l, with G and H from the path that the leaves V give        (1)

so (eta, l2) solve a least-squares problem with one row a leaf. A file that is wrong about any of this fails the check
of the leaves that follows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterlog.core.errors import ConfigError, LogError, message, need_extra
from counterlog.core.files import sha256
from counterlog.core.labelled_tables import feature_names, features
from counterlog.core.tree_models import Floats, TreeEnsemble, read_trees

FORMATS = "LightGBM text (.txt), XGBoost .json or .ubj, CatBoost .cbm or .json"
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin")
ENOUGH_LEAVES = 3


@dataclass(frozen=True)
class SavedTrees:
    """A model file: the library's own object, the columns it wants, and the training parameters that it records."""

    path: Path
    library: str
    model: Any
    names: tuple[str, ...]
    count: int
    parameters: dict[str, Any]
    rounds: int

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return sha256(self.path)

    def matrix(self, frame: pl.DataFrame, other: Sequence[str]) -> tuple[Any, list[str]]:
        """The table as this model takes it, and the names of the columns; `other` are columns with another role."""
        names = feature_names(frame, self.names, other, self.count)
        text_as = "str" if self.library == "CatBoost" else "category"
        return features(frame, names, text_as=text_as), names


def is_tree_file(path: str | os.PathLike[str]) -> bool:
    """Whether the name and the first bytes are those of a file that `load_trees` reads."""
    file = Path(path)
    return file.is_file() and _library(file) is not None


def load_trees(path: str | os.PathLike[str]) -> SavedTrees:
    """The model in a file. Raises `ConfigError` for a pickle or a kind that is not read."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(message(f"there is no model file {file}", expected=FORMATS))
    library = _library(file)
    if library is None:
        pickle = file.suffix.lower() in PICKLES or file.read_bytes()[:1] == b"\x80"
        found = (
            f"{file.name} is a pickle: loading one runs its code" if pickle else f"{file.name} is not known"
        )
        hint = "save with the library's own save_model" if pickle else ""
        raise ConfigError(message(found, expected=FORMATS, hint=hint))
    try:
        return {"LightGBM": _lightgbm, "XGBoost": _xgboost, "CatBoost": _catboost}[library](file)
    except (ValueError, KeyError, OSError, RuntimeError) as cause:
        if isinstance(cause, ConfigError):
            raise
        msg = message(f"{file.name} cannot be read as {library} ({str(cause).strip().splitlines()[0][:200]})")
        raise ConfigError(message(msg, hint="the file may be cut off: save it again")) from cause
    except Exception as cause:  # the libraries' own error classes share no base
        if type(cause).__module__.split(".")[0] not in ("lightgbm", "xgboost", "_catboost", "catboost"):
            raise
        msg = message(f"{file.name} cannot be read as {library} ({str(cause).strip().splitlines()[0][:200]})")
        raise ConfigError(message(msg, hint="the file may be cut off: save it again")) from cause


def _library(file: Path) -> str | None:
    """Which library wrote the file, by its first bytes."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(b"tree\n"):
        return "LightGBM"
    if head.startswith(b"CBM1"):
        return "CatBoost"
    suffix = file.suffix.lower()
    if suffix == ".ubj" or (head.startswith(b"{L") and b"learner" in head):
        return "XGBoost"
    if head.lstrip().startswith(b"{"):
        if b'"learner"' in head:
            return "XGBoost"
        if b'"tree_info"' in head or b'"num_tree_per_iteration"' in head:
            msg = message(
                f"{file.name} is a dump of a LightGBM model, which LightGBM itself cannot load",
                hint="save the model with booster.save_model('model.txt')",
            )
            raise ConfigError(msg)
        return "CatBoost" if suffix == ".json" else None
    return None


def _lightgbm(file: Path) -> SavedTrees:
    booster = need_extra("lightgbm", "trees").Booster(model_file=str(file))
    names = tuple(booster.feature_name())
    parameters = dict(booster.params or {})
    return SavedTrees(
        file, "LightGBM", booster, names, booster.num_feature(), parameters, booster.current_iteration()
    )


def _xgboost(file: Path) -> SavedTrees:
    booster = need_extra("xgboost", "trees").Booster()
    booster.load_model(str(file))
    names = tuple(booster.feature_names or ())
    return SavedTrees(
        file, "XGBoost", booster, names, booster.num_features(), {}, booster.num_boosted_rounds()
    )


def _catboost(file: Path) -> SavedTrees:
    model = need_extra("catboost", "trees").CatBoost()
    model.load_model(str(file), format="cbm" if file.suffix.lower() == ".cbm" else "json")
    if not model.is_fitted() or model.tree_count_ == 0:
        raise ConfigError(message(f"{file.name} holds no trees", expected=FORMATS))
    names = tuple(model.feature_names_)
    return SavedTrees(
        file, "CatBoost", model, names, len(names), dict(model.get_all_params()), model.tree_count_
    )


def read_saved(
    saved: SavedTrees,
    X: Any,
    y: Any,
    weight: Any = None,
    *,
    classes: Sequence[str] = (),
    learning_rate: float | None = None,
    l2: float | None = None,
) -> tuple[TreeEnsemble, tuple[str, ...]]:
    """The model as arrays, and notes on what was found again from the rows: class names, learning rate, ridge.

    `classes` are the labels in the model's order, as text; without them, the sorted labels.
    """
    trees, notes = read_trees(saved.model), []
    y = np.asarray(y)
    if trees.objective != "squared" and saved.library != "CatBoost":
        distinct = _in_order(np.unique(y), classes)
        if len(distinct) != max(2, trees.shape[1]):
            msg = message(
                f"the model tells {max(2, trees.shape[1])} classes apart and the labels have {len(distinct)}",
                hint="name the column that the model was trained on",
            )
            raise LogError(msg)
        trees = replace(trees, classes=distinct)
        if not classes and not np.array_equal(distinct, np.arange(len(distinct))):
            notes.append(
                f"the file has no class names: taken as {', '.join(map(str, distinct))}, in this order"
            )
    if saved.library == "XGBoost" and (learning_rate is None or l2 is None):
        eta, ridge = solved_steps(trees, X, y, weight)
        trees = replace(trees, learning_rate=eta, l2=ridge)
        notes.append(
            f"the file keeps no learning rate or ridge: its leaves and rows give {eta:.4g} and {ridge:.4g}"
        )
    if learning_rate is not None:
        trees = replace(trees, learning_rate=learning_rate)
    if l2 is not None:
        trees = replace(trees, l2=l2)
    return trees, tuple(notes)


def _in_order(distinct: Any, classes: Sequence[str]) -> Any:
    """The labels in the order of `classes`. Raises `ConfigError` unless they are the same labels."""
    if not classes:
        return distinct
    place = {str(v): i for i, v in enumerate(distinct.tolist())}
    if sorted(classes) != sorted(place):
        msg = message(
            f"the classes are given as {', '.join(classes)}",
            expected=f"the labels of the table in the model's order: {', '.join(sorted(place))}",
        )
        raise ConfigError(msg)
    return distinct[[place[c] for c in classes]]


def solved_steps(trees: TreeEnsemble, X: Any, y: Any, weight: Any = None) -> tuple[float, float]:
    """(learning rate, l2) of equation (1) by least squares over all leaves that hold rows.

    Raises `LogError` when the leaves are too few or too much alike to tell the two apart.
    """
    target = trees.targets(y)
    w = np.ones(len(target)) if weight is None else np.asarray(weight, dtype=np.float64)
    G, H = np.zeros(trees.n_leaves), np.zeros(trees.n_leaves)
    rows = max(1, 2**24 // (trees.shape[0] * trees.shape[1]))
    for start in range(0, len(target), rows):
        at = slice(start, start + rows)
        leaves = trees.leaves(X.iloc[at] if hasattr(X, "iloc") else X[at])
        p = trees.link(trees.path(leaves)[:, :-1])
        scale = w[at, None, None]
        flat = leaves.ravel()
        G += np.bincount(flat, (scale * (p - target[at, None, :])).ravel(), minlength=len(G))
        H += np.bincount(flat, (scale * trees.curvature(p)).ravel(), minlength=len(H))
    V = trees.values
    used = (H > 0) & (np.abs(V) > 0)
    eta, l2 = _fit_steps(V[used], G[used], H[used])
    if used.sum() < ENOUGH_LEAVES or not np.isfinite([eta, l2]).all() or not eta > 0:
        msg = message(
            f"{int(used.sum())} leaves do not tell the learning rate and the ridge of this XGBoost file "
            f"(the best fit is {eta:.3g} and {l2:.3g})",
            hint="the labels may stand in another order than the model's (say --classes a,b), or these are not the "
            "rows it was trained on; else say both --learning-rate and --l2",
        )
        raise LogError(msg)
    return eta, l2


def _fit_steps(V: Floats, G: Floats, H: Floats) -> tuple[float, float]:
    """Least squares of (1), every leaf's equation divided by H so that large leaves do not drown small ones.

    A solution below zero is moved to its bound; digits that single precision cannot know are dropped.
    """
    if len(V) < ENOUGH_LEAVES:
        return float("nan"), float("nan")
    design = np.column_stack([-G / H, -V / H])
    eta, l2 = np.linalg.lstsq(design, V, rcond=None)[0]
    if l2 < 0:
        eta, l2 = float((design[:, 0] @ V) / (design[:, 0] @ design[:, 0])), 0.0
    return float(f"{eta:.5g}"), float(f"{l2:.4g}")


def recorded_parameters(saved: SavedTrees) -> dict[str, Any]:
    """The parameters of training as plain text-able values."""
    return json.loads(json.dumps(saved.parameters, default=str))  # type: ignore[no-any-return]
