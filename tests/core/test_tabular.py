import numpy as np
import pytest
from numpy.testing import assert_allclose

from counterlog.core.errors import ConfigError
from counterlog.core.tabular import TabularMDP
from counterlog.datasets.river import river, swimmers

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.2], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
PI = np.array([[0.2, 0.8], [0.3, 0.7]])


def test_one_step_value_is_the_mean_reward_of_the_start():
    assert MDP.value(PI, 0.9, 1) == pytest.approx(0.5 * 0.8 + 0.5 * (0.3 * 2 + 0.7 * 0.5))


@pytest.mark.parametrize("horizon", [1, 7, None])
def test_value_is_occupancy_times_reward(horizon):
    assert (MDP.discounted_occupancy(PI, 0.9, horizon) * MDP.reward).sum() == pytest.approx(
        MDP.value(PI, 0.9, horizon), abs=1e-12
    )


def test_a_long_horizon_reaches_the_endless_value():
    assert MDP.value(PI, 0.9, 400) == pytest.approx(MDP.value(PI, 0.9), abs=1e-12)
    assert_allclose(MDP.q_values(PI, 0.9, 400)[0], MDP.q_values(PI, 0.9), atol=1e-12)


def test_a_sampled_log_has_the_value_of_its_policy_and_its_ends():
    log = MDP.sample(PI, 20_000, 30, rng=3)
    g = log.returns(0.9)
    assert abs(g.mean() - MDP.value(PI, 0.9, 30)) < 4 * g.std() / np.sqrt(log.n)
    ends = log.state[log.last[log.terminated[log.last]]]
    assert (ends == 1).all() and (log.action[log.terminated] == 0).all()
    assert (log.lengths[log.truncated[log.last]] == 30).all()


def test_equal_seeds_give_equal_logs():
    one, two, other = (MDP.sample(PI, 50, 5, rng=r).fingerprint for r in (1, 1, 2))
    assert one == two != other


def test_tables_that_are_no_process_are_refused():
    with pytest.raises(ConfigError, match="no decision process"):
        TabularMDP(MDP.transition * 1.2, MDP.reward, MDP.start)


def test_keener_swimmers_earn_more_at_the_top_of_the_river():
    values = [river().value(p, 0.97) for p in swimmers().values()]
    assert len(values) == 8 and np.argmax(values) == 7 and min(values) < 0.3 * max(values)
    assert_allclose(river().transition.sum(axis=2), 1.0)
