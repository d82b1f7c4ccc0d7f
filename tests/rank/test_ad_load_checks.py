from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import LogError, PropensityError, SupportError
from counterlog.core.rounds import Rounds
from counterlog.datasets import ad_load as world
from counterlog.rank.ad_load_checks import (
    check_log,
    check_propensity,
    check_segments,
    matured,
    refuse_missing_after_exit,
    sudden_drop,
    with_limits,
    z_scores,
)


def log_of(frame, **roles):
    given = {
        "action": "ad_load",
        "reward": ["continued", "revenue"],
        "propensity": "propensity",
        "context": world.PLAIN,
        "unit": "user_id",
        "position": "fetch_index",
    }
    return Rounds(frame, **{**given, **roles})


def refuse(frame, error, words, *, session="", eligible_max="", **roles):
    with pytest.raises(error, match=words):
        check_log(
            log_of(frame, **roles),
            revenue=["revenue"],
            satisfaction=["continued"],
            session=session,
            eligible_max=eligible_max,
        )


@pytest.fixture(scope="module")
def frame():
    return world.make_fetches(4000, rng=0, limited=0.3)


def test_a_sound_log_passes(frame):
    for roles in ({}, {"segment": "patience", "available": "available"}):
        check_log(
            log_of(frame.filter(pl.col("eligible_max") == 4) if not roles else frame, **roles),
            revenue=["revenue"],
            satisfaction=["continued"],
            session="session_id",
            eligible_max="eligible_max",
        )


def test_negative_revenue_is_refused_with_its_rows(frame):
    bad = frame.with_columns(revenue=pl.when(pl.int_range(pl.len()) == 7).then(-1.0).otherwise("revenue"))
    refuse(bad, LogError, r"'revenue' is negative in 1 of 4,000 rows: row 7[\s\S]*refunds")


def test_loads_that_are_not_whole_numbers_are_refused(frame):
    refuse(
        frame.with_columns(pl.col("ad_load").cast(pl.String)), LogError, "expected ad loads as whole numbers"
    )


def test_a_load_above_the_inventory_is_refused(frame):
    bad = frame.with_columns(eligible_max=pl.lit(3))
    refuse(
        bad, LogError, r"'ad_load' is above 'eligible_max' in \d+ of 4,000 rows", eligible_max="eligible_max"
    )


def test_a_repeated_fetch_is_refused(frame):
    bad = pl.concat([frame, frame[:2]])
    refuse(bad, LogError, r"repeats in 2 of 4,002 rows: rows 4000, 4001", session="session_id")


def test_a_session_without_positions_is_refused(frame):
    refuse(frame, LogError, "names no position", session="session_id", position=None)


def test_a_column_that_is_not_there_is_named(frame):
    refuse(frame, LogError, "no column 'visit'", session="visit")


def test_a_deterministic_log_is_refused_with_the_way_out(frame):
    refuse(frame, SupportError, r"every propensity is 1[\s\S]*explore", propensity=1.0)


def test_satisfaction_that_never_varies_is_refused(frame):
    refuse(frame.filter(pl.col("continued") == 1), LogError, r"'continued' is 1 in every row[\s\S]*exits")


def test_propensities_of_another_level_are_refused_by_level():
    frame = world.make_fetches(4000, rng=1)
    production = frame.with_columns(
        propensity=pl.lit(0.6)
    )  # the probability of the usual level, in every row
    with pytest.raises(PropensityError, match=r"level 0: mean of 1/p is 0\.1\d*.*level 4"):
        check_propensity(log_of(production))


def test_propensities_before_the_inventory_limit_are_refused(frame):
    drawn = frame.with_columns(propensity=pl.when(pl.col("ad_load") == 2).then(0.6).otherwise(0.1))
    with pytest.raises(PropensityError, match=r"after inventory limits"):
        check_propensity(log_of(drawn, available="available"))


def test_sound_propensities_are_seldom_accused():
    for seed in range(40):
        check_propensity(log_of(world.make_fetches(500, rng=seed)))


def test_z_scores_by_hand():
    terms = np.array([[1.0], [1.0], [-1.0], [3.0]])
    assert z_scores(terms, None)[0] == pytest.approx(4 / np.sqrt(12))
    assert z_scores(terms, np.array([0, 0, 1, 1]))[0] == pytest.approx(4 / np.sqrt(8))


def test_a_segment_made_of_an_outcome_is_refused(frame):
    with pytest.raises(LogError, match=r"'continued' is an outcome"):
        check_segments(log_of(frame.with_columns(), segment="continued"))


def test_a_segment_that_follows_the_load_is_refused(frame):
    late = frame.with_columns(
        scrolled=pl.when(pl.col("continued") == 1).then(pl.lit("far")).otherwise(pl.lit("near"))
    )
    with pytest.raises(LogError, match=r"'scrolled' depends on the ad load"):
        check_segments(log_of(late, segment="scrolled", available="available"))
    check_segments(log_of(late, segment="patience", available="available"))


def test_outcomes_missing_exactly_at_exits_are_refused_and_other_gaps_are_not():
    table = pl.DataFrame(
        {"continued": [1, 0, 1, 0], "depth": [3.0, None, 2.0, None], "other": [None, 1.0, 1.0, 1.0]}
    )
    with pytest.raises(
        LogError, match=r"'depth' is missing exactly in the 2 rows where 'continued' is 0[\s\S]*fill"
    ):
        refuse_missing_after_exit(table, ["other", "depth"], continued="continued")
    refuse_missing_after_exit(table, ["other"], continued="continued")


def test_matured_rows_are_those_with_a_delay(frame):
    delayed = frame.with_columns(delay=pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise(1.0))
    known = matured(log_of(delayed, delay="delay"), ["continued"])
    np.testing.assert_array_equal(np.flatnonzero(~known["continued"]), np.arange(10))
    assert matured(log_of(frame), []) == {}
    with pytest.raises(LogError, match="no 'delay' column"):
        matured(log_of(frame), ["continued"])
    empty = frame.with_columns(delay=pl.lit(None, dtype=pl.Float64))
    with pytest.raises(LogError, match="no row has a matured outcome"):
        matured(log_of(empty, delay="delay"), ["continued"])


def test_outcomes_filled_with_0_on_the_last_day_are_noticed(frame):
    days = frame.with_columns(day=pl.int_range(pl.len()) // 400 * 86_400)
    filled = days.with_columns(
        continued=pl.when(pl.int_range(pl.len()) >= 3600).then(0.0).otherwise("continued")
    )
    assert sudden_drop(log_of(days, time="day"), ["continued"], {}) == []
    (found,) = sudden_drop(log_of(filled, time="day"), ["continued"], {})
    assert found.severity == "warning"
    assert "last day" in found.message
    assert sudden_drop(log_of(filled), ["continued"], {}) == []


def test_a_limit_column_becomes_available_levels(frame):
    made = with_limits(log_of(frame), "eligible_max")
    given = log_of(frame, available="available")
    np.testing.assert_array_equal(made.available, given.available)
    assert with_limits(given, "eligible_max") is given
