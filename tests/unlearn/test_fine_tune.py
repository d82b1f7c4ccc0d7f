"""Fine-tuning and its sparse and last-layer variants."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import LogError
from counterlog.core.torch_models import flat, mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.fine_tune import FineTune, FineTuneConfig
from counterlog.unlearn.forget_request import UnlearnReport

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return FineTune(FineTuneConfig(epochs=2)).forget(model, x, y, np.arange(20), rng=3).report.without_times()


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_one_step_by_hand() -> None:
    # y ~ theta x, half squared error, theta = 1: kept rows 1, 2 have gradients 0 and (3-9)3 = -18, mean -9
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    x, y = torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([2.0, 2.0, 9.0]).double()
    made = FineTune(FineTuneConfig(epochs=1, batch=9, lr=0.1)).forget(
        model, x, y, [0], loss=lambda m, a, b: (m(a)[:, 0] - b).square() / 2
    )
    assert made.model.weight.item() == pytest.approx(1.9)
    sparse = FineTune(FineTuneConfig(epochs=1, batch=9, lr=0.1, l1=2.0)).forget(
        model, x, y, [0], loss=lambda m, a, b: (m(a)[:, 0] - b).square() / 2
    )
    assert sparse.model.weight.item() == pytest.approx(1.7)


def test_the_last_layers_alone_move() -> None:
    x, y = blobs()
    model = mlp((4, 8, 8, 3), rng=0, dtype=torch.float64)
    for redraw in (False, True):
        new = FineTune(FineTuneConfig(last=1, redraw=redraw)).forget(model, x, y, [1]).model
        assert torch.equal(new[0].weight, model[0].weight)
        assert torch.equal(new[2].weight, model[2].weight)
        assert not torch.equal(new[4].weight, model[4].weight)


def test_the_sparse_variant_shrinks_weights() -> None:
    x, y = blobs()
    model = train(mlp((4, 32, 3), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=5))
    sizes = [
        float(
            flat(list(FineTune(FineTuneConfig(l1=l1)).forget(model, x, y, [1]).model.parameters()))
            .abs()
            .sum()
        )
        for l1 in (0.0, 0.1)
    ]
    assert sizes[1] < 0.9 * sizes[0]


def test_bad_rows_are_refused() -> None:
    x, y = blobs()
    with pytest.raises(LogError, match="no row is to be forgotten"):
        FineTune().forget(mlp((4, 3), rng=0, dtype=torch.float64), x, y, [])
