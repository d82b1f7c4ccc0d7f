"""The invalid-instrument estimator: influence function and robustness by exact sums on a discrete law, published
numbers of the 401(k) data, invariances, selection, refusals, resume."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.units import Units
from counterlog.datasets.registry import get
from counterlog.estimate.effect_baselines import genius, least_squares, two_stage
from counterlog.estimate.invalid_iv_ate import (
    InvalidIV,
    InvalidIVConfig,
    debiased_value,
    floored,
    least_gap,
    pseudo_outcome,
    variance_gap,
)
from counterlog.estimate.invalid_iv_result import InvalidIVEstimate

PLAIN = InvalidIVConfig(
    folds=2,
    repeats=1,
    instrument_learners=("quadratic",),
    treatment_learners=("quadratic",),
    outcome_learners=("quadratic/quadratic",),
    selection="none",
)


def simulate(n: int, rng: int = 0, direct: float = 0.8, hidden: float = 1.0) -> dict[str, Any]:
    """The design of the study; the average effect is 7/6."""
    gen = np.random.default_rng(rng)
    x, u = gen.uniform(-1, 1, (n, 2)), gen.choice([-1, 1], n)
    z = (gen.random(n) < expit(0.3 * x[:, 0] - 0.3 * x[:, 1])).astype(int)
    e = np.where(z == 1, 0.5 + 0.1 * x[:, 0], 0.15 + 0.05 * x[:, 1])
    a = (gen.random(n) < e + 0.08 * hidden * u).astype(int)
    delta = 1 + x[:, 0] + 0.5 * x[:, 1] ** 2
    y = (
        delta * a
        + z * (direct + 0.5 * direct * x[:, 1])
        + x[:, 0]
        - x[:, 1]
        + hidden * u
        + gen.normal(size=n)
    )
    return {"x1": x[:, 0], "x2": x[:, 1], "z": z, "a": a, "y": y}


def units(data: Any, **roles: Any) -> Units:
    named: dict[str, Any] = {"outcome": "y", "treatment": "a", "instrument": "z", "covariates": ["x1", "x2"]}
    return Units(data, **{**named, **roles})


def contract_example(frame: Any) -> InvalidIVEstimate:
    """The small log of the contract tests, its device the instrument, one of its items the treatment."""
    log = pl.DataFrame({c: frame[c].to_numpy() for c in ("x", "money", "user")})
    gen = np.random.default_rng(1)
    z = gen.random(len(log)) < 0.5
    made = log.with_columns(z=pl.Series(z), a=pl.Series(gen.random(len(log)) < np.where(z, 0.5, 0.1)))
    given = made.to_pandas() if type(frame).__module__.startswith("pandas") else made
    given = made.to_arrow() if type(frame).__module__.startswith("pyarrow") else given
    roles = Units(given, outcome="money", treatment="a", instrument="z", covariates=["x"], cluster="user")
    return InvalidIV(PLAIN).estimate(roles, rng=3)


# ------------------------------------------------------------------------------------------ a discrete law, exact sums

POINTS = np.array(list(product(range(3), (0, 1), (0, 1), range(4))))
VALUES = np.array([-1.0, 0.0, 1.0, 2.5])


class Law:
    """A law of (X, Z, A, Y) on 3 x 2 x 2 x 4 points and its nuisances by exact sums, (2, 3) by arm and x where fit."""

    def __init__(self, p: np.ndarray) -> None:
        self.p = p / p.sum()
        x, z, a, y = POINTS.T
        self.x, self.z, self.a, self.y = x, z, a.astype(float), VALUES[y]
        self.f = np.array([self.mean(self.z, x == k) for k in range(3)])
        cell = [[(x == k) & (z == arm) for k in range(3)] for arm in (0, 1)]
        self.e = np.array([[self.mean(self.a, c) for c in row] for row in cell])
        self.m = np.array([[self.mean(self.y, c) for c in row] for row in cell])
        cov = np.array([[self.mean(self.a * self.y, c) for c in row] for row in cell]) - self.e * self.m
        v = self.e * (1 - self.e)
        self.delta = (cov[1] - cov[0]) / variance_gap(v)
        self.omega = cov[1] - self.delta * v[1]
        self.ate = float(self.p @ self.delta[self.x])

    def mean(self, value: np.ndarray, where: np.ndarray) -> float:
        return float((self.p * value)[where].sum() / self.p[where].sum())

    def values(self, **wrong: np.ndarray) -> np.ndarray:
        """(48,) equation (3) with some nuisances replaced; `e` alone keeps the outcome side's own g and m."""
        use = {"f": self.f, "e": self.e, "g": self.e, "m": self.m, "delta": self.delta, "omega": self.omega}
        use |= wrong
        x, z = self.x, self.z
        gap = variance_gap(use["e"] * (1 - use["e"]))[x]
        return debiased_value(
            z.astype(float),
            use["f"][x],
            gap,
            self.a - use["e"][z, x],
            self.y - use["m"][z, x],
            self.a - use["g"][z, x],
            use["delta"][x],
            use["omega"][x],
        )


@pytest.fixture
def law() -> Law:
    gen = np.random.default_rng(4)
    x, z, a, _ = POINTS.T
    e = np.where(z == 1, 0.45 + 0.05 * x, 0.1 + 0.05 * x)  # D between 0.13 and 0.17
    return Law(
        np.where(a == 1, e, 1 - e)
        * np.where(z == 1, 0.4 + 0.1 * x, 0.6 - 0.1 * x)
        * gen.uniform(0.5, 1.5, 48)
    )


def test_the_influence_function_is_the_derivative_along_submodels(law: Law) -> None:
    phi = law.values() - law.ate
    assert abs(law.p @ phi) < 1e-12
    gen = np.random.default_rng(0)
    for _ in range(5):
        score = gen.normal(size=48)
        score -= law.p @ score
        step = 1e-5
        up, down = Law(law.p * (1 + step * score)).ate, Law(law.p * (1 - step * score)).ate
        assert (up - down) / (2 * step) == pytest.approx(law.p @ (phi * score), abs=1e-6)


def test_any_one_group_may_be_wrong_and_no_two_that_hold_the_outcome_side(law: Law) -> None:
    gen = np.random.default_rng(1)
    f, e = gen.uniform(0.2, 0.8, 3), gen.uniform(0.1, 0.9, (2, 3))
    three = {
        "g": gen.uniform(0.1, 0.9, (2, 3)),
        "m": gen.normal(size=(2, 3)),
        "delta": gen.normal(size=3),
        "omega": gen.normal(size=3),
    }
    for wrong in ({"f": f}, {"e": e}, three):
        assert law.p @ law.values(**wrong) == pytest.approx(law.ate, abs=1e-12)
    for wrong in ({"f": f, **three}, {"e": e, **three}):
        assert abs(law.p @ law.values(**wrong) - law.ate) > 1e-3
    # a right outcome side carries the value alone; f or e is needed to learn it
    assert law.p @ law.values(f=f, e=e) == pytest.approx(law.ate, abs=1e-12)


def test_a_wrong_regression_of_the_treatment_on_the_outcome_side_does_not_matter(law: Law) -> None:
    g = np.random.default_rng(2).uniform(0.1, 0.9, (2, 3))
    assert law.p @ law.values(g=g) == pytest.approx(law.ate, abs=1e-12)


def test_pseudo_outcomes_have_the_effect_as_their_mean_under_a_weight_of_x_alone(law: Law) -> None:
    x, z = law.x, law.z
    gap = variance_gap(law.e * (1 - law.e))[x]
    r_a, r_y = law.a - law.e[z, x], law.y - law.m[z, x]
    zeta, weight = pseudo_outcome(z.astype(float), law.f[x], gap, r_a, r_y)
    f_own = np.where(z == 1, law.f[x], 1 - law.f[x])
    for k in range(3):
        at = x == k
        assert law.mean(zeta, at) == pytest.approx(law.delta[k], abs=1e-12)
        assert law.mean(weight * zeta, at) / law.mean(weight, at) == pytest.approx(law.delta[k], abs=1e-12)
        by_z = (f_own * gap) ** 2  # a weight that knows Z pulls the mean away
        assert abs(law.mean(by_z * zeta, at) / law.mean(by_z, at) - law.delta[k]) > 1e-3


# ------------------------------------------------------------------------------------------------- small equations


def test_the_gap_of_a_binary_treatment_and_its_floor_by_hand() -> None:
    e = np.array([[0.1, 0.3], [0.5, 0.7]])
    gap = variance_gap(e * (1 - e))
    assert gap == pytest.approx((e[1] - e[0]) * (1 - e[1] - e[0]))
    assert gap == pytest.approx([0.16, 0.0])
    assert floored(np.array([0.2, -0.01, 0.0]), 0.05).tolist() == [0.2, -0.05, 0.05]
    assert least_gap(np.full(200, 0.2), 0.01) == pytest.approx(0.002)
    heavy = np.concatenate([np.full(990, 0.2), np.full(10, 0.001)])
    assert least_gap(heavy, 0.01) > 0.002


# ---------------------------------------------------------------------------------------------------- invariances


@pytest.fixture(scope="module")
def base() -> tuple[pl.DataFrame, InvalidIVEstimate]:
    frame = pl.DataFrame(simulate(2_000))
    return frame, InvalidIV(PLAIN).estimate(units(frame))


def test_a_direct_effect_and_a_function_of_x_change_nothing(base: Any) -> None:
    frame, first = base
    shifted = frame.with_columns(y=pl.col("y") + 3 * pl.col("z") + 2 - pl.col("x1") + pl.col("x2") ** 2)
    again = InvalidIV(PLAIN).estimate(units(shifted))
    assert again.value == pytest.approx(first.value, abs=1e-8)
    assert again.se == pytest.approx(first.se, abs=1e-8)


def test_a_multiple_of_the_treatment_shifts_the_effect_by_it(base: Any) -> None:
    frame, first = base
    again = InvalidIV(PLAIN).estimate(units(frame.with_columns(y=pl.col("y") + 2 * pl.col("a"))))
    assert again.value == pytest.approx(first.value + 2, abs=1e-8)


def test_the_other_name_of_the_arms_gives_the_same_effect(base: Any) -> None:
    frame, first = base
    again = InvalidIV(PLAIN).estimate(units(frame.with_columns(z=1 - pl.col("z"))))
    assert again.value == pytest.approx(first.value, abs=1e-8)


def test_the_scale_of_the_outcome_is_the_scale_of_the_effect(base: Any) -> None:
    frame, first = base
    again = InvalidIV(PLAIN).estimate(units(frame.with_columns(y=100 * pl.col("y"))))
    assert (again.value, again.se) == pytest.approx((100 * first.value, 100 * first.se))
    assert again.sensitivity.flips == pytest.approx(first.sensitivity.flips)


def test_equal_weights_and_a_cluster_a_row_change_nothing_of_the_value(base: Any) -> None:
    frame, first = base
    more = frame.with_columns(w=pl.lit(2.5), id=pl.int_range(pl.len()))
    again = InvalidIV(PLAIN).estimate(units(more, weights="w", cluster="id"))
    assert again.value == pytest.approx(first.value, abs=1e-10)
    assert again.se == pytest.approx(first.se, rel=1e-10)


# ----------------------------------------------------------------------------------------------------------- truth


def test_the_truth_is_found_where_regression_and_instruments_are_wrong() -> None:
    runs = [InvalidIV(PLAIN).estimate(units(simulate(4_000, s))) for s in range(20)]
    ate, errors = np.array([r.value for r in runs]), np.array([r.se for r in runs])
    assert abs(ate.mean() - 7 / 6) < 3 * ate.std() / np.sqrt(20) + 0.06
    assert np.mean(np.abs(ate - 7 / 6) < 1.96 * errors) >= 0.8
    beside = {e.estimator: e.value for e in runs[0].beside}
    assert beside["OLS of Y on A, Z, X"] > 7 / 6 + 0.3
    assert beside["2SLS"] > 7 / 6 + 2


def test_without_confounding_or_direct_effect_it_agrees_with_partialling_out() -> None:
    found = InvalidIV(PLAIN).estimate(units(simulate(6_000, 3, direct=0.0, hidden=0.0)))
    plr = next(e for e in found.beside if e.estimator == "PLR-DML")
    assert abs(found.value - plr.value) < 3 * np.hypot(found.se, plr.se)


def test_a_continuous_treatment_is_identified_by_its_variance() -> None:
    gen = np.random.default_rng(5)
    n = 6_000
    x, u, z = gen.normal(size=(n, 2)), gen.normal(size=n), gen.integers(0, 2, n)
    a = x[:, 0] + z + u + gen.normal(size=n) * np.where(z == 1, 2.0, 0.7)
    y = 1.5 * a + 2 * z + x[:, 1] + 2 * u + gen.normal(size=n)
    frame = {"x1": x[:, 0], "x2": x[:, 1], "z": z, "a": a, "y": y}
    config = InvalidIVConfig(
        repeats=1,
        folds=2,
        instrument_learners=("logit",),
        treatment_learners=("logit",),
        outcome_learners=("linear/constant",),
        selection="none",
    )
    found = InvalidIV(config).estimate(units(frame))
    assert abs(found.value - 1.5) < 4 * found.se
    assert found.chosen[1] == "linear"
    assert found.relevance.mean == pytest.approx(4 - 0.49, abs=0.4)


def test_an_instrument_that_moves_the_mean_but_not_the_variance_is_called_weak() -> None:
    gen = np.random.default_rng(6)
    n = 3_000
    x, z = gen.uniform(-1, 1, (n, 2)), gen.integers(0, 2, n)
    a = (gen.random(n) < np.where(z == 1, 0.7, 0.3)).astype(int)
    frame = {"x1": x[:, 0], "x2": x[:, 1], "z": z, "a": a, "y": a + x[:, 0] + gen.normal(size=n)}
    config = InvalidIVConfig(
        repeats=1,
        folds=2,
        instrument_learners=("logit",),
        treatment_learners=("constant",),
        outcome_learners=("linear/constant",),
    )
    found = InvalidIV(config).estimate(units(frame))
    assert not found.valid
    assert "weak heteroscedasticity" in found.reason
    assert found.robust_form in ("unbounded", "everything")


def test_the_effect_by_covariates_comes_back(base: Any) -> None:
    found = InvalidIV(PLAIN).estimate(units(simulate(20_000, 2)))
    at = {"x1": [0.0, 0.5, -0.5], "x2": [0.0, 0.5, 0.5]}
    assert found.delta_hat(at) == pytest.approx([1.0, 1.625, 0.625], abs=0.5)


# ------------------------------------------------------------------------------------------------------ 401(k) data


@pytest.fixture(scope="module")
def pension() -> Units:
    if not __import__("os").environ.get("COUNTERLOG_DATA"):
        pytest.skip("COUNTERLOG_DATA names no folder of real data")
    frame = pl.read_csv(get("pension-401k"))
    squared = ["age", "inc", "fsize", "educ"]
    covariates = [*squared, "db", "marr", "twoearn", "pira", "hown"]
    frame = frame.with_columns((pl.col(c) ** 2).alias(f"{c}^2") for c in squared)
    names = [*covariates, *(f"{c}^2" for c in squared)]
    return Units(frame, outcome="net_tfa", treatment="p401", instrument="e401", covariates=names)


@pytest.mark.data
def test_the_published_numbers_come_to_the_dollar(pension: Units) -> None:
    y, a, z, x = pension.outcome, pension.treatment, pension.instrument, pension.covariates
    w = np.ones(pension.n)
    assert round(two_stage(y, a, z, x, w)[0]) == 14_155
    assert round(least_squares(y, a, x, w)[0]) == 14_434
    assert round(least_squares(y, a, np.column_stack([z, x]), w)[0]) == 14_783
    eligible = z == 1
    found = least_squares(y[eligible], a[eligible], x[eligible], w[eligible])[0]
    assert found == pytest.approx(14_812.97, abs=0.01)
    design = np.column_stack([np.ones(pension.n), x])
    f = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    e = np.where(eligible, design @ np.linalg.lstsq(design[eligible], a[eligible], rcond=None)[0], 0.0)
    assert round(genius(y, a, z, f, e, w)[0]) == 11_987


@pytest.mark.data
def test_one_sided_eligibility_gives_an_effect_near_the_regression_among_the_eligible(pension: Units) -> None:
    config = InvalidIVConfig(
        repeats=1,
        instrument_learners=("logit",),
        treatment_learners=("logit",),
        outcome_learners=("ridge2/constant",),
        selection="none",
    )
    found = InvalidIV(config).estimate(pension)
    assert abs(found.value - 14_812.97) < 2 * found.se
    assert any(note.startswith("one-sided") for note in found.notes)
    assert found.relevance.negative == 0


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"z": pl.lit(1)}, LogError, "one value"),
        ({"a": pl.lit(1)}, LogError, "one value"),
        ({"z": pl.col("x1")}, LogError, "not 0/1: rows 0, 1, 2, 3, 4, ..."),
        ({"y": pl.lit("high")}, LogError, "is of type String"),
        (
            {"y": pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise(1.0)},
            LogError,
            "missing values: row 7",
        ),
        ({"x1": pl.when(pl.int_range(pl.len()) == 3).then(np.nan).otherwise(1.0)}, LogError, "NaN"),
        ({"z": (pl.int_range(pl.len()) < 20).cast(int)}, SupportError, "at least 30"),
    ],
)
def test_what_cannot_be_answered_is_refused(change: dict[str, Any], error: type, words: str) -> None:
    frame = pl.DataFrame(simulate(600)).with_columns(**change)
    with pytest.raises(error, match=words.replace("(", r"\(").replace("...", r"\.\.\.")):
        InvalidIV(PLAIN).estimate(units(frame))


def test_a_median_split_must_be_asked_for() -> None:
    frame = pl.DataFrame(simulate(1_000)).with_columns(
        z=2 * pl.col("z") + pl.Series(np.linspace(0, 0.5, 1_000))
    )
    config = InvalidIVConfig(**{**vars(PLAIN), "split_instrument": True})
    assert InvalidIV(config).estimate(units(frame)).n == 1_000


def test_no_overlap_is_refused_with_a_table() -> None:
    frame = pl.DataFrame(simulate(2_000)).with_columns(z=(pl.col("x1") + 0.02 * pl.col("x2") > 0).cast(int))
    config = InvalidIVConfig(**{**vars(PLAIN), "instrument_learners": ("logit",)})
    with pytest.raises(SupportError, match=r"logit: .* outside"):
        InvalidIV(config).estimate(units(frame))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"instrument_learners": ("guess",)}, "no learner 'guess'"),
        ({"treatment_learners": ("ridge2",)}, "no learner 'ridge2' for chances"),
        ({"outcome_learners": ("ridge2",)}, "not MEAN/EFFECT"),
        ({"outcome_learners": ()}, "no outcome learner"),
        ({"instrument_learners": ("logit", "logit")}, "repeat a name"),
        ({"folds": 20}, "folds=20"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    config = InvalidIVConfig(**{**vars(PLAIN), **settings})
    with pytest.raises(ConfigError, match=words):
        InvalidIV(config).estimate(units(simulate(600)))


def test_a_learner_without_chances_is_refused_by_name() -> None:
    from sklearn.svm import LinearSVC

    config = InvalidIVConfig(**{**vars(PLAIN), "instrument_learners": ("svm",)})
    with pytest.raises(ConfigError, match=r"'svm' .*predict_proba"):
        InvalidIV(config, learners={"svm": LinearSVC()}).estimate(units(simulate(600)))


def test_a_named_role_must_exist_and_be_one_role() -> None:
    with pytest.raises(LogError, match="no column 'zz'"):
        units(simulate(100), instrument="zz")
    with pytest.raises(LogError, match="is outcome and also covariates"):
        units(simulate(100), covariates=["y"])
    with pytest.raises(LogError, match="not positive: row 0"):
        units({**simulate(100), "w": np.arange(100.0)}, weights="w")


# ------------------------------------------------------------------------------------------- determinism and resume

SMALL = InvalidIVConfig(
    folds=2,
    repeats=2,
    instrument_learners=("linear", "constant"),
    treatment_learners=("linear",),
    outcome_learners=("ridge2/ridge", "ridge2/constant", "linear/boosting"),
)


def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    data, calls = units(simulate(800)), []

    class StopError(Exception):
        pass

    def stop(what: str, share: float) -> None:
        calls.append(share)
        if len(calls) == 2:
            raise StopError

    whole = InvalidIV(SMALL).estimate(data, rng=1)
    with pytest.raises(StopError):
        InvalidIV(SMALL).estimate(data, rng=1, state=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("piece-*"))) == 2
    assert InvalidIV(SMALL).estimate(data, rng=1, state=tmp_path).to_json() == whole.to_json()
    with pytest.raises(ConfigError, match="state of another run"):
        InvalidIV(SMALL).estimate(data, rng=2, state=tmp_path)


@pytest.mark.parametrize(
    "settings", [{"selection": "stack"}, {"selection": "mixed"}, {"inference": "ignore"}]
)
def test_every_way_of_choosing_answers_and_says_how(settings: dict[str, Any], tmp_path: Path) -> None:
    config = InvalidIVConfig(**{**vars(SMALL), "repeats": 1, **settings})
    found = InvalidIV(config).estimate(units(simulate(800)))
    assert found.notes
    assert len(found.selection) == 6
    assert sum(row["chosen"] for row in found.selection) == 1
    assert sum(row["soft weight"] for row in found.selection) == pytest.approx(1.0)
    assert InvalidIVEstimate.load(found.save(tmp_path / "r.json")).to_json() == found.to_json()
    assert found.summary_frame().height == 6
    for drawn in (found.plot(), found.plot_relevance(), found.plot_sensitivity()):
        assert drawn.data


def test_trimming_changes_the_population_and_says_so() -> None:
    config = InvalidIVConfig(**{**vars(PLAIN), "trim": True, "d_floor": 0.4})
    found = InvalidIV(config).estimate(units(simulate(2_000)))
    assert any("trimmed: the effect is of the" in note for note in found.notes)


def test_the_rows_that_sway_the_estimate_are_listed_with_what_they_take(base: Any) -> None:
    _, found = base
    sways = [abs(r["sway"]) for r in found.sway]
    assert sways == sorted(sways, reverse=True)
    first = found.sway[0]
    assert first["estimate without it"] == pytest.approx(found.value - first["sway"])
