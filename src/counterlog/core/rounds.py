"""`Rounds`: a log with one row a decision, its columns named by role, checked before anybody trusts it.

A role is given by column name. What is wrong is refused at once with the column, the count, the first rows
and the remedy; the log itself is never changed and no gap is filled.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, SupportError, message
from counterlog.core.frames import collect, open_frame
from counterlog.core.rounds_checks import (
    TEXT,
    Rule,
    check_available,
    check_names,
    check_roles,
    check_values,
    narrow_unit,
    refuse,
)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

T = TypeVar("T")
ESTIMATED, UNIFORM = "estimate", "uniform"


class Rounds:
    """A decision log.

    `source`: any dataframe that narwhals wraps, a dict of columns, a Parquet/CSV/JSONL path or glob, or
    `database.duckdb::table`.  Roles, by column name unless said otherwise:

    action       what was done, one category a row
    reward       what came of it: one name, several, or a mapping from name to unit ("spend": "US dollars")
    propensity   the logging policy's probability of the logged action: a column, a constant, `"uniform"`, or
                 `"estimate"` (cross-fitted from the context, and labelled so in every result)
    context      columns known before the decision
    unit         whose decisions belong together (a user): intervals are then clustered by it
    time         when, for the audit's drift checks and time-uniform intervals
    segment      columns to split results by
    position     slot of the decision in its page, an integer
    available    the actions that could have been taken, as a list column or as text separated by `|`
    delay        how long after the decision the reward was known; null means not yet

    `engine`: polars (the default), duckdb, dask, spark or spark://HOST:PORT reads the files of a path; a frame stays
    with the engine that holds it.  `first_row`: number of the first row, when this is a part of a larger log.

    Raises `LogError` and `PropensityError`; every message names the column, how many rows, the first of
    them, and a remedy.
    """

    def __init__(
        self,
        source: Any,
        *,
        action: str,
        reward: str | Sequence[str] | Mapping[str, str],
        propensity: str | float | None = None,
        context: Sequence[str] = (),
        unit: str | None = None,
        time: str | None = None,
        segment: str | Sequence[str] = (),
        position: str | None = None,
        available: str | None = None,
        delay: str | None = None,
        engine: str | None = None,
    ) -> None:
        single = {"action": action, "unit": unit, "time": time, "position": position}
        single |= {"available": available, "delay": delay}
        check_roles(single, {"reward": reward, "context": context, "segment": segment}, propensity)
        self.frame = open_frame(source, engine)
        self.action_column = action
        named = {reward: "reward"} if isinstance(reward, str) else reward
        self.rewards: dict[str, str] = (
            dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, "reward")
        )
        self.propensity_role = propensity
        self.context_columns = _names(context)
        self.unit_column, self.time_column, self.position_column = unit, time, position
        self.segment_columns = _names(segment)
        self.available_column, self.delay_column = available, delay
        self._arrays: dict[str, Any] = {}
        self._actions: tuple[Any, ...] | None = None
        self._extreme: tuple[Rule, ...] = ()
        self.first_row = 0
        check_names(self)
        self._rows, self._extreme = check_values(self)
        self.frame = narrow_unit(self)
        if available is not None:
            check_available(self)

    # the table

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have a role, each once."""
        single = (self.action_column, *self.rewards, self.propensity_column, *self.context_columns)
        rest = (self.unit_column, self.time_column, *self.segment_columns, self.position_column)
        names = (*single, *rest, self.available_column, self.delay_column)
        return tuple(dict.fromkeys(n for n in names if n is not None))

    @property
    def propensity_column(self) -> str | None:
        """The column that holds the propensities, when one does."""
        role = self.propensity_role
        return role if isinstance(role, str) and role not in (UNIFORM, ESTIMATED) else None

    @cached_property
    def table(self) -> pl.DataFrame:
        """The role columns in memory."""
        return collect(self.frame.select(list(self.columns)))

    @property
    def n(self) -> int:
        """Number of rows (decisions)."""
        return self._rows

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        rewards = ", ".join(self.rewards)
        return (
            f"Rounds({self.n:,} rows, {len(self.actions)} actions in {self.action_column!r}, reward {rewards}, "
            f"propensity {self.propensity_label})"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the role columns' content: equal for pandas, Polars and Arrow of equal values."""
        digest = hashlib.sha256()
        for name in self.columns:
            series = self.table[name]
            digest.update(name.encode() + b"\x00")
            if series.dtype.is_numeric() or series.dtype == pl.Boolean:
                digest.update(series.cast(pl.Float64).fill_null(math.nan).to_numpy().tobytes())
            else:
                written = series.dtype in (*TEXT, pl.Date, pl.Datetime, pl.Time)
                text = series.cast(pl.String).fill_null("\x00") if written else series.to_list()
                digest.update("\x1f".join(map(str, text)).encode())
        return digest.hexdigest()

    # roles as arrays

    @property
    def actions(self) -> tuple[Any, ...]:
        """The actions by code: every value logged or listed as available, sorted."""
        if self._actions is None:
            loaded = "table" in self.__dict__
            column = self.table.lazy() if loaded else self.frame
            actions = nw.from_native(column).select(action=nw.col(self.action_column))
            counts = actions.group_by("action").agg(n=nw.len())  # `unique` would rank all rows on DuckDB
            logged = collect(counts)["action"].to_list()
            listed = self.listed.explode().unique().to_list() if self.available_column else []
            self._actions = tuple(sorted({*logged, *(a for a in listed if a is not None)}))
        return self._actions

    @property
    def action(self) -> Codes:
        """(n,) codes into `actions`."""
        return self._cached("action", self._action_codes)

    def _action_codes(self) -> Codes:
        column = self.table[self.action_column]
        return _codes(column, self.actions)

    @property
    def reward_name(self) -> str:
        """The primary reward: the first one named."""
        return next(iter(self.rewards))

    @property
    def reward_unit(self) -> str:
        """Unit of the primary reward."""
        return self.rewards[self.reward_name]

    @property
    def reward(self) -> Floats:
        """(n,) values of the primary reward."""
        return self.reward_of(self.reward_name)

    def reward_of(self, name: str) -> Floats:
        """(n,) values of the reward `name`."""
        if name not in self.rewards:
            msg = message(f"the log has no reward {name!r}", expected=f"one of {', '.join(self.rewards)}")
            raise LogError(msg)
        return self._cached(f"reward:{name}", lambda: _numbers(self.table[name]))

    @property
    def propensity(self) -> Floats:
        """(n,) logging probability of the logged action. Raises `LogError` when the log gives none."""
        return self._cached("propensity", self._propensities)

    def _propensities(self) -> Floats:
        role = self.propensity_role
        if role is None:
            msg = message(
                "the log gives no propensity (the logging policy's probability of the logged action)",
                hint="name its column, give a constant, or say propensity='uniform' or 'estimate'",
            )
            raise LogError(msg)
        if role == UNIFORM:
            counts = self.available.sum(axis=1) if self.available is not None else len(self.actions)
            return np.broadcast_to(1.0 / np.asarray(counts, float), (self.n,)).copy()
        if role == ESTIMATED:
            from counterlog.core.propensity import estimate_propensity

            return estimate_propensity(self).logged
        if self.propensity_column is not None:
            return _numbers(self.table[self.propensity_column])
        return np.full(self.n, float(role))

    @property
    def propensity_expression(self) -> nw.Expr | None:
        """The propensities over the log's own columns, for an engine's scan; None where arrays are needed."""
        if self.propensity_column is not None:
            return nw.col(self.propensity_column).cast(nw.Float64)
        if isinstance(self.propensity_role, (int, float)):
            return nw.lit(float(self.propensity_role))
        if self.propensity_role == UNIFORM and self.available_column is None:
            return nw.lit(1.0 / len(self.actions))
        return None

    @property
    def propensity_label(self) -> str:
        """Where the propensities come from, for labels: `logged`, `constant 0.5`, `uniform`, `estimated`,
        `none`."""
        role = self.propensity_role
        if role is None:
            return "none"
        if role == ESTIMATED:
            return "estimated"
        return role if role == UNIFORM else ("logged" if isinstance(role, str) else f"constant {role:g}")

    @property
    def available(self) -> NDArray[np.bool_] | None:
        """(n, actions) whether the action could be taken, or None when the log does not restrict it."""
        return self._cached("available", self._available_matrix)

    @property
    def listed(self) -> pl.Series:
        """The available actions of every row, as a list column of the action's type. Raises `LogError`."""
        name = self.available_column or ""
        column, action = self.table[name], self.table[self.action_column]
        listed = column.cast(pl.String).str.split("|") if column.dtype in TEXT else column
        kind = pl.String if action.dtype in TEXT else action.dtype
        try:
            return listed.cast(pl.List(kind))
        except pl.exceptions.PolarsError as cause:
            msg = message(
                f"column {name!r} lists what cannot be an action of type {kind}",
                hint=f"list actions as they stand in column {self.action_column!r}",
            )
            raise LogError(msg) from cause

    def _available_matrix(self) -> NDArray[np.bool_] | None:
        if self.available_column is None:
            return None
        listed = self.listed
        rows = np.repeat(np.arange(self.n), listed.list.len().to_numpy())
        matrix = np.zeros((self.n, len(self.actions)), dtype=bool)
        matrix[rows, _codes(listed.explode(), self.actions)] = True
        return matrix

    @property
    def unit(self) -> Codes | None:
        """(n,) codes of the independent units, or None when every row is its own."""
        if self.unit_column is None:
            return None
        return self._cached("unit", lambda: _dense(self.table[self.unit_column or ""]))

    @property
    def context(self) -> pl.DataFrame:
        """The context columns."""
        return self.table.select(self.context_columns)

    @property
    def segments(self) -> pl.DataFrame:
        """The segment columns."""
        return self.table.select(self.segment_columns)

    def need(self, *roles: str) -> tuple[Any, ...]:
        """The named roles as arrays: `action, reward, propensity = log.need("action", "reward",
        "propensity")`.

        Raises `LogError` naming the role that the log lacks.
        """
        missing = {
            "unit": self.unit_column is None,
            "time": self.time_column is None,
            "position": self.position_column is None,
            "delay": self.delay_column is None,
            "context": not self.context_columns,
            "segment": not self.segment_columns,
        }
        found: list[Any] = []
        for role in roles:
            if missing.get(role):
                msg = message(f"the log has no {role!r} column", hint=f"name it: Rounds(..., {role}=...)")
                raise LogError(msg)
            if role in ("time", "position", "delay"):
                found.append(self.table[getattr(self, f"{role}_column")].to_numpy())
            elif role == "context":
                found.append(self.context)
            elif role == "segment":
                found.append(self.segments)
            elif role in ("action", "reward", "propensity", "available", "unit"):
                found.append(getattr(self, role))
            else:
                msg = message(f"{role!r} is not a role of a decision log")
                raise LogError(msg)
        return tuple(found)

    # views

    def with_reward(self, name: str) -> Rounds:
        """The same log with `name` as its primary reward."""
        self.reward_of(name)
        others = {k: v for k, v in self.rewards.items() if k != name}
        return self._view(rewards={name: self.rewards[name], **others})

    def take(self, rows: NDArray[Any]) -> Rounds:
        """The given rows (indices or mask) as a log with the same actions and codes."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        arrays = {k: (None if v is None else v[index]) for k, v in self._arrays.items()}
        table = self.table[index.astype(np.int64)]
        return self._view(table=table, frame=open_frame(table), _rows=table.height, _arrays=arrays)

    def part(self, table: pl.DataFrame, first_row: int) -> Rounds:
        """Rows of this log that were read apart, as a log with the same actions and codes."""
        return self._view(
            table=table, frame=open_frame(table), _rows=table.height, _arrays={}, first_row=first_row
        )

    def _view(self, **changes: Any) -> Rounds:
        self.actions  # noqa: B018 - a view keeps the codes of the whole log
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.__dict__["_arrays"] = dict(self._arrays)
        view.__dict__.pop("fingerprint", None)
        view.__dict__.update(changes)
        return view

    def _cached(self, key: str, make: Callable[[], T]) -> T:
        if key not in self._arrays:
            value = make()
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            self._arrays[key] = value
        found: T = self._arrays[key]
        return found

    def check_estimable(self) -> None:
        """Raise `SupportError` when no policy but the logged one can be valued: one row, or one action.

        Raises `LogError` for rewards and propensities so extreme that their squares are no numbers any more.
        """
        if self._extreme:
            refuse(self, self._extreme, self.n)
        if self.n < 2:
            msg = message(
                "the log has 1 row, and an interval needs at least 2", hint="collect more decisions"
            )
            raise SupportError(msg)
        if len(self.actions) < 2:
            msg = message(
                f"every row has the same action ({self.actions[0]!r} in column {self.action_column!r}), "
                "so nothing is known of any other",
                hint="log some decisions drawn at random before asking what another policy would earn",
            )
            raise SupportError(msg)

    def copy_with(self, **roles: Any) -> Self:
        """The same source read again with other roles, for example `propensity='estimate'`."""
        return self.reopened(self.frame.to_native(), **roles)

    def reopened(self, source: Any, **roles: Any) -> Self:
        """Another table with this log's roles, or with others."""
        arguments = {
            "action": self.action_column,
            "reward": self.rewards,
            "propensity": self.propensity_role,
            "context": self.context_columns,
            "unit": self.unit_column,
            "time": self.time_column,
            "segment": self.segment_columns,
            "position": self.position_column,
            "available": self.available_column,
            "delay": self.delay_column,
        }
        return type(self)(source, **{**arguments, **roles})


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Each name once."""
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).to_numpy().astype(np.float64)


def _codes(column: pl.Series, values: tuple[Any, ...]) -> Codes:
    """Position of every entry in `values`."""
    kind = pl.String if column.dtype in TEXT else column.dtype
    old = pl.Series(values, dtype=kind)
    return column.cast(kind).replace_strict(old, pl.Series(range(len(values)), dtype=pl.Int64)).to_numpy()


def _dense(column: pl.Series) -> Codes:
    """Codes 0.. in order of first appearance."""
    return (column.rank("dense").cast(pl.Int64) - 1).to_numpy()
