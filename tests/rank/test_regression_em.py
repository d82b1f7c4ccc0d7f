"""EM for position bias: its equations, its likelihood, truth by simulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.clicks import Clicks  # noqa: E402
from counterlog.core.errors import ConvergenceError, LogError, SupportError  # noqa: E402
from counterlog.core.ranking_metrics import mean, ndcg  # noqa: E402
from counterlog.datasets.click_logs import simulated_queries  # noqa: E402
from counterlog.rank.click_simulators import PositionBased, attraction  # noqa: E402
from counterlog.rank.ranking_report import RankingReport  # noqa: E402
from counterlog.rank.regression_em import (  # noqa: E402
    RegressionEM,
    RegressionEMConfig,
    click_log_likelihood,
    hidden_causes,
    moved_theta,
)

pytestmark = pytest.mark.torch


def lists_of(frame: Any) -> Clicks:
    table = nw.from_native(frame, eager_only=True)
    n = len(table) // 3 * 3
    columns = {"view": np.arange(n) // 3, "place": np.arange(n) % 3 + 1, "x": table["x"].to_numpy()[:n]}
    columns["hit"] = table["click"].to_numpy()[:n]
    return Clicks.read(columns, list="view", position="place", click="hit", features=["x"])


def contract_example(frame: Any) -> RankingReport:
    return RegressionEM(RegressionEMConfig(steps=30, batch=32)).fit(lists_of(frame), rng=3).report


def test_short_lists_need_no_setting(small_log: Any) -> None:
    report = contract_example(small_log)
    assert report.list_size == 3
    assert [p.position for p in report.propensity] == [1, 2, 3]


def test_hidden_causes_by_hand() -> None:
    examined, relevant = hidden_causes(
        torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.4]), torch.tensor([0.0, 1.0])
    )
    assert examined.tolist() == pytest.approx([0.5 * 0.6 / 0.8, 1])
    assert relevant.tolist() == pytest.approx([0.5 * 0.4 / 0.8, 1])
    shown = torch.tensor([[True, False], [True, False]])
    moved = moved_theta(torch.tensor([0.9, 0.9]), torch.tensor([[0.5, 0.1], [0.3, 0.1]]), shown, 0.5)
    assert moved.tolist() == pytest.approx([0.65, 0.9])


def test_with_the_true_relevance_every_round_raises_the_likelihood_and_the_curve_is_found() -> None:
    grade = np.random.default_rng(0).integers(0, 5, size=(200_000, 10))
    click = torch.from_numpy(PositionBased().clicks(grade, np.random.default_rng(1))).double()
    gamma = torch.from_numpy(attraction(grade, 4)).double().clamp(1e-9, 1 - 1e-9)
    theta, shown = torch.full((10,), 0.9, dtype=torch.float64), torch.ones_like(click, dtype=torch.bool)
    before = click_log_likelihood(theta, gamma, click)
    for _ in range(40):
        theta = moved_theta(theta, hidden_causes(theta, gamma, click)[0], shown, 1.0)
        now = click_log_likelihood(theta, gamma, click)
        assert now >= before - 1e-12
        before = now
    assert np.abs(theta.numpy() - PositionBased().examination(10)).max() < 0.01


def test_it_orders_better_than_chance_and_says_theta_of_the_top() -> None:
    pop = simulated_queries(0, queries=300, test=100)
    fitted = RegressionEM(RegressionEMConfig(steps=200)).fit(pop.log(10_000), rng=1)
    gen = np.random.default_rng(0)
    chance = mean(ndcg(gen.random(len(pop.test.label)), pop.test.label, pop.test.offsets))
    assert mean(ndcg(fitted.score(pop.test.features), pop.test.label, pop.test.offsets)) > chance + 0.1
    assert "position 1 by EM" in fitted.report.notes[0]


def test_refusals() -> None:
    log = simulated_queries(0, queries=20, test=2).log(200)
    with pytest.raises(SupportError, match="0 clicks"):
        RegressionEM().fit(replace(log, click=np.zeros_like(log.click)))
    with pytest.raises(LogError, match="list_size=4"):
        RegressionEM(RegressionEMConfig(list_size=4)).fit(log)
    wild = RegressionEMConfig(steps=20, lr=1e38, clip=0.0, log_every=1)
    with pytest.raises(ConvergenceError, match="the loss is"), np.errstate(all="ignore"):
        RegressionEM(wild).fit(log)
