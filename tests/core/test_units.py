from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.crossfit import folds_by_key
from counterlog.core.effects import EffectEstimate
from counterlog.core.errors import LogError
from counterlog.core.nuisances import Features
from counterlog.core.orthogonal import augmented_contrast, over_repeats, solve, standard_error
from counterlog.core.second_order import SecondOrder
from counterlog.core.units import Units

FRAME = pl.DataFrame(
    {"y": [1.0, 2.0, 4.0, 3.0], "a": [0, 1, 1, 0], "z": [True, False, True, False], "g": ["u", "v", "u", "v"]}
)


def test_libraries_give_the_same_units() -> None:
    made = [
        Units(f, outcome="y", treatment="a", instrument="z", covariates=["g"])
        for f in (FRAME, FRAME.to_pandas(), FRAME.to_arrow())
    ]
    assert len({u.fingerprint for u in made}) == 1
    assert made[0].covariates.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert made[0].instrument.tolist() == [1, 0, 1, 0]


def test_clusters_stay_together_in_folds() -> None:
    frame = pl.concat([FRAME] * 50)
    units = Units(frame, outcome="y", treatment="a", cluster="g")
    assert units.independent == 2
    folds = folds_by_key(units.keys(), 7)
    assert len({(c, f) for c, f in zip(units.cluster.tolist(), folds.tolist(), strict=True)}) == 2


def test_an_instrument_that_was_not_named_is_asked_for() -> None:
    with pytest.raises(LogError, match="no instrument was named"):
        _ = Units(FRAME, outcome="y", treatment="a").instrument


def test_second_order_terms_by_hand() -> None:
    x = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])
    second = SecondOrder.fit(x)
    assert second.pairs == ((0, -1), (1, -1), (0, 0), (0, 1))
    raw = second.transform(x) * second.scale + second.centre
    assert raw == pytest.approx(np.array([[1, 0, 1, 0], [2, 1, 4, 2], [3, 1, 9, 3]]))
    assert second.names(("p", "q"))[-1] == "p * q"


def test_scores_errors_and_repeats_by_hand() -> None:
    a, b, w = np.array([1.0, 1.0, 2.0]), np.array([1.0, 3.0, 4.0]), np.ones(3)
    theta, influence = solve(a, b, w)
    assert theta == 2.0
    assert influence == pytest.approx(np.array([-1, 1, 0]) / (4 / 3))
    assert standard_error(influence, w, None) == pytest.approx(np.sqrt(2) * 0.75 / 3)
    assert standard_error(influence, w, np.array([0, 0, 1])) == 0.0
    assert over_repeats([1.0, 2.0, 5.0], [1.0, 1.0, 1.0]) == (2.0, pytest.approx(np.sqrt(2)))


def test_the_augmented_contrast_is_the_difference_of_means_without_covariates() -> None:
    a, y = FRAME["a"].to_numpy().astype(float), FRAME["y"].to_numpy()
    theta, _ = solve(
        *augmented_contrast(y, a, (np.full(4, 2.0), np.full(4, 3.0)), np.full(4, 0.5)), np.ones(4)
    )
    assert theta == pytest.approx(1.0)


def test_a_target_with_one_value_needs_no_learner() -> None:
    features = Features(np.zeros((4, 0)))
    assert features.fit("logit", np.arange(4), np.ones(4), chance=True)(np.arange(2)).tolist() == [1, 1]
    assert features.fit("constant", np.arange(4), FRAME["y"].to_numpy(), chance=False)(np.arange(1)) == [2.5]


def test_the_summary_is_the_table_that_econometricians_know() -> None:
    found = EffectEstimate(value=2.0, lo=0.04, hi=3.96, se=1.0, unit="y per unit of a", n=9, estimator="OLS")
    (row,) = found.rows()
    assert (row["coef"], row["z"]) == (2.0, 2.0)
    assert row["P>|z|"] == pytest.approx(0.0455, abs=1e-4)
    assert {"[0.025", "0.975]"} <= set(row)
    assert found.plot().data
