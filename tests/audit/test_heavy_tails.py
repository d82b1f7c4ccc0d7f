"""What a few rows do to the answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterlog.audit.heavy_tails import HeavyTails, tail_index, top_share, without_largest
from counterlog.core.policies import Always
from counterlog.core.rounds import Rounds
from counterlog.studies.log_audit import as_log, clean_columns


def test_top_share_and_value_without_by_hand() -> None:
    size = np.array([1.0, 5.0, 2.0, 2.0])
    assert top_share(size, 1) == 0.5
    assert top_share(size, 2) == 0.7
    assert without_largest(size, 1) == 5 / 4
    assert without_largest(np.array([-5.0, 1.0, 2.0, 2.0]), 1) == 5 / 4
    assert top_share(np.zeros(4), 2) == 0.0
    assert without_largest(size, 9) == 0.0


SIZES = st.just(0.0) | st.floats(1e-200, 1e6)  # smaller ones vanish when they are scaled


@given(st.lists(SIZES, min_size=2, max_size=30), st.integers(1, 30), st.floats(0.01, 100))
def test_top_share_ignores_scale_and_grows_with_rows(values: list[float], rows: int, scale: float) -> None:
    size = np.array(values)
    assert top_share(size * scale, rows) == pytest.approx(top_share(size, rows), abs=1e-9)
    assert top_share(size, rows) <= top_share(size, rows + 1) + 1e-12


def test_the_tail_index_of_a_pareto_is_recovered_and_a_bounded_weight_has_none() -> None:
    gen = np.random.default_rng(0)
    alpha, upper = tail_index(gen.pareto(1.2, 50_000) + 1, 0.95)
    assert alpha == pytest.approx(1.2, abs=0.25) and upper < 2
    assert tail_index(np.full(50_000, 4.0), 0.95) == (math.inf, math.inf)
    assert tail_index(gen.uniform(1, 2, 50_000), 0.95)[1] > 2


def test_ten_rows_that_carry_the_reward_are_a_warning() -> None:
    reward = np.r_[np.full(10, 1000.0), np.full(90, 20.0), np.ones(900)]
    log = Rounds({"a": [0, 1] * 500, "r": reward}, action="a", reward="r", propensity=0.5)
    finding = HeavyTails().check(log)[0]
    share = 10_000 / (10_000 + 1_800 + 900)
    assert finding.severity == "warning" and finding.value == pytest.approx(share)
    assert "without them 2.7" in finding.message and "cap or transform" in finding.remedy


def test_rare_binary_rewards_are_told_apart_from_heavy_ones() -> None:
    log = Rounds(
        {"a": [0, 1] * 500, "r": np.r_[np.ones(30), np.zeros(970)]}, action="a", reward="r", propensity=0.5
    )
    finding = HeavyTails().check(log)[0]
    assert finding.severity == "note" and "only 30 of 1,000 rows have a reward" in finding.message
    assert finding.remedy.startswith("log for longer")


def test_a_candidate_that_nobody_asked_for_is_at_most_a_note() -> None:
    columns = clean_columns(2000, 0)
    columns["p"] = columns["p"].copy()
    columns["p"][np.flatnonzero(columns["y"])[:3]] = 1e-5
    log = as_log(columns)
    assert [f.severity for f in HeavyTails().check(log)] == ["ok", "note"]
    asked = HeavyTails().check(log, [Always(a) for a in range(4)])
    assert {f.severity for f in asked} >= {"warning"}
    assert "self-normalised" in asked[-1].remedy or asked[-1].severity == "ok"


def test_constant_weights_need_no_second_finding() -> None:
    assert len(HeavyTails().check(as_log(clean_columns(500, 0)))) == 1
