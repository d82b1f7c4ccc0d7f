"""nDCG, ERR and average precision against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from counterlog.core.errors import LogError
from counterlog.core.ranking_metrics import average_precision, err, mean, ndcg, ranks

ONE = np.array([0, 5])


def by_hand(labels: list[int], k: int) -> tuple[float, float]:
    """DCG and ERR of labels in rank order, as a reader would write them."""
    gain = sum((2**y - 1) / np.log2(i + 2) for i, y in enumerate(labels[:k]))
    going, found = 1.0, 0.0
    for i, y in enumerate(labels[:k]):
        stop = (2**y - 1) / 16
        found += going * stop / (i + 1)
        going *= 1 - stop
    return gain, found


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_orders_of_five_items(k: int) -> None:
    labels = np.array([3.0, 0.0, 1.0, 4.0, 2.0])
    best = max(by_hand([int(y) for y in o], k)[0] for o in permutations(labels))
    for order in permutations(range(5)):
        score = np.empty(5)
        score[list(order)] = np.arange(5, 0, -1)
        gain, stopped = by_hand([int(labels[i]) for i in order], k)
        assert ndcg(score, labels, ONE, k)[0] == pytest.approx(gain / best, abs=1e-12)
        assert err(score, labels, ONE, k)[0] == pytest.approx(stopped, abs=1e-12)


def test_average_precision_by_hand() -> None:
    found = average_precision(np.array([5.0, 4, 3, 2, 1]), np.array([3.0, 0, 4, 1, 3]), ONE)
    assert found[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_lists_of_unequal_length_are_as_alone_and_empty_ones_are_left_out() -> None:
    gen = np.random.default_rng(0)
    offsets = np.array([0, 5, 8, 10])
    score, label = gen.normal(size=10), gen.integers(0, 5, size=10).astype(float)
    label[8:] = 0
    for measure in (ndcg, average_precision):
        whole = measure(score, label, offsets)
        parts = [
            measure(score[a:b], label[a:b], np.array([0, b - a]))[0] for a, b in ((0, 5), (5, 8), (8, 10))
        ]
        assert np.allclose(whole, parts, rtol=0, atol=1e-12, equal_nan=True)
    assert np.isnan(ndcg(score, label, offsets)[2])
    assert ndcg(score, label, offsets, empty=0.0)[2] == 0
    assert mean(np.array([1.0, np.nan])) == 1.0


def test_ties_keep_the_order_given() -> None:
    assert ranks(np.array([1.0, 2.0, 1.0, 1.0]), np.array([0, 4])).tolist() == [2, 1, 3, 4]
    first = ndcg(np.zeros(5), np.array([4.0, 0, 0, 0, 0]), ONE, 1)[0]
    last = ndcg(np.zeros(5), np.array([0.0, 0, 0, 0, 4]), ONE, 1)[0]
    assert (first, last) == (1.0, 0.0)


def test_refusals() -> None:
    with pytest.raises(LogError, match="4 scores"):
        ndcg(np.zeros(4), np.zeros(5), ONE)
    with pytest.raises(LogError, match="score of row 1 is not a number"):
        ndcg(np.array([0, np.nan, 0, 0, 0]), np.zeros(5), ONE)
    with pytest.raises(LogError, match="at most grades=2"):
        err(np.zeros(5), np.full(5, 3.0), ONE, grades=2)
