"""Parts of a Parquet click log add up to the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.core.click_stream import stream_clicks
from counterlog.core.clicks import Clicks
from counterlog.core.errors import LogError

ROLES = {"list": "v", "position": "p", "click": "c", "features": ["x"]}


@pytest.mark.parametrize("rows", [4, 7, 100])
def test_parts_are_the_whole_in_order(tmp_path: Path, rows: int) -> None:
    gen = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "v": np.repeat(np.arange(10), 3),
            "p": [1, 2, 3] * 10,
            "c": gen.integers(0, 2, 30),
            "x": gen.normal(size=30),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    parts = list(stream_clicks(tmp_path / "a.parquet", rows=rows, **ROLES))
    whole = Clicks.read(frame, **ROLES)
    assert sum(p.lists for p in parts) == 10
    assert np.concatenate([p.click for p in parts]).tolist() == whole.click.tolist()
    values = np.concatenate([p.features[p.doc] for p in parts])
    assert np.array_equal(values, whole.features[whole.doc])


def test_torn_lists_and_missing_columns_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"v": [1, 2, 1, 2, 3, 3], "p": [1, 1, 2, 2, 1, 2], "c": [0] * 6, "x": [0.0] * 6})
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(LogError, match="do not stand together in column 'v'"):
        list(stream_clicks(tmp_path / "a.parquet", **ROLES))
    with pytest.raises(LogError, match="no column 'y'"):
        list(stream_clicks(tmp_path / "a.parquet", **{**ROLES, "features": ["y"]}))
