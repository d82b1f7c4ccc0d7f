"""Change points of the logging."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.audit.logging_drift import LoggingDrift, blocks_of, change_point, cusum
from counterlog.core.time_windows import windows
from counterlog.studies.log_audit import DEFECTS, as_log, clean_columns


def test_block_deviations_by_hand() -> None:
    blocks = blocks_of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 2)
    assert blocks.tolist() == [[2 - 1.5, 0 - 0.5], [1 - 1.5, 1 - 0.5]]


def test_the_cusum_ends_at_zero_and_peaks_at_the_change() -> None:
    blocks = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert cusum(blocks)[:, 0].tolist() == [0.5, 1.0, 0.5, 0.0]


def test_a_change_is_found_where_it_was_made() -> None:
    gen = np.random.default_rng(0)
    early, late = gen.multinomial(50, [0.5, 0.5], 60), gen.multinomial(50, [0.7, 0.3], 40)
    blocks = np.vstack([early, late]).astype(float)
    p, at, _ = change_point(blocks - blocks.mean(axis=0), permutations=999, rng=0)
    assert p == pytest.approx(0.001)
    assert abs(at - 59) <= 3


def test_p_values_are_uniform_when_nothing_changes() -> None:
    gen, p = np.random.default_rng(0), []
    for i in range(200):
        blocks = gen.multinomial(30, [0.6, 0.3, 0.1], 40).astype(float)
        p.append(change_point(blocks - blocks.mean(axis=0), permutations=199, rng=i)[0])
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.055)


def test_rows_of_equal_time_stay_in_one_window() -> None:
    assert windows(np.array([3.0, 1.0, 1.0, 1.0, 2.0, 3.0]), 3).tolist() == [2, 0, 0, 0, 1, 2]


def test_propensities_that_follow_the_change_make_it_a_note() -> None:
    log = DEFECTS["policy changed, propensities right"].make(5000, 0)
    finding = LoggingDrift().check(log)[0]
    assert finding.severity == "note" and "propensities agree with it" in finding.message
    assert "2026-01-0" in finding.message


def test_propensities_that_do_not_follow_make_it_a_warning() -> None:
    finding = LoggingDrift().check(DEFECTS["policy changed unseen"].make(5000, 0))[0]
    assert finding.severity == "warning" and "do not follow" in finding.message


def test_daily_shares_are_the_evidence() -> None:
    log = as_log(clean_columns(2000, 0))
    evidence = LoggingDrift().check(log)[0].evidence
    days = {e["from"] for e in evidence}
    assert len(days) == 10 and "2026-01-03" in days
    assert sum(e["rows"] for e in evidence) == 2000
    assert sum(e["share"] for e in evidence if e["from"] == "2026-01-03") == pytest.approx(1)


def test_without_time_there_is_one_note() -> None:
    (finding,) = LoggingDrift().check(as_log(clean_columns(50, 0), time=None))
    assert finding.severity == "note" and "no time column" in finding.message


def test_three_distinct_times_are_too_few() -> None:
    columns = clean_columns(60, 0)
    columns["t"] = np.arange(60) // 20
    assert "too few" in LoggingDrift().check(as_log(columns))[0].message


def test_users_who_keep_their_arm_and_come_for_two_days_are_no_drift() -> None:
    alarms = 0
    for i in range(20):
        gen = np.random.default_rng(i)
        unit = np.repeat(np.arange(150), 40)
        when = gen.random(150)[unit] * 8 + gen.random(len(unit)) * 2
        columns = {"a": gen.integers(0, 2, 150)[unit], "y": gen.random(len(unit)), "t": when, "u": unit}
        log = as_log(columns, propensity=0.5, context=(), segment=(), unit="u")
        alarms += LoggingDrift().check(log)[0].severity != "ok"
    assert alarms <= 1
