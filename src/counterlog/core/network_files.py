"""Edge lists read into a `Network`: text (also gzipped), CSV, Parquet, NumPy."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, message
from counterlog.core.network import Network

COMMENTS = ("#", "%")
SEPARATORS = ("\t", ",", ";", " ")


def read_network(
    path: str | os.PathLike[str],
    probability: str | float = "wc",
    *,
    source: str | int = 0,
    target: str | int = 1,
    skip: int = 0,
    **options: Any,
) -> Network:
    """The network of a file with one edge a row; see `Network.from_edges` for `probability` and the options.

    `source` and `target` are column numbers from 0 (or names, in Parquet); `probability` may be "column:2". Text rows
    are separated by tabs, commas, semicolons or blanks; lines that start with # or % and the first `skip` lines are
    passed over. Raises `LogError` naming the line that is not an edge.
    """
    file = Path(path)
    if not file.exists():
        raise LogError(message(f"there is no file {file}", hint="give the path of an edge list"))
    table, line = _table(file, skip)
    column = probability.removeprefix("column:") if isinstance(probability, str) else ""
    named = isinstance(probability, str) and probability.startswith("column:")
    ends = [_labels(_column(table, name, file), line, skip) for name in (source, target)]
    given: Any = probability
    if named:
        text = _column(table, int(column) if column.isdigit() else column, file)
        given = text.cast(pl.Float64, strict=False)
        if (bad := given.is_null().arg_true()).len():
            at = f"line {line[bad[0]]}" if len(line) else f"row {bad[0]}"
            raise LogError(
                message(f"{at}: {text[bad[0]]!r} is no probability", expected="a number in [0, 1]")
            )
        given = given.to_numpy()
    return Network.from_edges(ends[0], ends[1], given, **options)


def _table(file: Path, skip: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """The file as a frame, and the line of each row for text."""
    none = np.empty(0, np.int64)
    if file.suffix == ".parquet":
        return pl.read_parquet(file), none
    if file.suffix in (".npy", ".npz"):
        loaded = np.load(file, allow_pickle=False)
        array = loaded if file.suffix == ".npy" else loaded[loaded.files[0]]
        return pl.DataFrame({str(i): array[:, i] for i in range(array.shape[1])}), none
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    lines = text.splitlines()
    at = np.array(
        [i for i, row in enumerate(lines) if i >= skip and row.strip() and not row.startswith(COMMENTS)],
        np.int64,
    )
    if not len(at):
        raise LogError(message(f"{file} holds no edge", expected="two labels a line"))
    first = lines[at[0]].strip()
    separator = next((s for s in SEPARATORS if s in first), None)
    if separator is None:
        raise LogError(
            message(f"line {at[0] + 1} of {file} is {first[:40]!r}", expected="two labels or more")
        )
    kept = [lines[i].strip() for i in at]
    if separator == " ":
        kept = [" ".join(row.split()) for row in kept]
    width = first.count(separator) + 1 if separator != " " else len(first.split())
    short = next((i for i, row in enumerate(kept) if row.count(separator) < 1), None)
    if short is not None:
        msg = message(
            f"line {at[short] + 1} of {file} is {kept[short][:40]!r}", expected="two labels or more"
        )
        raise LogError(msg)
    frame = pl.read_csv(
        io.BytesIO("\n".join(kept).encode()),
        separator=separator,
        has_header=False,
        quote_char=None,
        schema={str(i): pl.String for i in range(width)},
        truncate_ragged_lines=True,
    )
    return frame, at + 1


def _column(table: pl.DataFrame, name: str | int, file: Path) -> pl.Series:
    if isinstance(name, int) and name < table.width:
        return table.to_series(name)
    if isinstance(name, str) and name in table.columns:
        return table[name]
    msg = message(f"{file} has no column {name!r}", expected=f"one of {', '.join(table.columns)}")
    raise LogError(msg)


def _labels(column: pl.Series, line: NDArray[np.int64], skip: int) -> NDArray[Any]:
    """Whole numbers where every label is one; else text. A first row alone that is no number is taken for a header."""
    if column.dtype != pl.String:
        return column.to_numpy()
    numbers = column.str.strip_chars().cast(pl.Int64, strict=False)
    bad = numbers.is_null().arg_true()
    if not bad.len():
        return numbers.to_numpy()
    if bad.len() <= max(1, len(column) // 1000):
        msg = message(
            f"line {line[bad[0]]}: {column[bad[0]]!r} is no number, and nearly all other labels are",
            hint=f"skip={skip + 1} passes over a header" if bad[0] == 0 else "mend or drop the line",
        )
        raise LogError(msg)
    return column.to_numpy().astype(str)
