from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, CounterlogError, LogError, PropensityError, SupportError
from counterlog.core.rounds import Rounds
from counterlog.datasets.payments import Payments, PaymentsConfig
from counterlog.online import exploration
from counterlog.online.generation_store import Batch, make_batch
from counterlog.online.regression_oracle_bandits import (
    RegressionOracleBandit,
    RegressionOracleBanditConfig,
    Rows,
    balance,
    paired_difference,
    pseudo_rows,
)

WORLD = Payments(PaymentsConfig(batch=600, tests=1000))


def config(**settings: object) -> RegressionOracleBanditConfig:
    return RegressionOracleBanditConfig(**{"regressor": "ridge", "shift_auc": False, **settings})


def rows() -> Rows:
    return Rows(
        x=np.array([[1.0], [2.0]]),
        eligible=np.array([[True, True], [True, False]]),
        action=np.array([1, 0]),
        propensity=np.array([0.25, 0.5]),
        reward=np.array([1.0, 0.0]),
        weight=np.ones(2),
        scores=np.array([[0.4, 0.6], [0.5, 0.0]]),
    )


def make_log(n: int = 1500, seed: int = 0, **roles: object) -> Rounds:
    random = np.random.default_rng(seed)
    x, g = random.normal(size=n), np.arange(n) * 3 // n
    p = exploration.epsilon_greedy(np.column_stack([x, -x, 0 * x]), epsilon=0.6)
    action, propensity = exploration.draw(p, random)
    chance = np.column_stack([0.5 + 0.3 * np.tanh(x), 0.5 - 0.3 * np.tanh(x), 0 * x + 0.4])
    frame = pl.DataFrame(
        {
            "x": x,
            "offer": np.array(["a", "b", "c"])[action],
            "sale": (random.random(n) < chance[np.arange(n), action]).astype(float),
            "p": propensity,
            "week": g,
            "day": np.arange(n) / 100,
            "wait": [None if late else 0.5 for late in random.random(n) < 0.3],
            "open": ["a|b|c"] * n,
        },
        strict=False,
    )
    return Rounds(
        frame, **{"action": "offer", "reward": "sale", "propensity": "p", "context": ["x"], **roles}
    )


def test_doubly_robust_targets_by_hand() -> None:
    x, action, target, weight = pseudo_rows(rows(), 20.0)
    assert x[:, 0].tolist() == [1, 1, 2] and action.tolist() == [0, 1, 0] and weight.tolist() == [1, 1, 1]
    assert target == pytest.approx([0.4, 0.6 + (1 - 0.6) / 0.25, 0.5 + (0 - 0.5) / 0.5])
    assert pseudo_rows(rows(), 2.0)[2] == pytest.approx([0.4, 0.6 + 0.4 * 2, 0.5 - 0.5 * 2])


def test_class_balance_by_hand() -> None:
    weight, shift = balance(np.array([1.0, 1, 1, 0]), np.ones(4))
    assert weight == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2]) and shift == pytest.approx(np.log(3))
    assert balance(np.ones(3), np.ones(3))[1] == 0


def test_the_paired_difference_by_hand() -> None:
    new, old = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    # row 0: -.5*.4 + .5*.6 + .5/.25*(1 - .6) = .9 ; row 1: 0
    mean, lower = paired_difference(new, old, rows().scores, rows(), 0.95)
    assert mean == pytest.approx(0.45)
    assert lower == pytest.approx(0.45 - 6.313752 * 0.45, rel=1e-6)


def test_equal_policies_differ_by_nothing() -> None:
    p = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert paired_difference(p, p, rows().scores, rows(), 0.95) == (0.0, 0.0)


def test_the_loop_earns_more_than_uniform_choice_and_reports_exactly() -> None:
    policy = RegressionOracleBandit(config(gamma_rule="fixed", gamma=100.0)).improve(
        WORLD, generations=4, rng=1
    )
    report = policy.report
    assert report is not None and len(report.generations) == 4
    first, last = report.generations[0], report.generations[-1]
    assert first.served == pytest.approx(first.uniform) and np.isnan(first.gamma)
    assert last.served > last.uniform + 0.3 * (last.best - last.uniform)
    assert last.regret == pytest.approx(last.best - last.served) and last.gamma == 100.0


def test_logged_propensities_are_those_of_the_policy_that_served() -> None:
    seen: list[tuple[np.ndarray, Batch]] = []

    def spy(policy, generation, rng):
        batch = WORLD(policy, generation, rng)
        seen.append((policy.probs(batch.x, batch.eligible), batch))
        return batch

    RegressionOracleBandit(config()).improve(spy, generations=3, actions=8, rng=2)
    for probs, batch in seen:
        np.testing.assert_allclose(probs[np.arange(batch.n), batch.action], batch.propensity, rtol=1e-12)
        assert batch.eligible[np.arange(batch.n), batch.action].all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"deploy": "guard", "gamma_rule": "fixed"},
        {"weights": "dr"},
        {"rule": "thompson", "members": 3},
        {"gamma_rule": "falcon", "calibrate": True},
        {"regressor": "boosting", "weights": "class_balance"},
    ],
)
def test_a_killed_run_resumes_to_the_same_result(settings: dict, tmp_path) -> None:
    bandit = RegressionOracleBandit(config(**settings))
    whole = bandit.improve(WORLD, generations=4, rng=3)

    class KilledError(Exception):
        pass

    class Dies:
        actions = 8
        test = staticmethod(WORLD.test)

        def __call__(self, policy, generation, rng):
            if generation == 2:
                raise KilledError
            return WORLD(policy, generation, rng)

    with pytest.raises(KilledError):
        bandit.improve(Dies(), generations=4, rng=3, state=tmp_path)
    resumed = bandit.improve(WORLD, generations=4, rng=3, state=tmp_path)
    assert repr(resumed.report) == repr(whole.report)
    x, eligible, _ = WORLD.test(0)
    assert (resumed.probs(x, eligible) == whole.probs(x, eligible)).all()
    again = bandit.improve(WORLD, generations=4, rng=3, state=tmp_path)
    assert repr(again.report) == repr(whole.report)


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "fastcb"},
        {"rule": "softmax"},
        {"rule": "greedy"},
        {"rule": "uniform"},
        {"rule": "epsilon", "epsilon": 0.2},
        {"gamma_rule": "budget", "budget": 0.01},
        {"weights": "ips", "floor": 0.01},
        {"weights": "class_balance"},
    ],
)
def test_every_rule_serves_distributions_on_the_eligible_actions(settings: dict) -> None:
    policy = RegressionOracleBandit(config(**settings)).improve(WORLD, generations=2, rng=1)
    x, eligible, _ = WORLD.test(0)
    p = policy.probs(x, eligible)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p[~eligible] == 0).all() and (p >= 0).all()
    if settings.get("gamma_rule") == "budget":
        from counterlog.online.igw import exploration_cost

        scores = policy.scores(x, eligible)
        assert exploration_cost(scores, eligible, gamma=policy.gamma).mean() == pytest.approx(0.01, rel=0.1)


def test_a_legacy_policy_may_serve_first() -> None:
    found = RegressionOracleBandit(config()).improve(WORLD, generations=2, first=WORLD.legacy, rng=1).report
    assert found is not None
    first = found.generations[0]
    assert first.p_min >= 0.01 and first.served > first.uniform + 0.1 and first.effective_actions < 2


def test_another_configuration_does_not_resume(tmp_path) -> None:
    RegressionOracleBandit(config()).improve(WORLD, generations=1, rng=3, state=tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        RegressionOracleBandit(config(window=1)).improve(WORLD, generations=2, rng=3, state=tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(CounterlogError, match="not the saved state"):
        RegressionOracleBandit(config()).improve(WORLD, generations=2, rng=3, state=tmp_path)


def test_late_rewards_are_dropped_not_counted_as_failure() -> None:
    world = Payments(PaymentsConfig(batch=2000, tests=500, delay=True))
    for delay in ("drop", "ipcw"):
        policy = RegressionOracleBandit(config(delay=delay, window=1)).improve(world, generations=2, rng=4)
        report = policy.report
        assert report is not None
        x, eligible, q = world.test(0)
        level = float((q * exploration.uniform(eligible)).sum(axis=1).mean())
        g = report.generations[0]
        assert g.known == pytest.approx(1000, abs=100)
        assert g.positive == pytest.approx(level, abs=0.05)  # counting silence as 0 would halve it
        scores = policy.model.scores(x, eligible)[eligible]
        assert scores.mean() == pytest.approx(q[eligible].mean(), abs=0.08)


def test_the_guard_keeps_the_old_policy_and_halves_gamma() -> None:
    """A world whose rewards turn around makes every candidate worse on its own newest batch."""

    class Fixed:
        def __init__(self) -> None:
            self.gammas: list[float] = []

        def __call__(self, policy, generation, rng):
            self.gammas.append(policy.gamma)
            x = rng.normal(size=(500, 1))
            action, propensity = policy.act(x, rng=rng)
            return make_batch(x, action, propensity, rng.random(500) < 0.5, actions=2)

    world = Fixed()
    bandit = RegressionOracleBandit(config(deploy="guard", gamma_rule="fixed", gamma=50.0, tol=0.0))
    report = bandit.improve(world, generations=6, actions=2, rng=5).report
    assert report is not None
    kept = [g.generation for g in report.generations if not g.deployed]
    assert len(kept) >= 4  # nothing to gain: the lower bound is below 0 in most generations
    for g in report.generations:
        assert g.deployed == (g.difference_lower > 0)
    assert len(set(world.gammas[1:])) > 1 or all(np.isnan(world.gammas))


def test_the_error_of_falcon_is_that_of_the_model() -> None:
    """Half-sample differences estimate the variance of a linear model's fit where the model is right."""
    random = np.random.default_rng(6)
    found, true = [], []
    slope = np.array([[0.05, -0.05]])
    for _ in range(30):
        x, a = random.normal(size=(1500, 1)), random.integers(2, size=1500)
        q = 0.5 + x @ slope
        r = (random.random(1500) < q[np.arange(1500), a]).astype(float)
        use = Rows(x, np.ones((1500, 2), bool), a, np.full(1500, 0.5), r, np.ones(1500), q)
        bandit = RegressionOracleBandit(config())
        found.append(bandit._error(use, 2, random))
        true.append(((bandit._one(use, 2, 0).scores(x) - q) ** 2).mean())
    assert np.mean(found) == pytest.approx(np.mean(true), rel=0.25)


def test_the_same_rng_gives_the_same_policy_and_another_does_not() -> None:
    x, eligible, _ = WORLD.test(0)
    one, two, other = (
        RegressionOracleBandit(config()).improve(WORLD, generations=2, rng=r).probs(x, eligible)
        for r in (7, 7, 8)
    )
    assert (one == two).all() and (one != other).any()


def test_from_a_log_the_policy_serves_frames_of_any_library() -> None:
    policy = RegressionOracleBandit(config()).improve(make_log(), generation="week", rng=1)
    frame = pl.DataFrame({"x": [-2.0, 0.0, 2.0]})
    p = policy.probs(frame)
    assert p.shape == (3, 3) and p[0].argmax() == 1 and p[2].argmax() == 0
    assert (policy.probs(frame.to_pandas()) == p).all() and (policy.probs(frame.to_arrow()) == p).all()
    action, propensity = policy.act(frame, rng=3)
    codes = [policy.actions.index(a) for a in action]
    assert propensity == pytest.approx(p[np.arange(3), codes], rel=1e-15)
    assert policy.probs(frame, np.array([[True, False, True]] * 3))[:, 1].tolist() == [0, 0, 0]


def test_acting_on_a_log_with_more_actions_names_them_rightly() -> None:
    log = make_log()
    policy = RegressionOracleBandit(config()).improve(log)
    wider = log.table.with_columns(offer=pl.Series(["Z", *log.table["offer"].to_list()[1:]]))
    fresh = Rounds(wider, action="offer", reward="sale", propensity="p", context=["x"])
    action, _ = policy.act(fresh, rng=1)
    assert (policy.probs(fresh)[:, 0] == 0).all() and set(action) == {"a", "b", "c"}


def test_from_a_log_the_report_has_a_row_a_generation() -> None:
    log = make_log()
    report = RegressionOracleBandit(config(window=1, shift_auc=True)).improve(log, generation="week").report
    assert report is not None and [g.generation for g in report.generations] == [0, 1, 2]
    means = [log.reward[i * 500 : (i + 1) * 500].mean() for i in range(3)]
    assert [g.value for g in report.generations] == pytest.approx(means)
    assert not np.isnan(report.generations[0].greedy) and np.isnan(report.generations[2].greedy)
    assert 0.3 < report.generations[1].auc < 0.7 and report.generations[1].psi < 0.2
    assert report.unit == "reward"


def test_the_policy_of_a_log_can_be_valued_on_a_log() -> None:
    from counterlog.core.evaluate import evaluate

    policy = RegressionOracleBandit(config(gamma_rule="fixed", gamma=200.0)).improve(make_log())
    fresh = make_log(4000, seed=9)
    found = evaluate(fresh, [policy], ["SNIPS"]).estimates[0]
    assert found.lo > fresh.reward.mean()


def test_rows_without_a_reward_yet_are_left_out_of_a_log() -> None:
    late = make_log(delay="wait", time="day")
    for settings in ({}, {"delay": "ipcw"}):
        report = RegressionOracleBandit(config(**settings)).improve(late, generation="week").report
        assert report is not None
        known = late.table["wait"].is_not_null().to_numpy()
        assert sum(g.known for g in report.generations) <= known.sum()
        assert report.generations[0].value == pytest.approx(late.reward[:500][known[:500]].mean(), abs=0.02)


def test_a_guarded_log_says_whether_to_deploy() -> None:
    good = RegressionOracleBandit(config(deploy="guard", gamma_rule="fixed", gamma=200.0)).improve(
        make_log(6000)
    )
    assert good.deploy
    bad = RegressionOracleBandit(config(deploy="guard", rule="uniform")).improve(make_log(6000))
    assert not bad.deploy


def test_rewards_on_another_scale_give_the_same_policy() -> None:
    log = make_log()
    table = log.table.with_columns(sale=log.table["sale"] * 20 - 10)
    scaled = Rounds(table, action="offer", reward="sale", propensity="p", context=["x"])
    frame = pl.DataFrame({"x": [-1.0, 1.0]})
    one = RegressionOracleBandit(config()).improve(log).probs(frame)
    two = RegressionOracleBandit(config(reward_lo=-10.0, reward_hi=10.0)).improve(scaled).probs(frame)
    np.testing.assert_allclose(one, two, rtol=1e-9)
    with pytest.raises(LogError, match=r"outside \[0, 1\] in .* rows: row"):
        RegressionOracleBandit(config()).improve(scaled)


def test_a_ridge_policy_is_saved_and_others_say_why_not(tmp_path) -> None:
    from counterlog.core.saved_policies import load_policy

    log = make_log()
    policy = RegressionOracleBandit(config()).improve(log)
    back = load_policy(policy.save(tmp_path / "p.safetensors", explore=0.1))
    best = policy.scores(log).argmax(axis=1)
    p = back.probs(log)
    assert (p.argmax(axis=1) == best).all() and p.min() == pytest.approx(0.1 / 3)
    trees = RegressionOracleBandit(config(regressor="boosting")).improve(log)
    with pytest.raises(CounterlogError, match="is not a saved policy"):
        trees.saved()


def test_refusals() -> None:
    bandit = RegressionOracleBandit(config())
    with pytest.raises(ConfigError, match="0 generations of 8 actions"):
        bandit.improve(WORLD)
    with pytest.raises(LogError, match="generations do not increase in order by row: row 500"):
        log = make_log()
        table = log.frame.collect().to_native()
        bandit.improve(
            Rounds(
                table.with_columns(week=pl.Series([1] * 500 + [0] * 1000)),
                action="offer",
                reward="sale",
                propensity="p",
                context=["x"],
            ),
            generation="week",
        )
    with pytest.raises(LogError, match="no column 'month'"):
        bandit.improve(make_log(), generation="month")
    with pytest.raises(LogError, match="expected integers without gaps"):
        bandit.improve(make_log(), generation="day")
    with pytest.raises(ConfigError, match="expected lo < hi"):
        RegressionOracleBandit(config(reward_lo=1.0))
    with pytest.raises(SupportError, match="an action the log does not have"):
        bandit.improve(make_log()).probs(_two_actions())
    batch = make_batch(np.zeros((2, 1)), [0, 1], [0.5, 0.5], [1, 0], actions=2)
    for change, kind, text in (
        ({"propensity": np.array([0.5, 1.5])}, PropensityError, "'propensity' is not a probability"),
        (
            {"reward": np.array([np.nan, 0.0])},
            LogError,
            "'reward' is not a finite number in 1 of 2 rows: row 0",
        ),
        ({"reward": np.array([0.0, 3.0])}, LogError, r"outside \[0, 1\] in 1 of 2 rows: row 1"),
        ({"delay": np.array([0.0, -1.0])}, LogError, "known before the decision"),
        ({"eligible": np.array([[True, True], [True, False]])}, LogError, "'action' was not eligible"),
        ({"eligible": np.array([[True, True], [False, False]])}, LogError, "'eligible' lists no action"),
        ({"action": np.array([0, 5])}, LogError, r"is no code in \[0, 2\)"),
        ({"x": np.zeros((3, 1))}, LogError, "'x' has 3 rows"),
        ({"x": np.array([[0.0], [np.nan]])}, LogError, "'x' is not a finite number"),
    ):
        broken = replace(batch, **change)
        with pytest.raises(kind, match=text):
            bandit.improve(lambda *_, b=broken: b, generations=1, actions=2)


def _two_actions() -> Rounds:
    log = make_log()
    return Rounds(
        log.table.filter(pl.col("offer") != "c"), action="offer", reward="sale", propensity="p", context=["x"]
    )
