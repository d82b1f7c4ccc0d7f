from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from counterlog.core.errors import ConfigError
from counterlog.core.policies import Always, Table, Uniform
from counterlog.core.rounds import Rounds
from counterlog.datasets import ad_load as world
from counterlog.rank.exploration_plan import (
    ExplorationPlan,
    ExplorationPlanConfig,
    planned_logging,
    second_moment,
)


def contract_example(frame: Any) -> Any:
    log = Rounds(frame, action="item", reward="click", propensity="p", context=["x", "device"], unit="user")
    return ExplorationPlan().plan(log, Uniform(), rng=3)


def test_planned_logging_by_hand():
    pi, m = np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 9.0, 4.0]])
    allowed = np.ones((1, 3), dtype=bool)
    np.testing.assert_allclose(planned_logging(pi, m, allowed, 0.0), [[0.25, 0.75, 0.0]])
    np.testing.assert_allclose(planned_logging(pi, m, allowed, 0.1), [[0.275, 0.625, 0.1]])


def test_no_logging_policy_has_a_smaller_second_moment_than_the_planned_one():
    gen = np.random.default_rng(0)
    pi, m = gen.dirichlet(np.ones(4), 20), gen.uniform(0.1, 3.0, (20, 4))
    ideal = planned_logging(pi, m, np.ones((20, 4), dtype=bool), 0.0)
    least = second_moment(pi, m, ideal)
    assert least == pytest.approx(((pi * np.sqrt(m)).sum(axis=1) ** 2).mean())
    for _ in range(50):
        assert second_moment(pi, m, gen.dirichlet(np.ones(4), 20)) >= least


def test_rows_needed_are_those_whose_interval_has_the_width():
    log = world.as_rounds(world.make_fetches(4000, rng=1))
    policy = Always(3)
    plan = ExplorationPlan(ExplorationPlanConfig(half_width=0.05)).plan(log, policy)
    w = policy.logged_probs(log) / log.propensity
    variance = (w * log.reward).var()
    assert plan.rows_now == pytest.approx(1.96**2 * variance / 0.05**2, rel=1e-3)
    assert plan.rows_planned < plan.rows_now / 3
    assert plan.burden[3] == pytest.approx(1.0)
    assert plan.share[3] > 0.9


def test_logging_by_the_plan_gives_the_variance_it_promised():
    frame = world.make_fetches(20_000, rng=2)
    log = world.as_rounds(frame)
    policy = Table("mixed", np.tile([0.1, 0.2, 0.4, 0.2, 0.1], (20_000, 1)))
    plan = ExplorationPlan(ExplorationPlanConfig(half_width=0.01)).plan(log, policy)
    found = world.visits(20_000, rng=3)
    p = np.tile(plan.share, (20_000, 1))
    gen = np.random.default_rng(4)
    load = (p.cumsum(axis=1) < gen.random(20_000)[:, None]).sum(axis=1).clip(max=4)
    stays = gen.random(20_000) < world.continue_chance(found.kind, found.depth, load)
    w = policy.matrix[0, load] / p[np.arange(20_000), load]
    assert (w * stays).var() * 1.96**2 / 0.01**2 == pytest.approx(plan.rows_planned, rel=0.1)


def test_a_wider_interval_needs_fewer_rows_by_the_square():
    log = world.as_rounds(world.make_fetches(1000))
    wide, narrow = (
        ExplorationPlan(ExplorationPlanConfig(half_width=h)).plan(log, Uniform()) for h in (0.02, 0.01)
    )
    assert narrow.rows_now == pytest.approx(4 * wide.rows_now, rel=0.01)
    assert len(narrow.records()) == 5


def test_unavailable_levels_get_nothing():
    log = world.as_rounds(world.make_fetches(1000, limited=0.5), limits=True)
    pi = Uniform().probs(log)
    planned = planned_logging(pi, np.ones_like(pi), log.available, 0.05)
    assert (planned[~log.available] == 0).all()
    np.testing.assert_allclose(planned.sum(axis=1), 1.0)


def test_floors_that_add_up_to_more_than_1_are_refused():
    with pytest.raises(ConfigError, match="floor"):
        planned_logging(np.ones((1, 2)) / 2, np.ones((1, 2)), np.ones((1, 2), dtype=bool), 0.6)
