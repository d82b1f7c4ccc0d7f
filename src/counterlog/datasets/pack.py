"""Pack the published files of the bundled logs as Parquet: `python -m counterlog.datasets.pack`.

Values are unchanged. Of the Open Bandit sample the user-item affinity columns (one an item, different in number between
campaigns) are left out; everything else is kept, with the logger and the campaign as two columns more.
"""

from __future__ import annotations

import io

import polars as pl

from counterlog.datasets.examples import CAMPAIGNS, LOGGERS
from counterlog.datasets.registry import BUNDLED, get, unpacked


def pack_hillstrom() -> pl.DataFrame:
    """The Hillstrom log with small integer types."""
    frame = pl.read_csv(io.BytesIO(unpacked(get("hillstrom"))), infer_schema_length=None)
    small = ("recency", "mens", "womens", "newbie", "visit", "conversion")
    return frame.with_columns(pl.col(small).cast(pl.Int8))


def pack_open_bandit() -> pl.DataFrame:
    """The six samples in one table."""
    parts = []
    for logger in LOGGERS:
        for campaign in CAMPAIGNS:
            path = get("open-bandit", f"{logger}/{campaign}/{campaign}.csv.gz")
            frame = pl.read_csv(io.BytesIO(unpacked(path)), try_parse_dates=True, infer_schema_length=None)
            kept = frame.select(
                "timestamp", "item_id", "position", "click", "propensity_score", "^user_feature_.*$"
            )
            parts.append(kept.with_columns(logger=pl.lit(logger), campaign=pl.lit(campaign)))
    small = pl.col("item_id", "position", "click").cast(pl.Int8)
    return pl.concat(parts).with_columns(small)


if __name__ == "__main__":
    pack_hillstrom().write_parquet(BUNDLED / "hillstrom.parquet", compression="zstd", compression_level=19)
    pack_open_bandit().write_parquet(
        BUNDLED / "open_bandit.parquet", compression="zstd", compression_level=19
    )
