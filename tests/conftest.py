"""What tests share: the folder of real data, and small logs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

NEIGHBOUR = Path(__file__).parents[2] / "shared" / "data"
if "COUNTERLOG_DATA" not in os.environ and NEIGHBOUR.is_dir():
    os.environ["COUNTERLOG_DATA"] = str(NEIGHBOUR)
REFERENCES = NEIGHBOUR.parent / "refs"
if "COUNTERLOG_REFS" not in os.environ and REFERENCES.is_dir():
    os.environ["COUNTERLOG_REFS"] = str(REFERENCES)


@pytest.fixture
def data_folder() -> Path:
    """COUNTERLOG_DATA, or a skip that says what is missing."""
    folder = os.environ.get("COUNTERLOG_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("COUNTERLOG_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def small_log() -> pl.DataFrame:
    """400 decisions among three actions with known propensities, two rewards, a user, a time and a segment."""
    gen = np.random.default_rng(5)
    n = 400
    x = gen.normal(size=n)
    p = np.full((n, 3), 0.25) + 0.25 * (np.arange(3) == (x > 0).astype(int)[:, None])
    action = (gen.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    click = (gen.random(n) < 0.2 + 0.2 * (action == 1)).astype(int)
    return pl.DataFrame(
        {
            "x": x,
            "device": gen.choice(["phone", "desk"], n),
            "item": np.array(["a", "b", "c"])[action],
            "p": p[np.arange(n), action],
            "click": click,
            "money": click * gen.gamma(2.0, 3.0, n),
            "user": gen.integers(0, 150, n),
            "day": np.sort(gen.integers(0, 10, n)),
        }
    )
