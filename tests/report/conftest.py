"""Small simulated logs with known truth."""

import numpy as np
import polars as pl
import pytest

from counterlog.core.rounds import Rounds

TRUTH = {"a": 0.2, "b": 0.3, "c": 0.5}


def _simulated(n=2000, *, names=("a", "b", "c"), rng=0, gap=1.0, **roles):
    """Three actions with propensities .5, .3, .2; the reward's mean is that of TRUTH around .3 times `gap`."""
    gen = np.random.default_rng(rng)
    p = np.array([0.5, 0.3, 0.2])
    action = gen.choice(3, size=n, p=p)
    age = gen.integers(18, 80, size=n)
    region = gen.choice(["north", "south"], size=n)
    mean = 0.3 + gap * (np.array(list(TRUTH.values()))[action] - 0.3) + 0.1 * (region == "north")
    frame = pl.DataFrame(
        {
            "action": np.array(names, dtype=object)[action].tolist(),
            "reward": (gen.random(n) < mean).astype(float),
            "amount": gen.gamma(2.0, 3.0, size=n) * (gen.random(n) < mean),
            "p": p[action],
            "age": age,
            "region": region.tolist(),
            "user": gen.integers(0, n // 3, size=n),
        }
    )
    usual = {
        "action": "action",
        "reward": {"reward": "sales"},
        "propensity": "p",
        "context": ("age", "region"),
        "segment": ("region",),
    }
    return Rounds(frame, **{**usual, **roles})


@pytest.fixture(scope="session")
def simulated():
    """Makes a log: `simulated(n, names=..., gap=..., **roles)`."""
    return _simulated


@pytest.fixture(scope="session")
def report(simulated):
    """The report of 2,000 rows with two rewards."""
    from counterlog.report.decision_report import build

    log = simulated(reward={"reward": "sales", "amount": "euros"}, unit="user")
    return build(log, command="counterlog report log.parquet")
