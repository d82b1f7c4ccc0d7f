"""TracIn over checkpoints, GradDot, GradCos."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.newton_products import row_gradients
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import mlp, squared_error_rows
from counterlog.trace.network_scores import InfluenceScores
from counterlog.trace.tracin import TracIn, TracInConfig

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float32)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    return TracIn(mlp((2, 8, 3), rng=0), x, y, rng=3).score(x[:3], y[:3], k=4)


def classes(n: int = 20, *, rng: int = 0) -> Any:
    gen = np.random.default_rng(rng)
    return torch.from_numpy(gen.normal(size=(n, 4))), torch.from_numpy(gen.integers(3, size=n))


def one_weight(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, value)
    return model


def test_two_checkpoints_by_hand() -> None:
    # y ~ theta x, half squared error, gradient (theta x - y) x; rows (1, 2), (2, 0), query (1, 0)
    # theta 1: rows -1, 4, query 1; theta 2: rows 0, 8, query 2; rates 0.1 and 0.5
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([2.0, 0.0]).double()
    way = TracIn(
        one_weight(2.0), x, y, checkpoints=[one_weight(1.0), one_weight(2.0)], rates=[0.1, 0.5],
        task=Task(loss=squared_error_rows),
    )  # fmt: skip
    found = way.explain(torch.tensor([[1.0]]).double(), torch.tensor([0.0]).double())
    assert found[:, 0] == pytest.approx([0.1 * -1 + 0, 0.1 * 4 + 0.5 * 16])


def test_one_checkpoint_is_the_product_of_gradients_and_cosine_its_direction() -> None:
    x, y = classes()
    model = mlp((4, 5, 3), rng=1, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, len(x)).detach()
    assert TracIn(model, x, y).explain(x[:3], y[:3]) == pytest.approx((g @ g[:3].T).numpy())
    unit = g / g.norm(dim=1, keepdim=True)
    cosine = TracIn(model, x, y, config=TracInConfig(cosine=True, batch=7))
    assert cosine.explain(x[:3], y[:3]) == pytest.approx((unit @ unit[:3].T).numpy())
    assert cosine.self_influence() == pytest.approx(np.ones(len(x)))
    assert TracIn(model, x, y).self_influence() == pytest.approx(g.square().sum(dim=1).numpy())


def test_refusals() -> None:
    x, y = classes()
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    with pytest.raises(ConfigError, match="2 checkpoints and 1 rates"):
        TracIn(model, x, y, checkpoints=[model, model], rates=[1.0])
    with pytest.raises(LogError, match="no query"):
        TracIn(model, x, y).explain(x[:0], y[:0])
