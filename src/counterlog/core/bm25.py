"""Okapi BM25: which documents share rare words with a query. One sparse product answers all queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class BM25:
    """Weights (documents, words) so that a query's score is the sum over its words. Made by `BM25.fit`."""

    weights: sparse.csr_matrix
    numbers: dict[str, int]

    @classmethod
    def fit(cls, documents: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> BM25:
        """idf(w) f (k1 + 1) / (f + k1 (1 - b + b |D| / mean |D|)), idf = log(1 + (N - n_w + .5) / (n_w + .5))."""
        numbers: dict[str, int] = {}
        rows, columns = [], []
        lengths = np.zeros(len(documents))
        for i, text in enumerate(documents):
            found = [numbers.setdefault(w, len(numbers)) for w in words(text)]
            lengths[i] = len(found)
            rows.append(np.full(len(found), i))
            columns.append(np.asarray(found, dtype=np.int64))
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (len(documents), max(1, len(numbers)))
        count = sparse.coo_matrix((np.ones(len(row)), (row, column)), shape=shape).tocsr()
        holding = np.bincount(count.indices, minlength=shape[1])
        idf = np.log1p((len(documents) - holding + 0.5) / (holding + 0.5))
        at = np.repeat(np.arange(shape[0]), np.diff(count.indptr))
        scale = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-12))
        data = idf[count.indices] * count.data * (k1 + 1) / (count.data + scale[at])
        return cls(sparse.csr_matrix((data, count.indices, count.indptr), shape=shape), numbers)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """(documents, queries); a word counts once for each time it stands in the query."""
        asked = [[self.numbers[w] for w in words(q) if w in self.numbers] for q in queries]
        columns = (
            np.concatenate([np.asarray(a, dtype=np.int64) for a in asked]) if asked else np.zeros(0, int)
        )
        rows = np.repeat(np.arange(len(asked)), [len(a) for a in asked])
        shape = (len(queries), self.weights.shape[1])
        matrix = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
        return np.asarray((self.weights @ matrix.T).toarray())

    def candidates(self, queries: Sequence[str], keep: int) -> NDArray[np.int64]:
        """The documents that are among the `keep` best of some query, in order."""
        found = self.scores(queries)
        if keep >= len(found):
            return np.arange(len(found))
        best = np.argpartition(-found, keep - 1, axis=0)[:keep]
        return np.unique(best)
