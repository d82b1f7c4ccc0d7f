import warnings

import narwhals as nw
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, SupportError  # noqa: E402
from counterlog.core.policy_rows import Halves, policy_rows  # noqa: E402
from counterlog.core.state_policies import TablePolicy  # noqa: E402
from counterlog.core.tabular import TabularMDP  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up  # noqa: E402
from counterlog.estimate.neural_fitted_q import (  # noqa: E402
    NeuralFQE,
    NeuralFQEConfig,
    bellman_target,
    claim_minus_return,
    pair_variance,
    value_estimates,
    welch,
)

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.full((2, 2), 0.5)
TARGET = np.array([[0.2, 0.8], [0.7, 0.3]])
SMALL = {"hidden": (16,), "members": 4, "batch": 64, "steps": 1000, "lr": 1e-2}


@pytest.fixture(scope="module")
def log():
    return MDP.sample(LOGGING, 400, 20, rng=0)


class Controller:
    """The good controller, or a lazy one."""

    def __init__(self, gain):
        self.gain = gain

    def act(self, states):
        return swing_up(states, self.gain)


def test_the_target_stops_where_the_task_is_over():
    found = bellman_target(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[[10.0, 10.0]]]), 0.9
    )
    assert found.tolist() == [[[10.0, 2.0]]]


def test_pairs_of_halves_give_the_variance_of_a_mean():
    by_member = np.array([[1.0, 3.0, 2.0, 2.0]])  # ((1 - 3) / 2)^2 = 1 and 0
    assert pair_variance(by_member).tolist() == [0.5]
    gen = np.random.default_rng(0)
    x = gen.normal(size=(2000, 40))
    halves = [x[:, gen.permutation(40)] for _ in range(3)]
    means = np.stack(
        [h[:, half].mean(axis=1) for h in halves for half in (slice(20), slice(20, None))], axis=1
    )
    assert pair_variance(means).mean() == pytest.approx(1 / 40, rel=0.05)


def test_one_variance_has_its_own_t_interval():
    se, wide = welch(np.array([4.0, 0.0]), np.array([9.0, 3.0]), 0.95)
    assert se == 2.0 and wide == pytest.approx(2 * 2.2622, abs=1e-3)


def test_halves_share_no_trajectory_and_own_all(log):
    rows = policy_rows(log, {"a": TablePolicy(TARGET)}, gamma=0.9)
    halves = Halves(rows, 6, rng=1)
    assert (halves.inside[::2] ^ halves.inside[1::2]).all()
    drawn = halves.draw_rows(500).numpy()
    for member, mine in zip(drawn, halves.inside, strict=True):
        assert mine[log.owners[member]].all()


def test_it_reaches_the_exact_value_of_a_small_process(log):
    policies = {"target": TablePolicy(TARGET), "same": TablePolicy(LOGGING)}
    found = NeuralFQE(NeuralFQEConfig(gamma=0.9, **SMALL)).evaluate(log, policies, rng=0)
    for e, table in zip(found, (TARGET, LOGGING), strict=True):
        assert e.value == pytest.approx(MDP.value(table, 0.9), rel=0.03)
        assert e.lo < MDP.value(table, 0.9) < e.hi and e.valid


def chain(**end):
    return Episodes(
        offsets=np.arange(41) * 1, state=np.ones((40, 1)) * np.arange(40)[:, None] % 2, action=np.arange(40) % 2,
        reward=np.r_[np.ones(39), 0.9], actions=2, final_state=np.ones((40, 1)) * np.arange(40)[:, None] % 2, **end,
    )  # fmt: skip


def test_a_time_limit_goes_on_and_a_termination_does_not():
    always = TablePolicy(np.full((2, 2), 0.5))

    def probs(states):
        return always.table[np.zeros(len(states), int)]

    made = NeuralFQE(NeuralFQEConfig(gamma=0.9, **SMALL))
    cut = made.estimate(chain(truncated=np.ones(40, bool)), probs)
    over = made.estimate(chain(terminated=np.ones(40, bool)), probs)
    assert cut.value == pytest.approx(10.0, rel=0.02)
    assert over.value == pytest.approx(1.0, rel=0.02)


def test_a_policy_alone_has_the_value_that_it_has_in_a_stack(log):
    made = NeuralFQE(NeuralFQEConfig(gamma=0.9, **{**SMALL, "steps": 50}))
    one = made.evaluate(log, {"a": TablePolicy(TARGET)})[0]
    two = made.evaluate(log, {"b": TablePolicy(LOGGING), "a": TablePolicy(TARGET)})[1]
    assert one.value == pytest.approx(two.value, rel=1e-5)


def test_a_stopped_fit_goes_on_to_the_same_values(log, tmp_path):
    c = NeuralFQEConfig(gamma=0.9, **{**SMALL, "steps": 60})
    policy = {"a": TablePolicy(TARGET)}
    whole = NeuralFQE(c).fit(log, policy, folder=tmp_path / "whole")

    class KilledError(Exception):
        pass

    from counterlog.estimate import neural_fitted_q as module

    class Dying(module._Training):
        def advance(self, step):
            if step == 40:
                raise KilledError
            return super().advance(step)

    kept, module._Training = module._Training, Dying
    try:
        with pytest.raises(KilledError):
            NeuralFQE(c).fit(log, policy, folder=tmp_path / "killed")
    finally:
        module._Training = kept
    again = NeuralFQE(c).fit(log, policy, folder=tmp_path / "killed")
    np.testing.assert_array_equal(whole.v, again.v)
    np.testing.assert_array_equal(whole.moved, again.moved)
    with pytest.raises(ConfigError, match="another run"):
        NeuralFQE(c).fit(log, {"a": TablePolicy(LOGGING)}, folder=tmp_path / "killed")


def test_on_a_pendulum_the_log_and_a_controller_have_their_true_values():
    from counterlog.core.environments import episode_returns

    log = pendulum_log("pendulum-mix", 12_000, rng=1)
    c = NeuralFQEConfig(gamma=0.95, members=4, steps=1200)
    fitted = NeuralFQE(c).fit(log, {"logged": None, "good": Controller(1.0)}, low=-2, high=2)
    logged, good = value_estimates(fitted)
    _, true = episode_returns(Pendulum(400), Controller(1.0).act, gamma=0.95, rng=9)
    assert good.lo < true.mean() < good.hi
    assert logged.lo < log.returns(0.95).mean() < logged.hi
    gap, se = claim_minus_return(fitted)
    assert abs(gap) < 3 * se
    # paired by trajectory, the controller is better beyond doubt
    units = fitted.outside(fitted.starts)
    lead = units[1] - units[0]
    assert lead.mean() > 4 * lead.std() / np.sqrt(log.n)


def test_what_cannot_be_answered_is_refused(log):
    made = NeuralFQE(NeuralFQEConfig(gamma=0.9, **SMALL))
    with pytest.raises(SupportError, match="at least 4 trajectories"):
        made.estimate(log.take(np.arange(3)), TablePolicy(TARGET))
    with pytest.raises(ConfigError, match="even number"):
        NeuralFQE(NeuralFQEConfig(members=3)).estimate(log, TablePolicy(TARGET))
    with pytest.raises(LogError, match="no 'reward'"):
        made.estimate(
            Episodes(
                offsets=log.offsets, state=log.state, action=log.action, truncated=log.truncated, actions=2
            ),
            TablePolicy(TARGET),
        )
    with pytest.raises(ConfigError, match="without act"):
        made.estimate(pendulum_log("pendulum-mix", 2000), object())
    bare = pendulum_log("pendulum-mix", 2000).take(np.arange(8))
    single = Episodes(
        offsets=np.arange(9), state=bare.state[bare.first], action=bare.action[bare.first],
        reward=bare.reward[bare.first], truncated=np.ones(8, bool),
    )  # fmt: skip
    with pytest.raises(SupportError, match="no step has a known successor"):
        made.estimate(single, Controller(1.0))


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

    return NeuralFQE(NeuralFQEConfig(steps=5, hidden=(4,), members=2)).estimate(log, uniform, rng=3)
