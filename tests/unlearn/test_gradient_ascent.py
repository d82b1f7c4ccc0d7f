"""Ascent on the rows to forget, alone and against descent."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError
from counterlog.core.torch_models import mlp
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.gradient_ascent import (
    GradientAscent,
    GradientAscentConfig,
    NegGradPlus,
    NegGradPlusConfig,
)

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return (
        NegGradPlus(NegGradPlusConfig(epochs=2))
        .forget(model, x, y, np.arange(20), rng=3)
        .report.without_times()
    )


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def line() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    return model, torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([2.0, 2.0, 9.0]).double()


def squared(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x)[:, 0] - y).square() / 2


def test_one_step_of_each_by_hand() -> None:
    # row gradients at theta = 1: -1, 0, -18.  Forget row 0.
    model, x, y = line()
    made = GradientAscent(GradientAscentConfig(epochs=1, lr=0.1)).forget(model, x, y, [0], loss=squared)
    assert made.model.weight.item() == pytest.approx(0.9)
    way = NegGradPlus(NegGradPlusConfig(epochs=1, lr=0.1, a=0.8))
    # a gR - (1-a) gF = .8 (-9) + .2 = -7
    assert way.forget(model, x, y, [0], loss=squared).model.weight.item() == pytest.approx(1.7)


def test_with_all_weight_on_the_kept_rows_it_is_fine_tuning() -> None:
    from counterlog.unlearn.fine_tune import FineTune, FineTuneConfig

    x, y = blobs()
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    one = NegGradPlus(NegGradPlusConfig(a=1.0)).forget(model, x, y, np.arange(20), rng=4)
    two = FineTune(FineTuneConfig()).forget(model, x, y, np.arange(20), rng=4)
    assert one.report.moved == pytest.approx(two.report.moved, rel=1e-12)
    assert one.report.forget_loss[1] == pytest.approx(two.report.forget_loss[1], rel=1e-12)


def test_ascent_raises_the_forgotten_loss() -> None:
    x, y = blobs()
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    report = GradientAscent().forget(model, x, y, np.arange(20)).report
    assert report.forget_loss[1] > report.forget_loss[0]
    assert report.passes == pytest.approx(5 * 20 / 200)


def test_ascent_that_overflows_is_named() -> None:
    model, x, y = line()
    with pytest.raises(ConvergenceError, match=r"after epoch .* of ascent"):
        GradientAscent(GradientAscentConfig(epochs=200, lr=1e10)).forget(model, x, y, [0], loss=squared)


def test_a_weight_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"NegGradPlusConfig.a = 1.5"):
        NegGradPlusConfig(a=1.5)
