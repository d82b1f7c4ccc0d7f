"""Rollouts: what a row holds, the true successor at a time limit, minibatches that cover every row once."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.environments import Moves  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402
from counterlog.online.ppo import PPO, PPOConfig  # noqa: E402

pytestmark = pytest.mark.torch


class Counter:
    """The state counts the steps of an episode; copy 0 is cut after five, copy 1 terminates after three."""

    name, state_size, action_size, discrete = "counter", 1, 1, False
    low, high, longest, reward_unit = (-2.0,), (2.0,), 5, "points"

    def __init__(self, copies):
        self.copies, self.size = copies, np.array([5, 3])
        self.given = []

    def reset(self, rng, *, groups=1):
        self.t = np.zeros(2)
        return self.t[:, None].copy()

    def step(self, action):
        self.given.append(np.asarray(action))
        self.t = self.t + 1
        following, done = self.t[:, None].copy(), self.t == self.size
        self.t = np.where(done, 0, self.t)
        cut = np.array([True, False])
        return Moves(following, self.t + 1, done & ~cut, done & cut, self.t[:, None].copy())


def rollout(**options):
    c = {
        "copies": 2,
        "horizon": 12,
        "hidden": (8,),
        "lam": 0.0,
        "gamma": 0.9,
        "normalise_states": False,
        "batch": 8,
    }
    learner = PPO(PPOConfig(**{**c, **options})).begin(Counter)
    with torch.no_grad():  # a value that is not nearly 0
        learner.value.flat.add_(0.3)
    return learner, learner.collect()


def test_at_a_time_limit_the_value_is_that_of_the_true_last_state() -> None:
    learner, batch = rollout()
    rows = batch.rows[0].view(12, 2, -1)

    def worth(state):
        return learner.value.values(torch.tensor([[[float(state)]]])).item()

    cut = batch.columns.cut(rows, "advantage")[4, 0].item()  # state 4 led to 5, then a fresh episode began
    reward = batch.columns.cut(rows, "reward")
    assert cut == pytest.approx(reward[4, 0].item() + 0.9 * worth(5) - worth(4), abs=1e-5)
    over = batch.columns.cut(rows, "advantage")[2, 1].item()
    assert over == pytest.approx(reward[2, 1].item() - worth(2), abs=1e-5)
    inside = batch.columns.cut(rows, "advantage")[1, 0].item()
    assert inside == pytest.approx(reward[1, 0].item() + 0.9 * worth(2) - worth(1), abs=1e-5)
    assert batch.columns.cut(rows, "state")[:6, 0, 0].tolist() == [0, 1, 2, 3, 4, 0]


def test_nothing_flows_over_an_end() -> None:
    learner, one = rollout(lam=0.95)
    rows = one.rows[0].view(12, 2, -1)
    advantage = one.columns.cut(rows, "advantage")
    last = one.columns.cut(rows, "reward")[4, 0] - one.columns.cut(rows, "value")[4, 0]
    after = learner.value.values(torch.tensor([[[5.0]]])).item()
    assert advantage[4, 0].item() == pytest.approx(last.item() + 0.9 * after, abs=1e-5)


def test_rows_hold_the_drawn_action_its_density_and_the_old_value() -> None:
    learner, batch = rollout()
    with torch.no_grad():
        log_p = learner.actor.log_prob(batch.state, batch.action)
    assert torch.equal(log_p, batch.log_propensity)
    assert torch.allclose(batch.return_to_go - batch.advantage, batch.value, atol=1e-6)
    given = np.stack(learner.worlds.each[0].given).reshape(-1)
    drawn = batch.action[0, :, 0].numpy()
    assert given == pytest.approx(
        2 * drawn.clip(-1, 1), abs=1e-6
    )  # bounds of 2, cut for the environment only
    assert np.abs(drawn).max() > 1


def test_minibatches_cover_every_row_once_an_epoch_in_each_seeds_own_order() -> None:
    learner = PPO(PPOConfig(seeds=2, copies=2, horizon=9, hidden=(8,), batch=5)).begin(Pendulum)
    batch = learner.collect()
    found = list(learner.minibatches(batch, 5, 2))
    assert [b.shape[1] for b in found] == [5, 5, 5, 3] * 2
    for epoch in (found[:4], found[4:]):
        order = torch.cat([b.index for b in epoch], dim=1)
        assert order.sort(dim=1).values.tolist() == [list(range(18))] * 2
        assert not torch.equal(order[0], order[1])
        rows = torch.cat([b.rows for b in epoch], dim=1)
        for k in (0, 1):
            assert torch.equal(rows[k], batch.rows[k][order[k]])
