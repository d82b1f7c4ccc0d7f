"""The click log's contract: what it reads, and every refusal by column, row and remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.core.clicks import Clicks, need_clicks
from counterlog.core.errors import LogError, SupportError
from counterlog.core.letor import Judged, read_letor, read_letor_clicks, write_letor

COLUMNS = {
    "view": ["b", "b", "a", "a", "a"],
    "place": [2, 1, 1, 2, 3],
    "hit": [0, 1, 0, 0, 1],
    "x": [0.1, 0.2, 0.3, 0.2, 0.5],
    "item": ["u", "v", "w", "v", "z"],
}
ROLES = {"list": "view", "position": "place", "click": "hit", "features": ["x"]}


def read(**changed: object) -> Clicks:
    return Clicks.read({**COLUMNS, **changed}, **ROLES)


def test_rows_become_lists_in_the_order_of_their_first_row_and_position() -> None:
    log = read()
    assert log.offsets.tolist() == [0, 2, 5]
    assert log.position.tolist() == [1, 2, 1, 2, 3]
    assert log.click.tolist() == [1, 0, 0, 0, 1]
    assert log.features[log.doc][:, 0] == pytest.approx([0.2, 0.1, 0.3, 0.2, 0.5])
    assert len(log.features) == 4  # x = 0.2 is one item in two lists


def test_pandas_arrow_parquet_and_a_list_column_read_alike(tmp_path: Path) -> None:
    frame = pl.DataFrame(COLUMNS)
    listed = frame.with_columns(x=pl.concat_list("x", pl.col("x") * 2))
    frame.write_parquet(tmp_path / "log.parquet")
    for source in (frame.to_pandas(), frame.to_arrow(), tmp_path / "log.parquet"):
        other = Clicks.read(source, **ROLES)
        assert np.array_equal(other.features[other.doc], read().features[read().doc])
    wide = Clicks.read(listed, **{**ROLES, "features": "x"})
    assert wide.features.shape == (4, 2)
    assert wide.columns == ("x[0]", "x[1]")


def test_a_table_has_a_column_a_position_and_take_keeps_the_lists() -> None:
    table = read().table(4)
    assert table.click.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert table.shown.sum(axis=1).tolist() == [2, 3]
    other = read().take([1, 0, 1])
    assert other.position.tolist() == [1, 2, 3, 1, 2, 1, 2, 3]
    assert other.take([1]).click.tolist() == read().take([0]).click.tolist()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hit": [0, 2, 0, 0, 1]}, r"'hit' holds 2 in row 1; expected 0 or 1\nhint: a count"),
        ({"place": [1, 0, 1, 2, 3]}, r"'place' is 0 in row 1; expected 1 .*\nhint: add 1"),
        ({"place": [1, 2, 1, 2, 2]}, r"position 2 stands twice in list 1"),
        ({"place": [1.5, 2, 1, 2, 3]}, r"'place' holds no whole number in row 0"),
        ({"x": [0.1, float("nan"), 0.3, 0.2, 0.5]}, r"feature 'x' is not a finite number in row 1"),
        ({"view": ["b", "b", "a", "a", "c"]}, r"lists of one item: list 2.*\nhint: drop them"),
        ({"view": ["b", None, "a", "a", "a"]}, r"'view' is empty in row 1"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, object], said: str) -> None:
    with pytest.raises(LogError, match=f"(?s){said}"):
        read(**changed)


def test_other_refusals_name_their_column() -> None:
    with pytest.raises(LogError, match="no column 'rank'"):
        Clicks.read(COLUMNS, **{**ROLES, "position": "rank"})
    with pytest.raises(LogError, match=r"features of 'item' 'v' differ"):
        Clicks.read({**COLUMNS, "x": [0.1, 0.2, 0.3, 0.4, 0.5]}, **ROLES, doc="item")
    with pytest.raises(LogError, match=r"(?s)goes down to 3.*on_long=truncate"):
        read().table(2)
    with pytest.raises(LogError, match="label is no grade"):
        Clicks.read({**COLUMNS, "y": [0, 1, 2, 0.5, 1]}, **ROLES, label="y")
    with pytest.raises(SupportError, match="position 2 has 0 clicks"):
        need_clicks(read().clicks_at(3), 1)
    assert read().table(2, on_long="truncate").click.tolist() == [[1, 0], [0, 0]]
    single = {**COLUMNS, "view": ["b", "b", "a", "a", "c"]}
    assert Clicks.read(single, **ROLES, on_single="drop").lists == 2


def test_letor_text_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("2 qid:7 1:0.5 3:1 # doc\n0 qid:7 2:1\n1 qid:9 1:1\n")
    found = read_letor(path)
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.features.tolist() == [[0.5, 0, 1], [0, 1, 0], [1, 0, 0]]
    again = read_letor(write_letor(tmp_path / "y.txt", found))
    assert np.array_equal(again.features, found.features)
    assert np.array_equal(again.query, found.query)
    path.write_text("1 qid:1 1:1\n0 qid:1 1:2\n0 qid:2 1:1\n1 qid:2 1:3\n")
    clicks = read_letor_clicks(path)
    assert clicks.position.tolist() == [1, 2, 1, 2]
    assert len(clicks.features) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-1 qid:1 1:1\n", "label -1 in line 1"),
        ("1 1:1\n", "has no qid"),
        ("1 qid:1 1:1\n1 qid:2 1:1\n0 qid:1 1:1\n", "lines of query 1 do not stand together"),
        ("1 qid:1 1:x\n", "cannot be read"),
    ],
)
def test_letor_refusals(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(LogError, match=said):
        read_letor(tmp_path / "x.txt")


def test_query_sizes_must_add_up(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 1:1\n0 1:2\n")
    (tmp_path / "q").write_text("1\n")
    with pytest.raises(LogError, match=r"counts 1 lines; expected 2"):
        read_letor(tmp_path / "x.txt", query_file=tmp_path / "q")
    (tmp_path / "q").write_text("2\n")
    assert isinstance(read_letor(tmp_path / "x.txt", query_file=tmp_path / "q"), Judged)
