import numpy as np
import pytest

from counterlog.audit.guarded_select import Selection, guarded_select
from counterlog.audit.reusable_holdout import Holdout, HoldoutConfig
from counterlog.core.errors import BudgetExhausted, ConfigError, LogError


def policies(m, n=2_000, seed=0, lift=0.0):
    """(n, m) importance-weighted rewards: five actions, uniform logging, reward mean 1/2 (+ lift for the last)."""
    gen = np.random.default_rng(seed)
    hit = gen.random((n, m)) < 0.2
    reward = gen.random((n, m)) < 0.5 + np.r_[np.zeros(m - 1), lift]
    return 5.0 * hit * reward


def names(m):
    return [f"p{j}" for j in range(m)]


def test_a_clear_winner_is_found_on_both_roads_and_its_value_is_in_the_band():
    train, holdout = policies(30, lift=0.3, seed=1), policies(30, lift=0.3, seed=2)
    for frozen in (False, True):
        got = guarded_select(train, holdout, names(30), bounds=(0, 5), frozen_first=frozen)
        assert got.winner == "p29"
        assert got.lo < 0.8 < got.hi
        assert got.level == pytest.approx(0.95)
        assert len(got.records()) == 30


def test_the_frozen_road_is_bonferroni_and_narrower_and_says_why():
    from scipy.stats import t

    train, holdout = policies(20, seed=1), policies(20, seed=2)
    frozen = guarded_select(train, holdout, names(20), bounds=(0, 5), frozen_first=True, level=0.9)
    j = names(20).index(frozen.winner)
    half = t.ppf(1 - 0.1 / 40, 1_999) * holdout[:, j].std(ddof=1) / np.sqrt(2_000)
    assert frozen.value == pytest.approx(holdout[:, j].mean())
    assert frozen.hi - frozen.value == pytest.approx(half)
    guarded = guarded_select(train, holdout, names(20), bounds=(0, 5), level=0.9)
    assert frozen.hi - frozen.lo < guarded.hi - guarded.lo
    assert "fixed before the holdout was looked at" in frozen.reason
    assert "every look is paid for" in guarded.reason
    assert frozen.ledger[-1]["kind"] == "plain look"
    assert frozen.ledger[-1]["candidates"] == 20


def test_the_frozen_bands_hold_together():
    missed = 0
    for seed in range(150):
        got = guarded_select(
            policies(10, 1_000, seed),
            policies(10, 1_000, 900 + seed),
            names(10),
            bounds=(0, 5),
            frozen_first=True,
        )
        missed += any(not r["lo"] <= 0.5 <= r["hi"] for r in got.candidates)
    assert missed / 150 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_the_quoted_winner_is_not_the_winners_curse():
    excess, naive = [], []
    for seed in range(30):
        train, holdout = policies(200, 1_000, seed), policies(200, 1_000, 500 + seed)
        got = guarded_select(train, holdout, names(200), bounds=(0, 5), rng=seed)
        excess.append(got.value - 0.5)
        naive.append(holdout.mean(axis=0).max() - 0.5)
    assert np.mean(naive) > 0.1
    assert abs(np.mean(excess)) < np.mean(naive) / 3


def test_the_same_guard_remembers_earlier_calls():
    train, holdout = policies(15, seed=3), policies(15, seed=4)
    guard = Holdout(2_000, 2_000, config=HoldoutConfig(threshold=0.03, budget=4, sigma=0.002))
    first = guarded_select(train, holdout, names(15), bounds=(0, 5), guard=guard)
    second = guarded_select(train, holdout, names(15), bounds=(0, 5), guard=guard)
    assert (first.questions, second.questions) == (16, 32)
    assert second.budget_left < first.budget_left < 4
    assert second.hi - second.lo > first.hi - first.lo
    assert guard.ledger.verify() == 32
    assert second.head == guard.ledger.head
    assert [r["index"] for r in second.ledger] == list(range(16, 32))


def test_looks_without_the_guard_are_counted_and_said():
    train, holdout = policies(15, seed=3), policies(15, seed=4)
    guard = Holdout(2_000, 2_000, config=HoldoutConfig(threshold=0.03, budget=4, sigma=0.002))
    first = guarded_select(train, holdout, names(15), bounds=(0, 5), guard=guard, frozen_first=True)
    assert len(first.notes) == 1
    second = guarded_select(train, holdout, names(15), bounds=(0, 5), guard=guard)
    assert "15 candidates were compared without the guard before" in second.notes[-1]
    third = guarded_select(train, holdout, names(15), bounds=(0, 5), guard=guard, frozen_first=True)
    assert "31 looks came before" in third.notes[1]
    assert guard.looks()["candidates"] == 46


def test_a_spent_budget_leaves_the_rest_unasked_and_then_refuses():
    train, holdout = policies(40, seed=3), policies(40, seed=4)
    guard = Holdout(2_000, 2_000, config=HoldoutConfig(threshold=1e-4, sigma=1e-5, budget=6))
    got = guarded_select(train, holdout, names(40), bounds=(0, 5), guard=guard)
    assert got.budget_left == 0
    assert "budget ended after 5 of 40 candidates" in got.notes[0]
    unasked = [r for r in got.candidates if r["source"] == "exhausted"]
    assert len(unasked) == 35
    assert all(np.isnan(r["value"]) for r in unasked)
    best_first = [r["train_value"] for r in got.candidates]
    assert best_first == sorted(best_first, reverse=True)
    with pytest.raises(BudgetExhausted, match="no budget"):
        guarded_select(train, holdout, names(40), bounds=(0, 5), guard=guard)


def test_clipping_bias_is_reported():
    train, holdout = policies(3, seed=5), policies(3, seed=6)
    got = guarded_select(train, holdout, names(3), bounds=(0, 4))
    for row in got.candidates:
        j = names(3).index(row["name"])
        assert row["clip_bias"] == pytest.approx((np.minimum(train[:, j], 4) - train[:, j]).mean())


def test_bounds_default_to_a_training_quantile():
    train, holdout = policies(3, seed=5), policies(3, seed=6)
    assert guarded_select(train, holdout, names(3)).bounds == (0.0, 5.0)


def test_ratios_are_asked_as_numerator_and_denominator():
    gen = np.random.default_rng(0)
    weights = [5.0 * (gen.random((4_000, 4)) < 0.2) for _ in range(2)]
    rewards = [w * (gen.random((4_000, 4)) < np.array([0.3, 0.4, 0.5, 0.9])) for w in weights]
    for frozen in (False, True):
        got = guarded_select(
            rewards[0], rewards[1], names(4), bounds=(0, 5), denominators=(weights[0], weights[1]),
            denominator_bounds=(0, 5), frozen_first=frozen,
        )  # fmt: skip
        assert got.winner == "p3"
        assert got.value == pytest.approx(0.9, abs=0.15)
        assert got.lo < 0.9 < got.hi
    plain = guarded_select(rewards[0], rewards[1], names(4), bounds=(0, 5), frozen_first=True)
    assert got.hi - got.lo < plain.hi - plain.lo  # self-normalising removes the weights' own variance


def test_same_rng_same_selection_and_it_saves(tmp_path):
    train, holdout = policies(10, seed=3), policies(10, seed=4)

    def strip(s):
        return {**s.to_dict(), "ledger": None, "head": None}

    one, two = (guarded_select(train, holdout, names(10), bounds=(0, 5), rng=8) for _ in range(2))
    assert strip(one) == strip(two)
    assert strip(Selection.load(one.save(tmp_path / "s.json"))) == strip(one)
    assert "p0" in one._repr_html_()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"names": ["a", "a", "b"]}, ConfigError, "3 names, 2 different"),
        ({"names": ["a", "b"]}, LogError, r"expected \(units, 2\)"),
        ({"level": 1.0}, ConfigError, "0 < level < 1"),
        ({"bounds": (1, 0)}, LogError, "two finite numbers"),
        (
            {"holdout_values": np.full((2_000, 3), np.nan)},
            LogError,
            "holdout values are not numbers in rows 0, 1",
        ),
        ({"guard": Holdout(500, 500)}, LogError, "2,000 and 2,000 units for a guard of 500 and 500"),
        ({"denominators": (np.zeros((2_000, 3)),) * 2, "frozen_first": True}, LogError, "not positive"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, text):
    given = {
        "train_values": policies(3, seed=1),
        "holdout_values": policies(3, seed=2),
        "names": names(3),
        "bounds": (0, 5),
    }
    given |= change
    with pytest.raises(error, match=text):
        guarded_select(given.pop("train_values"), given.pop("holdout_values"), given.pop("names"), **given)
