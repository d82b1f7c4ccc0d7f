"""Open a log wherever it lies, as one lazy narwhals frame: dataframe, Parquet, CSV, JSONL, glob, DuckDB
table.

In-memory frames of any library become Polars columns first, so that pandas, Polars and Arrow give one answer.
Lazy frames (Polars, DuckDB, Spark, Dask) stay lazy.
"""

from __future__ import annotations

import os
from numbers import Number
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from counterlog.core.engines import check_engine, open_parquet
from counterlog.core.errors import ConfigError, LogError, message

_ENGINES = ("polars", "narwhals", "duckdb", "_duckdb", "pyspark", "py4j")
READERS = ".parquet, .csv, .csv.gz, .tsv, .jsonl, .ndjson, or database.duckdb::table"


def open_frame(source: Any, engine: str | None = None) -> nw.LazyFrame[Any]:
    """`source` as a lazy frame; `engine` reads the Parquet files of a path (Polars unless named).

    Raises `LogError` when nothing is there or the file is of an unknown kind, `ConfigError` for an engine that cannot
    read it.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _open_path(os.fspath(source), engine)
    elif engine is not None and check_engine(engine) != "polars":
        msg = message(
            f"engine={engine!r} reads files, and the log is a {type(source).__name__}",
            hint="give a path, or the engine's own frame without engine=",
        )
        raise ConfigError(msg)
    elif isinstance(source, dict):
        source = _from_columns(source)
    try:
        frame = nw.from_native(source)
    except TypeError as cause:
        msg = message(
            f"a {type(source).__name__} cannot be read as a log",
            expected="a dataframe (Polars, pandas, Arrow, DuckDB, ...), a dict of columns, or a path",
        )
        raise LogError(msg) from cause
    if isinstance(frame, nw.LazyFrame):
        return frame
    return nw.from_native(_to_polars(frame).lazy())


def _from_columns(columns: dict[str, Any]) -> pl.DataFrame:
    for name, values in columns.items():
        if isinstance(values, list):
            refuse_mixed(name, values)
    try:
        return pl.DataFrame(columns, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as cause:
        for name, values in columns.items():
            _refuse_unreadable(name, values)
        msg = message(
            f"the columns cannot be one table ({cause})", expected="columns of equal length, one type each"
        )
        raise LogError(msg) from cause


def _refuse_unreadable(name: str, values: Any) -> None:
    """Raise `LogError` when the values alone are no column: integers of more than 128 bits, broken text."""
    try:
        pl.Series(name, values, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as cause:
        msg = message(
            f"column {name!r} cannot be read ({cause})", hint="make the column all text or all numbers"
        )
        raise LogError(msg) from cause


def _to_polars(frame: nw.DataFrame[Any]) -> pl.DataFrame:
    """An eager frame of any library as Polars. A column that mixes types is refused by name."""
    if len(set(frame.columns)) < len(frame.columns):
        repeated = sorted({c for c in frame.columns if frame.columns.count(c) > 1})
        msg = message(f"column {repeated[0]!r} stands twice in the frame", hint="rename one of them")
        raise LogError(msg)
    try:
        return frame.to_polars()
    except Exception:
        for name in frame.columns:
            values = frame[name].to_list()
            refuse_mixed(name, values)
            _refuse_unreadable(name, values)
        return _from_columns({name: frame[name].to_list() for name in frame.columns})


def refuse_mixed(name: str, values: list[Any]) -> None:
    """Raise `LogError` when the values of one column are of different kinds, with a row of each."""
    kinds: dict[str, int] = {}
    for row, value in enumerate(values):
        if value is not None and value == value:
            kinds.setdefault("number" if isinstance(value, Number) else type(value).__name__, row)
    if len(kinds) > 1:
        found = ", ".join(f"{kind} in row {row}" for kind, row in kinds.items())
        msg = message(
            f"column {name!r} mixes types ({found})", hint="make the column one type, all text or all numbers"
        )
        raise LogError(msg)


def _matches(path: str) -> list[str]:
    """The files that a path or glob names, sorted."""
    if Path(path).exists():
        return [path]
    anchor = Path(path).anchor
    pattern = path[len(anchor) :]
    return sorted(str(p) for p in Path(anchor or ".").glob(pattern)) if any(c in path for c in "*?[") else []


def _open_path(path: str, engine: str | None) -> Any:
    kind = check_engine(engine or "polars")
    if "::" in path:
        if engine is not None and kind != "duckdb":
            msg = message(f"{kind} cannot read a DuckDB table", hint="leave --engine out, or export Parquet")
            raise ConfigError(msg)
        return _open_database(path)
    files = _matches(path)
    if Path(path).is_dir():
        files = sorted(str(p) for p in Path(path).rglob("*.parquet") if _is_data(p, Path(path)))
    if not files:
        msg = message(
            f"there is no file {path!r}", expected=READERS, hint="check the path; quote globs in the shell"
        )
        raise LogError(msg)
    name = files[0].lower()
    try:
        if name.endswith((".parquet", ".pq")):
            folder = path if Path(path).is_dir() else ""
            opened = open_parquet(files, engine or "polars", folder=folder)
            if not isinstance(opened, pl.LazyFrame):
                return opened
            lazy = opened
        elif kind != "polars":
            msg = message(
                f"{kind} reads Parquet files, and {files[0]!r} is none",
                hint="write the log as Parquet, or leave the engine out",
            )
            raise ConfigError(msg)
        elif name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            separator = "\t" if ".tsv" in name else ","
            lazy = pl.scan_csv(
                files,
                separator=separator,
                infer_schema_length=None,
                try_parse_dates=True,
                glob=False,
                with_column_names=_unquoted,
            )
        elif name.endswith((".jsonl", ".ndjson")):
            lazy = pl.scan_ndjson(files, infer_schema_length=None)
        else:
            msg = message(f"{files[0]!r} is of an unknown kind", expected=READERS)
            raise LogError(msg)
        lazy.collect_schema()
        return lazy
    except (pl.exceptions.PolarsError, OSError) as cause:
        msg = message(f"{files[0]!r} cannot be read ({_first_line(cause)})", expected=READERS)
        raise LogError(msg) from cause


def _is_data(path: Path, folder: Path) -> bool:
    """Whether a file below a partitioned folder holds rows: names that begin with _ or . are the writer's own."""
    return not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)


def _unquoted(names: list[str]) -> list[str]:
    """Column names of a CSV file with doubled quotes made single, as they are in the rows."""
    return [name.replace('""', '"') for name in names]


def _open_database(path: str) -> Any:
    import duckdb

    file, _, table = path.partition("::")
    if not Path(file).exists():
        msg = message(f"there is no database file {file!r}", expected="database.duckdb::table")
        raise LogError(msg)
    off: Any = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}  # no downloads
    try:
        connection = duckdb.connect(file, read_only=True, config=off)
        found = connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
    except duckdb.Error as cause:
        msg = message(
            f"{file!r} cannot be read as a database ({_first_line(cause)})", expected="database.duckdb::table"
        )
        raise LogError(msg) from cause
    names = [row[0] for row in found]
    if table not in names:
        listed = ", ".join(sorted(names)) or "none"
        msg = message(
            f"{file!r} has no table {table!r}; its tables: {listed}", hint="write database.duckdb::table"
        )
        raise LogError(msg)
    quoted = '"' + table.replace('"', '""') + '"'
    try:
        return connection.sql(f"SELECT * FROM {quoted}")
    except duckdb.Error as cause:
        msg = message(f"table {table!r} of {file!r} cannot be read ({_first_line(cause)})")
        raise LogError(msg) from cause


def collect(frame: nw.LazyFrame[Any]) -> pl.DataFrame:
    """The rows as Polars columns. A row that does not fit its column's type is a `LogError`, not a
    traceback."""
    try:
        native = frame.to_native()
        if isinstance(native, pl.LazyFrame):
            return native.collect(engine="streaming")
        rows: pl.DataFrame = frame.collect(backend="polars").to_native()
        return rows
    except Exception as cause:
        if not isinstance(cause, OSError) and type(cause).__module__.split(".")[0] not in _ENGINES:
            raise
        msg = message(
            f"the log cannot be read to its end ({_first_line(cause)})",
            hint="a column mixes types, or a row has too many fields; make each column one type",
        )
        raise LogError(msg) from cause


def _first_line(cause: BaseException) -> str:
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
