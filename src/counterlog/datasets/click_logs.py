"""Click logs: a simulated population whose true order and position bias are known, and logs of real graded lists.

The population: items with standard normal features; score = x u + 0.5 tanh(x_0 x_1) + 0.3 noise, cut into grades 0
to 4. The logging ranker looks at the useful features weakly and at five useless ones strongly; its `skill` moves
it to the true weights.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.clicks import Clicks
from counterlog.core.letor import Judged, read_letor
from counterlog.datasets.registry import get
from counterlog.rank.click_simulators import ClickModel, PositionBased

Floats = NDArray[np.float64]
CUTS = (0.3, 0.9, 1.5, 2.1)
ITEMS, FEATURES = 20, 20


@dataclass(frozen=True, eq=False)
class Population:
    """Graded queries that are logged, the logging ranker's score of every item, and graded queries to test on."""

    train: Judged
    logging: Floats
    test: Judged

    def log(
        self,
        lists: int,
        model: ClickModel | None = None,
        *,
        size: int = 10,
        rng: int = 0,
        shuffled: bool = False,
        segment_models: tuple[ClickModel, ...] = (),
    ) -> Clicks:
        """`lists` page views of queries drawn at random: the top `size` in the logging order (or the same items
        shuffled),
        clicked by `model`; with `segment_models` each list belongs to one of them."""
        gen = np.random.default_rng([rng, 77])
        models = segment_models or (model or PositionBased(),)
        query = gen.integers(self.train.lists, size=lists)
        top = _top(self.logging, self.train.offsets, size)
        docs = top[query]
        if shuffled:
            docs = gen.permuted(docs, axis=1)
        shown = docs >= 0
        grade = np.where(shown, np.r_[self.train.label, -1.0][docs], -1).astype(np.int64)
        segment = gen.integers(len(models), size=lists)
        click = np.empty(docs.shape, np.uint8)
        for s, one in enumerate(models):
            click[segment == s] = one.clicks(grade[segment == s], gen)
        position = np.broadcast_to(np.arange(size) + 1, docs.shape)
        doc = docs[shown].astype(np.int64)
        return Clicks(
            offsets=np.concatenate([[0], np.cumsum(shown.sum(axis=1))]).astype(np.int64),
            features=self.train.features,
            doc=doc,
            position=position[shown].astype(np.int64),
            click=click[shown],
            query=self.train.query[query],
            segment=segment if len(models) > 1 else None,
            segments=tuple(f"segment {s}" for s in range(len(models))) if len(models) > 1 else ("all",),
            label=self.train.label[doc],
            score=self.logging[doc],
        )


def _top(score: Floats, offsets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """(Q, size) items of every query in the order of their score, -1 beyond its end."""
    out = np.full((len(offsets) - 1, size), -1, np.int64)
    for q, (a, b) in enumerate(itertools.pairwise(offsets)):
        order = a + np.argsort(-score[a:b], kind="stable")[:size]
        out[q, : len(order)] = order
    return out


def simulated_queries(
    rng: int = 0, *, queries: int = 1_000, test: int = 300, skill: float = 0.0
) -> Population:
    """The population. `skill` 0 is the weak logging ranker, 1 ranks by the true linear weights."""
    gen = np.random.default_rng(rng)
    u = np.repeat([1.0, -0.8, 0.5, 0.0], 5) / 3
    weak = np.concatenate([0.1 + 0.2 * gen.normal(size=5), np.zeros(10), np.full(5, 0.6)])

    def drawn(n: int) -> Judged:
        X = gen.normal(size=(n * ITEMS, FEATURES))
        worth = X @ u + 0.5 * np.tanh(X[:, 0] * X[:, 1]) + 0.3 * gen.normal(size=len(X))
        label = np.searchsorted(CUTS, worth).astype(np.float64)
        return Judged(np.arange(n + 1) * ITEMS, X.astype(np.float32), label, np.arange(n))

    train, held = drawn(queries), drawn(test)
    mixed = (1 - skill) * weak / np.linalg.norm(weak) + skill * u / np.linalg.norm(u)
    return Population(train, train.features.astype(np.float64) @ mixed, held)


def lightgbm_rank(part: str = "train") -> Judged:
    """The graded lists of LightGBM's ranking example: 201 queries to train, 50 to test, 300 sparse features."""
    path, sizes = (get("lightgbm-rank", f"rank.{part}{end}") for end in ("", ".query"))
    return read_letor(path, query_file=sizes, features=300)
