"""What makes a table a decision log: every check of `Rounds`, and the refusal that names column, count, rows
and remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from counterlog.core.errors import LogError, PropensityError, first_rows, message

if TYPE_CHECKING:
    from counterlog.core.rounds import Rounds

TEXT = (pl.String, pl.Categorical, pl.Enum)


def check_names(log: Rounds) -> None:
    """Every named column exists, and no outcome is used as context. Raises `LogError`."""
    present = log.frame.collect_schema().names()
    roles: dict[str, tuple[str | None, ...]] = {
        "action": (log.action_column,),
        "reward": tuple(log.rewards),
        "context": log.context_columns,
    }
    roles |= {"segment": log.segment_columns, "propensity": (log.propensity_column,)}
    roles |= {r: (getattr(log, f"{r}_column"),) for r in ("unit", "time", "position", "available", "delay")}
    for role, names in roles.items():
        for name in names:
            if name is not None and name not in present:
                msg = message(
                    f"the log has no column {name!r} for {role}",
                    expected=f"one of {', '.join(map(repr, present))}",
                    hint=_closest(name, present),
                )
                raise LogError(msg)
    if not log.rewards:
        msg = message("no reward was named", hint="reward='column'")
        raise LogError(msg)
    outcome = {*log.rewards, log.action_column, log.propensity_column}
    if leak := [c for c in log.context_columns if c in outcome]:
        msg = message(
            f"column {leak[0]!r} is context and also action, reward or propensity",
            hint="context must be known before the decision; leave it out",
        )
        raise LogError(msg)


def check_values(log: Rounds) -> None:
    """Every role's values can be what they claim to be. Raises `LogError` or `PropensityError`."""
    if log.n == 0:
        msg = message("the log has 0 rows", hint="check the path and any filter before it")
        raise LogError(msg)
    for name in dict.fromkeys((log.action_column, *log.segment_columns, log.unit_column, log.time_column)):
        if name is not None:
            _refuse(name, log.table[name].is_null(), "is empty (null)", "fill or drop these rows first")
    _check_action(log)
    for name in log.rewards:
        values = _number_column(log.table[name], "reward")
        _refuse(
            name,
            values.is_null() | values.is_nan(),
            "has no reward",
            "drop rows whose reward is not known yet",
        )
        _refuse(name, values.is_infinite(), "has an infinite reward", "repair or drop these rows")
    _check_propensity(log)
    for name in log.context_columns:
        column = log.table[name]
        if column.dtype.is_float():
            _refuse(
                name,
                column.is_infinite(),
                "is infinite",
                "repair these values; a missing value may be null",
            )
    if log.available_column is not None:
        _check_available(log)


def _check_action(log: Rounds) -> None:
    column = log.table[log.action_column]
    if column.dtype.is_float():
        _refuse(log.action_column, ~column.is_finite(), "is not a finite number", "repair these actions")
    if not (column.dtype.is_numeric() or column.dtype in (*TEXT, pl.Boolean)):
        msg = message(
            f"action column {log.action_column!r} is of type {column.dtype}",
            expected="text, integers or booleans",
        )
        raise LogError(msg)


def _check_propensity(log: Rounds) -> None:
    role = log.propensity_role
    if log.propensity_column is not None:
        values = _number_column(log.table[log.propensity_column], "propensity")
        bad = (values.is_null() | ~(values > 0) | ~(values <= 1)).fill_null(True)
        hint = (
            "log the probability with which the action was drawn; a row that could not happen has no weight"
        )
        _refuse(log.propensity_column, bad, "is not a probability in (0, 1]", hint, PropensityError)
    elif isinstance(role, (int, float)) and not 0 < role <= 1:
        msg = message(f"the constant propensity {role} is not a probability", expected="a number in (0, 1]")
        raise PropensityError(msg)


def _check_available(log: Rounds) -> None:
    listed = log.listed
    _refuse(
        log.available_column or "",
        listed.list.len().fill_null(0) == 0,
        "lists no action",
        "list at least one",
    )
    matrix = log.available
    missed = pl.Series(~matrix[np.arange(log.n), log.action]) if matrix is not None else pl.Series([False])
    hint = (
        f"column {log.available_column!r} must hold every action that could be taken, the logged one included"
    )
    _refuse(log.action_column, missed, "was taken although it was not available", hint)


def _refuse(name: str, bad: pl.Series, what: str, hint: str, kind: type[LogError] = LogError) -> None:
    """Raise `kind` when any row is bad, naming the column, the count and the first rows (counted from 0)."""
    if bad.any():
        rows = bad.arg_true()
        msg = message(
            f"column {name!r} {what} in {len(rows):,} of {len(bad):,} rows: {first_rows(rows)}", hint=hint
        )
        raise kind(msg)


def _number_column(column: pl.Series, role: str) -> pl.Series:
    """The column as float64; text is refused with the first entry that is no number."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.cast(pl.Float64)
    if column.dtype in TEXT:
        bad = (
            column.cast(pl.String).cast(pl.Float64, strict=False).is_null() & column.is_not_null()
        ).arg_true()
        where = (
            f"{first_rows(bad)}, for example {column[int(bad[0])]!r}"
            if len(bad)
            else "numbers written as text"
        )
        msg = message(
            f"{role} column {column.name!r} is text: {where}",
            expected="numbers",
            hint="make it a number column",
        )
        raise LogError(msg)
    msg = message(f"{role} column {column.name!r} is of type {column.dtype}", expected="numbers")
    raise LogError(msg)


def _closest(name: str, present: Iterable[str]) -> str:
    near = get_close_matches(name, list(present), n=1)
    return f"did you mean {near[0]!r}?" if near else "check the spelling"
