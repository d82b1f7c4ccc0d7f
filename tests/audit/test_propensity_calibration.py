"""Mean weights against 1: known numbers, coverage, false alarms, and wrong propensities found."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.audit.propensity_calibration import PropensityCalibration, PropensityCalibrationConfig
from counterlog.core.errors import ConfigError
from counterlog.core.rounds import Rounds
from counterlog.core.weight_means import constant_by_action, gamma_interval, weight_means
from counterlog.studies.log_audit import as_log, clean_columns, z_test_alarms


def test_mean_weights_by_hand() -> None:
    action = np.array([0, 0, 1, 1])
    table = weight_means(action, np.array([0.5, 0.25, 0.5, 1.0]), 2)
    assert table.mean.tolist() == [[(2 + 4) / 4, (2 + 1) / 4]]
    assert table.logged.tolist() == [[2, 2]]
    assert table.ess[0] == pytest.approx([36 / 20, 9 / 5])


def test_only_rows_in_which_the_action_was_available_count() -> None:
    action, available = np.array([0, 1, 0]), np.array([[True, True], [False, True], [True, True]])
    table = weight_means(action, np.array([0.5, 1.0, 0.5]), 2, available=available)
    assert table.rows.tolist() == [[2, 3]]
    assert table.mean.tolist() == [[4 / 2, 1 / 3]]


def test_a_cell_without_rows_is_not_tested() -> None:
    table = weight_means(np.array([0, 1]), np.array([0.5, 0.5]), 2, cell=np.array([0, 0]), cells=2)
    assert np.isnan(table.mean[1]).all() and np.isnan(table.p[1]).all()


def test_one_unit_is_one_bet_however_many_rows_it_has() -> None:
    one = weight_means(np.zeros(500, int), np.full(500, 0.5), 2, unit=np.zeros(500, int))
    many = weight_means(np.zeros(500, int), np.full(500, 0.5), 2)
    assert one.p[0, 0] == 1.0
    assert many.p[0, 0] < 1e-20


def test_repeating_every_row_of_a_unit_leaves_mean_and_test_as_they_were() -> None:
    gen = np.random.default_rng(1)
    action, p = gen.integers(0, 3, 200), np.full(200, 0.3)
    single = weight_means(action, p, 3)
    twice = weight_means(np.repeat(action, 2), np.repeat(p, 2), 3, unit=np.repeat(np.arange(200), 2))
    assert twice.mean == pytest.approx(single.mean)
    assert twice.p == pytest.approx(single.p)


def test_available_everywhere_is_the_same_as_no_restriction() -> None:
    gen = np.random.default_rng(2)
    action, unit = gen.integers(0, 3, 300), gen.integers(0, 60, 300)
    p = gen.uniform(0.1, 0.9, 300)
    for u in (None, unit):
        free = weight_means(action, p, 3, unit=u)
        listed = weight_means(action, p, 3, unit=u, available=np.ones((300, 3), bool))
        for name in ("mean", "lo", "hi", "p", "rows", "ess"):
            assert getattr(listed, name) == pytest.approx(getattr(free, name)), name


def test_distinct_weights_compressed_or_not_give_the_same_p() -> None:
    gen = np.random.default_rng(3)
    action = gen.integers(0, 2, 1000)
    coarse = np.where(action == 0, 0.45, 0.55)
    jitter = coarse * (1 + 1e-9 * gen.normal(size=1000))
    bound = np.array([3.0, 3.0])
    few = weight_means(action, coarse, 2, bound=bound)
    many = weight_means(action, jitter, 2, bound=bound)
    assert many.p == pytest.approx(few.p, rel=1e-4)


def test_the_gamma_interval_of_a_single_row_is_the_exact_poisson_interval() -> None:
    lo, hi = gamma_interval(np.array(1.0), np.array(1.0), np.array(1.0), 0.95)
    assert float(lo) == pytest.approx(-np.log(0.975))  # P(N >= 1) = 0.025
    assert float(hi) == pytest.approx(5.5716, abs=1e-3)  # P(N <= 1) = 0.025


def test_a_constant_by_action_propensity_is_recognised() -> None:
    action = np.array([0, 1, 0, 1])
    assert constant_by_action(action, np.array([0.2, 0.8, 0.2, 0.8]), 3)[:2].tolist() == [0.2, 0.8]  # type: ignore[index]
    assert constant_by_action(action, np.array([0.2, 0.8, 0.3, 0.8]), 2) is None


def test_intervals_cover_one_and_the_test_keeps_its_level_where_the_z_test_does_not() -> None:
    covered, rejected, z_rejected = [], 0, 0
    for i in range(60):
        log = as_log(clean_columns(1500, i, "softmax"))
        table = weight_means(log.action, log.propensity, 4)
        covered.append(((table.lo <= 1) & (table.hi >= 1)).mean())
        heavy = as_log(clean_columns(1500, i, "adaptive"))
        rejected += bool((weight_means(heavy.action, heavy.propensity, 20).p * 20 < 0.05).any())
        z_rejected += z_test_alarms(heavy, 0.05)
    assert np.mean(covered) >= 0.92
    assert rejected <= 3
    assert z_rejected >= 30


def test_wrong_propensities_stop_the_log_and_the_worst_action_is_named() -> None:
    columns = clean_columns(5000, 0)
    columns["p"] = np.where(columns["a"] == 2, 0.18, 0.25)
    finding = PropensityCalibration().check(as_log(columns))[0]
    assert finding.severity == "stop"
    assert "wrong for 1 of 4 actions" in finding.message and "'2'" not in finding.message
    worst = min(finding.evidence, key=lambda e: e["p"])
    assert worst["action"] == "2" and worst["lo"] > 1.1
    assert finding.remedy.startswith("log the probability that was in force")


def test_an_action_that_could_not_be_taken_in_some_rows_is_a_warning_that_names_the_remedy() -> None:
    columns, gen = clean_columns(4000, 0), np.random.default_rng(0)
    columns["a"] = np.where(columns["c"] == "a", gen.integers(0, 2, 4000), gen.integers(2, 4, 4000))
    columns["p"] = np.full(4000, 0.5)
    finding = PropensityCalibration().check(as_log(columns))[0]
    assert finding.severity == "warning" and "fall short of 1 for 4 of 4 actions" in finding.message
    assert finding.remedy.startswith("name the column of the available actions")
    columns["av"] = np.where(columns["c"] == "a", "0|1", "2|3")
    assert PropensityCalibration().check(as_log(columns, available="av"))[0].severity == "ok"


def test_deterministic_logging_has_nothing_to_calibrate() -> None:
    columns = clean_columns(500, 0)
    (finding,) = PropensityCalibration().check(as_log({**columns, "p": np.ones(500)}))
    assert finding.severity == "note" and "nothing was random" in finding.message


def test_a_wrong_segment_is_named() -> None:
    columns = clean_columns(6000, 1)
    columns["p"] = np.where(columns["c"] == "b", columns["p"] * 0.7, columns["p"])
    found = {f.check: f for f in PropensityCalibration().check(as_log(columns))}
    assert "in c 'b'" in found["propensity calibration by segment"].message


def test_deviations_within_the_small_gap_are_a_note() -> None:
    n = 1_000_000
    action = (np.random.default_rng(0).random(n) < 0.5035).astype(int)
    log = Rounds(
        {"a": action, "r": np.zeros(n), "p": np.full(n, 0.5)}, action="a", reward="r", propensity="p"
    )
    assert PropensityCalibration().check(log)[0].severity == "note"


def test_without_or_with_estimated_propensities_it_says_so() -> None:
    columns = clean_columns(300, 0)
    assert (
        "gives no propensities" in PropensityCalibration().check(as_log(columns, propensity=None))[0].message
    )
    estimated = PropensityCalibration().check(as_log(columns, propensity="estimate"))
    assert len(estimated) == 1 and "whether they are right or wrong" in estimated[0].message


def test_heavy_weights_that_can_confirm_nothing_are_a_note() -> None:
    finding = PropensityCalibration().check(as_log(clean_columns(3000, 0, "adaptive")))[0]
    assert finding.severity == "note" and "confirm" in finding.message


def test_evidence_is_cut_to_the_smallest_p_values() -> None:
    log = as_log(clean_columns(800, 0))
    finding = PropensityCalibration(PropensityCalibrationConfig(records=2)).check(log)[0]
    assert len(finding.evidence) == 2


def test_row_order_does_not_matter() -> None:
    columns = pl.DataFrame(clean_columns(500, 4, "softmax"))
    shuffled = columns.sample(fraction=1.0, shuffle=True, seed=1)
    a, b = (PropensityCalibration().check(as_log(c.to_dict(as_series=False))) for c in (columns, shuffled))
    assert [f.value for f in a] == pytest.approx([f.value for f in b])


def test_a_level_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="alpha"):
        PropensityCalibrationConfig(alpha=1.0)
