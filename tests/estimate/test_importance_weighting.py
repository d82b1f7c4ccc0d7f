"""Importance weighting: numbers by hand, exactness on a finite world, limits, properties, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Function, Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.importance_weighting import (
    IPS,
    SNIPS,
    ClippedIPS,
    ClippedIPSConfig,
    Replay,
    SubGaussianIPS,
    SubGaussianIPSConfig,
)

FAMILY = ("IPS", "SNIPS", "ClippedIPS", "SubGaussianIPS")
REWARD = np.array([[1.0, 4.0, 2.5], [3.0, -1.0, 0.5]])
LOGGING = np.array([[3, 2, 1], [3, 3, 12]])  # rows of each (context, action)
TARGET = np.array([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])


def world(policy: np.ndarray = TARGET) -> tuple[Rounds, Table, float]:
    """2 contexts x 3 actions, every row as often as its probability says; rewards without noise."""
    x, a = (np.repeat(i.ravel(), LOGGING.ravel()) for i in np.indices((2, 3)))
    p = LOGGING / LOGGING.sum(axis=1, keepdims=True)
    frame = pl.DataFrame({"x": x, "a": a, "r": REWARD[x, a], "p": p[x, a]})
    log = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    truth = float(((policy * REWARD).sum(axis=1) * LOGGING.sum(axis=1)).sum() / LOGGING.sum())
    return log, Table("target", policy[x]), truth


def four_rows(**roles: object) -> Rounds:
    frame = {"a": [0, 1, 0, 1], "r": [1.0, 2.0, 3.0, 4.0], "p": [0.5, 0.25, 0.8, 0.5]}
    return Rounds({**frame, "who": [1, 1, 2, 2]}, action="a", reward="r", propensity="p", **roles)  # type: ignore


def four_policy() -> Table:
    return Table("new", np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0]]))


def test_four_rows_by_hand() -> None:
    # w = 1, 2, 1/4, 0; w r = 1, 4, 0.75, 0
    log, policy = four_rows(), four_policy()
    assert IPS().estimate(log, policy).value == pytest.approx(5.75 / 4, abs=1e-15)
    assert SNIPS().estimate(log, policy).value == pytest.approx(5.75 / 3.25, abs=1e-15)
    clipped = ClippedIPS(ClippedIPSConfig(cap=1.0)).estimate(log, policy)
    assert clipped.value == pytest.approx((1 + 2 + 0.75) / 4, abs=1e-15)
    half = SubGaussianIPS(SubGaussianIPSConfig(lam=0.5)).estimate(log, policy)
    assert half.value == pytest.approx((1 + 2 * 2 / 1.5 + 3 * 0.25 / 0.625) / 4, abs=1e-15)


def test_standard_errors_by_hand() -> None:
    log, policy = four_rows(), four_policy()
    terms = np.array([1.0, 4.0, 0.75, 0.0])
    assert IPS().estimate(log, policy).se == pytest.approx(terms.std(ddof=1) / 2, rel=1e-12)
    w = np.array([1.0, 2.0, 0.25, 0.0])
    residual = terms - terms.sum() / w.sum() * w
    delta = np.sqrt((residual**2).sum()) / w.sum() * np.sqrt(4 / 3)  # divisor n - 1
    assert SNIPS().estimate(log, policy).se == pytest.approx(delta, rel=1e-12)


def test_effective_sample_size_by_hand() -> None:
    assert IPS().estimate(four_rows(), four_policy()).ess == pytest.approx(3.25**2 / (1 + 4 + 0.0625))


def test_ips_is_exact_on_a_finite_world() -> None:
    log, policy, truth = world()
    for name in ("IPS", "SNIPS"):
        found = evaluate(log, [policy], [name]).estimates[0].value
        assert found == pytest.approx(truth, abs=1e-12)


def test_replay_is_exact_on_a_uniform_finite_world() -> None:
    x, a = (i.ravel() for i in np.indices((2, 3)))
    frame = pl.DataFrame({"x": x, "a": a, "r": REWARD[x, a]})
    log = Rounds(frame, action="a", reward="r", propensity="uniform", context=("x",))
    best = np.zeros((6, 3))
    best[np.arange(6), REWARD.argmax(axis=1)[x]] = 1.0
    found = evaluate(log, [Table("best", best)], ["Replay", "SNIPS"]).estimates
    assert [e.value for e in found] == pytest.approx([3.5, 3.5], abs=1e-12)
    assert found[0].se == pytest.approx(found[1].se, rel=1e-12)


def test_the_logging_policy_has_the_mean_reward() -> None:
    log, _, _ = world()
    p = LOGGING / LOGGING.sum(axis=1, keepdims=True)
    same = Table("same", p[log.context["x"].to_numpy()])
    for policy in ("logged", same):
        for estimate in evaluate(log, [policy], FAMILY).estimates:
            assert estimate.value == pytest.approx(log.reward.mean(), abs=1e-12)
            assert estimate.se == pytest.approx(log.reward.std(ddof=1) / np.sqrt(log.n), rel=1e-9)


def test_a_cap_above_every_weight_changes_nothing() -> None:
    log, policy, truth = world()
    assert ClippedIPS(ClippedIPSConfig(cap=1e9)).estimate(log, policy).value == pytest.approx(
        truth, abs=1e-12
    )


def test_subgaussian_0_is_ips_and_1_is_the_mean_where_weights_are_positive() -> None:
    log, policy, truth = world()
    zero = SubGaussianIPS(SubGaussianIPSConfig(lam=0.0)).estimate(log, policy)
    one = SubGaussianIPS(SubGaussianIPSConfig(lam=1.0)).estimate(log, policy)
    assert zero.value == pytest.approx(truth, abs=1e-12)
    assert one.value == pytest.approx(log.reward.mean(), abs=1e-12)


def test_subgaussian_1_keeps_a_weight_of_0_at_0() -> None:
    found = SubGaussianIPS(SubGaussianIPSConfig(lam=1.0)).estimate(four_rows(), four_policy())
    assert found.value == pytest.approx((1 + 2 + 3) / 4, abs=1e-12)


def random_log(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    gen = np.random.default_rng(seed)
    p = gen.dirichlet(np.ones(3), n) * 0.9 + 0.1 / 3
    a = np.concatenate([[0, 1, 2], gen.integers(0, 3, n - 3)])
    return a, gen.normal(2.0, 1.0, n), p[np.arange(n), a], gen.dirichlet(np.ones(3), n)


def value(a: np.ndarray, r: np.ndarray, p: np.ndarray, pi: np.ndarray, name: str) -> float:
    log = Rounds({"a": a, "r": r, "p": p}, action="a", reward="r", propensity="p")
    return evaluate(log, [Table("t", pi)], [name]).estimates[0].value


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(FAMILY))
def test_the_order_of_rows_and_doubling_them_change_nothing(seed: int, name: str) -> None:
    a, r, p, pi = random_log(seed)
    base = value(a, r, p, pi, name)
    i = np.random.default_rng(seed + 1).permutation(len(a))
    assert value(a[i], r[i], p[i], pi[i], name) == pytest.approx(base, rel=1e-12)
    twice = [np.concatenate([v, v]) for v in (a, r, p, pi)]
    assert value(*twice, name) == pytest.approx(base, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(FAMILY))
def test_renaming_the_actions_changes_nothing(seed: int, name: str) -> None:
    a, r, p, pi = random_log(seed)
    swap = np.array([2, 0, 1])  # old code -> new name
    renamed = np.empty_like(pi)
    renamed[:, swap] = pi
    assert value(swap[a], r, p, renamed, name) == pytest.approx(value(a, r, p, pi, name), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_snips_moves_with_shift_and_scale_of_the_reward_and_ips_with_scale(
    seed: int, scale: float, shift: float
) -> None:
    a, r, p, pi = random_log(seed)
    for name, moved in (("SNIPS", shift), ("IPS", 0.0)):
        expected = scale * value(a, r, p, pi, name) + moved
        assert value(a, scale * r + moved, p, pi, name) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_bootstrap_of_a_ratio_recomputes_the_ratio() -> None:
    gen = np.random.default_rng(0)
    n = 2000
    a = gen.integers(0, 2, n)
    frame = {"a": a, "r": 10 + gen.normal(0, 0.3, n), "p": np.full(n, 0.5)}
    log = Rounds(frame, action="a", reward="r", propensity="p")
    policy = Table("t", np.tile([0.9, 0.1], (n, 1)))
    delta, boot = (evaluate(log, [policy], ["SNIPS"], interval=i).estimates[0] for i in ("t", "bootstrap"))
    assert (boot.hi - boot.lo) / (delta.hi - delta.lo) == pytest.approx(1.0, abs=0.15)
    assert boot.hi - boot.lo < 0.05  # with a frozen denominator it would be about 0.6


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth, hits = 0.9 * 0.3 + 0.1 * 0.6, {"IPS": 0, "SNIPS": 0}
    gen = np.random.default_rng(3)
    for _ in range(200):
        a = (gen.random(400) < 0.4).astype(int)
        frame = {"a": a, "r": (gen.random(400) < np.where(a == 0, 0.3, 0.6)).astype(float)}
        log = Rounds({**frame, "p": np.where(a == 0, 0.6, 0.4)}, action="a", reward="r", propensity="p")
        for e in evaluate(log, [Table("t", np.tile([0.9, 0.1], (400, 1)))], tuple(hits)).estimates:
            hits[e.estimator] += e.lo <= truth <= e.hi
    assert all(183 <= count <= 198 for count in hits.values()), hits


@pytest.mark.parametrize("name", [*FAMILY, "Replay"])
def test_all_weights_zero_is_refused_not_nan(name: str) -> None:
    log = Rounds({"a": [0, 0, 1, 1], "r": [1.0, 2, 3, 4]}, action="a", reward="r", propensity="uniform")
    never = Table("never", np.array([[0.0, 1], [0, 1], [1, 0], [1, 0]]))
    with pytest.raises(SupportError, match="no logged decision agrees with policy 'never'"):
        evaluate(log, [never], [name])


def test_actions_that_were_listed_but_never_logged_are_refused_with_their_share() -> None:
    frame = {"a": ["x", "y", "x"], "r": [1.0, 2, 3], "can": ["x|y|z"] * 3}
    log = Rounds(frame, action="a", reward="r", propensity="uniform", available="can")
    with pytest.raises(SupportError, match=r"33\.3% of its mass on actions that were never logged \('z'\)"):
        evaluate(log, ["uniform"], ["IPS"])


def test_a_policy_on_an_unavailable_action_is_refused() -> None:
    frame = {"a": ["x", "y", "x"], "r": [1.0, 2, 3], "can": ["x|y", "x|y", "x"]}
    log = Rounds(frame, action="a", reward="r", propensity="uniform", available="can")
    with pytest.raises(SupportError, match="chooses an unavailable action in 1 of 3 rows"):
        evaluate(log, ["always:y"], ["SNIPS"])


@pytest.mark.parametrize("bad", [0.0, 1.2, -0.1, float("nan")])
def test_a_propensity_that_is_none_is_refused_with_its_row(bad: float) -> None:
    with pytest.raises(PropensityError, match=r"1 of 3 rows: row 1"):
        Rounds(
            {"a": [0, 1, 0], "r": [1.0, 2, 3], "p": [0.5, bad, 0.5]}, action="a", reward="r", propensity="p"
        )


def test_a_policy_whose_rows_do_not_sum_to_1_is_refused() -> None:
    wrong = Function(lambda context, actions: np.full((4, 2), 0.4), name="wrong")
    with pytest.raises(LogError, match="'wrong' is not a distribution in 4 of 4 rows"):
        evaluate(four_rows(), [wrong], ["IPS"])


def test_an_action_the_log_never_holds_is_refused() -> None:
    with pytest.raises(SupportError, match="never holds the action"):
        evaluate(four_rows(), ["always:7"], ["IPS"])


def test_replay_refuses_a_random_policy_and_a_log_that_is_not_uniform() -> None:
    with pytest.raises(SupportError, match=r"'new' is random at rows 0, 1, 2"):
        Replay().estimate(four_rows(), four_policy())
    with pytest.raises(SupportError, match="2 of 4 propensities differ"):
        Replay().estimate(four_rows(), "always:0")


def test_replay_of_the_logged_policy_is_the_mean() -> None:
    log = Rounds({"a": [0, 1], "r": [1.0, 2]}, action="a", reward="r", propensity="uniform")
    assert Replay().estimate(log, "logged").value == 1.5


def test_settings_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="cap"):
        ClippedIPSConfig(cap=0)
    with pytest.raises(ConfigError, match="lam"):
        SubGaussianIPSConfig(lam=1.1)


def test_rows_of_one_unit_widen_the_interval_as_their_sums_say() -> None:
    log, policy = four_rows(unit="who"), four_policy()
    found = IPS().estimate(log, policy)
    # cluster sums 5 and 0.75 around the mean 1.4375 a row: influence +-2.125 over 2 units of 2 rows
    assert found.value == pytest.approx(5.75 / 4, abs=1e-15)
    assert found.n == 2
    assert found.se == pytest.approx(np.std([5 / 2, 0.75 / 2], ddof=1) / np.sqrt(2), rel=1e-12)


def contract_example(frame: Any) -> Any:
    log = Rounds(
        frame, action="item", reward=("click", "money"), propensity="p", unit="user", segment="device"
    )
    uniform = Rounds(frame, action="item", reward="click", propensity="uniform")
    weighted = evaluate(log, ["uniform", "always:a"], FAMILY).estimates
    return (*weighted, *evaluate(uniform, ["always:b"], ["Replay"]).estimates)
