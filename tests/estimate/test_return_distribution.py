import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.state_policies import TablePolicy
from counterlog.core.tabular import TabularMDP
from counterlog.estimate.return_distribution import (
    F_DM,
    F_SNTDR,
    F_SNTIS,
    F_TDR,
    F_TIS,
    ReturnDistribution,
    ReturnDistributionConfig,
    distribution_of,
    functional_of,
    proper,
)
from counterlog.estimate.trajectories import SNTIS, TIS, TrajectoriesConfig

MDP = TabularMDP(
    np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.2], [0.1, 0.9]]]),
    np.array([[0.0, 1.0], [2.0, 0.5]]),
    np.array([0.5, 0.5]),
    noise=0.5,
)
LOGGING = np.array([[0.5, 0.5], [0.4, 0.6]])
TARGET = np.array([[0.35, 0.65], [0.6, 0.4]])
ALL = (F_TIS, F_SNTIS, F_DM, F_TDR, F_SNTDR)


def by_hand():
    """Returns 1, 3, 2, 5 and weights 2, .5, .5, 1 (mean 1)."""
    log = Episodes(
        offsets=[0, 1, 2, 3, 4],
        state=[0, 0, 0, 0],
        action=[0, 1, 1, 0],
        reward=[1.0, 3.0, 2.0, 5.0],
        propensity=[0.3, 0.8, 0.8, 0.6],
        terminated=[1, 1, 1, 1],
    )
    return log, TablePolicy([[0.6, 0.4]])


def config(**changes):
    return ReturnDistributionConfig(**({"gamma": 0.9, "replicates": 200} | changes))


def test_the_weighted_distribution_by_hand():
    log, policy = by_hand()
    found = F_TIS(config()).distribution(log, policy)
    assert found.atoms == (1.0, 2.0, 3.0, 5.0)
    assert_allclose(found.cdf, [0.5, 0.625, 0.75, 1.0])
    assert found.mean() == pytest.approx(0.5 * 1 + 0.125 * 2 + 0.125 * 3 + 0.25 * 5)
    assert found.variance() == pytest.approx(0.5 + 0.125 * 4 + 0.125 * 9 + 0.25 * 25 - found.mean() ** 2)
    assert [found.quantile(a) for a in (0.01, 0.5, 0.51, 0.75, 1.0)] == [1, 1, 2, 3, 5]


def test_the_last_atom_of_cvar_counts_with_the_fraction_that_fits():
    log, policy = by_hand()
    found = F_SNTIS(config()).distribution(log, policy)
    assert found.cvar(0.25) == 1.0
    assert found.cvar(0.55) == pytest.approx((0.5 * 1 + 0.05 * 2) / 0.55)
    assert found.cvar(1.0) == pytest.approx(found.mean())


def test_the_doubly_robust_distribution_by_hand():
    # V_0 = 2.5 for all: F_DM = 1{m >= 2.5}; correction mean w (1{G <= m} - 1{2.5 <= m})
    log, policy = by_hand()
    q = np.array([[2.5, 2.5]])
    found = F_TDR(config(), q=q).distribution(log, policy)
    assert found.atoms == (1.0, 2.0, 2.5, 3.0, 5.0)
    assert_allclose(found.cdf, [0.5, 0.625, 0.625, 0.75, 1.0])
    assert F_DM(config(), q=q).distribution(log, policy).cdf == (1.0,)


def test_no_mass_lies_below_the_smallest_return():
    log, policy = by_hand()
    for cls in (F_TIS, F_SNTIS):
        found = cls(config()).distribution(log, policy)
        assert found.atoms[0] == 1.0 and found.cdf[0] == 0.5 and found.quantile(1e-9) == 1.0


def test_the_first_reward_is_not_discounted():
    log, policy = by_hand()
    assert F_TIS(config(gamma=0.1)).distribution(log, policy).atoms == (1.0, 2.0, 3.0, 5.0)


def test_the_mean_of_the_distribution_is_the_trajectory_estimate():
    log = MDP.sample(LOGGING, 300, 6, rng=5)
    setting = TrajectoriesConfig(gamma=0.9)
    policy = TablePolicy(TARGET)
    assert F_SNTIS(config()).distribution(log, policy).mean() == pytest.approx(
        SNTIS(setting).estimate(log, policy).value
    )
    found = F_TIS(config()).distribution(log, policy)
    if found.mass < 1:
        assert found.mean() == pytest.approx(TIS(setting).estimate(log, policy).value)


def test_the_logging_policy_has_the_empirical_distribution():
    log = MDP.sample(LOGGING, 101, 6, rng=0)
    g = np.sort(log.returns(0.9))
    for cls in (F_TIS, F_SNTIS, F_TDR, F_SNTDR):
        found = cls(config()).distribution(log, TablePolicy(LOGGING))
        assert found.quantile(0.5) == g[50] and found.mean() == pytest.approx(g.mean(), abs=1e-12)
        assert found.cvar(20 / 101) == pytest.approx(g[:20].mean(), abs=1e-12)


def test_weights_below_one_leave_mass_unaccounted_for_and_say_so():
    log, _ = by_hand()
    found = F_TIS(config()).distribution(log, TablePolicy([[0.1, 0.9]]))
    assert found.mass < 1 and np.isnan(found.quantile(0.99)) and not found.valid
    assert "use F_SNTIS" in found.reason


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_every_distribution_rises_from_at_least_zero_to_at_most_one(seed):
    log = MDP.sample(LOGGING, 25, 4, rng=seed)
    for cls in ALL:
        found = cls(config(folds=2)).distribution(log, TablePolicy(TARGET))
        assert (np.diff(found.cdf) >= 0).all() and found.cdf[0] >= 0 and found.cdf[-1] <= 1
        assert (np.diff(found.atoms) > 0).all()
        if cls is not F_TIS:
            assert found.mass == pytest.approx(1.0)
        assert found.cvar(0.3) <= found.quantile(0.3) + 1e-12 or cls is F_TIS


def test_the_running_maximum_mends_what_falls():
    assert_allclose(proper(np.array([[0.2, 0.1, -0.5, 0.7, 1.2]])), [[0.2, 0.2, 0.2, 0.7, 1.0]])


def test_replicates_recompute_the_ratio():
    g, w, atoms = np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([1.0, 2.0])
    counts = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    cdf = distribution_of(counts, g, w, None, "F_SNTIS", atoms)
    assert_allclose(cdf[:, 0], [0.25, 1.0, 0.5])


def test_quantiles_and_tails_tend_to_the_truth():
    log, policy = MDP.sample(LOGGING, 20_000, 4, rng=1), TablePolicy(TARGET)
    g = np.sort(MDP.sample(TARGET, 100_000, 4, rng=2).returns(0.9))
    for cls in (F_SNTIS, F_SNTDR, F_TDR):
        found = cls(config(truncation="end")).distribution(log, policy)
        assert found.mean() == pytest.approx(g.mean(), abs=0.04)
        assert found.variance() == pytest.approx(g.var(), rel=0.06)
        assert found.quantile(0.2) == pytest.approx(np.quantile(g, 0.2), abs=0.06)
        assert found.cvar(0.2) == pytest.approx(g[:20_000].mean(), abs=0.06)


@pytest.mark.parametrize("functional", ["mean", "variance", "quantile", "cvar"])
def test_intervals_hold_the_value_and_name_their_functional(functional):
    log = MDP.sample(LOGGING, 400, 4, rng=3)
    for cls in ALL:
        estimate = cls(config(functional=functional, alpha=0.2)).estimate(log, TablePolicy(TARGET), rng=1)
        assert estimate.lo <= estimate.value <= estimate.hi and functional in estimate.estimator
        assert ("squared" in estimate.unit) == (functional == "variance")
    assert F_SNTIS(config()).estimate(log, TablePolicy(TARGET)).valid
    assert not F_DM(config(functional="cvar")).estimate(log, TablePolicy(TARGET)).valid


def test_equal_seeds_give_equal_intervals():
    log = MDP.sample(LOGGING, 100, 4, rng=3)
    one, two, other = (F_SNTIS(config()).estimate(log, TablePolicy(TARGET), rng=r).hi for r in (1, 1, 2))
    assert one == two != other


def test_impossible_questions_are_refused():
    log, _ = by_hand()
    one_sided = log.take([1, 2])
    with pytest.raises(SupportError, match=r"never logged"):
        F_SNTIS(config()).estimate(one_sided, TablePolicy([[1.0, 0.0]]))
    with pytest.raises(ConfigError, match="lower tail"):
        functional_of(np.array([1.0]), np.array([[1.0]]), "cvar", 0.0)


def test_a_distribution_is_saved_loaded_and_shown_as_rows(tmp_path):
    log, policy = by_hand()
    found = F_SNTIS(config()).distribution(log, policy)
    assert ReturnDistribution.load(found.save(tmp_path / "f.json")) == found
    assert found.to_frame().columns == ["return", "cdf"] and found.to_frame().height == 4


@pytest.mark.slow
def test_bootstrap_intervals_of_the_tail_cover_the_truth():
    g = np.sort(MDP.sample(TARGET, 400_000, 4, rng=99).returns(0.9))
    true = g[:80_000].mean()
    made = F_SNTIS(config(functional="cvar", alpha=0.2, replicates=300))
    hits = 0
    for seed in range(300):
        estimate = made.estimate(MDP.sample(LOGGING, 400, 4, rng=seed), TablePolicy(TARGET), rng=seed)
        hits += estimate.lo <= true <= estimate.hi
    assert 0.91 <= hits / 300 <= 0.98, hits / 300


def contract_example(frame):
    """The shared log as trajectories of four rows."""
    row = nw.from_native(frame, eager_only=True).with_row_index("row")
    row = row.with_columns(trajectory=nw.col("row") // 4, t=nw.col("row") % 4)
    roles = {"trajectory": "trajectory", "t": "t", "state": ["x"], "action": "item"}
    log = Episodes.from_table(row.to_native(), **roles, reward="click", propensity="p")

    def uniform(states):
        return np.full((len(states), len(log.actions)), 1 / len(log.actions))

    return tuple(
        x
        for c in ALL
        for x in (c(config()).estimate(log, uniform, rng=3), c(config()).distribution(log, uniform))
    )
