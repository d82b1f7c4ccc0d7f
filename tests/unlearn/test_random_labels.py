"""Random labels, with and without a mask of salient weights."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch

from counterlog.core.errors import ConfigError
from counterlog.core.torch_models import flat, mlp, squared_error_rows
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.random_labels import RandomLabels, RandomLabelsConfig

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return (
        RandomLabels(RandomLabelsConfig(epochs=2, salient=0.5))
        .forget(model, x, y, np.arange(20), rng=3)
        .report.without_times()
    )


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_relabelled_rows_are_unlearnt_and_the_others_kept() -> None:
    x, y = blobs(300)
    model = train(mlp((4, 64, 3), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=40, lr=0.01))
    way = RandomLabels(RandomLabelsConfig(epochs=10, lr=0.05, exclude_true=True))
    report = way.forget(model, x, y, np.arange(30)).report
    assert report.forget_loss[1] > report.forget_loss[0] + 0.2
    assert report.retain_accuracy[1] > 0.8


def test_only_salient_weights_move() -> None:
    x, y = blobs()
    model = mlp((4, 16, 3), rng=0, dtype=torch.float64)
    new = RandomLabels(RandomLabelsConfig(salient=0.3)).forget(model, x, y, np.arange(20)).model
    moved = flat(list(new.parameters())) != flat(list(model.parameters()))
    assert 0 < int(moved.sum()) <= round(0.3 * len(moved))


def test_with_two_classes_and_no_true_label_every_label_flips() -> None:
    x, y = blobs()
    y = (y > 0).long()
    flipped = y.clone()
    flipped[:20] = 1 - flipped[:20]
    model = mlp((4, 8, 2), rng=0, dtype=torch.float64)
    config = RandomLabelsConfig(epochs=1, batch=200, exclude_true=True)
    new = RandomLabels(config).forget(model, x, y, np.arange(20)).model
    plain = train(model, x, flipped, TrainConfig(epochs=1, batch=200, lr=0.01, optimiser="sgd"))
    torch.testing.assert_close(
        flat(list(new.parameters())), flat(list(plain.parameters())), rtol=0, atol=1e-12
    )


def test_targets_that_are_no_classes_are_refused() -> None:
    x, _ = blobs()
    with pytest.raises(ConfigError, match="the targets are no classes"):
        RandomLabels().forget(
            mlp((4, 1), rng=0, dtype=torch.float64), x, x[:, 0], [1], loss=squared_error_rows
        )
