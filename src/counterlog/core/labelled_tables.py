"""Tables with a label column as models take them: columns by name, features as numbers or with categories.

A model that keeps the names of its columns is given those columns, in its own order; otherwise all columns that have
no other role, in the order of the table. Numbers and booleans become one float64 array; a table with text columns
becomes a pandas frame whose text is categorical, which is how the tree libraries want it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message, need_extra
from counterlog.core.frames import collect, open_frame

SQL_WORDS = {"and", "or", "not", "in", "is", "null", "like", "between", "true", "false"}
SQL_WORDS |= {"case", "when", "then", "else", "end"}


def read_table(path: str | os.PathLike[str]) -> pl.DataFrame:
    """A whole table from Parquet, CSV, JSONL or a database. Raises `LogError` when it has no rows."""
    frame = collect(open_frame(path))
    if frame.height == 0:
        raise LogError(message(f"{path} has no rows", expected="at least one"))
    return frame


def require_columns(frame: pl.DataFrame, names: Sequence[str], where: str) -> None:
    """Raise `LogError` for columns that the table does not have."""
    if missing := [n for n in names if n not in frame.columns]:
        msg = message(
            f"{where} has no column {', '.join(map(repr, missing[:5]))}",
            expected=f"columns {', '.join(map(repr, frame.columns[:12]))}",
            hint="the model and the command name columns; check both",
        )
        raise LogError(msg)


def feature_names(frame: pl.DataFrame, known: Sequence[str], other: Sequence[str], count: int) -> list[str]:
    """The model's own columns when the table has them; else the `count` columns that have no role.

    `known` may be made-up names (`Column_0`, `f0`, `0`) of a model that was trained on an array.
    """
    rest = [c for c in frame.columns if c not in other]
    if known and all(k in frame.columns for k in known):
        return list(known)
    made_up = not known or all(k.strip("Columnf_").isdigit() for k in known)
    if made_up and len(rest) == count:
        return rest
    if made_up:
        msg = message(
            f"the model was trained on {count} unnamed columns and the table has {len(rest)} besides its roles",
            hint="leave only the feature columns, in the order of training, beside target, group and weight",
        )
        raise LogError(msg)
    require_columns(frame, known, "the table")
    return list(known)


def labels(frame: pl.DataFrame, column: str) -> NDArray[Any]:
    """(n,) the label column. Raises `LogError` naming rows without one."""
    series = frame[column]
    if series.null_count() or (series.dtype.is_float() and series.is_nan().any()):
        bad = series.is_null() if series.null_count() else series.is_nan()
        where = first_rows(np.flatnonzero(bad.to_numpy()))
        raise LogError(message(f"column {column!r} is empty in {where}", hint="drop these rows"))
    return series.cast(pl.String).to_numpy() if _textual(series) else series.to_numpy()


def numbers(frame: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """(n,) a column of numbers. Raises `LogError` for any other kind."""
    if not frame[column].dtype.is_numeric():
        raise LogError(message(f"column {column!r} holds {frame[column].dtype}", expected="numbers"))
    return np.asarray(frame[column].cast(pl.Float64).to_numpy(), dtype=np.float64)


def features(frame: pl.DataFrame, names: Sequence[str], *, text_as: str = "category") -> Any:
    """(n, p) the columns `names`: float64, or a pandas frame when some hold text (`text_as`: category or str)."""
    chosen = frame.select(list(names))
    odd = [s.name for s in chosen if not (_textual(s) or s.dtype.is_numeric() or s.dtype == pl.Boolean)]
    if odd:
        msg = message(
            f"column {odd[0]!r} holds {chosen[odd[0]].dtype}",
            expected="numbers, booleans or text",
            hint="turn dates and lists into numbers first, as in training",
        )
        raise LogError(msg)
    text = [s.name for s in chosen if _textual(s)]
    if not text:
        return np.ascontiguousarray(chosen.select(pl.all().cast(pl.Float64)).to_numpy())
    pandas = need_extra("pandas", "pandas")
    columns = {}
    for s in chosen:
        if s.name not in text:
            columns[s.name] = s.cast(pl.Float64).to_numpy()
        elif text_as == "str":
            columns[s.name] = s.cast(pl.String).fill_null("").to_numpy()
        else:
            columns[s.name] = pandas.Categorical(s.cast(pl.String).to_list())
    return pandas.DataFrame(columns)


def _textual(series: pl.Series) -> bool:
    return series.dtype in (pl.String, pl.Categorical, pl.Enum)


def rows_named(
    frame: pl.DataFrame, *, file: str | os.PathLike[str] | None, where: str | None, key: str | None
) -> NDArray[np.int64]:
    """Row numbers that a file names (its column `row`, or `key` for all rows of those keys), or a SQL condition.

    Raises `ConfigError` unless exactly one of `file` and `where` is given or the condition cannot be read, `LogError`
    for names that are not in the table.
    """
    if (file is None) == (where is None):
        msg = message("rows are named by a file or by a condition", expected="one of --forget and --where")
        raise ConfigError(msg)
    if where is not None:
        return _where(frame, where)
    named = read_table(Path(os.fspath(file or "")))
    column = key or "row"
    require_columns(named, [column], str(file))
    if key is not None:
        require_columns(frame, [key], "the table")
        wanted = named[key].cast(pl.String).unique().drop_nulls()
        have = frame[key].cast(pl.String)
        if (lost := wanted.filter(~wanted.is_in(have.implode()))).len():
            msg = message(
                f"{lost.len()} values of {key!r} are not in the table: {', '.join(lost.head(5).to_list())}"
            )
            raise LogError(message(msg, hint="name keys that the table holds"))
        return np.flatnonzero(have.is_in(wanted.implode()).to_numpy())
    if not named[column].dtype.is_integer():
        msg = message(
            f"column {column!r} of {file} holds {named[column].dtype}", expected="row numbers from 0"
        )
        raise LogError(msg)
    return np.asarray(named[column].to_numpy(), dtype=np.int64)


def _quoted(condition: str, names: Sequence[str]) -> str:
    """The condition with bare column names in double quotes, so that a column may be called `user` or `date`."""
    known = {n for n in names if n.lower() not in SQL_WORDS}
    parts = re.split(r"""('[^']*'|"[^"]*")""", condition)
    return "".join(
        part if i % 2 else re.sub(r"[A-Za-z_]\w*", lambda m: f'"{m[0]}"' if m[0] in known else m[0], part)
        for i, part in enumerate(parts)
    )


def _where(frame: pl.DataFrame, condition: str) -> NDArray[np.int64]:
    try:
        found = frame.select(pl.sql_expr(_quoted(condition, frame.columns)).alias("hit"))["hit"]
    except (pl.exceptions.PolarsError, TypeError, ValueError) as cause:
        msg = message(
            f"the condition {condition!r} cannot be read ({str(cause).splitlines()[0]})",
            expected="SQL over the table's columns, such as user = 'u17' AND age < 30",
        )
        raise ConfigError(msg) from cause
    if found.dtype != pl.Boolean or len(found) != frame.height:
        msg = message(f"the condition {condition!r} gives {found.dtype}", expected="yes or no for every row")
        raise ConfigError(msg)
    return np.flatnonzero(found.fill_null(False).to_numpy())
