from __future__ import annotations

import numpy as np
import pytest

from counterlog.datasets.payments import Payments, PaymentsConfig
from counterlog.online import exploration


class Chance:
    def act(self, x, eligible, *, rng):
        return exploration.draw(exploration.uniform(eligible), rng)


def test_expected_rewards_follow_the_formula() -> None:
    w, v = (np.random.default_rng(s).standard_normal((8, 6)) for s in (7, 8))
    x = np.random.default_rng(0).standard_normal((3, 6))
    logit = 1 + 0.8 * np.tanh(x @ w.T) + 0.4 * np.sin(2 * (x @ v.T))
    np.testing.assert_allclose(Payments().expected(x), 1 / (1 + np.exp(-logit)), rtol=1e-12)


def test_rewards_have_their_expected_mean_and_actions_are_possible() -> None:
    world = Payments(PaymentsConfig(batch=20_000))
    batch = world(Chance(), 0, np.random.default_rng(1))
    q = world.expected(batch.x)[np.arange(batch.n), batch.action]
    assert batch.reward.mean() == pytest.approx(q.mean(), abs=0.015)
    assert batch.eligible.mean() == pytest.approx(0.6 + 0.4**8 / 8, abs=0.005)
    assert batch.eligible.any(axis=1).all() and (batch.delay == 0).all()


def test_the_delay_switch_makes_half_of_the_rewards_late() -> None:
    batch = Payments(PaymentsConfig(delay=True))(Chance(), 0, np.random.default_rng(2))
    assert batch.delay.mean() == pytest.approx(0.5, abs=0.04) and set(batch.delay) == {0.0, 1.0}


def test_the_new_action_appears_in_generation_five() -> None:
    world = Payments(PaymentsConfig(newarm=True, tests=500))
    assert not world.test(4)[1][:, 7].any() and world.test(5)[1][:, 7].any()
    assert (world.test(4)[0] == world.test(5)[0]).all()


def test_the_shift_turns_rewards_slowly_and_keeps_their_spread() -> None:
    world = Payments(PaymentsConfig(shift=True, tests=5000))
    q0, q1, q9 = (world.test(g)[2] for g in (0, 1, 9))
    assert np.abs(q1 - q0).mean() < 0.5 * np.abs(q9 - q0).mean()
    assert q9.std() == pytest.approx(q0.std(), rel=0.05)


def test_the_legacy_policy_is_good_and_nearly_deterministic() -> None:
    world = Payments(PaymentsConfig(tests=3000))
    x, eligible, q = world.test(0)
    p = world.legacy(x, eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert p[eligible].min() == pytest.approx(0.01) and (p[~eligible] == 0).all()
    uniform, best = (
        (exploration.uniform(eligible) * q).sum(axis=1).mean(),
        np.where(eligible, q, -1).max(axis=1).mean(),
    )
    assert (p * q).sum(axis=1).mean() > uniform + 0.5 * (best - uniform)
