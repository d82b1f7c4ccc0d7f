"""D-SSA: its stopping rule by hand, and its choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError
from counterlog.core.network import Network
from counterlog.spread.d_ssa import DSSA, DSSAConfig, enough, excess
from counterlog.spread.opim_c import BEST, OPIMC, OPIMCConfig


def contract_example(frame: Any) -> Choice:
    return DSSA(DSSAConfig(seeds=3, eps=0.3, threads=1)).choose(
        Network.from_frame(frame, "user", "day", 0.3), rng=3
    )


def test_the_stopping_rule_by_hand() -> None:
    assert enough(0.1, np.log(20)) == pytest.approx((2 + 0.2 / 3) * np.log(20) / 0.01)
    e1, e2 = 110 / 100 - 1, 0.1 * np.sqrt(1000 * 1.1 / (4 * 100))
    e3 = 0.1 * np.sqrt(1000 * 1.1 * (BEST - 0.1) / ((1 + 0.1 / 3) * 4 * 100))
    assert excess(110, 100, 1000, 0.1, 3) == pytest.approx((e1 + e2 + e1 * e2) * (BEST - 0.1) + BEST * e3)


def test_it_reaches_what_opim_c_reaches() -> None:
    gen = np.random.default_rng(0)
    g = Network.from_edges(*gen.integers(0, 400, (1_500, 2)).T)
    made = DSSA(DSSAConfig(seeds=8)).choose(g)
    assert made.spread >= 0.95 * OPIMC(OPIMCConfig(seeds=8, eps=0.02)).choose(g).spread
    assert made.to_json() == DSSA(DSSAConfig(seeds=8, threads=1)).choose(g).to_json()


def test_separate_lists_are_filled() -> None:
    gen = np.random.default_rng(0)
    g = Network.from_edges(*gen.integers(0, 60, (600, 2)).T)
    made = DSSA(DSSAConfig(seeds=2, eps=0.3)).choose(g, [3, 4])
    assert [p.starter for p in made.picks] == [3, 3, 4, 4]


def test_a_tolerance_beyond_the_guarantee_is_refused() -> None:
    with pytest.raises(ConfigError, match="eps"):
        DSSAConfig(eps=0.7)
