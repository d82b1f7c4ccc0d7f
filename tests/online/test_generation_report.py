from __future__ import annotations

import math

import numpy as np
import pytest

from counterlog.core.errors import LogError
from counterlog.online.generation_report import (
    Generation,
    GenerationReport,
    alternation,
    calibration_error,
    degradation,
    ess_of_uniform,
    make_report,
    oscillation,
    psi,
    realizability,
    shift_auc,
)


def test_degradation_by_hand() -> None:
    z = degradation(np.array([0.5, 0.6, 0.3]), np.array([0.03, 0.04, 0.03]))
    assert z == pytest.approx([2.0, -6.0])


def test_alternation_by_hand() -> None:
    assert alternation(np.array([1.0, -1.0, 1.0, -1.0])) == pytest.approx(-0.75)


def test_noise_alone_alternates_by_minus_one_half_and_is_called_steady() -> None:
    random = np.random.default_rng(0)
    found = [
        oscillation(0.5 + 0.01 * random.standard_normal(40), np.full(40, 0.01), draws=400) for _ in range(200)
    ]
    assert np.mean([o.alternation for o in found]) == pytest.approx(-0.5, abs=0.03)
    assert np.mean([o.verdict != "steady" for o in found]) < 0.09
    assert np.mean([o.cochran_p < 0.05 for o in found]) < 0.09


def test_unequal_standard_errors_keep_the_level() -> None:
    random = np.random.default_rng(1)
    se = np.tile([0.01, 0.05, 0.002], 4)
    found = [oscillation(se * random.standard_normal(12), se, draws=400) for _ in range(300)]
    assert np.mean([o.excess_p < 0.05 for o in found]) < 0.09


def test_a_real_oscillation_is_found_with_its_period() -> None:
    value = 0.5 + 0.1 * (-1.0) ** np.arange(12) + 0.005 * np.random.default_rng(2).standard_normal(12)
    found = oscillation(value, np.full(12, 0.01))
    assert found.verdict == "oscillating" and found.period == pytest.approx(2.0)


def test_a_slow_wave_is_unstable_but_no_oscillation() -> None:
    found = oscillation(0.5 + 0.1 * np.sin(2 * np.pi * np.arange(16) / 8), np.full(16, 0.01))
    assert found.verdict == "unstable" and found.period == pytest.approx(8.0)


def test_a_steady_trend_is_neither() -> None:
    random, trend = np.random.default_rng(3), 0.05 * np.arange(12)
    series = [trend + 0.01 * random.standard_normal(12) for _ in range(300)]
    found = [oscillation(v, np.full(12, 0.01), draws=400) for v in series]
    assert np.mean([o.verdict != "steady" for o in found]) < 0.09


def test_short_series_are_not_judged_and_gaps_are_refused() -> None:
    assert oscillation(np.ones(3), np.ones(3)).verdict == "too short"
    with pytest.raises(LogError, match="no value or no standard error"):
        oscillation(np.array([1.0, np.nan, 1, 1]), np.ones(4))


def test_effective_rows_of_uniform_choice() -> None:
    assert ess_of_uniform(np.full(10, 0.25), np.full(10, 4.0)) == pytest.approx(10)
    # weights 1/(2 * .9) and 1/(2 * .1)
    w = np.array([1 / 1.8, 5.0])
    assert ess_of_uniform(np.array([0.9, 0.1]), np.full(2, 2.0)) == pytest.approx(w.sum() ** 2 / (w @ w))


def test_shift_scores() -> None:
    random = np.random.default_rng(4)
    old, same, moved = (
        random.normal(size=(4000, 2)),
        random.normal(size=(4000, 2)),
        random.normal(1, 1, (4000, 2)),
    )
    assert psi(old, same) < 0.02 < 0.5 < psi(old, moved)
    assert abs(shift_auc(old, same) - 0.5) < 0.05 and shift_auc(old, moved) > 0.75


def test_calibration_error_by_hand() -> None:
    predicted = np.repeat([0.2, 0.8], 5)
    reward = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1.0])
    assert calibration_error(predicted, reward, bins=2) == pytest.approx(0.1)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_realizability_by_hand() -> None:
    scores = np.tile([0.8, 0.4], (4, 1))
    share, ratio, _ = realizability(
        scores, np.ones((4, 2), bool), np.array([0, 0, 1, 1]), np.array([1.0, 1, 0, 1])
    )
    assert share == 0.5 and ratio == pytest.approx(((0.16 + 0.36) / 2) / 0.04)


def test_the_report_saves_and_loads(tmp_path) -> None:
    made = tuple(
        Generation(generation=g, n=100, known=90, value=0.5 - 0.2 * g, se=0.01, shares=(0.5, 0.5))
        for g in range(4)
    )
    report = make_report(made, unit="sales")
    assert report.degraded == (1, 2, 3) and report.n == 400 and report.unit == "sales"
    back = GenerationReport.load(report.save(tmp_path / "report.json"))
    assert back.generations[2].shares == (0.5, 0.5) and back.to_frame().height == 4
