"""Several loggers: one logger is plain IPS, balanced and weighted by hand, variance, segments, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.multiple_loggers import (
    BalancedConfig,
    BalancedDR,
    BalancedIPS,
    WeightedConfig,
    WeightedDR,
    WeightedIPS,
    mixture,
    precision,
)

WHO = WeightedConfig(logger="who")


def sample(seed: int = 0, n: int = 600, far: float = 0.05) -> tuple[Rounds, Table, float]:
    """'old' takes action 1 with chance `far`, 'new' with 0.6; the candidate with 0.8, for a value of 0.64."""
    gen = np.random.default_rng(seed)
    who = np.where(gen.random(n) < 0.5, "new", "old")
    chance = np.where(who == "new", 0.6, far)
    a = (gen.random(n) < chance).astype(int)
    r = np.where(a == 1, 0.7, 0.4) + gen.normal(0, 0.2, n)

    def of(p1: float) -> np.ndarray:
        return np.where(a == 1, p1, 1 - p1)

    frame = {"who": who, "a": a, "r": r, "p": np.where(who == "new", of(0.6), of(far))}
    frame |= {"p_old": of(far), "p_new": of(0.6), "half": np.where(np.arange(n) < n / 3, "x", "y")}
    log = Rounds(frame, action="a", reward="r", propensity="p")
    return log, Table("t", np.tile([0.2, 0.8], (n, 1))), 0.8 * 0.7 + 0.2 * 0.4


def balanced(order: tuple[str, str] = ("p_new", "p_old")) -> BalancedConfig:
    return BalancedConfig(logger="who", probabilities=order)


def test_the_mixture_by_hand() -> None:
    given = np.array([[0.5, 0.1], [0.4, 0.2], [0.9, 0.3]])
    assert mixture(given, np.array([0, 0, 1])) == pytest.approx((2 * given[:, 0] + given[:, 1]) / 3)


def test_the_precision_by_hand() -> None:
    y, logger = np.array([1.0, 3.0, 5.0, 5.0, 7.0]), np.array([0, 0, 1, 1, 2])
    found = precision(y, logger)
    assert found[0] == pytest.approx(1.0)
    assert np.isinf(found[1])
    assert np.isnan(found[2])


def test_one_logger_makes_them_ips_and_dr() -> None:
    log, policy, _ = sample()
    frame = pl.DataFrame({"a": log.action, "r": log.reward, "p": log.propensity, "who": ["me"] * log.n})
    one = Rounds(frame, action="a", reward="r", propensity="p")
    q = {"r": np.tile([0.3, 0.5], (log.n, 1))}
    only = BalancedConfig(logger="who", probabilities=("p",))
    pairs = (
        (BalancedIPS(only), "IPS"),
        (WeightedIPS(WHO), "IPS"),
        (BalancedDR(only), "DR"),
        (WeightedDR(WHO), "DR"),
    )
    for estimator, plain in pairs:
        two, ref = evaluate(one, [policy], [estimator, plain], q=q).estimates
        assert (two.value, two.se) == (pytest.approx(ref.value, abs=1e-12), pytest.approx(ref.se, rel=1e-9))


def test_loggers_that_agree_make_balanced_ips() -> None:
    log, policy, _ = sample(far=0.6)
    two, ref = evaluate(log, [policy], [BalancedIPS(balanced()), "IPS"]).estimates
    assert two.value == pytest.approx(ref.value, abs=1e-12)


def test_weighted_combines_the_loggers_estimates_by_inverse_variance() -> None:
    log, policy, _ = sample()
    y = np.array([0.2, 0.8])[log.action] / log.propensity * log.reward
    who = log.frame.collect("polars").to_native()["who"].to_numpy()
    means, variances, counts = zip(
        *((y[who == k].mean(), y[who == k].var(), (who == k).sum()) for k in ("new", "old")),
        strict=True,
    )
    alpha = np.array(counts) / np.array(variances)
    alpha /= alpha.sum()
    found = WeightedIPS(WHO).estimate(log, policy)
    assert found.value == pytest.approx(alpha @ means, abs=1e-12)
    stratified = np.sqrt((alpha**2 * np.array(variances) / np.array(counts)).sum())
    assert found.se == pytest.approx(stratified, rel=0.01)
    assert "new" in found.notes[0]


def test_both_are_closer_to_the_truth_than_naive_ips() -> None:
    off: dict[str, list[float]] = {}
    for seed in range(60):
        log, policy, truth = sample(seed)
        for e in evaluate(log, [policy], ["IPS", BalancedIPS(balanced()), WeightedIPS(WHO)]).estimates:
            off.setdefault(e.estimator, []).append(e.value - truth)
    mse = {k: float(np.mean(np.square(v))) for k, v in off.items()}
    assert mse["BalancedIPS"] < mse["IPS"] / 3
    assert mse["WeightedIPS"] < mse["IPS"] / 2
    assert abs(np.mean(off["BalancedIPS"])) < 3 * np.std(off["BalancedIPS"]) / np.sqrt(60)


def test_balanced_is_exact_on_an_enumerated_world() -> None:
    # each logger 4 rows: old takes action 1 in 1 of 4, new in 3 of 4; rewards 2 and 5 without noise
    who = np.repeat(["new", "old"], 4)
    a = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    frame = {"who": who, "a": a, "r": np.where(a == 1, 5.0, 2.0), "p_new": np.where(a == 1, 0.75, 0.25)}
    frame["p_old"] = 1 - frame["p_new"]
    frame["p"] = np.where(who == "new", frame["p_new"], frame["p_old"])
    log = Rounds(frame, action="a", reward="r", propensity="p")
    policy = Table("t", np.tile([0.1, 0.9], (8, 1)))
    q = {"r": np.tile([-3.0, 8.0], (8, 1))}
    for e in evaluate(log, [policy], [BalancedIPS(balanced()), BalancedDR(balanced()), "IPS"], q=q).estimates:
        assert e.value == pytest.approx(0.9 * 5 + 0.1 * 2, abs=1e-12)


def test_the_logged_policy_keeps_its_mean_under_balanced() -> None:
    log, _, _ = sample()
    q = {"r": np.ones((log.n, 2))}
    for kind in (BalancedIPS, BalancedDR):
        e = evaluate(log, ["logged"], [kind(balanced())], q=q).estimates[0]
        assert e.value == pytest.approx(log.reward.mean(), abs=1e-12)


def test_a_segment_of_weighted_uses_the_loggers_variances_of_the_whole() -> None:
    log, policy, _ = sample()
    split = Rounds(log.frame.to_native(), action="a", reward="r", propensity="p", segment="half")
    made = evaluate(split, [policy], [WeightedIPS(WHO)])
    y = np.array([0.2, 0.8])[log.action] / log.propensity * log.reward
    table = log.frame.collect("polars").to_native()
    code = np.unique(table["who"].to_numpy(), return_inverse=True)[1]
    c, inside = precision(y, code)[code], (table["half"] == "x").to_numpy()
    expected = (c * y)[inside].sum() / c[inside].sum()
    assert made.find("t", "WeightedIPS", segment="half=x").value == pytest.approx(expected, abs=1e-12)


def test_missing_settings_are_refused_with_the_remedy() -> None:
    log, policy, _ = sample()
    for name in ("BalancedIPS", "WeightedIPS"):
        with pytest.raises(LogError, match="no column was named for the logger"):
            evaluate(log, [policy], [name])
    with pytest.raises(LogError, match="no column was named for a logger's probability"):
        evaluate(log, [policy], [BalancedIPS(BalancedConfig(logger="who"))])


def test_columns_in_the_wrong_order_are_noticed() -> None:
    log, policy, _ = sample()
    with pytest.raises(PropensityError, match="in the order of the loggers: new, old"):
        BalancedIPS(balanced(("p_old", "p_new"))).estimate(log, policy)
    with pytest.raises(LogError, match="1 columns of probabilities for 2 loggers"):
        BalancedIPS(BalancedConfig(logger="who", probabilities=("p_old",))).estimate(log, policy)


def test_probabilities_that_are_none_are_refused() -> None:
    log, policy, _ = sample()
    frame = log.frame.collect("polars").to_native().with_columns(p_old=pl.col("p_old") * 30)
    wrong = Rounds(frame, action="a", reward="r", propensity="p")
    with pytest.raises(PropensityError, match="probabilities are none in"):
        BalancedIPS(balanced()).estimate(wrong, policy)


def test_a_logger_without_spread_is_refused_by_weighted() -> None:
    log, policy, _ = sample()
    frame = (
        log.frame.collect("polars")
        .to_native()
        .with_columns(r=pl.when(pl.col("who") == "old").then(0.0).otherwise(pl.col("r")))
    )
    flat = Rounds(frame, action="a", reward="r", propensity="p")
    with pytest.raises(SupportError, match="logger 'old' has one row, or the same term"):
        WeightedIPS(WHO).estimate(flat, policy)


def test_weighted_has_no_terms_without_a_log() -> None:
    from counterlog.core.estimators import Row

    with pytest.raises(ConfigError, match="makes its terms from a log"):
        WeightedIPS().parts(Row(np.ones(1), np.ones(1)))


def contract_example(frame: Any) -> Any:
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x"], unit="user")
    both = BalancedConfig(logger="device", probabilities=("p", "p"))
    alone = WeightedConfig(logger="device")
    family = [BalancedIPS(both), BalancedDR(both), WeightedIPS(alone), WeightedDR(alone)]
    return evaluate(log, ["uniform", "always:a"], family, model="linear").estimates
