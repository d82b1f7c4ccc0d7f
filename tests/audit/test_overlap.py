"""Effective rows and mass without support."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterlog.audit.overlap import Overlap, effective_rows, short_mass, unsupported_mass
from counterlog.core.policies import Always, LoggedColumn, Table, Uniform
from counterlog.core.rounds import Rounds
from counterlog.studies.log_audit import as_log, clean_columns


def small(**roles: str) -> Rounds:
    columns = {"a": ["x", "y", "x", "y"], "r": [1.0, 0.0, 0.0, 1.0], "av": ["x|y", "x|y", "x|y|z", "y"]}
    return Rounds(columns, action="a", reward="r", propensity=0.5, **roles)


def test_effective_rows_by_hand() -> None:
    assert effective_rows(np.array([1.0, 1.0, 0.0, 2.0])) == 16 / 6
    assert effective_rows(np.zeros(3)) == 0.0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.floats(0.1, 10))
def test_effective_rows_lie_between_one_and_n_whatever_the_scale(weights: list[float], scale: float) -> None:
    w = np.array(weights)
    assert 1 - 1e-9 <= effective_rows(w) <= len(w) * (1 + 1e-9)
    assert effective_rows(w * scale) == pytest.approx(effective_rows(w))


def test_mass_on_unlogged_and_unavailable_actions_by_hand() -> None:
    log = small(available="av")
    third = Table("thirds", np.full((4, 3), 1 / 3))
    lost, rare = unsupported_mass(third, log, 1)
    assert lost == pytest.approx(
        (1 + 1 + 1 + 2) / 12
    )  # z was never logged; x was not available in the last row
    assert rare == pytest.approx(1 / 3)


def test_a_policy_on_an_unlogged_action_is_stopped() -> None:
    (finding,) = Overlap().check(small(available="av"), [Always("z")])
    assert finding.severity == "stop" and "100.0% of its decisions have no support" in finding.message
    assert "restrict it" in finding.remedy


def test_the_log_itself_has_every_row() -> None:
    log = as_log(clean_columns(3000, 0))
    (finding,) = Overlap().check(log, [Uniform()])
    assert finding.severity == "ok" and finding.value == pytest.approx(3000)
    assert finding.evidence[0]["mean weight"] == pytest.approx(1)


def test_few_effective_rows_warn_and_fewer_stop() -> None:
    log = as_log(clean_columns(600, 0))
    assert Overlap().check(log, [Always(0)])[0].severity == "warning"
    assert Overlap().check(log.take(np.arange(80)), [Always(0)])[0].severity == "stop"


def test_a_candidate_that_nobody_asked_for_is_at_most_a_note() -> None:
    columns = clean_columns(1000, 0)
    columns["p"] = columns["p"].copy()
    columns["p"][0] = 1e-7
    assert Overlap().check(as_log(columns))[0].severity == "note"


def test_a_column_policy_loses_mass_when_its_weights_average_below_one() -> None:
    columns = clean_columns(3000, 0)
    columns["p"] = np.ones(3000)
    columns["q"] = (columns["a"] == 1) * 1.0
    (finding,) = Overlap().check(as_log(columns), [LoggedColumn("q")])
    assert finding.severity == "stop" and "no support" in finding.message


def test_a_short_mean_weight_is_no_loss_while_larger_weights_may_be_missing() -> None:
    weight = np.full(100, 0.9)
    assert short_mass(weight, 1.0) == pytest.approx(0.1)
    assert short_mass(weight, 1e6) == 0.0


def test_a_policy_that_cannot_be_valued_is_stopped_with_the_reason() -> None:
    log = as_log(clean_columns(100, 0))
    (missing,) = Overlap().check(log, [Always("other")])
    assert missing.severity == "stop" and "never holds the action 'other'" in missing.message
    (shape,) = Overlap().check(log, [Table("old", np.ones((3, 4)))])
    assert shape.severity == "stop" and "shape (3, 4)" in shape.message


def test_without_propensities_no_candidate_is_weighted() -> None:
    (finding,) = Overlap().check(as_log(clean_columns(50, 0), propensity=None))
    assert finding.severity == "note" and "no propensities" in finding.message
