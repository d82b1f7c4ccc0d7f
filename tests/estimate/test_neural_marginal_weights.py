import warnings

import narwhals as nw
import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")

from counterlog.core.environments import episode_returns  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.state_policies import TablePolicy  # noqa: E402
from counterlog.core.tabular import TabularMDP  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up  # noqa: E402
from counterlog.estimate.neural_marginal_weights import (  # noqa: E402
    NeuralDR,
    NeuralMarginalWeights,
    NeuralMarginalWeightsConfig,
    feature_weights,
    neural_estimates,
)

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.full((2, 2), 0.5)
TARGET = np.array([[0.2, 0.8], [0.7, 0.3]])
SMALL = {"gamma": 0.9, "hidden": (16,), "members": 4, "batch": 64, "steps": 1000, "lr": 1e-2}


@pytest.fixture(scope="module")
def log():
    return MDP.sample(LOGGING, 400, 20, rng=0)


@pytest.fixture(scope="module")
def pieces(log):
    policies = {"target": TablePolicy(TARGET), "logged": TablePolicy(LOGGING)}
    return NeuralMarginalWeights(NeuralMarginalWeightsConfig(**SMALL)).fit(log, policies)


def by_cell(log, w):
    return np.array([[w[(log.state == s) & (log.action == a)].mean() for a in range(2)] for s in range(2)])


def test_weights_of_two_cells_worked_by_hand():
    # one-hot features of two cells, seen equally often; the second is never followed by itself under the policy
    squares = np.diag([0.5, 0.5])
    crossed = np.array([[0.0, 0.5], [0.5, 0.0]])  # 0 -> 1 and 1 -> 0
    w = feature_weights(squares, crossed, np.array([1.0, 0.0]), 0.5, 0.0)
    # start in 0: visits 1 + 1/4 + .. = 4/3 and 1/2 + 1/8 + .. = 2/3, over a share of 1/2 each
    assert_allclose(w, [8 / 3, 4 / 3])


def test_learnt_weights_are_the_true_ratio_of_a_small_process(log, pieces):
    true = MDP.discounted_occupancy(TARGET, 0.9) / MDP.occupancy(LOGGING, 20).mean(axis=0)
    found = by_cell(log, pieces.fitted.outside(pieces.weights)[0])
    assert_allclose(found, true, rtol=0.08)


def test_weights_sum_to_the_discounted_time_where_nothing_terminates(pieces):
    use, fitted = pieces.fitted.rows.use, pieces.fitted
    mine = fitted.inside[:, fitted.rows.log.owners[use]]
    mean = (pieces.weights[:, :, use] * mine).sum(axis=2) / mine.sum(axis=1)
    assert_allclose(mean, 10.0, rtol=1e-6)


def test_all_three_estimators_reach_the_exact_value(pieces):
    for e in neural_estimates(pieces):
        true = MDP.value(TARGET if e.policy == "target" else LOGGING, 0.9)
        assert e.value == pytest.approx(true, rel=0.03), e.estimator
        assert e.lo < true < e.hi and e.valid, e.estimator


def test_pairs_of_halves_are_estimates_of_their_own(pieces):
    from counterlog.estimate.neural_marginal_weights import doubly_robust_units, member_units, pair_moves

    by_member, out = member_units(pieces.weights, pieces.fitted), ~pieces.fitted.inside
    assert_allclose(doubly_robust_units(pieces.weights, pieces.fitted), pieces.units)
    first = np.where(out[0], by_member[0, 0], by_member[0, 1]).mean()
    second = np.where(out[2], by_member[0, 2], by_member[0, 3]).mean()
    assert pieces.units[0].mean() == pytest.approx((first + second) / 2)
    # two pairs: the variance of their mean is ((first - second) / 2)^2
    moves = pair_moves(pieces.weights, pieces.fitted)
    assert np.square(moves[0]).mean() == pytest.approx(((first - second) / 2) ** 2)


def test_a_policy_without_any_weight_is_not_valid(pieces):
    from dataclasses import replace

    from counterlog.estimate.neural_marginal_weights import effective_trajectories, normalised

    none = normalised(np.zeros_like(pieces.weights), pieces.fitted)
    assert not none.any()
    bare = replace(pieces, weights=none, ess=effective_trajectories(none, pieces.fitted))
    for e in neural_estimates(bare, ("NMIS", "NDR")):
        assert not e.valid and "rest on 0.0 trajectories" in e.reason


def test_terminations_end_the_weights():
    gen = np.random.default_rng(0)
    n = 400
    size = gen.geometric(0.3, n)
    offsets = np.r_[0, np.cumsum(size)]
    terminated = np.zeros(offsets[-1], bool)
    terminated[offsets[1:] - 1] = True
    log = Episodes(
        offsets=offsets, state=np.zeros(offsets[-1], int), action=gen.integers(0, 2, offsets[-1]),
        reward=np.r_[np.full(offsets[-1] - 1, 1.0), 0.5], terminated=terminated, actions=2,
    )  # fmt: skip
    found = NeuralMarginalWeights(NeuralMarginalWeightsConfig(**{**SMALL, "gamma": 1.0})).fit(
        log, {"same": TablePolicy(np.array([[0.5, 0.5]]))}
    )
    mean = found.weights[:, :, found.fitted.rows.use].mean()
    assert mean == pytest.approx(size.mean(), rel=0.05)  # expected length, in steps
    assert all(e.lo - 0.05 < log.returns(1.0).mean() < e.hi + 0.05 for e in neural_estimates(found))


@pytest.mark.parametrize("learner", ["bestdice", "algaedice"])
def test_descent_and_ascent_find_the_ratio_of_a_small_process_roughly(log, learner):
    c = NeuralMarginalWeightsConfig(**{**SMALL, "steps": 1200}, learner=learner, dice_lr=3e-3)
    found = NeuralMarginalWeights(c).fit(log, {"target": TablePolicy(TARGET)})
    true = MDP.discounted_occupancy(TARGET, 0.9) / MDP.occupancy(LOGGING, 20).mean(axis=0)
    cells = by_cell(log, found.fitted.outside(found.weights)[0])
    assert np.abs(cells / true - 1).max() < 0.5 and np.corrcoef(cells.ravel(), true.ravel())[0, 1] > 0.9
    (corrected,) = neural_estimates(found, ("NDR",))
    assert corrected.value == pytest.approx(MDP.value(TARGET, 0.9), rel=0.04)


class Controller:
    def act(self, states):
        return swing_up(states)


def test_on_a_pendulum_all_three_hold_the_true_value():
    log = pendulum_log("pendulum-mix", 12_000, rng=1)
    c = NeuralMarginalWeightsConfig(gamma=0.95, members=4, steps=1200)
    found = NeuralMarginalWeights(c).fit(log, {"good": Controller()}, low=-2, high=2)
    _, true = episode_returns(Pendulum(400), swing_up, gamma=0.95, rng=9)
    for e in neural_estimates(found):
        assert e.lo < true.mean() < e.hi, e.estimator


def test_networks_stand_beside_the_other_trajectory_estimators(monkeypatch, log):
    from counterlog.estimate import neural_marginal_weights as module
    from counterlog.estimate.trajectories import evaluate_trajectories

    small = {k: v for k, v in SMALL.items() if k != "gamma"}
    kind = module.NeuralMarginalWeightsConfig
    monkeypatch.setattr(module, "NeuralMarginalWeightsConfig", lambda **given: kind(**{**small, **given}))
    policies = {"a": TablePolicy(TARGET), "b": TablePolicy(LOGGING)}
    found = evaluate_trajectories(log, policies, ("DM", "NFQE", "NDR"), gamma=0.9)
    assert [(e.policy, e.estimator) for e in found] == [(p, e) for p in "ab" for e in ("DM", "NFQE", "NDR")]
    for linear, *networks in (found[:3], found[3:]):
        assert all(e.value == pytest.approx(linear.value, rel=0.03) for e in networks)


def test_same_rng_same_weights_and_one_policy_of_a_class(log):
    c = NeuralMarginalWeightsConfig(**{**SMALL, "steps": 30})
    one, two = (NeuralDR(c).estimate(log, TablePolicy(TARGET), rng=5) for _ in range(2))
    assert one == two and one.estimator == "NDR"
    assert NeuralMarginalWeights(c).estimate(log, TablePolicy(TARGET)).estimator == "NMIS"


def test_members_of_the_dice_family_that_cannot_answer_are_refused(log):
    with pytest.raises(ConfigError, match="gamma = 1"):
        NeuralMarginalWeights(NeuralMarginalWeightsConfig(gamma=1.0, learner="algaedice")).fit(
            log, {"a": TablePolicy(TARGET)}
        )
    over = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=log.action,
        reward=log.reward,
        terminated=log.truncated,
        actions=2,
    )
    with pytest.raises(ConfigError, match="discounted time"):
        NeuralMarginalWeights(NeuralMarginalWeightsConfig(gamma=0.9, learner="bestdice")).fit(
            over, {"a": TablePolicy(TARGET)}
        )
    with pytest.raises(ConfigError, match="no neural estimator"):
        pieces = NeuralMarginalWeights(NeuralMarginalWeightsConfig(**{**SMALL, "steps": 2})).fit(
            log, {"a": TablePolicy(TARGET)}
        )
        neural_estimates(pieces, ("IPS",))


def contract_example(frame):
    """The shared log as trajectories of four rows."""
    row = nw.from_native(frame, eager_only=True).with_row_index("row")
    row = row.with_columns(trajectory=nw.col("row") // 4, t=nw.col("row") % 4)
    roles = {"trajectory": "trajectory", "t": "t", "state": ["x"], "action": "item"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = Episodes.from_table(row.to_native(), **roles, reward="click", propensity="p")

    def uniform(states):
        return np.full((len(states), len(log.actions)), 1 / len(log.actions))

    c = NeuralMarginalWeightsConfig(steps=5, hidden=(4,), members=2)
    return NeuralMarginalWeights(c).estimate(log, uniform, rng=3)
