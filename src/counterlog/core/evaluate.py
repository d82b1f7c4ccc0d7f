"""Evaluate policies on a decision log: one scan into a bucket table, then every value with its interval.

`evaluate(log, policies, estimators)` is what the command line, the report and each estimator's `estimate` call.
Policies that an engine can express are scanned where the log lies; reward models and other policies add columns first,
in memory or, for a large log, batch by batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.array_scan import ArrayScan
from counterlog.core.buckets import BucketTable
from counterlog.core.column_predictions import ColumnPredictions
from counterlog.core.crossfit import reward_model
from counterlog.core.derive import derive
from counterlog.core.engine_scan import expressible, scan_log
from counterlog.core.errors import ConfigError, CounterlogError, SupportError, message
from counterlog.core.estimators import Estimator
from counterlog.core.policies import Policy, parse_policy
from counterlog.core.results import Estimate, Result
from counterlog.core.rounds import Rounds
from counterlog.core.streamed import BEST_FIXED, scan_streamed, streamable

Floats = NDArray[np.float64]
ROWS_AS_ARRAYS = 2_000_000  # a log with more rows is not collected: what a scan cannot express is streamed


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
    q: Mapping[str, Floats | ColumnPredictions] | None = None,
    sums_only: bool = False,
    streamed: bool | None = None,
    on_error: str = "raise",
    rng: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Evaluation:
    """Value of every policy by every estimator for every reward, over the whole log and by segment.

    policies     objects or specifications (see `core.policies`)
    estimators   objects or names; IPS, SNIPS and DR (when the log has context) by default
    bounds       of one row's term (reward bounds times the largest weight), for hoeffding and bernstein
    q            out-of-fold predictions by reward, in place of fitting `model` on `folds` folds: arrays (n, actions),
                 or `ColumnPredictions` that name columns of the log
    sums_only    leave out the buckets: values and t intervals in less than half the time, but no bootstrap, differences
                 of policies or notes on heavy tails; for rows that are their own units and policies that are columns
    streamed     fit `model` on a sample and predict batch by batch; by default from 2,000,000 rows
    on_error     `raise`, or `record` to keep a policy that cannot be valued as an invalid estimate with its reason

    Raises `SupportError` when the log cannot answer, `LogError` and `PropensityError` for what is wrong in it.
    """
    log.check_estimable()
    _check_names(policies)
    names = tuple(rewards) or tuple(log.rewards)
    chosen = [make_estimator(e) for e in estimators] or default_estimators(log)
    segmented = log.segment_columns if segments else ()
    settings: dict[str, Any] = {"level": level, "interval": interval, "rng": rng}
    simple = bounds is None and BEST_FIXED not in policies
    if simple and (on_error == "raise" or log.n > ROWS_AS_ARRAYS) and not streamed:
        made = [_made(p, log, {}, rng=rng) for p in policies]
        if expressible(log, made, chosen, q):
            _check_sums_only(log, interval, sums_only)
            for found in (q or {}).values():
                if isinstance(found, ColumnPredictions) and any(e.needs_model for e in chosen):
                    found.check(log, made)
            kept = {"sums_only": sums_only, "record": on_error == "record"}
            table = scan_log(log, made, chosen, names, segmented, q=q, **kept)
            return _derived(table, **settings)
    _refuse_columns(q, sums_only)
    if streamed or (streamed is None and log.n > ROWS_AS_ARRAYS and bounds is None and not q):
        if streamable(log, chosen) and bounds is None and not q:
            streams = [p if p == BEST_FIXED else _made(p, log, {}, rng=rng) for p in policies]
            fit: dict[str, Any] = {"model": model, "folds": folds, "rng": rng, "progress": progress}
            fit["record"] = on_error == "record"
            return _derived(scan_streamed(log, streams, chosen, names, segmented, **fit), **settings)
        if streamed:
            msg = message(
                "this question cannot be answered batch by batch",
                expected="estimators without a fit of their own, logged propensities, no bounds and no predictions",
                hint="leave out streamed=True",
            )
            raise ConfigError(msg)
    needs_q = any(e.needs_model for e in chosen)
    if log.propensity_role is not None:
        log.propensity  # noqa: B018 - made once here, and shared by the view of every reward
    plan = ArrayScan(log)
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
    return _derived(plan.scan(segmented), bounds=bounds, **settings)


def _check_sums_only(log: Rounds, interval: str, sums_only: bool) -> None:
    """Sums without buckets answer for rows and t intervals alone. Raises `ConfigError`."""
    if sums_only and log.unit_column is not None:
        msg = message(
            "a log whose rows belong to units needs its buckets", hint="leave out sums_only (--sums-only)"
        )
        raise ConfigError(msg)
    if sums_only and interval not in ("t", "asymptotic-cs"):
        msg = message(f"interval {interval!r} needs buckets", hint="use interval 't', or leave out sums_only")
        raise ConfigError(msg)


def _refuse_columns(q: Mapping[str, Any] | None, sums_only: bool) -> None:
    """What only a scan of columns can answer is refused elsewhere. Raises `ConfigError`."""
    columns = any(isinstance(v, ColumnPredictions) for v in (q or {}).values())
    if columns or sums_only:
        what = "predictions in columns" if columns else "sums_only"
        msg = message(
            f"{what} can be used only where everything asked is an expression of the log's columns",
            expected="predictions of every reward, policies such as column:NAME, logged, uniform or always:ACTION, "
            "propensities that are logged or constant, and estimators without a fit of their own",
        )
        raise ConfigError(msg)


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
    if policy == BEST_FIXED:
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
    log: Rounds, reward: str, given: Mapping[str, Any] | None, *, model: Any, folds: int, rng: int
) -> Floats:
    if given is None or reward not in given:
        return reward_model(log, model=model, folds=folds, rng=rng)
    matrix = np.asarray(given[reward], dtype=np.float64)
    if matrix.shape != (log.n, len(log.actions)):
        shape = (log.n, len(log.actions))
        msg = message(f"q[{reward!r}] has shape {matrix.shape}", expected=f"{shape}: rows x actions")
        raise ConfigError(msg)
    return matrix


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
