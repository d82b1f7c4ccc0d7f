"""Evaluate policies on a decision log: one scan into a bucket table, then every value with its interval.

`evaluate(log, policies, estimators)` is what the command line, the report and each estimator's `estimate`
call. Policies that
an engine can express are scanned where the log lies; reward models and other policies add columns in memory first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.buckets import (
    BUCKETS,
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    scan,
)
from counterlog.core.crossfit import reward_model
from counterlog.core.derive import derive
from counterlog.core.errors import ConfigError, CounterlogError, SupportError, message
from counterlog.core.estimators import Estimator, Row
from counterlog.core.hashing import unit_keys
from counterlog.core.policies import Policy, checked_logged_probs, checked_probs, parse_policy
from counterlog.core.results import Estimate, Result
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
UNITS_A_BUCKET = 50


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """Values of policies by estimators, and the bucket table they were derived from.

    `left + right` is the evaluation of both logs together. `n` counts rows.
    """

    estimates: tuple[Estimate, ...]
    table: BucketTable
    n: int
    unit: str
    level: float = 0.95
    interval: str = "t"
    rng: int = 0

    def records(self) -> list[dict[str, Any]]:
        """One record an estimate."""
        return [record for e in self.estimates for record in e.records()]

    def find(self, policy: str, estimator: str, *, reward: str = "", segment: str = "") -> Estimate:
        """The estimate of that name (of the first reward unless named). Raises `CounterlogError` when there is none."""
        for e in self.estimates:
            if (e.policy, e.estimator, e.segment) == (policy, estimator, segment) and reward in (
                "",
                e.reward,
            ):
                return e
        msg = message(f"there is no estimate of {policy!r} by {estimator!r} in segment {segment!r}")
        raise CounterlogError(msg)

    def again(
        self, *, level: float | None = None, interval: str | None = None, rng: int | None = None
    ) -> Evaluation:
        """The same sums with other intervals; the log is not read."""
        changed = replace(
            self,
            level=self.level if level is None else level,
            interval=interval or self.interval,
            rng=self.rng if rng is None else rng,
        )
        return _derived(changed.table, level=changed.level, interval=changed.interval, rng=changed.rng)

    def __add__(self, other: Evaluation) -> Evaluation:
        """Yesterday's evaluation plus today's."""
        return _derived(self.table + other.table, level=self.level, interval=self.interval, rng=self.rng)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bucket table as Parquet; the estimates are derived again when it is loaded."""
        return self.table.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **settings: Any) -> Evaluation:
        """Read what `save` wrote; `level`, `interval` and `rng` may be chosen anew."""
        return _derived(BucketTable.load(path), **{"level": 0.95, "interval": "t", "rng": 0, **settings})

    def plot(self) -> Any:
        """Policies by estimators with their intervals, as a plotly figure."""
        from counterlog.report.figures import forest

        return forest([e for e in self.estimates if not e.segment])


def evaluate(
    log: Rounds,
    policies: Sequence[Policy | str],
    estimators: Sequence[Estimator | str] = (),
    *,
    rewards: Sequence[str] = (),
    segments: bool = True,
    level: float = 0.95,
    interval: str = "t",
    bounds: tuple[float, float] | None = None,
    model: Any = "boosting",
    folds: int = 3,
    q: dict[str, Floats] | None = None,
    on_error: str = "raise",
    rng: int = 0,
) -> Evaluation:
    """Value of every policy by every estimator for every reward, over the whole log and by segment.

    policies     objects or specifications (see `core.policies`)
    estimators   objects or names; IPS, SNIPS and DR (when the log has context) by default
    bounds       of one row's term (reward bounds times the largest weight), for hoeffding and bernstein
    q            out-of-fold predictions (n, actions) by reward, in place of fitting `model` on `folds` folds
    on_error     `raise`, or `record` to keep a policy that cannot be valued as an invalid estimate with its reason

    Raises `SupportError` when the log cannot answer, `LogError` and `PropensityError` for what is wrong in it.
    """
    log.check_estimable()
    names = tuple(rewards) or tuple(log.rewards)
    chosen = [make_estimator(e) for e in estimators] or default_estimators(log)
    needs_q = any(e.needs_model for e in chosen)
    plan = _Plan(log, clustered=log.unit_column is not None)
    for reward in names:
        view = log.with_reward(reward)
        matrix = _predictions(view, reward, q, model=model, folds=folds, rng=rng) if needs_q else None
        for policy in policies:
            try:
                made = parse_policy(policy, view, rng=rng) if isinstance(policy, str) else policy
                plan.add(view, made, chosen, matrix, rng=rng)
            except SupportError as cause:
                if on_error == "raise":
                    raise
                plan.drop(policy if isinstance(policy, str) else policy.name, reward, cause)
    if not plan.cells:
        raise SupportError("; ".join(d["reason"] for d in plan.dropped) or "no policy was given")
    table = plan.scan(log.segment_columns if segments else ())
    return _derived(table, level=level, interval=interval, bounds=bounds, rng=rng)


def _derived(
    table: BucketTable,
    *,
    level: float,
    interval: str,
    bounds: tuple[float, float] | None = None,
    rng: int,
) -> Evaluation:
    estimates = derive(table, level=level, interval=interval, bounds=bounds, rng=rng)
    n = int(table.part()["n"].sum())
    return Evaluation(
        estimates=estimates, table=table, n=n, unit="rows", level=level, interval=interval, rng=rng
    )


def _predictions(
    log: Rounds, reward: str, given: dict[str, Floats] | None, *, model: Any, folds: int, rng: int
) -> Floats:
    if given is None or reward not in given:
        return reward_model(log, model=model, folds=folds, rng=rng)
    if given[reward].shape != (log.n, len(log.actions)):
        shape = (log.n, len(log.actions))
        msg = message(f"q[{reward!r}] has shape {given[reward].shape}", expected=f"{shape}: rows x actions")
        raise ConfigError(msg)
    return given[reward]


def default_estimators(log: Rounds) -> list[Estimator]:
    """IPS, SNIPS and, when there is context for a model, DR."""
    return [make_estimator(n) for n in ("IPS", "SNIPS", *(("DR",) if log.context_columns else ()))]


def estimator_classes() -> dict[str, type[Estimator]]:
    """Every estimator class of the `estimate` package by its name."""
    import pkgutil
    from importlib import import_module

    package = import_module("counterlog.estimate")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"counterlog.estimate.{module.name}")
    found: dict[str, type[Estimator]] = {}
    todo = list(Estimator.__subclasses__())
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        if kind.name:
            found[kind.name] = kind
    return dict(sorted(found.items()))


def make_estimator(estimator: Estimator | str) -> Estimator:
    """The estimator of that name with its defaults. Raises `ConfigError` listing the known names."""
    if isinstance(estimator, Estimator):
        return estimator
    classes = {name.lower(): kind for name, kind in estimator_classes().items()}
    if estimator.lower() not in classes:
        known = ", ".join(kind.name for kind in classes.values())
        msg = message(f"{estimator!r} is not an estimator", expected=f"one of {known}")
        raise ConfigError(msg)
    return classes[estimator.lower()]()


class _Plan:
    """The columns one scan needs, cell by cell; columns an engine cannot express are collected as arrays."""

    def __init__(self, log: Rounds, *, clustered: bool) -> None:
        self.log, self.clustered = log, clustered
        self.cells: list[Cell] = []
        self.dropped: list[dict[str, str]] = []
        self.columns: dict[str, nw.Expr] = {}
        self.peaks: dict[str, nw.Expr] = {}
        self.arrays: dict[str, Any] = {}
        self._weights: dict[str, int] = {}

    def drop(self, policy: str, reward: str, cause: Exception) -> None:
        """Remember why a policy has no value."""
        self.dropped.append({"policy": policy, "reward": reward, "reason": str(cause)})

    def add(
        self, log: Rounds, policy: Policy, estimators: Sequence[Estimator], q: Floats | None, *, rng: int
    ) -> None:
        """The cells of one policy and reward."""
        reward = log.reward_name
        r = nw.col(reward).cast(nw.Float64)
        for estimator in estimators:
            own = estimator.prepare(log, policy, rng=rng)
            weights = self._weight(log, policy, own.get("w"), estimator)
            row = Row(w=nw.col(f"w{weights}"), r=r)
            if estimator.needs_model or "v" in own:
                row = self._with_model(log, policy, row, q, own, len(self.cells))
            parts = estimator.parts(row)
            columns = cell_columns(len(self.cells), parts, products=not self.clustered)
            self.columns |= columns
            present = tuple(n for n in ("mean", "top", "bottom") if getattr(parts, n) is not None)
            notes: tuple[str, ...] = (
                ()
                if log.propensity_label != "estimated"
                else ("propensities were estimated from the context",)
            )
            if estimator.needs_model and not estimator.needs_propensity:
                notes += ("the interval leaves out the error of the reward model",)
            self.cells.append(
                Cell(
                    len(self.cells),
                    policy.name,
                    estimator.label,
                    reward,
                    log.rewards[reward],
                    present,
                    weights,
                    notes,
                )
            )

    def _weight(self, log: Rounds, policy: Policy, own: Any, estimator: Estimator) -> int:
        """Number of the weight column `w{k}` of this policy, made once."""
        key = policy.name if own is None else f"{policy.name}/{estimator.label}/{log.reward_name}"
        if key not in self._weights:
            k = self._weights[key] = len(self._weights)
            if own is not None:
                self.arrays[f"w{k}"] = np.asarray(own, dtype=np.float64)
            elif estimator.needs_propensity or log.propensity_role is not None:
                self.arrays[f"w{k}"] = checked_logged_probs(policy, log) / log.propensity
            else:
                self.arrays[f"w{k}"] = np.ones(log.n)
            w = nw.col(f"w{k}")
            self.columns |= {f"w{k}_sum": w, f"w{k}_square": w * w}
            self.peaks[f"w{k}_wmax"] = w
        return self._weights[key]

    def _with_model(
        self, log: Rounds, policy: Policy, row: Row, q: Floats | None, own: dict[str, Any], index: int
    ) -> Row:
        rows = np.arange(log.n)
        if "v" in own:
            logged, value = own["q"], own["v"]
        elif q is not None and policy.name == "logged":
            logged = value = q[rows, log.action]
        elif q is not None:
            logged, value = q[rows, log.action], (checked_probs(policy, log) * q).sum(axis=1)
        else:
            msg = message("this estimator needs a reward model, and none was fitted")
            raise ConfigError(msg)
        self.arrays |= {f"q{index}": logged, f"v{index}": value}
        return replace(row, q=nw.col(f"q{index}"), v=nw.col(f"v{index}"))

    def scan(self, segments: Sequence[str]) -> BucketTable:
        """One aggregation over the whole log, one more for each segment column."""
        log = self.log
        rewards = {c.reward for c in self.cells}
        frame = log.table.select(*rewards, *segments).with_columns(
            **{k: pl.Series(v) for k, v in self.arrays.items()}
        )
        key = (
            unit_keys(log.table[log.unit_column]).astype(np.int64)
            if log.unit_column
            else np.arange(log.n, dtype=np.int64)
        )
        few = log.unit_column is not None and len(np.unique(key)) < UNITS_A_BUCKET * BUCKETS
        bucket = nw.col("__key") if few else bucket_expression(nw.col("__key"), BUCKETS)
        lazy = nw.from_native(frame.with_columns(pl.Series("__key", key)).lazy())
        groups = ["", *segments]
        tables = [scan(lazy, self.columns, self.peaks, bucket, group=g) for g in groups]
        return BucketTable(
            pl.concat(tables), tuple(self.cells), self.clustered, log.propensity_label, tuple(self.dropped)
        )
