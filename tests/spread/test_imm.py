"""IMM: its two sample sizes by hand, and its choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError
from counterlog.core.network import Network
from counterlog.spread.imm import IMM, IMMConfig, final_size, search_size
from counterlog.spread.opim_c import BEST, OPIMC, OPIMCConfig


def contract_example(frame: Any) -> Choice:
    return IMM(IMMConfig(seeds=3, eps=0.3, threads=1)).choose(
        Network.from_frame(frame, "user", "day", 0.3), rng=3
    )


def test_sample_sizes_by_hand() -> None:
    n, c, ell, eps = 64, np.log(2016), 1.2, 0.2
    e = np.sqrt(2) * eps
    want = (2 + 2 * e / 3) * (c + ell * np.log(64) + np.log(6)) * n / (e * e * 16)
    assert search_size(n, c, ell, eps, 16) == pytest.approx(want)
    alpha = np.sqrt(ell * np.log(n) + np.log(2))
    beta = np.sqrt(BEST * (c + ell * np.log(n) + np.log(2)))
    assert final_size(n, c, ell, eps, 10) == pytest.approx(2 * n * (BEST * alpha + beta) ** 2 / (eps**2 * 10))


def test_it_reaches_what_opim_c_reaches() -> None:
    gen = np.random.default_rng(0)
    g = Network.from_edges(*gen.integers(0, 400, (1_500, 2)).T)
    imm = IMM(IMMConfig(seeds=8)).choose(g)
    opim = OPIMC(OPIMCConfig(seeds=8, eps=0.02)).choose(g)
    assert imm.spread >= 0.95 * opim.spread
    assert imm.to_json() == IMM(IMMConfig(seeds=8, threads=1)).choose(g).to_json()


def test_separate_lists_are_filled() -> None:
    gen = np.random.default_rng(0)
    g = Network.from_edges(*gen.integers(0, 60, (600, 2)).T)
    made = IMM(IMMConfig(seeds=2, eps=0.3)).choose(g, [3, 4])
    assert [p.starter for p in made.picks] == [3, 3, 4, 4]


def test_a_tolerance_beyond_the_guarantee_is_refused() -> None:
    with pytest.raises(ConfigError, match="eps"):
        IMMConfig(eps=0.7)
