"""CELF and the two greedy rules on simulated spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from counterlog.core.cascades import exact_spread
from counterlog.core.choice import Choice
from counterlog.core.errors import LogError, SupportError
from counterlog.core.friend_lists import friend_lists
from counterlog.core.network import Network
from counterlog.spread.celf import CELF, CELFConfig, LazyGains, best_first, fresh_queue, in_turns


def contract_example(frame: Any) -> Choice:
    made = CELF(CELFConfig(seeds=2, runs=20, threads=1))
    return made.choose(Network.from_frame(frame, "user", "day", 0.3), candidates=[0, 1, 2, 3], rng=3)


def network(seed: int) -> Network:
    gen = np.random.default_rng(seed)
    return Network.from_edges(*gen.integers(0, 10, (14, 2)).T, 0.5, isolated=range(10))


def test_the_lazy_queue_chooses_what_full_greedy_chooses() -> None:
    for seed in range(15):
        g = network(seed)
        calls = []

        def value(s: list[int], g: Network = g, calls: list[int] = calls) -> float:
            calls.append(len(s))
            return exact_spread(g, s)

        gains, queue = LazyGains(value), fresh_queue(range(10))
        for _ in range(4):
            gains.take(gains.best(queue))
        plain: list[int] = []
        for _ in range(4):
            rest = [v for v in range(10) if v not in plain]
            plain.append(max(rest, key=lambda v, s=plain, g=g: (round(exact_spread(g, [*s, v]), 9), -v)))
        assert exact_spread(g, gains.seeds) == pytest.approx(exact_spread(g, plain))
        assert len(calls) < 10 + 9 + 8 + 7


def test_both_rules_find_the_optimum_of_a_network_without_rivals() -> None:
    g = Network.from_edges(
        [0, 0, 0, 1, 1, 2, 3, 4, 4], [2, 3, 4, 3, 4, 5, 6, 7, 8], [1] * 5 + [0.5, 0.9, 0.9, 0.9]
    )
    lists = friend_lists(g, [0, 1], 1)
    passive = g.without(lists.starters)
    for rule in (in_turns, best_first):
        pairs = rule(lists, lambda s: exact_spread(passive, s))
        assert {v for _, v in pairs} == {3, 4}
        assert {u for u, _ in pairs} == {0, 1}
    for name in ("rr", "mg"):
        made = CELF(CELFConfig(seeds=1, rule=name, runs=400, threads=1)).choose(g, [0, 1])
        assert set(made.seeds) == {3, 4}
        assert made.spread == pytest.approx(1.9 + 2.8, abs=0.1)


def test_thresholds_and_threads_give_one_answer() -> None:
    g = Network.from_edges([0, 1, 2, 3, 4], [1, 2, 3, 4, 0])
    made = [CELF(CELFConfig(seeds=2, runs=600, model="lt", threads=t)).choose(g, rng=2) for t in (1, 2)]
    assert made[0].to_json() == made[1].to_json()
    assert made[0].spread == pytest.approx(5)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(LogError, match="starter 99"):
        CELF().choose(network(0), [99])
    with pytest.raises(SupportError, match="no starter has a friend"):
        CELF().choose(Network.from_edges([0], [1]), [1])
    with pytest.raises(SupportError, match="no candidate"):
        CELF().choose(network(0), candidates=np.empty(0, int))
