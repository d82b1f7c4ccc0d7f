"""Repeats, time order, odd columns."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.audit.log_hygiene import LogHygiene, repeated_rows
from counterlog.studies.log_audit import as_log, clean_columns


def checks(log) -> dict:  # type: ignore[no-untyped-def, type-arg]
    return {f.check: f for f in LogHygiene().check(log)}


def test_repeats_are_counted_against_chance_by_hand() -> None:
    columns = {"a": [0, 0, 1, 0], "y": [1.0, 1.0, 0.0, 0.0], "p": [0.25] * 4, "k": [1, 1, 2, 3]}
    log = as_log(columns, context=["k"], segment=(), time=None)
    repeats, expected, spread = repeated_rows(log)
    assert (repeats, expected) == (1, 0.25)
    assert spread == pytest.approx(np.sqrt(0.25 * 0.75))


def test_rows_that_agree_by_chance_are_no_repeats() -> None:
    columns = clean_columns(5000, 0)
    log = as_log({k: columns[k] for k in ("a", "y", "p", "c", "z")}, context=["c", "z"], time=None)
    assert "log hygiene: repeated rows" not in checks(log)


def test_repeated_rows_are_found_and_roughly_counted() -> None:
    columns = clean_columns(5000, 0)
    rows = np.r_[np.arange(5000), np.arange(100)]
    finding = checks(as_log({k: v[rows] for k, v in columns.items()}))["log hygiene: repeated rows"]
    assert finding.severity == "warning" and 60 <= finding.value <= 100


def test_time_that_goes_backwards_names_the_first_row() -> None:
    columns = clean_columns(100, 0)
    columns["t"] = np.r_[columns["t"][50:], columns["t"][:50]]
    finding = checks(as_log(columns))["log hygiene: time order"]
    assert "1 of 99 steps, first at row 50" in finding.message


def test_constant_gappy_unique_rare_and_new_columns_are_noted() -> None:
    columns = clean_columns(2000, 0)
    columns["x"] = np.where(np.arange(2000) % 2 == 0, np.nan, columns["x"])
    columns["z"] = np.ones(2000)
    columns["id"] = np.array([f"u{i}" for i in range(2000)])
    columns["c"] = np.where(
        np.arange(2000) % 50 == 0, np.char.add("rare", (np.arange(2000) // 500).astype(str)), "a"
    )
    columns["c"] = np.where(np.arange(2000) > 1900, "new", columns["c"])
    found = checks(as_log(columns, context=["x", "c", "z", "id"], segment=()))
    assert {
        f"log hygiene: {n}"
        for n in ("constant columns", "gaps", "identifiers", "rare categories", "new categories")
    } <= set(found)
    assert {f.severity for f in found.values()} == {"note"}
    assert "'id'" in found["log hygiene: identifiers"].message


def test_constant_rewards_and_single_actions_stop() -> None:
    columns = clean_columns(100, 0)
    columns["y"] = np.full(100, 2.0)
    assert checks(as_log(columns))["log hygiene: constant reward"].severity == "stop"
    columns["a"] = np.zeros(100, int)
    assert "same action (0)" in checks(as_log(columns))["log hygiene: one action"].message


def test_actions_listed_but_never_logged_are_named() -> None:
    columns = {"a": ["x", "y"] * 50, "y": [0.0, 1.0] * 50, "av": ["x|y|z"] * 100}
    log = as_log(columns, propensity="uniform", context=(), segment=(), time=None, available="av")
    finding = checks(log)["log hygiene: unlogged actions"]
    assert finding.severity == "warning" and finding.message.endswith("never logged: z")


def test_a_clean_log_is_one_ok() -> None:
    (finding,) = LogHygiene().check(as_log(clean_columns(3000, 0)))
    assert finding.severity == "ok"
