import narwhals as nw
import numpy as np
import pytest
from numpy.testing import assert_allclose

from counterlog.core.bellman import design
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.state_policies import LinearSoftmax, TablePolicy, log_ratios
from counterlog.core.tabular import TabularMDP
from counterlog.datasets.river import river, swimmers
from counterlog.estimate.fitted_q import FQE, FQEConfig
from counterlog.estimate.marginal_weights import (
    LEARNERS,
    MarginalWeights,
    MarginalWeightsConfig,
    row_weights,
    state_kernel,
    state_weights,
)

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.full((2, 2), 0.5)
TARGET = np.array([[0.2, 0.8], [0.7, 0.3]])


@pytest.fixture(scope="module")
def log():
    return MDP.sample(LOGGING, 2000, 20, rng=0)


def by_cell(log, w):
    return np.array([[w[(log.state == s) & (log.action == a)].mean() for a in range(2)] for s in range(2)])


def true_ratio(convention):
    logged = MDP.discounted_occupancy(LOGGING, 0.9, 20)
    if convention == "stationary":
        logged = MDP.occupancy(LOGGING, 20).mean(axis=0) / (1 - 0.9)
    return MDP.discounted_occupancy(TARGET, 0.9) / logged


@pytest.mark.parametrize("convention", ["gamma_log", "stationary"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_finds_the_true_ratio_of_a_small_process(log, learner, convention):
    made = MarginalWeights(MarginalWeightsConfig(gamma=0.9, learner=learner, convention=convention))
    found = by_cell(log, made.weights(log, TablePolicy(TARGET)))
    # the kernel sees 1,000 of the 40,000 rows; all others see every row
    assert_allclose(found, true_ratio(convention), rtol=0.15 if learner == "kernel" else 0.06)


def test_state_weights_are_the_ratio_of_state_occupancies(log):
    d = design(log, truncation="bootstrap")
    ratio = np.exp(log_ratios(log, TablePolicy(TARGET)))
    omega = row_weights(log, 0.9, "gamma_log", "bootstrap")
    w = state_weights(d, ratio, 0.9, omega, 1e-6)
    true = MDP.discounted_occupancy(TARGET, 0.9).sum(axis=1) / MDP.discounted_occupancy(LOGGING, 0.9, 20).sum(
        axis=1
    )
    assert_allclose([w[: log.rows][log.state == s][0] for s in range(2)], true, rtol=0.06)


def test_the_logging_policy_has_weights_of_one_when_the_log_has_no_end():
    # stationary from the start: the log begins in its own stationary distribution
    flow = np.einsum("ij,ijk->ik", LOGGING, MDP.transition)
    left = np.linalg.matrix_power(flow, 200)[0]
    still = TabularMDP(MDP.transition, MDP.reward, left / left.sum())
    log = still.sample(LOGGING, 4000, 10, rng=1)
    made = MarginalWeights(MarginalWeightsConfig(gamma=0.9, convention="stationary"))
    assert_allclose(made.weights(log, TablePolicy(LOGGING)), 1.0, atol=0.03)


def test_linear_weights_and_the_linear_q_function_give_one_value(log):
    weights = MarginalWeights(MarginalWeightsConfig(gamma=0.9, convention="stationary", ridge=0.0))
    values = FQE(FQEConfig(gamma=0.9, ridge=0.0))
    one, two = (x.estimate(log, TablePolicy(TARGET)) for x in (weights, values))
    assert one.value == pytest.approx(two.value, rel=1e-9) and one.se == pytest.approx(two.se, rel=1e-6)


def test_dice_weights_are_never_negative_and_normalised_ones_sum_to_the_discounted_time():
    log = river().sample(swimmers()["swim-4"], 100, 40, rng=0)
    omega = row_weights(log, 0.95, "gamma_log", "bootstrap")
    for learner in ("dualdice", "gendice", "bestdice", "mwl"):
        made = MarginalWeights(MarginalWeightsConfig(gamma=0.95, learner=learner))
        w = made.weights(log, TablePolicy(swimmers()["swim-6"]))
        assert w.min() >= 0
        if learner in ("gendice", "bestdice"):
            assert omega @ w == pytest.approx(20.0, rel=1e-3)


def test_the_kernel_of_codes_is_equality_and_of_vectors_a_bell():
    codes = np.array([[0.0], [1.0]])
    assert state_kernel(codes, codes, 0.0).tolist() == [[1, 0], [0, 1]]
    far = state_kernel(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), 5.0)
    assert far[0, 0] == pytest.approx(np.exp(-0.5))


def test_kernel_weights_work_for_states_that_are_vectors():
    gen = np.random.default_rng(0)
    n, steps = 300, 10
    x = np.zeros((n, steps + 1, 1))
    a = np.zeros((n, steps), int)
    x[:, 0, 0] = gen.normal(size=n)
    for t in range(steps):
        a[:, t] = gen.random(n) < 0.5
        x[:, t + 1, 0] = 0.8 * x[:, t, 0] + 0.5 * (2 * a[:, t] - 1) + 0.3 * gen.normal(size=n)
    log = Episodes(
        offsets=np.arange(n + 1) * steps,
        state=x[:, :-1].reshape(-1, 1),
        action=a.ravel(),
        reward=x[:, :-1].ravel(),
        propensity=np.full(n * steps, 0.5),
        truncated=np.tile(np.arange(steps) == steps - 1, n),
        final_state=x[:, -1],
    )
    policy = LinearSoftmax(np.zeros((1, 2)), [-0.4, 0.4])  # drifts up: E[2a - 1] = tanh(.4)
    true = sum(0.9**t * 0.5 * np.tanh(0.4) * (1 - 0.8**t) / 0.2 for t in range(400))
    for learner, slack in (("linear", 0.4), ("kernel", 1.0)):
        made = MarginalWeights(MarginalWeightsConfig(gamma=0.9, learner=learner))
        assert abs(made.estimate(log, policy).value - true) < slack


def test_equal_seeds_give_equal_kernel_weights(log):
    made = MarginalWeights(MarginalWeightsConfig(gamma=0.9, learner="kernel"))
    one, two, other = (made.estimate(log, TablePolicy(TARGET), rng=r).value for r in (0, 0, 1))
    assert one == two != other


def test_what_has_no_finite_sum_or_no_weights_is_refused():
    ending = TabularMDP(MDP.transition * 0.9, MDP.reward, MDP.start)
    log = ending.sample(LOGGING, 50, 20, rng=0)
    with pytest.raises(ConfigError, match=r"gendice makes the weights sum.*terminate"):
        MarginalWeights(MarginalWeightsConfig(learner="gendice")).estimate(log, TablePolicy(TARGET))
    with pytest.raises(ConfigError, match="endless sum"):
        MarginalWeights(MarginalWeightsConfig(gamma=1.0, convention="stationary")).weights(
            log, TablePolicy(TARGET)
        )
    assert np.isfinite(
        MarginalWeights(MarginalWeightsConfig(gamma=1.0)).estimate(log, TablePolicy(TARGET)).value
    )
    never = ending.sample(np.array([[1.0, 0.0], [1.0, 0.0]]), 50, 20, rng=0)
    with pytest.raises(SupportError, match="every weight is 0"):
        MarginalWeights(MarginalWeightsConfig(ridge=1e-6)).estimate(
            never, lambda s: np.tile([0.0, 1.0], (len(s), 1))
        )


def contract_example(frame):
    """The shared log as trajectories of four rows."""
    row = nw.from_native(frame, eager_only=True).with_row_index("row")
    row = row.with_columns(trajectory=nw.col("row") // 4, t=nw.col("row") % 4)
    roles = {"trajectory": "trajectory", "t": "t", "state": ["x"], "action": "item"}
    log = Episodes.from_table(row.to_native(), **roles, reward="click", propensity="p")

    def uniform(states):
        return np.full((len(states), len(log.actions)), 1 / len(log.actions))

    return MarginalWeights().estimate(log, uniform, rng=3)
