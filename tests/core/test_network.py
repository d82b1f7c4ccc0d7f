"""`Network`: from edges, frames, files and networkx; what it merges, drops and refuses."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.network import Network
from counterlog.core.network_files import read_network


def edges(g: Network) -> list[tuple[Any, Any, float]]:
    source = np.repeat(np.arange(g.n), g.out_degree)
    ends = zip(g.labels[source].tolist(), g.labels[g.targets].tolist(), strict=True)
    return [(u, v, round(float(p), 6)) for (u, v), p in zip(ends, g.edge_probability, strict=True)]


def test_weighted_cascade_counts_merged_edges() -> None:
    g = Network.from_edges([7, 7, 3, 9, 9], [3, 3, 7, 3, 9])
    assert edges(g) == [(3, 7, 1.0), (7, 3, 0.5), (9, 3, 0.5)]
    kept = Network.from_edges([7, 7, 3, 9, 9], [3, 3, 7, 3, 9], parallel="keep")
    assert [p for _, _, p in edges(kept)] == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3], abs=1e-6)


def test_parallel_probabilities_are_merged_as_independent_chances() -> None:
    g = Network.from_edges([0, 0, 0], [1, 1, 2], [0.5, 0.2, 0.3])
    assert edges(g) == [(0, 1, 0.6), (0, 2, 0.3)]


def test_removed_nodes_leave_probabilities_as_they_were() -> None:
    g = Network.from_edges([0, 1, 2], [3, 3, 3]).without(np.array([0], np.int32))
    assert edges(g) == [(1, 3, 0.333333), (2, 3, 0.333333)]
    assert g.nodes.tolist() == [1, 2, 3]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40), st.randoms())
def test_the_order_of_rows_does_not_matter_and_incoming_is_the_transpose(rows: Any, random: Any) -> None:
    g = Network.from_edges([r[0] for r in rows], [r[1] for r in rows], 0.5)
    mixed = rows[:]
    random.shuffle(mixed)
    assert edges(g) == edges(Network.from_edges([r[0] for r in mixed], [r[1] for r in mixed], 0.5))
    into = g.incoming
    back = [(int(s), v) for v in range(g.n) for s in into.sources[into.indptr[v] : into.indptr[v + 1]]]
    forth = [(u, int(t)) for u in range(g.n) for t in g.targets[g.indptr[u] : g.indptr[u + 1]]]
    assert sorted(back) == sorted(forth)
    assert g.targets[into.edge].tolist() == [v for _, v in back]


def test_labels_may_be_words_numbers_or_both() -> None:
    g = Network.from_edges(["ann", "bob"], ["bob", "cid"], 0.5)
    assert g.ids(["cid", "ann"]).tolist() == [2, 0]
    assert Network.from_edges(["ann"], [3], 0.5).ids([3]).tolist() == [0]
    assert Network.from_edges([1, 2], [2, 3]).ids(["3"]).tolist() == [2]
    with pytest.raises(LogError, match="node zoe is not in the network"):
        g.ids(["zoe"])
    with pytest.raises(LogError, match="node x is not in the network"):
        Network.from_edges([1], [2]).ids(["x"])


def test_networkx_graphs_keep_direction_weights_and_isolated_nodes() -> None:
    graph = nx.karate_club_graph()
    g = Network.from_networkx(graph)
    assert (g.n, g.m) == (34, 156)
    directed = nx.DiGraph([(0, 1, {"p": 0.25}), (1, 2, {"p": 1.0})])
    directed.add_node(5)
    made = Network.from_networkx(directed, "p")
    assert edges(made) == [(0, 1, 0.25), (1, 2, 1.0)]
    assert made.n == 4
    with pytest.raises(LogError, match="has no attribute 'q'"):
        Network.from_networkx(directed, "q")


def test_trivalency_is_drawn_once_by_rng() -> None:
    g = Network.from_edges(np.arange(50), np.arange(1, 51), "tri", rng=4)
    assert {round(float(p), 6) for p in g.edge_probability} == {0.1, 0.01, 0.001}
    again = Network.from_edges(np.arange(50), np.arange(1, 51), "tri", rng=4)
    assert np.array_equal(g.edge_probability, again.edge_probability)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.txt", "# from to\n1 2\n1  3\n", {}),
        ("b.csv", "u,v\n1,2\n1,3\n", {"skip": 1}),
        ("c.tsv", "1\t2\tx\n1\t3\ty\n\n", {}),
        ("d.txt.gz", "2 2\n1 2 {}\n1 3 {}\n", {"skip": 1}),
    ],
)
def test_text_files_are_read(tmp_path: Path, name: str, text: str, options: dict[str, Any]) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert edges(read_network(path, 0.5, **options)) == [(1, 2, 0.5), (1, 3, 0.5)]


def test_binary_files_and_probability_columns_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([[1, 2], [1, 3]]))
    pl.DataFrame({"from": [1, 1], "to": [2, 3], "p": [0.5, 0.25]}).write_parquet(tmp_path / "e.parquet")
    (tmp_path / "e.txt").write_text("1 2 0.5\n1 3 0.25\n")
    assert edges(read_network(tmp_path / "e.npy", 0.5)) == [(1, 2, 0.5), (1, 3, 0.5)]
    want = [(1, 2, 0.5), (1, 3, 0.25)]
    assert edges(read_network(tmp_path / "e.parquet", "column:p", source="from", target="to")) == want
    assert edges(read_network(tmp_path / "e.txt", "column:2")) == want


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a b\n1 2\n2 3\n", {}, "line 1: 'a' is no number.*\n.*skip=1"),
        ("1 2\n3\n", {}, "line 2 of .* is '3'"),
        ("# nothing\n", {}, "holds no edge"),
        ("1 2 high\n", {"probability": "column:2"}, "line 1: 'high' is no probability"),
        ("1 2 1.5\n", {"probability": "column:2"}, "edge 1 -> 2 is 1.5"),
        ("1 2\n", {"target": 5}, "has no column 5"),
    ],
)
def test_files_that_are_no_edge_lists_are_refused(
    tmp_path: Path, text: str, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "e.txt"
    path.write_text(text)
    with pytest.raises(LogError, match=said):
        read_network(path, **options)
    with pytest.raises(LogError, match="there is no file"):
        read_network(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("source", "target", "probability", "said"),
    [
        ([0], [1], [float("nan")], "edge 0 -> 1 is nan"),
        ([0], [1], [-0.1], "edge 0 -> 1 is -0.1"),
        ([0], [1], [0.1, 0.2], "probabilities for 1 edges"),
        ([0], [1, 2], 0.1, "shapes"),
        ([0, None], [1, 2], 0.1, "source is missing in row 1"),
        ([0], [1], 1.5, "probability 1.5"),
        ([0], [1], "heavy", "probability 'heavy'"),
    ],
)
def test_bad_columns_are_refused(source: Any, target: Any, probability: Any, said: str) -> None:
    with pytest.raises(LogError, match=said):
        Network.from_edges(source, target, probability)


def test_frames_without_the_column_and_unknown_options_are_refused() -> None:
    with pytest.raises(LogError, match="no column 'to'"):
        Network.from_frame(pl.DataFrame({"a": [1]}), "a", "to")
    with pytest.raises(ConfigError, match="parallel"):
        Network.from_edges([0], [1], parallel="sum")
