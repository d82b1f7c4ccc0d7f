import numpy as np
import pytest
from numpy.testing import assert_allclose

from counterlog.core.bellman import System, solve_weights
from counterlog.core.episodes import Episodes
from counterlog.core.ragged import Weights
from counterlog.core.state_policies import TablePolicy
from counterlog.core.tabular import TabularMDP
from counterlog.core.trajectory_models import Candidate
from counterlog.core.trajectory_terms import normalised_terms, plain_terms
from counterlog.estimate.trajectories import TrajectoriesConfig, shared_log

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.full((2, 2), 0.5)
TARGET = TablePolicy([[0.2, 0.8], [0.7, 0.3]])


@pytest.mark.parametrize("convention", ["gamma_log", "stationary"])
def test_weights_from_other_folds_have_the_scale_of_weights_from_the_whole_log(convention):
    log = MDP.sample(LOGGING, 1500, 10, rng=0)
    shared = shared_log(log, TrajectoriesConfig(gamma=0.9, convention=convention, folds=2))
    one = Candidate(shared, TARGET)
    assert_allclose(one.weights(crossfit=True), one.weights(), rtol=0.1)
    assert_allclose(one.state_weights(crossfit=True), one.state_weights(), rtol=0.1)


def test_a_weight_for_later_needs_a_later_row_unless_the_task_is_over():
    log = Episodes(
        offsets=[0, 3, 6],
        state=[0, 1, 0, 1, 0, 1],
        action=[0, 1, 0, 1, 0, 1],
        reward=np.ones(6),
        propensity=np.full(6, 0.5),
        terminated=[0, 0, 1, 0, 0, 0],
        truncated=[0, 0, 0, 0, 0, 1],
        final_state=[-1, 0],
    )
    endless = shared_log(log, TrajectoriesConfig())
    assert endless.base_rows(0).tolist() == [True] * 6
    assert endless.base_rows(2).tolist() == [True, True, True, True, False, False]
    over = shared_log(log, TrajectoriesConfig(truncation="end"))
    assert over.base_rows(2).tolist() == [True] * 6
    unknown = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=log.action,
        reward=log.reward,
        terminated=log.terminated,
        truncated=log.truncated,
    )
    assert shared_log(unknown, TrajectoriesConfig()).base_rows(0).tolist() == [True] * 5 + [False]


def test_rows_that_count_alike_keep_their_sum_when_some_are_left_out():
    log = MDP.sample(LOGGING, 20, 5, rng=0)
    shared = shared_log(log, TrajectoriesConfig(gamma=0.9, convention="stationary"))
    assert shared.row_scale(shared.base_rows(2)).sum() == pytest.approx(10.0)


def test_a_state_and_action_that_no_row_shows_has_weight_zero():
    equations = System(np.array([[0.5, -0.5], [0.0, 0.0]]), np.zeros(2), 1.0)
    assert_allclose(solve_weights(equations, np.array([1.0, 0.5]), 1e-6), [2.0, 0.0], atol=1e-5)


@pytest.mark.parametrize("terms", [plain_terms, normalised_terms])
def test_the_coefficient_of_every_weight_is_its_derivative(terms):
    gen = np.random.default_rng(0)
    offsets = np.array([0, 2, 5, 6])
    x, factor, logs = gen.normal(size=6), gen.uniform(0.5, 2, 6), gen.normal(size=6)
    gain = 0.9 ** np.array([0, 1, 0, 1, 2, 0])
    base = gen.normal(size=3)
    _, coefficient = terms(base, x, Weights(factor, logs, offsets), gain)
    for i in range(6):
        ends = []
        for step in (1e-6, -1e-6):
            moved = factor.copy()
            moved[i] += step
            ends.append(terms(base, x, Weights(moved, logs, offsets), gain)[0].mean())
        assert coefficient[i] * np.exp(logs[i]) / 3 == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)
