"""The criteria by hand, and that the steadiest learner of group 3 is found when the other groups hold wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.estimate.learner_selection import best, changes, criterion, minimax, mixed, soft_weights


def test_two_groups_by_hand() -> None:
    psi = np.array([[[1.0, 2.0], [4.0, 8.0]]])  # one split
    assert changes(psi, 0)[0].tolist() == [[0, 9], [9, 0]]  # second group's first learner
    assert minimax(psi).tolist() == [[9, 36], [16, 36]]
    assert mixed(psi).tolist() == [[9 + 1, 36 + 1], [9 + 16, 36 + 16]]
    assert best(psi, "minimax") == (0, 0)


def test_differences_are_squared_before_they_are_averaged_over_splits() -> None:
    psi = np.array([[[0.0, 1.0]], [[0.0, -1.0]]])
    assert minimax(psi).tolist() == [[1, 1]]


@pytest.mark.parametrize("rule", ["minimax", "mixed"])
def test_order_and_scale_of_the_learners_do_not_matter(rule: str) -> None:
    psi = np.random.default_rng(0).normal(size=(6, 2, 3, 4))
    found, order = criterion(psi, rule), [2, 0, 3, 1]
    assert criterion(psi[..., order], rule) == pytest.approx(found[..., order])
    assert criterion(10 * psi, rule) == pytest.approx(100 * found)
    assert soft_weights(10 * psi, rule) == pytest.approx(soft_weights(psi, rule))
    assert soft_weights(psi, rule).sum() == pytest.approx(1.0)


def test_alone_there_is_nothing_to_choose() -> None:
    assert best(np.zeros((3, 1, 1, 1)), "minimax") == (0, 0, 0)
    assert soft_weights(np.zeros((3, 1, 1, 1))).tolist() == [[[1.0]]]


@pytest.mark.parametrize("rule", ["minimax", "mixed"])
def test_the_right_learner_is_the_one_whose_estimate_stays(rule: str) -> None:
    """Second-order bias: psi = truth + sum of products of two groups' errors + noise of n = 4,000."""
    one, two, three = np.array([0.0, 0.8]), np.array([0.0, -0.7]), np.array([0.0, 0.9, -1.1, 1.4])
    bias = one[:, None, None] * two[None, :, None]
    bias = bias + one[:, None, None] * three + two[None, :, None] * three
    hits = 0
    for seed in range(50):
        gen = np.random.default_rng(seed)
        shared = gen.normal(size=(15, 1, 1, 1)) * 0.2
        psi = bias + shared + 0.1 * gen.normal(size=(15, 2, 2, 4))
        hits += best(psi, rule)[2] == 0
    assert hits >= 45
