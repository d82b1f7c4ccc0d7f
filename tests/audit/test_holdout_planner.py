import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.audit.holdout_bounds import (
    MECHANISMS,
    capacity,
    comparison_tail,
    error_bound,
    hoeffding,
    laplace_sum_tail,
    log_choose,
    log_paths,
    noise_tail,
    outcomes,
    required_n,
    rho_comparison,
    rho_release,
    transfer_error,
)
from counterlog.audit.holdout_planner import Plan, accuracy, plan, simulate, transcripts
from counterlog.audit.thresholdout import Thresholdout
from counterlog.core.errors import ConfigError


def test_paths_by_hand():
    # m = 3, B = 2, L = 10: C(3,1) + C(3,2) 10 = 33
    assert log_paths(3, 2, math.log(10)) == pytest.approx(math.log(33))
    assert log_paths(4, 9, 0.0) == pytest.approx(math.log(4 + 6 + 4 + 1))
    assert math.exp(log_choose(5, 2)) == pytest.approx(10)
    assert log_choose(3, 4) == -np.inf
    assert outcomes(0.25) == 6


def test_a_bound_on_very_many_terms_is_above_the_sum_and_near_it():
    from counterlog.audit import holdout_bounds

    exact = log_paths(5_000, 300, 2.0)
    holdout_bounds.MOST_TERMS, kept = 10, holdout_bounds.MOST_TERMS
    try:
        bounded = log_paths(5_000, 300, 2.0)
    finally:
        holdout_bounds.MOST_TERMS = kept
    assert exact <= bounded <= exact + math.log(300) + 1e-6


def test_the_frozen_bound_is_hoeffdings():
    assert error_bound(1_000, 20, mechanism="frozen") == pytest.approx(
        math.sqrt(math.log(2 * 20 / 0.05) / 2_000)
    )
    assert hoeffding(50, 0.0, 0.1) == pytest.approx(math.sqrt(math.log(20) / 100))


def test_sparse_validation_needs_no_more_rows_than_the_textbook_bound():
    for m, budget, tau in ((50, 3, 0.05), (1_000, 10, 0.1)):
        textbook = (budget * math.log(m) + math.log(2 / 0.05)) / (2 * tau**2)
        assert required_n(m, tau, 0.05, "sparse", budget=budget) <= textbook + 1


def test_noise_tails_are_those_of_the_laws():
    gen = np.random.default_rng(0)
    total = gen.laplace(0, 2, 400_000) + gen.laplace(0, 4, 400_000)
    assert laplace_sum_tail(0) == 0.5
    for t in (2.0, 8.0, 20.0):
        assert np.mean(total > t) == pytest.approx(laplace_sum_tail(t), abs=0.003)
    assert noise_tail(0.01, "laplace") == pytest.approx(math.log(50))
    assert noise_tail(0.025, "gaussian") == pytest.approx(1.95996, abs=1e-4)
    assert noise_tail(0.01, "none") == 0
    tail = comparison_tail(1.0, "laplace", question=1, budget=4, beta=0.1)
    assert tail == pytest.approx(2 * math.log(1 / 0.02 * 5 / 2.5) + 4 * math.log(20), abs=1.0)


def test_privacy_costs_by_hand():
    assert rho_release(100, 0.1, "laplace") == pytest.approx(0.005)
    assert rho_comparison(100, 0.1, "laplace") == pytest.approx(0.005)
    assert rho_comparison(100, 0.1, "gaussian") == pytest.approx(0.01 / 32)
    assert rho_release(100, 0.1, "none") == math.inf


def test_the_transfer_bound_tends_to_the_sample_error_when_nothing_is_spent():
    assert transfer_error(0.0, lambda p: 0.05, 0.05) == pytest.approx(0.05 + 0.001 + 0.002, abs=1e-6)
    assert transfer_error(0.01, lambda p: 0.05, 0.05) > 0.3
    assert transfer_error(math.inf, lambda p: 0.0, 0.05) == math.inf


SETTINGS = {
    "thresholdout": {"budget": 5, "sigma": 0.002, "threshold": 0.03},
    "sparse": {"budget": 5},
    "transfer": {"budget": 5, "sigma": 0.002, "threshold": 0.03},
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_capacity_and_required_rows_are_inverse(mechanism):
    kw = SETTINGS.get(mechanism, {})
    tau = 0.3
    n = required_n(40, tau, mechanism=mechanism, **kw)
    assert capacity(n, tau, mechanism=mechanism, **kw) >= 40
    assert (
        error_bound(n, 40, mechanism=mechanism, **kw)
        <= tau
        < error_bound(n - 1, 40, mechanism=mechanism, **kw)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["thresholdout", "sparse", "frozen", "split", "direct"]),
    st.integers(200, 10**5),
    st.integers(2, 500),
)
def test_more_rows_help_and_more_questions_hurt(mechanism, n, m):
    kw = {"budget": 4, "threshold": 0.05, "sigma": 0.01}
    here = error_bound(n, m, mechanism=mechanism, **kw)
    assert error_bound(2 * n, m, mechanism=mechanism, **kw) <= here
    assert error_bound(n, m + 1, mechanism=mechanism, **kw) >= here


def test_budgeted_mechanisms_answer_exponentially_many_and_splitting_only_linearly_many():
    sparse = [capacity(n, 0.1, mechanism="sparse", budget=5) for n in (2_000, 4_000)]
    split = [capacity(n, 0.1, mechanism="split") for n in (20_000, 40_000)]
    assert sparse[1] > 1_000 * sparse[0]
    assert split[1] < 2.2 * split[0]
    assert capacity(50, 0.01) == 0


def test_what_no_number_of_rows_can_do_is_refused():
    with pytest.raises(ConfigError, match="no number of rows"):
        required_n(100, 0.01, threshold=0.05, budget=3)
    with pytest.raises(ConfigError, match="not a mechanism"):
        error_bound(100, 10, mechanism="magic")
    with pytest.raises(ConfigError, match="0 < beta < 1"):
        error_bound(100, 10, beta=1.0)
    with pytest.raises(ConfigError, match="not an analyst"):
        simulate(100, 10, threshold=0.1, sigma=0.01, budget=3, analyst="kind")


def test_many_runs_at_once_are_the_algorithm():
    gen = np.random.default_rng(0)
    a, h = gen.uniform(0, 1, (2, 50, 80))
    answers, left, _ = transcripts(a, h, threshold=0.4, sigma=0.05, budget=12, noise="none", rng=0)
    for r in range(50):
        one = Thresholdout(0.4, 0.05, 12, noise="none")
        np.testing.assert_array_equal(answers[r], one.answers(a[r], h[r])[0])
        assert left[r] == one.left


@pytest.mark.parametrize(("m", "expected"), [(100, 0.20), (500, 0.43), (2_000, 0.74)])
def test_the_plain_holdout_falls_to_the_sign_attack_as_the_formula_says(m, expected):
    n = 1_000
    assert math.erf(math.sqrt(m / (math.pi * n))) == pytest.approx(expected, abs=0.035)
    error, _ = simulate(n, m, threshold=1, sigma=1, budget=1, guarded=False, rng=3)
    assert 2 * error.mean() == pytest.approx(math.erf(math.sqrt(m / (math.pi * n))), abs=0.01)


def test_the_simulated_vote_is_the_vote_on_real_rows():
    n, m, got = 400, 150, []
    for seed in range(60):
        bits = np.random.default_rng(seed).integers(0, 2, (n, m)) - 0.5
        signs = np.where(bits.mean(axis=0) >= 0, 1, -1)
        total = bits @ signs
        got.append(np.mean(total > 0) + np.mean(total == 0) / 2 - 0.5)
    error, _ = simulate(n, m, threshold=1, sigma=1, budget=1, guarded=False, rng=1)
    assert np.mean(got) == pytest.approx(error.mean(), abs=3 * np.std(got) / math.sqrt(60) + 0.004)


def test_planning_beats_the_plain_holdout_and_rarely_runs_out():
    best = plan(2_000, 1_000, repetitions=100, thresholds=(1.0, 2.5), ratios=(8.0, 16.0), budgets=(0.25, 1.0))
    assert best.accuracy.exhausted < 0.05
    assert best.accuracy.simulated < best.accuracy.naive / 2
    assert best.accuracy.simulated <= min(r["simulated"] for r in best.grid if r["exhausted"] < 0.05)
    assert (best.threshold, best.budget) == (best.accuracy.threshold, best.accuracy.budget)
    assert len(best.records()) == 8


def test_the_plan_is_repeatable_and_saved(tmp_path):
    small = {"repetitions": 20, "thresholds": (2.0,), "ratios": (8.0,), "budgets": (1.0,)}
    one = plan(500, 50, rng=1, **small)
    assert one == plan(500, 50, rng=1, **small)
    assert Plan.load(one.save(tmp_path / "p.json")) == one


def test_accuracy_sets_theory_beside_simulation():
    found = accuracy(1_000, 300, budget=5, threshold=0.06, sigma=0.005)
    assert found.simulated < found.certified
    assert found.simulated < found.naive
    assert set(found.by_analyst) == {"sign attack", "feature screening"}
