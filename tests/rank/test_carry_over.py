from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import LogError
from counterlog.core.policies import Always, Table
from counterlog.core.rounds import Rounds
from counterlog.datasets import ad_load as world
from counterlog.rank.carry_over import CarryOver, CarryOverConfig, clustered_least_squares, lagged


def contract_example(frame: Any) -> Any:
    import narwhals as nw

    data = nw.from_native(frame).with_columns(level=nw.col("item").replace_strict(["a", "b", "c"], [0, 1, 2]))
    log = Rounds(
        data.to_native(),
        action="level",
        reward="click",
        propensity="p",
        context=["x"],
        position="day",
    )
    return CarryOver().check(log, "user")


def test_lags_by_hand():
    start = np.array([True, False, False, True, False])
    values, has = lagged(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), start, 1)
    np.testing.assert_array_equal(values, [0, 1, 2, 0, 4])
    np.testing.assert_array_equal(has, [False, True, True, False, True])
    values, has = lagged(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), start, 2)
    np.testing.assert_array_equal(values, [0, 0, 1, 0, 0])


def test_clustered_errors_of_a_mean_by_hand():
    y = np.array([1.0, 3.0, 2.0, 6.0])
    beta, cov = clustered_least_squares(np.ones((4, 1)), y, np.array([0, 0, 1, 1]))
    assert beta[0] == 3.0
    # residuals -2, 0 | -1, 3: cluster sums -2 and 2, so (4 + 4) / 16, times 2 / (2 - 1)
    assert cov[0, 0] == pytest.approx(1.0)


def test_row_order_does_not_matter():
    frame = world.make_sessions(400, rng=0)
    mixed = frame.sample(fraction=1.0, shuffle=True, seed=1)
    one = CarryOver().check(world.as_rounds(frame), "session_id")
    other = CarryOver().check(world.as_rounds(mixed), "session_id")
    assert one.value == pytest.approx(other.value, abs=1e-9)


def test_patience_lost_to_the_previous_fetch_is_found_and_independent_fetches_are_not_accused():
    spent = world.as_rounds(world.make_sessions(3000, rng=0, carry=0.1, ends=False))
    calm = world.as_rounds(world.make_sessions(3000, rng=0, carry=0.0, ends=False))
    assert CarryOver().check(spent, "session_id").severity == "warning"
    assert CarryOver().check(calm, "session_id").severity == "ok"


def test_session_values_by_hand():
    frame = pl.DataFrame(
        {
            "s": [0, 0, 1],
            "i": [0, 1, 0],
            "a": [1, 0, 1],
            "p": [0.5, 0.5, 0.5],
            "r": [1.0, 2.0, 4.0],
        }
    )
    log = Rounds(frame, action="a", reward="r", propensity="p", position="i")
    policy = Table("half", np.array([[0.25, 0.75]] * 3))
    found = CarryOver(CarryOverConfig(mix=1.0)).compare(log, policy, "s")
    # weights 1.5, 0.5, 1.5; alone: (1.5 + 1 + 6) / 2; whole: (1.5 + 0.75 * 2 + 6) / 2
    assert found.value == pytest.approx(9.0 / 2 - 8.5 / 2)
    assert found.evidence[0]["mean length"] == 1.5


def test_sessions_that_end_by_exit_break_the_value_of_decisions_alone():
    log = world.as_rounds(world.make_sessions(6000, rng=0))
    assert CarryOver().compare(log, Always(3), "session_id").severity == "warning"


def test_sessions_of_one_fetch_are_refused():
    log = world.as_rounds(world.make_fetches(500))
    with pytest.raises(LogError, match="only 0 fetches have an earlier one"):
        CarryOver().check(log, "session_id")


def test_a_log_without_positions_is_refused():
    log = Rounds({"a": [0, 1], "r": [0.0, 1.0], "s": [0, 0]}, action="a", reward="r", propensity=0.5)
    with pytest.raises(LogError, match="'position'"):
        CarryOver().check(log, "s")


def test_a_session_column_that_is_not_there_is_refused():
    with pytest.raises(LogError, match="'visit'"):
        CarryOver().check(world.as_rounds(world.make_sessions(100)), "visit")


@pytest.mark.slow
def test_independent_fetches_are_accused_no_more_often_than_stated():
    accused = {"check": 0, "compare": 0}
    for seed in range(100):
        log = world.as_rounds(world.make_sessions(600, rng=seed, carry=0.0, ends=False))
        accused["check"] += CarryOver().check(log, "session_id").severity == "warning"
        accused["compare"] += CarryOver().compare(log, Always(3), "session_id").severity == "warning"
    assert accused["check"] <= 4  # level 1%: more than 4 in 100 has probability 0.003
    assert accused["compare"] <= 11  # level 5%: more than 11 in 100 has probability 0.004
