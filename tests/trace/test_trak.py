"""TRAK: projections of the margin's gradients."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError, LogError
from counterlog.core.gradient_projections import random_matrix
from counterlog.core.row_tasks import margin_rows
from counterlog.core.torch_models import mlp
from counterlog.trace.network_scores import InfluenceScores
from counterlog.trace.trak import TRAK, TRAKConfig, attribution

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float64)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    model = mlp((2, 8, 3), rng=0, dtype=torch.float64)
    return TRAK(model, x, y, config=TRAKConfig(dimension=16), rng=3).score(x[:3], y[:3], k=4)


def classes(n: int = 60, *, rng: int = 0) -> Any:
    gen = np.random.default_rng(rng)
    return torch.from_numpy(gen.normal(size=(n, 4))), torch.from_numpy(gen.integers(3, size=n))


def test_the_margin_is_the_log_odds_of_the_label() -> None:
    model = nn.Identity()
    logits = torch.tensor([[0.2, 0.5, -0.3]])
    p = logits.softmax(dim=1)[0, 1]
    assert float(margin_rows(model, logits, torch.tensor([1]))) == pytest.approx(float((p / (1 - p)).log()))


def test_attribution_by_hand() -> None:
    phi = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = attribution(torch.tensor([[3.0, 4.0]]), phi, ridge=0.0)
    assert found.tolist() == [pytest.approx([3.0, 2.0])]


def test_signs_have_unit_length_in_expectation_and_are_seeded() -> None:
    like = torch.zeros(())
    a, b = (random_matrix(400, 64, kind, 0, "layer", like=like) for kind in ("rademacher", "normal"))
    assert float(a.square().sum(dim=1).mean()) == pytest.approx(1)
    assert float(b.square().sum(dim=1).mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(a, random_matrix(400, 64, "rademacher", 0, "layer", like=like))
    assert not torch.equal(a, random_matrix(400, 64, "rademacher", 1, "layer", like=like))


def test_a_linear_model_with_all_dimensions_does_not_depend_on_the_projection() -> None:
    x, y = classes()
    model = mlp((4, 2), rng=0, dtype=torch.float64)
    y = y.clamp_max(1)
    # k = 10 weights, a margin of two classes spans 5 directions: the ridge makes both solvable
    a, b = (
        TRAK(model, x, y, config=TRAKConfig(dimension=1_500, projection=kind, ridge=1e-3, batch=32)).explain(
            x[:3], y[:3]
        )
        for kind in ("rademacher", "normal")
    )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_several_models_are_averaged_and_the_row_itself_helps() -> None:
    x, y = classes()
    one, two = (mlp((4, 6, 3), rng=r, dtype=torch.float64) for r in (0, 1))
    config = TRAKConfig(dimension=20)
    both = TRAK(one, x, y, models=[two], config=config).explain(x[:5], y[:5])
    assert (np.diag(both[:5]) > 0).all()
    assert not np.allclose(both, TRAK(one, x, y, config=config).explain(x[:5], y[:5]))


def test_refusals() -> None:
    x, y = classes()
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"no inverse[\s\S]*ridge"):
        TRAK(model, x, y, config=TRAKConfig(dimension=200)).explain(x[:1], y[:1])
    with pytest.raises(ConfigError, match="class numbers"):
        from counterlog.core.row_tasks import Task
        from counterlog.core.torch_models import squared_error_rows

        TRAK(mlp((4, 1), rng=0, dtype=torch.float64), x, y.double(), task=Task(loss=squared_error_rows))
    with pytest.raises(LogError, match="no query"):
        TRAK(model, x, y).explain(x[:0], y[:0])
