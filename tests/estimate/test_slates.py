"""Slates: products by hand, exactness on enumerated slates, limits, cascade DR, ragged slates, refusals."""

from __future__ import annotations

from itertools import product
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError
from counterlog.core.estimators import Row
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Function, Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.slates import (
    IIPS,
    RIPS,
    SIPS,
    SNIIPS,
    SNRIPS,
    SNSIPS,
    CascadeDR,
    CascadeDRConfig,
    IIPSConfig,
    SNCascadeDR,
    before,
    layout_of,
    running_products,
    self_normalised,
    value_to_go,
    whole,
)

SLOT = np.array([0, 1, 2, 0, 1])
LOGGED_SHARE = np.array([[1, 3], [1, 1], [3, 1]])  # by slot, out of 4, 2 and 4
PI = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
POLICY = Function(lambda context, actions: PI[context["slot_code"].to_numpy()], name="target")


def enumerated(reward: str) -> Rounds:
    """Every slate of 3 slots and 2 actions as often as it is logged; `reward` says what a slot's reward depends on."""
    rows = []
    number = 0
    for slate in product((0, 1), repeat=3):
        for _ in range(int(np.prod([LOGGED_SHARE[k, a] for k, a in enumerate(slate)]))):
            for k, a in enumerate(slate):
                r = {
                    "own": 1.0 + 2 * a * (k + 1),
                    "above": 1.0 + a + 3 * sum(slate[:k]),
                    "all": 1.0 + a + 3 * sum(slate),
                }[reward]
                p = LOGGED_SHARE[k, a] / LOGGED_SHARE[k].sum()
                rows.append({"slate": number, "slot": k + 1, "slot_code": k, "a": a, "r": r, "p": p})
            number += 1
    return rounds(pl.DataFrame(rows))


def rounds(frame: pl.DataFrame, **roles: object) -> Rounds:
    usual = {"action": "a", "reward": "r", "propensity": "p", "unit": "slate", "position": "slot"}
    return Rounds(frame, **{**usual, "context": ("slot_code",), **roles})  # type: ignore[arg-type]


def truth(reward: str) -> float:
    total = 0.0
    for slate in product((0, 1), repeat=3):
        chance = np.prod([PI[k, a] for k, a in enumerate(slate)])
        for k, a in enumerate(slate):
            r = {
                "own": 1.0 + 2 * a * (k + 1),
                "above": 1.0 + a + 3 * sum(slate[:k]),
                "all": 1.0 + a + 3 * sum(slate),
            }
            total += chance * r[reward]
    return total


def test_running_products_by_hand() -> None:
    w = np.array([2.0, 3.0, 0.5, 4.0, 0.25])
    products = running_products(w, SLOT)
    assert products.tolist() == [2, 6, 3, 4, 1]
    assert before(products, SLOT).tolist() == [1, 2, 6, 1, 4]
    assert whole(products, SLOT).tolist() == [3, 3, 3, 1, 1]


def test_self_normalised_terms_have_the_ratio_as_their_mean() -> None:
    w, y, slot = np.array([1.0, 3.0, 2.0]), np.array([2.0, 6.0, 5.0]), np.array([0, 0, 1])
    terms = self_normalised(w, y, slot)
    assert terms[:2].mean() == pytest.approx(5.0)
    assert terms[2] == pytest.approx(5.0)
    assert terms[0] == pytest.approx(5 + 1 * (2 - 5) / 2)


@pytest.mark.parametrize(
    ("reward", "exact"),
    [("own", (SIPS, RIPS, IIPS)), ("above", (SIPS, RIPS)), ("all", (SIPS,))],
)
def test_each_is_exact_where_its_assumption_holds(reward: str, exact: tuple[type, ...]) -> None:
    log = enumerated(reward)
    for kind in (SIPS, RIPS, IIPS):
        found = kind().estimate(log, POLICY).value
        if kind in exact:
            assert found == pytest.approx(truth(reward), abs=1e-12)
        else:
            assert abs(found - truth(reward)) > 0.05


@pytest.mark.parametrize("reward", ["own", "above"])
def test_cascade_dr_is_exact_with_any_model(reward: str) -> None:
    log = enumerated(reward)
    for seed in range(3):
        table = np.random.default_rng(seed).normal(size=(3, 2))
        q = table[log.context["slot_code"].to_numpy()]
        assert CascadeDR(q=q).estimate(log, POLICY).value == pytest.approx(truth(reward), abs=1e-12)


def test_a_model_of_0_makes_cascade_dr_into_rips() -> None:
    log = enumerated("above")
    zero = CascadeDR(q=np.zeros((log.n, 2))).estimate(log, POLICY)
    rips = RIPS().estimate(log, POLICY)
    assert (zero.value, zero.se) == (pytest.approx(rips.value, abs=1e-12), pytest.approx(rips.se, rel=1e-9))


def test_the_right_value_to_go_leaves_no_variance() -> None:
    log = enumerated("own")
    code = log.context["slot_code"].to_numpy()
    ahead = np.zeros(4)
    q = np.zeros((3, 2))
    for k in (2, 1, 0):
        q[k] = [1.0 + ahead[k + 1], 1.0 + 2 * (k + 1) + ahead[k + 1]]
        ahead[k] = PI[k] @ q[k]
    found = CascadeDR(q=q[code]).estimate(log, POLICY)
    assert found.value == pytest.approx(truth("own"), abs=1e-12)
    assert found.se == pytest.approx(0, abs=1e-9)


def test_on_policy_all_are_the_mean_slate_reward() -> None:
    log = enumerated("all")
    mean = log.reward.sum() / 32
    share = LOGGED_SHARE / LOGGED_SHARE.sum(axis=1, keepdims=True)
    same = Function(lambda context, actions: share[context["slot_code"].to_numpy()], name="same")
    for kind in (SIPS, RIPS, IIPS, SNSIPS, SNRIPS, SNIIPS):
        for policy in (same, "logged"):
            e = kind().estimate(log, policy)
            assert e.value == pytest.approx(mean, abs=1e-12)
            assert (e.n, e.unit) == (32, "reward per slate")
    for kind in (CascadeDR, SNCascadeDR):
        assert kind().estimate(log, "logged").value == pytest.approx(mean, abs=1e-12)


def test_the_interval_is_that_of_the_slates_sums() -> None:
    log = enumerated("above")
    w = PI[log.context["slot_code"].to_numpy(), log.action] / log.propensity
    sums = np.bincount(
        log.unit, weights=running_products(w, log.context["slot_code"].to_numpy()) * log.reward
    )
    found = RIPS().estimate(log, POLICY)
    assert found.value == pytest.approx(sums.mean(), abs=1e-12)
    assert found.se == pytest.approx(sums.std(ddof=1) / np.sqrt(len(sums)), rel=1e-9)


def test_one_slot_makes_all_of_them_ips_or_snips() -> None:
    gen = np.random.default_rng(0)
    n = 60
    a = gen.integers(0, 2, n)
    frame = {"slate": np.arange(n), "slot": np.ones(n, int), "slot_code": 0, "a": a, "r": gen.random(n)}
    log = rounds(pl.DataFrame({**frame, "p": np.full(n, 0.5)}))
    policy = Table("t", np.tile([0.3, 0.7], (n, 1)))
    ips, snips = evaluate(log, [policy], ["IPS", "SNIPS"]).estimates
    for plain, kinds in ((ips, (SIPS, RIPS, IIPS)), (snips, (SNSIPS, SNRIPS, SNIIPS))):
        for kind in kinds:
            e = kind().estimate(log, policy)
            assert (e.value, e.se) == (
                pytest.approx(plain.value, abs=1e-12),
                pytest.approx(plain.se, rel=1e-6),
            )


def test_self_normalised_slots_are_ratios_added_up() -> None:
    log = enumerated("above").take(np.arange(60))
    slot = log.context["slot_code"].to_numpy()
    w = running_products(PI[slot, log.action] / log.propensity, slot)
    expected = sum((w * log.reward)[slot == k].sum() / w[slot == k].sum() for k in range(3))
    assert SNRIPS().estimate(log, POLICY).value == pytest.approx(expected, abs=1e-12)


def test_self_normalised_moves_with_a_constant_added_to_every_reward() -> None:
    log = enumerated("above").take(np.arange(60))
    moved = rounds(log.table.with_columns(pl.col("r") + 5))
    for kind in (SNSIPS, SNRIPS, SNIIPS):
        shift = kind().estimate(moved, POLICY).value - kind().estimate(log, POLICY).value
        assert shift == pytest.approx(15, abs=1e-9)


def test_the_order_of_rows_changes_nothing() -> None:
    log = enumerated("all")
    mixed = log.take(np.random.default_rng(0).permutation(log.n))
    for kind in (SIPS, RIPS, IIPS, SNRIPS):
        one, two = kind().estimate(log, POLICY), kind().estimate(mixed, POLICY)
        assert (one.value, one.se) == (pytest.approx(two.value, abs=1e-12), pytest.approx(two.se, rel=1e-9))


def test_slates_may_differ_in_length() -> None:
    frame = pl.DataFrame(
        {
            "slate": ["u", "u", "v"],
            "slot": [0, 1, 0],
            "slot_code": [0, 1, 0],
            "a": [0, 1, 1],
            "r": [1.0, 2.0, 4.0],
            "p": [0.25, 0.5, 0.5],
        }
    )
    # w: 0.5/0.25 = 2, 0.1/0.5 = 0.2, 0.5/0.5 = 1
    assert RIPS().estimate(rounds(frame), POLICY).value == pytest.approx((2 * 1 + 0.4 * 2 + 4) / 2)
    assert SIPS().estimate(rounds(frame), POLICY).value == pytest.approx((0.4 * 1 + 0.4 * 2 + 4) / 2)
    assert IIPS().estimate(rounds(frame), POLICY).value == pytest.approx((2 + 0.2 * 2 + 4) / 2)


def test_iips_takes_marginal_chances_from_columns() -> None:
    log = enumerated("own")
    frame = log.table.with_columns(
        mine=pl.Series(PI[log.context["slot_code"].to_numpy(), log.action]),
        theirs=pl.col("p"),
        wrong=pl.lit(1.5),
    )
    named = IIPS(IIPSConfig(target="mine", marginal="theirs")).estimate(rounds(frame), POLICY)
    assert named.value == pytest.approx(truth("own"), abs=1e-12)
    with pytest.raises(LogError, match="one marginal chance was named of two"):
        IIPS(IIPSConfig(target="mine")).estimate(rounds(frame), POLICY)
    with pytest.raises(PropensityError, match="'wrong' holds numbers that are no chance"):
        IIPS(IIPSConfig(target="mine", marginal="wrong")).estimate(rounds(frame), POLICY)


def simulated(seed: int, slates: int = 500) -> Rounds:
    gen = np.random.default_rng(seed)
    a = (gen.random((slates, 3)) < 0.5).astype(int)
    above = np.cumsum(a, axis=1) - a
    r = 0.2 + 0.3 * a + 0.2 * above + gen.normal(0, 0.1, a.shape)
    frame = {"slate": np.repeat(np.arange(slates), 3), "slot": np.tile([1, 2, 3], slates)}
    frame |= {
        "slot_code": np.tile([0, 1, 2], slates),
        "a": a.ravel(),
        "r": r.ravel(),
        "p": np.full(3 * slates, 0.5),
    }
    return rounds(pl.DataFrame(frame))


def test_a_fitted_cascade_dr_is_unbiased_with_less_variance_than_rips() -> None:
    mean = sum(0.2 + 0.3 * PI[k, 1] + 0.2 * PI[:k, 1].sum() for k in range(3))
    off: dict[str, list[float]] = {}
    for seed in range(20):
        for kind in (SIPS, RIPS, CascadeDR, SNCascadeDR):
            off.setdefault(kind.name, []).append(kind().estimate(simulated(seed), POLICY).value - mean)
    spread = {name: float(np.std(v)) for name, v in off.items()}
    assert spread["CascadeDR"] < spread["RIPS"] / 2 < spread["SIPS"] / 2
    for name in ("CascadeDR", "SNCascadeDR", "RIPS"):
        assert abs(np.mean(off[name])) < 4 * spread[name] / np.sqrt(20), name


def test_the_value_to_go_is_fitted_backwards_and_out_of_fold() -> None:
    log = simulated(0, 3000)
    where = layout_of(log)
    pi = PI[log.context["slot_code"].to_numpy()][where.order]
    q = value_to_go(log, pi, where, "linear", 3)
    last = where.slot == 2
    assert q[last, 1].mean() - q[last, 0].mean() == pytest.approx(0.3, abs=0.02)
    first = where.slot == 0
    # the first slot's action also lifts the two rewards below it; the model sees one slot above, so part of it is lost
    assert 0.3 < q[first, 1].mean() - q[first, 0].mean() < 0.75


def test_boosting_is_a_choice_and_seeds_repeat() -> None:
    estimator = CascadeDR(CascadeDRConfig(model="boosting"))
    log = simulated(1, 60)
    assert estimator.estimate(log, POLICY, rng=3) == estimator.estimate(log, POLICY, rng=3)


def test_every_name_is_found() -> None:
    log = enumerated("own")
    names = ("SIPS", "IIPS", "RIPS", "CascadeDR", "SNSIPS", "SNIIPS", "SNRIPS", "SNCascadeDR")
    assert [e.estimator for e in evaluate(log, [POLICY], names).estimates] == list(names)


def test_logs_without_slates_or_slots_are_refused() -> None:
    frame = enumerated("own").table
    with pytest.raises(LogError, match=r"does not say the slate's id\nhint: .*unit="):
        RIPS().estimate(rounds(frame, unit=None), POLICY)
    with pytest.raises(LogError, match=r"does not say the slot\nhint: .*position="):
        RIPS().estimate(rounds(frame, position=None), POLICY)


def test_gaps_and_doubled_slots_are_refused_with_the_place() -> None:
    log = enumerated("own")
    gap = np.delete(np.arange(log.n), 4)
    with pytest.raises(LogError, match=r"missing or doubled in 1 slates, first at row 4 \(slate=1, slot=3\)"):
        RIPS().estimate(log.take(gap), POLICY)
    twice = np.insert(np.arange(log.n), 1, 1)
    with pytest.raises(LogError, match="missing or doubled in 1 slates"):
        RIPS().estimate(log.take(twice), POLICY)


def test_a_slot_without_any_weight_is_refused_when_normalised() -> None:
    log = enumerated("own")
    code = log.context["slot_code"].to_numpy()
    pi = np.where(code[:, None] == 1, 0.0, PI[code])
    pi[code == 1, 1 - log.action[code == 1]] = 1.0
    with pytest.raises(SupportError, match="all weights in slot 2 are 0"):
        SNIIPS().estimate(log, Table("t", pi))


def test_predictions_of_the_wrong_shape_and_terms_without_a_log_are_refused() -> None:
    with pytest.raises(LogError, match=r"q has shape \(2, 2\)"):
        CascadeDR(q=np.zeros((2, 2))).estimate(enumerated("own"), POLICY)
    with pytest.raises(ConfigError, match="makes its terms from a log"):
        RIPS().parts(Row(np.ones(1), np.ones(1)))


def contract_example(frame: Any) -> Any:
    rows = nw.from_native(frame, eager_only=True).with_row_index("i")
    slated = rows.with_columns(slate=nw.col("i") // 4, slot=nw.col("i") % 4).to_native()
    log = Rounds(
        slated, action="item", reward="click", propensity="p", context=["x"], unit="slate", position="slot"
    )
    names = ("SIPS", "IIPS", "RIPS", "CascadeDR", "SNSIPS", "SNIIPS", "SNRIPS", "SNCascadeDR")
    return evaluate(log, ["uniform"], names).estimates
