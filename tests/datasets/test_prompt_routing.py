from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, DatasetError, LogError
from counterlog.datasets import prompt_routing
from counterlog.datasets.prompt_routing import (
    CounterfactualTable,
    RoutingEnvironment,
    models,
    prompts,
    question_features,
)
from counterlog.online.regression_oracle_bandits import RegressionOracleBandit, RegressionOracleBanditConfig


def small(n: int = 40) -> CounterfactualTable:
    reward = np.tile([[1.0, 0.0], [0.0, 1.0]], (n // 2, 1))
    return CounterfactualTable("small", pl.DataFrame({"even": [1.0, 0.0] * (n // 2)}), ("a", "b"), reward)


def test_features_by_hand() -> None:
    frame = question_features(["Ann has 3 pens. Each costs $1.50, twice 1,200. How much?"], hashed=0)
    assert frame.row(0, named=True) == {
        "characters": 56.0,
        "words": 11.0,
        "numbers": 3.0,
        "sentences": 3.0,
        "relations": 2.0,
        "largest_number": pytest.approx(np.log1p(1200)),
        "fractions": 1.0,
    }
    assert question_features(["a b", "c"], hashed=4).width == 11


def test_values_are_exact() -> None:
    table = small()
    assert table.best_fixed() == ("a", 0.5) and table.oracle() == 1.0
    assert table.value(np.full(table.reward.shape, 0.5)) == 0.5
    assert table.value(table.reward) == 1.0
    with pytest.raises(LogError, match="probabilities of shape"):
        table.value(np.ones((1, 2)))


def test_a_drawn_log_has_the_tables_rewards_and_its_propensities() -> None:
    table = small()
    probs = np.tile([0.8, 0.2], (table.n, 1))
    log = table.draw_log(probs, rows=5000, rng=1)
    assert log.n == 5000 and set(log.propensity) == {0.8, 0.2}
    a = log.action == 0
    assert (log.propensity[a] == 0.8).all() and a.mean() == pytest.approx(0.8, abs=0.02)
    assert (log.reward == (log.table["even"].to_numpy() == a)).all()
    assert (
        table.draw_log(probs, rows=50, rng=2).action == table.draw_log(probs, rows=50, rng=2).action
    ).all()


def test_the_environment_serves_every_question_once_and_then_refuses() -> None:
    table = small()
    world = RoutingEnvironment(table, table, batch=20)
    config = RegressionOracleBanditConfig(regressor="ridge", gamma_rule="fixed", gamma=1e4, shift_auc=False)
    report = RegressionOracleBandit(config).improve(world, generations=2, rng=1).report
    assert report is not None and report.generations[-1].best == 1.0
    with pytest.raises(ConfigError, match="generation 2 needs 20 questions and 0 are left"):
        RegressionOracleBandit(config).improve(world, generations=3, rng=1)


def test_a_missing_table_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("COUNTERLOG_DATA", str(tmp_path))
    monkeypatch.setenv("COUNTERLOG_CACHE", str(tmp_path))
    with pytest.raises(DatasetError, match=r"put prompt_oirl_llama2\.npz into \$COUNTERLOG_DATA"):
        prompts()
    with pytest.raises(ConfigError, match="train or test"):
        prompts("all")


@pytest.mark.data
def test_the_published_rates_are_read(data_folder) -> None:
    table = models()
    assert table.actions == prompt_routing.MODELS and table.n == 1319
    assert table.reward.mean(axis=0) == pytest.approx([0.217, 0.390, 0.347, 0.563], abs=5e-4)
    assert table.oracle() == pytest.approx(0.672, abs=5e-4)
    assert models(price=(0, 0, 0, 0.3)).reward[:, 3].max() == pytest.approx(0.7)
    assert prompts("train").reward.shape == (7473, 6) and prompts("test").reward.shape == (1000, 6)
