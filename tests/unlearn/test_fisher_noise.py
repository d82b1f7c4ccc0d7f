"""Noise by the inverse Fisher information."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import LogError
from counterlog.core.torch_models import flat, mlp
from counterlog.unlearn.fisher_noise import FisherNoise, FisherNoiseConfig, diagonal_fisher
from counterlog.unlearn.forget_request import UnlearnReport, make_request

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return FisherNoise().forget(model, x, y, np.arange(20), rng=3).report.without_times()


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_the_diagonal_by_hand() -> None:
    # y ~ theta x at theta = 1, half squared error: kept rows 1, 2 have gradients 0 and -18, mean square 162
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    x, y = torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([2.0, 2.0, 9.0]).double()
    request = make_request(
        model, x, y, [0], retain=None, loss=lambda m, a, b: (m(a)[:, 0] - b).square() / 2, rng=0
    )
    for rows in (1, 5):
        assert diagonal_fisher(model, request, rows).tolist() == [162.0]


def test_the_noise_has_the_deviation_of_the_equation() -> None:
    x, y = blobs()
    model = mlp((4, 400, 3), rng=0, dtype=torch.float64)
    request = make_request(model, x, y, [1], retain=None, loss=_rows(), rng=0)
    wanted = (1e-8 / diagonal_fisher(model, request, 64)).sqrt().clamp(max=1e-3)
    wanted[-(400 * 3 + 3) :] *= 10
    new = FisherNoise().forget(model, x, y, [1], rng=5).model
    scaled = (flat(list(new.parameters())) - flat(list(model.parameters()))) / wanted
    assert float(scaled.mean()) == pytest.approx(0, abs=0.06)
    assert float(scaled.std()) == pytest.approx(1, abs=0.05)


def _rows() -> Any:
    from counterlog.core.torch_models import cross_entropy_rows

    return cross_entropy_rows


def test_no_alpha_to_speak_of_moves_nothing() -> None:
    x, y = blobs()
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    assert FisherNoise(FisherNoiseConfig(alpha=1e-30)).forget(model, x, y, [1]).report.moved < 1e-8


def test_rng_decides() -> None:
    x, y = blobs()
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    one, same, other = (FisherNoise().forget(model, x, y, [1], rng=r).report.moved for r in (1, 1, 2))
    assert one == same != other


def test_bad_rows_are_refused() -> None:
    x, y = blobs()
    with pytest.raises(LogError, match="every row is to be forgotten"):
        FisherNoise().forget(mlp((4, 3), rng=0, dtype=torch.float64), x, y, np.arange(200))
