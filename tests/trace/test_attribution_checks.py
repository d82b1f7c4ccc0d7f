"""Checks of scores by retraining: the linear datamodeling score, the proximal problem, flipped predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from counterlog.core.errors import LogError
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig
from counterlog.trace import attribution_checks as checks
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig
from counterlog.trace.hessian_influence import HessianInfluence, HessianInfluenceConfig
from counterlog.trace.value_measurements import doubly_robust_value, importance_weighted_value

pytestmark = pytest.mark.torch


def test_scores_that_make_the_loss_linear_get_one_and_their_negative_minus_one() -> None:
    gen = np.random.default_rng(0)
    scores, masks = gen.normal(size=(30, 4)), checks.random_subsets(30, 25, 0)
    assert masks.sum(axis=1).tolist() == [15] * 25
    measured = 3 - masks @ scores
    found = checks.lds(scores, masks, measured)
    assert found.value == pytest.approx(1)
    assert found.lo <= found.value <= found.hi + 1e-12
    assert checks.lds(-scores, masks, measured).value == pytest.approx(-1)
    with pytest.raises(LogError, match="scores"):
        checks.lds(scores[:5], masks, measured)


def test_rank_correlation_by_hand() -> None:
    found = checks.rank_correlation(np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [30.0], [20.0]]))
    assert found == pytest.approx([0.5])


def test_without_best_removes_each_querys_best_rows() -> None:
    masks = checks.without_best(np.array([[3.0, 0.0], [1.0, 5.0], [2.0, 4.0]]), 2)
    assert masks.tolist() == [[False, True, False], [True, False, False]]


def case():  # type: ignore[no-untyped-def]
    gen = np.random.default_rng(0)
    y = torch.from_numpy(gen.integers(3, size=50))
    return torch.from_numpy(gen.normal(size=(50, 4)) + np.eye(3, 4)[y]), y


def test_the_proximal_problem_is_what_damped_gauss_newton_influence_approximates() -> None:
    x, y = case()
    model = mlp(
        (4, 6, 3), rng=0, dtype=torch.float64
    )  # not trained: the proximal problem does not ask for it
    changes = checks.pbrf_changes(model, x, y, range(6), x[6:12], y[6:12], damping=0.1, weight=1e-3)
    config = HessianInfluenceConfig(solver="explicit", damping=0.1)
    predicted = -1e-3 * HessianInfluence(model, x, y, config=config).explain(x[6:12], y[6:12])[:6]
    assert np.corrcoef(predicted.ravel(), changes.ravel())[0, 1] > 0.999
    assert np.polyfit(predicted.ravel(), changes.ravel(), 1)[0] == pytest.approx(1, abs=0.02)
    factored = EKFACInfluence(model, x, y, config=EKFACInfluenceConfig(damping=0.1, draws=50))
    found = -1e-3 * factored.explain(x[6:12], y[6:12])[:6]
    assert np.corrcoef(found.ravel(), changes.ravel())[0, 1] > 0.9


def test_subsets_are_trained_side_by_side() -> None:
    x, y = case()
    masks = checks.random_subsets(50, 3, 0)
    (models,) = checks.retrained(
        lambda s: mlp((4, 3), rng=s, dtype=torch.float64), x, y, masks, TrainConfig(epochs=2)
    )
    assert checks.measured_losses(models, x[:4], y[:4]).shape == (3, 4)
    with pytest.raises(LogError, match="different sizes"):
        masks[0] = True
        checks.retrained(lambda s: mlp((4, 3), rng=s), x, y, masks, TrainConfig(epochs=1))


def test_records_that_hold_a_policys_value_down_are_found() -> None:
    # one feature decides; a policy cloned from records, valued on logged rounds where action 1 pays
    gen = np.random.default_rng(0)
    x = torch.from_numpy(gen.normal(size=(60, 2)))
    y = torch.from_numpy(gen.integers(2, size=60))
    action = gen.integers(2, size=40)
    rounds = torch.from_numpy(np.column_stack([action, np.full(40, 0.5), action == 1]).astype(np.float64))
    model = mlp((2, 2), rng=0, dtype=torch.float64)
    rewards = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for measure in (
        importance_weighted_value,
        doubly_robust_value(lambda rows: rewards.expand(len(rows), 2)),
    ):
        way = EKFACInfluence(
            model,
            x,
            y,
            task=Task(measure=measure, unit="reward"),
            config=EKFACInfluenceConfig(fisher="empirical", damping=0.1),
        )
        found = way.aggregate(x[:40], rounds)
        # removing a record of action 0 raises the value of a policy that should play 1
        assert found[y.numpy() == 0].mean() > 0 > found[y.numpy() == 1].mean()
        assert way.score(x[:2], rounds[:2], k=2).unit.startswith("reward")
    with pytest.raises(LogError, match="propensity above 0"):
        importance_weighted_value(model, x[:40], rounds * 0)
