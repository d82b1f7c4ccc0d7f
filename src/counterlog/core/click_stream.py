"""Click logs larger than memory: a Parquet file of items shown, some lists at a time, for learners that are updated.

Rows of one list must stand together; a list that is cut by the end of a block is finished from the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow.parquet as pq

from counterlog.core.clicks import Clicks
from counterlog.core.errors import LogError, message


def stream_clicks(
    path: str | os.PathLike[str],
    *,
    list: str,
    position: str,
    click: str,
    features: str | Sequence[str],
    rows: int = 500_000,
    on_single: str = "refuse",
) -> Iterator[Clicks]:
    """Logs of about `rows` items each, in the file's order. Raises `LogError` when a list stands in two places."""
    names = [features] if isinstance(features, str) else [*features]
    file = pq.ParquetFile(os.fspath(path))
    if missing := [c for c in (list, position, click, *names) if c not in file.schema_arrow.names]:
        raise LogError(message(f"the log has no column {missing[0]!r}", hint="name the columns by role"))
    held: pl.DataFrame | None = None
    roles = {"list": list, "position": position, "click": click}
    for batch in file.iter_batches(batch_size=rows, columns=[list, position, click, *names]):
        part = pl.DataFrame(batch)
        whole = part if held is None else pl.concat([held, part])
        last = whole[list] == whole[list][-1]
        ended, held = whole.filter(~last), whole.filter(last)
        _together(ended, list)
        if ended.height:
            yield Clicks.read(ended, features=features, on_single=on_single, **roles)
    if held is not None and held.height:
        yield Clicks.read(held, features=features, on_single=on_single, **roles)


def _together(part: pl.DataFrame, name: str) -> None:
    """Raise `LogError` when the rows of a list are torn apart inside a block."""
    runs = part[name].rle_id().max()
    if part.height and int(str(runs)) + 1 != part[name].n_unique():
        msg = message(
            f"rows of one list do not stand together in column {name!r}", hint="sort the file by it"
        )
        raise LogError(msg)
