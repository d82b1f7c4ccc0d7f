from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import ConfigError, LogError
from counterlog.online.igw import (
    exploration_cost,
    fastcb,
    gamma_falcon,
    gamma_for_budget,
    gamma_from_error,
    gamma_schedule,
    gamma_theory,
    igw,
)


def cases(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    eligible = random.random((n, k)) < 0.6
    eligible[np.arange(n), random.integers(k, size=n)] = True
    return random.random((n, k)), eligible, 10 ** random.uniform(-2, 5, n)


def test_three_actions_by_hand() -> None:
    p = igw(np.array([[0.9, 0.8, 0.5]]), gamma=10.0)
    assert p[0] == pytest.approx([1 - 1 / 4 - 1 / 7, 1 / 4, 1 / 7], abs=1e-15)


def test_ties_go_to_the_lowest_code() -> None:
    p = igw(np.array([[0.9, 0.9, 0.5]]), gamma=100.0)
    assert p[0] == pytest.approx([2 / 3 - 1 / 43, 1 / 3, 1 / 43], abs=1e-15)


def test_the_limits_of_gamma_are_uniform_and_greedy() -> None:
    f = np.array([[0.9, 0.8, 0.5]])
    assert igw(f, gamma=0.0)[0] == pytest.approx([1 / 3] * 3, abs=1e-15)
    assert igw(f, gamma=1e12)[0, 0] > 1 - 1e-9


def test_the_fast_path_and_the_general_one_agree() -> None:
    f = np.random.default_rng(0).random((20_000, 7))
    gamma = np.linspace(1, 500, len(f))
    np.testing.assert_allclose(igw(f, gamma=gamma), igw(f, np.ones(f.shape, bool), gamma=gamma), rtol=1e-12)


def test_properties_on_ten_thousand_rows() -> None:
    f, eligible, gamma = cases(1, 10_000, 6)
    p, k = igw(f, eligible, gamma=gamma), eligible.sum(axis=1)
    best = np.where(eligible, f, -1).argmax(axis=1)
    gap = f[np.arange(len(f)), best][:, None] - f
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p >= 0).all() and (p[~eligible] == 0).all()
    assert (p[np.arange(len(f)), best] >= 1 / k - 1e-12).all()
    assert ((p * np.where(eligible, gap, 0)).sum(axis=1) <= (k - 1) / gamma + 1e-12).all()
    for row in range(200):
        order = np.argsort(f[row, eligible[row]])
        assert (np.diff(p[row, eligible[row]][order]) >= -1e-12).all()


def test_the_inequality_behind_the_regret_bound() -> None:
    """sum p [(max f* - f*_a) - gamma/4 (f_a - f*_a)^2] <= (2K - 1)/gamma, for every truth f*."""
    random = np.random.default_rng(2)
    worst = 0.0
    for k in (2, 3, 5, 10):
        f = random.random((10_000, k))
        size = 10 ** random.uniform(-3, 0, (10_000, 1))
        truth = np.clip(f + size * random.uniform(-1, 1, f.shape), 0, 1)
        gamma = 10 ** random.uniform(-1, 4, 10_000)
        p = igw(f, gamma=gamma)
        left = p * ((truth.max(axis=1, keepdims=True) - truth) - gamma[:, None] / 4 * (f - truth) ** 2)
        assert (left.sum(axis=1) <= (2 * k - 1) / gamma + 1e-12).all()
        worst = max(worst, float((left.sum(axis=1) * gamma / k).max()))
    assert worst > 0.8  # the bound is not idle: a wrong sign or a wrong K would break it


def test_removing_an_ineligible_column_changes_nothing() -> None:
    f = np.random.default_rng(3).random((50, 4))
    mask = np.ones(f.shape, bool)
    mask[:, 2] = False
    masked = igw(f, mask, gamma=30.0)
    assert (masked[:, 2] == 0).all()
    np.testing.assert_allclose(
        np.delete(masked, 2, axis=1), igw(np.delete(f, 2, axis=1), gamma=30.0), rtol=1e-12
    )


def test_a_single_eligible_action_is_certain() -> None:
    mask = np.array([[False, True, False]])
    assert igw(np.array([[0.9, 0.1, 0.3]]), mask, gamma=5.0).tolist() == [[0.0, 1.0, 0.0]]
    assert fastcb(np.array([[0.9, 0.1, 0.3]]), mask, gamma=5.0).tolist() == [[0.0, 1.0, 0.0]]


def test_the_floor_is_reached_and_keeps_the_sum() -> None:
    p = igw(np.array([[0.9, 0.1, 0.1]]), gamma=1e9, floor=0.02)
    assert p.min() >= 0.02 and p.sum() == pytest.approx(1, abs=1e-15)


def test_fastcb_by_hand() -> None:
    p = fastcb(np.array([[0.9, 0.5]]), gamma=10.0)  # losses .1 and .5: .1 / (2 * .1 + 10 * .4)
    assert p[0] == pytest.approx([1 - 0.1 / 4.2, 0.1 / 4.2], abs=1e-15)


def test_fastcb_explores_less_than_igw_where_the_best_loss_is_small() -> None:
    f = np.array([[0.999, 0.9]])
    assert fastcb(f, gamma=50.0)[0, 1] < igw(f, gamma=50.0)[0, 1]


def test_schedules_by_hand() -> None:
    assert gamma_theory(4, 100, 5 - math.log(40), 0.05) == pytest.approx(math.sqrt(80))
    assert gamma_schedule(400, scale=10, exponent=0.5) == 200.0
    assert gamma_falcon(9, 100, classes=math.e**4 * 0.05 / 100, delta=0.05, c=1) == pytest.approx(15.0)
    assert gamma_from_error(8, 0.02, c=0.5) == pytest.approx(10.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-4, 0.05))
def test_the_budget_is_met(seed: int, budget: float) -> None:
    f, eligible, _ = cases(seed, 40, 5)
    gamma = float(gamma_for_budget(f, eligible, budget=budget)[0])
    spent = exploration_cost(f, eligible, gamma=gamma).mean()
    most = exploration_cost(f, eligible, gamma=1e-6).mean()
    assert spent == pytest.approx(min(budget, most), rel=1e-6)


def test_budgets_row_by_row() -> None:
    f = np.random.default_rng(4).random((30, 3))
    wanted = np.linspace(0.001, 0.02, 30)
    gamma = gamma_for_budget(f, budget=wanted)
    most = exploration_cost(f, gamma=1e-6)
    np.testing.assert_allclose(exploration_cost(f, gamma=gamma), np.minimum(wanted, most), rtol=1e-6)


def test_refusals() -> None:
    f = np.array([[0.9, 0.8, 0.5]])
    with pytest.raises(ConfigError, match="gamma = -1"):
        igw(f, gamma=-1.0)
    with pytest.raises(ConfigError, match=r"floor = 0\.5"):
        igw(f, gamma=1.0, floor=0.5)
    with pytest.raises(LogError, match="not a finite number in 1 of 1 rows: row 0"):
        igw(np.array([[0.9, np.nan]]), gamma=1.0)
    with pytest.raises(LogError, match="not a finite number"):
        igw(np.array([[0.9, -np.inf]]), gamma=1.0)
    with pytest.raises(LogError, match="no action is eligible in 1 of 1 rows: row 0"):
        igw(f, np.zeros((1, 3), bool), gamma=1.0)
    with (
        pytest.warns(UserWarning, match="below the number of eligible"),
        pytest.raises(LogError, match="negative"),
    ):
        igw(np.array([[0.5, 0.5, 0.5]]), gamma=1.0, mu=1.0)
    with pytest.raises(ConfigError, match="budget = 0"):
        gamma_for_budget(f, budget=0.0)
    with pytest.raises(ConfigError, match="0 decisions before the first epoch"):
        gamma_falcon(3, 0, classes=10)
    with pytest.raises(ConfigError, match="squared error 0"):
        gamma_from_error(3, 0.0)
    with pytest.raises(LogError, match=r"outside \[0, 1\]"):
        fastcb(np.array([[1.5, 0.2]]), gamma=1.0)
