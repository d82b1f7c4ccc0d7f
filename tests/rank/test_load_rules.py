from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.isotonic import IsotonicRegression

from counterlog.rank.load_rules import best, monotone, segment_levels, segment_values, shrink, static


def test_a_static_load_falls_to_what_the_inventory_allows():
    available = np.array(
        [[True, True, True], [True, True, False], [True, False, False], [False, False, True]]
    )
    np.testing.assert_array_equal(static(1, 4, 3, available).argmax(axis=1), [1, 1, 0, 2])
    np.testing.assert_array_equal(static(2, 4, 3, available).argmax(axis=1), [2, 1, 0, 2])
    assert static(2, 4, 3, None)[:, 2].all()


def test_the_best_level_is_an_available_one():
    scores = np.array([[1.0, 2.0, 9.0], [5.0, 2.0, 9.0]])
    available = np.array([[True, True, False], [True, True, True]])
    np.testing.assert_array_equal(best(scores, available).argmax(axis=1), [1, 2])


def test_segment_values_by_hand():
    value, se = segment_values(
        np.array([0, 0, 0, 1]),
        np.array([0, 0, 1, 0]),
        np.array([0.5, 0.25, 0.5, 0.5]),
        np.array([1.0, 4.0, 2.0, 3.0]),
        2,
        2,
    )
    assert value[0, 0] == pytest.approx((2 * 1 + 4 * 4) / 6)  # weights 2 and 4
    assert se[0, 0] == pytest.approx(np.hypot(2 * (1 - 3), 4 * (4 - 3)) / 6)
    assert value[0, 1] == 2.0
    assert np.isinf(se[0, 1])  # a single row says nothing of its spread
    assert np.isnan(value[1, 1])


def test_noisy_segments_are_pulled_to_the_common_curve_and_sure_ones_are_not():
    value = np.array([[0.0, 1.0], [0.0, 1.1], [0.0, -3.0]])
    noisy, _ = shrink(value, np.array([[0.1, 0.1], [0.1, 0.1], [5.0, 5.0]]))
    sure, spread = shrink(value, np.full((3, 2), 1e-6))
    assert noisy[2, 1] > noisy[2, 0]
    np.testing.assert_allclose(sure, value - value.mean(axis=1, keepdims=True), atol=1e-6)
    assert spread.max() < 1e-5


def test_one_segment_keeps_its_own_values():
    value, se = np.array([[0.2, 0.8]]), np.array([[0.1, 0.1]])
    effect, spread = shrink(value, se)
    np.testing.assert_allclose(effect, [[-0.3, 0.3]])
    np.testing.assert_array_equal(spread, se)


def test_a_segment_without_rows_follows_the_others():
    segment, action = np.zeros(40, dtype=int), np.arange(40) % 2
    table = segment_levels(segment, action, np.full(40, 0.5), action + 0.1 * (np.arange(40) % 3), 2, 2, z=1.6)
    assert table[0].argmax() == table[1].argmax() == 1


@given(arrays(np.float64, (5, 6), elements=st.floats(-10, 10)))
@settings(max_examples=60, deadline=None)
def test_the_monotone_curve_is_isotonic_regression(q):
    level = np.arange(6)
    for rising in (True, False):
        ours = monotone(q, rising=rising)
        for row, curve in zip(q, ours, strict=True):
            np.testing.assert_allclose(
                curve, IsotonicRegression(increasing=rising).fit_transform(level, row), atol=1e-9
            )
