from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError
from counterlog.core.policies import Always
from counterlog.datasets import ad_load as world


def test_the_first_numbers_by_hand():
    assert world.continue_chance(np.array([1]), np.array([5]), np.array([2]))[0] == pytest.approx(
        1 / (1 + np.exp(-(2.2 - 0.5 * 2 * 0.5)))
    )
    assert world.revenue_mean(np.array([2]), np.array([0]))[0] == 0.0


def test_static_loads_have_their_known_values():
    found = {a: world.true_values(Always(a)) for a in (1, 2, 3)}
    for level, total in ((1, 1.026), (2, 1.043), (3, 1.008)):
        assert sum(found[level]) == pytest.approx(total, abs=3e-3)


def test_the_log_is_drawn_with_the_propensities_it_states():
    frame = world.make_fetches(40_000, rng=0, limited=0.5)
    for level in range(5):
        could = frame["eligible_max"] >= level
        hit = ((frame["ad_load"] == level) / frame["propensity"]).filter(could)
        assert hit.mean() == pytest.approx(1.0, abs=5 * hit.std() / np.sqrt(len(hit)))
    assert (frame["ad_load"] <= frame["eligible_max"]).all()


def test_rewards_have_their_means():
    frame = world.make_fetches(60_000, rng=1)
    both = frame.filter(pl.col("ad_load") == 2)
    satisfaction, revenue = world.true_values(Always(2))
    assert both["continued"].mean() == pytest.approx(satisfaction, abs=0.01)
    assert both["revenue"].mean() == pytest.approx(revenue, abs=0.012)


def test_a_session_ends_at_its_first_exit_and_numbers_its_fetches():
    frame = world.make_sessions(500, rng=0)
    grouped = frame.group_by("session_id").agg(
        pl.col("fetch_index").sort().alias("i"),
        pl.col("continued").slice(0, pl.len() - 1).min().alias("before"),
    )
    assert all(list(i) == list(range(len(i))) for i in grouped["i"])
    assert grouped["before"].drop_nulls().min() == 1.0


def test_the_same_rng_gives_the_same_log():
    assert world.make_fetches(100, rng=3).equals(world.make_fetches(100, rng=3))
    assert not world.make_fetches(100, rng=3).equals(world.make_fetches(100, rng=4))


def test_a_production_level_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="production=7"):
        world.make_fetches(10, production=7)
