from itertools import product

import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.ragged import Weights, running_logs
from counterlog.core.state_policies import LinearSoftmax, TablePolicy, log_ratios
from counterlog.core.tabular import TabularMDP
from counterlog.core.trajectory_terms import FORMS, drl_terms, normalised_terms
from counterlog.datasets.river import river, swimmers
from counterlog.estimate.trajectories import (
    DM,
    DR,
    DRL,
    ESTIMATORS,
    PDIS,
    SAMDR,
    SAMIS,
    SAMSNIS,
    SMIS,
    SNDR,
    SNPDIS,
    SNTIS,
    TIS,
    TrajectoriesConfig,
    TrajectoryEstimator,
    evaluate_trajectories,
)

GAMMA = 0.9
MDP = TabularMDP(
    np.array([[[0.75, 0.25], [0.25, 0.75]], [[0.5, 0.5], [0.25, 0.75]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
)
LOGGING = np.array([[0.5, 0.5], [0.25, 0.75]])
TARGET = np.array([[0.2, 0.8], [0.7, 0.3]])
BY_NAME = {cls.name: cls for cls in TrajectoryEstimator.__subclasses__()}


def every_trajectory(mdp, policy, horizon, denominator):
    """All trajectories of `horizon` steps, each as often as its probability says: sample means are expectations."""
    paths, counts = [], []
    for path in product(range(2), *([range(2)] * (2 * horizon))):
        states, actions = path[0::2], path[1::2]
        chance = mdp.start[states[0]]
        for t in range(horizon):
            chance *= policy[states[t], actions[t]] * mdp.transition[states[t], actions[t], states[t + 1]]
        paths.append((states, actions))
        counts.append(chance * denominator)
    counts = np.array(counts)
    assert_allclose(counts, np.round(counts), atol=1e-9)
    states, actions = (np.array([p[i] for p in paths]) for i in (0, 1))
    flat_state, flat_action = states[:, :horizon].ravel(), actions.ravel()
    last = np.zeros((len(paths), horizon), bool)
    last[:, -1] = True
    log = Episodes(
        offsets=np.arange(len(paths) + 1) * horizon,
        state=flat_state,
        action=flat_action,
        reward=mdp.reward[flat_state, flat_action],
        propensity=policy[flat_state, flat_action],
        truncated=last.ravel(),
        final_state=states[:, -1],
    )
    return log.take(np.repeat(np.arange(len(paths)), np.round(counts).astype(int)))


@pytest.fixture(scope="module")
def expected_log():
    return every_trajectory(MDP, LOGGING, 3, 2 * 16**3)


def ratios(horizon):
    target, logged = MDP.occupancy(TARGET, horizon), MDP.occupancy(LOGGING, horizon)
    return target / logged, target.sum(axis=2) / logged.sum(axis=2)


def config(**changes):
    return TrajectoriesConfig(**({"gamma": GAMMA, "truncation": "end", "convention": "by_step"} | changes))


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "DM"])
def test_every_estimator_is_exact_on_the_expected_log_for_any_value_model(expected_log, name, lag):
    pair, state = ratios(3)
    q = np.random.default_rng(1).normal(size=(3, 2, 2)) if FORMS[name].model else None
    estimator = BY_NAME[name](config(lag=lag), q=q, weights=pair, state_weights=state)
    estimate = estimator.estimate(expected_log, TablePolicy(TARGET))
    assert estimate.value == pytest.approx(MDP.value(TARGET, GAMMA, 3), abs=1e-10)


@pytest.mark.parametrize("convention", ["gamma_log", "stationary"])
@pytest.mark.parametrize("cls", [SAMIS, SAMSNIS, BY_NAME["SM-IS"], BY_NAME["SM-SNIS"]])
def test_pooled_ratios_in_their_own_convention_are_exact(expected_log, convention, cls):
    target = MDP.discounted_occupancy(TARGET, GAMMA, 3)
    logged = MDP.discounted_occupancy(LOGGING, GAMMA, 3)
    if convention == "stationary":
        logged = MDP.occupancy(LOGGING, 3).mean(axis=0) * (1 + GAMMA + GAMMA**2)
    given = {"weights": target / logged, "state_weights": target.sum(axis=1) / logged.sum(axis=1)}
    estimate = cls(config(convention=convention), **given).estimate(expected_log, TablePolicy(TARGET))
    assert estimate.value == pytest.approx(MDP.value(TARGET, GAMMA, 3), abs=1e-10)


def test_discounted_ratios_with_a_bootstrapped_cut_give_the_endless_value_for_any_value_model(expected_log):
    w = MDP.discounted_occupancy(TARGET, GAMMA) / MDP.discounted_occupancy(LOGGING, GAMMA, 3)
    endless = config(convention="gamma_log", truncation="bootstrap")
    q = np.random.default_rng(2).normal(size=(2, 2))
    for estimator in (
        SAMIS(endless, weights=w),
        SAMDR(endless, q=q, weights=w),
        DRL(endless, q=q, weights=w),
    ):
        value = estimator.estimate(expected_log, TablePolicy(TARGET)).value
        assert value == pytest.approx(MDP.value(TARGET, GAMMA), abs=1e-10)


def test_twenty_step_occupancies_agree_with_dynamic_programming():
    pair, state = ratios(20)
    logged, gain = MDP.occupancy(LOGGING, 20), GAMMA ** np.arange(20)
    q = np.random.default_rng(3).normal(size=(21, 2, 2))
    q[20] = 0
    v = (q * TARGET).sum(axis=2)
    rho = TARGET / LOGGING
    ahead = GAMMA * np.einsum("ijk,tk->tij", MDP.transition, v[1:])
    true = MDP.value(TARGET, GAMMA, 20)
    by_pair = (gain * (logged * pair * MDP.reward).sum(axis=(1, 2))).sum()
    by_state = (gain * (logged * state[:, :, None] * rho * MDP.reward).sum(axis=(1, 2))).sum()
    robust = (
        MDP.start @ v[0] + (gain * (logged * pair * (MDP.reward + ahead - q[:20])).sum(axis=(1, 2))).sum()
    )
    assert_allclose([by_pair, by_state, robust], true, atol=1e-10)


@pytest.mark.parametrize("convention", ["by_step", "gamma_log"])
@pytest.mark.parametrize("name", ["DM", "SAM-IS", "SM-IS", "SAM-DR", "DRL"])
def test_fits_that_know_the_step_are_exact_on_the_expected_log(expected_log, name, convention):
    made = config(time=True, folds=1, ridge=0.0, convention=convention)
    value = BY_NAME[name](made).estimate(expected_log, TablePolicy(TARGET)).value
    assert value == pytest.approx(MDP.value(TARGET, GAMMA, 3), abs=1e-8)


def test_drl_as_written_is_sam_dr_0_on_random_arrays():
    gen = np.random.default_rng(0)
    log = MDP.sample(LOGGING, 40, 9, rng=4)
    q, w = gen.normal(size=(2, 2)), gen.exponential(size=log.rows)
    v = (q * TARGET).sum(axis=1)
    written = drl_terms(w, log.reward, q[log.state, log.action], v[log.state], GAMMA, log.offsets).mean()
    estimate = SAMDR(config(convention="gamma_log"), q=q, weights=w).estimate(log, TablePolicy(TARGET))
    assert estimate.value == pytest.approx(written, abs=1e-10)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if not FORMS[n].model])
def test_the_logging_policy_is_worth_the_mean_return(name):
    log = river().sample(swimmers()["swim-4"], 60, 12, rng=2)
    estimator = BY_NAME[name](config(), weights=np.ones(log.rows), state_weights=np.ones(log.rows))
    value = estimator.estimate(log, TablePolicy(swimmers()["swim-4"])).value
    assert value == pytest.approx(log.returns(GAMMA).mean(), abs=1e-12)


def by_hand(**changes):
    """Trajectory 0 has 3 steps with ratios 2, .5, 2; trajectory 1 one step with ratio .5."""
    arrays = {
        "offsets": [0, 3, 4],
        "state": [0, 1, 0, 1],
        "action": [0, 1, 0, 0],
        "reward": [1.0, 2.0, 4.0, 8.0],
        "propensity": [0.4, 0.4, 0.4, 0.4],
        "terminated": [0, 0, 1, 1],
    }
    policy = TablePolicy([[0.8, 0.2], [0.2, 0.8]])
    log = Episodes(**(arrays | changes))
    return log, policy


def test_unequal_lengths_by_hand():
    # ratios: .8/.4 = 2, .8/.4 = 2, 2 and .2/.4 = .5; c = 2, 4, 8 and .5
    log, policy = by_hand()
    half = {"config": config(gamma=0.5)}
    assert TIS(**half).estimate(log, policy).value == pytest.approx((8 * 3.0 + 0.5 * 8) / 2)
    assert PDIS(**half).estimate(log, policy).value == pytest.approx((2 + 4 + 8 + 4) / 2)
    assert SNTIS(**half).estimate(log, policy).value == pytest.approx((8 * 3.0 + 0.5 * 8) / 8.5)
    by_step = (2 + 4) / 2.5 + 0.5 * 4 * 2 / 4.5 + 0.25 * 8 * 4 / 8.5
    assert SNPDIS(**half).estimate(log, policy).value == pytest.approx(by_step)


def test_doubly_robust_by_hand_uses_the_value_of_the_state_that_follows():
    log, policy = by_hand()
    q = np.array([[1.0, 2.0], [3.0, 5.0]])  # V = 1.2, 4.6
    first = 1.2 + 2 * (1 + 0.5 * 4.6 - 1) + 0.5 * 4 * (2 + 0.5 * 1.2 - 5) + 0.25 * 8 * (4 - 1)
    second = 4.6 + 0.5 * (8 - 3)
    value = DR(config(gamma=0.5), q=q).estimate(log, policy).value
    assert value == pytest.approx((first + second) / 2)


def test_self_normalised_doubly_robust_by_hand():
    log, policy = by_hand()
    q = np.array([[1.0, 2.0], [3.0, 5.0]])
    step0 = (2 * (1 + 0.5 * 4.6 - 1) + 0.5 * (8 - 3)) / 2.5
    step1 = 0.5 * 4 * (2 + 0.5 * 1.2 - 5) / 4.5
    step2 = 0.25 * 8 * (4 - 1) / 8.5
    value = SNDR(config(gamma=0.5), q=q).estimate(log, policy).value
    assert value == pytest.approx((1.2 + 4.6) / 2 + step0 + step1 + step2)


def test_a_cut_trajectory_goes_on_in_the_value_of_its_final_state():
    log, policy = by_hand(terminated=[0, 0, 0, 1], truncated=[0, 0, 1, 0], final_state=[1, -1])
    q = np.array([[1.0, 2.0], [3.0, 5.0]])
    ended = DR(config(gamma=0.5), q=q).estimate(log, policy).value
    goes_on = DR(config(gamma=0.5, truncation="bootstrap"), q=q).estimate(log, policy).value
    assert goes_on - ended == pytest.approx(0.25 * 8 * 0.5 * 4.6 / 2)


def test_a_cut_without_a_final_state_leaves_out_the_last_correction():
    log, policy = by_hand(terminated=[0, 0, 0, 1], truncated=[0, 0, 1, 0])
    q = np.array([[1.0, 2.0], [3.0, 5.0]])
    first = 1.2 + 2 * (1 + 0.5 * 4.6 - 1) + 0.5 * 4 * (2 + 0.5 * 1.2 - 5)
    value = DR(config(gamma=0.5, truncation="bootstrap"), q=q).estimate(log, policy).value
    assert value == pytest.approx((first + 4.6 + 0.5 * 5) / 2)


def test_the_first_step_is_not_discounted():
    log, policy = by_hand(offsets=[0, 1, 2, 3, 4], terminated=[1, 1, 1, 1])
    for gamma in (0.1, 0.9):
        value = PDIS(config(gamma=gamma)).estimate(log, policy).value
        assert value == pytest.approx((2 * 1 + 2 * 2 + 2 * 4 + 0.5 * 8) / 4)


def test_state_weights_without_lag_keep_the_ratio_of_the_action():
    log, policy = by_hand()
    rho = np.array([2, 2, 2, 0.5])
    by_state = SMIS(config(), state_weights=np.array([0.5, 2.0])).estimate(log, policy)
    by_pair = SAMIS(config(), weights=np.array([0.5, 2.0, 0.5, 2.0]) * rho).estimate(log, policy)
    assert by_state.value == pytest.approx(by_pair.value, abs=1e-14)


def test_a_lag_past_the_longest_trajectory_is_per_decision():
    log = MDP.sample(LOGGING, 50, 6, rng=0)
    w = np.random.default_rng(0).exponential(size=log.rows)
    policy = TablePolicy(TARGET)
    for pair in (
        (SAMIS(config(lag=6), weights=w), PDIS(config())),
        (SAMDR(config(lag=6), weights=w), DR(config())),
    ):
        one, two = (e.estimate(log, policy) for e in pair)
        assert one.value == pytest.approx(two.value, abs=1e-12) and one.lo == pytest.approx(two.lo, abs=1e-12)


def long_log():
    n, steps = 3, 5_000
    ends = np.zeros((n, steps), bool)
    ends[:, -1] = True
    return Episodes(
        offsets=np.arange(n + 1) * steps,
        state=np.zeros(n * steps, int),
        action=np.zeros(n * steps, int),
        reward=np.ones(n * steps),
        propensity=np.full(n * steps, 0.5),
        terminated=ends.ravel(),
        actions=2,
    )


def test_five_thousand_ratios_of_two_do_not_overflow_when_self_normalised():
    with pytest.raises(SupportError, match=r"reach e\^3466.*5,000 steps"):
        SNPDIS(config()).estimate(long_log(), TablePolicy([[1.0, 0.0]]))
    short = long_log()
    near = Episodes(
        offsets=short.offsets,
        state=short.state,
        action=short.action,
        reward=short.reward,
        propensity=np.full(short.rows, 0.9),
        terminated=short.terminated,
    )
    value = SNPDIS(config()).estimate(near, TablePolicy([[1.0]])).value
    assert value == pytest.approx((1 - GAMMA**5000) / (1 - GAMMA))


def test_weights_that_leave_the_range_of_numbers_are_refused_not_infinite():
    with pytest.raises(SupportError, match="SAM-IS, SAM-DR, DRL or FQE"):
        PDIS(config()).estimate(long_log(), TablePolicy([[1.0, 0.0]]))


def test_a_policy_that_no_trajectory_follows_is_refused():
    log, _ = by_hand(action=[0, 1, 0, 1], actions=2)
    with pytest.raises(SupportError, match="from step 1 on, none of the 2 trajectories is possible"):
        SNPDIS(config()).estimate(log, TablePolicy([[1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(SupportError, match="possible"):
        PDIS(config()).estimate(log, TablePolicy([[1.0, 0.0], [1.0, 0.0]]))


def test_actions_that_were_never_logged_are_refused_with_their_share():
    log, _ = by_hand(actions=3)
    with pytest.raises(SupportError, match=r"puts 50.0% of its mass on actions that were never logged: 2"):
        PDIS(config()).estimate(log, lambda s: np.tile([0.25, 0.25, 0.5], (len(s), 1)))
    assert not DM(config()).estimate(log, lambda s: np.tile([0.25, 0.25, 0.5], (len(s), 1))).valid


def test_what_is_no_policy_is_refused():
    log, _ = by_hand()
    with pytest.raises(LogError, match="not a distribution in 4 of 4 states"):
        PDIS(config()).estimate(log, lambda s: np.ones((len(s), 2)))
    with pytest.raises(LogError, match="answered shape"):
        PDIS(config()).estimate(log, lambda s: np.ones((len(s), 3)))


def test_a_log_without_propensities_is_refused_but_not_by_dm():
    log, policy = by_hand(propensity=None)
    with pytest.raises(LogError, match="no 'log_propensity'"):
        PDIS(config()).estimate(log, policy)
    assert np.isfinite(DM(config()).estimate(log, policy).value)


def test_pooled_self_normalisation_is_refused_when_trajectories_end_by_themselves():
    log, policy = by_hand()
    with pytest.raises(SupportError, match="end at times of their own"):
        SAMSNIS(config(convention="stationary")).estimate(log, policy)


def test_stationary_weights_need_a_discount():
    log, policy = by_hand()
    endless = TrajectoriesConfig(gamma=1.0, convention="stationary")
    with pytest.raises(ConfigError, match="endless sum"):
        SAMIS(endless).estimate(log, policy)


def continuous_log(n=4000, seed=0):
    gen = np.random.default_rng(seed)
    state = gen.normal(size=(n, 1))
    action = state + gen.normal(size=(n, 1))
    density = np.exp(-0.5 * (action - state)[:, 0] ** 2) / np.sqrt(2 * np.pi)
    return Episodes(
        offsets=np.arange(n + 1),
        state=state,
        action=action,
        reward=-((action - 0.5) ** 2)[:, 0],
        propensity=density,
        terminated=np.ones(n),
    )


class Still:
    """Always acts 0.5, the best action, for which the reward is 0."""

    def act(self, states):
        return np.full((len(states), 1), 0.5)


def test_a_deterministic_policy_of_continuous_actions_is_weighted_by_a_kernel():
    estimate = SNPDIS(config(bandwidth=0.2)).estimate(continuous_log(), Still())
    assert estimate.value == pytest.approx(-(0.2**2), abs=0.01)  # smoothing costs h^2 on a parabola
    with pytest.raises(ConfigError, match="bandwidth"):
        PDIS(config()).estimate(continuous_log(), Still())
    with pytest.raises(LogError, match="continuous ones"):
        DR(config(bandwidth=0.2)).estimate(continuous_log(), Still())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["TIS", "SNPDIS", "DR", "SNDR", "SAM-SNIS", "SM-IS"]))
def test_the_order_of_trajectories_does_not_matter_and_rewards_scale(seed, name):
    log = MDP.sample(LOGGING, 12, 5, rng=seed)
    gen = np.random.default_rng(seed)
    turned = log.take(gen.permutation(log.n))
    tripled = Episodes(
        **{
            r: getattr(log, r)
            for r in ("offsets", "state", "action", "propensity", "truncated", "terminated", "final_state")
        },
        reward=3 * log.reward,
        actions=2,
    )
    pair, state = ratios(5)
    q = gen.normal(size=(2, 2))
    made = BY_NAME[name](config(), q=q, weights=pair, state_weights=state)
    larger = BY_NAME[name](config(), q=3 * q, weights=pair, state_weights=state)
    policy = TablePolicy(TARGET)
    one, two, three = (
        made.estimate(log, policy),
        made.estimate(turned, policy),
        larger.estimate(tripled, policy),
    )
    assert two.value == pytest.approx(one.value, rel=1e-9) and two.hi == pytest.approx(one.hi, rel=1e-9)
    assert three.value == pytest.approx(3 * one.value, rel=1e-9) and three.lo == pytest.approx(
        3 * one.lo, rel=1e-9
    )


def test_repeating_every_trajectory_changes_no_value():
    log = MDP.sample(LOGGING, 30, 5, rng=1)
    twice = log.take(np.tile(np.arange(30), 2))
    for name in ("SNTIS", "SNPDIS", "DR", "SAM-IS"):
        made = BY_NAME[name](config(folds=1, ridge=0.0, convention="gamma_log"))
        one, two = (made.estimate(x, TablePolicy(TARGET)).value for x in (log, twice))
        assert two == pytest.approx(one, rel=1e-9)


def test_the_influence_of_a_ratio_matches_its_derivative():
    # weight of trajectory 0 moved from 1 to 1.0001 by repeats: (10001 + 1 copies against 10000)
    log = MDP.sample(LOGGING, 4, 3, rng=5)
    policy, made = TablePolicy(TARGET), SNPDIS(config())
    copies = 3000
    many = log.take(np.repeat(np.arange(4), copies))
    more = log.take(np.concatenate([np.repeat(np.arange(4), copies), [0]]))
    change = (made.estimate(more, policy).value - made.estimate(many, policy).value) * (4 * copies)
    logs = running_logs(log_ratios(log, policy), log.offsets)
    influence, _ = normalised_terms(
        np.zeros(4), log.reward, Weights(np.ones(log.rows), logs, log.offsets), GAMMA**log.steps
    )
    assert influence[0] - influence.mean() == pytest.approx(change, rel=1e-3)


def test_bootstrap_and_delta_intervals_of_a_ratio_agree_on_a_large_log():
    log = MDP.sample(LOGGING, 3000, 5, rng=1)
    policy = TablePolicy(TARGET)
    for cls in (SNPDIS, PDIS, SNTIS):
        t, boot = (cls(config(interval=i)).estimate(log, policy, rng=3) for i in ("t", "bootstrap"))
        assert boot.value == t.value and boot.interval.startswith("bootstrap")
        assert boot.se == pytest.approx(t.se, rel=0.1)
        assert boot.lo == pytest.approx(t.lo, abs=0.3 * t.se) and boot.hi == pytest.approx(
            t.hi, abs=0.3 * t.se
        )


def test_many_policies_and_estimators_at_once_equal_one_at_a_time():
    log = river().sample(swimmers()["swim-4"], 80, 20, rng=0)
    policies = {k: TablePolicy(v) for k, v in list(swimmers().items())[2:5]}
    names = (*ESTIMATORS, "SAM-IS_2", "SM-DR_1")
    setting = TrajectoriesConfig(gamma=0.95)
    table = evaluate_trajectories(log, policies, names, config=setting, rng=7)
    assert [(e.policy, e.estimator) for e in table] == [(p, n) for p in policies for n in names]
    for e in table[: len(ESTIMATORS)]:
        alone = BY_NAME[e.estimator](setting).estimate(log, policies["swim-2"], rng=7)
        assert (alone.value, alone.lo, alone.hi) == (e.value, e.lo, e.hi)


def test_one_refusal_leaves_the_other_estimates_standing():
    log, _ = by_hand(action=[0, 1, 0, 1], actions=2)
    never = {"never": TablePolicy([[1.0, 0.0], [1.0, 0.0]])}
    bad, good = evaluate_trajectories(log, never, ("SNPDIS", "DM"), gamma=0.9)
    assert np.isnan(bad.value) and not bad.valid and "possible" in bad.reason
    assert np.isfinite(good.value)
    with pytest.raises(ConfigError, match="'PDISS' is no trajectory estimator"):
        evaluate_trajectories(log, never, ("PDISS",))


def test_equal_seeds_give_equal_folds_and_the_log_stays_as_it_was():
    log = river().sample(swimmers()["swim-4"], 60, 15, rng=0)
    before = log.fingerprint
    policy = TablePolicy(swimmers()["swim-5"])
    one, two, other = (DRL().estimate(log, policy, rng=r).value for r in (1, 1, 2))
    assert one == two != other and log.fingerprint == before


def test_an_estimate_is_saved_and_loaded(tmp_path):
    log, policy = by_hand()
    estimate = SNPDIS(config()).estimate(log, policy)
    back = type(estimate).load(estimate.save(tmp_path / "e.json"))
    assert back.value == estimate.value and "discounted by 0.9" in back.unit and back.n == 2


@pytest.mark.slow
def test_ninety_five_percent_intervals_cover_the_truth():
    policy, runs = TARGET * 0.5 + LOGGING * 0.5, 400
    names = ("DM", "PDIS", "SNPDIS", "DR", "SNDR", "SAM-IS", "SAM-DR", "SM-IS", "SM-DR", "SAM-SNIS")
    true = {True: MDP.value(policy, GAMMA), False: MDP.value(policy, GAMMA, 10)}
    hits = dict.fromkeys(names, 0)
    for seed in range(runs):
        log = MDP.sample(LOGGING, 200, 10, rng=seed)
        for e in evaluate_trajectories(log, {"p": TablePolicy(policy)}, names, gamma=GAMMA, rng=seed):
            hits[e.estimator] += e.lo <= true[e.estimator not in ("PDIS", "SNPDIS")] <= e.hi
    covered = {k: v / runs for k, v in hits.items()}
    assert all(0.92 <= c <= 0.98 for c in covered.values()), covered


def contract_example(frame):
    """The shared log as trajectories of four rows."""
    row = nw.from_native(frame, eager_only=True).with_row_index("row")
    row = row.with_columns(trajectory=nw.col("row") // 4, t=nw.col("row") % 4)
    roles = {"trajectory": "trajectory", "t": "t", "state": ["x"], "action": "item"}
    log = Episodes.from_table(row.to_native(), **roles, reward="click", propensity="p")

    def uniform(states):
        return np.full((len(states), len(log.actions)), 1 / len(log.actions))

    return evaluate_trajectories(log, {"uniform": uniform}, ESTIMATORS, gamma=0.9, rng=3)


def drifting_log(n=300, steps=30, seed=0):
    """A number that drifts up or down with the action and pays itself; its value is linear in the state."""
    gen = np.random.default_rng(seed)
    x, a = np.zeros((n, steps + 1, 1)), np.zeros((n, steps), int)
    x[:, 0, 0] = gen.normal(size=n)
    for t in range(steps):
        a[:, t] = gen.random(n) < 0.5
        x[:, t + 1, 0] = 0.8 * x[:, t, 0] + 0.5 * (2 * a[:, t] - 1) + 0.3 * gen.normal(size=n)
    return Episodes(
        offsets=np.arange(n + 1) * steps,
        state=x[:, :-1].reshape(-1, 1),
        action=a.ravel(),
        reward=x[:, :-1].ravel(),
        propensity=np.full(n * steps, 0.5),
        truncated=np.tile(np.arange(steps) == steps - 1, n),
        final_state=x[:, -1],
    )


def test_states_that_are_vectors_work_for_every_estimator_and_linear_values_are_found():
    drift = np.tanh(0.2)
    policy = LinearSoftmax(np.zeros((1, 2)), [-0.2, 0.2])  # E[2a - 1] = tanh(.2)
    true = sum(0.8**t * 0.5 * drift * (1 - 0.8**t) / 0.2 for t in range(300))
    setting = TrajectoriesConfig(gamma=0.8, features="linear")
    found = evaluate_trajectories(drifting_log(), {"up": policy}, ESTIMATORS, config=setting, rng=1)
    # a linear weight cannot be the ratio of two densities, but values are linear, so whatever has a model is right
    assert all(np.isfinite(e.value) for e in found)
    for e in found:
        if FORMS[e.estimator].model:
            assert abs(e.value - true) < 4 * e.se, e
