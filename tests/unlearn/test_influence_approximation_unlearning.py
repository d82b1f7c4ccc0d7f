"""IAU: its equations against reference scores and numbers worked by hand, its limits, its refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError, LogError
from counterlog.core.newton_products import explicit_hessian
from counterlog.core.torch_models import flat, losses, mean_gradient, mlp, weights_of
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.influence_approximation_unlearning import (
    IAU,
    IAUConfig,
    adam_moves,
    direction,
    gradient_restriction,
    influence_equivalence,
    restricted_loss,
    salient_mask,
)

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return IAU().forget(model, x, y, np.arange(20), rng=3).report.without_times()


def blobs(n: int = 200, *, classes: int = 3, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(classes, size=n)
    x = gen.normal(size=(n, 4)) + 1.5 * np.eye(classes, 4)[y]
    return torch.from_numpy(x), torch.from_numpy(y)


def linear(d: int, classes: int) -> nn.Sequential:
    return mlp((d, classes), rng=1, dtype=torch.float64)


def optimum(x: torch.Tensor, y: torch.Tensor, l2: float) -> nn.Sequential:
    """Softmax regression with a ridge, by Newton's method to machine precision."""
    model = linear(x.shape[1], int(y.max()) + 1)
    weights = weights_of(model)
    for _ in range(30):
        gradient = flat(mean_gradient(model, x, y)) + l2 * flat(weights)
        move = torch.linalg.solve(explicit_hessian(model, x, y, l2=l2), gradient)
        with torch.no_grad():
            nn.utils.vector_to_parameters(flat(weights) - move, weights)
    assert float(gradient.norm()) < 1e-12
    return model


# reference scores


@pytest.fixture
def reference() -> dict[str, np.ndarray]:
    folder = Path(os.environ.get("COUNTERLOG_REFS", "")) / "influence-approximation-unlearning"
    if not os.environ.get("COUNTERLOG_REFS") or not folder.is_dir():
        pytest.skip("COUNTERLOG_REFS names no folder of reference scores")
    with np.load(folder / "one_step.npz") as stored:
        return dict(stored)


def reference_model(reference: dict[str, np.ndarray]) -> nn.Sequential:
    model = linear(5, 3)
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(reference["W"]))
        model[0].bias.copy_(torch.from_numpy(reference["b"]))
    return model


def test_gradient_and_adam_step_agree_with_the_reference(reference: dict[str, np.ndarray]) -> None:
    model = reference_model(reference)
    x, y = torch.from_numpy(reference["X"]), torch.from_numpy(reference["y"])
    keep = np.setdiff1d(np.arange(len(x)), reference["forget"])
    gone = mean_gradient(model, x[reference["forget"]], y[reference["forget"]])
    G = direction(mean_gradient(model, x[keep], y[keep]), gone, 1, 1)
    np.testing.assert_allclose(G[0], reference["grad_w"], atol=1e-6)
    np.testing.assert_allclose(G[1], reference["grad_b"], atol=1e-6)
    new = IAU().forget(model, x, y, reference["forget"]).model
    np.testing.assert_allclose(new[0].weight.detach(), reference["adam_w"], atol=1e-9)
    np.testing.assert_allclose(new[0].bias.detach(), reference["adam_b"], atol=1e-9)


def test_restricted_loss_and_its_gradient_agree_with_the_reference(reference: dict[str, np.ndarray]) -> None:
    model = reference_model(reference)
    x, y = torch.from_numpy(reference["X"]), torch.from_numpy(reference["y"])
    value = restricted_loss(model, x, y, float(reference["alpha"]))
    value.backward()
    assert float(value.detach()) == pytest.approx(float(reference["gr_loss"]), abs=1e-9)
    np.testing.assert_allclose(model[0].weight.grad, reference["gr_grad_w"], atol=1e-9)
    np.testing.assert_allclose(model[0].bias.grad, reference["gr_grad_b"], atol=1e-9)


# equations by hand


def one_weight(theta: float) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """y ~ theta x with half the squared error: the gradient of a row is (theta x - y) x."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, theta)
    return model, torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([2.0, 2.0, 9.0]).double()


def squared(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model(x)[:, 0] - y).square() / 2


def test_the_plain_step_by_hand() -> None:
    # theta = 1: row gradients (1-2)1 = -1, (2-2)2 = 0, (3-9)3 = -18.  Forget row 0: gF = -1, gR = -9, G = -8.
    model, x, y = one_weight(1.0)
    made = IAU(IAUConfig(step="sgd", lr=0.1)).forget(model, x, y, [0], loss=squared)
    assert made.model.weight.item() == pytest.approx(1 + 0.8)
    # c_r = .5, c_f = 2: G = -4.5 + 2 = -2.5
    made = IAU(IAUConfig(step="sgd", lr=0.1, c_r=0.5, c_f=2.0)).forget(model, x, y, [0], loss=squared)
    assert made.model.weight.item() == pytest.approx(1.25)
    assert model.weight.item() == 1.0
    assert made.report.passes == 1.0


def test_two_adam_moves_are_those_of_torch() -> None:
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(5, generator=gen, dtype=torch.float64)
    param = weight.clone().requires_grad_(True)
    adam = torch.optim.Adam([param], lr=0.01)
    state = [[torch.zeros_like(weight), torch.zeros_like(weight)]]
    for t in (1, 2):
        g = torch.randn(5, generator=gen, dtype=torch.float64)
        param.grad = g.clone()
        adam.step()
        weight = weight - 0.01 * adam_moves([g], state, t)[0]
    torch.testing.assert_close(weight, param.detach(), rtol=1e-12, atol=1e-12)


def test_one_global_norm_by_hand_on_one_tensor_equals_the_sum() -> None:
    model, x, y = one_weight(1.0)
    for norm in ("global", "per_tensor"):
        # mean loss (1/2 + 0 + 18)/3, mean gradient -19/3
        value = restricted_loss(model, x, y, 0.3, norm, squared)
        assert value.item() == pytest.approx(18.5 / 3 + 0.3 * 19 / 3)
    both = mlp((4, 3), rng=0, dtype=torch.float64)
    x, y = blobs()
    g = mean_gradient(both, x, y)
    base = float(losses(both, x, y).mean())
    whole = restricted_loss(both, x, y, 1.0, "global").item() - base
    assert whole == pytest.approx(float(flat(g).norm()))
    assert restricted_loss(both, x, y, 1.0).item() - base == pytest.approx(sum(float(t.norm()) for t in g))


def test_salient_mask_keeps_the_largest_by_hand() -> None:
    mask = salient_mask([torch.tensor([[0.1, -4.0]]), torch.tensor([2.0, 0.0])], 0.5)
    assert [m.tolist() for m in mask] == [[[0.0, 1.0]], [1.0, 0.0]]


# the theory


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_removing_a_row_is_adding_its_mirror(seed: int) -> None:
    gen = np.random.default_rng(seed)
    x, y = gen.normal(size=(50, 4)), gen.normal(size=50)
    hessian = x.T @ x / 50 + 0.1 * np.eye(4)
    theta = np.linalg.solve(hessian, x.T @ y / 50)
    removed, added = influence_equivalence(hessian, (x[0] @ theta - y[0]) * x[0], 50)
    np.testing.assert_allclose(removed, added, atol=1e-12)
    # ridge with the penalty on the sum: refitting without row 0 moves the same way, to first order in 1/n
    refit = np.linalg.solve(50 * hessian - np.outer(x[0], x[0]), x.T @ y - x[0] * y[0])
    leverage = x[0] @ np.linalg.solve(50 * hessian, x[0])
    np.testing.assert_allclose(removed / (1 - leverage), refit - theta, atol=1e-12)


@pytest.mark.parametrize("row", [0, 7, 31])
def test_with_curvature_one_row_is_forgotten_to_first_order(row: int) -> None:
    x, y = blobs(400)
    model = optimum(x, y, 0.1)
    keep = np.setdiff1d(np.arange(400), [row])
    target = flat(list(optimum(x[keep], y[keep], 0.1).parameters()))
    start = flat(list(model.parameters()))
    config = IAUConfig(step="sgd", lr=1.0, curvature="explicit", l2=0.1)
    new = flat(list(IAU(config).forget(model, x, y, [row]).model.parameters()))
    assert float((new - target).norm()) <= 0.02 * float((target - start).norm())


# limits


def test_with_adam_every_weight_moves_by_the_step_size() -> None:
    x, y = blobs()
    model = mlp((4, 16, 3), rng=2, dtype=torch.float64)
    gone = np.arange(20)
    G = flat(direction(mean_gradient(model, x[20:], y[20:]), mean_gradient(model, x[:20], y[:20]), 1, 1))
    moved = flat(list(IAU(IAUConfig(lr=2e-3)).forget(model, x, y, gone).model.parameters())) - flat(
        list(model.parameters())
    )
    large = G.abs() > 1e-6
    assert int(large.sum()) > 50
    torch.testing.assert_close(moved[large], -2e-3 * G[large].sign(), rtol=0.011, atol=0)


def test_no_rows_to_forget_and_no_correction_is_no_direction() -> None:
    x, y = blobs()
    model = linear(4, 3)
    nothing = mean_gradient(model, x[:0], y[:0])
    assert float(flat(direction(nothing, nothing, 0, 1)).abs().sum()) == 0


def test_forgetting_rows_that_stay_as_copies_moves_nothing() -> None:
    x, y = blobs(100)
    model = linear(4, 3)
    twice = torch.cat([x, x]), torch.cat([y, y])
    made = IAU(IAUConfig(step="sgd", lr=10.0)).forget(model, *twice, np.arange(100))
    assert made.report.moved < 1e-12


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_pass_size_changes_nothing(rows: int) -> None:
    x, y = blobs()
    model = linear(4, 3)
    one, two = (
        IAU(IAUConfig(step="sgd", rows=r)).forget(model, x, y, np.arange(30)).model for r in (rows, 1024)
    )
    torch.testing.assert_close(flat(list(one.parameters())), flat(list(two.parameters())), rtol=0, atol=1e-14)


def test_dropout_is_off_and_the_layers_keep_their_flags() -> None:
    x, y = blobs()
    model = nn.Sequential(
        mlp((4, 8), rng=0, dtype=torch.float64), nn.Dropout(0.5), mlp((8, 3), rng=1, dtype=torch.float64)
    )
    model.train()
    one, two = (IAU().forget(model, x, y, [1, 2]) for _ in range(2))
    assert one.report.without_times() == two.report.without_times()
    assert one.model.training
    assert model[1].training


def test_a_mask_of_salient_weights_moves_only_them() -> None:
    x, y = blobs()
    model = mlp((4, 16, 3), rng=2, dtype=torch.float64)
    new = IAU(IAUConfig(salient=0.25)).forget(model, x, y, np.arange(20)).model
    moved = flat(list(new.parameters())) != flat(list(model.parameters()))
    assert int(moved.sum()) <= round(0.25 * len(moved))


def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    x, y = blobs(300, rng=4)
    return train(mlp((4, 32, 3), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=20, lr=0.01)), x, y


def test_the_step_size_is_the_largest_that_keeps_the_retained_accuracy() -> None:
    model, x, y = trained()
    grid = (1e-3, 0.01, 0.1, 1.0)
    before = IAU(IAUConfig(lr=1e-9)).forget(model, x, y, np.arange(30)).report.retain_accuracy[1]
    right = {
        lr: IAU(IAUConfig(lr=lr)).forget(model, x, y, np.arange(30)).report.retain_accuracy[1] for lr in grid
    }
    wanted = max(lr for lr in grid if right[lr] >= before - 0.01)
    assert wanted < 1.0
    report = IAU(IAUConfig(lrs=grid)).forget(model, x, y, np.arange(30)).report
    assert report.retain_accuracy[1] == right[wanted]
    assert f"lr = {wanted:g} of 4" in report.notes


def test_trust_stops_before_the_step_that_costs_too_much() -> None:
    model, x, y = trained()
    made = IAU(IAUConfig(lr=0.05, steps=10, trust=0.05)).forget(model, x, y, np.arange(30))
    assert made.report.retain_loss[1] <= made.report.retain_loss[0] + 0.05
    assert "stopped before step" in made.report.notes[-1]


def test_drawn_retained_rows_cost_in_proportion_and_follow_rng() -> None:
    model, x, y = trained()
    way = IAU(IAUConfig(step="sgd", retain_rows=70))
    one, same, other = (way.forget(model, x, y, np.arange(30), rng=r) for r in (1, 1, 2))
    assert one.report.passes == pytest.approx(100 / 300)
    assert one.report.without_times() == same.report.without_times()
    assert one.report.moved != other.report.moved


def test_restricted_training_makes_batch_gradients_smaller() -> None:
    x, y = blobs(300, rng=4)
    norms = []
    for alpha in (0.0, 3.0):
        objective = gradient_restriction(alpha)
        start = mlp((4, 32, 3), rng=0, dtype=torch.float64)
        model = train(start, x, y, TrainConfig(epochs=40, lr=0.01), objective=objective)
        norms.append(
            np.mean(
                [float(flat(mean_gradient(model, x[i], y[i])).norm()) for i in torch.arange(300).split(50)]
            )
        )
    assert norms[1] < 0.8 * norms[0]


# refusals


@pytest.mark.parametrize(
    ("forget", "retain", "text"),
    [
        ([1, 2], [2, 3], r"row 2 are to be forgotten and kept"),
        ([1, 200], None, r"`forget` names row 200"),
        ([-1], None, r"expected numbers from 0 to 199"),
        ([], None, r"no row is to be forgotten"),
        (np.ones(200, bool), None, r"every row is to be forgotten"),
        (np.ones(7, bool), None, r"the mask `forget` has shape \(7,\)"),
        ([0.5], None, r"holds float64"),
        ([3, 3], None, r"names 1 rows twice"),
    ],
)
def test_bad_rows_are_refused(forget: Any, retain: Any, text: str) -> None:
    x, y = blobs()
    with pytest.raises(LogError, match=text):
        IAU().forget(linear(4, 3), x, y, forget, retain=retain)


def test_bad_data_models_and_losses_are_refused() -> None:
    x, y = blobs()
    with pytest.raises(LogError, match="x has 200 rows and y 199"):
        IAU().forget(linear(4, 3), x, y[:199], [1])
    broken = x.clone()
    broken[5, 1] = float("nan")
    with pytest.raises(LogError, match="x is not finite at row 5"):
        IAU().forget(linear(4, 3), broken, y, [1])
    with pytest.raises(ConfigError, match="no parameter that takes a gradient"):
        IAU().forget(linear(4, 3).requires_grad_(False), x, y, [1])
    with pytest.raises(ConfigError, match=r"shape \(\)"):
        IAU().forget(linear(4, 3), x, y, [1], loss=lambda m, a, b: nn.functional.cross_entropy(m(a), b))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="curvature is given with step='adam'"):
        IAU(IAUConfig(curvature="explicit"))
    with pytest.raises(ConfigError, match=r"alpha = -0\.1"):
        gradient_restriction(-0.1)
    with pytest.raises(ConfigError, match="norm = 'each'"):
        gradient_restriction(0.1, "each")
    model, x, y = one_weight(1.0)
    with pytest.raises(ConfigError, match="the targets are no classes"):
        IAU(IAUConfig(lrs=(0.1,))).forget(model, x, y, [0], loss=squared)


def test_a_step_that_overflows_is_named() -> None:
    x, y = blobs()
    with pytest.raises(ConvergenceError, match="no longer finite after step 1"):
        IAU(IAUConfig(step="sgd", lr=1e308, c_f=1e10)).forget(linear(4, 3), x, y, [1])
