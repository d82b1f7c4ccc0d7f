"""LETOR / SVMrank text: `label qid:Q fid:value ... # comment`, one item a line; and click logs in the same form.

Files without qid (libsvm) come with a `.query` file: how many consecutive lines each query has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from counterlog.core.clicks import Clicks
from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.ragged import Codes, steps

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Graded lists: features (N, F), label (N,), and where each list begins."""

    offsets: Codes
    features: NDArray[np.float32]
    label: Floats
    query: Codes

    @property
    def lists(self) -> int:
        """Queries."""
        return len(self.offsets) - 1

    def take(self, chosen: NDArray[np.int64]) -> Judged:
        """The lists numbered `chosen`, in that order."""
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen])
        ends = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[chosen])]).astype(np.int64)
        return Judged(ends, self.features[rows], self.label[rows], self.query[chosen])


def read_letor(
    path: str | os.PathLike[str],
    *,
    query_file: str | os.PathLike[str] | None = None,
    features: int | None = None,
    most_grade: int = 31,
) -> Judged:
    """Graded lists of a LETOR file. `features` fixes their number (a test file may lack the last ones).

    Raises `LogError` naming the line: a label outside 0..most_grade, no qid and no query file, a query torn apart.
    """
    from sklearn.datasets import load_svmlight_file

    if not Path(path).exists():
        raise LogError(message(f"there is no file {os.fspath(path)!r}", expected="LETOR or SVMrank text"))
    try:
        X, label, qid = load_svmlight_file(
            os.fspath(path), query_id=True, zero_based=False, dtype=np.float32, n_features=features
        )
    except ValueError as cause:
        msg = message(
            f"{os.fspath(path)!r} cannot be read ({cause})",
            expected="lines `label qid:Q fid:value ...`, fid from 1 upwards in order",
            hint="zero-based feature numbers must be raised by 1; `features` must cover the largest",
        )
        raise LogError(msg) from cause
    label = np.asarray(label, np.float64)
    if (bad := (label < 0) | (label > most_grade) | (label != np.floor(label))).any():
        at = first_rows(np.flatnonzero(bad) + 1).replace("row", "line")
        raise LogError(message(f"label {label[bad][0]:g} in {at}", expected=f"0, 1, ..., {most_grade}"))
    if query_file is not None:
        sizes = _sizes(query_file, len(label))
        query = np.arange(len(sizes))
    else:
        if len(qid) != len(label):
            msg = message(
                f"{os.fspath(path)!r} has no qid", hint="give query_file: the number of lines of each query"
            )
            raise LogError(msg)
        starts = np.flatnonzero(np.r_[True, qid[1:] != qid[:-1]])
        query = qid[starts]
        if len(np.unique(query)) != len(query):
            torn = query[np.flatnonzero(np.bincount(np.unique(query, return_inverse=True)[1]) > 1)[0]]
            raise LogError(message(f"the lines of query {torn} do not stand together", hint="sort by qid"))
        sizes = np.diff(np.r_[starts, len(label)])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Judged(offsets, np.ascontiguousarray(X.toarray()), label, query.astype(np.int64))


def read_letor_clicks(
    path: str | os.PathLike[str],
    *,
    query_file: str | os.PathLike[str] | None = None,
    features: int | None = None,
) -> Clicks:
    """A click log in LETOR form: the label is the click, lines stand in the order shown, each qid is one list."""
    found = read_letor(path, query_file=query_file, features=features, most_grade=1)
    items, doc = np.unique(found.features, axis=0, return_inverse=True)
    return Clicks(
        offsets=found.offsets,
        features=items,
        doc=doc.ravel().astype(np.int64),
        position=steps(found.offsets) + 1,
        click=found.label.astype(np.uint8),
        query=np.arange(found.lists),
    )


def write_letor(path: str | os.PathLike[str], lists: Judged) -> Path:
    """Write graded lists as LETOR text, zeros left out."""
    lines = []
    owner = np.repeat(lists.query, np.diff(lists.offsets))
    for row, (y, q) in enumerate(zip(lists.label, owner, strict=True)):
        found = np.flatnonzero(lists.features[row])
        cells = " ".join(f"{j + 1}:{lists.features[row, j]:.9g}" for j in found)
        lines.append(f"{y:g} qid:{q} {cells}".rstrip())
    from counterlog.core.files import write_whole

    return write_whole(path, "\n".join(lines) + "\n")


def _sizes(path: str | os.PathLike[str], rows: int) -> Codes:
    try:
        sizes = np.array(Path(path).read_text().split(), np.int64)
    except (OSError, ValueError) as cause:
        msg = message(f"{os.fspath(path)!r} cannot be read ({cause})", expected="one count a line")
        raise LogError(msg) from cause
    if sizes.sum() != rows or (sizes < 1).any():
        msg = message(
            f"{os.fspath(path)!r} counts {int(sizes.sum())} lines", expected=f"{rows}, those of the data"
        )
        raise LogError(msg)
    return sizes
