"""Simulated logs by name, written as Parquet: what `counterlog data make` draws. Their true values are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from counterlog.core.errors import DatasetError, message
from counterlog.core.files import write_whole


def make(name: str, path: Path, *, rows: int, rng: int) -> Path:
    """Draw `rows` decisions and write them. Raises `DatasetError` for an unknown name."""
    from counterlog.datasets.episode_logs import EPISODE_LOGS, make_episodes

    if name in EPISODE_LOGS:
        return make_episodes(name, path, rows=rows, rng=rng)
    if name not in SIMULATORS:
        msg = message(
            f"there is no simulator {name!r}", expected=f"one of {', '.join((*SIMULATORS, *EPISODE_LOGS))}"
        )
        raise DatasetError(msg)
    import io

    buffer = io.BytesIO()
    SIMULATORS[name](rows, rng).write_parquet(buffer)
    return write_whole(path, buffer.getvalue())


def coupons(rows: int, rng: int) -> pl.DataFrame:
    """Three coupons sent to customers with a softmax policy of age and visits; `truth_ACTION` is the chance to buy.

    Columns: customer, day, age, visits, channel, coupon (the action), propensity, bought, spend, and the chance of
    buying under each coupon. Rows of one customer share a taste, so intervals must be clustered by customer.
    """
    gen = np.random.default_rng(rng)
    names = np.array(["none", "five", "ten"])
    customer = gen.integers(0, max(rows // 4, 1), rows)
    taste = gen.normal(size=customer.max() + 1)[customer]
    age, visits = gen.integers(18, 80, rows), gen.poisson(3.0, rows)
    score = np.column_stack([np.zeros(rows), 0.02 * (50 - age), 0.15 * (visits - 3)])
    p = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    action = (gen.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    lift = np.column_stack([np.zeros(rows), 0.4 + 0.01 * (40 - age), 0.8 - 0.1 * visits])
    truth = 1 / (1 + np.exp(-(-2.0 + 0.1 * visits + 0.5 * taste)[:, None] - lift))
    bought = gen.random(rows) < truth[np.arange(rows), action]
    return pl.DataFrame(
        {
            "customer": customer,
            "day": np.sort(gen.integers(0, 28, rows)),
            "age": age,
            "visits": visits,
            "channel": gen.choice(["web", "phone"], rows),
            "coupon": names[action],
            "propensity": p[np.arange(rows), action],
            "bought": bought.astype(np.int8),
            "spend": np.where(bought, gen.gamma(2.0, 20.0, rows), 0.0).round(2),
            **{f"truth_{name}": truth[:, k] for k, name in enumerate(names)},
        }
    )


def _ad_load(rows: int, rng: int) -> pl.DataFrame:
    from counterlog.datasets.ad_load import make_fetches

    return make_fetches(rows, rng=rng)


SIMULATORS: dict[str, Callable[[int, int], pl.DataFrame]] = {"coupons": coupons, "ad-load": _ad_load}
