"""Advantages by hand, against a plain loop and against stable-baselines3; what a time limit is worth."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.advantages import generalised_advantages, standardised  # noqa: E402

pytestmark = pytest.mark.torch


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def test_three_steps_by_hand_that_terminate_and_that_are_cut() -> None:
    reward, value = column(0, 0, 1), column(0.2, 0.3, 0.5)
    following, end, none = column(0.3, 0.5, 0.4), column(0, 0, 1), column(0, 0, 0)
    over = generalised_advantages(reward, value, following, end, end, gamma=0.9, lam=0.5)
    assert over[:, 0].tolist() == pytest.approx([0.23875, 0.375, 0.5], abs=1e-9)
    cut = generalised_advantages(reward, value, following, none, end, gamma=0.9, lam=0.5)
    assert cut[:, 0].tolist() == pytest.approx([0.31165, 0.537, 0.86], abs=1e-9)


def test_it_equals_a_loop_on_random_flags() -> None:
    gen = np.random.default_rng(0)
    reward, value, following = gen.normal(size=(3, 60, 7))
    over = gen.random((60, 7)) < 0.1
    ended = over | (gen.random((60, 7)) < 0.1)
    wanted = np.zeros((61, 7))
    for t in range(59, -1, -1):
        for i in range(7):
            delta = reward[t, i] + 0.97 * (0 if over[t, i] else following[t, i]) - value[t, i]
            wanted[t, i] = delta + (0 if ended[t, i] else 0.97 * 0.9 * wanted[t + 1, i])
    given = (torch.from_numpy(x).double() for x in (reward, value, following, over, ended))
    found = generalised_advantages(*given, gamma=0.97, lam=0.9)
    assert found.numpy() == pytest.approx(wanted[:60], abs=1e-12)


@pytest.mark.rl
def test_it_equals_stable_baselines3_where_episodes_terminate() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    gen = np.random.default_rng(1)
    reward, value = gen.normal(size=(2, 40, 3)).astype(np.float32)
    last, over = gen.normal(size=3).astype(np.float32), gen.random((40, 3)) < 0.15
    box = spaces.Box(-1, 1, (1,))
    theirs = buffers.RolloutBuffer(40, box, box, "cpu", gae_lambda=0.95, gamma=0.99, n_envs=3)
    begins = np.vstack([np.ones((1, 3)), over[:-1]]).astype(np.float32)
    blank = np.zeros((3, 1), np.float32)
    for t in range(40):
        theirs.add(blank, blank, reward[t], begins[t], torch.from_numpy(value[t])[:, None], torch.zeros(3))
    theirs.compute_returns_and_advantage(torch.from_numpy(last), over[-1])
    following = np.vstack([value[1:], last[None]])
    given = (torch.from_numpy(x).float() for x in (reward, value, following, over, over))
    ours = generalised_advantages(*given, gamma=0.99, lam=0.95)
    assert ours.numpy() == pytest.approx(theirs.advantages, abs=1e-6)


def test_lambda_one_is_the_discounted_sum_minus_the_value() -> None:
    reward, value = column(1, 2, 4), column(0.5, 0.1, 0.7)
    found = generalised_advantages(
        reward, value, column(0.1, 0.7, 9), column(0, 0, 1), column(0, 0, 1), gamma=0.5, lam=1.0
    )
    assert found[:, 0].tolist() == pytest.approx([1 + 1 + 1 - 0.5, 2 + 2 - 0.1, 4 - 0.7])


def test_standardised_advantages_have_mean_zero_and_deviation_one_seed_by_seed() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0]])
    assert standardised(x) == pytest.approx(torch.tensor([[-1.0, 0, 1], [-1, 0, 1]]), abs=1e-6)


def test_advantages_that_are_all_alike_count_as_zero_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="all alike"):
        found = standardised(torch.tensor([[2.0, 2.0, 2.0], [0.0, 1.0, 2.0]]))
    assert found[0].tolist() == [0, 0, 0]
    assert found[1].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
