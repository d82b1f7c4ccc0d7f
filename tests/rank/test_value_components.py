from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import CounterlogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.rank.value_components import measure

ESTIMATORS = ("IPS", "SNIPS", "DM", "DR")


def made(n=400, seed=0, users=120):
    gen = np.random.default_rng(seed)
    logging = gen.dirichlet(np.ones(3) * 4, n)
    action = (gen.random(n)[:, None] > logging.cumsum(axis=1)).sum(axis=1).clip(max=2)
    columns = {
        "a": action,
        "p": logging[np.arange(n), action],
        "s": gen.normal(1.0, 1.0, n) - 0.3 * action,
        "m": gen.gamma(2.0, 1.0, n) * action,
        "u": gen.integers(0, users, n),
        "x": gen.normal(size=n),
    }
    log = Rounds(columns, action="a", reward=["s", "m"], propensity="p", unit="u", context=["x"])
    policies = {"logged": None, "one": gen.dirichlet(np.ones(3), n), "two": gen.dirichlet(np.ones(3), n)}
    q = {r: gen.normal(size=(n, 3)) for r in ("s", "m")}
    return log, policies, {r: log.reward_of(r) for r in ("s", "m")}, q


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_components_agree_with_the_evaluation_of_one_reward_and_policy(estimator):
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q, estimator=estimator)
    given = [Table(n, p) for n, p in policies.items() if p is not None]
    for e in evaluate(log, given, [estimator], q=q).estimates:
        mine = found.estimate(e.policy, {e.reward: 1.0})
        assert mine.value == pytest.approx(e.value, abs=1e-12)
        assert mine.se == pytest.approx(e.se, rel=1e-9)
        assert (mine.n, mine.ess) == (e.n, pytest.approx(e.ess))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fifty_recombined_trade_offs_equal_fifty_separate_evaluations(estimator):
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q, estimator=estimator)
    for weight in np.linspace(0.0, 5.0, 50):
        mixed = {"both": rewards["s"] + weight * rewards["m"]}
        separate = measure(log, policies, mixed, q={"both": q["s"] + weight * q["m"]}, estimator=estimator)
        for policy in policies:
            one = found.estimate(policy, {"s": 1.0, "m": float(weight)})
            other = separate.estimate(policy, {"both": 1.0})
            assert one.value == pytest.approx(other.value, abs=1e-12)
            assert one.se == pytest.approx(other.se, abs=1e-10)


def test_a_difference_is_the_paired_one():
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q)
    w = {
        k: (1.0 if p is None else p[np.arange(400), log.action] / log.propensity) for k, p in policies.items()
    }
    qa = q["s"][np.arange(400), log.action]
    v = {k: (qa if p is None else (p * q["s"]).sum(axis=1)) for k, p in policies.items()}
    psi = {k: v[k] + w[k] * (rewards["s"] - qa) for k in policies}
    gap = psi["one"] - psi["logged"]
    e = found.difference("one", "logged", {"s": 1.0})
    assert e.value == pytest.approx(gap.mean(), abs=1e-12)
    sums = np.bincount(log.unit, gap - gap.mean())[np.bincount(log.unit) > 0]
    assert e.se == pytest.approx(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / 400, rel=1e-9)
    assert found.lower("one", "logged", {"s": 1.0}) == pytest.approx(e.value - 1.6577 * e.se, abs=1e-3)


def test_the_value_of_the_log_is_its_mean():
    log, policies, rewards, q = made()
    for estimator in ("IPS", "SNIPS", "DR"):
        found = measure(log, policies, rewards, q=q, estimator=estimator)
        assert found.estimate("logged", {"m": 1.0}).value == pytest.approx(rewards["m"].mean(), abs=1e-12)


def test_rows_that_have_not_matured_are_left_out_of_their_reward_alone():
    log, policies, rewards, q = made()
    known = np.arange(400) < 300
    found = measure(log, policies, rewards, q=q, known={"m": known}, estimator="IPS")
    assert found.estimate("logged", {"m": 1.0}).value == pytest.approx(rewards["m"][:300].mean())
    assert found.estimate("logged", {"s": 1.0}).value == pytest.approx(rewards["s"].mean())
    w = policies["one"][np.arange(400), log.action] / log.propensity
    assert found.estimate("one", {"m": 1.0}).value == pytest.approx((w * rewards["m"])[:300].mean())


def test_a_segment_is_an_evaluation_of_its_rows():
    log, policies, rewards, q = made()
    rows = np.flatnonzero(log.table["x"].to_numpy() > 0)
    part = measure(log, policies, rewards, q=q, rows=rows, segment="x>0")
    alone = measure(
        log.take(rows),
        {k: (None if p is None else p[rows]) for k, p in policies.items()},
        {k: r[rows] for k, r in rewards.items()},
        q={k: v[rows] for k, v in q.items()},
    )
    assert part.value == alone.value
    np.testing.assert_allclose(part.covariance, alone.covariance, rtol=1e-12)


def test_joint_bands_are_wider_than_one_interval_and_narrower_than_bonferroni():
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q)
    cells = [(p, {r: 1.0}) for p in policies for r in rewards]
    one, joint = found.critical(cells[:1]), found.critical(cells)
    assert one == pytest.approx(1.98, abs=0.05)
    assert one < joint < 2.75  # t quantile of 0.95 by Bonferroni over 6 cells is 2.69
    assert found.critical(cells * 2) == pytest.approx(joint, abs=0.05)  # copies cost nothing


def test_very_many_units_are_summed_in_buckets_to_the_same_value_and_nearly_the_same_error():
    gen = np.random.default_rng(0)
    n = 210_000
    columns = {"a": gen.integers(3, size=n), "r": gen.normal(1.0, 1.0, n), "u": np.arange(n)}
    rows = Rounds(columns, action="a", reward="r", propensity=1 / 3)
    users = Rounds(columns, action="a", reward="r", propensity=1 / 3, unit="u")
    pi = {"two": np.tile([0.0, 0.0, 1.0], (n, 1))}
    w = 3.0 * (rows.action == 2)
    for log in (rows, users):
        e = measure(log, pi, {"r": log.reward}, estimator="IPS").estimate("two", {"r": 1.0})
        assert e.value == pytest.approx((w * rows.reward).mean(), abs=1e-12)
        assert e.se == pytest.approx((w * rows.reward).std() / np.sqrt(n), rel=0.05)
        assert e.n == n


def test_what_is_not_stored_is_refused_by_name():
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q)
    with pytest.raises(CounterlogError, match="no policy 'three'"):
        found.estimate("three", {"s": 1.0})
    with pytest.raises(CounterlogError, match="no reward 'clicks'"):
        found.estimate("one", {"clicks": 1.0})
    with pytest.raises(CounterlogError, match="needs predictions of 's'"):
        measure(log, policies, rewards, estimator="DR")


def test_a_policy_that_the_log_never_follows_has_no_ratio():
    log = Rounds({"a": [0, 0, 1], "r": [1.0, 2.0, 3.0]}, action="a", reward="r", propensity=0.5)
    never = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(SupportError, match="every weight is 0"):
        measure(log, {"never": never}, {"r": log.reward}, estimator="SNIPS")
