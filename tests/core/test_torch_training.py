"""The small trainer: stacked equals one by one, resumed equals unbroken, early stopping keeps the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from counterlog.core.errors import ConfigError, ConvergenceError, LogError  # noqa: E402
from counterlog.core.torch_models import (  # noqa: E402
    cross_entropy_rows,
    flat,
    losses,
    mean_gradient,
    mlp,
    squared_error_rows,
    unflat,
    weights_of,
)
from counterlog.core.torch_training import TrainConfig, train, train_stack  # noqa: E402

pytestmark = pytest.mark.torch


def blobs(n: int = 150, *, rng: int = 0):  # type: ignore[no-untyped-def]
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + np.eye(3, 4)[y]), torch.from_numpy(y)


def net(rng: int = 0) -> nn.Sequential:
    return mlp((4, 8, 3), rng=rng, dtype=torch.float64)


def same(a: nn.Module, b: nn.Module, atol: float = 0.0) -> None:
    torch.testing.assert_close(flat(list(a.parameters())), flat(list(b.parameters())), rtol=0, atol=atol)


def test_row_losses_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 2.0)
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([1.0, 6.0]).double()
    assert squared_error_rows(model, x, y).tolist() == [0.5, 2.0]
    # gradients (2-1)1 = 1 and (4-6)2 = -4
    assert mean_gradient(model, x, y, squared_error_rows)[0].item() == -1.5
    nn.init.constant_(model.weight, 0.0)
    two = mlp((1, 2), rng=0, dtype=torch.float64)
    nn.init.zeros_(two[0].weight)
    nn.init.zeros_(two[0].bias)
    assert cross_entropy_rows(two, x, torch.tensor([0, 1])).tolist() == pytest.approx([np.log(2)] * 2)


def test_flat_and_back() -> None:
    parts = [torch.arange(6.0).reshape(2, 3), torch.tensor([7.0])]
    assert flat(parts).tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert all(torch.equal(a, b) for a, b in zip(parts, unflat(flat(parts), parts), strict=True))


def test_the_input_model_is_untouched_and_rng_decides() -> None:
    x, y = blobs()
    start = net()
    before = flat(list(start.parameters()))
    one, two, other = (train(start, x, y, TrainConfig(epochs=2), rng=r) for r in (1, 1, 2))
    assert torch.equal(flat(list(start.parameters())), before)
    same(one, two)
    assert not torch.equal(flat(list(one.parameters())), flat(list(other.parameters())))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_stopped_at_any_epoch_it_goes_on_to_the_same_end(tmp_path: Path, optimiser: str) -> None:
    x, y = blobs()
    validation = blobs(50, rng=1)
    config = TrainConfig(epochs=7, optimiser=optimiser, lr=0.02)
    whole = train(net(), x, y, config, validation=validation, rng=3)
    for epochs in (1, 4, 7):
        part = TrainConfig(epochs=epochs, optimiser=optimiser, lr=0.02)
        resumed = train(net(), x, y, part, validation=validation, rng=3, folder=tmp_path)
    same(resumed, whole)
    with pytest.raises(ConfigError, match="belongs to other rows, another rng"):
        train(net(), x, y, config, validation=validation, rng=4, folder=tmp_path)


def test_early_stopping_keeps_the_best_weights() -> None:
    x, y = blobs(40)
    validation = blobs(200, rng=1)
    stopped = train(net(), x, y, TrainConfig(epochs=400, lr=0.05, patience=5), validation=validation, rng=0)
    free = train(net(), x, y, TrainConfig(epochs=400, lr=0.05), rng=0)
    assert float(losses(stopped, *validation).mean()) < float(losses(free, *validation).mean())


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_stack_trains_as_one_by_one(optimiser: str) -> None:
    config = TrainConfig(epochs=3, batch=32, optimiser=optimiser)
    sets = [blobs(rng=k) for k in range(3)]
    alone = [train(net(k), *sets[k], config, rng=k) for k in range(3)]
    x, y = (torch.stack(part) for part in zip(*sets, strict=True))
    for a, b in zip(alone, train_stack([net(k) for k in range(3)], x, y, config), strict=True):
        same(a, b, atol=1e-12)


def test_a_stack_of_any_other_layers_trains_as_one_by_one() -> None:
    x, y = blobs()
    models = [nn.Sequential(net(k), nn.Tanh()) for k in range(2)]
    alone = [train(m, x, y, TrainConfig(epochs=2), rng=k) for k, m in enumerate(models)]
    stacked = train_stack(models, x.expand(2, -1, -1), y.expand(2, -1), TrainConfig(epochs=2))
    for a, b in zip(alone, stacked, strict=True):
        same(a, b, atol=1e-12)


def test_a_stack_of_the_restricted_objective_trains_as_one_by_one() -> None:
    from counterlog.unlearn.influence_approximation_unlearning import gradient_restriction

    x, y = blobs()
    config, objective = TrainConfig(epochs=2), gradient_restriction(0.1)
    alone = [train(net(k), x, y, config, objective=objective, rng=k) for k in range(2)]
    stacked = train_stack([net(0), net(1)], x.expand(2, -1, -1), y.expand(2, -1), config, objective=objective)
    for a, b in zip(alone, stacked, strict=True):
        same(a, b, atol=1e-12)


def test_a_stack_refuses_what_it_cannot_hold() -> None:
    x, y = blobs()
    with pytest.raises(LogError, match="2 models, x for 1"):
        train_stack([net(), net()], x[None], y[None])
    with pytest.raises(ConfigError, match="dropout or running statistics"):
        train_stack([nn.Sequential(net(), nn.Dropout())], x[None], y[None])


def test_a_loss_that_explodes_is_refused() -> None:
    x, y = blobs()
    with pytest.raises(ConvergenceError, match="the loss is nan in epoch 1"):
        train(net(), x, y, TrainConfig(epochs=2, lr=1e200, optimiser="sgd"))


def test_frozen_weights_take_no_part() -> None:
    model = net()
    model[0].requires_grad_(False)
    assert len(weights_of(model)) == 2
    x, y = blobs()
    after = train(model, x, y, TrainConfig(epochs=1))
    assert torch.equal(after[0].weight, model[0].weight)
    assert not torch.equal(after[2].weight, model[2].weight)
