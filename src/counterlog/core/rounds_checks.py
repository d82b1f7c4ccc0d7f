"""What makes a table a decision log: every check of `Rounds`, counted in one scan where the log lies.

A refusal names the column, how many rows, the first of them (counted from 0) and the remedy. Rows are only
looked for when a count says that there are some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import polars as pl

from counterlog.core.errors import LogError, PropensityError, first_rows, message
from counterlog.core.frames import collect

if TYPE_CHECKING:
    from counterlog.core.rounds import Rounds

TEXT = (pl.String, pl.Categorical, pl.Enum)
_TEXT = (nw.String, nw.Categorical, nw.Enum)


@dataclass(frozen=True)
class Rule:
    """Rows of `column` for which `bad` is true are refused as `what`."""

    column: str
    bad: nw.Expr
    what: str
    hint: str
    kind: type[LogError] = LogError


def check_names(log: Rounds) -> None:
    """Every named column exists, and no outcome is used as context. Raises `LogError`."""
    present = log.frame.collect_schema().names()
    roles: dict[str, tuple[str | None, ...]] = {
        "action": (log.action_column,),
        "reward": tuple(log.rewards),
        "context": log.context_columns,
        "segment": log.segment_columns,
        "propensity": (log.propensity_column,),
        **{r: (getattr(log, f"{r}_column"),) for r in ("unit", "time", "position", "available", "delay")},
    }
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


def check_values(log: Rounds) -> int:
    """Number of rows, after every role's values were found to be what they claim to be.

    Raises `LogError` or `PropensityError` for the first rule that some row breaks, and lists the others after it.
    """
    schema = log.frame.collect_schema()
    rules = [*_present(log), *_actions(log, schema), *_rewards(log, schema), *_propensities(log, schema)]
    rules += _contexts(log, schema)
    counts = collect(
        log.frame.select(
            nw.len().alias("n"),
            **{f"bad{i}": rule.bad.cast(nw.Int64).sum() for i, rule in enumerate(rules)},
        )
    ).row(0)
    n = int(counts[0])
    if n == 0:
        msg = message("the log has 0 rows", hint="check the path and any filter before it")
        raise LogError(msg)
    broken = [rule for rule, count in zip(rules, counts[1:], strict=True) if count]
    if broken:
        first, *others = (_refusal(log, rule, n) for rule in broken)
        msg = "\n".join([message(first, hint=broken[0].hint), *(f"also: {text}" for text in others)])
        raise broken[0].kind(msg)
    return n


def check_available(log: Rounds) -> None:
    """Every row lists actions, and the logged one among them. Raises `LogError`."""
    column = log.available_column or ""
    empty = np.flatnonzero((log.listed.list.len().fill_null(0) == 0).to_numpy())
    _refuse_rows(column, empty, log.n, "lists no action", "list at least one")
    matrix = log.available
    missed = np.flatnonzero(~matrix[np.arange(log.n), log.action]) if matrix is not None else empty
    hint = f"column {column!r} must hold every action that could be taken, the logged one included"
    _refuse_rows(log.action_column, missed, log.n, "was taken although it was not available", hint)


def _present(log: Rounds) -> list[Rule]:
    names = dict.fromkeys((log.action_column, *log.segment_columns, log.unit_column, log.time_column))
    what, hint = "is empty (null)", "fill or drop these rows first"
    return [Rule(name, nw.col(name).is_null(), what, hint) for name in names if name is not None]


def _actions(log: Rounds, schema: Any) -> list[Rule]:
    name = log.action_column
    dtype = schema[name]
    if not (dtype.is_numeric() or dtype in (*_TEXT, nw.Boolean)):
        msg = message(f"action column {name!r} is of type {dtype}", expected="text, integers or booleans")
        raise LogError(msg)
    if not dtype.is_float():
        return []
    return [Rule(name, ~nw.col(name).is_finite(), "is not a finite number", "repair these actions")]


def _rewards(log: Rounds, schema: Any) -> list[Rule]:
    rules = []
    for name in log.rewards:
        _need_number(log, name, "reward", schema)
        value = nw.col(name).cast(nw.Float64)
        unknown = value.is_null() | value.is_nan()
        rules.append(
            Rule(
                name,
                unknown,
                "has no reward",
                "drop rows whose reward is not known yet; fill it where nothing came of the decision",
            )
        )
        if schema[name].is_float():
            infinite = ~(value.is_finite() | unknown)
            rules.append(Rule(name, infinite, "has an infinite reward", "repair or drop these rows"))
    return rules


def _propensities(log: Rounds, schema: Any) -> list[Rule]:
    role, name = log.propensity_role, log.propensity_column
    if name is not None:
        _need_number(log, name, "propensity", schema)
        value = nw.col(name).cast(nw.Float64)
        bad = value.is_null() | value.is_nan() | (value <= 0) | (value > 1)
        hint = "log the probability with which the action was drawn; a logged row cannot have had none"
        return [Rule(name, bad, "is not a probability in (0, 1]", hint, PropensityError)]
    if isinstance(role, (int, float)) and not 0 < role <= 1:
        msg = message(f"the constant propensity {role} is not a probability", expected="a number in (0, 1]")
        raise PropensityError(msg)
    return []


def _contexts(log: Rounds, schema: Any) -> list[Rule]:
    what, hint = "is infinite", "repair these values; a missing value may be null"
    floats = [c for c in log.context_columns if schema[c].is_float()]
    return [
        Rule(c, ~(nw.col(c).is_finite() | nw.col(c).is_null() | nw.col(c).is_nan()), what, hint)
        for c in floats
    ]


def _refusal(log: Rounds, rule: Rule, n: int) -> str:
    column = nw.from_native(collect(log.frame.select(rule.column)))
    rows = np.flatnonzero(column.select(bad=rule.bad)["bad"].to_numpy())
    return _found(rule.column, rows, n, rule.what)


def _found(column: str, rows: Any, n: int, what: str) -> str:
    return f"column {column!r} {what} in {len(rows):,} of {n:,} rows: {first_rows(rows)}"


def _refuse_rows(column: str, rows: Any, n: int, what: str, hint: str) -> None:
    if len(rows):
        raise LogError(message(_found(column, rows, n, what), hint=hint))


def _need_number(log: Rounds, name: str, role: str, schema: Any) -> None:
    """Refuse a column that holds no numbers, with the first entry that is none."""
    dtype = schema[name]
    if dtype.is_numeric() or dtype == nw.Boolean:
        return
    if dtype in _TEXT:
        column = collect(log.frame.select(name))[name].cast(pl.String)
        bad = (column.cast(pl.Float64, strict=False).is_null() & column.is_not_null()).arg_true()
        example = f"{first_rows(bad)}, for example {column[int(bad[0])]!r}" if len(bad) else "numbers as text"
        msg = message(
            f"{role} column {name!r} is text: {example}", expected="numbers", hint="make it a number column"
        )
        raise LogError(msg)
    msg = message(f"{role} column {name!r} is of type {dtype}", expected="numbers")
    raise LogError(msg)


def _closest(name: str, present: Iterable[str]) -> str:
    near = get_close_matches(name, list(present), n=1)
    return f"did you mean {near[0]!r}?" if near else "check the spelling"
