"""Candidate policies: specifications, checks, and what only the logged action's probability can support."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.policies import (
    Always,
    Function,
    Logged,
    Table,
    Uniform,
    action_code,
    best_fixed,
    checked_logged_probs,
    checked_probs,
    parse_policy,
)
from counterlog.core.rounds import Rounds

ROLES: dict[str, Any] = {"action": "item", "reward": "click", "propensity": "p", "context": ["x", "device"]}


@pytest.fixture
def log(small_log: pl.DataFrame) -> Rounds:
    return Rounds(small_log.with_columns(half=pl.lit(0.5), wrong=pl.lit(1.5)), **ROLES)


def test_uniform_and_always_are_distributions(log: Rounds) -> None:
    np.testing.assert_allclose(Uniform().probs(log), 1 / 3)
    np.testing.assert_array_equal(checked_probs(Always("b"), log)[:, 1], 1.0)
    np.testing.assert_array_equal(Always("b").logged_probs(log), log.action == 1)


def test_uniform_keeps_to_the_available_actions() -> None:
    frame = {"item": [1, 2, 3], "click": [0, 1, 0], "ok": [[1, 2], [2], [1, 2, 3]]}
    made = Rounds(frame, action="item", reward="click", propensity="uniform", available="ok")
    np.testing.assert_allclose(Uniform().probs(made), [[0.5, 0.5, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    with pytest.raises(
        SupportError, match=r"'always:1' chooses an unavailable action in 1 of 3 rows .*: row 1"
    ):
        checked_probs(Always(1), made)


def test_the_logged_policy_has_weight_one_everywhere(log: Rounds) -> None:
    np.testing.assert_array_equal(Logged().logged_probs(log), log.propensity)
    with pytest.raises(SupportError, match="probability of the logged action only"):
        Logged().probs(log)


@pytest.mark.parametrize(
    ("specification", "kind", "words"),
    [
        ("allways:b", ConfigError, "is not a policy; expected logged, uniform, always:ACTION"),
        ("always:zebra", SupportError, "never holds the action 'zebra'; expected one of a, b, c"),
        ("column:q", LogError, "no column 'q' for a policy"),
        ("column:device", LogError, "is of type String; expected probabilities"),
        ("python:nowhere:f", ConfigError, "no function 'f' in module 'nowhere'"),
        ("python:math:sine", ConfigError, "no function 'sine' in module 'math'"),
    ],
)
def test_a_specification_that_means_nothing_is_refused(
    log: Rounds, specification: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        parse_policy(specification, log)


def test_a_column_gives_the_logged_probability_and_nothing_else(log: Rounds) -> None:
    policy = parse_policy("column:half", log)
    np.testing.assert_array_equal(checked_logged_probs(policy, log), 0.5)
    with pytest.raises(SupportError, match="only the probability of the logged action"):
        policy.probs(log)
    with pytest.raises(LogError, match=r"gives no probability in 400 of 400 rows"):
        checked_logged_probs(parse_policy("column:wrong", log), log)


def test_a_python_function_is_asked_with_context_and_actions(
    log: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rules.py").write_text(
        "import numpy as np\n"
        "def phones(context, actions):\n"
        "    first = (context['device'] == 'phone').to_numpy()\n"
        "    return np.column_stack([first, ~first] + [0 * first] * (len(actions) - 2)).astype(float)\n"
    )
    monkeypatch.chdir(tmp_path)
    policy = parse_policy("python:my_rules:phones", log)
    phone = (log.context["device"] == "phone").to_numpy()
    np.testing.assert_array_equal(checked_probs(policy, log)[:, 0], phone)


def test_rows_that_are_no_distribution_are_named(log: Rounds) -> None:
    matrix = np.full((log.n, 3), 1 / 3)
    matrix[7] = 0.5
    matrix[9] = [1.5, -0.5, 0.0]
    with pytest.raises(LogError, match=r"'mine' is not a distribution in 2 of 400 rows: rows 7, 9"):
        checked_probs(Table("mine", matrix), log)
    with pytest.raises(LogError, match=r"answered shape \(400, 2\)"):
        checked_probs(Function(lambda context, actions: np.ones((400, 2)), name="short"), log)


def test_the_best_fixed_action_is_chosen_on_the_other_folds() -> None:
    gen = np.random.default_rng(0)
    action = gen.integers(0, 3, 3000)
    frame = {"item": action, "click": (gen.random(3000) < 0.2 + 0.2 * (action == 2)).astype(int)}
    made = Rounds(frame, action="item", reward="click", propensity=1 / 3)
    np.testing.assert_array_equal(best_fixed(made).matrix[:, 2], 1.0)


def test_an_action_may_be_named_by_its_text() -> None:
    made = Rounds({"item": [1, 2], "click": [0, 1]}, action="item", reward="click", propensity=0.5)
    assert action_code(made, "2") == 1
