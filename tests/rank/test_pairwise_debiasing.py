"""Pairwise debiasing: pair losses and biases by hand, better order than plain clicks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.clicks import Clicks  # noqa: E402
from counterlog.core.errors import LogError, SupportError  # noqa: E402
from counterlog.core.ranking_metrics import mean, ndcg  # noqa: E402
from counterlog.datasets.click_logs import simulated_queries  # noqa: E402
from counterlog.rank.pairwise_debiasing import (  # noqa: E402
    PairwiseDebiasing,
    PairwiseDebiasingConfig,
    biases,
    pair_losses,
)
from counterlog.rank.ranking_report import RankingReport  # noqa: E402

pytestmark = pytest.mark.torch


def lists_of(frame: Any) -> Clicks:
    table = nw.from_native(frame, eager_only=True)
    n = len(table) // 3 * 3
    columns = {"view": np.arange(n) // 3, "place": np.arange(n) % 3 + 1, "x": table["x"].to_numpy()[:n]}
    columns["hit"] = table["click"].to_numpy()[:n]
    return Clicks.read(columns, list="view", position="place", click="hit", features=["x"])


def contract_example(frame: Any) -> RankingReport:
    config = PairwiseDebiasingConfig(steps=30, batch=32)
    return PairwiseDebiasing(config).fit(lists_of(frame), rng=3).report


def test_pair_losses_by_hand() -> None:
    s, c = torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    shown = torch.tensor([[True, True, False]])
    found = pair_losses(s, c, shown)
    assert float(found[0, 0, 1]) == pytest.approx(np.log1p(np.exp(-1)))
    assert int((found != 0).sum()) == 1


def test_biases_by_hand() -> None:
    losses = torch.zeros(1, 2, 2)
    losses[0, 0, 1], losses[0, 1, 0] = 2.0, 1.0
    plus, minus = biases(losses, torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5]), 0.0)
    assert plus.tolist() == pytest.approx([1, (1 / 1) / (2 / 0.5)])
    assert minus.tolist() == pytest.approx([1, (2 / 1) / (1 / 0.5)])
    damped, _ = biases(losses, torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5]), 1.0)
    assert damped.tolist() == pytest.approx([1, 0.5])


def test_it_orders_better_than_the_old_ranker() -> None:
    pop = simulated_queries(0, queries=300, test=100)
    fitted = PairwiseDebiasing(PairwiseDebiasingConfig(steps=200)).fit(pop.log(10_000), rng=1)
    old = mean(ndcg(pop.logging, pop.train.label, pop.train.offsets))
    assert mean(ndcg(fitted.score(pop.test.features), pop.test.label, pop.test.offsets)) > old + 0.1
    assert fitted.report.propensity[0].learnt == 1
    assert "t-, of items not clicked: 1.000" in fitted.report.notes[1]


def test_refusals() -> None:
    log = simulated_queries(0, queries=20, test=2).log(200)
    with pytest.raises(SupportError, match="0 clicks"):
        PairwiseDebiasing().fit(replace(log, click=np.zeros_like(log.click)))
    with pytest.raises(LogError, match="list_size=4"):
        PairwiseDebiasing(PairwiseDebiasingConfig(list_size=4)).fit(log)
