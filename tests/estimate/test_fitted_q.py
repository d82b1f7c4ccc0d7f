import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from counterlog.core.bellman import design, system, table_of
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, ConvergenceError, LogError
from counterlog.core.state_policies import LinearSoftmax, TablePolicy
from counterlog.core.tabular import TabularMDP
from counterlog.estimate.fitted_q import FQE, FQEConfig, fit_q

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.2], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.array([[0.5, 0.5], [0.25, 0.75]])
TARGET = np.array([[0.2, 0.8], [0.7, 0.3]])


def chain(**changes):
    """One state, one action, reward 1, one step a trajectory."""
    arrays = {
        "offsets": [0, 1, 2],
        "state": [0, 0],
        "action": [0, 0],
        "reward": [1.0, 1.0],
        "terminated": [1, 1],
    }
    return Episodes(**(arrays | changes))


def only(states):
    return np.ones((len(states), 1))


def test_a_terminated_step_is_worth_its_reward_and_a_cut_one_goes_on_for_ever():
    setting = FQEConfig(gamma=0.9, ridge=0.0)
    assert FQE(setting).estimate(chain(), only).value == pytest.approx(1.0)
    cut = chain(terminated=[0, 0], truncated=[1, 1], final_state=[0, 0])
    assert FQE(setting).estimate(cut, only).value == pytest.approx(10.0)
    over = FQEConfig(gamma=0.9, ridge=0.0, truncation="end")
    assert FQE(over).estimate(cut, only).value == pytest.approx(1.0)


def test_a_cut_without_final_state_uses_only_known_successors():
    cut = chain(
        offsets=[0, 2, 4],
        state=[0] * 4,
        action=[0] * 4,
        reward=[1.0, 99.0, 1.0, 99.0],
        terminated=None,
        truncated=[0, 1, 0, 1],
    )
    assert FQE(FQEConfig(gamma=0.9, ridge=0.0)).estimate(cut, only).value == pytest.approx(10.0)


def test_the_table_solves_the_empirical_bellman_equation():
    log = MDP.sample(LOGGING, 300, 8, rng=0)
    d = design(log, truncation="bootstrap")
    probs = d.probs(TablePolicy(TARGET))
    q = table_of(d, fit_q(system(d, probs, 0.9, np.ones(log.rows)), 0.0))
    v = (q * probs).sum(axis=1)
    target = log.reward + 0.9 * d.alive * v[d.follow]
    for s in range(2):
        for a in range(2):
            rows = (log.state == s) & (log.action == a)
            assert q[: log.rows][rows, a][0] == pytest.approx(target[rows].mean(), abs=1e-10)


def test_the_value_tends_to_the_truth_and_the_interval_covers_it():
    log = MDP.sample(LOGGING, 20_000, 15, rng=1)
    estimate = FQE(FQEConfig(gamma=0.9)).estimate(log, TablePolicy(TARGET))
    assert abs(estimate.value - MDP.value(TARGET, 0.9)) < 4 * estimate.se
    assert estimate.se < 0.05


def test_the_spread_is_that_of_repeated_logs():
    estimates = [
        FQE(FQEConfig(gamma=0.9)).estimate(MDP.sample(LOGGING, 150, 10, rng=s), TablePolicy(TARGET))
        for s in range(200)
    ]
    spread = np.std([e.value for e in estimates], ddof=1)
    assert np.mean([e.se for e in estimates]) == pytest.approx(spread, rel=0.15)


def test_linear_features_recover_a_value_that_is_linear():
    # reward = x, x keeps its place, policy does not matter: V = x / (1 - gamma)
    gen = np.random.default_rng(0)
    x = np.repeat(gen.normal(size=50), 4)[:, None]
    log = Episodes(
        offsets=np.arange(51) * 4,
        state=x,
        action=gen.integers(0, 2, 200),
        reward=x[:, 0],
        truncated=np.tile([0, 0, 0, 1], 50),
        final_state=x[::4],
    )
    for features in ("linear", "quadratic"):
        made = FQE(FQEConfig(gamma=0.5, features=features, ridge=1e-12))
        policy = LinearSoftmax(np.array([[1.0, -1.0]]))
        assert made.estimate(log, policy).value == pytest.approx(2 * x[::4].mean(), abs=1e-6)


def test_own_features_take_the_place_of_named_ones():
    log = MDP.sample(LOGGING, 100, 8, rng=0)
    own = FQE(FQEConfig(gamma=0.9), features=lambda s, t: np.eye(2)[s])
    named = FQE(FQEConfig(gamma=0.9))
    assert own.estimate(log, TablePolicy(TARGET)).value == pytest.approx(
        named.estimate(log, TablePolicy(TARGET)).value
    )


def test_features_that_know_the_step_are_exact_for_a_finite_horizon():
    log = MDP.sample(LOGGING, 4000, 4, rng=2)
    made = FQE(FQEConfig(gamma=0.9, time=True, truncation="end"))
    estimate = made.estimate(log, TablePolicy(TARGET))
    assert abs(estimate.value - MDP.value(TARGET, 0.9, 4)) < 4 * estimate.se
    blind = FQE(FQEConfig(gamma=0.9, truncation="end")).estimate(log, TablePolicy(TARGET))
    assert "do not know the step" in blind.notes[1] and len(estimate.notes) == 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_relabelled_states_and_actions_change_nothing(seed):
    log = MDP.sample(LOGGING, 40, 6, rng=seed)
    other = Episodes(
        offsets=log.offsets,
        state=1 - log.state,
        action=1 - log.action,
        reward=log.reward,
        terminated=log.terminated,
        truncated=log.truncated,
        final_state=np.where(log.final_state >= 0, 1 - log.final_state, -1),
    )
    one = FQE().estimate(log, TablePolicy(TARGET))
    two = FQE().estimate(other, TablePolicy(TARGET[::-1, ::-1]))
    assert_allclose([two.value, two.lo, two.hi], [one.value, one.lo, one.hi], rtol=1e-6)


def test_actions_never_logged_in_a_state_are_reported():
    log = chain(action=[0, 0], actions=2)
    estimate = FQE().estimate(log, lambda s: np.tile([0.75, 0.25], (len(s), 1)))
    assert not estimate.valid and "25.00% of the policy's actions" in estimate.notes[1]


def test_what_cannot_be_fitted_is_refused():
    log = MDP.sample(LOGGING, 10, 4, rng=0)
    with pytest.raises(ConfigError, match="linear features need numbers as states"):
        FQE(FQEConfig(features="linear")).estimate(log, TablePolicy(TARGET))
    with pytest.raises(LogError, match="no 'reward'"):
        FQE().estimate(chain(reward=None), only)
    with pytest.raises(LogError, match="continuous ones"):
        FQE().estimate(chain(action=np.ones((2, 1))), only)
    with pytest.raises(ConvergenceError, match="singular"):
        FQE(FQEConfig(ridge=0.0)).estimate(chain(actions=2), lambda s: np.full((len(s), 2), 0.5))
    wide = chain(state=np.ones((2, 1)))
    with pytest.raises(ConfigError, match=r"7,000 unknowns"):
        FQE(features=lambda s, t: np.ones((len(s), 7000))).estimate(wide, only)
    with pytest.raises(ConfigError, match="tabular features need state codes"):
        FQE(FQEConfig(features="tabular")).estimate(wide, only)


def contract_example(frame):
    """The shared log as trajectories of four rows."""
    row = nw.from_native(frame, eager_only=True).with_row_index("row")
    row = row.with_columns(trajectory=nw.col("row") // 4, t=nw.col("row") % 4)
    roles = {"trajectory": "trajectory", "t": "t", "state": ["x"], "action": "item"}
    log = Episodes.from_table(row.to_native(), **roles, reward="click", propensity="p")

    def uniform(states):
        return np.full((len(states), len(log.actions)), 1 / len(log.actions))

    return FQE().estimate(log, uniform, rng=3)
