"""The two logs that ship with the package, as `Rounds`: what `counterlog report` runs on when it is given none."""

from __future__ import annotations

from typing import Any

import polars as pl

from counterlog.core.errors import DatasetError, message
from counterlog.core.rounds import Rounds
from counterlog.datasets.registry import BUNDLED

HILLSTROM_CONTEXT = (
    "recency",
    "history_segment",
    "history",
    "mens",
    "womens",
    "zip_code",
    "newbie",
    "channel",
)
CAMPAIGNS = ("all", "men", "women")
LOGGERS = ("random", "bts")


def hillstrom(**roles: Any) -> Rounds:
    """64,000 customers, each sent one of three e-mails (one of them none) uniformly at random; rewards over
    two weeks."""
    usual: dict[str, Any] = {
        "action": "segment",
        "reward": {"visit": "visits", "conversion": "conversions", "spend": "US dollars"},
        "propensity": "uniform",
        "context": HILLSTROM_CONTEXT,
        "segment": ("newbie", "channel"),
    }
    return Rounds(BUNDLED / "hillstrom.parquet", **{**usual, **roles})


def open_bandit(campaign: str = "men", logger: str = "random", **roles: Any) -> Rounds:
    """10,000 impressions of fashion items with clicks, logged by a uniform-random or a Thompson-sampling policy.

    `campaign` is all, men or women; `logger` is random or bts.
    """
    if campaign not in CAMPAIGNS or logger not in LOGGERS:
        msg = message(
            f"there is no campaign {campaign!r} with logger {logger!r}",
            expected=f"campaign one of {', '.join(CAMPAIGNS)}; logger one of {', '.join(LOGGERS)}",
        )
        raise DatasetError(msg)
    chosen = (pl.col("campaign") == campaign) & (pl.col("logger") == logger)
    frame = pl.read_parquet(BUNDLED / "open_bandit.parquet").filter(chosen)
    usual: dict[str, Any] = {
        "action": "item_id",
        "reward": {"click": "clicks"},
        "propensity": "propensity_score",
        "context": ("position", "user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3"),
        "time": "timestamp",
        "position": "position",
        "segment": ("position",),
    }
    return Rounds(frame, **{**usual, **roles})
