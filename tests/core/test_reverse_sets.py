"""Reverse-reachable sets and cascades against exact laws, and against each other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

from counterlog.core.cascades import Cascades, exact_spread, spread
from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.network import Network
from counterlog.core.reverse_sets import ReverseSampler, hits_needed
from counterlog.core.rr_kernels import COINS

pytestmark = pytest.mark.graphs


def fair(observed: Any, expected: Any) -> bool:
    return bool(
        stats.chisquare(observed, np.asarray(expected) / np.sum(expected) * np.sum(observed)).pvalue > 1e-3
    )


def codes(sample: Any) -> Any:
    """Each set as the bits of its members."""
    bits = (1 << sample.nodes.astype(np.int64)).cumsum()
    ends = np.concatenate([[0], bits])[sample.offsets]
    return np.diff(ends)


@pytest.mark.parametrize("by_edge", [False, True])
def test_sets_of_a_three_cycle_have_their_exact_law(by_edge: bool) -> None:
    p = [0.3] * 3 if by_edge else 0.3
    sample = ReverseSampler(Network.from_edges([0, 1, 2], [1, 2, 0], p), threads=1).draw(0, 300_000)
    found = np.bincount(codes(sample), minlength=8)
    one, two, three = 0.7 / 3, 0.21 / 3, 0.09
    assert found[0] == 0
    assert fair(found[1:], [one, one, two, one, two, two, three])


@pytest.mark.parametrize("by_edge", [False, True])
def test_leaps_hit_every_edge_of_a_star_alike(by_edge: bool) -> None:
    spokes, p = 2 * COINS + 5, 0.1
    network = Network.from_edges(
        np.arange(1, spokes + 1), np.zeros(spokes, int), [p] * spokes if by_edge else p
    )
    sample = ReverseSampler(network, threads=1).draw(0, 400_000)
    root = np.array([sample.nodes[a] for a in sample.offsets[:-1]]) == 0
    tries = int(root.sum())
    hit = np.bincount(sample.nodes, minlength=spokes + 1)[1:] - (len(sample) - tries) / spokes
    noise = np.sqrt(tries * p * (1 - p) + len(sample) / spokes)
    assert np.abs(hit - tries * p).max() < 5 * noise
    sizes = np.diff(sample.offsets)[root] - 1
    law = stats.binom.pmf(np.arange(13), spokes, p)
    assert fair(np.bincount(np.minimum(sizes, 12), minlength=13), [*law[:12], 1 - law[:12].sum()])


def test_unequal_edges_are_hit_with_their_own_probability() -> None:
    spokes = 2 * COINS
    p = np.linspace(0.02, 0.9, spokes).astype(np.float32)
    p[3], p[9] = 1.0, 0.0
    network = Network.from_edges(np.arange(1, spokes + 1), np.zeros(spokes, int), p)
    sampler = ReverseSampler(network, threads=1)
    sampler._roots = np.zeros(1, np.int32)
    sample = sampler.draw(0, 100_000)
    share = np.bincount(sample.nodes, minlength=spokes + 1)[1:] / len(sample)
    assert share[3] == 1.0
    assert share[9] == 0.0
    assert np.abs(share - p).max() < 5 * np.sqrt(0.25 / len(sample))


@pytest.mark.parametrize("by_edge", [False, True])
def test_a_threshold_walk_takes_each_neighbour_with_its_weight(by_edge: bool) -> None:
    w = np.array([0.1, 0.2, 0.3, 0.15], np.float32) if by_edge else 0.2
    network = Network.from_edges([1, 2, 3, 4], [0, 0, 0, 0], w)
    sampler = ReverseSampler(network, "lt", threads=1)
    sampler._roots = np.zeros(1, np.int32)
    sample = sampler.draw(0, 200_000)
    found = np.bincount(sample.nodes, minlength=5)
    each = np.asarray(w, np.float64) if by_edge else np.full(4, 0.2)
    assert fair([*found[1:], len(sample) - found[1:].sum()], [*each, 1 - each.sum()])


def test_a_walk_ends_at_a_removed_node() -> None:
    network = Network.from_edges([1, 2], [0, 0]).without(
        np.array([1], np.int32)
    )  # weight 1/2 each, as before
    sampler = ReverseSampler(network, "lt", threads=1)
    sampler._roots = np.zeros(1, np.int32)
    sample = sampler.draw(0, 100_000)
    assert np.mean(np.diff(sample.offsets) == 2) == pytest.approx(0.5, abs=0.01)


def test_sets_do_not_depend_on_threads_or_on_how_they_are_asked_for() -> None:
    gen = np.random.default_rng(0)
    network = Network.from_edges(*gen.integers(0, 500, (2_000, 2)).T)
    whole = ReverseSampler(network, rng=3, threads=1).draw(0, 20_000)
    for threads in (2, 3):
        other = ReverseSampler(network, rng=3, threads=threads)
        pieces = other.extended(other.draw(0, 7_001), 20_000)
        assert np.array_equal(pieces.nodes, whole.nodes)
        assert np.array_equal(pieces.offsets, whole.offsets)
    assert not np.array_equal(ReverseSampler(network, rng=4, threads=1).draw(0, 100).nodes, whole.nodes[:100])


def test_sets_cut_to_candidates_keep_their_number() -> None:
    gen = np.random.default_rng(0)
    network = Network.from_edges(*gen.integers(0, 100, (400, 2)).T)
    keep = np.arange(network.n) % 3 == 0
    whole = ReverseSampler(network, threads=1).draw(0, 2_000)
    cut = ReverseSampler(network, keep=keep, threads=1).draw(0, 2_000)
    for (a, b), (c, d) in zip(pairwise(whole.offsets), pairwise(cut.offsets), strict=True):
        assert [v for v in whole.nodes[a:b].tolist() if keep[v]] == cut.nodes[c:d].tolist()


@pytest.mark.parametrize("probability", ["wc", "tri", 0.2])
@pytest.mark.parametrize("model", ["ic", "lt"])
def test_forward_and_reverse_agree(probability: Any, model: str) -> None:
    gen = np.random.default_rng(7)
    network = Network.from_edges(*gen.integers(0, 200, (500, 2)).T, probability, rng=1)
    if model == "lt":
        network = network.threshold_weights(normalise=True)
    forward = spread(network, [1, 2, 3], model=model, method="mc", runs=40_000, level=0.9999)
    reverse = spread(network, [1, 2, 3], model=model, error=0.01)
    assert abs(forward.value - reverse.value) < 4 * np.hypot(forward.se, reverse.se)
    assert reverse.lo <= reverse.value <= reverse.hi


def test_cascades_equal_enumeration_and_do_not_depend_on_threads() -> None:
    gen = np.random.default_rng(2)
    network = Network.from_edges(*gen.integers(0, 12, (16, 2)).T, 0.4, isolated=range(12))
    sizes = Cascades(network, threads=1).sizes(np.array([0, 3]), 60_000)
    assert np.array_equal(sizes, Cascades(network, threads=3).sizes(np.array([3, 0]), 60_000))
    assert abs(sizes.mean() - exact_spread(network, [0, 3])) < 4 * sizes.std() / np.sqrt(len(sizes))


def test_sure_edges_pass_and_impossible_ones_never() -> None:
    network = Network.from_edges([0, 1, 2], [1, 2, 3], [1.0, 1.0, 0.0])
    assert (Cascades(network, threads=1).sizes(np.array([0]), 1_000) == 3).all()
    sampler = ReverseSampler(network, threads=1)
    sampler._roots = np.array([2], np.int32)
    assert (np.diff(sampler.draw(0, 1_000).offsets) == 3).all()


def test_the_stopping_rule_needs_its_known_number_of_hits() -> None:
    c = 2 * (np.e - 2)
    assert hits_needed(0.1, 0.05) == int(np.ceil(1 + 2 * c * 1.1 * np.log(40) / 0.01))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seeds": [9]}, LogError, "seed 9 is not in the network"),
        ({"seeds": []}, SupportError, "no seed"),
        ({"seeds": [1], "starters": [1]}, LogError, "seed 1 is a starter"),
        ({"seeds": [1], "error": 0.0}, ConfigError, "error=0.0"),
        ({"seeds": [1], "model": "sir"}, ConfigError, "ic or lt"),
    ],
)
def test_bad_questions_are_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        spread(Network.from_edges([0, 1], [1, 2]), **options)
