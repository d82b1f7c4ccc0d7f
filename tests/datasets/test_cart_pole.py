from __future__ import annotations

import math

import numpy as np
import pytest

from counterlog.core.state_policies import LinearSoftmax
from counterlog.datasets.cart_pole import STEEPEST, balancers, fallen, push, roll


def test_one_push_by_hand() -> None:
    # upright and at rest: u = 10 / 1.1, spin = -u / (0.5 (4/3 - 0.1/1.1)), drive = u - 0.05 spin / 1.1
    u = 10 / 1.1
    spin = -u / (0.5 * (4 / 3 - 0.1 / 1.1))
    drive = u - 0.05 * spin / 1.1
    assert push(np.zeros((1, 4)), np.array([1]))[0] == pytest.approx([0, 0.02 * drive, 0, 0.02 * spin])


def test_left_mirrors_right() -> None:
    state = np.array([[0.3, -0.2, 0.1, 0.4]])
    assert push(-state, np.array([0]))[0] == pytest.approx(-push(state, np.array([1]))[0])


def test_a_pole_falls_beyond_twelve_degrees_and_a_cart_beyond_its_track() -> None:
    assert pytest.approx(math.radians(12)) == STEEPEST
    states = np.array([[0, 0, 0.2, 0], [0, 0, -0.22, 0], [2.5, 0, 0, 0], [2.3, 9, 0.2, 9]])
    assert fallen(states).tolist() == [False, True, True, False]


def test_a_log_follows_the_equations_and_ends_where_it_should() -> None:
    log = roll(balancers()["pole-3"], 50, 30, rng=1)
    nxt = push(log.state, log.action)
    inside = np.setdiff1d(np.arange(log.rows), log.last)
    np.testing.assert_allclose(nxt[inside], log.state[inside + 1])
    np.testing.assert_allclose(nxt[log.last], log.final_state)
    assert (fallen(nxt[log.last]) == log.terminated[log.last]).all()
    assert (log.truncated[log.last] != log.terminated[log.last]).all()
    assert (log.lengths[log.truncated[log.last]] == 30).all() and not fallen(log.state).any()


def test_the_same_rng_gives_the_same_log() -> None:
    policy = LinearSoftmax(np.zeros((4, 2)))
    one, two = roll(policy, 20, rng=4), roll(policy, 20, rng=4)
    assert (one.state == two.state).all() and (one.action == two.action).all()
    np.testing.assert_allclose(np.exp(one.log_propensity), 0.5)


def test_better_balancers_balance_longer() -> None:
    steps = [roll(p, 2000, rng=2).lengths.mean() for p in balancers().values()]
    assert (np.diff(steps) > 0).all() and steps[0] < 20 < 49 < steps[-1]
