"""Certified choice between policies: part values by hand, and no set of users up to the radius turns the choice."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.audit.certified_choice import CertifiedChoice, certified_choice, part_values, ranks
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.rounds import Rounds

POLICIES = ["always:a", "always:b", "uniform"]
ROLES = {"action": "action", "reward": "reward", "propensity": "p", "unit": "user"}


def frame(n=3_000, seed=0):
    gen = np.random.default_rng(seed)
    action = gen.choice(["a", "b", "c"], n)
    reward = gen.random(n) < np.where(action == "a", 0.6, np.where(action == "b", 0.4, 0.3))
    return pl.DataFrame(
        {"action": action, "reward": reward.astype(float), "p": 1 / 3, "user": gen.integers(0, 600, n)}
    )


def test_part_values_and_ranks_by_hand():
    weight = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    values = part_values(weight, np.array([1.0, 0.0, 5.0]), np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(values, [[2 / 3, np.nan], [np.nan, 5.0]])
    assert ranks(values).tolist() == [[1.0, -1.0], [-1.0, 1.0]]
    assert ranks(np.array([[3.0, 1.0, 3.0]])).tolist() == [[1.0, 0.0, 1.0]]


def test_the_better_policy_is_chosen_with_a_radius(tmp_path):
    found = certified_choice(Rounds(frame(), **ROLES), POLICIES, parts=15)
    assert found.choice == "always:a"
    assert found.radius >= 4
    assert sum(found.votes) == 15
    assert found.share == found.radius / found.n
    assert [r["policy"] for r in found.table()] == POLICIES
    assert CertifiedChoice.load(found.save(tmp_path / "c.json")) == found


@pytest.mark.parametrize("run_off", [True, False])
def test_no_users_up_to_the_radius_turn_the_choice(run_off):
    clean = frame()
    found = certified_choice(Rounds(clean, **ROLES), POLICIES, parts=9, run_off=run_off)
    assert found.radius >= 2
    gen = np.random.default_rng(1)
    for _ in range(15):
        users = gen.choice(600, found.radius, replace=False)
        gone = clean.filter(~pl.col("user").is_in(users.tolist()))
        many = 400  # each attacker pretends to hundreds of decisions that all praise b
        fake = pl.DataFrame(
            {
                "action": gen.choice(["a", "b"], many * len(users)),
                "p": 1 / 3,
                "user": np.repeat(users, many),
            }
        ).with_columns(reward=(pl.col("action") == "b").cast(pl.Float64))
        attacked = pl.concat([gone, fake.select(clean.columns).cast(dict(clean.schema))])
        again = certified_choice(Rounds(attacked, **ROLES), POLICIES, parts=9, run_off=run_off)
        assert again.choice == found.choice
        assert (
            attacked["reward"].filter(attacked["action"] == "b").mean() > 0.6
        )  # the plain comparison was turned


def test_row_order_does_not_matter_and_empty_parts_are_told():
    log = frame(60)
    one = certified_choice(Rounds(log, **ROLES), POLICIES, parts=200)
    other = certified_choice(
        Rounds(log.sample(fraction=1, shuffle=True, seed=1), **ROLES), POLICIES, parts=200
    )
    assert one == other
    assert "hold no record" in one.notes[0]


def test_logs_and_policies_that_break_the_proof_are_refused():
    log = Rounds(frame(), **ROLES)
    with pytest.raises(LogError, match="no units"):
        certified_choice(Rounds(frame(), **{**ROLES, "unit": None}), POLICIES)
    estimated = Rounds(
        frame().with_columns(x=pl.col("user") % 7), **{**ROLES, "propensity": "estimate"}, context=["x"]
    )
    with pytest.raises(SupportError, match="estimated propensities"):
        certified_choice(estimated, POLICIES)
    with pytest.raises(ConfigError, match="1 policies"):
        certified_choice(log, ["uniform"])
    with pytest.raises(ConfigError, match="best-fixed"):
        certified_choice(log, ["uniform", "best-fixed"])
