"""LoGra: gradients in a random corner of every layer."""

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
from counterlog.trace.logra import LoGra, LoGraConfig
from counterlog.trace.network_scores import InfluenceScores

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    return LoGra(mlp((2, 8, 3), rng=0, dtype=torch.float64), x, y, rng=3).score(x[:3], y[:3], k=4)


def test_all_directions_of_one_layer_are_the_exact_empirical_fisher() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(30, 4))), torch.from_numpy(gen.integers(3, size=30))
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, 30).detach()
    F = g.T @ g / 30 + 0.05 * torch.eye(15, dtype=torch.float64)
    exact = (g @ torch.linalg.solve(F, g[:4].T)).numpy()
    way = LoGra(model, x, y, config=LoGraConfig(k_in=5, k_out=3, damping=0.05, batch=8))
    assert way.explain(x[:4], y[:4]) == pytest.approx(exact)
    assert way.self_influence()[:4] == pytest.approx(np.diag(exact[:4]))


def test_the_index_is_as_small_as_the_corner_and_seeded() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(10, 6, 4))), torch.from_numpy(gen.integers(3, size=(10, 6)))
    model, task = mlp((4, 9, 3), rng=0, dtype=torch.float64), Task(loss=token_cross_entropy_rows)
    a, b, c = (LoGra(model, x, y, task=task, config=LoGraConfig(k_in=2, k_out=2), rng=r) for r in (0, 0, 1))
    assert {name: tuple(v.shape) for name, v in a.index.items()} == {"0": (10, 4), "2": (10, 4)}
    assert np.array_equal(a.explain(x[:2], y[:2]), b.explain(x[:2], y[:2]))
    assert not np.allclose(a.explain(x[:2], y[:2]), c.explain(x[:2], y[:2]))


def test_refusals() -> None:
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ConfigError, match="k_in"):
        LoGraConfig(k_in=0)
    with pytest.raises(LogError, match="no query"):
        LoGra(mlp((2, 2), rng=0), x, y).explain(x[:0], y[:0])
