"""Retraining: the same training on fewer rows, resumed when killed."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError
from counterlog.core.torch_models import flat, mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.retrain import Retrain, RetrainConfig, fresh_weights

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return Retrain(RetrainConfig(epochs=2)).forget(model, x, y, np.arange(20), rng=3).report.without_times()


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_it_is_the_same_training_without_the_rows() -> None:
    x, y = blobs()
    start = mlp((4, 8, 3), rng=5, dtype=torch.float64)
    model = train(start, x, y, TrainConfig(epochs=3), rng=1)
    made = Retrain(RetrainConfig(epochs=3), start=start).forget(model, x, y, np.arange(30), rng=1)
    alone = train(start, x[30:], y[30:], TrainConfig(epochs=3), rng=1)
    torch.testing.assert_close(
        flat(list(made.model.parameters())), flat(list(alone.parameters())), rtol=0, atol=0
    )
    assert made.report.passes == pytest.approx(3 * 170 / 200)


def test_forgotten_rows_leave_no_trace() -> None:
    x, y = blobs()
    start = mlp((4, 8, 3), rng=5, dtype=torch.float64)
    other = x.clone()
    other[:30] = 99.0
    way = Retrain(RetrainConfig(epochs=2), start=start)
    one, two = (way.forget(start, data, y, np.arange(30), rng=1).report.moved for data in (x, other))
    assert one == two


def test_a_killed_retraining_goes_on_to_the_same_weights(tmp_path: Any) -> None:
    x, y = blobs()
    start = mlp((4, 8, 3), rng=5, dtype=torch.float64)
    whole = Retrain(RetrainConfig(epochs=6), start=start).forget(start, x, y, [0, 1], rng=2).model
    for epochs in (2, 6):
        way = Retrain(RetrainConfig(epochs=epochs), start=start, folder=tmp_path)
        resumed = way.forget(start, x, y, [0, 1], rng=2).model
    torch.testing.assert_close(
        flat(list(resumed.parameters())), flat(list(whole.parameters())), rtol=0, atol=0
    )
    with pytest.raises(ConfigError, match="belongs to other rows, another rng"):
        way.forget(start, x, y, [0, 2], rng=2)


def test_fresh_weights_follow_rng_and_leave_torch_alone() -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    one, two, three = (mlp((4, 8, 3), rng=0) for _ in range(3))
    fresh_weights(one, 1)
    fresh_weights(two, 1)
    fresh_weights(three, 2)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(flat(list(one.parameters())), flat(list(two.parameters())))
    assert not torch.equal(flat(list(one.parameters())), flat(list(three.parameters())))


def test_only_the_last_layers_are_drawn_anew_when_asked() -> None:
    model = mlp((4, 8, 3), rng=0)
    before = [w.detach().clone() for w in model.parameters()]
    assert fresh_weights(model, 1, last=1) == ["2"]
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False]


def test_a_weight_of_no_layer_is_refused() -> None:
    model = nn.Module()
    model.loose = nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match="no layer can draw loose anew"):
        fresh_weights(model, 0)


def test_a_loss_that_explodes_is_refused() -> None:
    x, y = blobs()
    config = RetrainConfig(epochs=3, lr=1e200, optimiser="sgd")
    with pytest.raises(ConvergenceError, match="the loss is nan in epoch"):
        Retrain(config).forget(mlp((4, 8, 3), rng=0, dtype=torch.float64), x, y, [1])
