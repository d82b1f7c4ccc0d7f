"""The ends of rankings while blocks stream."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import LogError
from counterlog.core.score_ends import Largest, ends


def test_blocks_give_the_ends_of_the_whole_with_ties_by_row_number() -> None:
    scores = np.random.default_rng(0).integers(-4, 5, size=(30, 7)).astype(float)
    blocks = [(slice(i, min(i + 4, 30)), slice(j, min(j + 3, 7))) for i in range(0, 30, 4) for j in (0, 3, 6)]
    (up, gains), (down, harms) = ends(((a, c, scores[a, c]) for a, c in blocks), 30, 7, 6)
    assert np.array_equal(gains, -np.sort(-scores, axis=0)[:6].T)
    assert np.array_equal(harms, np.sort(scores, axis=0)[:6].T)
    one = Largest(30, 7, 30)
    one.add(slice(0, 30), slice(0, 7), scores)
    assert np.array_equal(one.rows, np.argsort(-scores, axis=0, kind="stable").T)
    assert np.array_equal(np.take_along_axis(scores.T, up, axis=1), gains)
    assert np.array_equal(np.take_along_axis(scores.T, down, axis=1), harms)


@pytest.mark.parametrize("k", [0, 4])
def test_more_rows_than_there_are_are_refused(k: int) -> None:
    with pytest.raises(LogError, match=rf"k = {k} rows[\s\S]*1 to 3"):
        Largest(3, 1, k)
