"""Which training rows a saved tree model owes its predictions to: tables in, one result with page and files out.

`attribute` is what `counterlog trace` calls: the ends of the ranking for every target row, the scores summed over the
targets, each training row's influence on itself, and both by group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.files import sha256, write_parquet, write_whole
from counterlog.core.labelled_tables import labels, numbers, read_table, require_columns
from counterlog.core.results import Result
from counterlog.core.saved_trees import SavedTrees, load_trees, read_saved
from counterlog.core.study import Clock, versions
from counterlog.trace.tree_influence import NEWTON, SIGN, TreeInfluence, TreeInfluenceConfig

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
RETRAINING = ("loo", "subsample", "shapley")
PAGED_TARGETS, SUMMED, OUTLIERS, MOST_GROUPS, CELLS = 12, 20, 20, 40, 8
CUTOFF = 3.5
PACKAGES = ("counterlog", "numpy", "polars", "lightgbm", "xgboost", "catboost")


@dataclass(frozen=True, kw_only=True)
class RankedRow:
    """A training row in a ranking: its number from 0, score, label and first feature values as text."""

    row: int
    score: float
    label: str
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """A target row with the ends of its ranking. `shares`: of the sum of |score|, in the top 1, 5 and 10 % of rows."""

    target: int
    label: str
    values: dict[str, str]
    prediction: tuple[float, ...]
    loss: float
    shares: tuple[float, float, float]
    helpful: tuple[RankedRow, ...]
    harmful: tuple[RankedRow, ...]


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """A group of training rows: its score summed over targets and its mean self-influence."""

    group: str
    rows: int
    total: float
    mean: float
    self_influence: float


@dataclass(frozen=True, kw_only=True)
class AttributionReport(Result):
    """What `trace` found. `n` counts training rows, `m` target rows; positive scores help the targets.

    `targets` are the first of the target rows; `helpful` and `harmful` are the ends of the scores summed over all of
    them; `outliers` are the rows with the largest self-influence, in nats or half squared units of the target, and
    `unusual` counts the rows beyond a robust cutoff. `leaf_error` is the largest distance of a leaf from the Newton
    step of the training rows: the check that rows and model belong together.
    """

    method: str
    unit: str
    sign: str
    n: int
    m: int
    classes: tuple[str, ...]
    targets: tuple[TargetRow, ...]
    helpful: tuple[RankedRow, ...]
    harmful: tuple[RankedRow, ...]
    outliers: tuple[RankedRow, ...]
    median_self_influence: float
    unusual: int
    group_column: str
    groups: tuple[GroupScore, ...]
    leaf_error: float
    model: dict[str, Any]
    data: dict[str, Any]
    command: str
    rng: int
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a target, end and rank of the targets that the page shows."""
        return [
            {"target": t.target, "end": end, "rank": k, "row": r.row, "score": r.score}
            for t in self.targets
            for end, rows in (("helpful", t.helpful), ("harmful", t.harmful))
            for k, r in enumerate(rows, start=1)
        ]

    def html(self) -> str:
        """The page, one file that opens without a network."""
        from counterlog.report.attribution_page import page

        return page(self)


@dataclass(frozen=True)
class Attribution:
    """The result, and the scores behind it: `rows` one row a training row, `ends` one row a target, end and rank."""

    report: AttributionReport
    rows: pl.DataFrame
    ends: pl.DataFrame

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the run folder; the page comes last, and its path is returned."""
        out = Path(folder)
        r = self.report
        run = {"command": r.command, "config": r.settings, "rng": r.rng, "versions": r.versions}
        write_whole(out / "run.json", json.dumps({**run, "data": r.data, "seconds": r.seconds}, indent=1))
        r.save(out / "result.json")
        for name, frame in (("scores.parquet", self.rows), ("ends.parquet", self.ends)):
            write_parquet(out / name, frame)
        return write_whole(out / "report.html", r.html())


def attribute(
    model: str | os.PathLike[str],
    train: str | os.PathLike[str],
    test: str | os.PathLike[str],
    *,
    target: str,
    group: str | None = None,
    weight: str | None = None,
    classes: Sequence[str] = (),
    top: int = 10,
    config: TreeInfluenceConfig | None = None,
    learning_rate: float | None = None,
    l2: float | None = None,
    rng: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> Attribution:
    """Score all rows of `train` for all rows of `test` under the saved tree model.

    Raises `ConfigError` for a model or a method that cannot be used, `LogError` for tables that do not fit the model.
    """
    clock, say = Clock(), progress or (lambda _text, _share: None)
    config = config or TreeInfluenceConfig()
    if config.method in RETRAINING:
        msg = message(
            f"{config.method} trains again, and a saved model is no recipe",
            hint="use TreeInfluence with the estimator in Python, or a method that needs no training",
        )
        raise ConfigError(msg)
    say("reading the model and the tables", 0.0)
    saved, frame, asked = load_trees(model), read_table(train), read_table(test)
    roles = [c for c in (target, group, weight) if c is not None]
    require_columns(frame, roles, str(train))
    require_columns(asked, [target], str(test))
    X, names = saved.matrix(frame, roles)
    y, y_test = labels(frame, target), labels(asked, target)
    w = None if weight is None else numbers(frame, weight)
    require_columns(asked, names, str(test))
    X_test, _ = saved.matrix(asked.select([*names, target]), [target])
    say("checking that these rows made the model", 0.15)
    trees, notes = read_saved(saved, X, y, w, classes=classes, learning_rate=learning_rate, l2=l2)
    try:
        found = TreeInfluence(trees, X, y, w, config=config, rng=rng)
    except LogError as cause:
        if classes or not any("class names" in n for n in notes):
            raise
        msg = f"{cause}. The file has no class names: if the model has another order, say --classes"
        raise LogError(msg) from cause
    say(f"scoring {found.n:,} rows for {len(y_test):,} targets by {config.method}", 0.3)
    k = min(top, found.n)
    (up, gains), (down, harms) = found.topk(X_test, y_test, k)
    say("adding the scores over the targets", 0.6)
    total = found.aggregate(X_test, y_test)
    say("scoring every row for itself", 0.75)
    own, own_note = _self_influence(found)
    say("writing down what was found", 0.9)
    few = found.score(X_test[:PAGED_TARGETS], y_test[:PAGED_TARGETS], k=k)
    rank = _Ranker(frame, names, target)
    far = _unusual(own)
    report = AttributionReport(
        method=config.method,
        unit=found.unit,
        sign=SIGN,
        n=found.n,
        m=len(y_test),
        classes=() if trees.classes is None else tuple(str(c) for c in trees.classes),
        targets=tuple(
            TargetRow(
                target=t.target,
                label=str(y_test[t.target]),
                values=_values(asked, names, t.target),
                prediction=t.prediction,
                loss=t.loss,
                shares=(t.share_top_1_percent, t.share_top_5_percent, t.share_top_10_percent),
                helpful=rank(t.helpful_rows, t.helpful),
                harmful=rank(t.harmful_rows, t.harmful),
            )
            for t in few.targets
        ),
        helpful=rank.ends(total, SUMMED),
        harmful=rank.ends(-total, SUMMED, sign=-1.0),
        outliers=rank.ends(own, OUTLIERS),
        median_self_influence=float(np.median(own)),
        unusual=far,
        group_column=group or "",
        groups=_groups(frame, group, total, own),
        leaf_error=float(found.data.reconstruction().max(initial=0.0)),
        model=_model_card(saved, found),
        data=_data_card(train, test, frame, asked),
        command=command or "counterlog.report.attribution.attribute(...)",
        rng=rng,
        settings={**config.to_dict(), "target": target, "group": group, "weight": weight, "top": top},
        versions=_versions(),
        seconds=clock.seconds(),
        notes=(*notes, *own_note, *few.notes),
    )
    say("done", 1.0)
    rows = pl.DataFrame({"row": np.arange(found.n), "summed": total, "self_influence": own})
    if group is not None:
        rows = rows.with_columns(frame[group].alias("group"))
    return Attribution(report, rows, _ends(up, gains, down, harms))


def _self_influence(found: TreeInfluence) -> tuple[Floats, tuple[str, ...]]:
    """Self-influence by the method itself where it streams, else by BoostIn, and a note that says so."""
    if found.config.method in ("boostin", "leafinfsp"):
        return found.self_influence(), ()
    same = {"allow_inexact": True} if found.config.method not in NEWTON else {}
    note = f"self-influence is BoostIn's: {found.config.method} has none that can be had for all rows"
    return found.using(method="boostin", **same).self_influence(), (note,)


def _unusual(own: Floats) -> int:
    """Rows whose log self-influence is more than 3.5 robust deviations above the median."""
    logs = np.log(np.maximum(own, 1e-300)[own > 0])
    if not logs.size:
        return 0
    centre = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - centre))
    return int(np.count_nonzero(logs > centre + CUTOFF * spread)) if spread > 0 else 0


def _groups(frame: pl.DataFrame, group: str | None, total: Floats, own: Floats) -> tuple[GroupScore, ...]:
    """The groups of largest |sum|, at most `MOST_GROUPS`."""
    if group is None:
        return ()
    table = pl.DataFrame(
        {"group": frame[group].cast(pl.String).fill_null("(empty)"), "total": total, "own": own}
    )
    found = (
        table.group_by("group")
        .agg(
            rows=pl.len(), total=pl.col("total").sum(), mean=pl.col("total").mean(), own=pl.col("own").mean()
        )
        .sort([pl.col("total").abs(), "group"], descending=[True, False])
        .head(MOST_GROUPS)
    )
    return tuple(
        GroupScore(group=g, rows=n, total=t, mean=mean, self_influence=s) for g, n, t, mean, s in found.rows()
    )


def _values(frame: pl.DataFrame, names: Sequence[str], row: int) -> dict[str, str]:
    """The first feature values of a row as text."""
    from counterlog.core.results import show

    shown = list(names)[:CELLS]
    return {c: show(v) for c, v in zip(shown, frame.select(shown).row(row), strict=True)}


class _Ranker:
    """Rows of the training table as `RankedRow`."""

    def __init__(self, frame: pl.DataFrame, names: Sequence[str], target: str) -> None:
        self.frame, self.names, self.target = frame, names, target

    def __call__(self, rows: Sequence[int], scores: Sequence[float]) -> tuple[RankedRow, ...]:
        return tuple(
            RankedRow(
                row=int(i),
                score=float(s),
                label=str(self.frame[self.target][int(i)]),
                values=_values(self.frame, self.names, int(i)),
            )
            for i, s in zip(rows, scores, strict=True)
        )

    def ends(self, scores: Floats, count: int, sign: float = 1.0) -> tuple[RankedRow, ...]:
        """The `count` largest of `scores` that are above zero, ties by row number; `sign` undoes a turned score."""
        order = np.argsort(-scores, kind="stable")[:count]
        kept = [int(i) for i in order if scores[i] > 0]
        return self(kept, [sign * float(scores[i]) for i in kept])


def _ends(up: Any, gains: Floats, down: Any, harms: Floats) -> pl.DataFrame:
    """One row a target, end and rank."""
    m, k = gains.shape
    parts = [
        pl.DataFrame(
            {
                "target": np.repeat(np.arange(m), k),
                "end": [end] * (m * k),
                "rank": np.tile(np.arange(1, k + 1), m),
                "row": rows.ravel(),
                "score": values.ravel(),
            }
        )
        for end, rows, values in (("helpful", up, gains), ("harmful", down, harms))
    ]
    return pl.concat(parts)


def _model_card(saved: SavedTrees, found: TreeInfluence) -> dict[str, Any]:
    trees = found.data.trees
    return {
        "file": saved.path.name,
        "library": saved.library,
        "sha256": saved.sha256,
        "objective": trees.objective,
        "rounds": trees.shape[0],
        "outputs": trees.shape[1],
        "leaves": trees.n_leaves,
        "learning_rate": trees.learning_rate,
        "l2": trees.l2,
    }


def _data_card(train: Any, test: Any, frame: pl.DataFrame, asked: pl.DataFrame) -> dict[str, Any]:
    card: dict[str, Any] = {}
    for name, path, table in (("train", train, frame), ("test", test, asked)):
        file = Path(os.fspath(path))
        digest = sha256(file) if file.is_file() else ""
        card[name] = {"path": str(path), "rows": table.height, "sha256": digest}
    return card


def _versions() -> dict[str, str]:
    from importlib.util import find_spec

    return versions(*(p for p in PACKAGES if find_spec(p) is not None))
