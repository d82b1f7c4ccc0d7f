"""Vectorised environments: true successors, same-step resets, equal starts; logs recorded from them."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.environments import GymnasiumEnvironment, Resumable, episode_returns, record_episodes
from counterlog.core.errors import ConfigError
from counterlog.datasets.pendulum import Pendulum, controller, pendulum_log, swing_up


@pytest.mark.rl
def test_our_pendulum_is_gymnasiums() -> None:
    gym = pytest.importorskip("gymnasium")
    theirs = gym.make("Pendulum-v1").unwrapped
    state, _ = theirs.reset(seed=1)
    ours = Pendulum(1)
    ours.angle[:], ours.speed[:] = theirs.state
    gen = np.random.default_rng(0)
    for _ in range(100):
        torque = gen.uniform(-2.5, 2.5, 1)
        state, reward, *_ = theirs.step(torque)
        moved = ours.step(torque[None])
        assert moved.next_state[0] == pytest.approx(state, abs=1e-5)
        assert moved.reward[0] == pytest.approx(float(reward), abs=1e-9)


@pytest.mark.rl
def test_gymnasium_gives_the_true_successor_and_resets_in_the_same_step() -> None:
    pytest.importorskip("gymnasium")
    env = GymnasiumEnvironment("Pendulum-v1", 4, max_episode_steps=3)
    assert (env.state_size, env.action_size, env.low, env.longest) == (3, 1, (-2.0,), 3)
    state = env.reset(5, groups=2)
    assert np.array_equal(state[:2], state[2:])
    assert not np.array_equal(state[0], state[1])
    for t in range(3):
        before, moved = state, env.step(np.zeros((4, 1)))
        angle = np.arctan2(before[:, 1], before[:, 0])
        speed = before[:, 2] + 0.05 * 15 * np.sin(angle)
        expected = np.column_stack([np.cos(angle + 0.05 * speed), np.sin(angle + 0.05 * speed), speed])
        assert moved.next_state == pytest.approx(expected, abs=1e-5)
        assert moved.truncated.all() == (t == 2)
        assert not moved.terminated.any()
        state = moved.state
    assert not np.allclose(state, moved.next_state)


@pytest.mark.rl
def test_discrete_environments_and_episodes_of_mixed_length_become_a_log() -> None:
    pytest.importorskip("gymnasium")
    env = GymnasiumEnvironment("CartPole-v1", 6)
    assert env.discrete
    assert env.action_size == 2

    def act(state, gen):
        return gen.integers(0, 2, len(state)), np.full(len(state), np.log(0.5))

    log = record_episodes(env, act, rng=1, rounds=2)
    assert log.n == 12
    assert len(set(log.lengths.tolist())) > 3
    assert log.terminated[log.last].all()
    assert np.array_equal(log.state[1:][~log.terminated[:-1]], log.next_state[:-1][~log.terminated[:-1]])
    assert log.returns().tolist() == log.lengths.tolist()
    again = record_episodes(GymnasiumEnvironment("CartPole-v1", 6), act, rng=1, rounds=2)
    assert again.fingerprint == log.fingerprint


@pytest.mark.rl
@pytest.mark.parametrize("name", ["Hopper-v5", "CartPole-v1", "pendulum"])
def test_a_snapshot_goes_on_as_if_nothing_had_happened(name) -> None:
    pytest.importorskip("gymnasium")

    def make():
        return Pendulum(3) if name == "pendulum" else GymnasiumEnvironment(name, 3)

    env, gen = make(), np.random.default_rng(4)
    env.reset(2)
    first = [env.step(_actions(env, gen)) for _ in range(190)]  # past several ends
    assert name == "pendulum" or any(m.done.any() for m in first)
    text, actions = env.snapshot(), [_actions(env, gen) for _ in range(60)]
    whole = [env.step(a) for a in actions]
    again = make()
    assert np.array_equal(again.put_back(text), first[-1].state)
    assert isinstance(again, Resumable)
    for a, wanted in zip(actions, whole, strict=True):
        found = again.step(a)
        assert np.array_equal(found.state, wanted.state)
        assert np.array_equal(found.next_state, wanted.next_state)
        assert np.array_equal(found.reward, wanted.reward)
    assert name != "pendulum" or whole[9].truncated.all()


def _actions(env, gen):
    if env.discrete:
        return gen.integers(0, env.action_size, env.copies)
    return gen.uniform(env.low, env.high, (env.copies, env.action_size))


@pytest.mark.rl
def test_spaces_without_a_policy_are_refused() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(ConfigError, match="observes Discrete"):
        GymnasiumEnvironment("FrozenLake-v1")
    with pytest.raises(ConfigError, match="no 'NoSuchWorld-v0'"):
        GymnasiumEnvironment("NoSuchWorld-v0")
    with pytest.raises(ConfigError, match="equal groups"):
        GymnasiumEnvironment("Pendulum-v1", 3).reset(0, groups=2)


def test_returns_count_the_first_episode_of_every_copy() -> None:
    env = Pendulum(4)
    total, discounted = episode_returns(env, lambda s: swing_up(s), gamma=0.5, rng=3, groups=2)
    assert np.array_equal(total[:2], total[2:])
    state = env.reset(3, groups=2)
    first = env.step(swing_up(state))
    second = env.step(swing_up(first.state))
    third = env.step(swing_up(second.state))
    start = first.reward + 0.5 * second.reward + 0.25 * third.reward
    assert (np.abs(discounted - start) < 0.25 * 17).all()
    assert total[0] < discounted[0] < 0


def test_the_good_controller_is_good_and_the_logs_hold_what_they_say() -> None:
    good, _ = episode_returns(Pendulum(20), swing_up, rng=0)
    assert good.mean() > -200
    mix = pendulum_log("pendulum-mix", 4000, rng=2)
    assert (mix.n, mix.rows) == (20, 4000)
    assert mix.returns()[18:].min() > mix.returns()[:18].mean() + 500
    assert np.allclose(mix.propensity[:3600], 0.25)
    assert mix.truncated[mix.last].all()
    assert not mix.terminated.any()
    weak = pendulum_log("pendulum-weak", 4000)
    assert -1200 < weak.returns()[:18].mean() < -500
    assert pendulum_log("pendulum-eps", 4000).log_propensity is None
    assert pendulum_log("pendulum-mix", 4000, rng=2).fingerprint == mix.fingerprint
    assert pendulum_log("pendulum-mix", 4000, rng=3).fingerprint != mix.fingerprint


def test_the_controllers_log_density_is_that_of_a_cut_normal() -> None:
    act = controller(noise=0.5)
    state = np.tile([[-1.0, 0.0, 1e-9]], (20_000, 1))  # hanging: pumps with full torque
    action, log_p = act(state, np.random.default_rng(0))
    at_end = action[:, 0] >= 2
    assert at_end.mean() == pytest.approx(0.5, abs=0.02)
    assert np.exp(log_p[at_end]) == pytest.approx(0.5)
    inside = action[~at_end, 0]
    assert np.exp(log_p[~at_end]) == pytest.approx(
        np.exp(-0.5 * ((inside - 2) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))
    )
