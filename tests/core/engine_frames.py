"""The same log held by every engine, for the tests that compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ENGINES = ("polars", "duckdb", "dask", "spark")


def decisions(n: int = 3000, seed: int = 0, users: int = 400) -> pl.DataFrame:
    """Decisions with two candidates, predictions, users by number and by name, a segment and two rewards."""
    gen = np.random.default_rng(seed)
    p, user = gen.uniform(0.1, 0.9, n), gen.integers(0, users, n)
    return pl.DataFrame(
        {
            "item": gen.choice(["a", "b", "c"], n),
            "click": (gen.random(n) < 0.3).astype(int),
            "money": gen.gamma(2.0, 3.0, n),
            "p": p,
            "new": gen.random(n),
            "old": gen.random(n),
            "q": gen.random(n),
            "v_new": gen.random(n),
            "v_old": gen.random(n),
            "x": gen.normal(size=n),
            "device": gen.choice(["phone", "desk"], n),
            "user": user,
            "name": [f"Zoë-{u:04d}" for u in user],
        }
    )


def spark() -> Any:
    """A session on this machine, small."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.memory": "1g",
    }
    return SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()


def held_by(engine: str, path: Path) -> Any:
    """A Parquet file or folder as the engine's own table."""
    if engine == "duckdb":
        import duckdb

        return duckdb.connect().read_parquet(str(path))
    if engine == "dask":
        import dask.dataframe as dd

        return dd.read_parquet(str(path))
    return spark().read.parquet(str(path)) if engine == "spark" else pl.scan_parquet(path)
