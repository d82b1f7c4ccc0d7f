"""Missing, estimated, deterministic, tiny and rounded propensities."""

from __future__ import annotations

import numpy as np

from counterlog.audit.propensity_values import PropensityValues, rounding_step
from counterlog.studies.log_audit import as_log, clean_columns


def test_the_rounding_step_is_read_off_the_digits() -> None:
    gen = np.random.default_rng(0)
    p = gen.uniform(0.01, 1, 500)
    assert rounding_step(p) is None
    assert rounding_step(np.round(p, 3)) == 1e-3
    assert rounding_step(np.round(p * 200_000) / 200_000) == 5e-6


def test_a_floor_below_the_step_is_told() -> None:
    p = np.round(np.random.default_rng(0).uniform(0.002, 1, 3000), 3)
    p[0] = 1e-4
    columns = clean_columns(3000, 0)
    columns["p"] = p
    found = PropensityValues().check(as_log(columns))
    text = next(f for f in found if "multiples of 0.001" in f.message)
    assert text.severity == "warning" and "rows below one step: 1," in text.message


def test_one_tiny_propensity_that_holds_the_weights_is_a_warning() -> None:
    columns = clean_columns(1000, 0, "softmax")
    columns["p"][7] = 1e-6
    finding = PropensityValues().check(as_log(columns))[0]
    assert finding.severity == "warning" and "1 row has a propensity below 0.001" in finding.message
    assert "1,000,000" in finding.message


def test_many_actions_are_not_tiny_propensities() -> None:
    columns = clean_columns(5000, 0)
    columns["a"], columns["p"] = np.arange(5000) % 2000, np.full(5000, 1 / 2000)
    assert PropensityValues().check(as_log(columns))[0].severity == "ok"


def test_deterministic_logging_stops_and_a_sure_share_warns() -> None:
    columns = clean_columns(400, 0)
    columns["p"] = np.ones(400)
    assert PropensityValues().check(as_log(columns))[0].severity == "stop"
    columns["p"] = np.where(np.arange(400) < 300, 1.0, 0.25)
    finding = PropensityValues().check(as_log(columns))[0]
    assert finding.severity == "warning" and "75.0%" in finding.message


def test_missing_and_estimated_propensities_are_labelled() -> None:
    columns = clean_columns(300, 0)
    assert PropensityValues().check(as_log(columns, propensity=None))[0].severity == "stop"
    estimated = PropensityValues().check(as_log(columns, propensity="estimate"))[0]
    assert estimated.severity == "warning" and "from 3 context columns" in estimated.message
    bare = PropensityValues().check(as_log(columns, propensity="estimate", context=()))[0]
    assert "with no context" in bare.message
