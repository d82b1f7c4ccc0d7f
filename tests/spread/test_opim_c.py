"""OPIM-C: its bounds, its sample sizes, and greedy coverage."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from counterlog.core.cascades import exact_spread, spread
from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.martingale import certify, log_binomial, lower_bound, upper_bound
from counterlog.core.network import Network
from counterlog.core.reverse_sets import ReverseSampler
from counterlog.datasets.networks import network as named
from counterlog.spread.opim_c import BEST, OPIMC, OPIMCConfig, greedy, sample_sizes


def contract_example(frame: Any) -> Choice:
    return OPIMC(OPIMCConfig(seeds=3, threads=1)).choose(Network.from_frame(frame, "user", "day", 0.3), rng=3)


def test_the_bounds_by_hand() -> None:
    a = np.log(10)
    low = (np.sqrt(40 + 2 * a / 9) - np.sqrt(a / 2)) ** 2 - a / 18
    assert lower_bound(40, 100, 50, a) == pytest.approx(low * 0.5)
    assert upper_bound(40, 100, 50, a) == pytest.approx((np.sqrt(40 + a / 2) + np.sqrt(a / 2)) ** 2 * 0.5)
    assert upper_bound(100, 100, 50, a) == 50
    assert lower_bound(0, 100, 50, a) == 0


def test_the_bounds_cover_at_their_level() -> None:
    gen, a = np.random.default_rng(0), np.log(20)
    covered = gen.binomial(1_000, 0.03, 4_000)
    below = np.mean([lower_bound(int(c), 1_000, 1, a) > 0.03 for c in covered])
    above = np.mean([upper_bound(int(c), 1_000, 1, a) < 0.03 for c in covered])
    assert below <= 0.05
    assert above <= 0.05


def test_sample_sizes_by_hand() -> None:
    L = np.log(6 / 0.01)
    core = 2 * (BEST * np.sqrt(L) + np.sqrt(BEST * (np.log(45) + L))) ** 2 / 2
    assert sample_sizes(100, 10, 2, 0.1, 0.01) == pytest.approx((core, core * 100 / 0.01))
    assert log_binomial(10, 2) == pytest.approx(np.log(45))
    assert log_binomial(3, 7) == 0


def test_greedy_coverage_equals_counting_anew_at_every_step() -> None:
    gen = np.random.default_rng(5)
    for trial in range(20):
        g = Network.from_edges(*gen.integers(0, 30, (90, 2)).T, 0.2, isolated=range(30))
        sample = ReverseSampler(g, rng=trial, threads=1).draw(0, 200)
        sets = [set(sample.nodes[a:b].tolist()) for a, b in itertools.pairwise(sample.offsets)]
        candidates = np.sort(gen.permutation(30)[:20]).astype(np.int32)
        made = greedy(sample, candidates, g.n, 5)
        chosen, bound = set[int](), len(sets)
        for step in range(6):
            gains = {int(v): sum(v in s and not (s & chosen) for s in sets) for v in candidates}
            now = sum(bool(s & chosen) for s in sets)
            bound = min(bound, now + sum(sorted(gains.values())[-5:]))
            if step < 5:
                v = max(gains, key=lambda x: (gains[x], -x) if x not in chosen else (-1, 0))
                assert made.node[step] == v
                chosen.add(v)
        assert made.bound == min(bound, int(made.covered / BEST))


def test_the_certificate_holds_against_enumeration() -> None:
    gen, missed = np.random.default_rng(1), 0
    for trial in range(60):
        g = Network.from_edges(*gen.integers(0, 9, (12, 2)).T, 0.5, isolated=range(9))
        sampler = ReverseSampler(g, threads=1)
        made = OPIMC(OPIMCConfig(seeds=2, delta=0.01, threads=1)).certified(sampler, g.nodes, rng=trial)
        best = max(exact_spread(g, s) for s in itertools.combinations(range(9), 2))
        own = exact_spread(g, made.selection.node)
        missed += not (made.lower <= own + 1e-6 and made.upper >= best - 1e-6)
        assert own >= (BEST - 0.1) * best
    assert missed <= 1


@pytest.mark.data
@pytest.mark.slow
def test_the_certificate_holds_on_twenty_draws_of_a_real_network(data_folder: object) -> None:
    g = named("nethept")
    for rng in range(20):
        made = OPIMC().choose(g, rng=rng)
        checked = spread(g, list(made.seeds), error=0.01, rng=100 + rng)
        assert made.lower <= checked.value <= made.upper
        assert made.guaranteed


def test_no_threads_no_order_of_rounds_changes_the_choice() -> None:
    gen = np.random.default_rng(0)
    g = Network.from_edges(*gen.integers(0, 3_000, (9_000, 2)).T)
    made = [OPIMC(OPIMCConfig(seeds=5, threads=t)).choose(g, rng=1).to_json() for t in (1, 2, 4)]
    assert made[0] == made[1] == made[2]


def test_one_round_at_the_largest_size_is_guaranteed() -> None:
    g = Network.from_edges([0, 1, 2], [1, 2, 0], 0.5)
    sampler = ReverseSampler(g, threads=1)
    made = certify(
        sampler,
        lambda s: greedy(s, g.nodes, g.n, 1),
        rng=0,
        first_sets=500,
        most_sets=500,
        delta=0.1,
        target=2.0,
        memory=1e9,
    )
    assert made.rounds == 1
    assert made.reached


def test_candidates_are_respected_and_refused_when_unknown() -> None:
    g = Network.from_edges([0, 0, 0, 1], [1, 2, 3, 4], 0.9)
    assert OPIMC(OPIMCConfig(seeds=1)).choose(g).seeds == (0,)
    assert OPIMC(OPIMCConfig(seeds=1)).choose(g, candidates=[1, 4]).seeds == (1,)
    with pytest.raises(LogError, match="candidate 9"):
        OPIMC().choose(g, candidates=[9])
    with pytest.raises(SupportError, match="no candidate"):
        OPIMC().choose(g, candidates=np.empty(0, int))


def test_separate_lists_repeat_a_shared_friend() -> None:
    g = Network.from_edges([0, 0, 1, 1, 2, 2], [2, 3, 2, 4, 5, 6], 1.0)
    made = OPIMC(OPIMCConfig(seeds=1)).choose(g, [0, 1])
    assert [p.node for p in made.picks] == [2, 2]
    assert made.seeds == (2,)
    assert made.spread == pytest.approx(3, abs=0.1)


def test_parameters_outside_their_bounds_are_refused() -> None:
    for bad in ({"eps": 0.64}, {"seeds": 0}, {"delta": 0.0}):
        with pytest.raises(ConfigError, match="expected"):
            OPIMCConfig(**bad)
