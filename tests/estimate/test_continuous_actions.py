"""Continuous actions: kernels, weights by hand, vectors, bandwidth, truth by simulation, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.integrate import quad

from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.rounds import Rounds
from counterlog.estimate.continuous_actions import (
    KERNELS,
    ContinuousConfig,
    ContinuousDR,
    ContinuousDRConfig,
    ContinuousIPS,
    ContinuousSNIPS,
    Target,
    bandwidths,
    dose_response,
    kernel,
    kernel_weights,
)


def price(context: pl.DataFrame) -> np.ndarray:
    return 0.5 + 0.2 * context["x"].to_numpy()


CANDIDATE = Target(price, name="price")
TRUTH = 1.0 - 0.2**2 / 12  # E[1 - (t(x) - 0.5)^2], x uniform in [-0.5, 0.5]


def sample(seed: int = 0, n: int = 3000) -> Rounds:
    """Actions normal around 0.3; the reward 1 - (a - 0.5)^2 + noise, best at 0.5."""
    gen = np.random.default_rng(seed)
    x = gen.random(n) - 0.5
    a = gen.normal(0.3, 0.5, n)
    density = np.exp(-(((a - 0.3) / 0.5) ** 2) / 2) / (0.5 * math.sqrt(2 * math.pi))
    frame = {"x": x, "a": a, "r": 1 - (a - 0.5) ** 2 + gen.normal(0, 0.1, n), "f": density}
    return Rounds(frame, action="a", reward="r", context=("x",))


def config(h: float | None = 0.2, **more: object) -> ContinuousConfig:
    given = {} if h is None else {"bandwidth": (h,)}
    return ContinuousConfig(**{"density": "f", **given, **more})  # type: ignore[arg-type]


def dr(h: float = 0.2, **more: object) -> ContinuousDRConfig:
    return ContinuousDRConfig(density="f", bandwidth=(h,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_integrate_to_1_with_mean_0(kind: str) -> None:
    span = 8.0 if kind == "gaussian" else 1.0
    assert quad(lambda u: float(kernel(np.array(u), kind)), -span, span)[0] == pytest.approx(1, abs=1e-9)
    assert quad(lambda u: u * float(kernel(np.array(u), kind)), -span, span)[0] == pytest.approx(0, abs=1e-9)


def test_kernels_by_hand() -> None:
    u = np.array([0.0, 0.5, -0.5, 1.5])
    assert kernel(u, "gaussian") == pytest.approx(
        np.array([0.398942, 0.352065, 0.352065, 0.129518]), abs=1e-6
    )
    assert kernel(u, "epanechnikov") == pytest.approx([0.75, 0.5625, 0.5625, 0])
    assert kernel(u, "triangular") == pytest.approx([1, 0.5, 0.5, 0])
    assert kernel(u, "cosine") == pytest.approx([math.pi / 4, 0.5553604, 0.5553604, 0])


def test_weights_by_hand() -> None:
    target, action = np.array([[1.0], [1.0]]), np.array([[1.0], [1.5]])
    w = kernel_weights(target, action, np.array([0.5, 0.25]), np.array([1.0]), "epanechnikov")
    assert w == pytest.approx([0.75 / 0.5, 0.5625 / 0.25])


def test_vector_weights_are_products() -> None:
    target, action = np.zeros((1, 2)), np.array([[0.5, 1.0]])
    w = kernel_weights(target, action, np.array([0.1]), np.array([1.0, 2.0]), "triangular")
    assert w == pytest.approx([0.5 * 0.5 / (2.0 * 0.1)])


def test_one_dimension_given_twice_is_the_same_as_the_action_column() -> None:
    one = ContinuousIPS(config()).estimate(sample(), CANDIDATE)
    two = ContinuousIPS(config(dimensions=("a",))).estimate(sample(), CANDIDATE)
    assert (one.value, one.se) == (two.value, two.se)


@pytest.mark.parametrize("kind", KERNELS)
def test_all_three_estimators_come_close_to_the_truth(kind: str) -> None:
    log = sample(n=8000)
    h = 0.1 if kind == "gaussian" else 0.2
    shape = {"kernel": kind}
    for estimator in (
        ContinuousIPS(config(h, **shape)),
        ContinuousSNIPS(config(h, **shape)),
        ContinuousDR(dr(h, model="linear", **shape)),
    ):
        e = estimator.estimate(log, CANDIDATE)
        assert e.value == pytest.approx(TRUTH, abs=4 * e.se + 0.01)
        assert e.notes[0] == f"bandwidth {h:g} was given"


def test_mean_weight_is_1() -> None:
    log = sample(n=20_000)
    own = ContinuousIPS(config()).prepare(log, CANDIDATE)
    assert own["w"].mean() == pytest.approx(1, abs=0.05)


def test_with_the_right_model_any_bandwidth_is_exact() -> None:
    log = sample()

    def truth(context: pl.DataFrame, action: np.ndarray) -> np.ndarray:
        return 1 - (action[:, 0] - 0.5) ** 2

    clean = Rounds(
        log.frame.collect("polars").to_native().with_columns(r=1 - (pl.col("a") - 0.5) ** 2),
        action="a",
        reward="r",
        context=("x",),
    )
    expected = (1 - (price(clean.context) - 0.5) ** 2).mean()
    for h in (0.05, 0.5, 2.0):
        e = ContinuousDR(dr(h), predict=truth).estimate(clean, CANDIDATE)
        assert e.value == pytest.approx(expected, abs=1e-12)
        biased = ContinuousDR(dr(h, residual="target"), predict=truth).estimate(clean, CANDIDATE)
        w = ContinuousIPS(config(h)).prepare(clean, CANDIDATE)["w"]
        at_target = 1 - (price(clean.context) - 0.5) ** 2
        assert biased.value == pytest.approx((at_target + w * (clean.reward - at_target)).mean(), abs=1e-12)
    assert abs(biased.value - expected) > 0.01


def test_a_model_of_0_makes_dr_into_ips() -> None:
    log = sample()
    zero = ContinuousDR(dr(), predict=lambda context, action: np.zeros(len(action))).estimate(log, CANDIDATE)
    plain = ContinuousIPS(config()).estimate(log, CANDIDATE)
    assert (zero.value, zero.se) == (pytest.approx(plain.value, abs=1e-12), pytest.approx(plain.se, rel=1e-9))


def test_snips_of_a_constant_reward_is_the_constant() -> None:
    log = sample(n=500)
    flat = Rounds(
        log.frame.collect("polars").to_native().with_columns(r=pl.lit(2.5)),
        action="a",
        reward="r",
        context=("x",),
    )
    assert ContinuousSNIPS(config()).estimate(flat, CANDIDATE).value == pytest.approx(2.5, abs=1e-12)


def test_the_bandwidth_is_chosen_between_too_narrow_and_too_wide() -> None:
    off: dict[str, list[float]] = {}
    for seed in range(15):
        log = sample(seed, n=1500)
        scale = bandwidths(log.table["a"].to_numpy()[:, None])
        fixed = {f"h{i}": ContinuousIPS(config(float(h[0]))) for i, h in enumerate(scale)}
        for name, estimator in {**fixed, "slope": ContinuousIPS(config(None))}.items():
            off.setdefault(name, []).append((estimator.estimate(log, CANDIDATE).value - TRUTH) ** 2)
    mse = {k: float(np.mean(v)) for k, v in off.items()}
    tuned = mse.pop("slope")
    assert tuned < max(mse.values()) / 2


def test_the_candidates_for_h_by_hand() -> None:
    grid = bandwidths(np.array([[0.0], [1.0], [2.0], [3.0], [4.0]]))
    assert grid[6][0] == pytest.approx(min(math.sqrt(2), 2 / 1.349))
    with pytest.raises(SupportError, match="all logged actions are alike"):
        bandwidths(np.ones((5, 1)))


def test_two_dimensions() -> None:
    gen = np.random.default_rng(0)
    n = 20_000
    a, b = gen.random(n), gen.random(n)
    frame = {"x": gen.random(n), "a": a, "b": b, "r": a + 2 * b, "f": np.ones(n)}
    log = Rounds(frame, action="a", reward="r", context=("x",))
    corner = Target(lambda context: np.tile([0.4, 0.6], (context.height, 1)), name="corner")
    e = ContinuousIPS(config(0.2, dimensions=("a", "b"))).estimate(log, corner)
    assert e.value == pytest.approx(1.6, abs=4 * e.se)
    e = ContinuousDR(dr(0.2, dimensions=("a", "b"), model="linear")).estimate(log, corner)
    assert e.value == pytest.approx(1.6, abs=0.02)


def test_the_model_is_fitted_on_the_other_folds() -> None:
    log = sample(n=400)
    v, q = dose_response(log, price(log.context)[:, None], log.table["a"].to_numpy()[:, None], "linear", 3)
    assert v == pytest.approx(1 - (price(log.context) - 0.5) ** 2, abs=0.15)
    assert np.corrcoef(q, 1 - (log.table["a"].to_numpy() - 0.5) ** 2)[0, 1] > 0.98


def test_zero_one_rewards_are_predicted_as_chances() -> None:
    log = sample(n=600)
    binary = Rounds(
        log.frame.collect("polars").to_native().with_columns(r=(pl.col("r") > 0.8).cast(pl.Float64)),
        action="a",
        reward="r",
        context=("x",),
    )
    action = log.table["a"].to_numpy()[:, None]
    v, q = dose_response(binary, action, action, "linear", 3)
    assert ((v >= 0) & (v <= 1)).all()
    assert v.tolist() == q.tolist()


def test_the_logged_policy_keeps_its_mean() -> None:
    log = sample(n=200)
    for estimator in (ContinuousIPS(config()), ContinuousSNIPS(config()), ContinuousDR(dr())):
        assert evaluate(log, ["logged"], [estimator]).estimates[0].value == pytest.approx(
            log.reward.mean(), abs=1e-12
        )


def test_a_density_column_may_be_the_propensity_where_it_is_at_most_1() -> None:
    log = sample()
    frame = log.frame.collect("polars").to_native()
    role = Rounds(frame, action="a", reward="r", context=("x",), propensity="f")
    one = ContinuousIPS(ContinuousConfig(bandwidth=(0.2,))).estimate(role, CANDIDATE)
    assert one.value == ContinuousIPS(config()).estimate(log, CANDIDATE).value


def test_what_cannot_be_valued_is_refused_with_the_remedy() -> None:
    log = sample(n=100)
    with pytest.raises(ConfigError, match="a function from context to action"):
        ContinuousIPS(config()).estimate(log, "uniform")
    with pytest.raises(LogError, match="the log gives no propensity"):
        evaluate(log, [CANDIDATE], ["ContinuousIPS"])
    with pytest.raises(LogError, match="no column 'g' for the logging density"):
        ContinuousIPS(ContinuousConfig(density="g")).estimate(log, CANDIDATE)
    far = Target(lambda context: np.full(context.height, 99.0), name="far")
    with pytest.raises(SupportError, match="no logged action is within reach of policy 'far'"):
        ContinuousIPS(config()).estimate(log, far)
    with pytest.raises(SupportError, match="use ContinuousIPS"):
        evaluate(log, [CANDIDATE], ["DM"], q={"r": np.zeros((100, 100))})
    with pytest.raises(LogError, match=r"'odd' answered shape \(3,\)"):
        ContinuousIPS(config()).estimate(log, Target(lambda context: np.ones(3), name="odd"))
    with pytest.raises(ConfigError, match="2 bandwidths for 1 dimensions"):
        ContinuousIPS(config(bandwidth=(0.1, 0.2))).estimate(log, CANDIDATE)


def test_densities_and_actions_that_are_none_are_refused() -> None:
    frame = sample(n=100).frame.collect("polars").to_native()
    zero = Rounds(frame.with_columns(f=pl.lit(0.0)), action="a", reward="r", context=("x",))
    with pytest.raises(PropensityError, match="'f' is not above 0 in 100 of 100 rows"):
        ContinuousIPS(config()).estimate(zero, CANDIDATE)
    text = Rounds(frame.with_columns(a=pl.col("a").cast(pl.String)), action="a", reward="r", context=("x",))
    with pytest.raises(LogError, match=r"'a' \(the action\) is of type String"):
        ContinuousIPS(config()).estimate(text, CANDIDATE)


def contract_example(frame: Any) -> Any:
    log = Rounds(frame, action="x", reward="click", context=["device"], unit="user")
    usual = {"density": "p"}
    family = [
        ContinuousIPS(ContinuousConfig(**usual)),
        ContinuousSNIPS(ContinuousConfig(**usual)),
        ContinuousDR(ContinuousDRConfig(model="linear", **usual)),
    ]
    return evaluate(
        log, [Target(lambda context: np.full(context.height, 0.5), name="half")], family
    ).estimates
