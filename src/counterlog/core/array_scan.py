"""The bucket table made from arrays: for reward models, and policies or estimators that an engine cannot express.

`ArrayScan` collects the weights, predictions and finished terms of every cell as columns beside the log's own, and sums
them in one aggregation. A log that is too large for that is given to it in parts (`core.streamed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.buckets import (
    UNITS_A_BUCKET,
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    row_bucket,
    scan,
)
from counterlog.core.engine_scan import ROWS_IN_MEMORY
from counterlog.core.engines import OWN, text_codes
from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.estimators import (
    MODEL_NOTE,
    Estimator,
    Parts,
    Row,
    importance_weights,
    logged_weights,
    predictions_under,
)
from counterlog.core.intervals import BUCKETS
from counterlog.core.policies import Policy, checked_logged_probs
from counterlog.core.rounds import Rounds
from counterlog.core.terms import Term, column

Floats = NDArray[np.float64]


class ArrayScan:
    """The columns one scan needs, cell by cell; columns an engine cannot express are collected as arrays.

    `part`: the log is a part of a larger one, in which a policy may well agree with no row.
    """

    def __init__(self, log: Rounds, *, part: bool = False) -> None:
        self.log, self.part, self.clustered = log, part, log.unit_column is not None
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
                row = Row(w=column(f"{OWN}w{weights}"), r=r)
                if estimator.needs_model or "v" in own:
                    row = self._with_model(log, policy, row, q, own, index)
                parts = estimator.parts(row)
            self.columns |= cell_columns(index, parts, products=not self.clustered)
            present = tuple(n for n in ("mean", "top", "bottom") if getattr(parts, n) is not None)
            notes: tuple[str, ...] = tuple(own.get("notes", ()))
            if log.propensity_label == "estimated":
                notes += ("propensities were estimated from the context",)
            if estimator.needs_model and not estimator.needs_propensity:
                notes += (MODEL_NOTE,)
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
                w = (logged_weights if self.part else importance_weights)(log, policy)
            elif log.propensity_role is not None:
                w = checked_logged_probs(policy, log) / log.propensity
            else:
                w = np.ones(log.n)
            policies[id(policy), strict] = (self._weight_column(w), policy)
        return policies[id(policy), strict][0]

    def _weight_column(self, values: Any) -> int:
        k = len(self.peaks)
        self.arrays[f"{OWN}w{k}"] = np.asarray(values, dtype=np.float64)
        w = column(f"{OWN}w{k}")
        self.columns |= {f"w{k}_sum": w, f"w{k}_square": w * w}
        self.peaks[f"w{k}_wmax"] = w
        return k

    def _finished(self, parts: Parts, index: int) -> Parts:
        """Terms given as arrays, as columns of the scan."""
        named = {}
        for name in ("mean", "top", "bottom"):
            if (term := getattr(parts, name)) is not None:
                self.arrays[f"{OWN}t{index}_{name}"] = np.asarray(term, dtype=np.float64)
                named[name] = column(f"{OWN}t{index}_{name}")
        return Parts(**named)

    def _with_model(
        self, log: Rounds, policy: Policy, row: Row, q: Floats | None, own: dict[str, Any], index: int
    ) -> Row:
        if "v" in own:
            logged, value = own["q"], own["v"]
        elif q is not None:
            index, _ = self._models.setdefault((id(policy), log.reward_name), (index, policy))
            if f"{OWN}q{index}" in self.arrays:
                return replace(row, q=column(f"{OWN}q{index}"), v=column(f"{OWN}v{index}"))
            logged, value = predictions_under(log, policy, q)
        else:
            msg = message("this estimator needs a reward model, and none was fitted")
            raise ConfigError(msg)
        self.arrays |= {f"{OWN}q{index}": logged, f"{OWN}v{index}": value}
        return replace(row, q=column(f"{OWN}q{index}"), v=column(f"{OWN}v{index}"))

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

    def scan(self, segments: Sequence[str], *, exact: bool | None = None) -> BucketTable:
        """One aggregation over the whole log, one more for each segment column.

        `exact`: whether each unit has a bucket of its own; found from the log unless given.
        """
        log, few = self.log, False
        frame = self._frame(segments)
        if log.unit_column is None:
            numbers = np.arange(log.first_row, log.first_row + log.n)
            keyed = frame.with_columns(pl.Series(f"{OWN}row", numbers))
            bucket = row_bucket(nw.col(f"{OWN}row"))
        else:
            key = bucket_keys(log.table[log.unit_column])
            keyed = frame.with_columns(key.alias(f"{OWN}key"))
            few = key.n_unique() < UNITS_A_BUCKET * BUCKETS if exact is None else exact
            bucket = nw.col(f"{OWN}key") if few else bucket_expression(nw.col(f"{OWN}key"), BUCKETS)
        lazy = nw.from_native(keyed.lazy())
        groups = ["", *segments]
        large = log.n > ROWS_IN_MEMORY
        tables = [scan(lazy, self.columns, self.peaks, bucket, group=g, streaming=large) for g in groups]
        kind = (self.clustered, log.propensity_label, few)
        return BucketTable(pl.concat(tables), tuple(self.cells), *kind, tuple(self.dropped))


def bucket_keys(units: pl.Series) -> pl.Series:
    """(n,) whole numbers that stand for units: integers for themselves, everything else by a hash of its text."""
    return units.cast(pl.Int64) if units.dtype.is_integer() else text_codes(units)
