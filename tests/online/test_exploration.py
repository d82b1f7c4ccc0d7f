from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from counterlog.core.errors import ConfigError, LogError
from counterlog.online import exploration
from counterlog.online.igw import igw

F = np.array([[0.2, 0.9, 0.5], [0.7, 0.7, 0.1]])
MASK = np.array([[True, False, True], [True, True, True]])


def test_greedy_breaks_ties_by_the_lowest_code() -> None:
    assert exploration.greedy(F, MASK).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_epsilon_by_hand() -> None:
    p = exploration.epsilon_greedy(F, MASK, epsilon=0.3)
    assert p == pytest.approx(np.array([[0.15, 0, 0.85], [0.8, 0.1, 0.1]]))


def test_softmax_by_hand_and_at_its_limit() -> None:
    p = exploration.softmax(F[1:], temperature=0.6)
    assert p[0] == pytest.approx(np.array([np.e, np.e, 1]) / (2 * np.e + 1))
    assert exploration.softmax(F, MASK, temperature=1e6) == pytest.approx(exploration.uniform(MASK), abs=1e-6)


def test_thompson_by_hand() -> None:
    members = np.array([[[0.1, 0.9, 0.5]], [[0.8, 0.2, 0.5]], [[0.1, 0.9, 0.0]]])
    assert exploration.thompson(members)[0] == pytest.approx(np.array([1 + 1 / 3, 2 + 1 / 3, 1 / 3]) / 4)


def test_the_draw_keeps_its_contract() -> None:
    p = np.array([[0.2, 0.0, 0.8], [0.5, 0.5, 0.0], [2.0, 0.0, 6.0]])
    random = np.random.default_rng(11)
    u = np.random.default_rng(11).random(3)
    action, propensity = exploration.draw(p, random)
    for row in range(3):
        total = p[row].sum()
        wanted = int(np.flatnonzero(np.cumsum(p[row]) > u[row] * total)[0])
        assert action[row] == wanted and propensity[row] == p[row, wanted] / total


def test_draws_follow_their_probabilities() -> None:
    p = igw(np.array([[0.9, 0.8, 0.5, 0.2]]), gamma=20.0)
    action, propensity = exploration.draw(np.repeat(p, 100_000, axis=0), np.random.default_rng(1))
    assert chisquare(np.bincount(action, minlength=4), p[0] * 100_000).pvalue > 1e-4
    assert (propensity == p[0, action] / p[0].cumsum()[-1]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_the_drawn_action_had_a_chance(seed: int) -> None:
    random = np.random.default_rng(seed)
    p = random.random((20, 4)) * (random.random((20, 4)) < 0.5)
    p[np.arange(20), random.integers(4, size=20)] = 0.1
    action, propensity = exploration.draw(p, random)
    assert (propensity > 0).all() and (p[np.arange(20), action] > 0).all()


def test_a_log_weighted_by_its_own_policy_is_its_mean() -> None:
    p = exploration.softmax(np.random.default_rng(2).random((500, 3)), temperature=0.3)
    action, propensity = exploration.draw(p, np.random.default_rng(3))
    reward = np.random.default_rng(4).random(500)
    weight = p[np.arange(500), action] / p.cumsum(axis=1)[:, -1] / propensity
    assert (weight * reward).mean() == reward.mean()


def test_the_same_rng_draws_the_same() -> None:
    p = np.full((1000, 5), 0.2)
    one, two = (exploration.draw(p, np.random.default_rng(9)) for _ in range(2))
    assert (one[0] == two[0]).all() and (one[1] == two[1]).all()


def test_refusals() -> None:
    with pytest.raises(LogError, match="no action is eligible in 1 of 2 rows: row 1"):
        exploration.greedy(F, np.array([[True, True, True], [False, False, False]]))
    with pytest.raises(LogError, match="mask has shape"):
        exploration.greedy(F, MASK[:1])
    with pytest.raises(LogError, match="scores have shape"):
        exploration.greedy(np.zeros(3))
    with pytest.raises(ConfigError, match="temperature = 0"):
        exploration.softmax(F, temperature=0.0)
    with pytest.raises(LogError, match="row 1 of the probabilities is no distribution"):
        exploration.draw(np.array([[0.5, 0.5], [-0.1, 1.1]]), np.random.default_rng(0))
