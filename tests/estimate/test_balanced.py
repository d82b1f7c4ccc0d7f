"""BIPW: weights learnt without propensities, close to the true ratio; limits and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.balanced import BIPW, BIPWConfig, density_ratio


def sample(seed: int = 0, n: int = 3000) -> tuple[Rounds, np.ndarray, np.ndarray, float]:
    gen = np.random.default_rng(seed)
    x = gen.normal(size=n)
    p1 = 1 / (1 + np.exp(-x))
    a = (gen.random(n) < p1).astype(int)
    r = 0.5 * x * a + 0.3 * (1 - a) + gen.normal(0, 0.2, n)
    pi1 = 1 / (1 + np.exp(0.5 * x))
    log = Rounds({"x": x, "a": a, "r": r}, action="a", reward="r", context=("x",))
    ratio = np.where(a == 1, pi1 / p1, (1 - pi1) / (1 - p1))
    truth = float((pi1 * 0.5 * x + (1 - pi1) * 0.3).mean())
    return log, np.column_stack([1 - pi1, pi1]), ratio, truth


@pytest.mark.parametrize("model", ["linear", "boosting"])
def test_the_weights_come_close_to_the_true_ratio(model: str) -> None:
    log, pi, ratio, _ = sample()
    w = density_ratio(log, pi, model, 3)
    assert w.mean() == pytest.approx(1, abs=0.15)
    assert np.corrcoef(np.log(w), np.log(ratio))[0, 1] > (0.99 if model == "linear" else 0.9)


def test_the_value_is_close_to_the_truth_where_the_mean_is_not() -> None:
    off, naive = [], []
    for seed in range(5):
        log, pi, _, truth = sample(seed)
        off.append(BIPW().estimate(log, Table("t", pi)).value - truth)
        naive.append(log.reward.mean() - truth)
    assert abs(np.mean(off)) < 0.03
    assert abs(np.mean(naive)) > 0.1


def test_without_a_difference_the_weights_are_one_and_the_value_the_mean() -> None:
    gen = np.random.default_rng(0)
    n = 2000
    a = gen.integers(0, 2, n)
    log = Rounds(
        {"x": gen.normal(size=n), "a": a, "r": gen.random(n) + a}, action="a", reward="r", context=("x",)
    )
    share = np.tile([np.mean(a == 0), np.mean(a == 1)], (n, 1))
    w = density_ratio(log, share, "linear", 3)
    assert w == pytest.approx(np.ones(n), abs=0.1)
    assert BIPW().estimate(log, Table("same", share)).value == pytest.approx(log.reward.mean(), abs=0.01)


def test_calibration_mends_a_classifier_that_is_too_sure() -> None:
    from sklearn.naive_bayes import GaussianNB

    log, pi, ratio, _ = sample()
    twice = Rounds(
        {
            "x": log.context["x"],
            "y": log.context["x"],
            "z": log.context["x"],
            "a": log.action,
            "r": log.reward,
        },
        action="a",
        reward="r",
        context=("x", "y", "z"),
    )
    errors = [
        np.mean((np.log(density_ratio(twice, pi, GaussianNB(), 3, calibrate=c)) - np.log(ratio)) ** 2)
        for c in (True, False)
    ]
    assert errors[0] < errors[1]


def test_a_deterministic_candidate_weighs_only_the_rows_it_agrees_with() -> None:
    log, _, _, _ = sample(n=500)
    one = np.tile([0.0, 1.0], (500, 1))
    w = density_ratio(log, one, "linear", 3)
    assert (w[log.action == 0] == 0).all()
    assert (w[log.action == 1] > 0).all()


def test_it_is_self_normalised() -> None:
    log, pi, _, _ = sample(n=800)
    moved = Rounds(
        {"x": log.context["x"], "a": log.action, "r": 3 * log.reward + 7},
        action="a",
        reward="r",
        context=("x",),
    )
    one, two = (BIPW().estimate(data, Table("t", pi)).value for data in (log, moved))
    assert two == pytest.approx(3 * one + 7, rel=1e-9)


def test_it_needs_no_propensity_and_says_what_the_interval_takes_as_known() -> None:
    log, pi, _, _ = sample(n=400)
    e = evaluate(log, [Table("t", pi), "logged"], ["BIPW"]).estimates
    assert "learnt by a classifier" in e[0].notes[0]
    assert e[1].value == pytest.approx(log.reward.mean(), abs=1e-12)


def test_same_seed_same_weights_and_any_classifier_goes() -> None:
    from sklearn.ensemble import RandomForestClassifier

    log, pi, _, _ = sample(n=400)
    forest = BIPW(classifier=RandomForestClassifier(20, random_state=0, min_samples_leaf=10))
    assert forest.estimate(log, Table("t", pi), rng=2) == forest.estimate(log, Table("t", pi), rng=2)
    assert not hasattr(forest.classifier, "classes_")  # only clones were fitted


def test_no_context_and_no_agreement_are_refused() -> None:
    log, pi, _, _ = sample(n=100)
    bare = Rounds({"a": log.action, "r": log.reward}, action="a", reward="r")
    with pytest.raises(LogError, match="BIPW needs context"):
        BIPW().estimate(bare, Table("t", pi))
    never = np.zeros((100, 2))
    never[np.arange(100), 1 - log.action] = 1.0
    with pytest.raises(SupportError, match="no logged decision agrees"):
        BIPW().estimate(log, Table("never", never))
    with pytest.raises(ConfigError, match="one of linear, boosting"):
        BIPWConfig(model="svm")
