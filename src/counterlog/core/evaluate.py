"""Evaluate policies on a decision log: one scan into a bucket table, then every value with its interval.

`evaluate(log, policies, estimators)` is what the command line, the report and each estimator's `estimate`
call. Policies that
an engine can express are scanned where the log lies; reward models and other policies add columns in memory first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.buckets import (
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    row_bucket,
    scan,
)
from counterlog.core.crossfit import reward_model
from counterlog.core.derive import derive
from counterlog.core.engine_scan import ROWS_IN_MEMORY, UNITS_A_BUCKET, expressible, scan_log
from counterlog.core.errors import ConfigError, CounterlogError, LogError, SupportError, first_rows, message
from counterlog.core.estimators import Estimator, Parts, Row, importance_weights, predictions_under
from counterlog.core.hashing import unit_keys
from counterlog.core.intervals import BUCKETS
from counterlog.core.policies import Policy, checked_logged_probs, parse_policy
from counterlog.core.results import Estimate, Result
from counterlog.core.rounds import Rounds
from counterlog.core.terms import Term, column

Floats = NDArray[np.float64]


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
    _check_names(policies)
    names = tuple(rewards) or tuple(log.rewards)
    chosen = [make_estimator(e) for e in estimators] or default_estimators(log)
    needs_q = any(e.needs_model for e in chosen)
    if bounds is None and on_error == "raise":
        made = [_made(p, log, {}, rng=rng) for p in policies]
        if "best-fixed" not in policies and expressible(log, made, chosen):
            table = scan_log(log, made, chosen, names, log.segment_columns if segments else ())
            return _derived(table, level=level, interval=interval, rng=rng)
    if log.propensity_role is not None:
        log.propensity  # noqa: B018 - made once here, and shared by the view of every reward
    plan = _Plan(log, clustered=log.unit_column is not None)
    parsed: dict[str, Policy] = {}
    for reward in names:
        view = log.with_reward(reward)
        matrix = _predictions(view, reward, q, model=model, folds=folds, rng=rng) if needs_q else None
        for policy in policies:
            try:
                plan.add(view, _made(policy, view, parsed, rng=rng), chosen, matrix, rng=rng)
            except SupportError as cause:
                if on_error == "raise":
                    raise
                plan.drop(policy if isinstance(policy, str) else policy.name, reward, cause)
    if not plan.cells:
        raise SupportError("; ".join(d["reason"] for d in plan.dropped) or "no policy was given")
    if bounds is not None:
        plan.check_bounds(bounds)
    table = plan.scan(log.segment_columns if segments else ())
    return _derived(table, level=level, interval=interval, bounds=bounds, rng=rng)


def _check_names(policies: Sequence[Policy | str]) -> None:
    """Two different policies of one name could not be told apart in the result."""
    seen: dict[str, Policy] = {}
    for policy in policies:
        if isinstance(policy, Policy) and seen.setdefault(policy.name, policy) is not policy:
            msg = message(f"two policies are named {policy.name!r}", hint="give each policy its own name")
            raise ConfigError(msg)


def _made(policy: Policy | str, log: Rounds, parsed: dict[str, Policy], *, rng: int) -> Policy:
    """The policy of a specification, made once; `best-fixed` depends on the reward and is made for each."""
    if isinstance(policy, Policy):
        return policy
    if policy == "best-fixed":
        return parse_policy(policy, log, rng=rng)
    if policy not in parsed:
        parsed[policy] = parse_policy(policy, log, rng=rng)
    return parsed[policy]


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


def make_estimator(estimator: Estimator | str, options: Sequence[str] = ()) -> Estimator:
    """The estimator of that name; `options` are settings of its configuration, as `name=value`.

    Raises `ConfigError` listing the known names, or for a setting that it does not have.
    """
    if isinstance(estimator, Estimator):
        return estimator
    classes = {name.lower(): kind for name, kind in estimator_classes().items()}
    if estimator.lower() not in classes:
        known = ", ".join(kind.name for kind in classes.values())
        msg = message(f"{estimator!r} is not an estimator", expected=f"one of {known}")
        raise ConfigError(msg)
    kind = classes[estimator.lower()]
    if not options:
        return kind()
    config = getattr(sys.modules[kind.__module__], f"{kind.__name__}Config", None)
    if config is None:
        msg = message(f"{kind.name} has no settings")
        raise ConfigError(msg)
    return kind(config.from_options(options))  # type: ignore[call-arg]


class _Plan:
    """The columns one scan needs, cell by cell; columns an engine cannot express are collected as arrays."""

    def __init__(self, log: Rounds, *, clustered: bool) -> None:
        self.log, self.clustered = log, clustered
        self.cells: list[Cell] = []
        self.dropped: list[dict[str, str]] = []
        self.columns: dict[str, Term] = {}
        self.peaks: dict[str, Term] = {}
        self.arrays: dict[str, Any] = {}
        self._weights: dict[tuple[int, bool], tuple[int, Policy]] = {}
        self._models: dict[tuple[int, str], tuple[int, Policy]] = {}

    def drop(self, policy: str, reward: str, cause: Exception) -> None:
        """Remember why a policy has no value."""
        self.dropped.append({"policy": policy, "reward": reward, "reason": str(cause)})

    def add(
        self, log: Rounds, policy: Policy, estimators: Sequence[Estimator], q: Floats | None, *, rng: int
    ) -> None:
        """The cells of one policy and reward."""
        reward = log.reward_name
        r = column(reward)
        for estimator in estimators:
            own = estimator.prepare(log, policy, q=q if estimator.needs_model else None, rng=rng)
            weights = self._weight(log, policy, own.get("w"), estimator)
            index = len(self.cells)
            if "parts" in own:
                parts = self._finished(own["parts"], index)
            else:
                row = Row(w=column(f"w{weights}"), r=r)
                if estimator.needs_model or "v" in own:
                    row = self._with_model(log, policy, row, q, own, index)
                parts = estimator.parts(row)
            self.columns |= cell_columns(index, parts, products=not self.clustered)
            present = tuple(n for n in ("mean", "top", "bottom") if getattr(parts, n) is not None)
            notes: tuple[str, ...] = tuple(own.get("notes", ()))
            if log.propensity_label == "estimated":
                notes += ("propensities were estimated from the context",)
            if estimator.needs_model and not estimator.needs_propensity:
                notes += ("the interval leaves out the error of the reward model",)
            unit = own.get("unit", log.rewards[reward])
            self.cells.append(
                Cell(
                    index,
                    policy.name,
                    estimator.label,
                    reward,
                    unit,
                    present,
                    weights,
                    notes,
                    estimator.needs_propensity,
                )
            )

    def _weight(self, log: Rounds, policy: Policy, own: Any, estimator: Estimator) -> int:
        """Number of the weight column `w{k}`: an estimator's own, or that of the policy, made once."""
        if own is not None:
            return self._weight_column(own)
        strict, policies = estimator.needs_propensity, self._weights
        if not strict and (id(policy), True) in policies:
            return policies[id(policy), True][0]
        if (id(policy), strict) not in policies:
            if strict:
                w = importance_weights(log, policy)
            elif log.propensity_role is not None:
                w = checked_logged_probs(policy, log) / log.propensity
            else:
                w = np.ones(log.n)
            policies[id(policy), strict] = (self._weight_column(w), policy)
        return policies[id(policy), strict][0]

    def _weight_column(self, values: Any) -> int:
        k = len(self.peaks)
        self.arrays[f"w{k}"] = np.asarray(values, dtype=np.float64)
        w = column(f"w{k}")
        self.columns |= {f"w{k}_sum": w, f"w{k}_square": w * w}
        self.peaks[f"w{k}_wmax"] = w
        return k

    def _finished(self, parts: Parts, index: int) -> Parts:
        """Terms given as arrays, as columns of the scan."""
        named = {}
        for name in ("mean", "top", "bottom"):
            if (term := getattr(parts, name)) is not None:
                self.arrays[f"t{index}_{name}"] = np.asarray(term, dtype=np.float64)
                named[name] = column(f"t{index}_{name}")
        return Parts(**named)

    def _with_model(
        self, log: Rounds, policy: Policy, row: Row, q: Floats | None, own: dict[str, Any], index: int
    ) -> Row:
        if "v" in own:
            logged, value = own["q"], own["v"]
        elif q is not None:
            index, _ = self._models.setdefault((id(policy), log.reward_name), (index, policy))
            if f"q{index}" in self.arrays:
                return replace(row, q=column(f"q{index}"), v=column(f"v{index}"))
            logged, value = predictions_under(log, policy, q)
        else:
            msg = message("this estimator needs a reward model, and none was fitted")
            raise ConfigError(msg)
        self.arrays |= {f"q{index}": logged, f"v{index}": value}
        return replace(row, q=column(f"q{index}"), v=column(f"v{index}"))

    def _frame(self, segments: Sequence[str]) -> pl.DataFrame:
        """The columns one scan reads: rewards, segments and the collected arrays."""
        names = dict.fromkeys((*(c.reward for c in self.cells), *segments))
        return self.log.table.select(*names).with_columns(**{k: pl.Series(v) for k, v in self.arrays.items()})

    def check_bounds(self, bounds: tuple[float, float]) -> None:
        """Raise `LogError` naming the first rows whose term leaves the declared bounds."""
        lazy = nw.from_native(self._frame(()).lazy())
        for cell in self.cells:
            if cell.terms != ("mean",):
                continue
            term = lazy.select(term=self.columns[f"c{cell.index}_mean"].expression)
            values = term.collect("polars").to_native()["term"].to_numpy()
            if (bad := np.flatnonzero((values < bounds[0]) | (values > bounds[1]))).size:
                msg = message(
                    f"{cell.estimator} of {cell.policy!r} leaves the declared bounds in {bad.size:,} of "
                    f"{len(values):,} rows ({values[bad[0]]:g} first): {first_rows(bad)}",
                    expected=f"terms in [{bounds[0]:g}, {bounds[1]:g}]",
                    hint="bounds are those of the reward times the largest possible weight",
                )
                raise LogError(msg)

    def scan(self, segments: Sequence[str]) -> BucketTable:
        """One aggregation over the whole log, one more for each segment column."""
        log, few = self.log, False
        frame = self._frame(segments)
        if log.unit_column is None:
            keyed = frame.with_row_index("__row").with_columns(__bucket=row_bucket(BUCKETS))
            bucket = nw.col("__bucket")
        else:
            key = unit_keys(log.table[log.unit_column]).astype(np.int64)
            keyed = frame.with_columns(pl.Series("__key", key))
            few = len(np.unique(key)) < UNITS_A_BUCKET * BUCKETS
            bucket = nw.col("__key") if few else bucket_expression(nw.col("__key"), BUCKETS)
        lazy = nw.from_native(keyed.lazy())
        groups = ["", *segments]
        large = log.n > ROWS_IN_MEMORY
        tables = [scan(lazy, self.columns, self.peaks, bucket, group=g, streaming=large) for g in groups]
        kind = (self.clustered, log.propensity_label, few)
        return BucketTable(pl.concat(tables), tuple(self.cells), *kind, tuple(self.dropped))
