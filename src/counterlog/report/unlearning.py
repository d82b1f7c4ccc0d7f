"""Rows forgotten from a saved model: the new model, how close it is to never having seen them, and the page.

`unlearn` is what `counterlog unlearn` calls. A network saved by this library can forget by every method of the folder
`unlearn`; a tree model only by exact training without the rows; a folder of a language model by the methods that need
nothing but its gradients (`language_unlearning`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.files import sha256, write_whole
from counterlog.core.labelled_tables import labels, numbers, read_table, require_columns, rows_named
from counterlog.core.results import Result
from counterlog.core.study import Clock, versions

Rows = NDArray[np.int64]
Progress = Callable[[str, float], None]
Measures = dict[str, float]
METHODS = {
    "retrain": "Retrain",
    "fine-tune": "FineTune",
    "gradient-ascent": "GradientAscent",
    "random-labels": "RandomLabels",
    "scrub": "Scrub",
    "fisher-noise": "FisherNoise",
    "influence-newton": "InfluenceNewton",
    "influence-approximation-unlearning": "IAU",
}
SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class UnlearningReport(Result):
    """What forgetting did. `before`, `after` and `retrained` hold shares and mean losses in nats by name.

    `retrained` is empty unless a model was trained again without the rows to compare with; `exact` says that the new
    model is such a model. `n` counts the rows of the table. `digest` names the set of forgotten rows.
    """

    kind: str
    method: str
    exact: bool
    n: int
    unit: str
    forgotten: int
    kept: int
    tested: int
    before: Measures
    after: Measures
    retrained: Measures
    average_gap: float
    passes: float
    moved: float
    forget_seconds: float
    retrain_seconds: float
    rows: tuple[int, ...]
    digest: str
    file: str
    model: dict[str, Any]
    data: dict[str, Any]
    command: str
    rng: int
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a measure: before, after, and of the retrained model where there is one."""
        return [
            {"measure": k, "before": v, "after": self.after[k], "retrained": self.retrained.get(k)}
            for k, v in self.before.items()
        ]

    def html(self) -> str:
        """The page, one file that opens without a network."""
        from counterlog.report.unlearning_page import page

        return page(self)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write `run.json`, `result.json` and the page beside the new model; the page comes last."""
        out = Path(folder)
        run = {"command": self.command, "config": self.settings, "rng": self.rng, "versions": self.versions}
        content = {**run, "data": self.data, "seconds": self.seconds}
        write_whole(out / "run.json", json.dumps(content, indent=1))
        self.save(out / "result.json")
        return write_whole(out / "report.html", self.html())


def unlearn(
    model: str | os.PathLike[str],
    table: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    forget: str | os.PathLike[str] | None = None,
    where: str | None = None,
    key: str | None = None,
    target: str | None = None,
    weight: str | None = None,
    classes: Sequence[str] = (),
    test: str | os.PathLike[str] | None = None,
    method: str | None = None,
    options: Sequence[str] = (),
    compare: bool = False,
    rng: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> UnlearningReport:
    """Forget rows of `table` and write the new model into the folder `out`; the report is returned, not yet written.

    `table` holds all rows that the model was trained on, in their order. `compare` trains a network again without the
    rows to measure the gap. Raises `ConfigError` and `LogError` for what cannot be done or named.
    """
    from counterlog.core.saved_trees import is_tree_file

    clock, say = Clock(), progress or (lambda _text, _share: None)
    say("reading the model and the table", 0.0)
    path, frame = Path(model), read_table(table)
    gone = named_rows(frame, forget, where, key)
    asked = None if test is None else read_table(test)
    shared: dict[str, Any] = {
        "n": frame.height,
        "forgotten": len(gone),
        "kept": frame.height - len(gone),
        "rows": tuple(gone[:SHOWN].tolist()),
        "digest": hashlib.sha256(gone.astype("<i8").tobytes()).hexdigest()[:16],
        "data": _data_card(table, frame, test, asked),
        "command": command or "counterlog.report.unlearning.unlearn(...)",
        "rng": rng,
    }
    if path.is_dir():
        from counterlog.report.language_unlearning import forget_text

        made = forget_text(
            path, frame, gone, asked, Path(out), method=method, options=options, rng=rng, say=say
        )
    elif is_tree_file(path):
        made = _trees(path, frame, gone, asked, Path(out), target, weight, classes, method, options, say)
    else:
        made = _network(path, frame, gone, asked, Path(out), method, options, compare, rng, say)
    say("done", 1.0)
    return UnlearningReport(**shared, **made, seconds=clock.seconds())


def named_rows(
    frame: pl.DataFrame, forget: str | os.PathLike[str] | None, where: str | None, key: str | None
) -> Rows:
    """The rows to forget, sorted. Raises `LogError` for rows that do not exist, none, all, or named twice."""
    found = rows_named(frame, file=forget, where=where, key=key)
    if (bad := found[(found < 0) | (found >= frame.height)]).size:
        msg = message(
            f"{first_rows(bad)} are to be forgotten", expected=f"numbers from 0 to {frame.height - 1}"
        )
        raise LogError(msg)
    gone = np.unique(found)
    if gone.size != found.size:
        raise LogError(message(f"{found.size - gone.size} rows are named twice", hint="name each row once"))
    if not 0 < gone.size < frame.height:
        count = "no row is" if gone.size == 0 else "every row is"
        raise LogError(message(f"{count} to be forgotten", expected=f"some of the {frame.height:,} rows"))
    return gone


def _network(
    path: Path, frame: pl.DataFrame, gone: Rows, asked: pl.DataFrame | None, out: Path, method: str | None,
    options: Sequence[str], compare: bool, rng: int, say: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Forgetting in a network on tables, by any method; what `UnlearningReport` needs of it."""
    from counterlog.core.saved_networks import is_network_file, load_network
    from counterlog.unlearn.retrain import Retrain, RetrainConfig

    if not path.exists() or not is_network_file(path):
        msg = message(
            f"{path} is neither a network that SavedNetwork.save wrote nor a tree model",
            expected="safetensors of this library, LightGBM .txt, XGBoost .json/.ubj, CatBoost .cbm/.json, or a folder",
            hint="a pickled model is not loaded: loading one runs its code",
        )
        raise ConfigError(msg)
    slug = method or "influence-approximation-unlearning"
    net = load_network(path)
    x, y = net.rows(frame)
    test = None if asked is None else net.rows(asked)
    recipe = RetrainConfig.from_dict(net.training.to_dict())
    system, config = unlearner(slug, options, recipe)
    if slug == "retrain":
        system.start = net.start()
    say(f"forgetting {len(gone):,} rows by {slug}", 0.2)
    forgotten = system.forget(net.model, x, y, gone, rng=net.rng if slug == "retrain" else rng)
    reference = None
    if compare and slug != "retrain":
        say("training again without the rows, to compare", 0.4)
        reference = Retrain(recipe, start=net.start()).forget(net.model, x, y, gone, rng=net.rng)
    say("measuring", 0.8)
    file = net.with_model(forgotten.model).save(out / "model.safetensors")
    r = forgotten.report
    retrained = _measures(reference.model, x, y, gone, test, rng) if reference else {}
    after = _measures(forgotten.model, x, y, gone, test, rng)
    gaps = [abs(after[k] - retrained[k]) for k in GAP if k in after and k in retrained]
    return {
        "kind": "network",
        "method": slug,
        "exact": slug == "retrain",
        "unit": "share (accuracies, attacks) or nats a row (losses)",
        "tested": 0 if asked is None else asked.height,
        "before": _measures(net.model, x, y, gone, test, rng),
        "after": after,
        "retrained": retrained,
        "average_gap": float(np.mean(gaps)) if gaps else float("nan"),
        "passes": r.passes,
        "moved": r.moved,
        "forget_seconds": r.cpu_seconds,
        "retrain_seconds": reference.report.cpu_seconds if reference else float("nan"),
        "file": file.name,
        "model": {
            "file": path.name,
            "sha256": sha256(path),
            "layers": list(net.sizes),
            "classes": list(net.classes),
        },
        "settings": {**config, "method": slug, "compare": compare},
        "versions": versions("counterlog", "torch", "numpy"),
        "notes": r.notes,
    }


GAP = ("forget_accuracy", "kept_accuracy", "test_accuracy", "attack_confidence")


def unlearner(slug: str, options: Sequence[str], recipe: Any) -> tuple[Any, dict[str, Any]]:
    """A method by its slug with settings `name=value`, and all its settings; retraining begins from the recipe."""
    if slug not in METHODS:
        raise ConfigError(message(f"there is no way of forgetting {slug!r}", expected=", ".join(METHODS)))
    module = import_module(f"counterlog.unlearn.{slug.replace('-', '_')}")
    kind = getattr(module, f"{METHODS[slug]}Config")
    if slug == "retrain":
        changed = kind.from_options(options).to_dict()
        given = {o.partition("=")[0].strip().replace("-", "_") for o in options}
        config = kind.from_dict({**recipe.to_dict(), **{k: v for k, v in changed.items() if k in given}})
    else:
        config = kind.from_options(options)
    return getattr(module, METHODS[slug])(config), config.to_dict()


def _measures(model: Any, x: Any, y: Any, gone: Rows, test: Any, rng: int) -> Measures:
    """Accuracies, losses and, with test rows, membership attacks of one network."""
    from counterlog.core.torch_models import losses
    from counterlog.unlearn.forget_request import share_right
    from counterlog.unlearn.unlearning_metrics import evaluate

    kept = np.setdiff1d(np.arange(len(x)), gone)
    parts = {"forget": (x[gone], y[gone]), "kept": (x[kept], y[kept]), **({"test": test} if test else {})}
    found = {f"{k}_accuracy": share_right(model, *p) for k, p in parts.items()}
    found |= {f"{k}_loss": float(losses(model, *p).mean()) for k, p in parts.items()}
    if test:
        import warnings

        with warnings.catch_warnings():  # whole classes are noted by the report itself
            warnings.simplefilter("ignore", UserWarning)
            m = evaluate(model, x, y, gone, test=test, attacks=("confidence",), rng=rng)
        found |= {"attack_confidence": m.mia["confidence"], "attack_loss_auc": m.loss_auc}
    return found


def _trees(
    path: Path, frame: pl.DataFrame, gone: Rows, asked: pl.DataFrame | None, out: Path, target: str | None,
    weight: str | None, classes: Sequence[str], method: str | None, options: Sequence[str], say: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Exact removal from a tree model; what `UnlearningReport` needs of it."""
    from counterlog.core.saved_trees import load_trees, read_saved
    from counterlog.core.tree_models import read_trees
    from counterlog.unlearn.retrained_trees import recipe_of, retrain_trees, save_trees

    if method not in (None, "retrain"):
        msg = message(
            f"a tree model cannot forget by {method!r}: its splits have no gradients",
            expected="--method retrain, which is exact",
        )
        raise ConfigError(msg)
    if target is None:
        raise ConfigError(message("the label column is not named", expected="--target COLUMN"))
    saved = load_trees(path)
    recipe = recipe_of(saved, options)
    roles = [c for c in (target, weight) if c is not None]
    require_columns(frame, roles, "the table")
    X, names = saved.matrix(frame, roles)
    y, w = labels(frame, target), None if weight is None else numbers(frame, weight)
    trees, notes = read_saved(saved, X, y, w, classes=classes, learning_rate=1.0, l2=0.0)
    keep = np.setdiff1d(np.arange(frame.height), gone)
    say("training on all rows, to prove the recipe, and without the rows", 0.2)
    clock = Clock()
    new, gap = retrain_trees(saved, trees, X, y, w, keep, options)
    seconds = clock.seconds()
    say("measuring", 0.8)
    parts: dict[str, tuple[Any, Any]] = {
        "forget": (X[gone] if isinstance(X, np.ndarray) else X.iloc[gone], y[gone]),
        "kept": (X[keep] if isinstance(X, np.ndarray) else X.iloc[keep], y[keep]),
    }
    if asked is not None:
        require_columns(asked, [*names, target], "the test table")
        parts["test"] = (saved.matrix(asked.select([*names, target]), [target])[0], labels(asked, target))
    after = _tree_measures(trees, read_trees(new), parts)
    return {
        "kind": f"{saved.library} model",
        "method": "retrain",
        "exact": True,
        "unit": "share (accuracies, attacks) or nats a row (losses; half squared units for regression)",
        "tested": 0 if asked is None else asked.height,
        "before": _tree_measures(trees, trees, parts),
        "after": after,
        "retrained": {},
        "average_gap": float("nan"),
        "passes": float(saved.rounds),
        "moved": float("nan"),
        "forget_seconds": seconds,
        "retrain_seconds": float("nan"),
        "file": save_trees(saved, new, out).name,
        "model": {
            "file": path.name,
            "sha256": saved.sha256,
            "library": saved.library,
            "rounds": saved.rounds,
        },
        "settings": {"method": "retrain", "recipe": json.loads(json.dumps(recipe, default=str))},
        "versions": versions("counterlog", saved.library.lower(), "numpy"),
        "notes": (
            *notes,
            f"the recipe was proved: on all rows it gives the model of the file to within {gap:.2g} of raw score",
        ),
    }


def _tree_measures(trees: Any, model: Any, parts: dict[str, tuple[Any, Any]]) -> Measures:
    """Accuracies and losses of the reading `model` with the classes of `trees`; the attack by losses with test rows."""
    from counterlog.unlearn.membership import loss_auc

    found, by_part = {}, {}
    for name, (X, y) in parts.items():
        raw, wanted = model.library_raw(X), trees.targets(y)
        by_part[name] = trees.loss(raw, wanted)
        if trees.objective != "squared":
            right = (
                raw.argmax(axis=1) == wanted.argmax(axis=1)
                if raw.shape[1] > 1
                else (raw > 0) == (wanted > 0.5)
            )
            found[f"{name}_accuracy"] = float(np.mean(right))
    found |= {f"{k}_loss": float(v.mean()) for k, v in by_part.items()}
    if "test" in by_part:
        found["attack_loss_auc"] = loss_auc(by_part["forget"], by_part["test"])
    return found


def _data_card(table: Any, frame: pl.DataFrame, test: Any, asked: pl.DataFrame | None) -> dict[str, Any]:
    card: dict[str, Any] = {}
    for name, path, found in (("table", table, frame), ("test", test, asked)):
        if found is not None:
            file = Path(os.fspath(path))
            digest = sha256(file) if file.is_file() else ""
            card[name] = {"path": str(path), "rows": found.height, "sha256": digest}
    return card
