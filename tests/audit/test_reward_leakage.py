"""Columns that know the reward, and columns written after the action."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from counterlog.audit.reward_leakage import RewardLeakage, auc, balance, binned, pure_level
from counterlog.studies.log_audit import DEFECTS, as_log, clean_columns


def test_auc_equals_scikit_learn_with_ties() -> None:
    gen = np.random.default_rng(0)
    score, event = gen.integers(0, 5, 200).astype(float), gen.random(200) < 0.3
    assert auc(score, event) == pytest.approx(roc_auc_score(event, score))


def test_balance_equals_the_textbook_chi_square() -> None:
    gen = np.random.default_rng(0)
    code, action = gen.integers(0, 4, 500), gen.integers(0, 3, 500)
    table = np.array([[((code == c) & (action == a)).sum() for a in range(3)] for c in range(4)])
    assert balance(code, action, 3)[0] == pytest.approx(chi2_contingency(table).pvalue)


def test_balance_joins_small_bins_and_gives_up_on_one() -> None:
    code = np.r_[np.zeros(50, int), np.arange(1, 11)]
    assert np.isnan(balance(np.zeros(60, int), np.arange(60) % 2, 2)[0])
    assert 0 < balance(code, np.arange(60) % 2, 2)[0] <= 1


def test_gaps_are_a_bin_of_their_own() -> None:
    code, numbers = binned(pl.Series([1.0, None, 2.0, 1.0]), 8)
    assert code.tolist() == [0, 2, 1, 0] and numbers is not None and np.isnan(numbers[1])
    assert binned(pl.Series(["b", "a", "b", None]), 8)[1] is None


def test_a_level_with_only_the_rare_outcome_is_seen_when_chance_does_not_explain_it() -> None:
    event = np.r_[np.ones(30, bool), np.zeros(70, bool)]
    assert pure_level(np.r_[np.zeros(30, int), np.ones(70, int)], event, 2)
    assert not pure_level(np.r_[np.zeros(5, int), np.ones(95, int)], event, 2)


def test_no_column_of_a_clean_log_is_suspected() -> None:
    leak, after = RewardLeakage().check(as_log(clean_columns(3000, 0)))
    assert leak.severity == after.severity == "ok"
    assert {e["column"] for e in leak.evidence} == {"x", "c", "z"}


@pytest.mark.parametrize("wide", [lambda y: -2 * y, lambda y: np.where(y > 0, "yes", "no")])
def test_any_function_of_the_reward_stops_the_log(wide) -> None:  # type: ignore[no-untyped-def]
    columns = clean_columns(1000, 0)
    columns["x"] = wide(columns["y"])
    finding = RewardLeakage().check(as_log(columns))[0]
    assert finding.severity == "stop" and "'x' determines the reward 'y'" in finding.message
    assert "leave it out of the context" in finding.remedy


def test_a_flag_that_says_whether_there_was_money_leaks_a_money_reward() -> None:
    columns, gen = clean_columns(4000, 0), np.random.default_rng(0)
    columns["z"] = columns["y"]
    columns["y"] = columns["y"] * gen.lognormal(0, 2, 4000)
    finding = RewardLeakage().check(as_log(columns))[0]
    assert finding.severity == "stop" and "'z'" in finding.message


def test_a_consequence_of_the_reward_is_suspected() -> None:
    finding = RewardLeakage().check(DEFECTS["outcome of the reward in the context"].make(4000, 0))[0]
    assert finding.severity == "warning" and "always has the rarer outcome" in finding.message


def test_a_column_written_after_the_action_is_found_under_uniform_and_softmax_logging() -> None:
    for name, column in (("column after the action", "x"), ("column after the action, softmax", "z")):
        after = RewardLeakage().check(DEFECTS[name].make(5000, 0))[1]
        assert after.severity == "warning" and after.message.startswith(f"'{column}' depends on the action")


def test_context_shared_by_a_unit_of_one_arm_is_no_alarm() -> None:
    gen = np.random.default_rng(0)
    unit = np.repeat(np.arange(200), 30)
    arm, taste = gen.integers(0, 2, 200)[unit], gen.choice(list("abc"), 200)[unit]
    log = as_log(
        {"a": arm, "y": (gen.random(6000) < 0.2) * 1.0, "c": taste, "u": unit},
        propensity=0.5, context=["c"], segment=(), time=None, unit="u",
    )  # fmt: skip
    assert RewardLeakage().check(log)[1].severity == "ok"


def test_arms_that_differ_by_segment_make_no_column_look_written_after_the_action() -> None:
    columns, gen = clean_columns(4000, 0), np.random.default_rng(0)
    columns["a"] = np.where(columns["c"] == "a", gen.integers(0, 2, 4000), gen.integers(2, 4, 4000))
    columns["p"] = np.full(4000, 0.5)
    assert RewardLeakage().check(as_log(columns))[1].severity == "ok"


def test_rows_are_sampled_repeatably() -> None:
    from counterlog.audit.reward_leakage import RewardLeakageConfig

    log = as_log(clean_columns(3000, 0))
    system = RewardLeakage(RewardLeakageConfig(rows=500))
    assert system.check(log, rng=1) == system.check(log, rng=1)
    assert system.check(log, rng=1)[0].evidence != system.check(log, rng=2)[0].evidence


def test_a_log_without_context_or_randomness_is_told_so() -> None:
    columns = clean_columns(200, 0)
    (only,) = RewardLeakage().check(as_log(columns, context=(), segment=()))
    assert "no context columns" in only.message
    assert "not known to be randomised" in RewardLeakage().check(as_log(columns, propensity=None))[1].message
