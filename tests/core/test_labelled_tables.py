from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.labelled_tables import feature_names, features, labels, numbers, read_table, rows_named

FRAME = pl.DataFrame(
    {
        "a": [1, 2, 3],
        "b": [0.5, None, 2.0],
        "on": [True, False, True],
        "user": ["u", "v", "u"],
        "y": ["p", "q", "p"],
    }
)


def test_numbers_become_one_array_and_empty_cells_nan():
    X = features(FRAME, ["b", "a", "on"])
    np.testing.assert_array_equal(X, [[0.5, 1, 1], [np.nan, 2, 0], [2, 3, 1]])


def test_text_becomes_categories_in_a_frame():
    pytest.importorskip("pandas", reason="pandas is not installed")
    assert str(features(FRAME, ["a", "user"]).dtypes["user"]) == "category"
    assert features(FRAME, ["a", "user"], text_as="str").user.tolist() == ["u", "v", "u"]


def test_the_models_names_decide_and_made_up_names_stand_for_the_rest():
    assert feature_names(FRAME, ["b", "a"], ["y"], 2) == ["b", "a"]
    assert feature_names(FRAME, ["Column_0", "Column_1"], ["y", "user", "on"], 2) == ["a", "b"]
    assert feature_names(FRAME, [], ["y", "user", "on"], 2) == ["a", "b"]
    with pytest.raises(LogError, match="3 unnamed columns and the table has 2"):
        feature_names(FRAME, ["f0", "f1", "f2"], ["y", "user", "on"], 3)
    with pytest.raises(LogError, match="no column 'age'"):
        feature_names(FRAME, ["a", "age"], ["y"], 2)


def test_rows_are_named_by_number_by_key_or_by_condition(tmp_path):
    pl.DataFrame({"row": [2, 0]}).write_csv(tmp_path / "rows.csv")
    pl.DataFrame({"user": ["u"]}).write_parquet(tmp_path / "users.parquet")
    assert rows_named(FRAME, file=tmp_path / "rows.csv", where=None, key=None).tolist() == [2, 0]
    assert rows_named(FRAME, file=tmp_path / "users.parquet", where=None, key="user").tolist() == [0, 2]
    assert rows_named(FRAME, file=None, where="user = 'u' AND a > 1", key=None).tolist() == [2]
    assert rows_named(FRAME, file=None, where="b > 0", key=None).tolist() == [0, 2], "unknown is not yes"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"file": None, "where": None, "key": None}, ConfigError, "one of --forget and --where"),
        ({"file": None, "where": "nothing = 1", "key": None}, ConfigError, "cannot be read"),
        ({"file": None, "where": "a +", "key": None}, ConfigError, "cannot be read"),
        ({"file": None, "where": "a + 1", "key": None}, ConfigError, "yes or no for every row"),
    ],
)
def test_names_that_name_nothing_are_refused(given, error, said):
    with pytest.raises(error, match=said):
        rows_named(FRAME, **given)


def test_files_that_do_not_fit_are_refused(tmp_path):
    pl.DataFrame({"user": ["w"], "row": [0.5]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(LogError, match="values of 'user' are not in the table: w"):
        rows_named(FRAME, file=tmp_path / "f.parquet", where=None, key="user")
    with pytest.raises(LogError, match="row numbers from 0"):
        rows_named(FRAME, file=tmp_path / "f.parquet", where=None, key=None)
    FRAME.head(0).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(LogError, match="no rows"):
        read_table(tmp_path / "none.parquet")
    with pytest.raises(LogError, match="'b' is empty in row 1"):
        labels(FRAME, "b")
    with pytest.raises(LogError, match="expected numbers"):
        numbers(FRAME, "user")
    with pytest.raises(LogError, match="dates and lists"):
        features(FRAME.with_columns(d=pl.date(2026, 1, 1)), ["a", "d"])
