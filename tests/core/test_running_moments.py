"""Running moments: NumPy's numbers whatever the chunks, frozen where asked; rewards scaled by discounted returns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from counterlog.core.running_moments import RewardNormaliser, RunningMoments, StateNormaliser  # noqa: E402

pytestmark = pytest.mark.torch


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9_999), max_size=6))
def test_any_chunks_of_ten_thousand_samples_give_numpys_moments(cuts) -> None:
    x = np.random.default_rng(0).normal(3.0, [1, 100, 0.01], (2, 10_000, 3))
    found = RunningMoments(2, 3)
    edges = [0, *sorted(set(cuts)), 10_000]
    for a, b in pairwise(edges):
        found.update(x[:, a:b])
    assert found.mean == pytest.approx(x.mean(axis=1), rel=1e-9)
    assert found.variance == pytest.approx(x.var(axis=1), rel=1e-9)


def test_a_frozen_normaliser_leaves_its_state_untouched_and_cuts_at_ten() -> None:
    look = StateNormaliser(1, 1, on=True)
    look(np.array([[[0.0], [2.0]]]), update=True)
    before = {k: v.clone() for k, v in look.state().items()}
    found = look(np.array([[[1.0], [3.0], [1e6]]]), update=False)
    assert found[0, :, 0].tolist() == pytest.approx([0.0, 2.0, 10.0], abs=1e-6)
    assert all(torch.equal(v, look.state()[k]) for k, v in before.items())


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return() -> None:
    pay = RewardNormaliser(1, 2, 0.5, on=True)
    pay(np.array([[1.0, 3.0]]), np.array([[False, True]]))
    found = pay(np.array([[2.0, 2.0]]), np.array([[False, False]]))
    seen = np.array([1.0, 3.0, 2.5, 2.0])  # the second copy began anew
    assert found == pytest.approx(2.0 / seen.std() * np.ones((1, 2)), rel=1e-6)
    assert pay.denormalised(found) == pytest.approx(2 * np.ones((1, 2)))


def test_saved_moments_go_on_as_they_would_have() -> None:
    gen = np.random.default_rng(1)
    a = RewardNormaliser(2, 3, 0.9, on=True)
    for _ in range(5):
        a(gen.normal(size=(2, 3)), gen.random((2, 3)) < 0.3)
    b = RewardNormaliser(2, 3, 0.9, on=True)
    b.restore({k: v.clone() for k, v in a.state().items()})
    reward, done = gen.normal(size=(2, 3)), np.zeros((2, 3), bool)
    assert np.array_equal(a(reward, done), b(reward, done))


def test_each_seed_has_its_own_moments() -> None:
    x = np.random.default_rng(2).normal(size=(3, 50, 2))
    stack, alone = RunningMoments(3, 2), RunningMoments(1, 2)
    stack.update(x)
    alone.update(x[1:2])
    assert np.array_equal(stack.mean[1:2], alone.mean)
    assert np.array_equal(stack.squares[1:2], alone.squares)
