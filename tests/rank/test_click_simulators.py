"""Click models: rates by position and grade, and their limits."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import ConfigError, LogError
from counterlog.rank.click_simulators import BROWSING, Cascade, PositionBased, UserBrowsing, attraction

LISTS = 200_000


def grades(lists: int = LISTS) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, size=(lists, 10))


def test_attraction_of_the_grades() -> None:
    expected = [0.1, 0.16, 0.28, 0.52, 1.0]
    assert attraction(np.arange(5), 4) == pytest.approx(expected, abs=1e-6)
    assert attraction(np.array([-1]), 4)[0] == 0
    with pytest.raises(LogError, match="a grade is 5"):
        attraction(np.array([5]), 4)


def test_position_based_rates_by_position_and_grade() -> None:
    y = grades()
    model = PositionBased()
    click = model.clicks(y, np.random.default_rng(1))
    for k in range(10):
        for g in range(5):
            rows = y[:, k] == g
            chance = model.examination(10)[k] * float(attraction(np.array([g]), 4)[0])
            sd = np.sqrt(chance * (1 - chance) / rows.sum())
            assert abs(click[rows, k].mean() - chance) < 4 * sd


def test_no_severity_leaves_attraction_alone_in_both_models() -> None:
    y = grades(50_000)
    position = PositionBased(severity=0).clicks(y, np.random.default_rng(2))
    browsing = UserBrowsing(severity=0).clicks(np.ascontiguousarray(y), np.random.default_rng(2))
    for click in (position, browsing):
        for g in range(5):
            chance = float(attraction(np.array([g]), 4)[0])
            n = (y == g).sum()
            assert abs(click[y == g].mean() - chance) <= 4 * np.sqrt(chance * (1 - chance) / n)


def test_user_browsing_follows_its_table() -> None:
    y = np.full((LISTS, 3), 4)
    click = UserBrowsing().clicks(y, np.random.default_rng(3)).astype(bool)
    assert click[:, 0].all()  # row 1 is [1] and grade 4 attracts for certain
    second = click[:, 1].mean()
    assert abs(second - BROWSING[1][0]) < 4 * np.sqrt(0.98 * 0.02 / LISTS)
    after_gap = click[~click[:, 1], 2].mean()  # last click two above
    assert abs(after_gap - 0.62) < 4 * np.sqrt(0.62 * 0.38 / (~click[:, 1]).sum())
    with pytest.raises(ConfigError, match="at most 10"):
        UserBrowsing().clicks(np.zeros((2, 11), int), np.random.default_rng(0))


def test_user_browsing_without_a_click_above_uses_the_last_column() -> None:
    y = np.full((LISTS, 2), 0)
    click = UserBrowsing(noise=0.5).clicks(y, np.random.default_rng(4)).astype(bool)
    none_above = click[~click[:, 0], 1].mean()
    assert abs(none_above - 0.5 * BROWSING[1][1]) < 0.01
    after = click[click[:, 0], 1].mean()
    assert abs(after - 0.5 * BROWSING[1][0]) < 0.01


def test_cascade_clicks_once_and_from_the_top() -> None:
    y = grades(20_000)
    click = Cascade().clicks(y, np.random.default_rng(5))
    assert click.sum(axis=1).max() == 1
    assert Cascade().clicks(np.full((5, 3), 4), np.random.default_rng(0)).tolist() == [[1, 0, 0]] * 5


def test_nothing_shown_is_never_clicked_and_deep_positions_reuse_the_last_chance() -> None:
    y = np.where(grades(1000) > 2, grades(1000), -1)
    for model in (PositionBased(), UserBrowsing(), Cascade()):
        assert not model.clicks(y, np.random.default_rng(6))[y < 0].any()
    assert PositionBased(severity=2).examination(12)[9:].tolist() == [0.06**2] * 3
