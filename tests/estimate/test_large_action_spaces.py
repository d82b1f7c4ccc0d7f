"""MIPS: identity and constant embeddings, exactness, the three kinds of weight, choice of columns, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.large_action_spaces import (
    MIPS,
    MIPSConfig,
    exact_weights,
    exhaustive,
    greedy,
    marginalised,
    one_description,
)

LOGGING = np.array([[3, 2, 1, 6], [3, 3, 12, 6]])
CHANCE = LOGGING / LOGGING.sum(axis=1, keepdims=True)
TARGET = np.array([[0.2, 0.4, 0.3, 0.1], [0.1, 0.5, 0.3, 0.1]])
GROUP = np.array([0, 0, 1, 1])
X, A = (np.repeat(i.ravel(), LOGGING.ravel()) for i in np.indices((2, 4)))
BY_GROUP = np.array([[1.0, 4.0], [3.0, -1.0]])  # the reward depends on the group only
POLICY, BEHAVIOUR = Table("target", TARGET[X]), Table("behaviour", CHANCE[X])


def log(**more: object) -> Rounds:
    r = BY_GROUP[X, GROUP[A]]
    base = {
        "x": X,
        "a": A,
        "r": r,
        "p": CHANCE[X, A],
        "group": GROUP[A],
        "self": A,
        "one": np.zeros(len(A), int),
    }
    frame = pl.DataFrame({**base, **more})
    return Rounds(frame, action="a", reward="r", propensity="p", context=("x",))


def mips(*columns: str, logging: object = BEHAVIOUR, probs: object = None, **config: object) -> MIPS:
    return MIPS(MIPSConfig(embedding=columns, **config), logging=logging, probs=probs)  # type: ignore[arg-type]


def test_a_description_unique_to_each_action_makes_it_ips() -> None:
    own, ips = evaluate(log(), [POLICY], [mips("self"), "IPS"]).estimates
    assert (own.value, own.se, own.ess) == pytest.approx((ips.value, ips.se, ips.ess), rel=1e-12)


def test_one_description_for_all_actions_makes_it_the_mean_reward() -> None:
    found = mips("one").estimate(log(), POLICY)
    assert found.value == pytest.approx(log().reward.mean(), abs=1e-12)
    assert found.ess == pytest.approx(len(A))


def test_it_is_exact_when_the_reward_depends_on_the_description_only() -> None:
    truth = sum((TARGET[x] * BY_GROUP[x, GROUP]).sum() * LOGGING[x].sum() for x in (0, 1)) / LOGGING.sum()
    found = mips("group").estimate(log(), POLICY)
    assert found.value == pytest.approx(truth, abs=1e-12)
    assert "exact (1)" in found.notes[0]
    assert found.se < evaluate(log(), [POLICY], ["IPS"]).estimates[0].se


def test_weights_by_hand() -> None:
    pi, p = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.5, 0.25]])
    assert exact_weights(pi, p, np.array([[1.0, 0.0, 1.0]])) == pytest.approx([1.0])
    assert exact_weights(pi, p, np.array([[0.2, 0.4, 0.6]])) == pytest.approx([0.3 / 0.4])
    assert marginalised(pi, p, np.array([[0.2, 0.3, 0.5]])) == pytest.approx([2 * 0.2 + 0.3])


def test_terms_without_logging_probability_count_nothing() -> None:
    pi, p = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert marginalised(pi, p, np.array([[0.9, 0.1]])) == pytest.approx([0.45])


def test_both_formulas_agree_when_the_posterior_is_bayes() -> None:
    gen = np.random.default_rng(0)
    given = gen.dirichlet(np.ones(3), 4)  # P(e|a)
    e = gen.integers(0, 3, 20)
    pi, p = gen.dirichlet(np.ones(4), 20), gen.dirichlet(np.ones(4), 20)
    joint = p * given[:, e].T
    posterior = joint / joint.sum(axis=1, keepdims=True)
    assert marginalised(pi, p, posterior) == pytest.approx(exact_weights(pi, p, given[:, e].T), rel=1e-12)


def test_known_probabilities_of_the_description_are_used_as_given() -> None:
    gen = np.random.default_rng(1)
    given = gen.dirichlet(np.ones(2), 4)
    e = (gen.random(len(A)) < given[A, 1]).astype(int)
    found = mips("e", probs={"e": given}).estimate(log(e=e), POLICY)
    w = exact_weights(TARGET[X], CHANCE[X], given[:, e].T)
    assert found.value == pytest.approx((w * log().reward).mean(), abs=1e-12)


def test_two_columns_known_apart_multiply() -> None:
    one, two = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    data = log(e=GROUP[A], f=A % 2)
    found = mips("e", "f", probs={"e": one, "f": two}).estimate(data, POLICY)
    assert found.value == pytest.approx(evaluate(data, [POLICY], ["IPS"]).estimates[0].value, abs=1e-12)


def simulated(seed: int, n: int = 2000, actions: int = 40) -> tuple[Rounds, Table, Table, float]:
    gen = np.random.default_rng(seed)
    x = gen.normal(size=n)
    group = np.arange(actions) % 4
    logit = np.outer(x, gen.normal(size=actions)) * 0.5
    p = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    pi = p[:, ::-1] * 0.5 + 0.5 * (group == 1) / (group == 1).sum()
    a = (p.cumsum(axis=1) > gen.random(n)[:, None]).argmax(axis=1)
    e = np.where(gen.random(n) < 0.8, group[a], gen.integers(0, 4, n))
    mean = np.array([0.0, 1.0, 0.3, 0.6])
    frame = {"x": x, "a": a, "r": mean[e] + gen.normal(0, 0.5, n), "p": p[np.arange(n), a], "e": e}
    frame["junk"] = a  # tells the action itself: a full description, with no more to say about the reward
    log = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    value = (pi * (0.8 * mean[group] + 0.2 * mean.mean())).sum(axis=1).mean()
    return log, Table("t", pi), Table("b", p), float(value)


@pytest.mark.parametrize("weights", ["classifier", "regression"])
def test_learnt_weights_come_close_to_the_truth_with_less_variance_than_ips(weights: str) -> None:
    off, plain = [], []
    for seed in range(6):
        log, policy, behaviour, truth = simulated(seed)
        estimator = mips("e", logging=behaviour, weights=weights)
        e, ips = evaluate(log, [policy], [estimator, "IPS"]).estimates
        off.append(e.value - truth)
        plain.append(ips.value - truth)
        assert e.se < ips.se
    assert abs(np.mean(off)) < 0.06
    assert np.mean(np.square(off)) < np.mean(np.square(plain))


def test_without_the_logging_policy_the_weights_are_a_regression() -> None:
    log, policy, _, truth = simulated(0)
    found = MIPS(MIPSConfig(embedding=("e",))).estimate(log, policy)
    assert "a regression of pi/p" in found.notes[0]
    assert found.value == pytest.approx(truth, abs=0.15)


def test_greedy_drops_what_the_reward_does_not_need() -> None:
    log, policy, behaviour, truth = simulated(3, n=3000)
    config = {"logging": behaviour, "weights": "classifier"}
    chosen = mips("e", "junk", selection="greedy", **config).estimate(log, policy)
    every = mips("e", "junk", **config).estimate(log, policy)
    assert "1 of 2 columns were chosen" in chosen.notes[1]
    assert chosen.se < every.se
    assert chosen.value == pytest.approx(truth, abs=0.15)


def test_greedy_and_exact_search_by_hand() -> None:
    table = {
        ("a", "b", "c"): (0.0, 1.0),
        ("b", "c"): (0.1, 0.5),
        ("a", "c"): (0.1, 0.6),
        ("a", "b"): (5.0, 0.1),  # narrow and wrong
        ("c",): (0.2, 0.3),
        ("b",): (9.0, 0.05),
        ("a",): (9.0, 0.04),
    }
    assert greedy(("a", "b", "c"), table.__getitem__) == ("c",)
    assert exhaustive(("a", "b", "c"), table.__getitem__) == ("c",)
    table["c",] = (9.0, 0.3)
    assert greedy(("a", "b", "c"), table.__getitem__) == ("b", "c")


def test_greedy_stops_at_the_whole_when_every_drop_is_far() -> None:
    table = {("a", "b"): (0.0, 0.1), ("a",): (5.0, 0.05), ("b",): (-5.0, 0.05)}
    assert greedy(("a", "b"), table.__getitem__) == ("a", "b")


def test_exact_choice_of_many_columns_is_refused() -> None:
    data = log(**{f"e{i}": GROUP[A] for i in range(7)})
    with pytest.raises(ConfigError, match="tries 127 sets"):
        mips(*(f"e{i}" for i in range(7)), selection="exact").estimate(data, POLICY)


def test_an_exact_choice_keeps_the_group() -> None:
    data = log(noise=np.arange(len(A)) % 2)
    found = mips("group", "one", selection="exact").estimate(data, POLICY)
    assert np.isfinite(found.value)


def test_descriptions_are_told_apart_only_by_action() -> None:
    action, code = np.array([0, 1, 0, 2]), np.array([5, 6, 5, 5])
    found = one_description(code, action, 3)
    assert found is not None
    assert found.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1]]
    assert one_description(np.array([5, 6, 6, 5]), action, 3) is None


def test_no_column_and_a_missing_column_are_refused_with_the_remedy() -> None:
    with pytest.raises(LogError, match=r"MIPS\(MIPSConfig\(embedding="):
        evaluate(log(), [POLICY], ["MIPS"])
    with pytest.raises(LogError, match="no column 'colour' for the embedding"):
        mips("colour").estimate(log(), POLICY)


def test_gaps_in_a_description_are_refused() -> None:
    with pytest.raises(LogError, match=r"'e' \(the embedding\) is empty in 1 of 36 rows: row 0"):
        mips("e").estimate(log(e=[None, *["u"] * 35]), POLICY)


def test_asking_for_exact_weights_that_are_not_known_is_refused() -> None:
    with pytest.raises(LogError, match="some action shows several descriptions"):
        mips("e", weights="exact").estimate(log(e=np.arange(36) % 2), POLICY)
    with pytest.raises(SupportError, match="pass the logging policy"):
        mips("group", weights="exact", logging=None).estimate(log(), POLICY)


def test_tables_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"probs\['group'\] of shape \(4, 3\)"):
        mips("group", probs={"group": np.full((4, 3), 1 / 3)}).estimate(log(), POLICY)
    with pytest.raises(ConfigError, match="no entry for column 'group'"):
        mips("group", probs={"one": np.ones((4, 1))}).estimate(log(), POLICY)


def test_the_logged_policy_keeps_its_mean() -> None:
    assert mips("group").estimate(log(), "logged").value == pytest.approx(log().reward.mean(), abs=1e-12)


def test_a_uniform_log_needs_no_logging_policy() -> None:
    data = Rounds(
        log().table.with_columns(group=pl.Series(GROUP[A])), action="a", reward="r", propensity="uniform"
    )
    found = mips("group", logging=None).estimate(data, POLICY)
    assert "exact (1)" in found.notes[0]


def contract_example(frame: Any) -> Any:
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x"], unit="user")
    return evaluate(log, ["uniform", "always:a"], [MIPS(MIPSConfig(embedding=("device",)))]).estimates
