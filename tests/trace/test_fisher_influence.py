"""Exact empirical-Fisher influence through the Gram matrix."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.newton_products import row_gradients
from counterlog.core.row_tasks import Task, token_cross_entropy_rows
from counterlog.core.torch_models import mlp
from counterlog.trace.fisher_influence import FisherInfluence, FisherInfluenceConfig
from counterlog.trace.network_scores import InfluenceScores

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    return FisherInfluence(mlp((2, 8, 3), rng=0, dtype=torch.float64), x, y, rng=3).score(x[:3], y[:3], k=4)


def test_equals_the_explicit_inverse() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(25, 4))), torch.from_numpy(gen.integers(3, size=25))
    model = mlp((4, 5, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, 25).detach()
    F = g.T @ g / 25 + 0.01 * torch.eye(g.shape[1], dtype=torch.float64)
    exact = (g @ torch.linalg.solve(F, g[:6].T)).numpy()
    way = FisherInfluence(model, x, y, config=FisherInfluenceConfig(damping=0.01, batch=7))
    assert np.abs(way.explain(x[:6], y[:6]) - exact).max() < 1e-6 * np.abs(exact).max()
    assert way.self_influence()[:6] == pytest.approx(np.diag(exact[:6]))


def test_rows_of_many_tokens_have_the_same_gram_matrix() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(8, 5, 4))), torch.from_numpy(gen.integers(3, size=(8, 5)))
    model = mlp((4, 6, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y, token_cross_entropy_rows)(0, 8).detach()
    way = FisherInfluence(model, x, y, task=Task(loss=token_cross_entropy_rows))
    assert way.gram.numpy() == pytest.approx((g @ g.T).numpy())


def test_refusals() -> None:
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"3 training rows[\s\S]*ekfac-influence"):
        FisherInfluence(mlp((2, 2), rng=0), x, y, config=FisherInfluenceConfig(max_rows=2))
    with pytest.raises(LogError, match="no query"):
        FisherInfluence(mlp((2, 2), rng=0), x, y).explain(x[:0], y[:0])
