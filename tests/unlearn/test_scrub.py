"""SCRUB: away on the rows to forget, near on the others, and rewinding."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError
from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.scrub import Scrub, ScrubConfig, away

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return Scrub(ScrubConfig(epochs=2)).forget(model, x, y, np.arange(20), rng=3).report.without_times()


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_the_distance_by_hand() -> None:
    # T = 2, teacher logits (2, 0) -> softened (1, 0), student (0, 0) -> one half each
    p = np.exp(1) / (1 + np.exp(1))
    wanted = 4 * (p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    found = away(torch.zeros(1, 2).double(), torch.tensor([[2.0, 0.0]]).double(), 2.0)
    assert found.item() == pytest.approx(wanted)
    assert away(torch.ones(3, 2), torch.ones(3, 2), 4.0).item() == 0


def fitted() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    x, y = blobs(300)
    return train(mlp((4, 64, 3), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=30, lr=0.01)), x, y


def test_it_leaves_the_teacher_on_the_forgotten_rows_first() -> None:
    model, x, y = fitted()
    config = ScrubConfig(epochs=2, ascents=2, lr=5e-3)
    report = Scrub(config).forget(model, x, y, np.arange(30)).report
    other = Scrub(ScrubConfig(epochs=2, ascents=0, lr=5e-3)).forget(model, x, y, np.arange(30)).report
    assert report.forget_loss[1] > other.forget_loss[1]
    assert report.retain_accuracy[1] > 0.85


def test_without_ascents_and_teacher_it_is_plain_training() -> None:
    model, x, y = fitted()
    config = ScrubConfig(epochs=3, ascents=0, alpha=0.0, decay_at=())
    made = Scrub(config).forget(model, x, y, np.arange(30), rng=2)
    plain = train(model, x[30:], y[30:], TrainConfig(epochs=3, lr=5e-4), rng=2)
    for a, b in zip(made.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_rewinding_takes_the_epoch_nearest_to_unseen_rows() -> None:
    model, x, y = fitted()
    unseen = blobs(100, rng=9)
    made = Scrub(ScrubConfig(lr=5e-3), reference=unseen).forget(model, x, y, np.arange(30))
    assert made.report.notes[0].startswith("rewound to epoch")


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ScrubConfig.alpha = -1"):
        ScrubConfig(alpha=-1.0)
