"""Rewards that had no time to arrive."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from counterlog.audit.reward_maturity import RewardMaturity, last_drop
from counterlog.studies.log_audit import DEFECTS, as_log, clean_columns


def test_the_drop_without_swings_is_the_two_sample_z() -> None:
    rows, mean = np.array([100, 100, 100, 100, 100]), np.array([0.5, 0.5, 0.5, 0.5, 0.3])
    p, before = last_drop(rows, mean, np.full(5, 0.25))
    z = 0.2 / np.sqrt(0.25 / 100 + 0.25 / 400)
    assert before == 0.5
    assert p == pytest.approx(1.7e-4, abs=1e-4) and z == pytest.approx(3.58, abs=0.01)


def test_days_that_swing_by_themselves_are_no_alarm() -> None:
    rows = np.full(8, 100_000)
    mean = np.array([0.10, 0.14, 0.09, 0.15, 0.11, 0.13, 0.10, 0.08])
    assert last_drop(rows, mean, mean * (1 - mean))[0] > 0.01


def test_a_constant_reward_has_no_drop() -> None:
    assert last_drop(np.full(5, 10), np.ones(5), np.zeros(5))[0] == 1.0


def test_the_missing_last_day_is_found_and_a_clean_log_is_not() -> None:
    finding = RewardMaturity().check(DEFECTS["rewards of the last day missing"].make(5000, 0))[0]
    assert finding.severity == "warning" and "from 2026-01-10 on" in finding.message
    clean = RewardMaturity().check(as_log(clean_columns(5000, 0)))[0]
    assert clean.severity == "ok" and len(clean.evidence) == 10


def test_open_and_young_rows_are_counted() -> None:
    start = dt.datetime(2026, 1, 1)
    columns = {
        "a": [0, 1] * 50, "y": [1.0, 0.0] * 50, "t": [start + dt.timedelta(hours=i) for i in range(100)],
        "d": [dt.timedelta(hours=5)] * 98 + [None, None],
    }  # fmt: skip
    log = as_log(columns, propensity=0.5, context=(), segment=(), delay="d")
    finding = RewardMaturity().check(log)[0]
    assert finding.evidence[0]["open rows"] == 2
    assert finding.evidence[0]["young rows"] == 5  # ages 0 to 4 hours
    assert finding.severity == "warning" and finding.value == 0.05


def test_numeric_times_are_cut_into_periods_of_equal_length() -> None:
    columns = clean_columns(1000, 0)
    columns["t"] = np.arange(1000)
    assert len(RewardMaturity().check(as_log(columns))[0].evidence) == 20


def test_one_day_is_too_short_and_no_time_is_a_note() -> None:
    columns = clean_columns(100, 0)
    columns["t"] = np.array(["2026-01-01"] * 100)
    assert "too few" in RewardMaturity().check(as_log(columns))[0].message
    assert RewardMaturity().check(as_log(columns, time=None))[0].severity == "note"
