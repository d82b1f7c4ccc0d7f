"""What narwhals cannot say, one function an engine: opening files, hashing text, numbering rows, reading batches.

Everything else that a scan does is narwhals expressions, equal on Polars, DuckDB, Dask and Spark. A unit falls into the
same bucket on every engine: whole numbers by arithmetic, text by the first 60 bits of the MD5 of its UTF-8 bytes, which
DuckDB and Spark have as a function and Python computes once a distinct value for Polars and Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from counterlog.core.errors import ConfigError, LogError, MissingExtraError, message, need_extra

Frame = nw.LazyFrame[Any]
ENGINES = ("polars", "duckdb", "dask", "spark", "spark://HOST:PORT")
OWN = "__counterlog_"  # how the columns that a scan makes begin; a log's own may not
BATCH = 100_000
_HEX = 15  # hexadecimal digits of an MD5 that a signed 64-bit number holds


def engine_of(frame: Frame) -> str:
    """Name of the engine that holds a lazy frame: polars, duckdb, dask, spark, or another that narwhals knows."""
    name = str(frame.implementation.value).lower()
    return "spark" if name.startswith("pyspark") else name


def scans(frame: Frame) -> bool:
    """Whether a scan can be put to the engine that holds the frame."""
    return engine_of(frame) in _HASH


# opening Parquet files


def open_parquet(files: Sequence[str], engine: str, *, folder: str = "") -> Any:
    """The files as the engine's own lazy table; columns in the names of folders (`day=3/`) are read too.

    Raises `ConfigError` for an unknown engine, `MissingExtraError` for one that is not installed.
    """
    name = check_engine(engine)
    opened: dict[str, Callable[[], Any]] = {
        "polars": lambda: pl.scan_parquet(list(files), glob=False, hive_partitioning=bool(folder)),
        "duckdb": lambda: _open_duckdb(files, folder),
        "dask": lambda: _open_dask(files),
        "spark": lambda: _open_spark(files, engine, folder),
    }
    return opened[name]()


def check_engine(engine: str) -> str:
    """Kind of the engine: polars, duckdb, dask or spark. Raises `ConfigError`."""
    name = "spark" if engine.startswith("spark://") or engine.startswith("local[") else engine
    if name not in _HASH:
        msg = message(f"{engine!r} is not an engine", expected=f"one of {', '.join(ENGINES)}")
        raise ConfigError(msg)
    return name


def _open_duckdb(files: Sequence[str], folder: str) -> Any:
    import duckdb

    off: Any = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}  # no downloads
    return duckdb.connect(config=off).read_parquet(list(files), hive_partitioning=bool(folder))


def _open_dask(files: Sequence[str]) -> Any:
    frame = need_extra("dask.dataframe", "dask").read_parquet(list(files))
    whole = {c: "int64" for c in frame.columns if str(frame[c].dtype) == "category" and _numbered(files, c)}
    return frame.astype(whole) if whole else frame


def _numbered(files: Sequence[str], column: str) -> bool:
    """Whether the values of a column that stands in the names of folders are whole numbers."""
    values = [p.partition("=")[2] for f in files for p in Path(f).parts if p.startswith(f"{column}=")]
    return bool(values) and all(v.lstrip("-").isdigit() for v in values)


def _open_spark(files: Sequence[str], engine: str, folder: str) -> Any:
    session = spark_session(engine)
    reader = session.read.option("basePath", str(Path(folder).absolute())) if folder else session.read
    return reader.parquet(*(str(Path(f).absolute()) for f in files))


def spark_session(engine: str = "spark") -> Any:
    """The session in use, or a new one: on this machine for `spark`, on a cluster for `spark://HOST:PORT`.

    Raises `MissingExtraError` without pyspark, or when Java does not start.
    """
    session = need_extra("pyspark.sql", "spark").SparkSession
    master = "local[*]" if engine == "spark" else engine
    settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    builder = session.builder.appName("counterlog").config(map=settings)
    try:
        made = session.getActiveSession() or builder.master(master).getOrCreate()
    except Exception as cause:
        msg = message(
            f"Spark does not start ({str(cause).splitlines()[0][:120]})",
            hint="it needs Java 17: apt-get install openjdk-17-jre-headless (Debian), or set JAVA_HOME",
        )
        raise MissingExtraError(msg) from cause
    return made


# hashing text


def text_code(text: str) -> int:
    """The first 60 bits of the MD5 of a text, as every engine computes it: at least 0, below 2^60."""
    return int(md5(text.encode(), usedforsecurity=False).hexdigest()[:_HEX], 16)


def text_codes(column: pl.Series) -> pl.Series:
    """`text_code` of every entry; each distinct text is hashed once."""
    text = column.cast(pl.String)
    distinct = text.unique().drop_nulls()
    codes = pl.Series([text_code(t) for t in distinct.to_list()], dtype=pl.Int64)
    return text.replace_strict(distinct, codes, return_dtype=pl.Int64).alias(column.name)


def with_text_code(frame: Frame, column: str, name: str) -> Frame:
    """The frame with `text_code` of a text column as the column `name`. Raises `LogError` on an engine without one."""
    made: Frame = nw.from_native(_function(_HASH, frame, "hash text")(frame.to_native(), column, name))
    return made


def _hash_polars(native: Any, column: str, name: str) -> Any:
    code = pl.col(column).map_batches(text_codes, return_dtype=pl.Int64, is_elementwise=True)
    return native.with_columns(code.alias(name))


def _hash_duckdb(native: Any, column: str, name: str) -> Any:
    return native.project(
        f"*, ('0x' || md5({_quoted(column)}::VARCHAR)[1:{_HEX}])::BIGINT AS {_quoted(name)}"
    )


def _hash_dask(native: Any, column: str, name: str) -> Any:
    return native.assign(**{name: native[column].map_partitions(_hash_pandas, meta=(name, "int64"))})


def _hash_pandas(column: Any) -> Any:
    codes = {text: text_code(text) for text in column.unique()}
    return column.astype(object).map(codes).astype("int64")


def _hash_spark(native: Any, column: str, name: str) -> Any:
    from pyspark.sql import functions as f

    digits = f.substring(f.md5(f.col(f"`{column}`").cast("string")), 1, _HEX)
    return native.withColumn(name, f.conv(digits, 16, 10).cast("long"))


# numbering rows


def with_row_number(frame: Frame, name: str) -> Frame:
    """The frame with the number of each row, from 0 in the order of reading, as the column `name`.

    Spark numbers the rows of each partition apart: unique, and equal to the other engines' for one partition only.
    """
    made: Frame = nw.from_native(_function(_NUMBER, frame, "number rows")(frame.to_native(), name))
    return made


def _number_polars(native: Any, name: str) -> Any:
    return native.with_row_index(name).with_columns(pl.col(name).cast(pl.Int64))


def _number_duckdb(native: Any, name: str) -> Any:
    return native.project(f"*, row_number() OVER () - 1 AS {_quoted(name)}")


def _number_dask(native: Any, name: str) -> Any:
    ones = native[native.columns[0]].map_partitions(_ones_pandas, meta=(name, "int64"))
    return native.assign(**{name: ones.cumsum() - 1})


def _ones_pandas(column: Any) -> Any:
    return column.isna().astype("int64") * 0 + 1


def _number_spark(native: Any, name: str) -> Any:
    from pyspark.sql import functions as f

    return native.withColumn(name, f.monotonically_increasing_id())


# reading batches


def batches(frame: Frame, columns: Sequence[str], rows: int = BATCH) -> Iterator[pl.DataFrame]:
    """The columns in pieces of about `rows` rows, in the order of reading; no more than a few pieces are in memory."""
    chosen = frame.select(list(columns))
    yield from _function(_BATCHES, chosen, "be read in batches")(chosen.to_native(), rows)


def _batches_polars(native: Any, rows: int) -> Iterator[pl.DataFrame]:
    return iter(native.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming"))


def _batches_duckdb(native: Any, rows: int) -> Iterator[pl.DataFrame]:
    return (pl.DataFrame(batch) for batch in native.to_arrow_reader(rows))


def _batches_dask(native: Any, rows: int) -> Iterator[pl.DataFrame]:
    for part in native.partitions:
        yield from pl.from_pandas(part.compute()).iter_slices(rows)


def _batches_spark(native: Any, rows: int) -> Iterator[pl.DataFrame]:
    names, held = native.columns, []
    schema = pl.DataFrame(native.limit(0).toArrow()).schema
    for row in native.toLocalIterator(prefetchPartitions=False):
        held.append(tuple(row))
        if len(held) == rows:
            yield pl.DataFrame(held, schema=schema, orient="row")
            held = []
    if held:
        yield pl.DataFrame(held, schema={n: schema[n] for n in names}, orient="row")


def _function(table: dict[str, Any], frame: Frame, what: str) -> Any:
    """The engine's own function. Raises `LogError` for an engine that has none."""
    if (name := engine_of(frame)) not in table:
        msg = message(
            f"a log held by {name} cannot {what}",
            expected="a frame of Polars, DuckDB, Dask or Spark",
            hint="write it as Parquet and open the files",
        )
        raise LogError(msg)
    return table[name]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_HASH = {"polars": _hash_polars, "duckdb": _hash_duckdb, "dask": _hash_dask, "spark": _hash_spark}
_NUMBER = {"polars": _number_polars, "duckdb": _number_duckdb, "dask": _number_dask, "spark": _number_spark}
_BATCHES = {
    "polars": _batches_polars,
    "duckdb": _batches_duckdb,
    "dask": _batches_dask,
    "spark": _batches_spark,
}
