"""Grid worlds, control tasks and their logs: exact values, Gymnasium's dynamics, known probabilities, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.environments import episode_returns
from counterlog.core.errors import ConfigError, DatasetError
from counterlog.datasets.classic_control import CartPole, MountainCar, balance, swing
from counterlog.datasets.grid_worlds import LAYOUTS, GridWorld
from counterlog.datasets.regimes import REGIMES, diluted, grid_log, regime_log, steps_of


def test_four_rooms_has_its_exact_values() -> None:
    world = GridWorld()
    assert len(world.cells) == 104
    assert {(5, 2), (5, 8), (2, 5), (8, 5)} <= set(world.cells) and (5, 5) not in world.cells
    plan = np.eye(4)[world.plan(0.95)]
    assert world.process.value(plan, 0.95) == pytest.approx(0.338434, abs=1e-6)
    assert world.process.value(np.full((104, 4), 0.25), 0.95) == pytest.approx(0.000191524, abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_played_returns_are_those_of_the_tables(layout: str) -> None:
    world = GridWorld(3000, layout)
    plan = world.plan(0.95)
    _, discounted = episode_returns(world, lambda s: plan[s], gamma=0.95, rng=1)
    exact = world.process.value(np.eye(4)[plan], 0.95)
    assert discounted.mean() == pytest.approx(exact, abs=4 * discounted.std() / 3000**0.5)


def test_steps_keep_to_the_floor_and_lava_ends_without_reward() -> None:
    world = GridWorld(500, "lava-gap")
    gen = np.random.default_rng(0)
    state = world.reset(0)
    ended = paid = 0
    for _ in range(250):
        moved = world.step(gen.integers(0, 4, 500))
        apart = np.abs(np.array(world.cells)[moved.next_state] - np.array(world.cells)[state]).sum(axis=1)
        assert apart.max() <= 1
        assert (moved.terminated == world.ends[moved.next_state]).all()
        assert not (moved.terminated & moved.truncated).any()
        ended, paid = ended + moved.terminated.sum(), paid + moved.reward.sum()
        state = moved.state
    assert ended > paid > 0


def test_cells_as_one_hot_rows_and_columns_are_the_same_world() -> None:
    codes, cells = GridWorld(40), GridWorld(40, observe="cells")
    gen = np.random.default_rng(1)
    a, b = codes.reset(3), cells.reset(3)
    for _ in range(50):
        assert np.array_equal(cells.code_of(b), a)
        assert b.shape == (40, 22) and (b.sum(axis=1) == 2).all()
        action = gen.integers(0, 4, 40)
        a, b = codes.step(action).state, cells.step(action).state
    with pytest.raises(ConfigError, match="layout 'nowhere'"):
        GridWorld(layout="nowhere")


@pytest.mark.rl
@pytest.mark.parametrize(("name", "kind"), [("CartPole-v1", CartPole), ("MountainCar-v0", MountainCar)])
def test_moves_are_gymnasiums(name: str, kind: type) -> None:
    gym = pytest.importorskip("gymnasium")
    env, ours, gen = gym.make(name).unwrapped, kind(1), np.random.default_rng(0)
    state, _ = env.reset(seed=1)
    for _ in range(60):
        ours.state = np.array([state], np.float64)
        env.state = tuple(np.array(state, np.float64))
        action = int(gen.integers(0, ours.action_size))
        state, reward, over, _, _ = env.step(action)
        moved = ours.step(np.array([action]))
        assert moved.next_state[0] == pytest.approx(state, abs=1e-5)
        assert moved.reward[0] == reward and bool(moved.terminated[0]) == over
        if over:
            state, _ = env.reset(seed=2)


def test_good_policies_are_good_and_episodes_are_cut_in_time() -> None:
    total, _ = episode_returns(CartPole(50), balance, rng=0)
    assert (total == 500).all()
    total, _ = episode_returns(MountainCar(50), swing, rng=0)
    assert -130 < total.mean() < -100
    idle, _ = episode_returns(MountainCar(10), lambda s: np.ones(len(s), int), rng=0)
    assert (idle == -200).all()
    grouped = CartPole(6).reset(0, groups=3)
    assert np.array_equal(grouped[:2], grouped[2:4])


@pytest.mark.parametrize("regime", [*REGIMES, "eps-0.3", "mix-0.4"])
def test_a_regime_has_the_steps_asked_for_and_knows_its_probabilities(regime: str) -> None:
    log = grid_log(f"four-rooms-{regime}", 2000, rng=1)
    assert 2000 <= log.rows < 2200
    assert log.propensity is not None and log.propensity.min() > 0
    assert grid_log(f"four-rooms-{regime}", 2000, rng=1).fingerprint == log.fingerprint
    assert grid_log(f"four-rooms-{regime}", 2000, rng=2).fingerprint != log.fingerprint


def test_logged_probabilities_are_the_frequencies() -> None:
    log = regime_log(MountainCar, swing, "eps-0.6", 20_000)
    best = log.action == swing(log.state)
    assert best.mean() == pytest.approx(0.4 + 0.2, abs=0.015)
    assert log.propensity is not None
    assert log.propensity[best] == pytest.approx(np.full(best.sum(), 0.6))
    assert log.propensity[~best] == pytest.approx(np.full((~best).sum(), 0.2))
    expert = regime_log(MountainCar, swing, "expert", 2000)
    assert np.array_equal(expert.action, swing(expert.state))


def test_mixtures_have_their_parts_in_order() -> None:
    log = grid_log("four-rooms-mixed", 5000)
    assert log.propensity is not None
    uniform = log.propensity == 0.25
    assert uniform.mean() == pytest.approx(0.8, abs=0.03)
    assert not np.diff(uniform.astype(int)).max() > 0  # uniform first, never again
    replay = grid_log("four-rooms-replay", 5000)
    shares = [(part == 1.0).mean() for part in np.array_split(replay.propensity, 5)]
    assert shares[0] == 0 and shares[-1] > 0.9
    parts = np.array([p.min() for p in np.array_split(replay.propensity, 5)])
    assert (np.diff(parts) <= 1e-9).sum() >= 3 or parts[-1] == 1.0


def test_a_narrow_log_begins_in_three_states() -> None:
    log = regime_log(CartPole, balance, "narrow", 3000)
    assert len(np.unique(log.state[log.first], axis=0)) == 3
    wide = regime_log(CartPole, balance, "medium", 3000)
    assert len(np.unique(wide.state[wide.first], axis=0)) > 3


def test_other_names_are_refused() -> None:
    for name in ("nothing", "eps-2", "eps-x", "random-0.5"):
        with pytest.raises(DatasetError, match="regime"):
            regime_log(CartPole, balance, name, 100)
    with pytest.raises(DatasetError, match="grid log"):
        grid_log("maze-random", 100)
    log = steps_of(CartPole, diluted(balance, 2, 1.0), 400, 0)
    assert log.rows >= 400 and log.rows - log.lengths[-1] < 400
