"""DataInf: the average of rank-one inverses."""

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
from counterlog.trace.datainf import DataInf, DataInfConfig
from counterlog.trace.network_scores import InfluenceScores

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float32)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    return DataInf(mlp((2, 8, 3), rng=0), x, y, rng=3).score(x[:3], y[:3], k=4)


def test_by_hand_one_weight() -> None:
    # gradients -1 and 4, damping 2: mean of 1 / (2 + g^2) = (1/3 + 1/18) / 2 = 7/36; query = row 0
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([2.0, 0.0]).double()
    way = DataInf(model, x, y, task=Task(loss=squared_error_rows), config=DataInfConfig(damping=2.0))
    assert way.explain(x[:1], y[:1])[:, 0] == pytest.approx([7 / 36, -4 * 7 / 36])


def test_one_layer_is_the_mean_of_explicit_inverses() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(15, 3))), torch.from_numpy(gen.integers(3, size=15))
    model = mlp((3, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, 15).detach()
    # the traced gradient is (outputs, inputs, bias last): the same numbers in another order
    eye = torch.eye(12, dtype=torch.float64)
    inverse = torch.stack([torch.linalg.inv(torch.outer(v, v) + 0.4 * eye) for v in g]).mean(dim=0)
    found = DataInf(model, x, y, config=DataInfConfig(damping=0.4, batch=4)).explain(x[:5], y[:5])
    assert found == pytest.approx((g @ inverse @ g[:5].T).numpy())


def test_heavy_damping_is_the_product_of_gradients() -> None:
    gen = np.random.default_rng(1)
    x, y = torch.from_numpy(gen.normal(size=(12, 3))), torch.from_numpy(gen.integers(3, size=12))
    model = mlp((3, 4, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, 12).detach()
    found = DataInf(model, x, y, config=DataInfConfig(damping=1e9)).explain(x[:2], y[:2])
    assert found * 1e9 == pytest.approx((g @ g[:2].T).numpy(), rel=1e-6)


def test_refusals() -> None:
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ConfigError, match="damping"):
        DataInfConfig(damping=0.0)
    with pytest.raises(LogError, match="no query"):
        DataInf(mlp((2, 2), rng=0), x, y).explain(x[:0], y[:0])
