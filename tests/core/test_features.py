"""Contexts as numbers."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import LogError
from counterlog.core.features import MOST_CATEGORIES, Encoder


def test_numbers_are_standardised_and_gaps_marked() -> None:
    frame = pl.DataFrame({"x": [1.0, 3.0, None, 5.0]})
    encoder = Encoder.fit(frame)
    assert encoder.names == ("x", "x missing")
    scale = np.std([1.0, 3.0, 5.0])
    np.testing.assert_allclose(encoder.transform(frame), [[-2 / scale, 0], [0, 0], [0, 1], [2 / scale, 0]])


def test_categories_are_indicators_and_an_unseen_one_is_zero() -> None:
    encoder = Encoder.fit(pl.DataFrame({"c": ["b", "a", "b"], "t": [True, False, True]}))
    assert encoder.names == ("c=a", "c=b", "t=false", "t=true")
    new = pl.DataFrame({"c": ["a", "zebra", None], "t": [True, None, False]})
    np.testing.assert_array_equal(encoder.transform(new), [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]])


def test_only_the_most_frequent_categories_are_kept() -> None:
    frame = pl.DataFrame({"c": [f"k{i}" for i in range(80)] + ["common"] * 5})
    assert len(Encoder.fit(frame).names) == MOST_CATEGORIES
    assert "c=common" in Encoder.fit(frame).names


def test_json_gives_the_same_encoder_back() -> None:
    frame = pl.DataFrame({"x": [1.0, None], "c": ["a", "b"], "i": [3, 3]})
    encoder = Encoder.fit(frame)
    assert Encoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder


def test_dates_and_missing_columns_are_refused() -> None:
    with pytest.raises(LogError, match=r"'d' is of type Date.*\nhint: derive numbers"):
        Encoder.fit(pl.DataFrame({"d": [date(2026, 1, 1)]}))
    with pytest.raises(LogError, match="lacks the context column 'x'"):
        Encoder.fit(pl.DataFrame({"x": [1.0]})).transform(pl.DataFrame({"y": [1.0]}))
