"""Degree and PageRank as choosers."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError, ConvergenceError
from counterlog.core.network import Network
from counterlog.spread.centrality import Centrality, CentralityConfig, pagerank


def contract_example(frame: Any) -> Choice:
    made = Centrality(CentralityConfig(seeds=3, measure="pagerank", threads=1))
    return made.choose(Network.from_frame(frame, "user", "day", 0.3), rng=3)


def test_pagerank_equals_networkx() -> None:
    graph = nx.gnp_random_graph(60, 0.05, seed=3, directed=True)
    g = Network.from_networkx(graph)
    for along, base in ((True, graph), (False, graph.reverse())):
        want = nx.pagerank(base, alpha=0.8, tol=1e-12, max_iter=1_000)
        found = pagerank(g, 0.2, 1e-12, along=along)
        assert found == pytest.approx([want[v] for v in g.labels.tolist()], abs=1e-9)
        assert found.sum() == pytest.approx(1)


def test_the_best_connected_are_chosen_and_ties_go_to_the_smallest() -> None:
    g = Network.from_edges([5, 5, 5, 2, 2, 3, 3], [1, 2, 3, 1, 4, 1, 4], 0.5)
    assert Centrality(CentralityConfig(seeds=3)).choose(g).seeds == (5, 2, 3)


def test_starters_with_the_same_friends_choose_the_same_one() -> None:
    g = Network.from_edges([0, 0, 1, 1, 2, 2, 3], [2, 3, 2, 3, 4, 5, 6], 1.0)
    made = Centrality(CentralityConfig(seeds=1)).choose(g, [0, 1])
    assert [(p.starter, p.node) for p in made.picks] == [(0, 2), (1, 2)]
    assert made.seeds == (2,)
    assert [s.alone for s in made.starters] == [0.0, 0.0]
    assert np.isnan(made.ratio)


def test_a_walk_that_does_not_settle_and_bad_parameters_are_refused() -> None:
    g = Network.from_edges([0, 1, 2], [1, 2, 1])
    with pytest.raises(ConvergenceError, match="PageRank still moves"):
        pagerank(g, 0.2, 1e-300, most=3)
    with pytest.raises(ConfigError, match="restart"):
        CentralityConfig(restart=0.0)
