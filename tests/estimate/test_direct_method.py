"""The direct method: exact with the right model, and honest about what its interval leaves out."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds

REWARD = np.array([[1.0, 4.0, 2.5], [3.0, -1.0, 0.5]])
LOGGING = np.array([[3, 2, 1], [3, 3, 12]])
TARGET = np.array([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])
X, A = (np.repeat(i.ravel(), LOGGING.ravel()) for i in np.indices((2, 3)))


def log(**roles: object) -> Rounds:
    frame = pl.DataFrame({"x": X, "a": A, "r": REWARD[X, A], "pi": TARGET[X, A]})
    return Rounds(frame, action="a", reward="r", context=("x",), **roles)  # type: ignore[arg-type]


def test_the_right_model_gives_the_true_value() -> None:
    found = evaluate(log(), [Table("t", TARGET[X])], ["DM"], q={"r": REWARD[X]}).estimates[0]
    assert found.value == pytest.approx((TARGET[X] * REWARD[X]).sum(axis=1).mean(), abs=1e-12)


def test_the_value_is_the_model_s_whatever_the_rewards() -> None:
    q = np.arange(72.0).reshape(24, 3)
    found = evaluate(log(), [Table("t", TARGET[X])], ["DM"], q={"r": q}).estimates[0]
    terms = (TARGET[X] * q).sum(axis=1)
    assert found.value == pytest.approx(terms.mean(), abs=1e-12)
    assert found.se == pytest.approx(terms.std(ddof=1) / np.sqrt(24), rel=1e-12)


def test_it_needs_no_propensity_and_says_what_the_interval_leaves_out() -> None:
    found = evaluate(log(), ["uniform"], ["DM"], model="linear").estimates[0]
    assert "error of the reward model" in found.notes[0]
    assert np.isfinite([found.lo, found.hi]).all()


def test_it_values_actions_without_overlap() -> None:
    never = np.zeros((24, 3))
    never[np.arange(24), (A + 1) % 3] = 1.0
    found = evaluate(
        log(propensity="uniform"), [Table("never", never)], ["DM"], q={"r": REWARD[X]}
    ).estimates[0]
    assert found.value == pytest.approx(REWARD[X, (A + 1) % 3].mean(), abs=1e-12)


def test_a_column_of_logged_probabilities_is_not_enough() -> None:
    with pytest.raises(SupportError, match="only the probability of the logged action"):
        evaluate(log(), ["column:pi"], ["DM"], model="linear")


def test_predictions_of_another_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(24, 2\)"):
        evaluate(log(), ["uniform"], ["DM"], q={"r": np.zeros((24, 2))})


def test_same_seed_same_value() -> None:
    one, two = (evaluate(log(), ["uniform"], ["DM"], model="linear", rng=4).estimates[0] for _ in range(2))
    assert one == two
