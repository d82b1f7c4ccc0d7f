"""`Network`: who passes things on to whom, and with which probability. Directed, in compressed rows.

Nodes carry any labels and are numbered by sorted label. The probability of an edge is either one number a node for
all edges into it (weighted cascade, one number for all: no array of edges is kept) or one number an edge. Under
independent cascades it is the chance that an active source activates the target; under linear thresholds it is the
weight of the source in the target's sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from counterlog.core.errors import ConfigError, LogError, first_rows, message

Index = NDArray[np.int64]
Nodes = NDArray[np.int32]
Probabilities = NDArray[np.float32]
MOST_NODES = 2**31 - 1
TRIVALENCY = (0.1, 0.01, 0.001)
WEIGHT_SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Incoming:
    """Edges by target: `sources[indptr[v]:indptr[v+1]]` point at v; `edge` is their place in `Network.targets`."""

    indptr: Index
    sources: Nodes
    edge: Index


@dataclass(frozen=True, eq=False)
class Network:
    """`targets[indptr[u]:indptr[u+1]]` are whom u reaches. `nodes` are those that count: all but removed ones.

    `node_p[v]` is the probability of every edge into v; where edges differ, `edge_p` has one an edge instead.
    """

    indptr: Index
    targets: Nodes
    labels: NDArray[Any]
    nodes: Nodes
    node_p: Probabilities | None = None
    edge_p: Probabilities | None = None

    @classmethod
    def from_edges(
        cls,
        source: ArrayLike,
        target: ArrayLike,
        probability: str | float | ArrayLike = "wc",
        *,
        undirected: bool = False,
        parallel: str = "merge",
        isolated: Sequence[Any] = (),
        rng: int = 0,
    ) -> Self:
        """From two columns of labels.

        `probability`: "wc" (weighted cascade, 1 / in-degree), "tri" (0.1, 0.01 or 0.001, drawn by `rng`), one number,
        or one an edge. Self loops are dropped. Parallel edges are merged before degrees are counted (independent
        probabilities: 1 - prod(1 - p)), or kept apart with `parallel="keep"`. `isolated` names nodes without edges.

        Raises `LogError` for columns of different length, missing labels, probabilities outside [0, 1].
        """
        if parallel not in ("merge", "keep"):
            raise ConfigError(message(f"parallel={parallel!r}", expected="'merge' or 'keep'"))
        labels, ends = _numbered(source, target, isolated)
        given = _given(probability, len(ends), labels, ends)
        rows = np.flatnonzero(ends[:, 0] != ends[:, 1])
        ends, given = ends[rows], None if given is None else given[rows]
        if undirected:
            ends = np.concatenate([ends, ends[:, ::-1]])
            given = None if given is None else np.concatenate([given, given])
        key = ends[:, 0].astype(np.int64) * len(labels) + ends[:, 1]
        order = np.argsort(key, kind="stable")
        key = key[order]
        given = None if given is None else given[order]
        if parallel == "merge" and len(key):
            first = np.flatnonzero(np.diff(key, prepend=-1))
            if given is not None:
                given = 1.0 - np.multiply.reduceat(1.0 - given, first)
            key = key[first]
        tail, head = (
            np.divmod(key, max(len(labels), 1)) if len(labels) else (key, key)
        )  # sorted by source, then by target
        degree = np.bincount(tail, minlength=len(labels))
        made = cls(
            indptr=np.concatenate([[0], np.cumsum(degree)]).astype(np.int64),
            targets=head.astype(np.int32),
            labels=labels,
            nodes=np.arange(len(labels), dtype=np.int32),
            edge_p=None if given is None else given.astype(np.float32),
        )
        return made if given is not None else made.weighted(_rule(probability), rng=rng)

    @classmethod
    def from_frame(
        cls, frame: Any, source: str, target: str, probability: str | float = "wc", **options: Any
    ) -> Self:
        """From a dataframe of any library; `probability` may also name a column."""
        table = nw.from_native(frame, eager_only=True)
        for name in (source, target):
            if name not in table.columns:
                msg = message(f"there is no column {name!r}", expected=", ".join(table.columns))
                raise LogError(msg)
        given = table[probability].to_numpy() if probability in table.columns else probability
        return cls.from_edges(table[source].to_numpy(), table[target].to_numpy(), given, **options)

    @classmethod
    def from_networkx(cls, graph: Any, probability: str | float = "wc", **options: Any) -> Self:
        """From a networkx graph, undirected ones in both directions; `probability` may also name an edge attribute."""
        edges = list(graph.edges(data=True))
        named = isinstance(probability, str) and probability not in ("wc", "tri")
        if named and (lacking := [e[:2] for e in edges if probability not in e[2]]):
            msg = message(f"edge {lacking[0]} has no attribute {probability!r}", expected="one on every edge")
            raise LogError(msg)
        given = [e[2][probability] for e in edges] if named else probability
        options = {"undirected": not graph.is_directed(), "isolated": list(graph.nodes), **options}
        return cls.from_edges([e[0] for e in edges], [e[1] for e in edges], given, **options)

    @property
    def n(self) -> int:
        """Nodes, removed ones included."""
        return len(self.labels)

    @property
    def m(self) -> int:
        """Directed edges."""
        return len(self.targets)

    @cached_property
    def incoming(self) -> Incoming:
        """The edges by target, made once in linear time."""
        place = np.arange(self.m, dtype=np.int64)
        by_target = sparse.csr_array((place, self.targets, self.indptr), shape=(self.n, self.n)).tocsc()
        return Incoming(by_target.indptr.astype(np.int64), by_target.indices.astype(np.int32), by_target.data)

    @cached_property
    def in_degree(self) -> Index:
        """Edges into each node."""
        return np.bincount(self.targets, minlength=self.n)

    @cached_property
    def out_degree(self) -> Index:
        """Edges out of each node."""
        return np.diff(self.indptr)

    @cached_property
    def edge_probability(self) -> Probabilities:
        """(m,) the probability of every edge, in the order of `targets`."""
        if self.edge_p is not None:
            return self.edge_p
        return np.asarray(self.node_p)[self.targets]

    def friends(self, node: int) -> Nodes:
        """Whom a node reaches, each once."""
        return np.unique(self.targets[self.indptr[node] : self.indptr[node + 1]])

    def ids(self, labels: ArrayLike, what: str = "node") -> Nodes:
        """The numbers of labels. Raises `LogError` naming the first unknown or repeated one."""
        asked = np.atleast_1d(np.asarray(labels))
        if asked.dtype.kind not in "iu" and self.labels.dtype.kind in "iu":
            asked = _as_integers(asked)
        elif asked.dtype.kind in "iu" and self.labels.dtype.kind not in "iu":
            asked = asked.astype(str)
        place = np.searchsorted(self.labels, asked).clip(0, max(self.n - 1, 0))
        if self.n == 0 or (unknown := np.flatnonzero(self.labels[place] != asked)).size:
            shown = asked[unknown[0]] if self.n else asked[0]
            msg = message(f"{what} {shown!s} is not in the network", hint="labels are those of the edge list")
            raise LogError(msg)
        values, count = np.unique(place, return_counts=True)
        if (count > 1).any():
            again = self.labels[values[count > 1][0]]
            raise LogError(message(f"{what} {again!s} is named twice", expected="each once"))
        return place.astype(np.int32)

    def weighted(self, probability: str | float, *, rng: int = 0) -> Self:
        """The same edges with probabilities by a rule: "wc", "tri", or one number."""
        if probability == "wc":
            p = 1.0 / np.maximum(self.in_degree, 1)
            return replace(self, node_p=p.astype(np.float32), edge_p=None)
        if probability == "tri":
            drawn = np.random.default_rng(rng).choice(np.asarray(TRIVALENCY, np.float32), self.m)
            return replace(self, node_p=None, edge_p=drawn)
        if isinstance(probability, str) or not 0.0 <= probability <= 1.0:
            msg = message(f"probability {probability!r}", expected="'wc', 'tri', or a number in [0, 1]")
            raise LogError(msg)
        return replace(self, node_p=np.full(self.n, probability, np.float32), edge_p=None)

    def without(self, gone: Nodes) -> Self:
        """The network without these nodes and every edge that touches them; probabilities and numbers stay."""
        alive = np.ones(self.n, bool)
        alive[gone] = False
        kept = np.repeat(alive, self.out_degree) & alive[self.targets]
        before = np.concatenate([[0], np.cumsum(kept)])
        return replace(
            self,
            indptr=before[self.indptr],
            targets=self.targets[kept],
            nodes=self.nodes[alive[self.nodes]],
            edge_p=None if self.edge_p is None else self.edge_p[kept],
        )

    def threshold_weights(self, *, normalise: bool = False) -> Self:
        """This network if the weights into every node sum to at most 1, as linear thresholds need.

        `normalise` divides the weights into a node whose sum is larger. Raises `LogError` naming such a node.
        """
        total = np.bincount(self.targets, weights=self.edge_probability, minlength=self.n)
        over = np.flatnonzero(total > 1.0 + WEIGHT_SLACK)
        if not over.size:
            return self
        if not normalise:
            msg = message(
                f"the weights into node {self.labels[over[0]]!s} sum to {total[over[0]]:.4g} ({over.size} such nodes)",
                expected="at most 1 under linear thresholds",
                hint="normalise=True divides them by their sum",
            )
            raise LogError(msg)
        scale = np.maximum(total, 1.0)[self.targets]
        return replace(self, node_p=None, edge_p=(self.edge_probability / scale).astype(np.float32))


def _numbered(source: ArrayLike, target: ArrayLike, isolated: Sequence[Any]) -> tuple[NDArray[Any], Nodes]:
    """Sorted labels, and (edges, 2) their numbers."""
    columns = [np.asarray(source), np.asarray(target)]
    if columns[0].shape != columns[1].shape or columns[0].ndim != 1:
        sizes = " and ".join(str(c.shape) for c in columns)
        raise LogError(message(f"sources and targets have shapes {sizes}", expected="one column each, alike"))
    for name, column in zip(("source", "target"), columns, strict=True):
        if column.dtype.kind == "f" or column.dtype.kind == "O":
            bad = np.flatnonzero([v is None or v != v for v in column])
            if bad.size:
                raise LogError(message(f"{name} is missing in {first_rows(bad)}", hint="drop these edges"))
    if len(isolated):
        columns.append(np.asarray(isolated))
    if any(c.dtype.kind not in "iu" for c in columns if c.size):
        columns = [
            c.astype(np.int64) if c.dtype.kind == "f" and (c % 1 == 0).all() else c.astype(str)
            for c in columns
        ]
        if len({c.dtype.kind for c in columns}) > 1:
            columns = [c.astype(str) for c in columns]
    both = np.concatenate([c for c in columns if c.size] or [np.empty(0, np.int64)])
    labels, numbers = np.unique(both, return_inverse=True)
    if len(labels) > MOST_NODES:
        raise LogError(message(f"{len(labels):,} nodes", expected=f"at most {MOST_NODES:,}"))
    m = len(columns[0])
    return labels, numbers[: 2 * m].reshape(2, m).T.astype(np.int32)


def _given(
    probability: str | float | ArrayLike, rows: int, labels: NDArray[Any], ends: Nodes
) -> NDArray[np.float64] | None:
    """Probabilities given one an edge, checked; None for a rule."""
    if isinstance(probability, (str, int, float)):
        return None
    p = np.asarray(probability, dtype=np.float64)
    if p.shape != (rows,):
        raise LogError(message(f"{p.shape} probabilities for {rows} edges", expected="one an edge"))
    bad = np.flatnonzero(~((p >= 0.0) & (p <= 1.0)))
    if bad.size:
        u, v = labels[ends[bad[0]]]
        msg = message(
            f"the probability of edge {u!s} -> {v!s} is {p[bad[0]]:g} ({first_rows(bad)})",
            expected="a number in [0, 1]",
        )
        raise LogError(msg)
    return p


def _rule(probability: Any) -> str | float:
    return probability if isinstance(probability, str) else float(probability)


def _as_integers(asked: NDArray[Any]) -> NDArray[Any]:
    """Labels written as text, as numbers; a label that is no number is refused by the caller as unknown."""
    try:
        return asked.astype(np.int64)
    except (ValueError, TypeError) as cause:
        bad = next(str(a) for a in asked if not str(a).lstrip("-").isdigit())
        msg = message(f"node {bad} is not in the network", expected="a whole number, as in the edge list")
        raise LogError(msg) from cause
