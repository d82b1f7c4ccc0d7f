"""Environments of a stack of seeds: own starts, counted returns, saved in mid-episode, refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.environments import Moves  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.core.seed_environments import SeedEnvironments  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402

pytestmark = pytest.mark.torch


class Reused:
    """Writes every step into the same arrays, as some environments do; episodes of `size` steps."""

    name, state_size, action_size, discrete = "reused", 1, 1, False
    low, high, longest, reward_unit = (-1.0,), (1.0,), 5, "points"

    def __init__(self, copies, size=3):
        self.copies, self.size, self.t = copies, size, 0
        self.state = np.zeros((copies, 1), np.float32)
        self.reward = np.zeros(copies)

    def reset(self, rng, *, groups=1):
        self.t = 0
        self.state[:] = 0
        return self.state

    def step(self, action):
        self.t += 1
        self.reward[:] = self.t
        self.state += 1
        over = np.full(self.copies, self.t == self.size)
        if over[0]:
            self.t = 0
        return Moves(self.state, self.reward, over, np.zeros(self.copies, bool), self.state)


def test_returns_of_finished_episodes_are_counted_and_the_last_twenty_kept() -> None:
    world = SeedEnvironments(Reused, (0, 1), 2)
    assert world.recent() == {}
    for _ in range(3):
        world.step(np.zeros((2, 2, 1)))
    assert {k: v.tolist() for k, v in world.recent().items()} == {"return": [6.0, 6.0], "length": [3.0, 3.0]}
    for _ in range(60):
        world.step(np.zeros((2, 2, 1)))
    assert world.episodes.tolist() == [42, 42]
    assert [len(r) for r in world.returns] == [20, 20]


def test_an_environment_that_reuses_its_arrays_cannot_change_what_was_kept() -> None:
    world = SeedEnvironments(Reused, (0,), 2)
    first = world.step(np.zeros((1, 2, 1)))
    kept = first.next_state.copy(), first.reward.copy()
    world.step(np.zeros((1, 2, 1)))
    assert np.array_equal(first.next_state, kept[0])
    assert np.array_equal(first.reward, kept[1])


def test_seeds_have_their_own_starts_whatever_stands_beside_them() -> None:
    stack, alone = SeedEnvironments(Pendulum, (3, 4), 2), SeedEnvironments(Pendulum, (4,), 2)
    assert not np.array_equal(stack.states[0], stack.states[1])
    gen = np.random.default_rng(0)
    for _ in range(250):
        action = gen.uniform(-2, 2, (2, 2, 1))
        a, b = stack.step(action), alone.step(action[1:])
        assert np.array_equal(a.state[1:], b.state)


def test_it_goes_on_from_a_saved_state() -> None:
    gen = np.random.default_rng(0)
    world = SeedEnvironments(Pendulum, (0, 1), 3)
    for _ in range(230):
        world.step(gen.uniform(-2, 2, (2, 3, 1)))
    saved = {k: v.clone() for k, v in world.state().items()}
    again = SeedEnvironments(Pendulum, (0, 1), 3)
    again.restore(saved)
    for _ in range(200):
        action = gen.uniform(-2, 2, (2, 3, 1))
        assert np.array_equal(world.step(action).state, again.step(action).state)
    assert world.returns == again.returns
    assert world.recent()["return"].tolist() == again.recent()["return"].tolist()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="middle of an episode"):
        SeedEnvironments(Reused, (0,), 1).state()

    class Broken(Reused):
        def step(self, action):
            moved = super().step(action)
            self.state[-1] = np.nan
            return moved

    with pytest.raises(SupportError, match="next_state of seed 7, copy 1 is not finite at step 1"):
        SeedEnvironments(Broken, (7,), 2).step(np.zeros((1, 2, 1)))

    class Endless(Reused):
        high = (np.inf,)

    with pytest.raises(ConfigError, match="finite bounds"):
        SeedEnvironments(Endless, (0,), 1)
