from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2

from counterlog.core.weak_sets import weak_set

ONES = np.ones(500)


def moments(strength: float, rng: int = 0) -> tuple[np.ndarray, np.ndarray]:
    gen = np.random.default_rng(rng)
    z, u = gen.choice([-1.0, 1.0], 500), gen.normal(size=500)
    x = strength * z + u + gen.normal(size=500)
    return z * (2 * x + u), z * x


def test_one_moment_solves_the_quadratic() -> None:
    y, x = moments(1.0)
    q, n = chi2.ppf(0.95, 1), 500
    yy, xy, xx = np.var(y), np.cov(x, y, ddof=0)[0, 1], np.var(x)
    c2 = n * x.mean() ** 2 - q * xx
    c1 = -2 * (n * x.mean() * y.mean() - q * xy)
    c0 = n * y.mean() ** 2 - q * yy
    low, high = sorted(np.roots([c2, c1, c0]))
    found = weak_set(y, x, ONES)
    assert found.form == "bounded"
    assert found.pieces[0] == pytest.approx((low, high), rel=1e-9)
    assert found.holds(y.mean() / x.mean())


def test_no_strength_leaves_the_line_or_the_outside_of_an_interval() -> None:
    forms = {weak_set(*moments(0.0, rng), ONES).form for rng in range(20)}
    assert forms & {"everything", "unbounded"}
    outside = next(
        s for s in (weak_set(*moments(0.0, rng), ONES) for rng in range(60)) if s.form == "unbounded"
    )
    assert math.isinf(outside.pieces[0][0])
    assert math.isinf(outside.pieces[-1][1])


def test_moments_that_contradict_each_other_leave_nothing() -> None:
    y, x = moments(2.0)
    other_y, other_x = moments(2.0, 1)
    found = weak_set(np.column_stack([y, other_y + 3 * other_x]), np.column_stack([x, other_x]), ONES)
    assert found.form == "empty"
    assert found.pieces == ()


def test_coverage_holds_without_strength() -> None:
    assert sum(weak_set(*moments(0.05, rng), ONES).holds(2.0) for rng in range(200)) >= 180
