"""The discrete learners on counts: closed forms on small logs, limits, full coverage, agreement with networks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="returns are computed beside the networks")

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError
from counterlog.core.tabular import TabularMDP
from counterlog.learn.tabular_values import (
    LEARNERS,
    Counts,
    behaviour_values,
    cloned,
    conservative_values,
    greedy,
    greedy_values,
    tabular_policy,
)

pytestmark = pytest.mark.torch


def process() -> TabularMDP:
    """Two states, two actions; the second state may end."""
    move = np.array([[[0.0, 1.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    return TabularMDP(move, np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([1.0, 0.0]))


LOGGING = np.array([[0.5, 0.5], [0.3, 0.7]])


def forked() -> Episodes:
    """From state 0: action 0 pays 1, action 1 pays 0 and leads to state 1, where action 0 pays 3. Action 2 unlogged."""
    return Episodes(
        offsets=[0, 1, 2, 4, 6],
        state=[0, 0, 0, 1, 0, 1],
        action=[0, 0, 1, 0, 1, 1],
        reward=[1.0, 1.0, 0.0, 3.0, 0.0, 0.0],
        terminated=[True, True, False, True, False, True],
        actions=3,
    )


def test_values_by_hand() -> None:
    c = Counts.of(forked(), 2, 0.5)
    assert c.seen.tolist() == [[2, 2, 0], [1, 1, 0]]
    unseen = np.full((2, 3), 0.25)
    assert behaviour_values(c, unseen, 0.5).tolist() == [[1.0, 0.5 * 1.5, 0.25], [3.0, 0.0, 0.25]]
    assert greedy_values(c, unseen, 0.5).tolist() == [[1.0, 1.5, 0.25], [3.0, 0.0, 0.25]]
    assert c.returns[0].tolist() == [1.0, 0.75, 0.0]
    assert cloned(c.seen)[0].tolist() == [0.5, 0.5, 0.0]
    assert cloned(np.zeros((1, 4))).tolist() == [[0.25] * 4]


def test_policies_by_hand() -> None:
    log = forked()
    found = {name: tabular_policy(name, log, 2, gamma=0.5).argmax(axis=1).tolist() for name in LEARNERS}
    assert found["bve"] == [0, 0]  # one step beyond the logging policy: 1 against 0.75
    assert found["mce"] == [0, 0]
    assert found["discrete-bcq"] == found["in-sample"] == found["discrete-cql"] == [1, 0]
    assert tabular_policy("bc", log, 2).tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert tabular_policy("discrete-crr", log, 2, gamma=0.5)[1].tolist() == [1.0, 0.0, 0.0]


def test_many_rows_bring_the_exact_values() -> None:
    mdp = process()
    log = mdp.sample(LOGGING, 6000, 60, rng=2)
    c = Counts.of(log, 2, 0.8)
    unseen = np.zeros((2, 2))
    assert behaviour_values(c, unseen, 0.8) == pytest.approx(mdp.q_values(LOGGING, 0.8), abs=0.05)
    best = greedy(greedy_values(c, unseen, 0.8))
    values = [mdp.value(np.eye(2)[[a, b]], 0.8) for a in (0, 1) for b in (0, 1)]
    assert mdp.value(best, 0.8) == pytest.approx(max(values))


def test_where_every_pair_occurs_dqn_is_the_in_sample_learner() -> None:
    c = Counts.of(process().sample(LOGGING, 50, 60, rng=3), 2, 0.9)
    assert (c.seen > 0).all()
    unseen = np.random.default_rng(0).random((2, 2))
    assert greedy_values(c, unseen, 0.9) == pytest.approx(greedy_values(c, unseen, 0.9, c.seen > 0), abs=1e-9)


def test_conservative_values_meet_their_stationarity_and_the_limit_of_no_penalty() -> None:
    c = Counts.of(forked(), 2, 0.5)
    plain = conservative_values(c, 0.5, 0.0)
    logged = c.seen > 0
    assert plain[logged] == pytest.approx(greedy_values(c, np.full((2, 3), -9.0), 0.5)[logged], abs=1e-9)
    assert np.isneginf(plain[~logged]).all()
    q = conservative_values(c, 0.5, 0.1)
    top = q.max(axis=1)
    target = c.reward + 0.5 * c.move @ top
    soft = np.where(logged, np.exp(q), 0)
    soft /= soft.sum(axis=1, keepdims=True)
    n = c.seen.sum(axis=1, keepdims=True)
    slope = c.seen * (np.where(logged, q, 0.0) - target) + 0.1 * (n * soft - c.seen)
    assert np.abs(slope[logged]).max() < 1e-8


def test_networks_reach_the_same_values_on_codes() -> None:
    import torch

    from counterlog.learn.bve import BVE, BVEConfig

    log = process().sample(LOGGING, 200, 30, rng=4)
    learner = BVE(BVEConfig(hidden=(32,), batch=256, lr=5e-3, gamma=0.5))
    learner.start(learner.prepare(log))
    for k in range(2500):
        if k == 1500:
            learner.critic_descent.lr = 5e-4
        learner.update(learner.draw())
    exact = behaviour_values(Counts.of(log, 2, 0.5), np.zeros((2, 2)), 0.5)
    assert learner.critic(torch.eye(2)[None])[0].detach().numpy() == pytest.approx(exact, abs=0.06)


def test_logs_and_learners_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LogError, match="no log of codes below 1"):
        Counts.of(forked(), 1, 0.9)
    with pytest.raises(LogError, match="tabular learner 'ppo'"):
        tabular_policy("ppo", forked(), 2)
