"""Capacity-constrained influence maximization: the tiny network by hand, the certificate, determinism, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.cascades import exact_spread, spread
from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.friend_lists import FriendLists, friend_lists
from counterlog.core.network import Network
from counterlog.core.reverse_sets import ReverseSampler, ReverseSets
from counterlog.spread.capacity_constrained_im import (
    METHODS,
    CapacityConstrainedIM,
    CapacityConstrainedIMConfig,
    distinct_seeds,
    globally_best,
    largest_curvature,
    round_robin,
    sample_sizes,
)
from counterlog.spread.opim_c import greedy

SOURCE = [0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 5, 4, 0, 7]
TARGET = [2, 3, 4, 3, 4, 5, 6, 6, 7, 7, 7, 7, 2, 0, 6, 1]
CHANCE = [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.4, 0.3, 0.9, 0.2, 0.1, 1, 1, 0.7]


def tiny() -> Network:
    """Two starters, 0 and 1, with sure edges to their friends; paths back into them do not count."""
    return Network.from_edges(SOURCE, TARGET, CHANCE)


def plan(network: Network, starters: Any, **settings_: Any) -> Choice:
    capacity = settings_.pop("capacity", 1)
    config = CapacityConstrainedIMConfig(threads=1, **settings_)
    return CapacityConstrainedIM(config).choose(network, starters, capacity=capacity)


def contract_example(frame: Any) -> Choice:
    network = Network.from_frame(frame, "user", "day", 0.3)
    starters = network.labels[np.argsort(-network.out_degree, kind="stable")[:5]]
    return plan(network, starters, capacity=2)


def best_assignment(lists: FriendLists, value: Any) -> float:
    """The largest value over all feasible choices, by enumeration."""
    own = [lists.friends[a:b].tolist() for a, b in itertools.pairwise(lists.indptr)]
    options = [
        list(itertools.combinations(f, min(int(k), len(f)))) for f, k in zip(own, lists.capacity, strict=True)
    ]
    return max(value(sorted(set(itertools.chain(*pick)))) for pick in itertools.product(*options))


def random_network(gen: np.random.Generator, n: int = 9, m: int = 15) -> tuple[Network, list[int]]:
    """Few edges among the passive nodes, so that live edges can be enumerated; sure edges out of two starters."""
    ends = np.array([(u, v) for u in range(2, n) for v in range(2, n) if u != v])
    inner = ends[gen.permutation(len(ends))[: m - 6]]
    outer = np.array([(a, v) for a in (0, 1) for v in gen.permutation(np.arange(2, n))[:3]])
    both = np.concatenate([inner, outer])
    p = np.concatenate([gen.uniform(0.1, 0.9, len(inner)), np.ones(len(outer))])
    return Network.from_edges(both[:, 0], both[:, 1], p, isolated=list(range(n))), [0, 1]


def test_spread_of_the_tiny_network_by_enumeration() -> None:
    passive = tiny().without(np.array([0, 1], np.int32))
    by_hand = {2: 1.6, 3: 1.96, 4: 1.3, 5: 2.051, 6: 1.2, 7: 1.0}
    for node, value in by_hand.items():
        assert exact_spread(passive, [node]) == pytest.approx(value, abs=1e-6)
    assert exact_spread(passive, [3, 5]) == pytest.approx(3.5713, abs=1e-6)
    assert exact_spread(passive, [2, 3, 4, 5]) == pytest.approx(5.7143, abs=1e-6)


def test_paths_through_starters_do_not_count() -> None:
    network = tiny()
    assert exact_spread(network, [4]) == pytest.approx(6.5936, abs=1e-6)
    for method in ("mc", "rr"):
        found = spread(network, [4], starters=[0, 1], method=method, runs=20_000, error=0.02)
        assert found.value == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("starters", [[0, 1], [1, 0]])
def test_every_rule_finds_the_optimum_of_the_tiny_network(method: str, starters: list[int]) -> None:
    one = plan(tiny(), starters, method=method, eps=0.05, delta=1e-4)
    assert {(p.starter, p.node) for p in one.picks} == {(0, 3), (1, 5)}
    two = plan(tiny(), starters, method=method, eps=0.05, delta=1e-4, capacity=2)
    assert set(two.seeds) == {2, 3, 4, 5}


def test_curvature_of_the_tiny_network() -> None:
    network = tiny()
    lists = friend_lists(network, [0, 1], 1)
    passive = network.without(lists.starters)
    keep = np.diff(lists.owner_ptr) > 0
    sample = ReverseSampler(passive, keep=keep, threads=1).draw(0, 200_000)
    exact = 1 - min(
        (exact_spread(passive, lists.candidates) - exact_spread(passive, np.setdiff1d(lists.candidates, v)))
        / exact_spread(passive, [v])
        for v in lists.candidates
    )
    assert exact == pytest.approx(0.789917, abs=1e-6)
    assert largest_curvature(sample, network.n) == pytest.approx(exact, abs=0.01)


def test_sample_sizes_by_hand() -> None:
    lists = friend_lists(tiny(), [0, 1], 1)  # 4 and 3 friends, one each: ln 4 + ln 3 = ln 12
    L = np.log(6 / 0.1)
    core = 2 * (0.5 * np.sqrt(L) + np.sqrt(0.5 * (np.log(12) + L))) ** 2
    least, most = sample_sizes(lists, 6, 2, 0.1, 0.1, "paper")
    assert least == pytest.approx(core / 2)
    assert most == pytest.approx(core * 6 / (0.01 * 2))
    assert sample_sizes(lists, 6, 4, 0.1, 0.1, "code")[0] == pytest.approx(core / 2)


def test_one_starter_befriending_all_is_plain_influence_maximization() -> None:
    gen = np.random.default_rng(1)
    ends = gen.integers(0, 60, (300, 2))
    star = np.column_stack([np.full(60, 99), np.arange(60)])
    network = Network.from_edges(*np.concatenate([ends, star]).T, 0.1)
    lists = friend_lists(network, [99], 10)
    sample = ReverseSampler(network.without(lists.starters), threads=1).draw(0, 5_000)
    one = round_robin(sample, lists, network.n)
    plain = greedy(sample, lists.candidates, network.n, 10)
    assert one.node.tolist() == plain.node.tolist()
    assert one.gained.tolist() == plain.gained.tolist()
    assert globally_best(sample, lists, network.n).node.tolist() == plain.node.tolist()


def slow_greedy(sample: ReverseSets, lists: FriendLists, rule: str) -> list[tuple[int, int]]:
    """Greedy as it is written down: all gains are counted anew at every step."""
    sets = [set(sample.nodes[a:b].tolist()) for a, b in itertools.pairwise(sample.offsets)]
    own = [lists.friends[a:b].tolist() for a, b in itertools.pairwise(lists.indptr)]
    left, chosen, out = lists.capacity.tolist(), set[int](), list[tuple[int, int]]()

    def gain(v: int) -> int:
        return sum(v in s and not (s & chosen) for s in sets)

    if rule == "rr":
        for turn in range(max(left)):
            for u, friends in enumerate(own):
                free = [v for v in friends if v not in chosen]
                if turn < left[u] and free:
                    v = max(free, key=lambda x: (gain(x), -x))
                    chosen.add(v)
                    out.append((u, v))
        return out
    while True:
        able = [(v, u) for u, friends in enumerate(own) for v in friends if left[u] and v not in chosen]
        if not able:
            return out
        v = max({v for v, _ in able}, key=lambda x: (gain(x), -x))
        dropped = [x for x in lists.candidates.tolist() if (gain(x), -x) > (gain(v), -v) and x not in chosen]
        takers = [u for x, u in able if x == v]
        room = {u: sum(x not in chosen and x not in dropped for x in own[u]) for u in takers}
        u = min(takers, key=lambda t: (room[t], t))
        left[u] -= 1
        chosen.add(v)
        out.append((u, v))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_fast_rules_choose_what_the_plain_ones_choose(seed: int, capacity: int) -> None:
    gen = np.random.default_rng(seed)
    network = Network.from_edges(*gen.integers(0, 20, (70, 2)).T, 0.3, isolated=range(20))
    who = [int(v) for v in gen.permutation(20)[:4]]
    try:
        lists = friend_lists(network, who, capacity)
    except SupportError:
        return
    keep = np.diff(lists.owner_ptr) > 0
    sample = ReverseSampler(network.without(lists.starters), keep=keep, rng=seed, threads=1).draw(0, 60)
    turns = round_robin(sample, lists, network.n)
    assert list(zip(turns.owner.tolist(), turns.node.tolist(), strict=True)) == slow_greedy(
        sample, lists, "rr"
    )
    best = globally_best(sample, lists, network.n)
    slow = slow_greedy(sample, lists, "mg")
    assert sorted(best.node.tolist()) == sorted(v for _, v in slow)
    assert np.bincount(best.owner, minlength=4).max() <= capacity
    for made in (turns, best):
        assert made.covered == sample.covered(made.node, network.n)


def test_the_bounds_hold_on_random_networks() -> None:
    gen = np.random.default_rng(3)
    missed = {"lower": 0, "upper": 0}
    runs = 200
    for trial in range(runs):
        network, who = random_network(gen)
        lists = friend_lists(network, who, 1)
        passive = network.without(lists.starters)
        method = METHODS[trial % 4]
        maker = CapacityConstrainedIM(CapacityConstrainedIMConfig(method=method, delta=0.01, threads=1))
        made, sampler = maker.certified(network, lists, rng=trial)
        assert sampler.population == network.n - 2
        best_cover = best_assignment(lists, lambda s, m=made, g=network: m.first.covered(np.array(s), g.n))
        assert made.selection.bound >= best_cover
        assert made.selection.covered >= best_cover / 2
        missed["lower"] += made.lower > exact_spread(passive, np.unique(made.selection.node)) + 1e-6
        missed["upper"] += made.upper < best_assignment(lists, lambda s, g=passive: exact_spread(g, s)) - 1e-6
    assert max(missed.values()) <= 0.01 * runs


def test_a_plan_is_the_same_on_any_number_of_threads() -> None:
    gen = np.random.default_rng(0)
    network = Network.from_edges(*gen.integers(0, 2_000, (8_000, 2)).T)
    whole = [
        CapacityConstrainedIM(CapacityConstrainedIMConfig(method="rr-opim", eps=0.01, threads=t)).choose(
            network, range(20), rng=5
        )
        for t in (1, 2, 4)
    ]
    assert whole[0].sets > 4096
    assert whole[0].to_json() == whole[1].to_json() == whole[2].to_json()
    assert whole[0].to_json() != (
        CapacityConstrainedIM(CapacityConstrainedIMConfig(method="rr-opim", eps=0.01))
        .choose(network, range(20), rng=6)
        .to_json()
    )


def test_capacities_may_differ_and_are_kept() -> None:
    gen = np.random.default_rng(2)
    network = Network.from_edges(*gen.integers(0, 200, (3_000, 2)).T)
    for method in METHODS:
        made = plan(network, [4, 5, 6], method=method, capacity=[1, 2, 3])
        assert {s.starter: s.chosen for s in made.starters} == {4: 1, 5: 2, 6: 3}
        assert len(made.seeds) == len(made.picks) == 6


def test_gains_add_up_and_more_room_is_worth_what_it_says() -> None:
    gen = np.random.default_rng(4)
    network = Network.from_edges(*gen.integers(0, 300, (1_500, 2)).T)
    one = plan(network, [1, 2, 3], eps=0.02, delta=1e-6)
    assert sum(p.gain for p in one.picks) == pytest.approx(one.spread)
    assert all(0 <= s.alone <= one.spread for s in one.starters)
    more = plan(network, [1, 2, 3], eps=0.02, delta=1e-6, capacity=[2, 1, 1])
    grown = spread(network, more.seeds, starters=[1, 2, 3], rng=1).value
    before = spread(network, one.seeds, starters=[1, 2, 3], rng=1).value
    assert one.starters[0].next_gain == pytest.approx(grown - before, rel=0.5)


def test_thresholds_are_planned_too() -> None:
    gen = np.random.default_rng(4)
    network = Network.from_edges(*gen.integers(0, 300, (1_500, 2)).T)
    made = plan(network, [1, 2, 3], model="lt", eps=0.05, capacity=5)
    checked = spread(network, made.seeds, starters=[1, 2, 3], model="lt", method="mc", runs=20_000)
    assert made.lower <= checked.value <= made.upper
    assert made.guaranteed


def test_memory_ends_the_doubling_and_is_reported() -> None:
    gen = np.random.default_rng(4)
    network = Network.from_edges(*gen.integers(0, 3_000, (9_000, 2)).T)
    made = plan(network, [1, 2, 3], eps=0.01, memory_mb=0.01)
    assert not made.guaranteed
    assert "memory_mb" in made.notes[0]


def test_the_random_assignment_counts_distinct_seeds() -> None:
    lists = friend_lists(tiny(), [0, 1], 2)
    assert distinct_seeds(lists, 0) in (3, 4)


@pytest.mark.parametrize(
    ("starters", "capacity", "error", "text"),
    [
        ([0, 77], 1, LogError, "starter 77 is not in the network"),
        ([0, 0], 1, LogError, "starter 0 is named twice"),
        ([], 1, SupportError, "no starter is named"),
        ([6], 1, SupportError, None),
        ([0], 0, ConfigError, "capacity 0"),
        ([0], 1.5, ConfigError, "capacity 1.5"),
        ([0, 1], [1], ConfigError, "1 capacities for 2 starters"),
    ],
)
def test_bad_requests_are_refused(
    starters: Any, capacity: Any, error: type[Exception], text: str | None
) -> None:
    network = Network.from_edges([0, 1, 7, 7], [1, 2, 6, 0]) if text is None else tiny()
    with pytest.raises(error, match=text or "no starter has a friend"):
        plan(network, starters, capacity=capacity)


@pytest.mark.parametrize("settings_", [{"eps": 0.5}, {"eps": 0.0}, {"delta": 1.0}, {"method": "best"}])
def test_parameters_outside_their_bounds_are_refused(settings_: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CapacityConstrainedIMConfig(**settings_)


def test_weights_that_sum_to_more_than_one_are_refused_under_thresholds() -> None:
    network = Network.from_edges([0, 0, 1, 3], [1, 2, 2, 2], 0.8)
    with pytest.raises(LogError, match=r"weights into node 2 sum to 1\.6"):
        plan(network, [0], model="lt")
    assert plan(network, [0], model="lt", normalise=True).guaranteed
    weights = Network.from_edges([0, 1], [2, 2], 0.8).threshold_weights(normalise=True).edge_probability
    assert weights.tolist() == [0.5, 0.5]
