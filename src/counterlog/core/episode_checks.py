"""What makes arrays and tables a log of trajectories: every check of `Episodes`, naming column, count and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import LogError, PropensityError, first_rows, message

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]


def sealed(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


def checked_offsets(offsets: ArrayLike) -> Codes:
    """(n + 1,) increasing integers from 0."""
    array = np.array(offsets)
    good = array.ndim == 1 and len(array) >= 2 and np.issubdtype(array.dtype, np.integer)
    if not good or array[0] != 0 or (np.diff(array) < 1).any():
        msg = message(
            "offsets do not mark trajectories",
            expected="increasing integers from 0 to the number of rows, (n + 1,); no trajectory is empty",
        )
        raise LogError(msg)
    return array.astype(np.int64)


def checked_table(role: str, values: ArrayLike, rows: int) -> NDArray[Any]:
    """(rows,) integer codes or (rows, d) finite numbers."""
    array = np.asarray(values)
    if array.shape[:1] != (rows,) or array.ndim > 2 or array.dtype.kind not in "iufb":
        msg = message(
            f"{role} is {array.dtype} of shape {array.shape}",
            expected=f"({rows},) integers or ({rows}, d) numbers",
        )
        raise LogError(msg)
    if array.ndim == 1 and array.dtype.kind == "f":
        array = array[:, None]
    if array.ndim == 1:
        array = array.astype(np.int64)
        if (bad := np.flatnonzero(array < 0)).size:
            msg = message(
                f"{role} codes below 0 in {bad.size:,} rows: {first_rows(bad)}", expected="codes from 0"
            )
            raise LogError(msg)
        return array
    refuse_missing(role, array)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def checked_numbers(role: str, values: ArrayLike, rows: int) -> Floats:
    """(rows,) finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (rows,):
        msg = message(f"{role} has shape {array.shape}", expected=f"({rows},)")
        raise LogError(msg)
    refuse_missing(role, array)
    return array


def refuse_missing(role: str, array: NDArray[Any]) -> None:
    """Raise `LogError` for missing values; propensities have their own check."""
    if array.dtype.kind != "f" or role in ("propensity", "log_propensity"):
        return
    bad = ~np.isfinite(array)
    rows = np.flatnonzero(bad.any(axis=1) if bad.ndim == 2 else bad)
    if rows.size:
        msg = message(
            f"{role} is missing or not finite in {rows.size:,} of {len(array):,} rows: {first_rows(rows)}",
            hint="repair these steps, or leave out their trajectories",
        )
        raise LogError(msg)


def checked_flags(role: str, values: ArrayLike | None, rows: int) -> Flags:
    """(rows,) booleans; None is all False."""
    if values is None:
        return np.zeros(rows, bool)
    array = np.asarray(values)
    if array.shape != (rows,) or not np.isin(array, (0, 1)).all():
        msg = message(f"{role} is not one yes or no a row", expected=f"({rows},) of 0/1 or booleans")
        raise LogError(msg)
    return array.astype(bool)


def action_labels(actions: int | Sequence[Any] | None, action: NDArray[Any]) -> tuple[Any, ...]:
    """The actions by code; none for continuous actions."""
    if action.ndim == 2:
        return ()
    found = int(action.max()) + 1
    labels = (
        tuple(range(found if actions is None else actions))
        if not isinstance(actions, Sequence)
        else tuple(actions)
    )
    if found > len(labels):
        bad = np.flatnonzero(action >= len(labels))
        msg = message(
            f"action codes of {len(labels)} and more in {bad.size:,} rows: {first_rows(bad)}",
            expected=f"codes in [0, {len(labels)})",
            hint="actions= is the number of actions, or their labels",
        )
        raise LogError(msg)
    return labels


def checked_log_propensity(
    p: ArrayLike | None, log_p: ArrayLike | None, rows: int, *, discrete: bool
) -> Floats | None:
    """(rows,) logarithm of the propensities. Raises `PropensityError` with count and first rows."""
    if p is not None and log_p is not None:
        msg = message("both propensity and log_propensity are given", expected="one of them")
        raise LogError(msg)
    if p is None and log_p is None:
        return None
    values = np.asarray(p if log_p is None else log_p, dtype=np.float64)
    if values.shape != (rows,):
        msg = message(f"the propensity has shape {values.shape}", expected=f"({rows},)")
        raise LogError(msg)
    if log_p is None:
        bad = ~(values > 0) | ~np.isfinite(values) | (discrete & (values > 1))
        expected = "a probability in (0, 1]" if discrete else "a density above 0"
    else:
        bad = ~np.isfinite(values) | (discrete & (values > 0))
        expected = "the logarithm of a probability, at most 0" if discrete else "a finite log density"
    if bad.any():
        where = np.flatnonzero(bad)
        msg = message(
            f"the propensity is wrong in {where.size:,} of {rows:,} rows: {first_rows(where)}",
            expected=expected,
            hint="log the probability with which the action was drawn; a step that could not happen has no weight",
        )
        raise PropensityError(msg)
    return sealed(np.log(values) if log_p is None else values)


def ordered_rows(table: pl.DataFrame, trajectory: str, t: str) -> tuple[Codes, Codes]:
    """(order, offsets): rows sorted by trajectory and step. Refuses empty ids, repeats and gaps."""
    if table.height == 0:
        msg = message("the log has 0 rows", hint="check the path and any filter before it")
        raise LogError(msg)
    for name in (trajectory, t):
        if (rows := table[name].is_null().arg_true()).len():
            msg = message(f"column {name!r} is empty (null) in {len(rows):,} rows: {first_rows(rows)}")
            raise LogError(msg)
    step = number_column(table[t], "t")
    if (bad := np.flatnonzero(step != np.floor(step))).size:
        msg = message(f"column {t!r} is no whole number in {bad.size:,} rows: {first_rows(bad)}")
        raise LogError(msg)
    owner = table[trajectory].rank("dense").to_numpy().astype(np.int64)
    order = np.lexsort((step, owner))
    owner, step = owner[order], step[order].astype(np.int64)
    same = owner[1:] == owner[:-1]
    jump = np.diff(step)
    if (again := np.flatnonzero(same & (jump == 0))).size:
        msg = message(
            f"{again.size:,} pairs ({trajectory}, {t}) stand twice: {first_rows(np.sort(order[again + 1]))}",
            hint="keep one row a step",
        )
        raise LogError(msg)
    if (gap := np.flatnonzero(same & (jump > 1))).size:
        msg = message(
            f"{gap.size:,} gaps in {t!r}: steps are missing before {first_rows(np.sort(order[gap + 1]))}",
            hint="log every step; a product of probability ratios cannot skip one",
        )
        raise LogError(msg)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    if (late := np.flatnonzero(step[starts] != step[starts].min())).size:
        msg = message(
            f"{late.size:,} trajectories start later than {t!r} = {step[starts].min()}: "
            f"{first_rows(np.sort(order[starts[late]]))}",
            hint="all trajectories must be logged from their first step",
        )
        raise LogError(msg)
    return order, np.concatenate([starts, [len(owner)]])


def number_column(column: pl.Series, role: str) -> NDArray[Any]:
    """Numbers or booleans as an array; a null becomes NaN. Text is refused."""
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        msg = message(f"{role} column {column.name!r} is of type {column.dtype}", expected="numbers")
        raise LogError(msg)
    if column.is_null().any():
        column = column.cast(pl.Float64).fill_null(np.nan)
    return column.to_numpy()


def coded_column(column: pl.Series, actions: int | Sequence[Any] | None) -> tuple[Codes, tuple[str, ...]]:
    """Codes of a text column and its labels: the given ones, or every value in order."""
    text = column.cast(pl.String)
    labels = (
        tuple(map(str, actions)) if isinstance(actions, Sequence) else tuple(sorted(text.unique().to_list()))
    )
    if unknown := sorted(set(text.unique().to_list()) - set(labels)):
        msg = message(
            f"action column {column.name!r} holds {unknown[0]!r}", expected=f"one of {', '.join(labels)}"
        )
        raise LogError(msg)
    codes = text.replace_strict(pl.Series(labels), pl.Series(range(len(labels)), dtype=pl.Int64))
    return codes.to_numpy(), labels
