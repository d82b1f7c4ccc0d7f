"""The coverage study: its worlds have the value they state, its running formulas agree, and its checks hold."""

from pathlib import Path

import numpy as np
import pytest

import counterlog.studies.interval_coverage as study
from counterlog.core.intervals import Moments, standard_error, value
from counterlog.core.study import Study

COMMITTED = Path(study.__file__).parent / "results" / "interval-coverage.json"


def test_the_stated_value_is_the_integral_of_the_reward():
    x = (np.arange(20_000) + 0.5) / 20_000
    mean = 0.8 * study.reward_mean(x, True).mean() + 0.2 * study.reward_mean(x, False).mean()
    assert mean == pytest.approx(study.TRUTH, abs=1e-9)


@pytest.mark.parametrize("world", [study.WORLDS[0], study.USERS], ids=lambda w: w.name)
def test_every_estimator_is_centred_on_it(world):
    log = study.draw(world, 400, 500, np.random.default_rng(0))
    for a, b, c in study.parts(log).values():
        values = a.mean(axis=1) + b.mean(axis=1) / c.mean(axis=1)
        assert values.mean() == pytest.approx(study.TRUTH, abs=4 * values.std() / 20)


def test_running_formulas_end_at_the_whole_log():
    log = study.draw(study.WORLDS[0], 2, 60, np.random.default_rng(1))
    y, count = log.w * log.r, np.arange(1, 61, dtype=float)
    for running, moments in (
        (study.running_mean(y, count), Moments.from_units(a=y[0])),
        (study.running_ratio(y, log.w, count), Moments.from_units(b=y[0], c=log.w[0])),
    ):
        assert running[0][0, -1] == pytest.approx(value(moments), rel=1e-12)
        assert running[1][0, -1] == pytest.approx(standard_error(moments), rel=1e-9)


def test_quick_mode_holds_and_repeats_itself():
    one, two = study.run(rng=3), study.run(rng=3)
    assert [c.claim for c in one.checks if not c.passed] == []
    assert one.tables == two.tables


def test_the_committed_result_is_a_full_run_that_passed():
    committed = Study.load(COMMITTED)
    assert committed.mode == "full" and committed.passed and committed.n >= 1000
