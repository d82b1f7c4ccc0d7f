"""Doubly robust estimators: numbers by hand, exactness, limits, the two Switch equations, MRDR, refusals."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import ConfigError, PropensityError, SupportError
from counterlog.core.estimators import Estimator
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.doubly_robust import (
    DR,
    MRDR,
    SGDR,
    SNDR,
    DRConfig,
    DRos,
    DRosConfig,
    MRDRConfig,
    SGDRConfig,
    SwitchDR,
    SwitchDRConfig,
    fit_weights,
)

REWARD = np.array([[1.0, 4.0, 2.5], [3.0, -1.0, 0.5]])
LOGGING = np.array([[3, 2, 1], [3, 3, 12]])
CHANCE = LOGGING / LOGGING.sum(axis=1, keepdims=True)
TARGET = np.array([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])
X, A = (np.repeat(i.ravel(), LOGGING.ravel()) for i in np.indices((2, 3)))
POLICY = Table("target", TARGET[X])
TRUTH = float((TARGET[X] * REWARD[X]).sum(axis=1).mean())
W = TARGET[X, A] / CHANCE[X, A]


def log(**roles: object) -> Rounds:
    frame = pl.DataFrame({"x": X, "a": A, "r": REWARD[X, A], "p": CHANCE[X, A]})
    return Rounds(frame, **{"action": "a", "reward": "r", "propensity": "p", "context": ("x",), **roles})  # type: ignore


def anything(seed: int = 0) -> np.ndarray:
    """A model that is wrong everywhere, but the same for rows that are the same."""
    return np.random.default_rng(seed).normal(size=(2, 3))[X]


def valued(estimator: Estimator, q: np.ndarray, policy: object = POLICY, **roles: object) -> object:
    return evaluate(log(**roles), [policy], [estimator], q={"r": q}).estimates[0]  # type: ignore[list-item]


def switch(lam: float, **more: object) -> SwitchDR:
    return SwitchDR(SwitchDRConfig(lam=lam, **more))  # type: ignore[arg-type]


def test_two_rows_by_hand() -> None:
    # w = 2, 0.5; q(a) = 1, 2; v = 0.5*1 + 0.5*0 = 0.5 and 0.25*1 + 0.75*2 = 1.75; e = 3, -2
    small = Rounds({"a": [0, 1], "r": [4.0, 0.0], "p": [0.25, 0.5]}, action="a", reward="r", propensity="p")
    policy, q = Table("t", np.array([[0.5, 0.5], [0.75, 0.25]])), {"r": np.array([[1.0, 0.0], [1.0, 2.0]])}
    v, we = np.array([0.5, 1.25]), np.array([2 * 3, 0.5 * -2])

    def found(estimator: Estimator) -> float:
        return evaluate(small, [policy], [estimator], q=q).estimates[0].value

    assert found(DR()) == pytest.approx((v + we).mean(), abs=1e-15)
    assert found(DR(DRConfig(cap=1.0))) == pytest.approx(np.add(v, [3, -1]).mean(), abs=1e-15)
    assert found(SNDR()) == pytest.approx(v.mean() + we.sum() / 2.5, abs=1e-15)
    assert found(switch(1.0)) == pytest.approx(np.add(v, [0, -1]).mean(), abs=1e-15)
    assert found(DRos(DRosConfig(lam=4.0))) == pytest.approx(
        np.add(v, [1 * 3, 2 / 4.25 * -2]).mean(), abs=1e-15
    )
    assert found(SGDR(SGDRConfig(lam=0.5))) == pytest.approx(
        np.add(v, [4 / 3 * 3, 2 / 3 * -2]).mean(), abs=1e-15
    )


@pytest.mark.parametrize("seed", range(3))
def test_dr_is_exact_on_a_finite_world_with_any_model(seed: int) -> None:
    for estimator in (
        DR(),
        SNDR(),
        switch(math.inf),
        DRos(DRosConfig(lam=math.inf)),
        SGDR(SGDRConfig(lam=0)),
    ):
        assert valued(estimator, anything(seed)).value == pytest.approx(TRUTH, abs=1e-12)


def test_with_the_right_model_only_the_contexts_vary() -> None:
    v = (TARGET[X] * REWARD[X]).sum(axis=1)
    for estimator in (DR(), SNDR(), switch(1.5), DRos(), SGDR(), DR(DRConfig(cap=1))):
        found = valued(estimator, REWARD[X])
        assert found.value == pytest.approx(TRUTH, abs=1e-12)
        assert found.se == pytest.approx(v.std(ddof=1) / np.sqrt(24), rel=1e-9)


def test_with_the_right_model_and_one_context_there_is_no_spread() -> None:
    one = X == 1
    frame = pl.DataFrame({"x": X[one], "a": A[one], "r": REWARD[X, A][one], "p": CHANCE[X, A][one]})
    only = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    found = evaluate(only, [Table("t", TARGET[X][one])], ["DR"], q={"r": REWARD[X][one]}).estimates[0]
    assert found.se == pytest.approx(0.0, abs=1e-12)


def test_lam_0_is_the_direct_method_and_infinity_is_dr() -> None:
    from counterlog.estimate.direct_method import DM

    q = anything(1)
    dm, dr = valued(DM(), q), valued(DR(), q)
    for make in (switch, lambda lam: DRos(DRosConfig(lam=lam)), lambda lam: switch(lam, switch_ips=True)):
        nothing = make(0.0)
        extra = {"logging": Table("logging", CHANCE[X])} if nothing.label.startswith("SwitchIPS") else {}
        if extra:
            nothing = SwitchDR(nothing.config, **extra)
        assert valued(nothing, q).value == pytest.approx(dm.value, abs=1e-12)
        assert valued(nothing, q).se == pytest.approx(dm.se, rel=1e-9)
    for make in (switch, lambda lam: DRos(DRosConfig(lam=lam))):
        assert valued(make(math.inf), q).value == pytest.approx(dr.value, abs=1e-12)


def test_sgdr_1_is_the_direct_method_plus_the_mean_residual() -> None:
    q = anything(2)
    rows = np.arange(24)
    expected = (TARGET[X] * q).sum(axis=1).mean() + (REWARD[X, A] - q[rows, A]).mean()
    assert valued(SGDR(SGDRConfig(lam=1.0)), q).value == pytest.approx(expected, abs=1e-12)


def test_the_logging_policy_gets_the_mean_of_model_and_residual() -> None:
    q, same = anything(3), Table("same", CHANCE[X])
    expected = ((CHANCE[X] * q).sum(axis=1) + REWARD[X, A] - q[np.arange(24), A]).mean()
    for estimator in (DR(), SNDR(), switch(1.0), SGDR()):
        assert valued(estimator, q, same).value == pytest.approx(expected, abs=1e-12)
        assert valued(estimator, q, "logged").value == pytest.approx(REWARD[X, A].mean(), abs=1e-12)


def test_switch_ips_counts_the_model_action_by_action() -> None:
    lam, q = 1.0, anything(4)
    estimator = SwitchDR(SwitchDRConfig(lam=lam, switch_ips=True), logging=Table("logging", CHANCE[X]))
    every = TARGET[X] / CHANCE[X]
    expected = (
        np.where(every > lam, TARGET[X] * q, 0).sum(axis=1) + np.where(lam >= W, W * REWARD[X, A], 0)
    ).mean()
    assert valued(estimator, q).value == pytest.approx(expected, abs=1e-12)
    assert valued(estimator, q).estimator == "SwitchIPS(1)"
    # on an enumerated world both equations have one mean, but not row by row
    assert valued(switch(lam), q).value == pytest.approx(expected, abs=1e-12)
    assert valued(switch(lam), q).se != pytest.approx(valued(estimator, q).se, rel=1e-3)


def test_switch_ips_at_infinity_is_ips() -> None:
    estimator = SwitchDR(SwitchDRConfig(lam=math.inf, switch_ips=True), logging=Table("logging", CHANCE[X]))
    assert valued(estimator, anything(5)).value == pytest.approx(TRUTH, abs=1e-12)


def test_switch_ips_is_exact_with_the_right_model() -> None:
    for lam in (0.5, 1.0, 2.0):
        estimator = SwitchDR(SwitchDRConfig(lam=lam, switch_ips=True), logging=Table("logging", CHANCE[X]))
        assert valued(estimator, REWARD[X]).value == pytest.approx(TRUTH, abs=1e-12)


def test_switch_ips_needs_the_chances_of_all_actions() -> None:
    with pytest.raises(SupportError, match="pass the logging policy"):
        valued(switch(1.0, switch_ips=True), anything())


def test_a_logging_policy_that_contradicts_the_log_is_refused() -> None:
    estimator = SwitchDR(SwitchDRConfig(switch_ips=True), logging="uniform")
    with pytest.raises(PropensityError, match="differs from the logged propensity in"):
        valued(estimator, anything())


def test_mrdr_weighs_its_fit_by_the_variance_it_would_add() -> None:
    pi, p = np.array([0.5, 0.0, 1.0]), np.array([0.5, 0.2, 0.25])
    assert fit_weights(pi, p) == pytest.approx([0.5 * 0.5 / 0.25, 12e-6, 0.75 / 0.0625])
    assert fit_weights(pi, p, "iw") == pytest.approx([1.0, 4e-6, 4.0])
    assert fit_weights(np.zeros(2), np.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weights", ["variance", "iw"])
def test_mrdr_is_dr_with_its_own_model(weights: str) -> None:
    from counterlog.core.crossfit import reward_model

    estimator = MRDR(MRDRConfig(model="linear", weights=weights))
    weight = fit_weights(TARGET[X, A], CHANCE[X, A], weights)
    q = reward_model(log(), model="linear", sample_weight=weight)
    found = evaluate(log(), [POLICY], [estimator]).estimates[0]
    assert found.value == pytest.approx(valued(DR(), q).value, abs=1e-12)


def test_a_reward_model_is_fitted_once_per_fold_and_never_on_its_own_rows() -> None:
    from sklearn.base import BaseEstimator, RegressorMixin

    seen: list[int] = []

    class Memory(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, x: np.ndarray, y: np.ndarray) -> Memory:
            seen.append(len(y))
            self.mean_ = float(y.mean())
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return np.full(len(x), self.mean_)

    evaluate(log(), [POLICY], ["DR", "DM", "SNDR"], model=Memory(), folds=3)
    assert len(seen) == 3
    assert sum(seen) == 2 * 24


def test_two_estimators_with_default_settings_share_no_state() -> None:
    assert DR().config == DRConfig()
    assert SwitchDR() is not SwitchDR()
    first, second = MRDR(), MRDR()
    assert first.settings == second.settings
    assert first.__dict__ is not second.__dict__


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10), shift=st.floats(-20, 20))
def test_the_estimate_moves_with_the_reward_when_the_model_does(
    seed: int, scale: float, shift: float
) -> None:
    q = anything(seed)
    frame = pl.DataFrame({"x": X, "a": A, "r": scale * REWARD[X, A] + shift, "p": CHANCE[X, A]})
    moved = Rounds(frame, action="a", reward="r", propensity="p")
    for estimator in (DR(), SNDR(), switch(1.2), DRos(), SGDR()):
        found = evaluate(moved, [POLICY], [estimator], q={"r": scale * q + shift}).estimates[0]
        assert found.value == pytest.approx(scale * valued(estimator, q).value + shift, rel=1e-9, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_rows_and_doubling_them_change_nothing(seed: int) -> None:
    q, i = anything(seed), np.random.default_rng(seed).permutation(24)
    twice = np.concatenate([i, i])
    for estimator in (DR(), SNDR(), switch(1.2), DRos(), SGDR(), DR(DRConfig(cap=1.1))):
        base = valued(estimator, q).value
        for rows in (i, twice):
            found = evaluate(log().take(rows), [Table("t", TARGET[X][rows])], [estimator], q={"r": q[rows]})
            assert found.estimates[0].value == pytest.approx(base, rel=1e-12)


def test_settings_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="lam"):
        SwitchDRConfig(lam=-1)
    with pytest.raises(ConfigError, match="lam"):
        SGDRConfig(lam=2)
    with pytest.raises(ConfigError, match="one of variance, iw"):
        MRDRConfig(weights="none")


def test_a_policy_without_overlap_is_refused() -> None:
    never = np.zeros((24, 3))
    never[np.arange(24), (A + 1) % 3] = 1.0
    for estimator in (DR(), SNDR(), switch(2.0), DRos(), MRDR(MRDRConfig(model="linear"))):
        with pytest.raises(SupportError, match="no logged decision agrees"):
            valued(estimator, anything(), Table("never", never))


def test_one_of_model_and_weights_may_be_wrong() -> None:
    gen = np.random.default_rng(5)
    n, errors = 3000, {"wrong model": [], "wrong weights": []}
    for _ in range(30):
        x = gen.integers(0, 2, n)
        p1 = np.where(x == 1, 0.7, 0.3)
        a = (gen.random(n) < p1).astype(int)
        mean = np.column_stack([0.2 + 0.3 * x, 0.6 - 0.2 * x])
        r = mean[np.arange(n), a] + gen.normal(0, 0.1, n)
        p = np.where(a == 1, p1, 1 - p1)
        for case, q, chance in (("wrong model", mean * 0 + 0.9, p), ("wrong weights", mean, np.full(n, 0.5))):
            data = Rounds({"a": a, "r": r, "p": chance}, action="a", reward="r", propensity="p")
            found = evaluate(data, [Table("t", np.tile([0.2, 0.8], (n, 1)))], ["DR"], q={"r": q}).estimates[0]
            errors[case].append(found.value - (0.2 * 0.35 + 0.8 * 0.5))
    for case, off in errors.items():
        assert abs(np.mean(off)) < 3 * np.std(off) / np.sqrt(30) + 1e-3, case
