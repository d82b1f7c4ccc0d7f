from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.results import Estimate
from counterlog.core.rounds import Rounds
from counterlog.datasets.river import river, swimmers
from counterlog.estimate.portfolio_advice import advise, shrunken_gains
from counterlog.estimate.return_distribution import ReturnDistribution
from counterlog.estimate.selection_results import Advice, Assessment
from counterlog.estimate.sharpe_ratio_at_k import (
    SharpeRatioAtK,
    SharpeRatioAtKConfig,
    best_at_k,
    curves_at_k,
    kendall,
    mean_at_k,
    mse,
    nmse,
    nregret_at_k,
    ranking,
    regret_best_at_k,
    regret_sum_at_k,
    sharpe_ratio,
    spearman,
    std_at_k,
    type_one,
    type_two,
    violations_at_k,
    worst_at_k,
)

X = [10, 7, 6, 5, 9, 8, 4, 3, 2, 1]
Y = [10, 9, 8, 7, 3, 2, 6, 5, 4, 1]
TRUE = {f"p{j:02}": float(j) for j in range(1, 11)}
SAID = {name: {f"p{j:02}": 10.0 - i for i, j in enumerate(order)} for name, order in (("X", X), ("Y", Y))}


def judged(**config) -> Assessment:
    return SharpeRatioAtK(SharpeRatioAtKConfig(**config)).assess(TRUE, SAID, behaviour=5.0)


def contract_example(frame):
    log = Rounds(frame, action="item", reward="click", propensity="p", context=("x",), unit="user")
    values = {e: np.array([log.reward[log.action == a].mean() for a in range(3)]) for e in ("mean",)}
    return SharpeRatioAtK().assess([0.2, 0.4, 0.2], values, behaviour=0.27, unit="clicks")


# the example with exact numbers


def test_two_estimators_alike_in_accuracy_correlation_and_regret_have_unequal_ratios() -> None:
    a = judged(k=(5,))
    for e in ("X", "Y"):
        assert a.find(e, "MSE").value == pytest.approx(3.0, abs=1e-12)
        assert a.find(e, "Spearman").value == pytest.approx(0.818182, abs=1e-6)
        assert a.find(e, "Regret best", 5).value == 0
        assert a.find(e, "Regret sum", 5).value == 3
        assert a.find(e, "mean", 5).value == pytest.approx(7.4, abs=1e-12)
    assert a.best("MSE") == ("X", "Y")
    assert a.best("SharpeRatio", 5) == ("X",)


@pytest.mark.parametrize(
    ("ddof", "k", "x", "y"),
    [
        (0, 5, 2.695819, 2.069015),
        (1, 5, 2.411214, 1.850583),
        (0, 6, 2.927700, 1.674437),
        (0, 2, 3.333333, 10.0),
    ],
)
def test_its_ratios_are_those_worked_by_hand(ddof, k, x, y) -> None:
    a = judged(k=(k,), ddof=ddof)
    assert a.find("X", "SharpeRatio", k).value == pytest.approx(x, abs=1e-6)
    assert a.find("Y", "SharpeRatio", k).value == pytest.approx(y, abs=1e-6)


def test_one_policy_has_no_ratio_and_says_why() -> None:
    m = judged(k=(1,)).find("X", "SharpeRatio", 1)
    assert math.isnan(m.value) and m.reason == "no spread" and m.n == 0


def test_the_rest_of_the_portfolio_of_five() -> None:
    a = judged(k=(5,))
    got = {m: [a.find(e, m, 5).value for e in "XY"] for m in ("kth", "best", "worst", "std", "violations")}
    assert got["kth"] == [9, 3] and got["best"] == [10, 10] and got["worst"] == [5, 3]
    assert got["std"] == pytest.approx([math.sqrt(3.44), math.sqrt(5.84)])
    assert got["violations"] == pytest.approx([0.0, 0.2])
    assert a.find("X", "nMSE").value == pytest.approx(3 / 81)
    # of p05..p10, Y puts p06 and p05 at 4 and 3; of p01..p04 it puts p03 and p02 at 6 and 5
    assert [a.find("Y", t).value for t in ("Type I", "Type II")] == pytest.approx([2 / 6, 2 / 4])
    assert [a.find("X", t).value for t in ("Type I", "Type II")] == [0.0, 0.0]


# each equation on a few numbers


def test_ties_are_ordered_by_name_whatever_their_place() -> None:
    assert ranking([1.0, 2.0, 1.0, 2.0], ["d", "c", "b", "a"]).tolist() == [3, 1, 2, 0]
    assert ranking([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], ["b", "c", "a"]).tolist() == [[2, 1, 0], [2, 0, 1]]


def test_accuracy_by_hand() -> None:
    assert mse([1.0, 3.0], [2.0, 1.0]) == 2.5
    assert nmse([1.0, 3.0], [2.0, 1.0]) == 2.5 / 4
    assert math.isnan(nmse([2.0, 2.0], [1.0, 3.0]))


def test_the_two_regrets_are_different_numbers() -> None:
    picked = np.array([1.0, 2.0, 5.0])
    assert regret_best_at_k(picked).tolist() == [4, 3, 0]
    assert regret_sum_at_k(picked).tolist() == [4, 4, 0]
    assert nregret_at_k(picked).tolist() == [1, 0.75, 0]
    assert np.isnan(nregret_at_k(np.array([2.0, 2.0]))).all()


def test_errors_at_a_threshold_by_hand() -> None:
    true, said = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 1.0, 1.0, 5.0])
    assert type_one(true, said, 2.0) == pytest.approx(2 / 3)
    assert type_two(true, said, 2.0) == 1.0


def test_empty_denominators_are_not_zero() -> None:
    true, said = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    assert math.isnan(type_two(true, said, 0.5)) and type_one(true, said, 0.5) == 0
    assert math.isnan(type_one(true, said, 9.0)) and type_two(true, said, 9.0) == 0
    a = SharpeRatioAtK().assess(true, {"e": said}, behaviour=0.5)
    assert a.find("e", "Type II").reason == "every candidate reaches the threshold"


def test_portfolio_curves_by_hand() -> None:
    picked = np.array([3.0, 5.0, 1.0])
    assert best_at_k(picked).tolist() == [3, 5, 5] and worst_at_k(picked).tolist() == [3, 3, 1]
    assert mean_at_k(picked).tolist() == [3, 4, 3]
    assert std_at_k(picked) == pytest.approx([0, 1, math.sqrt(8 / 3)])
    assert std_at_k(picked, 1)[1:] == pytest.approx([math.sqrt(2), 2]) and math.isnan(std_at_k(picked, 1)[0])
    assert violations_at_k(picked, 4.0) == pytest.approx([1, 0.5, 2 / 3])


def test_equal_policies_have_no_spread_in_spite_of_rounding() -> None:
    picked = np.full(7, 0.1)
    assert (std_at_k(picked) == 0).all()
    assert np.isnan(sharpe_ratio(picked, std_at_k(picked), 0.0)).all()


def test_a_portfolio_below_the_logging_policy_has_ratio_zero() -> None:
    assert sharpe_ratio(np.array([1.0]), np.array([0.5]), 3.0).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlations_agree_with_scipy_with_and_without_ties(seed) -> None:
    gen = np.random.default_rng(seed)
    for one, two in (gen.normal(size=(2, 9)), gen.integers(0, 4, (2, 9)).astype(float)):
        assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
        assert kendall(one, two) == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-12)
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0])) and math.isnan(kendall([1.0, 2.0], [3.0, 3.0]))


def test_with_ties_an_order_and_its_inverse_do_not_correlate_alike() -> None:
    values = np.array([1.0, 1.0, 2.0, 3.0])
    order = ranking(values, "abcd")
    true = np.array([4.0, 1.0, 2.0, 3.0])
    assert spearman(true, values) != pytest.approx(spearman(true, order))


# properties

numbers = st.lists(st.integers(-50, 50), min_size=3, max_size=9)


@given(numbers, st.randoms(use_true_random=False), st.integers(1, 9), st.integers(-20, 20))
@settings(max_examples=60, deadline=None)
def test_shift_and_scale_leave_ratio_and_correlation(true, random, scale, shift) -> None:
    j = np.array(true, float)
    said = np.array(random.sample(true, len(true)), float)
    names = [f"{i:02}" for i in range(len(true))]
    one = curves_at_k(j[ranking(said, names)], 0.0, 0.0)
    two = curves_at_k((j * scale + shift)[ranking(said * scale + shift, names)], float(shift), float(shift))
    np.testing.assert_allclose(one["SharpeRatio"], two["SharpeRatio"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one["Regret sum"] * scale, two["Regret sum"], atol=1e-9)
    np.testing.assert_allclose(one["violations"], two["violations"])


@given(numbers, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_candidates_does_not_matter(true, random) -> None:
    names = [f"{i:02}" for i in range(len(true))]
    said = [random.choice([0, 1, 2]) for _ in true]
    place = random.sample(range(len(true)), len(true))
    one = SharpeRatioAtK().assess(
        dict(zip(names, true, strict=True)), {"e": dict(zip(names, said, strict=True))}, behaviour=0
    )
    two = SharpeRatioAtK().assess(
        {names[i]: true[i] for i in place}, {"e": {names[i]: said[i] for i in place}}, behaviour=0
    )
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert (a.metric, a.k, a.reason) == (b.metric, b.k, b.reason)
        assert a.value == pytest.approx(b.value, nan_ok=True)


@given(numbers)
@settings(max_examples=40, deadline=None)
def test_the_true_order_has_no_regret_and_all_tested_is_the_same_for_all(true) -> None:
    j = np.array(true, float)
    names = [f"{i:02}" for i in range(len(true))]
    right, wrong = (curves_at_k(j[ranking(s, names)], 0.0, 0.0) for s in (j, -j))
    assert (right["Regret best"] == 0).all() and (right["Regret sum"] == 0).all()
    for metric in ("best", "worst", "mean", "std", "violations", "SharpeRatio", "Regret sum"):
        assert right[metric][-1] == pytest.approx(wrong[metric][-1], nan_ok=True, abs=1e-9)


# seeds, forms of input, lower bounds, tails


def test_seeds_are_averaged_with_a_t_interval_where_defined() -> None:
    said = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]]
    a = SharpeRatioAtK(SharpeRatioAtKConfig(k=(2,))).assess([1.0, 2.0, 4.0], {"e": said}, behaviour=1.5)
    ratios = [2.5 / 1.0, 0.5 / 0.5, 2.5 / 1.0]
    m = a.find("e", "SharpeRatio", 2)
    half = stats.t.ppf(0.975, 2) * np.std(ratios, ddof=1) / math.sqrt(3)
    assert (m.value, m.lo, m.hi, m.n) == pytest.approx((2.0, 2.0 - half, 2.0 + half, 3))
    assert a.n == 3 and [c.k for c in a.curves if c.metric == "mean"] == [1, 2, 3]


def test_estimates_arrays_and_mappings_say_the_same() -> None:
    rows = [
        Estimate(value=v, lo=0.0, hi=0.0, unit="u", n=50, se=1.0, policy=p, estimator=e)
        for e, by in SAID.items()
        for p, v in by.items()
    ]
    system = SharpeRatioAtK(SharpeRatioAtKConfig(k=(5,)))
    arrays = {e: [by[p] for p in TRUE] for e, by in SAID.items()}
    one = system.assess(TRUE, rows, behaviour=5.0)
    two = system.assess(TRUE, arrays, behaviour=5.0)
    for m in two.metrics:
        assert one.find(m.estimator, m.metric, m.k).value == pytest.approx(m.value, nan_ok=True)
    assert not two.paired and {m.selection for m in one.metrics} == {"mean", "lcb"}


def test_equal_errors_of_all_candidates_leave_the_selection_as_it_is() -> None:
    arrays = {e: [by[p] for p in TRUE] for e, by in SAID.items()}
    errors = {e: np.ones(10) for e in arrays}
    a = SharpeRatioAtK().assess(TRUE, arrays, standard_errors=errors, behaviour=5.0)
    assert a.paired and all(m.value == 0 for m in a.paired if not math.isnan(m.value))


def test_the_lower_bound_keeps_an_uncertain_policy_out() -> None:
    true, said, error = [1.0, 2.0, 0.0], {"e": [1.0, 2.0, 3.0]}, {"e": [0.1, 0.1, 5.0]}
    a = SharpeRatioAtK(SharpeRatioAtKConfig(k=(2,))).assess(true, said, standard_errors=error, behaviour=0.5)
    assert a.find("e", "worst", 2).value == 0 and a.find("e", "worst", 2, selection="lcb").value == 1
    assert next(m.value for m in a.paired if m.metric == "worst") == 1


def test_a_lower_tail_stands_in_for_the_mean() -> None:
    returns = {"steady": np.full(10, 2.0), "wild": np.array([-10.0] + [6.0] * 9)}
    mean = SharpeRatioAtK().assess(returns, {"e": [0, 1]}, behaviour=1.0)
    tail = SharpeRatioAtK(SharpeRatioAtKConfig(functional="cvar", alpha=0.2)).assess(
        returns, {"e": [0, 1]}, behaviour=1.0
    )
    assert mean.true_values == pytest.approx((2.0, 4.4))
    assert tail.true_values == pytest.approx((2.0, -2.0))
    low = SharpeRatioAtKConfig(functional="quantile", alpha=0.1)
    assert SharpeRatioAtK(low).assess(returns, {"e": [0, 1]}, behaviour=1.0).true_values == (2.0, -10.0)


def test_distributions_of_returns_are_read_by_the_same_functional() -> None:
    said = [
        ReturnDistribution(atoms=(0.0, 4.0), cdf=(0.5, 1.0), unit="u", n=9, policy="a", estimator="F"),
        ReturnDistribution(atoms=(1.0, 2.0), cdf=(0.5, 1.0), unit="u", n=9, policy="b", estimator="F"),
    ]
    true = {"a": [0.0, 4.0], "b": [1.0, 2.0]}
    tail = SharpeRatioAtKConfig(functional="cvar", alpha=0.5)
    assert SharpeRatioAtK().assess(true, said, behaviour=0).find("F", "kth", 1).value == 2.0
    assert SharpeRatioAtK(tail).assess(true, said, behaviour=0).find("F", "kth", 1).value == 1.0


def test_results_save_load_tabulate_and_draw(tmp_path) -> None:
    a = judged(k=(2, 5))
    assert Assessment.load(a.save(tmp_path / "a.json")).to_dict() == a.to_dict()
    assert a.table().columns[:2] == ["estimator", "MSE"] and "SharpeRatio@5" in a.table().columns
    assert len(a.plot().data) == 2 and a.plot().data[0].x[0] == 2


# refusals


@pytest.mark.parametrize(
    ("true", "said", "text"),
    [
        ([1.0], {"e": [1.0]}, "1 candidate.*at least 2"),
        ([1.0, 2.0], {"e": [1.0]}, r"e has values of shape \(1,\)"),
        ([1.0, 2.0], {"e": [1.0, 2.0], "f": [[1.0, 2.0], [1.0, 2.0]]}, "the same seeds"),
        ([1.0, 2.0], {"e": [1.0, math.nan]}, "e has no finite value for 'policy-1'"),
        ([1.0, math.nan], {"e": [1.0, 2.0]}, "holds NaN"),
        ({"a": 1.0, "b": 2.0}, {"e": {"a": 1.0}}, "e has no value for 'b'"),
        ({"a": 1.0, "b": 2.0}, {"e": {"a": [1.0], "b": [1.0, 2.0]}}, "candidates of .1, 2. seeds"),
        ([1.0, 2.0], {}, "no estimator"),
    ],
)
def test_what_cannot_be_ranked_is_refused(true, said, text) -> None:
    with pytest.raises(LogError, match=text):
        SharpeRatioAtK().assess(true, said, behaviour=0.0)


def test_more_tests_than_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match="k=11 of 10 candidates"):
        judged(k=(11,))


def test_two_estimates_of_one_candidate_are_refused() -> None:
    row = Estimate(value=1.0, lo=0.0, hi=0.0, unit="u", n=5, policy="p01", estimator="e")
    with pytest.raises(LogError, match="two estimates of 'p01'"):
        SharpeRatioAtK().assess(TRUE, [row, row], behaviour=0.0)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="no 'Gain'"):
        judged().find("X", "Gain")


# advice without true values


def log_of(gains, n=6000, rng=0) -> Rounds:
    """Uniform log of one action a gain: action i earns 0.5 + gains[i] on average."""
    gen = np.random.default_rng(rng)
    action = gen.integers(0, len(gains), n)
    reward = 0.5 + np.array(gains)[action] + gen.normal(0, 0.5, n)
    return Rounds(
        {"a": [f"a{i}" for i in action], "r": reward}, action="a", reward={"r": "euros"}, propensity="uniform"
    )


def advice_on(gains, rng=0, **config) -> Advice:
    log = log_of(gains, rng=rng)
    found = evaluate(log, ["logged", *(f"always:a{i}" for i in range(len(gains)))], ["SNIPS"])
    return advise(found, config=SharpeRatioAtKConfig(**config), rng=1)


def test_advice_finds_the_safe_portfolio() -> None:
    a = advice_on([-0.3, -0.2, 0.4, 0.3, 0.2])
    assert [p.policy for p in a.points[:3]] == ["always:a2", "always:a3", "always:a4"]
    assert a.k_within_risk == 3 and a.points[2].chance_worse < 0.01 < 0.99 < a.points[3].chance_worse
    assert math.isnan(a.points[0].ratio) and a.points[0].reason == "no spread"
    assert a.points[4].chance_again == 1 and a.points[4].chance_best_inside == 1
    assert a.behaviour_value == pytest.approx(0.58, abs=0.03) and a.unit == "euros"


def test_risk_grows_and_finding_the_best_gets_likelier_with_k() -> None:
    a = advice_on([0.0, 0.02, -0.02, 0.01, 0.0])
    assert (np.diff([p.chance_worse for p in a.points]) >= 0).all()
    assert (np.diff([p.chance_best_inside for p in a.points]) >= 0).all()
    assert all(p.lo <= p.ratio <= p.hi for p in a.points[1:])


def test_candidates_that_a_draw_takes_as_alike_have_no_spread_and_not_a_rounding_one() -> None:
    for rng in (0, 2):  # logs whose draws often take all candidates as equal
        a = advice_on([0.0, 0.02, -0.02, 0.01, 0.0], rng=rng)
        assert all(p.ratio < 100 and p.lo <= p.ratio <= p.hi for p in a.points[1:])


def test_advice_repeats_itself_and_survives_saving(tmp_path) -> None:
    one, two = advice_on([0.1, 0.0, -0.1]), advice_on([0.1, 0.0, -0.1])
    assert repr(one) == repr(two) and repr(Advice.load(one.save(tmp_path / "a"))) == repr(one)
    assert one.to_frame().height == 3


def test_flat_draws_are_the_bootstrap_and_shrunken_ones_lie_closer() -> None:
    flat, normal = (advice_on([0.0, 0.0, 0.0, 0.0], prior=p) for p in ("flat", "normal"))
    assert flat.points[0].expected_gain == pytest.approx(flat.points[0].gain, abs=0.005)
    assert normal.points[0].expected_gain < flat.points[0].expected_gain
    assert [p.policy for p in flat.points] == [p.policy for p in normal.points]


def test_much_data_leaves_the_gains_as_estimated() -> None:
    gains = np.array([0.3, -0.2, 0.1])
    replicates = gains + 1e-4 * np.random.default_rng(0).normal(size=(500, 3))
    draws = shrunken_gains(gains, replicates)
    assert draws.mean(axis=0) == pytest.approx(gains, abs=1e-4)
    assert draws.std(axis=0) == pytest.approx(1e-4 * np.ones(3), rel=0.15)


def test_no_difference_at_all_is_drawn_without_failing() -> None:
    assert (shrunken_gains(np.zeros(3), np.zeros((50, 3))) == 0).all()


def test_shrunken_chances_are_calibrated_where_the_bootstrap_flatters() -> None:
    """The best-looking of 8 is truly worse as often as the draws say; the bootstrap says so too seldom."""
    gen = np.random.default_rng(3)
    worse, flat, shrunk = [], [], []
    for _ in range(600):
        true = gen.uniform(0, 3) * gen.normal() + gen.uniform(0, 2) * gen.normal(size=8)
        said = true + gen.normal(size=8)
        replicates = said + gen.normal(size=(200, 8))
        top = int(said.argmax())
        worse.append(true[top] < 0)
        flat.append((replicates[:, top] < 0).mean())
        shrunk.append((shrunken_gains(said, replicates)[:, top] < 0).mean())
    error = np.std(np.subtract(worse, shrunk), ddof=1) / math.sqrt(600)
    assert abs(np.mean(shrunk) - np.mean(worse)) < 2.5 * error
    assert np.mean(worse) - np.mean(flat) > 5 * error
    assert np.mean(np.subtract(shrunk, worse) ** 2) < 0.85 * np.mean(np.subtract(flat, worse) ** 2)


def test_advice_names_what_is_missing() -> None:
    log = log_of([0.0, 0.1, 0.2])
    every = ["always:a0", "always:a1", "always:a2"]
    with pytest.raises(ConfigError, match="no policy 'logged'"):
        advise(evaluate(log, every, ["IPS"]))
    both = evaluate(log, ["logged", *every], ["IPS", "SNIPS"])
    with pytest.raises(ConfigError, match="2 estimators; expected one of IPS, SNIPS"):
        advise(both)
    with pytest.raises(ConfigError, match="no estimator 'DR'"):
        advise(both, estimator="DR")
    with pytest.raises(ConfigError, match="no reward 'money'"):
        advise(both, reward="money")
    with pytest.raises(SupportError, match="1 candidate with a valid estimate"):
        advise(evaluate(log, ["logged", "always:a0"], ["IPS"]))


def test_invalid_candidates_are_left_out_with_their_reason() -> None:
    gen = np.random.default_rng(0)
    p = np.array([0.4965, 0.4965, 0.007])
    action = gen.choice(3, 3000, p=p)
    log = Rounds(
        {"a": action, "r": gen.normal(size=3000), "p": p[action]}, action="a", reward="r", propensity="p"
    )
    found = evaluate(log, ["logged", "always:0", "always:1", "always:2"], ["SNIPS"])
    a = advise(found)
    assert len(a.points) == 2 and a.left_out[0][0] == "always:2" and "effective" in a.left_out[0][1]


def test_the_study_counts_and_its_toys_are_as_stated() -> None:
    from counterlog.studies.sharpe_ratio_at_k import meanders, river_task, tempered, toys

    one, two = toys()
    assert one.rows[0]["SharpeRatio@5"] == pytest.approx(2.695819, abs=1e-6)
    better = [two.rows[i]["SharpeRatio@4"] > two.rows[i + 1]["SharpeRatio@4"] for i in (0, 2, 4)]
    assert better == [True, True, False]
    tables = swimmers()
    true, j_b, made = river_task(tables, tempered(tables["swim-4"], 2.0), 1, 0)
    assert true["swim-7"] == river().value(tables["swim-7"], 0.95) and len(made) == 1 and j_b < true["swim-7"]
    assert all(np.allclose(t.sum(axis=1), 1) for t in meanders().values())
