"""Intervals: worked numbers, agreement with scipy, limits, refusals, and coverage of a known truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from counterlog.core.bootstrap import jackknife_values
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.intervals import (
    BUCKETS,
    METHODS,
    Moments,
    adequate,
    asymptotic_cs,
    bernstein,
    bootstrap,
    confidence_sequence,
    difference,
    heaviest_share,
    hoeffding,
    influence,
    lower_bound,
    mean_ratio_interval,
    poisson_multiplicities,
    replicate_values,
    rho_for,
    rounds_for,
    simultaneous,
    standard_error,
    t_interval,
    value,
)
from counterlog.core.sequences import cs_factor

A = np.array([1.0, 2.0, 4.0, 5.0])
W = np.array([1.0, 2.0, 1.0, 4.0])
R = np.array([2.0, 1.0, 0.0, 3.0])


def weighted(n, seed=0, top=4.0):
    """Weights with mean 1 and rewards that depend on them, bounded."""
    gen = np.random.default_rng(seed)
    w = gen.choice([0.25, top], size=n, p=[(top - 1) / (top - 0.25), 0.75 / (top - 0.25)])
    return w, (gen.random(n) < np.where(w > 1, 0.7, 0.3)).astype(float)


# ------------------------------------------------------------------ value and standard error


def test_mean_of_four_rows_by_hand():
    m = Moments.from_units(a=A)
    # mean 3, deviations -2, -1, 1, 2, sum of squares 10, s^2 = 10/3, se = sqrt(10/12)
    assert value(m) == pytest.approx(3.0)
    assert standard_error(m) == pytest.approx(math.sqrt(10 / 12), rel=1e-14)


def test_ratio_of_four_rows_by_hand():
    m = Moments.from_units(b=W * R, c=W)
    # sums: w r = 2 + 2 + 0 + 12 = 16, w = 8, value 2; residuals w (r - 2) = 0, -2, -2, 4; squares sum to 24
    assert value(m) == pytest.approx(2.0)
    assert standard_error(m) == pytest.approx(math.sqrt(4 / 3) * math.sqrt(24) / 8, rel=1e-13)


def test_self_normalised_doubly_robust_by_hand():
    m = Moments.from_units(a=A, b=W * R, c=W)
    # influence: (a - 3) + (w r - 2 w) / 2 = -2 + 0, -1 - 1, 1 - 1, 2 + 2 = -2, -2, 0, 4; squares sum to 24
    assert value(m) == pytest.approx(5.0)
    assert standard_error(m) == pytest.approx(math.sqrt(24 / 3) / 2, rel=1e-13)


def test_constant_weights_make_the_ratio_a_mean():
    one, two = Moments.from_units(a=R), Moments.from_units(b=3 * R, c=np.full(4, 3.0))
    assert value(one) == pytest.approx(value(two), rel=1e-14)
    assert standard_error(one) == pytest.approx(standard_error(two), rel=1e-13)


def test_standard_error_is_the_spread_of_the_influence():
    gen = np.random.default_rng(3)
    a, b, c, size = (
        gen.normal(5, 2, 400),
        gen.normal(2, 1, 400),
        gen.exponential(1, 400),
        gen.integers(1, 9, 400),
    )
    u = influence(a, b, c, size)
    assert abs(u.mean()) < 1e-12
    assert u.std(ddof=1) / 20 == pytest.approx(standard_error(Moments.from_units(a, b, c, size)), rel=1e-12)


def test_influence_is_the_derivative_of_the_value():
    gen = np.random.default_rng(4)
    a, b, c = gen.normal(size=50), gen.normal(size=50), gen.exponential(size=50) + 0.1
    base, step = value(Moments.from_units(a, b, c)), 1e-6
    for i in (0, 17, 49):
        weight = np.ones(50)
        weight[i] += step  # the unit counts a little more: the value moves by influence / n
        total = weight.sum()
        moved = (weight * a).sum() / total + (weight * b).sum() / (weight * c).sum()
        assert (moved - base) / step * 50 == pytest.approx(influence(a, b, c)[i], rel=1e-4, abs=1e-6)


def test_raw_sums_and_rows_give_one_answer():
    gen = np.random.default_rng(5)
    rows = np.column_stack([gen.normal(1, 2, 300), gen.normal(1, 1, 300), gen.exponential(1, 300)])
    whole = Moments.from_units(*rows.T)
    summed = Moments.from_sums(300, rows.sum(axis=0), rows.T @ rows)
    assert value(summed) == pytest.approx(value(whole), rel=1e-12)
    assert standard_error(summed) == pytest.approx(standard_error(whole), rel=1e-10)
    mean = Moments.from_sums(300, rows[:, 0].sum(), (rows[:, 0] ** 2).sum())
    assert standard_error(mean) == pytest.approx(standard_error(Moments.from_units(a=rows[:, 0])), rel=1e-10)
    ratio = Moments.from_sums(300, rows[:, 1:].sum(axis=0), rows[:, 1:].T @ rows[:, 1:])
    assert standard_error(ratio) == pytest.approx(
        standard_error(Moments.from_units(b=rows[:, 1], c=rows[:, 2]))
    )


def test_constant_rewards_have_no_spread_by_either_route():
    y = np.full(1000, 0.1)
    assert standard_error(Moments.from_units(a=y)) == 0.0
    assert standard_error(Moments.from_sums(1000, y.sum(), (y**2).sum())) == 0.0
    w = np.random.default_rng(0).exponential(size=1000)
    assert standard_error(Moments.from_units(b=0.3 * w, c=w)) == 0.0
    assert t_interval(Moments.from_units(a=y)).width == 0.0


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 5)), min_size=3, max_size=30),
    st.floats(0.1, 10),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_row_order_changes_nothing_and_reward_scale_scales(rows, scale, shuffle):
    a, b, c = np.array(rows).T
    base = t_interval(Moments.from_units(a, b, c))
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    other = t_interval(Moments.from_units(a[order], b[order], c[order]))
    scaled = t_interval(Moments.from_units(scale * a, scale * b, c))
    near = 1e-6 * (1 + np.abs(a).max() + np.abs(b).max())
    assert other.lo == pytest.approx(base.lo, abs=near) and other.hi == pytest.approx(base.hi, abs=near)
    assert scaled.lo == pytest.approx(scale * base.lo, rel=1e-6, abs=scale * near)
    assert scaled.hi == pytest.approx(scale * base.hi, rel=1e-6, abs=scale * near)


# ------------------------------------------------------------------ t, hoeffding, bernstein


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_interval_is_scipys(level):
    y = np.random.default_rng(1).normal(3, 2, 25)
    point, interval = mean_ratio_interval(y, level=level)
    expected = stats.ttest_1samp(y, 0).confidence_interval(level)
    assert point == pytest.approx(y.mean())
    assert (interval.lo, interval.hi) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_t_uses_the_two_sided_quantile():
    m = Moments.from_units(a=A)
    half = t_interval(m, 0.95).hi - 3
    assert half == pytest.approx(
        3.182446305284263 * math.sqrt(10 / 12), rel=1e-9
    )  # t(0.975, 3), not t(0.95, 3)


def test_one_sided_bound_spends_all_of_alpha_on_one_side():
    m = Moments.from_units(a=A)
    assert lower_bound(m, 0.05) == pytest.approx(3 - 2.3533634348018264 * math.sqrt(10 / 12), rel=1e-9)
    assert lower_bound(m, 0.025) == pytest.approx(t_interval(m, 0.95).lo, rel=1e-12)


def test_hoeffding_by_hand_and_shrinks_with_the_root_of_n():
    interval = hoeffding(100, 0.4, (0.0, 2.0), 0.95)
    assert interval.hi - 0.4 == pytest.approx(2 * math.sqrt(math.log(40) / 200), rel=1e-12)
    assert math.isnan(interval.se)
    assert interval.width / hoeffding(10_000, 0.4, (0.0, 2.0), 0.95).width == pytest.approx(10, rel=1e-12)


def test_bernstein_by_hand_and_is_narrower_than_hoeffding_for_small_variance():
    interval = bernstein(50, 0.1, 0.01, (0.0, 1.0), 0.9)
    half = math.sqrt(2 * 0.01 * math.log(40) / 50) + 7 * math.log(40) / (3 * 49)
    assert interval.hi - 0.1 == pytest.approx(half, rel=1e-12)
    assert bernstein(5000, 0.1, 0.01, (0, 1)).width < hoeffding(5000, 0.1, (0, 1)).width


@pytest.mark.parametrize("method", METHODS)
def test_negative_rewards_keep_lo_below_hi(method):
    y = -np.random.default_rng(2).random(300) - 1
    point, interval = mean_ratio_interval(y, method=method, bounds=(-2.0, -1.0))
    assert interval.lo < point < interval.hi < 0 or method in ("hoeffding", "cs")
    assert interval.lo < interval.hi


# ------------------------------------------------------------------ bootstrap


def test_replicates_are_the_weighted_recomputation():
    sums = np.column_stack([A, W * R, W])
    rows = np.array([1.0, 2.0, 1.0, 3.0])
    times = poisson_multiplicities(4, 40, rng=7)
    times = times[times.sum(axis=1) > 0]
    expected = [(m @ A) / (m @ rows) + (m @ (W * R)) / (m @ W) for m in times.astype(float)]
    assert replicate_values(sums, rows, times) == pytest.approx(np.array(expected), rel=1e-12)


def test_many_policies_in_one_product_equal_one_at_a_time():
    gen = np.random.default_rng(8)
    sums, rows = gen.exponential(size=(60, 5, 3)), gen.integers(1, 5, 60)
    times = poisson_multiplicities(60, 200, rng=1)
    together = replicate_values(sums, rows, times)
    assert together.shape == (200, 5)
    flat = replicate_values(sums.reshape(60, 15), rows, times)
    for p in range(5):
        assert together[:, p] == pytest.approx(replicate_values(sums[:, p], rows, times), rel=1e-12)
    assert np.array_equal(together, flat)


def test_multiplicities_are_poisson_one_small_and_repeatable():
    times = poisson_multiplicities(500, 400, rng=3)
    assert times.dtype == np.uint8 and times.shape == (400, 500)
    assert times.mean() == pytest.approx(1, abs=0.01) and times.var() == pytest.approx(1, abs=0.02)
    assert np.array_equal(times, poisson_multiplicities(500, 400, rng=3))
    assert not np.array_equal(times, poisson_multiplicities(500, 400, rng=4))


def test_the_ratio_is_recomputed_so_large_rewards_do_not_widen_it():
    w, _ = weighted(4000, seed=9)
    r = 10 + 0.1 * np.random.default_rng(9).normal(size=4000)
    point, drawn = mean_ratio_interval(b=w * r, c=w, method="bootstrap")
    _, delta = mean_ratio_interval(b=w * r, c=w, method="t")
    _, frozen = mean_ratio_interval(w * r / w.mean())
    assert drawn.width == pytest.approx(delta.width, rel=0.1)
    assert frozen.width > 30 * drawn.width  # what a frozen denominator would have claimed
    assert drawn.lo < point < drawn.hi


@pytest.mark.parametrize("method", ["bootstrap", "bca"])
def test_bootstrap_agrees_with_the_delta_method_on_many_rows(method):
    w, r = weighted(20_000, seed=10)
    _, delta = mean_ratio_interval(r, w * r, w)
    _, drawn = mean_ratio_interval(r, w * r, w, method=method)
    assert drawn.se == pytest.approx(delta.se, rel=0.08)
    assert drawn.width == pytest.approx(delta.width, rel=0.1)


def test_bca_is_near_scipys_on_a_skewed_mean():
    y = np.random.default_rng(11).exponential(size=80)
    ours = bootstrap(
        np.column_stack([y, 0 * y, 1 + 0 * y]), np.ones(80), replicates=8000, method="bca", rng=1
    )
    theirs = stats.bootstrap((y,), np.mean, method="BCa", n_resamples=8000, rng=1).confidence_interval
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    plain = bootstrap(np.column_stack([y, 0 * y, 1 + 0 * y]), np.ones(80), replicates=8000, rng=1)
    assert ours.lo > plain.lo and ours.hi > plain.hi  # pulled towards the long tail


def test_jackknife_leaves_out_one_bucket():
    sums = np.column_stack([A, W * R, W])
    rest = [1, 2, 3]
    expected = A[rest].mean() + (W * R)[rest].sum() / W[rest].sum()
    assert jackknife_values(sums, np.ones(4))[0] == pytest.approx(expected, rel=1e-13)


def test_buckets_instead_of_rows_keep_the_width():
    y = np.random.default_rng(12).normal(size=3 * BUCKETS)
    _, t = mean_ratio_interval(y)
    _, drawn = mean_ratio_interval(y, method="bootstrap")
    assert drawn.se == pytest.approx(t.se, rel=0.08)


def test_simultaneous_bands_by_hand_for_one_and_wider_for_many():
    gen = np.random.default_rng(13)
    drawn = gen.normal(0, 1, size=(4000, 6)) * np.arange(1, 7)
    bands = simultaneous(np.zeros(6), drawn, 0.95)
    factor = [band.hi / band.se for band in bands]
    assert factor == pytest.approx([factor[0]] * 6, rel=1e-12)
    assert factor[0] == pytest.approx(stats.norm.ppf(0.5 + 0.95 ** (1 / 6) / 2), rel=0.05)
    (alone,) = simultaneous(np.zeros(1), drawn[:, :1], 0.95)
    assert alone.hi / alone.se == pytest.approx(1.96, rel=0.05)


def test_a_policy_without_spread_has_a_band_without_width():
    drawn = np.column_stack([np.full(50, 2.0), np.random.default_rng(0).normal(size=50)])
    still, moving = simultaneous([2.0, 0.0], drawn)
    assert still.width == 0 and moving.width > 0


# ------------------------------------------------------------------ clusters, pairs, planning


def test_clusters_are_summed_first_and_their_number_counts():
    gen = np.random.default_rng(14)
    user = np.repeat(np.arange(40), 25)
    y = gen.normal(size=40)[user] + 0.1 * gen.normal(size=1000)
    point, robust = mean_ratio_interval(y, clusters=user)
    _, naive = mean_ratio_interval(y)
    means = y.reshape(40, 25).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert point == pytest.approx(y.mean())
    assert (robust.lo, robust.hi) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert robust.width > 3 * naive.width


def test_unequal_clusters_give_the_sandwich_around_the_row_mean():
    y, user = np.array([1.0, 3.0, 2.0, 6.0, 8.0, 4.0]), np.array(["b", "b", "a", "c", "c", "c"])
    point, interval = mean_ratio_interval(y, clusters=user)
    # row mean 4; cluster sums of (y - 4): b = -4, a = -2, c = 6; se = sqrt(3/2) sqrt(16 + 4 + 36) / 6
    assert point == pytest.approx(4.0)
    assert interval.se == pytest.approx(math.sqrt(1.5 * 56) / 6, rel=1e-12)


def test_clusters_of_one_row_change_nothing():
    w, r = weighted(500, seed=15)
    assert mean_ratio_interval(r, w * r, w, clusters=np.arange(500))[1].se == pytest.approx(
        mean_ratio_interval(r, w * r, w)[1].se, rel=1e-12
    )


def test_paired_difference_cancels_what_two_policies_share():
    gen = np.random.default_rng(16)
    shared = gen.normal(0, 10, 400)
    one, two = shared + gen.normal(0.5, 0.1, 400), shared + gen.normal(0, 0.1, 400)
    point, interval = difference(one.mean(), influence(one), two.mean(), influence(two))
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert point == pytest.approx((one - two).mean())
    assert (interval.lo, interval.hi) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_difference_of_a_policy_with_itself_is_nothing():
    w, r = weighted(100)
    u = influence(b=w * r, c=w)
    point, interval = difference(0.5, u, 0.5, u)
    assert point == 0 and interval.width == 0


def test_adequate_says_why_not():
    assert adequate(60, 1000) == (True, "")
    assert adequate(49.9, 100) == (False, "the effective sample is 49.9 rows, below 50")
    assert adequate(90, 10_000) == (False, "the effective sample is 0.90% of the rows, below 1%")
    assert not adequate(math.nan, 100)[0]
    assert "alike" in adequate(60, 100, se=0.0)[1]
    assert adequate(60, 100, heaviest=0.3) == (True, "")
    assert adequate(60, 100, heaviest=0.31) == (False, "one unit carries 31% of the spread, above 30%")
    assert adequate(60, 1000, heaviest=0.06) == (False, "one unit carries 6% of the spread, above 5%")
    assert adequate(60, 1000, heaviest=0.06, units=100) == (True, "")


def test_heaviest_share_by_hand():
    assert heaviest_share([1.0, -2.0, 1.0, 0.0]) == pytest.approx(4 / 6)
    assert heaviest_share(np.zeros(3)) == 0.0


def test_rounds_for_by_hand():
    # (1.959964 + 0.841621)^2 = 7.848880; se = 1 at n = 100 and effect = 1 need 785
    assert rounds_for(1.0, 100, 1.0) == 785
    assert rounds_for(1.0, 100, -0.5) == 3140
    assert rounds_for(0.0, 100, 1.0) == 2


def test_rounds_for_reaches_its_power():
    n = rounds_for(1 / math.sqrt(100), 100, 0.2)  # unit variance
    gen = np.random.default_rng(17)
    z = gen.normal(0.2, 1, size=(4000, n)).mean(axis=1) * math.sqrt(n)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


# ------------------------------------------------------------------ confidence sequences


def test_confidence_sequence_of_two_rounds_by_hand():
    lo, hi = confidence_sequence([1.0, 0.0], (0.0, 1.0), 0.95)
    # bets are capped at 1/2 twice; round 1: centre 1, half = (log 40 + 1/4 (log 2 - 1/2)) / (1/2) > 1
    # round 2: m_1 = 3/4, centre 1/2, half = (log 40 + (1/4 + 9/16)(log 2 - 1/2)) / 1 > 1/2
    assert (lo.tolist(), hi.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    lo, hi = confidence_sequence([1.0, 0.0], (0.0, 1.0), 0.2)
    bet = [min(math.sqrt(2 * math.log(2.5) / (0.25 * math.log(2))), 0.5), 0.5]
    half = math.log(2.5) + 0.25 * (math.log(2) - 0.5)
    assert bet[0] == 0.5
    assert lo[0] == pytest.approx(max(0.0, 1 - half / 0.5))
    assert (np.diff(lo) >= 0).all() and (np.diff(hi) <= 0).all()


def test_confidence_sequence_is_an_online_recursion():
    y = np.random.default_rng(18).random(60)
    lo, hi = confidence_sequence(3 * y - 1, (-1.0, 2.0), 0.9)
    mean, spread, total, squares, stake, centre, loss, low, high = (
        0.5,
        0.25,
        0.5,
        0.25,
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
    )
    for t, x in enumerate(y, start=1):
        bet = min(math.sqrt(2 * math.log(20) / (spread * t * math.log(t + 1))), 0.5)
        loss += (x - mean) ** 2 * (-math.log(1 - bet) - bet)
        stake, centre = stake + bet, centre + bet * x
        half = (math.log(20) + loss) / stake
        low, high = max(low, centre / stake - half), min(high, centre / stake + half)
        total += x
        mean = total / (t + 1)
        squares += (x - mean) ** 2
        spread = squares / (t + 1)
        assert lo[t - 1] == pytest.approx(3 * low - 1, abs=1e-12)
        assert hi[t - 1] == pytest.approx(3 * high - 1, abs=1e-12)


def test_confidence_sequence_is_vectorised_over_logs():
    y = np.random.default_rng(19).random((3, 50))
    lo, hi = confidence_sequence(y, (0.0, 1.0))
    for k in range(3):
        one = confidence_sequence(y[k], (0.0, 1.0))
        assert np.array_equal(lo[k], one[0]) and np.array_equal(hi[k], one[1])


def test_watching_a_t_interval_fails_and_watching_a_sequence_does_not():
    y = (np.random.default_rng(20).random((400, 2000)) < 0.3).astype(float)
    lo, hi = confidence_sequence(y, (0.0, 1.0))
    held = ((lo <= 0.3) & (hi >= 0.3)).all(axis=1).mean()
    n = np.arange(1, 2001)
    mean = np.cumsum(y, axis=1) / n
    se = np.sqrt(mean * (1 - mean) / np.maximum(n - 1, 1))
    look = n >= 100
    naive = (np.abs(mean - 0.3) <= 1.96 * se)[:, look].all(axis=1).mean()
    assert held >= 0.95
    assert naive < 0.85
    wide = (np.abs(mean - 0.3) <= cs_factor(n, 0.95, rho_for(500)) * se)[:, look].all(axis=1).mean()
    assert wide >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 400)


def test_asymptotic_sequence_is_widened_t_and_rho_is_tight_where_asked():
    m = Moments.from_units(a=np.random.default_rng(21).normal(size=1000))
    interval = asymptotic_cs(m, 0.95, rho_for(1000))
    assert interval.width / (2 * interval.se) == pytest.approx(float(cs_factor(1000, 0.95, rho_for(1000))))
    grid = np.geomspace(0.2, 5, 41) * rho_for(1000)
    factors = [float(cs_factor(1000, 0.95, rho)) for rho in grid]
    assert int(np.argmin(factors)) == 20
    assert 2.5 < min(factors) < 3.5


# ------------------------------------------------------------------ refusals


def test_one_unit_has_no_interval():
    for method in ("t", "bootstrap", "bca", "bernstein"):
        with pytest.raises(SupportError, match="at least 2"):
            mean_ratio_interval([0.5], method=method, bounds=(0, 1))
    assert value(Moments.from_units(a=[0.5])) == 0.5
    with pytest.raises(SupportError, match="at least 2 independent units"):
        mean_ratio_interval([0.5, 0.7], clusters=["ann", "ann"])
    with pytest.raises(SupportError, match="no units"):
        mean_ratio_interval([])


def test_weights_that_are_all_zero_are_refused_not_nan():
    zero = np.zeros(10)
    for method in ("t", "bootstrap", "bca"):
        with pytest.raises(SupportError, match="denominator of the estimate is 0"):
            mean_ratio_interval(b=zero, c=zero, method=method)
    with pytest.raises(SupportError, match="denominator"):
        value(Moments.from_sums(10, [0.0, 0.0], np.zeros((2, 2))))
    with pytest.raises(SupportError, match="denominator"):
        influence(b=zero, c=zero)
    few = np.zeros(100)
    few[:2] = 1.0
    with pytest.raises(SupportError, match=r"in \d+ of 1000 samples"):
        mean_ratio_interval(b=few, c=few, method="bootstrap")


@pytest.mark.parametrize("method", ["hoeffding", "bernstein", "cs"])
def test_bounded_methods_refuse_ratios_and_undeclared_bounds(method):
    with pytest.raises(ConfigError, match="none was declared"):
        mean_ratio_interval(A, method=method)
    with pytest.raises(ConfigError, match="has a ratio"):
        mean_ratio_interval(A, W * R, W, method=method, bounds=(0, 10))
    with pytest.raises(LogError, match=r"breaks the declared bounds \[0, 4.5\]: row 3"):
        mean_ratio_interval(A, method=method, bounds=(0, 4.5))
    with pytest.raises(ConfigError, match="the lower one first"):
        mean_ratio_interval(A, method=method, bounds=(4.5, 0))
    with pytest.raises(ConfigError, match="clusters of 1 to 3 rows"):
        mean_ratio_interval(A, method=method, bounds=(0, 5), clusters=[0, 1, 1, 1])


def test_bounds_are_called_for_by_the_direct_functions_too():
    with pytest.raises(ConfigError, match="largest weight"):
        hoeffding(10, 0.5, None)
    with pytest.raises(ConfigError, match="largest weight"):
        bernstein(10, 0.5, 0.1, None)
    with pytest.raises(ConfigError, match="largest weight"):
        confidence_sequence([0.5], None)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(LogError, match="row 1"):
        mean_ratio_interval([1.0, math.nan, 2.0])
    with pytest.raises(LogError, match="one shape"):
        mean_ratio_interval(A, W, W[:2])
    with pytest.raises(LogError, match="no known shape"):
        mean_ratio_interval(b=A)
    with pytest.raises(LogError, match="clusters of shape"):
        mean_ratio_interval(A, clusters=[1, 2])
    with pytest.raises(LogError, match="cross_sums"):
        Moments.from_sums(3, [1.0, 2.0], np.zeros((3, 3)))
    with pytest.raises(LogError, match="not finite"):
        Moments.from_sums(3, [math.nan], [[1.0]])
    with pytest.raises(LogError, match="c = counts"):
        replicate_values(np.ones((4, 2)), np.ones(4), poisson_multiplicities(4, 5))
    with pytest.raises(LogError, match="same units"):
        difference(0.0, A, 0.0, A[:2])


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="level=95"):
        mean_ratio_interval(A, level=95)
    with pytest.raises(ConfigError, match="interval method 'normal'"):
        mean_ratio_interval(A, method="normal")
    with pytest.raises(ConfigError, match="effect of 0"):
        rounds_for(1.0, 100, 0.0)
    with pytest.raises(ConfigError, match="rho_for"):
        asymptotic_cs(Moments.from_units(a=A), rho=0.0)


def test_a_drifting_log_empties_the_sequence_and_says_so():
    y = np.concatenate([np.zeros(3000), np.ones(30_000)])
    with pytest.raises(SupportError, match="drifts over time"):
        mean_ratio_interval(y, method="cs", bounds=(0, 1))


def test_same_rng_same_interval():
    w, r = weighted(300)
    one, two = (mean_ratio_interval(b=w * r, c=w, method="bca", rng=5) for _ in range(2))
    assert one == two
    assert one[1] != mean_ratio_interval(b=w * r, c=w, method="bca", rng=6)[1]


# ------------------------------------------------------------------ coverage of a known truth


def coverage(replications, n, seed):
    """Share of logs whose interval covers, by estimator and method; bounded weights, truth known."""
    gen = np.random.default_rng(seed)
    hits: dict[tuple[str, str], list[bool]] = {}
    truth = 0.25 * 0.8 * 0.3 + 4 * 0.2 * 0.7
    for k in range(replications):
        w, r = weighted(n, seed=int(gen.integers(2**31)))
        for method in ("t", "bootstrap", "hoeffding", "bernstein"):
            _, ips = mean_ratio_interval(w * r, method=method, bounds=(0.0, 4.0), rng=k)
            hits.setdefault(("ips", method), []).append(ips.lo <= truth <= ips.hi)
            if method in ("t", "bootstrap"):
                _, snips = mean_ratio_interval(b=w * r, c=w, method=method, rng=k)
                hits.setdefault(("snips", method), []).append(snips.lo <= truth <= snips.hi)
    return {key: float(np.mean(values)) for key, values in hits.items()}


def test_nominal_intervals_cover_within_binomial_noise():
    for (_, method), share in coverage(200, 300, seed=1).items():
        slack = 3 * math.sqrt(0.05 * 0.95 / 200)
        assert share >= 0.95 - slack
        assert method in ("hoeffding", "bernstein") or share <= 0.95 + slack


@pytest.mark.slow
def test_nominal_intervals_cover_93_to_97_percent_of_1000_logs():
    for (_, method), share in coverage(1000, 1000, seed=2).items():
        if method in ("hoeffding", "bernstein"):
            assert share >= 0.95
        else:
            assert 0.93 <= share <= 0.97
