import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.audit.holdout_bounds import certified_error, log_choose, outcomes
from counterlog.audit.holdout_halves import bounds_from_train
from counterlog.audit.reusable_holdout import (
    EXHAUSTED,
    HOLDOUT,
    TRAIN,
    Answer,
    Holdout,
    HoldoutConfig,
    SparseValidate,
    Thresholdout,
)
from counterlog.core.crossfit import folds_of
from counterlog.core.errors import BudgetExhausted, ConfigError, CounterlogError, LogError
from counterlog.core.rounds import Rounds

PLAIN = HoldoutConfig(threshold=0.1, sigma=0.02, budget=3, noise="none", grid=0.001)


def contract_example(frame):
    log = Rounds(frame, action="item", reward="click", propensity="p", unit="user")
    users, first = log.table["user"].to_numpy(), folds_of(log, 2) == 0
    units = users[first], users[~first]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few rows
        guard = Holdout(int(first.sum()), int((~first).sum()), units=units, rng=3)
    return guard.ask((log.reward[first], log.reward[~first]), "clicks", bounds=(0, 1))


def halves(n=400, seed=0):
    gen = np.random.default_rng(seed)
    return gen.normal(size=(n, 2)), gen.normal(size=(n, 2))


class Spy:
    """A query that counts how often it was evaluated."""

    def __init__(self, values):
        self.values, self.calls = values, 0

    def __call__(self, records):
        self.calls += 1
        return np.full(len(records), self.values[self.calls % 2 - 1])


def disagree(by):
    """A query with train mean 0.2 and holdout mean 0.2 + by."""
    return Spy((0.2, 0.2 + by))


# --- the mechanism, by hand -------------------------------------------------------------------------------------------


def test_without_noise_the_answer_is_train_up_to_the_threshold_and_holdout_beyond():
    guard = Thresholdout(0.1, 0.01, 2, noise="none")
    assert guard.ask(0.5, 0.59) == (0.5, TRAIN)
    assert guard.left == 2
    assert guard.ask(0.5, 0.61) == (0.61, HOLDOUT)
    assert guard.left == 1
    assert guard.ask(0.5, 0.3) == (0.3, HOLDOUT)
    value, source = guard.ask(0.5, 0.5)
    assert math.isnan(value)
    assert source == EXHAUSTED


def test_an_exhausted_holdout_never_evaluates_the_query():
    train, holdout = halves()
    guard = Holdout(train, holdout, config=PLAIN)
    for k in range(3):
        assert guard.ask(disagree(0.3), f"q{k}", bounds=(0, 1)).source == HOLDOUT
    spy = disagree(0.0)
    for ask in (guard.ask, guard.quote):
        with pytest.raises(BudgetExhausted, match="no budget is left for 'late'"):
            ask(spy, "late", bounds=(0, 1))
    with pytest.raises(BudgetExhausted, match="collect fresh rows"):
        guard.validate(spy, 0.2, 0.1, "late", bounds=(0, 1))
    assert spy.calls == 0
    assert guard.ask_all(spy, ["late"], bounds=(0, 1)) == ()
    assert spy.calls == 0


def test_the_draws_come_in_the_papers_order_and_the_transcript_is_the_hand_table():
    # That = .1 + .02 = .12; eta1 = -.05: .08 > .07 -> overfit, That = .1 + .03 = .13, xi = .004: h + xi = .584
    # eta2 = .01: .10 <= .14 -> train; eta3 = -.10: .04 > .03 -> overfit, That = .1 - .01, xi = -.02 -> .52
    listed = [0.02, -0.05, 0.03, 0.004, 0.01, -0.10, -0.01, -0.02]
    scales, left = [], iter(listed)

    def draw(scale):
        scales.append(scale)
        return next(left)

    guard = Thresholdout(0.1, 0.01, 5, draw=draw)
    assert guard.ask(0.5, 0.58) == (pytest.approx(0.584), HOLDOUT)
    assert guard.ask(0.5, 0.60) == (0.5, TRAIN)
    assert guard.ask(0.5, 0.54) == (pytest.approx(0.52), HOLDOUT)
    assert guard.noisy_threshold == pytest.approx(0.09)
    assert scales == pytest.approx([0.02, 0.04, 0.02, 0.01, 0.04, 0.04, 0.02, 0.01])
    assert guard.left == 3


@pytest.mark.parametrize("noise", ["laplace", "gaussian", "none"])
def test_a_batch_is_the_same_transcript_as_one_by_one(noise):
    gen = np.random.default_rng(3)
    a, h = gen.uniform(0, 1, (2, 500))
    one, many = (Thresholdout(0.4, 0.05, 60, noise=noise, rng=7) for _ in range(2))
    single = [one.ask(x, y) for x, y in zip(a.tolist(), h.tolist(), strict=True)]
    values, sources = many.answers(a, h)
    np.testing.assert_array_equal(values, [v for v, _ in single])
    assert sources.tolist() == [s for _, s in single]
    assert EXHAUSTED in sources
    assert one.noisy_threshold == many.noisy_threshold
    more = [Thresholdout(0.4, 0.05, 10**6, noise=noise, rng=7) for _ in range(2)]
    more[0].answers(a, h)  # what follows a batch is what follows the same questions asked one by one
    for x, y in zip(a.tolist(), h.tolist(), strict=True):
        more[1].ask(x, y)
    assert [more[0].ask(0.2, 0.5) for _ in range(9)] == [more[1].ask(0.2, 0.5) for _ in range(9)]


def test_released_noise_is_laplace_of_scale_sigma():
    from scipy.stats import kstest

    guard = Thresholdout(1e-9, 0.01, 200_000, rng=1)
    h = np.full(100_000, 0.9)
    values, sources = guard.answers(np.zeros(100_000), h)
    assert (sources == HOLDOUT).all()
    assert kstest(values - h, "laplace", args=(0, 0.01)).pvalue > 1e-3


@pytest.mark.parametrize(("steps", "expected"), [(0, 0.5), (8, (4 * math.exp(-2) - math.exp(-4)) / 6)])
def test_the_chance_of_a_train_answer_is_the_convolution_of_two_laplaces(steps, expected):
    # P(Lap(2s) + Lap(4s) >= 8s), also by numeric integration of the convolution
    x = np.linspace(-200, 200, 400_001)
    density = np.exp(-np.abs(x) / 2) / 4  # Lap(2)
    tail = np.where(
        steps - x > 0, 0.5 * np.exp(-np.abs(steps - x) / 4), 1 - 0.5 * np.exp(-np.abs(steps - x) / 4)
    )
    assert np.trapezoid(density * tail, x) == pytest.approx(expected, abs=1e-4)
    runs, sigma = 20_000, 0.01
    gap = 0.1 + steps * sigma
    got = np.mean([Thresholdout(0.1, sigma, 1, rng=k).ask(0.2, 0.2 + gap)[1] == TRAIN for k in range(runs)])
    assert abs(got - expected) < 3 * math.sqrt(expected * (1 - expected) / runs) + 1e-4
    assert got < 0.52 if steps == 0 else got < 0.35


def test_sparse_validation_pays_for_rejections_only():
    check = SparseValidate(0.1, 0.01, 2, noise="none")
    assert check.check(0.5, 0.6)
    assert not check.check(0.5, 0.7)
    assert check.left == 1
    assert check.check(0.5, 0.7, tolerance=0.3)
    assert not check.check(0.5, 0.1)
    with pytest.raises(BudgetExhausted, match="no budget"):
        check.check(0.5, 0.5)


def test_accepted_claims_hold_for_an_adaptive_adversary_at_the_description_length_size():
    from counterlog.audit.holdout_bounds import hoeffding, log_paths, required_n

    m, budget, beta, tau = 200, 5, 0.05, 0.1
    n = required_n(m, tau, beta, "sparse", budget=budget)
    # the textbook size (B ln m + ln(1/beta)) / (2 tau^2) is an upper bound on the transcripts, not on two sides of each
    assert n <= (budget * math.log(m) + math.log(2 / beta)) / (2 * tau**2) + 1
    assert hoeffding(n, log_paths(m, budget, 0.0), beta) <= tau
    assert broken_claims(n, m, budget, tau) <= beta
    assert broken_claims(30, m, budget, tau) > beta  # the adversary does break a holdout that is too small


def broken_claims(n, m, budget, tau, tolerance=0.02, runs=2_000):
    """Share of runs in which an accepted claim is further from the truth, 1/2, than tolerance + tau."""
    gen, broken = np.random.default_rng(0), 0
    for _ in range(runs):
        check = SparseValidate(tolerance, 1e-9, budget, noise="none")
        bits = gen.integers(0, 2, (m - 1, n)) - 0.5  # 0/1 queries of true mean 1/2, centred
        votes = (
            gen.integers(0, 2, n) - 0.5
        ) / 10  # ties fall by a coin, so that every vote has true mean 1/2
        for query in bits:  # a claim is placed so that acceptance tells on which side of 1/2 the mean lies
            if check.left == 1:
                break
            votes += query if check.check(0.5 + tolerance, 0.5 + query.mean()) else -query
        final = float(np.mean(votes > 0))
        for claim in np.arange(0.5, 1, tolerance):  # the last rejection may be spent on the best guess
            if check.left and abs(claim - final) <= tolerance:
                broken += check.check(claim, final) and abs(claim - 0.5) > tolerance + tau
                break
    return broken / runs


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(1, 10),
    st.integers(0, 99),
)
def test_budget_never_rises_and_every_answer_is_train_or_paid(pairs, budget, seed):
    guard = Thresholdout(0.2, 0.05, budget, rng=seed)
    for a, h in pairs:
        before = guard.left
        value, source = guard.ask(a, h)
        assert guard.left == before - (source == HOLDOUT)
        assert (source == EXHAUSTED) == (before == 0)
        if source == TRAIN:
            assert value == a


# --- the holdout ------------------------------------------------------------------------------------------------------


def test_the_answer_is_scaled_back_to_the_querys_own_range():
    train, holdout = halves()
    guard = Holdout(train, holdout, config=PLAIN)
    free = guard.ask(Spy((3.0, 3.2)), "free", bounds=(-2, 8))
    assert (free.value, free.source, free.train_value) == (pytest.approx(3.0), TRAIN, pytest.approx(3.0))
    paid = guard.ask(Spy((3.0, 5.004)), "paid", bounds=(-2, 8))
    assert paid.source == HOLDOUT
    assert paid.value == pytest.approx(5.0, abs=0.0051)  # grid 0.001 of a range of 10
    assert paid.interval == (paid.lo, paid.hi)
    assert guard.looks() == {"questions": 2, "used": 1, "left": 2, "plain_looks": 0, "candidates": 2}


def test_a_pair_of_vectors_a_pair_of_means_and_a_function_give_one_answer():
    train, holdout = halves()
    phi = train[:, 0] > 0, holdout[:, 0] > 0
    given_ways = (lambda x: x[:, 0] > 0, phi, (phi[0].mean(), phi[1].mean()))
    got = {Holdout(train, holdout, rng=4).ask(way, "q", bounds=(0, 1)).value for way in given_ways}
    assert len(got) == 1


def test_many_questions_in_one_pass_equal_single_ones():
    train, holdout = halves()
    names = ["x", "y"]
    together = Holdout(train, holdout, rng=1).ask_all((train > 0, holdout > 0), names, bounds=(0, 1))
    one = Holdout(train, holdout, rng=1)
    for j, answer in enumerate(together):
        assert answer == one.ask((train[:, j] > 0, holdout[:, j] > 0), names[j], bounds=(0, 1))


def test_the_first_band_is_a_plain_hoeffding_band_and_every_overfit_widens_the_next():
    assert certified_error(800, question=1, spent=0, log_outcomes=0, budget=3, beta=0.1) == pytest.approx(
        math.sqrt(math.log(2 * 2 * 4 / 0.1) / 1600)
    )
    train, holdout = halves()
    guard = Holdout(train, holdout, config=PLAIN)
    widths = [guard.ask(disagree(0.3), str(k), bounds=(0, 1)) for k in range(3)]
    half = [a.hi - a.value for a in widths]
    assert half[0] < half[1] < half[2]
    paths = math.log(3 * 4 * 4 * 2 / 0.025) + log_choose(2, 2) + 2 * math.log(outcomes(0.001))
    assert half[2] == pytest.approx(math.sqrt(paths / 800) + 0.0005)


def test_a_quote_costs_a_unit_even_where_the_halves_agree():
    train, holdout = halves()
    guard = Holdout(train, holdout, config=PLAIN)
    answer = guard.quote(disagree(0.0), "winner", bounds=(0, 1))
    assert (answer.source, answer.budget_left) == (HOLDOUT, 2)


def test_direct_answers_all_cost():
    train, holdout = halves()
    config = HoldoutConfig(mechanism="direct", budget=2)
    guard = Holdout(train, holdout, config=config)
    assert [guard.ask(disagree(0), "q", bounds=(0, 1)).budget_left for _ in range(2)] == [1, 0]


def test_a_ratio_asks_numerator_and_denominator_and_its_interval_holds_every_quotient():
    train, holdout = halves(40_000)
    guard = Holdout(train, holdout, config=HoldoutConfig(noise="none", threshold=0.01, budget=4))
    answer = guard.ask_ratio(Spy((0.6, 0.6)), Spy((1.2, 1.2)), "snips", bounds=((0, 2), (0, 2)))
    assert answer.value == pytest.approx(0.5)
    assert answer.lo < 0.5 < answer.hi
    assert guard.questions == 2
    bad = guard.ask_ratio(Spy((0.6, 0.6)), Spy((0.0, 0.0)), "zero", bounds=((0, 2), (0, 2)))
    assert math.isnan(bad.value)
    assert bad.interval == (-math.inf, math.inf)


def test_units_move_together_and_the_clipped_mass_is_reported():
    n = 400
    ids = np.repeat(np.arange(100), 4)
    ids[-40:] = 90  # one train unit of 40 rows
    guard = Holdout(
        n,
        n,
        units=(ids, np.repeat(np.arange(1000, 1100), 4)),
        config=HoldoutConfig(unit_rows=4, noise="none"),
    )
    assert guard.halves.sensitivity == pytest.approx(4 / 400)
    assert guard.halves.n_effective == pytest.approx(400**2 / (100 * 16))
    uneven = (
        np.r_[np.zeros(100, int), np.repeat(np.arange(1, 101), 3)] + 1000
    )  # 100 rows count as 4, the rest as 3
    other = Holdout(n, n, units=(ids, uneven), config=HoldoutConfig(unit_rows=4))
    assert other.halves.n_effective == pytest.approx(400**2 / (16 + 100 * 9))
    answer = guard.ask((np.ones(n), np.ones(n)), "all", bounds=(0, 1))
    assert answer.train_value == pytest.approx((90 * 4 + 4) / 400)  # 36 rows clipped away
    assert "took 0.09 off the mean" in answer.notes[0]


def test_units_of_one_row_change_nothing():
    train, holdout = halves()
    ids = np.arange(400), np.arange(400, 800)
    phi = (train[:, 0] > 0, holdout[:, 0] > 0)
    plain = Holdout(train, holdout, rng=2).ask(phi, "q", bounds=(0, 1))
    assert Holdout(train, holdout, units=ids, rng=2).ask(phi, "q", bounds=(0, 1)) == plain


def test_certified_bands_hold_under_the_sign_attack():
    broken, runs, n, m = 0, 60, 500, 60
    for seed in range(runs):
        gen = np.random.default_rng(seed)
        bits = gen.integers(0, 2, (2, n, m)).astype(float)
        guard = Holdout(n, n, config=HoldoutConfig(threshold=0.05, budget=5), rng=seed)
        answers = guard.ask_all((bits[0], bits[1]), [str(j) for j in range(m)], bounds=(0, 1), reserve=1)
        signs = np.sign([a.value - 0.5 for a in answers])
        vote = [(b[:, : len(signs)] - 0.5) @ signs > 0 for b in bits]
        answers += (guard.quote((vote[0], vote[1]), "vote", bounds=(0, 1)),)
        broken += any(not a.lo <= 0.5 <= a.hi for a in answers)
    assert broken / runs <= 0.05


def test_same_rng_same_transcript_and_another_rng_another():
    train, holdout = halves()
    got = [Holdout(train, holdout, rng=r).quote(disagree(0.3), "q", bounds=(0, 1)).value for r in (5, 5, 6)]
    assert got[0] == got[1]
    config = HoldoutConfig(grid=1e-6)
    fine = [
        Holdout(train, holdout, config=config, rng=r).quote(disagree(0.3), "q", bounds=(0, 1)).value
        for r in (5, 6)
    ]
    assert fine[0] != fine[1]


def test_results_are_saved_and_loaded(tmp_path):
    train, holdout = halves()
    answer = Holdout(train, holdout).ask(disagree(0.0), "q", bounds=(0, 1))
    assert Answer.load(answer.save(tmp_path / "a.json")) == answer


def test_the_privacy_account_adds_up():
    train, holdout = halves()
    guard = Holdout(train, holdout, config=HoldoutConfig(threshold=0.1, sigma=0.01, budget=9, grid=0.01))
    unit = (1 / (400 * 0.01)) ** 2
    guard.ask(disagree(0.0), "free", bounds=(0, 1))
    assert guard.rho_total == pytest.approx(unit / 2)
    guard.ask(disagree(0.8), "paid", bounds=(0, 1))
    assert guard.rho_total == pytest.approx(unit)
    guard.quote(disagree(0.0), "quote", bounds=(0, 1))
    assert guard.rho_total == pytest.approx(1.5 * unit)
    guard.ask(disagree(0.0), "a new epoch", bounds=(0, 1))
    assert guard.rho_total == pytest.approx(2 * unit)


# --- kept in a folder -------------------------------------------------------------------------------------------------


def ask_some(guard, names):
    for k in names:
        if k % 3 == 2:
            guard.validate(disagree(0.05 * k), 0.2, 0.1, str(k), bounds=(0, 1))
        else:
            (guard.quote if k % 4 == 1 else guard.ask)(disagree(0.05 * k), str(k), bounds=(0, 1))


def transcript(guard):
    return [(r["name"], r["source"], r["answer"], r["budget_left"]) for r in guard.ledger.rows]


CHATTY = HoldoutConfig(threshold=0.2, sigma=0.05, budget=20)


def test_stopped_and_resumed_equals_never_stopped(tmp_path):
    train, holdout = halves()
    whole = Holdout(train, holdout, config=CHATTY, rng=3)
    ask_some(whole, range(14))
    first = Holdout(train, holdout, config=CHATTY, rng=3, folder=tmp_path)
    ask_some(first, range(6))
    first.close()
    second = Holdout.resume(tmp_path, train, holdout)
    ask_some(second, range(6, 14))
    assert transcript(second) == transcript(whole)
    assert (second.left, second.released, second.rho_total) == (whole.left, whole.released, whole.rho_total)
    second.close()


def test_a_stale_state_is_refused_and_replaying_the_ledger_brings_it_up_to_date(tmp_path):
    train, holdout = halves()
    guard = Holdout(train, holdout, config=CHATTY, rng=3, folder=tmp_path / "kept")
    ask_some(guard, range(2))
    old = guard.save(tmp_path / "old.json")
    ask_some(guard, range(2, 9))
    head, newest = guard.ledger.head, (tmp_path / "kept" / "state.json").read_text()
    guard.close()
    with pytest.raises(CounterlogError, match="stale: it was saved after 2 rows, the ledger has 9"):
        Holdout.resume(tmp_path / "kept", train, holdout, state=old)
    again = Holdout.resume(tmp_path / "kept", train, holdout, state=old, replay=True, head=head)
    assert json.loads((tmp_path / "kept" / "state.json").read_text()) == json.loads(newest)
    again.close()


def test_a_cut_ledger_an_edited_ledger_and_other_records_are_refused(tmp_path):
    train, holdout = halves()
    guard = Holdout(train, holdout, config=CHATTY, folder=tmp_path)
    ask_some(guard, range(4))
    guard.close()
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(CounterlogError, match="2 rows and does not contain the state's 4"):
        Holdout.resume(tmp_path, train, holdout)
    edited = json.loads(lines[1]) | {"budget_left": 20}
    (tmp_path / "ledger.jsonl").write_text("\n".join([lines[0], json.dumps(edited), *lines[2:]]) + "\n")
    with pytest.raises(CounterlogError, match="row 1 of the holdout ledger"):
        Holdout.resume(tmp_path, train, holdout)
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(CounterlogError, match="belongs to other records"):
        Holdout.resume(tmp_path, holdout, train)
    with pytest.raises(CounterlogError, match="ends at"):
        Holdout.resume(tmp_path, train, holdout, head="0" * 64)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CounterlogError, match="not a holdout's state"):
        Holdout.resume(tmp_path, train, holdout, state=tmp_path / "x.json")
    Holdout.resume(tmp_path, train, holdout).close()


def test_no_fresh_budget_by_reopening_or_copying(tmp_path):
    train, holdout = halves()
    guard = Holdout(train, holdout, folder=tmp_path)
    with pytest.raises(CounterlogError, match="already holds a holdout's state"):
        Holdout(train, holdout, folder=tmp_path, rng=99)
    with pytest.raises(CounterlogError, match="open in another object"):
        Holdout.resume(tmp_path, train, holdout)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(CounterlogError, match="cannot be copied"):
            attempt(guard)
    guard.close()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "kw", "text"),
    [
        (lambda x: x[:, 0], {}, "no declared range"),
        (lambda x: x[:, 0], {"bounds": (0, math.inf)}, "two finite numbers"),
        (lambda x: x[:, 0], {"bounds": (1, 1)}, "two finite numbers"),
        (lambda x: x[:, 0], {"bounds": (-9e9, 0.5)}, "values on the train half are outside .* worst"),
        (lambda x: x[:5, 0], {"bounds": (-9, 9)}, "5 values on the train half; expected 400"),
        (lambda x: 0.5, {"bounds": (0, 1)}, r"mean|one number"),
        (lambda x: np.full(400, np.nan), {"bounds": (0, 1)}, "not a number on train rows 0, 1"),
        ((0.5, 1.5), {"bounds": (0, 1)}, r"holdout mean \(withheld\)"),
    ],
)
def test_queries_that_cannot_be_guarded_are_refused(phi, kw, text):
    train, holdout = halves()
    if text == r"mean|one number":
        assert Holdout(train, holdout).ask(phi, "constant mean", **kw).value == 0.5
        return
    with pytest.raises(LogError, match=text):
        Holdout(train, holdout).ask(phi, "q", **kw)


def test_a_holdout_value_out_of_bounds_is_not_printed():
    train, holdout = halves()
    holdout[7, 0] = 123.5
    with pytest.raises(LogError, match="row 7") as caught:
        Holdout(train, holdout).ask(lambda x: x[:, 0], "q", bounds=(-9, 9))
    assert "123.5" not in str(caught.value)


def test_clipping_reports_its_bias():
    train, holdout = halves()
    train[0, 0] = 13.0
    answer = Holdout(train, holdout).ask(lambda x: x[:, 0], "q", bounds=(-9, 9), clip=True)
    assert answer.clip_bias == pytest.approx(-4 / 400)
    assert "moved the train mean by -0.01" in answer.notes[0]


def test_shared_rows_and_units_are_refused():
    train, holdout = halves()
    with pytest.raises(LogError, match="400 rows stand in both halves"):
        Holdout(train, train)
    with pytest.raises(LogError, match="stand in both"):
        Holdout(train, train[100:])
    with pytest.raises(LogError, match="1 rows stand in both"):
        Holdout(train, np.vstack([holdout, train[:1].copy()]))
    with pytest.raises(LogError, match=r"1 units are in both halves \(first: 399\)"):
        Holdout(train, holdout, units=(np.arange(400), np.arange(399, 799)))
    with pytest.raises(LogError, match="3 unit ids for 400 train rows"):
        Holdout(train, holdout, units=(np.arange(3), np.arange(400)))
    with pytest.raises(LogError, match="clustered"):
        Holdout(400, 400, units=(np.arange(400), np.arange(400, 800))).ask((0.5, 0.5), "q", bounds=(0, 1))


def test_equal_discrete_rows_are_not_taken_for_shared_rows():
    gen = np.random.default_rng(0)
    Holdout(gen.integers(0, 2, (300, 2)), gen.integers(0, 2, (300, 2)))


@pytest.mark.parametrize("name", ["threshold", "sigma", "budget"])
def test_numbers_that_are_not_positive_are_refused(name):
    with pytest.raises(ConfigError, match=name):
        HoldoutConfig(**{name: 0})
    values = {"threshold": 0.1, "sigma": 0.01, "budget": 3} | {name: 0}
    for mechanism in (Thresholdout, SparseValidate):
        with pytest.raises(ConfigError, match=f"{name} = 0"):
            mechanism(**values)


def test_names_and_queries_must_match_in_number():
    train, holdout = halves()
    with pytest.raises(ConfigError, match="1 names for 2 queries"):
        Holdout(train, holdout).ask_all((train > 0, holdout > 0), ["only"], bounds=(0, 1))


def test_few_rows_warn():
    with pytest.warns(UserWarning, match="counts as 50 independent rows"):
        Holdout(50, 50)


def test_public_bounds_hold_most_training_values():
    values = np.r_[np.zeros(990), np.full(10, 7.0)]
    assert bounds_from_train(values, 0.995) == (0.0, 7.0)
    assert bounds_from_train(np.zeros(50), 0.995) == (0.0, 1.0)


def test_the_quick_study_holds():
    from counterlog.studies.reusable_holdout import run

    study = run()
    assert [c.claim for c in study.checks if not c.passed] == []
    assert study.mode == "quick"
