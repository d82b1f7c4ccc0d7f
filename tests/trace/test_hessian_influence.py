"""Classical influence functions by four solvers."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import Tensor

from counterlog.core.curvature_solvers import hessian_product, lanczos, lissa
from counterlog.core.errors import ConfigError, ConvergenceError, LogError
from counterlog.core.newton_products import explicit_hessian, row_gradients
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import mlp, squared_error_rows
from counterlog.trace.hessian_influence import HessianInfluence, HessianInfluenceConfig
from counterlog.trace.network_scores import InfluenceScores

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 4, 3), rng=0, dtype=torch.float64)
    config = HessianInfluenceConfig(solver="explicit", damping=0.1)
    return HessianInfluence(model, x, y, config=config, rng=3).score(x[:3], y[:3], k=4)


def case() -> tuple[Any, Tensor, Tensor, Tensor, np.ndarray]:
    """Softmax regression: its Hessian is its Gauss-Newton matrix, and every solver must find the same scores."""
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(40, 4))), torch.from_numpy(gen.integers(3, size=40))
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    g = row_gradients(model, x, y)(0, 40).detach()
    H = explicit_hessian(model, x, y, l2=0.1)
    return model, x, y, H, (g @ torch.linalg.solve(H, g[:5].T)).numpy()


def found(solver: str, curvature: str = "gauss_newton", **settings: Any) -> np.ndarray:
    model, x, y, *_ = case()
    config = HessianInfluenceConfig(solver=solver, curvature=curvature, damping=0.1, **settings)
    return HessianInfluence(model, x, y, config=config).explain(x[:5], y[:5])


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_explicit_and_conjugate_gradients_are_exact(curvature: str) -> None:
    exact = case()[-1]
    assert np.abs(found("explicit", curvature) - exact).max() < 1e-8 * np.abs(exact).max()
    assert np.abs(found("cg", curvature, cg_tolerance=1e-9) - exact).max() < 1e-5 * np.abs(exact).max()


def test_all_pairs_of_arnoldi_are_exact_and_few_are_the_leading_part() -> None:
    model, x, y, H, exact = case()
    assert found("arnoldi", arnoldi_keep=15) == pytest.approx(exact, rel=1e-5, abs=1e-8)
    values, vectors = lanczos(hessian_product(model, x, y), 15, steps=15, keep=3, like=H[0], seed=0)
    bare = torch.linalg.eigvalsh(H - 0.1 * torch.eye(15, dtype=torch.float64))
    assert values.tolist() == pytest.approx(bare.flip(0)[:3].tolist())
    assert (vectors @ vectors.T).tolist() == [pytest.approx(row.tolist(), abs=1e-8) for row in torch.eye(3)]


def test_lissa_converges_to_the_inverse_and_its_sampled_form_comes_near() -> None:
    _, _, _, H, exact = case()
    b = torch.ones(15, dtype=torch.float64)
    bare = H - 0.1 * torch.eye(15, dtype=torch.float64)
    v = lissa(lambda _: lambda u: bare @ u, b, damping=0.1, scale=0.5, depth=500)
    assert v.tolist() == pytest.approx(torch.linalg.solve(H, b).tolist())
    near = found("lissa", lissa_depth=200, lissa_repeats=1, lissa_batch=40)
    assert np.corrcoef(near.ravel(), exact.ravel())[0, 1] > 0.97


def test_a_hessian_product_is_the_matrix_times_the_vector() -> None:
    gen = np.random.default_rng(2)
    x, y = torch.from_numpy(gen.normal(size=(9, 3))), torch.from_numpy(gen.integers(2, size=9))
    model = mlp((3, 4, 2), rng=1, dtype=torch.float64)
    H = explicit_hessian(model, x, y)
    v = torch.from_numpy(gen.normal(size=len(H)))
    assert hessian_product(model, x, y, rows=4)(v).tolist() == pytest.approx((H @ v).tolist())


def test_refusals() -> None:
    model, x, y, *_ = case()
    with pytest.raises(ConvergenceError, match=r"LiSSA grows[\s\S]*lissa_scale"):
        found("lissa", lissa_scale=500.0)
    with pytest.raises(ConfigError, match="cross-entropy only"):
        HessianInfluence(
            mlp((4, 1), rng=0, dtype=torch.float64), x, y.double(), task=Task(loss=squared_error_rows)
        )
    with pytest.raises(ConfigError, match=r"weights[\s\S]*solver='cg'"):
        big = mlp((4, 1200, 3), rng=0, dtype=torch.float64)
        HessianInfluence(big, x, y, config=HessianInfluenceConfig(solver="explicit")).explain(x[:1], y[:1])
    with pytest.raises(LogError, match="no query"):
        HessianInfluence(model, x, y).explain(x[:0], y[:0])
