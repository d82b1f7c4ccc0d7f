"""The two logs that ship with the package, as `Rounds`: what `counterlog report` runs on when it is given none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import DatasetError, message
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Policy
from counterlog.core.results import Estimate
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


class Thompson(Policy):
    """The Thompson-sampling logger of a campaign as a candidate on the uniform-random log of the same campaign.

    It does not look at the user, so its probability of an item at a position is estimated by the item's share there in
    its own log: an average over the week, in which it kept learning.
    """

    name = "thompson"

    def __init__(self, campaign: str = "men") -> None:
        self.own = open_bandit(campaign, "bts")

    def probs(self, log: Rounds) -> NDArray[np.float64]:
        """(n, actions) shares by position. Raises `LogError` when the log lacks positions."""
        (position,) = log.need("position")
        (shown,) = self.own.need("position")
        item = np.asarray([log.actions.index(a) for a in self.own.actions])[self.own.action]
        count = np.zeros((max(position.max(), shown.max()) + 1, len(log.actions)))
        np.add.at(count, (shown, item), 1.0)
        return np.asarray((count / np.maximum(count.sum(axis=1, keepdims=True), 1.0))[position], np.float64)

    def earned(self, *, level: float = 0.95) -> Estimate:
        """What it really earned: the mean of its own log."""
        own = evaluate(self.own, ["logged"], ["IPS"], level=level, segments=False).estimates[0]
        return replace(own, policy=self.name, estimator="its own log", notes=("measured, not estimated",))
