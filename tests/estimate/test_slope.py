"""SLOPE: the acceptance test by hand, its limits, the families' grids, and what the choice is worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from counterlog.core.errors import ConfigError, CounterlogError, SupportError
from counterlog.core.estimators import Parts, Row
from counterlog.core.evaluate import evaluate, make_estimator
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.direct_method import DM
from counterlog.estimate.doubly_robust import DR, DRos, DRosConfig, SwitchDR, SwitchDRConfig
from counterlog.estimate.importance_weighting import IPS
from counterlog.estimate.slope import (
    SLOPE,
    SlopeConfig,
    TunedClippedIPS,
    TunedDR,
    TunedDRos,
    TunedSGDR,
    TunedSubGaussianIPS,
    TunedSwitchDR,
    accept,
    bias,
    choose,
    value_and_width,
    weight_grid,
)

FAMILIES = (
    TunedClippedIPS,
    TunedSubGaussianIPS,
    TunedDR,
    TunedSwitchDR,
    TunedDRos,
    TunedSGDR,
)


def sample(seed: int = 0, n: int = 500) -> tuple[Rounds, Table, np.ndarray]:
    gen = np.random.default_rng(seed)
    x = gen.integers(0, 4, n)
    p1 = np.array([0.05, 0.2, 0.6, 0.9])[x]
    a = (gen.random(n) < p1).astype(int)
    mean = np.column_stack([0.1 * x, 0.8 - 0.1 * x])
    r = mean[np.arange(n), a] + gen.normal(0, 0.3, n)
    frame = {"x": x, "a": a, "r": r, "p": np.where(a == 1, p1, 1 - p1), "u": np.arange(n) // 2}
    log = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    return log, Table("t", np.tile([0.2, 0.8], (n, 1))), mean + 0.1


def test_acceptance_by_hand() -> None:
    # sqrt(6) - 1 = 1.4495. Widths 1.0, 0.5, 0.2; the second is within 0.5 + 1.4495 of the first, the third within
    # 0.2 + 1.4495 of the first and 0.2 + 0.7247 of the second
    width = np.array([1.0, 0.5, 0.2])
    assert accept(np.array([0.0, 1.9, 1.6]), width) == 2
    assert accept(np.array([0.0, 1.9, 1.7]), width) == 1  # 1.7 > 1.6495 from the first
    assert accept(np.array([0.0, 1.9, 0.9]), width) == 1  # 1.0 > 0.9247 from the second
    assert accept(np.array([0.0, 2.0, 0.0]), width) == 0  # the second fails, and the third is not looked at


def test_candidates_may_come_in_any_order() -> None:
    assert accept(np.array([1.6, 0.0, 1.9]), np.array([0.2, 1.0, 0.5])) == 0


def test_one_candidate_is_chosen_and_none_is_refused() -> None:
    assert accept(np.array([3.0]), np.array([1.0])) == 0
    with pytest.raises(ConfigError, match="no candidate"):
        accept(np.array([]), np.array([]))


@settings(max_examples=50, deadline=None)
@given(
    theta=st.lists(st.floats(-10, 10), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    shift=st.floats(-5, 5),
)
def test_shifting_all_candidates_changes_no_choice(theta: list[float], seed: int, shift: float) -> None:
    width = np.random.default_rng(seed).random(len(theta)) + 0.1
    assert accept(np.round(theta, 3), width) == accept(np.round(theta, 3) + round(shift), width)


def test_equal_candidates_choose_the_narrowest() -> None:
    assert accept(np.zeros(5), np.array([0.3, 0.1, 0.5, 0.2, 0.4])) == 1


def test_the_width_is_a_t_quantile_times_the_standard_error() -> None:
    psi = np.array([1.0, 2.0, 4.0, 5.0])
    theta, c = value_and_width(Parts(mean=psi), delta=0.1)
    assert theta == 3.0
    assert c == pytest.approx(student.ppf(0.9, 3) * math.sqrt(psi.var() / 3), rel=1e-12)


def test_rows_of_one_unit_count_once() -> None:
    psi = np.array([1.0, 2.0, 4.0, 5.0])
    theta, c = value_and_width(Parts(mean=np.repeat(psi, 3)), np.repeat(np.arange(4), 3), delta=0.1)
    assert (theta, c) == pytest.approx(value_and_width(Parts(mean=psi), delta=0.1), rel=1e-12)
    gaps = value_and_width(Parts(mean=np.repeat(psi, 3)), np.repeat([2, 3, 7, 9], 3), delta=0.1)
    assert gaps == (theta, c)  # codes of a part of a log are not dense


def test_the_grid_runs_from_the_median_to_the_largest_weight_and_to_infinity() -> None:
    grid = weight_grid(np.array([0.0, 1.0, 2.0, 4.0, 100.0, 3.0]), 10)
    assert len(grid) == 11
    assert (grid[0], grid[9], grid[10]) == pytest.approx((3.0, 100.0, math.inf))
    assert np.diff(np.log(grid[:10])) == pytest.approx(np.full(9, np.log(100 / 3) / 9))
    with pytest.raises(SupportError, match="every weight is 0"):
        weight_grid(np.zeros(3))


def test_the_bias_bound_by_hand() -> None:
    w, kept, residual = np.array([1.0, 3.0]), np.array([1.0, 2.0]), np.array([5.0, -4.0])
    assert bias(w, kept, residual, bound=False, delta=0.1) == pytest.approx(2.0)
    log_term = math.log(20)
    expected = 2.0 + math.sqrt(2 * 5 * log_term / 2) + 2 * 3 * log_term / 6
    assert bias(w, kept, residual, bound=True, delta=0.1) == pytest.approx(expected)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_found_by_name_and_says_what_it_chose(kind: type) -> None:
    log, policy, q = sample()
    estimator = make_estimator(kind.name)  # type: ignore[attr-defined]
    assert isinstance(estimator, kind)
    e = evaluate(log, [policy], [estimator], q={"r": q}).estimates[0]
    assert e.estimator == kind.name  # type: ignore[attr-defined]
    assert "was chosen by slope from" in e.notes[0]


@pytest.mark.parametrize("criterion", ["slope", "mse", "mse-bound"])
def test_the_tuned_estimate_is_that_of_the_chosen_setting(criterion: str) -> None:
    log, policy, q = sample()
    config = SlopeConfig(criterion=criterion)
    for kind, plain in (
        (TunedSwitchDR, lambda lam: SwitchDR(SwitchDRConfig(lam=lam))),
        (TunedDRos, lambda lam: DRos(DRosConfig(lam=lam))),
    ):
        tuned = evaluate(log, [policy], [kind(config)], q={"r": q}).estimates[0]
        lam = float(tuned.notes[0].split()[0])
        again = evaluate(log, [policy], [plain(lam)], q={"r": q}).estimates[0]
        assert tuned.value == pytest.approx(again.value, rel=0.02)
        assert tuned.estimator == kind.name.replace("slope", criterion)


def test_a_grid_of_one_value_is_that_estimator() -> None:
    log, policy, q = sample()
    one = evaluate(log, [policy], [TunedSwitchDR(SlopeConfig(grid=(2.0,)))], q={"r": q}).estimates[0]
    two = evaluate(log, [policy], [SwitchDR(SwitchDRConfig(lam=2.0))], q={"r": q}).estimates[0]
    assert (one.value, one.se) == (pytest.approx(two.value, abs=1e-12), pytest.approx(two.se, rel=1e-9))
    zero = evaluate(log, [policy], [TunedSwitchDR(SlopeConfig(grid=(0.0,))), DM()], q={"r": q}).estimates
    assert zero[0].value == pytest.approx(zero[1].value, abs=1e-12)
    assert "error of the reward model" in zero[0].notes[1]


def test_mse_minimises_variance_plus_squared_bias() -> None:
    log, policy, q = sample(n=200)
    grid = (0.0, 1.0, 2.0, 4.0, 16.0)
    w = np.array([0.2, 0.8])[log.action] / log.propensity
    rows = np.arange(200)
    residual = log.reward - q[rows, log.action]
    v = q @ [0.2, 0.8]
    errors = []
    for lam in grid:
        kept = np.where(w <= lam, w, 0)
        errors.append((v + kept * residual).var() / 200 + np.mean((w - kept) * residual) ** 2)
    tuned = evaluate(log, [policy], [TunedSwitchDR(SlopeConfig(grid=grid, criterion="mse"))], q={"r": q})
    assert float(tuned.estimates[0].notes[0].split()[0]) == grid[int(np.argmin(errors))]


def test_slope_over_estimators_takes_the_direct_method_only_when_it_agrees() -> None:
    log, policy, q = sample(n=5000)
    truth = np.array([0.8 * (0.8 - 0.1 * x) + 0.2 * 0.1 * x for x in range(4)]).mean()
    for model, choice in ((q + 0.9, "DR"), (q - 0.1, "DM")):  # q - 0.1 is the true mean
        e = evaluate(log, [policy], [SLOPE((DR(), DM()))], q={"r": model}).estimates[0]
        assert e.notes[0].startswith(f"{choice} was chosen")
        assert e.value == pytest.approx(truth, abs=0.05)


def test_slope_over_estimators_uses_each_one_s_own_ingredients() -> None:
    log, policy, q = sample()
    chosen = evaluate(log, [policy], [SLOPE((IPS(),))], q={"r": q}).estimates[0]
    alone = evaluate(log, [policy], [IPS()], q={"r": q}).estimates[0]
    assert (chosen.value, chosen.se) == (
        pytest.approx(alone.value, abs=1e-12),
        pytest.approx(alone.se, rel=1e-9),
    )
    nested = evaluate(log, [policy], [SLOPE((TunedDR(), DM()))], q={"r": q}).estimates[0]
    assert "DR(slope), DM" in nested.notes[0]


def test_slope_is_not_worse_than_the_worst_setting_and_close_to_the_best() -> None:
    truth = np.mean([0.8 * (0.8 - 0.1 * x) + 0.2 * 0.1 * x for x in range(4)])
    grid = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    errors: dict[str, list[float]] = {}
    for seed in range(40):
        log, policy, q = sample(seed, n=400)
        fixed = [SwitchDR(SwitchDRConfig(lam=lam)) for lam in grid]
        made = evaluate(log, [policy], [*fixed, TunedSwitchDR(SlopeConfig(grid=grid))], q={"r": q + 0.3})
        for e in made.estimates:
            errors.setdefault(e.estimator, []).append((e.value - truth) ** 2)
    mse = {name: float(np.mean(e)) for name, e in errors.items()}
    tuned = mse.pop("SwitchDR(slope)")
    assert tuned < max(mse.values()) / 3
    assert tuned < 6 * min(mse.values())


def test_results_that_chose_different_settings_are_not_added() -> None:
    made = []
    for lam in (1.0, 2.0):
        log, policy, q = sample()
        made.append(evaluate(log, [policy], [TunedSwitchDR(SlopeConfig(grid=(lam,)))], q={"r": q}))
    with pytest.raises(CounterlogError, match="do not hold the same policies"):
        made[0] + made[1]
    assert (made[0] + made[0]).n == 2 * made[0].n


def test_it_has_no_terms_without_a_log() -> None:
    for estimator in (TunedDR(), SLOPE()):
        with pytest.raises(ConfigError, match="makes its terms from a log"):
            estimator.parts(Row(np.ones(2), np.ones(2)))


def test_a_bias_criterion_needs_a_family() -> None:
    with pytest.raises(ConfigError, match="knows no bias"):
        SLOPE(config=SlopeConfig(criterion="mse"))
    with pytest.raises(ConfigError, match="one of slope, mse, mse-bound"):
        SlopeConfig(criterion="aic")


def test_choose_reads_ratios_too() -> None:
    gen = np.random.default_rng(0)
    w, r = gen.random(200) + 0.5, gen.random(200)
    assert choose([Parts(mean=w * r), Parts(top=w * r, bottom=w)]) in (0, 1)


def contract_example(frame: Any) -> Any:
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x", "device"], unit="user")
    names = [*(kind.name for kind in FAMILIES), "SLOPE"]
    return evaluate(log, ["uniform"], names, model="linear").estimates
