"""Counts against known propensities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from counterlog.audit.sample_ratio import SampleRatio, chi_square, monte_carlo, one_row_a_unit
from counterlog.core.rounds import Rounds
from counterlog.studies.log_audit import as_log, clean_columns


def log_of(action: list[int], p: list[float] | str, **roles: str) -> Rounds:
    columns = {"a": action, "r": [0.0] * len(action), **roles}
    if not isinstance(p, str):
        columns["p"] = p
    return Rounds(columns, action="a", reward="r", propensity=p if isinstance(p, str) else "p")


def test_chi_square_equals_the_textbook_one() -> None:
    counts, share = np.array([480.0, 310.0, 210.0]), np.array([0.5, 0.3, 0.2])
    spread = 1000 * (np.diag(share) - np.outer(share, share))
    assert chi_square(counts, 1000 * share, spread) == pytest.approx(chisquare(counts, 1000 * share).pvalue)


def test_monte_carlo_agrees_with_the_exact_binomial() -> None:
    p = monte_carlo(np.array([9.0, 31.0]), np.array([4.0, 36.0]), draws=20_000, rng=0)
    exact = binomtest(9, 40, 0.1).pvalue
    assert p == pytest.approx(exact, abs=0.01)


def test_an_action_with_probability_zero_that_was_taken_gives_zero() -> None:
    assert monte_carlo(np.array([1.0, 9.0]), np.array([0.0, 10.0]), draws=99, rng=0) == 0.0


def test_the_same_rng_gives_the_same_p() -> None:
    args = (np.array([3.0, 7.0]), np.array([4.0, 6.0]))
    assert monte_carlo(*args, draws=500, rng=3) == monte_carlo(*args, draws=500, rng=3)


def test_lost_rows_are_found() -> None:
    columns = clean_columns(8000, 0)
    keep = (columns["a"] != 2) | (np.random.default_rng(0).random(8000) < 0.8)
    finding = SampleRatio().check(as_log({k: v[keep] for k, v in columns.items()}))[0]
    assert finding.severity == "stop" and finding.message.startswith("the counts do not fit")
    assert "2 has " in finding.message
    row = finding.evidence[2]
    assert row["observed"] < row["expected"]


def test_a_log_of_whole_units_is_counted_by_unit() -> None:
    gen = np.random.default_rng(0)
    arm, size = gen.integers(0, 2, 300), gen.integers(1, 40, 300)
    unit = np.repeat(np.arange(300), size)
    log = Rounds(
        {"a": arm[unit], "r": np.zeros(len(unit)), "u": unit},
        action="a",
        reward="r",
        propensity=0.5,
        unit="u",
    )
    assert len(one_row_a_unit(log)) == 300
    finding = SampleRatio().check(log)[0]
    assert finding.severity == "ok" and "units" in finding.message


def test_sticky_draws_within_a_unit_are_no_mismatch_and_lost_rows_still_are() -> None:
    alarms = 0
    for i in range(60):
        gen = np.random.default_rng(i)
        unit = np.repeat(np.arange(400), gen.integers(5, 40, 400))
        keep = gen.random(len(unit)) < 0.1  # a new draw in a tenth of the rows, else the user's usual action
        action = np.where(keep, gen.integers(0, 3, len(unit)), gen.integers(0, 3, 400)[unit])
        columns = {"a": action, "r": np.zeros(len(unit)), "u": unit}
        alarms += (
            SampleRatio()
            .check(Rounds(columns, action="a", reward="r", propensity="uniform", unit="u"))[0]
            .severity
            != "ok"
        )
    assert alarms <= 1
    rows = (action != 1) | (gen.random(len(unit)) < 0.5)
    lost = Rounds(
        {k: v[rows] for k, v in columns.items()}, action="a", reward="r", propensity="uniform", unit="u"
    )
    assert SampleRatio().check(lost)[0].severity == "stop"


def test_uniform_over_the_available_actions_has_its_own_expectation() -> None:
    gen = np.random.default_rng(1)
    lists = gen.choice(["0|1", "0|1|2"], 3000)
    width = np.where(lists == "0|1", 2, 3)
    columns = {"a": (gen.random(3000) * width).astype(int), "r": np.zeros(3000), "av": lists}
    log = Rounds(columns, action="a", reward="r", propensity="uniform", available="av")
    finding = SampleRatio().check(log)[0]
    assert finding.severity == "ok"
    expected = [e["expected"] for e in finding.evidence]
    assert sum(expected) == pytest.approx(3000) and expected[2] == pytest.approx((width == 3).sum() / 3)


def test_constant_propensities_must_sum_to_one() -> None:
    more = SampleRatio().check(log_of([0, 1, 2] * 20, [0.5] * 60))[0]
    assert more.severity == "warning" and "sum to 1.5" in more.message
    less = SampleRatio().check(log_of([0, 1] * 30, [0.25] * 60))[0]
    assert less.severity == "warning" and "other 50.0% of the probability" in less.message


def test_varying_propensities_are_tested_by_their_weights() -> None:
    finding = SampleRatio().check(as_log(clean_columns(2000, 0, "softmax")))[0]
    assert finding.severity == "ok" and "mean weights" in finding.message


def test_nothing_is_claimed_without_propensities_or_with_one_action() -> None:
    columns = clean_columns(100, 0)
    assert "not known" in SampleRatio().check(as_log(columns, propensity=None))[0].message
    sure = SampleRatio().check(log_of([0, 1] * 30, [1.0] * 60))[0]
    assert sure.severity == "ok" and "not random" in sure.message
    assert "only one action" in SampleRatio().check(log_of([1] * 5, [1.0] * 5))[0].message
