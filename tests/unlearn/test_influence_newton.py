"""One Newton step: exact where the loss is quadratic, near where it is convex."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError
from counterlog.core.newton_products import (
    conjugate_gradient,
    explicit_hessian,
    gauss_newton_product,
    row_gradients,
)
from counterlog.core.torch_models import (
    cross_entropy_rows,
    flat,
    mean_gradient,
    mlp,
    squared_error_rows,
    weights_of,
)
from counterlog.unlearn.forget_request import UnlearnReport
from counterlog.unlearn.influence_newton import InfluenceNewton, InfluenceNewtonConfig, woodfisher

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> UnlearnReport:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return (
        InfluenceNewton(InfluenceNewtonConfig(steps=5))
        .forget(model, x, y, np.arange(20), rng=3)
        .report.without_times()
    )


def blobs(n: int = 200, *, rng: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n)
    return torch.from_numpy(gen.normal(size=(n, 4)) + 2.0 * np.eye(3, 4)[y]), torch.from_numpy(y)


def test_ridge_regression_is_retrained_exactly() -> None:
    gen = np.random.default_rng(0)
    x, y = gen.normal(size=(50, 4)), gen.normal(size=50)
    l2, gone = 0.3, np.array([3, 8, 20])

    def fit(rows: np.ndarray) -> np.ndarray:
        return np.linalg.solve(
            x[rows].T @ x[rows] / len(rows) + l2 * np.eye(4), x[rows].T @ y[rows] / len(rows)
        )

    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(fit(np.arange(50)))[None])
    config = InfluenceNewtonConfig(curvature="explicit", damping=0.0, l2=l2)
    made = InfluenceNewton(config).forget(model, x, y, gone, loss=squared_error_rows)
    wanted = fit(np.setdiff1d(np.arange(50), gone))
    np.testing.assert_allclose(made.model.weight.detach().numpy()[0], wanted, atol=1e-10)


def test_softmax_regression_is_nearly_retrained() -> None:
    x, y = blobs()
    l2, gone = 0.05, np.arange(20)
    model, retrained = optimum(x, y, l2), optimum(x[20:], y[20:], l2)
    start, target = flat(list(model.parameters())), flat(list(retrained.parameters()))
    for curvature in ("explicit", "cg"):
        config = InfluenceNewtonConfig(curvature=curvature, damping=0.0, l2=l2)
        new = flat(list(InfluenceNewton(config).forget(model, x, y, gone).model.parameters()))
        assert float((new - target).norm()) < 0.05 * float((start - target).norm())


def optimum(x: torch.Tensor, y: torch.Tensor, l2: float) -> nn.Sequential:
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    weights = weights_of(model)
    for _ in range(20):
        gradient = flat(mean_gradient(model, x, y)) + l2 * flat(weights)
        move = torch.linalg.solve(explicit_hessian(model, x, y, l2=l2), gradient)
        with torch.no_grad():
            nn.utils.vector_to_parameters(flat(weights) - move, weights)
    return model


def test_for_a_linear_model_gauss_newton_is_the_hessian() -> None:
    x, y = blobs(60)
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    hessian = explicit_hessian(model, x, y)
    product = gauss_newton_product(model, x, y, rows=17)
    found = torch.stack([product(e) for e in torch.eye(15, dtype=torch.float64)])
    torch.testing.assert_close(found, hessian, rtol=0, atol=1e-12)


def test_row_gradients_average_to_the_mean_gradient() -> None:
    x, y = blobs(60)
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    found = row_gradients(model, x, y, cross_entropy_rows)(0, 60)
    torch.testing.assert_close(found.mean(dim=0), flat(mean_gradient(model, x, y)), rtol=0, atol=1e-12)


def test_conjugate_gradients_by_hand() -> None:
    A = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double()
    found, left = conjugate_gradient(lambda v: A @ v, torch.tensor([3.0, 4.0]).double(), damping=0.0, steps=5)
    np.testing.assert_allclose(found, [1, 1], atol=1e-10)
    assert left < 1e-8
    with pytest.raises(ConvergenceError, match="the curvature along a direction is"):
        conjugate_gradient(lambda v: -v, torch.ones(2), damping=0.0, steps=2)


def test_the_recursion_by_hand() -> None:
    # N = 2, g1 = (1, 0), g2 = (1, 1), v = (2, 2): o = (1, 0), o.g2 = 1, k.g2 = 4: k = v - o 4/3 = (2/3, 2)
    found = woodfisher(torch.tensor([2.0, 2.0]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 2)
    np.testing.assert_allclose(found, [2 / 3, 2], rtol=1e-6)
    # a third g = (0, 1) meets o = (1, 0)(1 - 1/3): o.g = 0, k.g = 2, k = (2/3, 2) - (2/3, 0) = (0, 2)
    found = woodfisher(torch.tensor([2.0, 2.0]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), 2)
    np.testing.assert_allclose(found, [0, 2], atol=1e-6)


def test_the_recursion_climbs_on_the_forgotten_rows() -> None:
    x, y = blobs()
    model = mlp((4, 8, 3), rng=0, dtype=torch.float64)
    config = InfluenceNewtonConfig(curvature="woodfisher", scale=5.0)
    report = InfluenceNewton(config).forget(model, x, y, np.arange(20)).report
    assert report.forget_loss[1] - report.forget_loss[0] > report.retain_loss[1] - report.retain_loss[0]


def test_too_many_weights_and_unknown_losses_are_refused() -> None:
    x, y = blobs()
    big = mlp((4, 1000, 3), rng=0, dtype=torch.float64)
    with pytest.raises(ConfigError, match="the model has 8,003 weights"):
        InfluenceNewton(InfluenceNewtonConfig(curvature="explicit")).forget(big, x, y, [1])
    with pytest.raises(ConfigError, match="knows the curvature of cross-entropy only"):
        InfluenceNewton().forget(
            nn.Linear(4, 1, dtype=torch.float64), x, x[:, 0], [1], loss=squared_error_rows
        )
