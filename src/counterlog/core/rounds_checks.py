"""What makes a table a decision log: every check of `Rounds`, counted in one scan where the log lies.

A refusal names the column, how many rows, the first of them (counted from 0) and the remedy. Rows are only
looked for when a count says that there are some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import narwhals as nw
import numpy as np
import polars as pl

from counterlog.core.engines import OWN, Frame, engine_of
from counterlog.core.errors import LogError, PropensityError, first_rows, message
from counterlog.core.frames import collect

if TYPE_CHECKING:
    from counterlog.core.rounds import Rounds

TEXT = (pl.String, pl.Categorical, pl.Enum)
_TEXT = (nw.String, nw.Categorical, nw.Enum)
_MOMENT = (nw.Date, nw.Datetime, nw.Time)
LARGEST = 1e50  # the cube of a reward times a weight is still a number
LARGEST_CONTEXT = 1e100  # so is the square of a context value
_PATTERN = re.compile(r"\*|\^.*\$", re.DOTALL)  # engines read such a name as many columns
_PATH_MARKS = (".", "`")


@dataclass(frozen=True)
class Rule:
    """Rows of `column` for which `bad` is true are refused as `what`."""

    column: str
    bad: nw.Expr
    what: str
    hint: str
    kind: type[LogError] = LogError


def check_roles(
    single: Mapping[str, Any], several: Mapping[str, Any], propensity: str | float | None
) -> None:
    """Roles are named by text. Raises `LogError` for anything else."""
    for role, name in single.items():
        if not isinstance(name, str) and (name is not None or role == "action"):
            msg = message(f"{role}={name!r} names no column", expected="a column's name, as text")
            raise LogError(msg)
    for role, names in several.items():
        known = isinstance(names, (str, Mapping, Sequence)) and not isinstance(names, bytes)
        if not known or any(not isinstance(n, str) for n in names):
            msg = message(f"{role}={names!r} names no columns", expected="a column's name, or a list of them")
            raise LogError(msg)
    if not (propensity is None or isinstance(propensity, (str, Real))) or isinstance(propensity, bool):
        msg = message(
            f"propensity={propensity!r} is not a propensity",
            expected="a column's name, a number in (0, 1], 'uniform' or 'estimate'",
        )
        raise PropensityError(msg)


def check_names(log: Rounds) -> None:
    """Every named column exists under a usable name, and no outcome is used as context. Raises `LogError`."""
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
            if name is not None:
                check_usable(log.frame, name, role)
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


def check_usable(frame: Frame, name: str, role: str) -> None:
    """Refuse, as `LogError`, a column name that the engine would read as something else than this column."""
    why = ""
    if _PATTERN.fullmatch(name):
        why = "a pattern"
    elif name.lower().startswith(OWN):
        why = f"the library's own: those begin with {OWN}"
    elif engine_of(frame) == "spark" and any(mark in name for mark in _PATH_MARKS):
        why = "a field inside a column: Spark splits names at dots and backticks"
    if why:
        msg = message(f"{role} column {name!r} would be read as {why}", hint="rename the column")
        raise LogError(msg)


def check_values(log: Rounds) -> tuple[int, tuple[Rule, ...]]:
    """Number of rows, after every role's values were found to be what they claim to be.

    The rules that come with it are broken by values too extreme to be squared: they stand in the way of an estimate,
    not of an audit. Raises `LogError` or `PropensityError` for the first rule that some row breaks, and lists the
    others after it.
    """
    schema = log.frame.collect_schema()
    try:
        _kinds(log, schema)
        rules = [*_present(log, schema), *_actions(log, schema), *_rewards(log, schema)]
        rules += [*_propensities(log, schema), *_contexts(log, schema)]
    except LogError:
        _refuse_empty(int(collect(log.frame.select(nw.len())).item()))  # an empty table has no types
        raise
    extremes = _extremes(log, schema)
    counts = collect(
        log.frame.select(
            nw.len().alias("n"),
            **{f"bad{i}": rule.bad.cast(nw.Int64).sum() for i, rule in enumerate((*rules, *extremes))},
        )
    ).row(0)
    n = int(counts[0])
    _refuse_empty(n)
    first = 1 + len(rules)
    if wrong := [rule for rule, count in zip(rules, counts[1:first], strict=True) if count]:
        refuse(log, wrong, n)
    return n, tuple(rule for rule, count in zip(extremes, counts[first:], strict=True) if count)


def refuse(log: Rounds, broken: Sequence[Rule], n: int) -> NoReturn:
    """Raise the first broken rule, with what the others found after it."""
    first, *others = (_refusal(log, rule, n) for rule in broken)
    msg = "\n".join([message(first, hint=broken[0].hint), *(f"also: {text}" for text in others)])
    raise broken[0].kind(msg)


def _refuse_empty(n: int) -> None:
    if n == 0:
        msg = message("the log has 0 rows", hint="check the path and any filter before it")
        raise LogError(msg)


def check_available(log: Rounds) -> None:
    """Every row lists actions, and the logged one among them. Raises `LogError`."""
    column, listed = log.available_column or "", log.listed
    empty = np.flatnonzero((listed.list.len().fill_null(0) == 0).to_numpy())
    _refuse_rows(column, empty, log.n, "lists no action", "list at least one")
    gaps = np.flatnonzero((listed.list.drop_nulls().list.len() < listed.list.len()).to_numpy())
    _refuse_rows(column, gaps, log.n, "lists an empty (null) action", "leave it out of the list")
    matrix = log.available
    missed = np.flatnonzero(~matrix[np.arange(log.n), log.action]) if matrix is not None else empty
    hint = f"column {column!r} must hold every action that could be taken, the logged one included"
    _refuse_rows(log.action_column, missed, log.n, "was taken although it was not available", hint)


def narrow_unit(log: Rounds) -> nw.LazyFrame[Any]:
    """The frame with units that need more than 64 bits with sign as text: hashes are made of one or the other."""
    name = log.unit_column
    if name is None or log.frame.collect_schema()[name] not in (nw.UInt64, nw.Int128, nw.UInt128):
        return log.frame
    least, most = collect(log.frame.select(a=nw.col(name).min(), b=nw.col(name).max())).row(0)
    fits = least >= -(2**63) and most < 2**63
    return log.frame.with_columns(nw.col(name).cast(nw.Int64 if fits else nw.String))


def _kinds(log: Rounds, schema: Any) -> None:
    """Refuse columns of a type that their role cannot have, whatever the values."""
    plain = (*_TEXT, *_MOMENT, nw.Boolean)
    rules: list[tuple[str, str | None, tuple[Any, ...], str]] = [
        ("unit", log.unit_column, plain, "text, numbers or dates"),
        ("time", log.time_column, plain, "dates, numbers or text"),
        *(("segment", s, plain, "text, numbers or dates") for s in log.segment_columns),
        ("position", log.position_column, (), "integers"),
        ("delay", log.delay_column, (nw.Duration, nw.Unknown), "numbers or durations"),
    ]
    for role, name, others, expected in rules:
        if name is not None and not (schema[name].is_numeric() or schema[name] in others):
            msg = message(f"{role} column {name!r} is of type {schema[name]}", expected=expected)
            raise LogError(msg)
    name = log.available_column
    if name is not None and schema[name] not in (*_TEXT, nw.List, nw.Array):
        msg = message(
            f"available column {name!r} is of type {schema[name]}",
            expected="lists of actions, or text such as a|b|c",
        )
        raise LogError(msg)


def _present(log: Rounds, schema: Any) -> list[Rule]:
    names = dict.fromkeys((log.action_column, *log.segment_columns, log.unit_column, log.time_column))
    hint = "fill or drop these rows first"
    rules = [
        Rule(name, nw.col(name).is_null(), "is empty (null)", hint) for name in names if name is not None
    ]
    floats = [n for n in names if n not in (None, log.action_column) and schema[n].is_float()]
    return rules + [
        Rule(n, ~(nw.col(n).is_finite() | nw.col(n).is_null()), "is not a finite number", hint)
        for n in floats
    ]


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
    if role is not None and not isinstance(role, str) and not 1 / LARGEST <= float(role) <= 1:
        msg = message(f"the constant propensity {role} is not a probability", expected="a number in (0, 1]")
        raise PropensityError(msg)
    return []


def _contexts(log: Rounds, schema: Any) -> list[Rule]:
    hint = "repair these values; a missing value may be null"
    rules = []
    for name in (c for c in log.context_columns if schema[c].is_float()):
        known = ~(nw.col(name).is_null() | nw.col(name).is_nan())
        large = nw.col(name).is_finite() & (nw.col(name).abs() > LARGEST_CONTEXT)
        rules.append(Rule(name, known & ~nw.col(name).is_finite(), "is infinite", hint))
        rules.append(Rule(name, known & large, f"is beyond {LARGEST_CONTEXT:.0e}", hint))
    return rules


def _extremes(log: Rounds, schema: Any) -> list[Rule]:
    """Values that are allowed in a log, and beyond what an estimate can be made of."""
    what, hint = f"is beyond {LARGEST:.0e}", "give the reward in a larger unit, or repair these rows"
    rules = [
        Rule(r, nw.col(r).abs() > LARGEST, f"{what} as a reward", hint)
        for r in log.rewards
        if schema[r].is_float()
    ]
    if (name := log.propensity_column) is not None and schema[name].is_float():
        hint = "repair or drop these rows: such a decision is never seen"
        what = f"is a probability below {1 / LARGEST:.0e}"
        rules.append(Rule(name, nw.col(name) < 1 / LARGEST, what, hint, PropensityError))
    return rules


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
    if dtype == nw.Unknown:
        msg = message(f"{role} column {name!r} is empty (null) in every row", expected="numbers")
        raise LogError(msg)
    msg = message(f"{role} column {name!r} is of type {dtype}", expected="numbers")
    raise LogError(msg)


def _closest(name: str, present: Iterable[str]) -> str:
    near = get_close_matches(name, list(present), n=1)
    return f"did you mean {near[0]!r}?" if near else "check the spelling"
