"""Weights from a known curve, from shuffled lists, and from moved items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.clicks import Clicks  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, SupportError  # noqa: E402
from counterlog.core.ranking_metrics import mean, ndcg  # noqa: E402
from counterlog.datasets.click_logs import simulated_queries  # noqa: E402
from counterlog.rank.click_simulators import PositionBased  # noqa: E402
from counterlog.rank.inverse_propensity_ranking import (  # noqa: E402
    InversePropensityRanking,
    InversePropensityRankingConfig,
    all_pairs_curve,
    pair_counts,
    randomised_curve,
)
from counterlog.rank.ranking_report import RankingReport  # noqa: E402

pytestmark = pytest.mark.torch
TRUTH = PositionBased().examination(10) / 0.68


def lists_of(frame: Any) -> Clicks:
    table = nw.from_native(frame, eager_only=True)
    n = len(table) // 3 * 3
    x = table["x"].to_numpy()[:n].round(0)
    columns = {"view": np.arange(n) // 3, "place": np.arange(n) % 3 + 1, "x": x, "q": 0 * np.arange(n)}
    columns["hit"] = table["click"].to_numpy()[:n]
    return Clicks.read(columns, list="view", query="q", position="place", click="hit", features=["x"])


def contract_example(frame: Any) -> RankingReport:
    config = InversePropensityRankingConfig(steps=30, batch=32, hidden=(4,))
    return InversePropensityRanking(config).fit(lists_of(frame), rng=3).report


def test_shuffled_lists_give_the_curve() -> None:
    pop = simulated_queries(0, queries=300, test=10)
    curve = randomised_curve(pop.log(60_000, shuffled=True), 10)
    assert np.abs(curve - TRUTH).max() < 0.04


def test_all_pairs_by_hand_and_from_moved_items() -> None:
    place, worth = np.array([0.8, 0.4, 0.2]), np.array([[0, 0.5, 0.3], [0.5, 0, 0.6], [0.3, 0.6, 0]])
    clicks = 100 * place[:, None] * worth
    misses = 100 * (1 - np.eye(3)) - clicks
    assert all_pairs_curve(clicks, misses) == pytest.approx([1, 0.5, 0.25], abs=1e-3)
    pop = simulated_queries(0, queries=100, test=10)
    log = pop.log(60_000, shuffled=True)
    assert np.abs(all_pairs_curve(*pair_counts(log, 10)) - TRUTH).max() < 0.06


def test_pair_counts_by_hand() -> None:
    log = Clicks.read(
        {"v": [0, 0, 1, 1], "p": [1, 2, 1, 2], "c": [1, 0, 0, 1], "x": [1, 2, 2, 1], "q": [5, 5, 5, 5]},
        list="v",
        query="q",
        position="p",
        click="c",
        features=["x"],
    )
    clicks, misses = pair_counts(log, 2)
    assert clicks.tolist() == [[0, 1], [1, 0]]  # item 1 clicked at both places, item 2 at neither
    assert misses.tolist() == [[0, 1], [1, 0]]


def test_the_true_curve_beats_no_curve() -> None:
    pop = simulated_queries(0, queries=300, test=100)
    log = pop.log(20_000)
    found = {}
    for way in ("naive", "given"):
        ranking = InversePropensityRanking(InversePropensityRankingConfig(way=way, steps=300))
        fitted = ranking.fit(log, propensity=TRUTH if way == "given" else None)
        found[way] = mean(ndcg(fitted.score(pop.test.features), pop.test.label, pop.test.offsets))
        assert fitted.report.system.endswith(f"({way})")
    assert found["given"] > found["naive"] + 0.15


def test_no_bias_makes_the_weights_one() -> None:
    ranking = InversePropensityRanking(InversePropensityRankingConfig(way="given"))
    log = simulated_queries(0, queries=20, test=2).log(50)
    assert ranking.curve(log, PositionBased(severity=0).examination(10)).tolist() == [1.0] * 10


def test_refusals() -> None:
    pop = simulated_queries(0, queries=20, test=2)
    log = pop.log(200)
    given = InversePropensityRanking(InversePropensityRankingConfig(way="given"))
    with pytest.raises(ConfigError, match="without a curve"):
        given.fit(log)
    with pytest.raises(LogError, match="list_size=10 numbers above 0"):
        given.fit(log, propensity=[1, 0.5])
    with pytest.raises(LogError, match="smallest value 0"):
        given.fit(log, propensity=[1.0] * 9 + [0.0])
    with pytest.raises(ConfigError, match="without shuffled lists"):
        InversePropensityRanking(InversePropensityRankingConfig(way="randomised")).fit(log)
    with pytest.raises(SupportError, match="no query-item pair was shown at two positions"):
        InversePropensityRanking().fit(log)
    silent = replace(log, click=np.zeros_like(log.click))
    with pytest.raises(SupportError, match="0 clicks"):
        randomised_curve(silent, 10)
    with pytest.raises(SupportError, match="position 3 shares no"):
        all_pairs_curve(np.pad(np.ones((2, 2)), (0, 1)), np.pad(np.ones((2, 2)), (0, 1)))
