"""From sums to estimates: every interval, its refusals, and differences of policies on the same units."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core import intervals
from counterlog.core.derive import derive, difference, influences, weight_summary
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds

N = 600
GEN = np.random.default_rng(0)
A = GEN.integers(0, 2, N)
R = np.where(A == 1, 0.7, 0.3) + GEN.uniform(-0.2, 0.2, N)
USER = GEN.integers(0, 60, N)
PI = np.column_stack([np.full(N, 0.3), np.full(N, 0.7)])
W = 2 * PI[np.arange(N), A]


def log(**roles: object) -> Rounds:
    frame = {"a": A, "r": R, "user": USER, "half": np.where(USER < 30, "low", "high")}
    return Rounds(frame, action="a", reward="r", propensity="uniform", **roles)  # type: ignore[arg-type]


def test_every_interval_agrees_with_the_same_method_on_the_rows() -> None:
    table = evaluate(log(), [Table("t", PI)], ["IPS", "SNIPS"]).table
    for kind, tolerance in (("t", 1e-9), ("asymptotic-cs", 1e-9)):
        for e in derive(table, interval=kind):
            a, b, c = (W * R, None, None) if e.estimator == "IPS" else (None, W * R, W)
            moments = intervals.Moments.from_units(a, b, c)
            want = intervals.t_interval(moments) if kind == "t" else intervals.asymptotic_cs(moments, 0.95)
            assert (e.lo, e.hi) == pytest.approx((want.lo, want.hi), rel=tolerance)


def test_exact_intervals_match_their_formulas() -> None:
    table = evaluate(log(), [Table("t", PI)], ["IPS"]).table
    bounds = (0.0, 1.4)
    hoeffding = derive(table, interval="hoeffding", bounds=bounds)[0]
    assert (hoeffding.hi - hoeffding.lo) / 2 == pytest.approx(1.4 * np.sqrt(np.log(40) / (2 * N)), rel=1e-12)
    bernstein = derive(table, interval="bernstein", bounds=bounds)[0]
    variance = (W * R).var(ddof=1)
    half = np.sqrt(2 * variance * np.log(80) / N) + 7 * 1.4 * np.log(80) / (3 * (N - 1))
    assert (bernstein.hi - bernstein.lo) / 2 == pytest.approx(half, rel=1e-9)


def test_bootstrap_intervals_are_close_to_t_and_repeatable() -> None:
    table = evaluate(log(), [Table("t", PI)], ["IPS", "SNIPS"]).table
    for kind in ("bootstrap", "bca"):
        for t, boot in zip(derive(table), derive(table, interval=kind, rng=1), strict=True):
            assert (boot.hi - boot.lo) / (t.hi - t.lo) == pytest.approx(1, abs=0.2)
            assert boot.value == t.value
        assert derive(table, interval=kind, rng=1) == derive(table, interval=kind, rng=1)


def test_clusters_use_the_exact_sums_of_their_units() -> None:
    e = evaluate(log(unit="user"), [Table("t", PI)], ["SNIPS"]).estimates[0]
    top, bottom = (np.bincount(USER, weights=v) for v in (W * R, W))
    ratio = top.sum() / bottom.sum()
    residual = top - ratio * bottom
    se = np.sqrt((residual**2).sum() / (60 - 1) * 60) / bottom.sum()
    assert (e.value, e.se, e.n) == (pytest.approx(ratio, abs=1e-12), pytest.approx(se, rel=1e-9), 60)


def test_influences_have_the_spread_of_the_estimate() -> None:
    made = evaluate(log(unit="user"), [Table("t", PI)], ["IPS"])
    u = influences(made.table, made.table.cells[0])
    assert u.std(ddof=1) / np.sqrt(len(u)) == pytest.approx(made.estimates[0].se, rel=1e-9)
    assert u.mean() == pytest.approx(0, abs=1e-12)


def test_a_difference_is_paired_on_the_units_both_share() -> None:
    made = evaluate(log(unit="user"), [Table("t", PI), Table("s", PI[:, ::-1].copy())], ["IPS"])
    gap, ends = difference(made.table, *made.table.cells)
    assert gap == pytest.approx(made.estimates[0].value - made.estimates[1].value, abs=1e-12)
    terms = 2 * (PI - PI[:, ::-1])[np.arange(N), A] * R
    sums, size = np.bincount(USER, weights=terms), np.bincount(USER)
    u = (sums - terms.mean() * size) / size.mean()
    assert ends.se == pytest.approx(u.std(ddof=1) / np.sqrt(60), rel=1e-9)


def test_the_difference_of_a_policy_with_itself_is_nothing() -> None:
    made = evaluate(log(), [Table("t", PI)], ["SNIPS"])
    gap, ends = difference(made.table, made.table.cells[0], made.table.cells[0])
    assert (gap, ends.lo, ends.hi) == (0, 0, 0)


def test_weights_are_summed_up() -> None:
    part = evaluate(log(), [Table("t", PI)], ["IPS"]).table.part()
    ess, peak, mean = weight_summary(part, 0)
    assert (ess, peak, mean) == pytest.approx((W.sum() ** 2 / (W**2).sum(), 1.4, W.mean()), rel=1e-12)


def test_small_effective_samples_make_the_interval_invalid_with_the_reason() -> None:
    few = log().take(np.arange(40))
    e = evaluate(few, [Table("t", PI[:40])], ["IPS"]).estimates[0]
    assert not e.valid
    assert "below 50" in e.reason


def test_a_share_of_effective_rows_below_one_percent_is_invalid() -> None:
    n = 20_000
    w = np.full(n, 1e-3)
    w[:60] = 1.0
    frame = {"a": np.where(np.arange(n) % 2, 0, 1), "r": GEN.random(n), "p": np.full(n, 0.5)}
    made = Rounds(frame, action="a", reward="r", propensity="p")
    matrix = np.zeros((n, 2))
    matrix[np.arange(n), made.action] = w
    matrix[np.arange(n), 1 - made.action] = 1 - w
    e = evaluate(made, [Table("t", matrix)], ["IPS"]).estimates[0]
    assert not e.valid
    assert "below 1%" in e.reason


def test_unknown_intervals_and_bounds_that_cannot_be_used_are_refused() -> None:
    table = evaluate(log(), [Table("t", PI)], ["IPS"]).table
    with pytest.raises(ConfigError, match="'wald' is not an interval"):
        derive(table, interval="wald")
    for kind in ("hoeffding", "bernstein"):
        with pytest.raises(ConfigError, match="bounds"):
            derive(table, interval=kind)
    ratio = evaluate(log(), [Table("t", PI)], ["SNIPS"]).table
    with pytest.raises(ConfigError, match="SNIPS is a ratio"):
        derive(ratio, interval="hoeffding", bounds=(0, 2))


def test_rows_outside_declared_bounds_are_named() -> None:
    with pytest.raises(LogError, match=r"IPS of 't' leaves the declared bounds in \d+ of 600 rows"):
        evaluate(log(), [Table("t", PI)], ["IPS"], interval="hoeffding", bounds=(0, 0.5))


def test_one_unit_has_no_interval() -> None:
    frame = {"a": [0, 1, 0], "r": [1.0, 2, 3], "u": [7, 7, 7]}
    one = Rounds(frame, action="a", reward="r", propensity="uniform", unit="u")
    with pytest.raises(SupportError, match="one independent unit"):
        evaluate(one, ["uniform"], ["IPS"])


def of_units(units: int, heavy: float, seed: int) -> tuple[bool, tuple[str, ...]]:
    """Trust and notes of a mean over units of four normal rewards, to the first of which `heavy` is added."""
    gen = np.random.default_rng(seed)
    user = np.repeat(np.arange(units), 4)
    reward = gen.normal(5, 1, 4 * units) + np.where(user == 0, heavy, 0)
    frame = {"a": gen.integers(0, 2, 4 * units), "r": reward, "u": user}
    made = Rounds(frame, action="a", reward="r", propensity="uniform", unit="u")
    e = evaluate(made, ["logged"], ["IPS"]).estimates[0]
    return e.valid, e.notes


@pytest.mark.parametrize("units", [60, 300])
def test_the_largest_of_few_light_units_is_not_called_heavy(units: int) -> None:
    assert not any(of_units(units, 0, seed)[1] for seed in range(50))


def test_a_heavy_unit_is_noted_before_it_is_distrusted() -> None:
    valid, notes = of_units(300, 3, 0)
    assert valid and "carries 11% of the spread: a heavy tail" in notes[0]
    valid, notes = of_units(300, 8, 0)
    assert not valid and "heavy tail" in notes[0]
