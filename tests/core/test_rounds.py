"""The decision log: roles, views, and every refusal with column, count, rows and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import CounterlogError, LogError, PropensityError, SupportError
from counterlog.core.rounds import Rounds

ROLES: dict[str, Any] = {"action": "item", "reward": "click", "propensity": "p"}
BASE: dict[str, list[Any]] = {
    "item": ["a", "b", "a", "c"],
    "click": [0, 1, 0, 1],
    "p": [0.5, 0.25, 0.5, 0.25],
    "x": [1.0, 2.0, 3.0, 4.0],
}


def log(roles: dict[str, Any] | None = None, **columns: list[Any]) -> Rounds:
    return Rounds({**BASE, **columns}, **{**ROLES, **(roles or {})})


def test_roles_become_arrays() -> None:
    made = log()
    assert made.n == 4
    assert made.actions == ("a", "b", "c")
    np.testing.assert_array_equal(made.action, [0, 1, 0, 2])
    np.testing.assert_array_equal(made.reward, [0, 1, 0, 1])
    np.testing.assert_array_equal(made.propensity, [0.5, 0.25, 0.5, 0.25])
    assert repr(made) == "Rounds(4 rows, 3 actions in 'item', reward click, propensity logged)"


def test_every_kind_of_frame_gives_the_same_log(small_log: pl.DataFrame, tmp_path: Path) -> None:
    roles: dict[str, Any] = {
        **ROLES,
        "reward": {"click": "clicks", "money": "euros"},
        "context": ["x", "device"],
    }
    small_log.write_parquet(tmp_path / "log.parquet")
    small_log.write_csv(tmp_path / "log.csv")
    small_log.write_ndjson(tmp_path / "log.jsonl")
    with duckdb.connect(str(tmp_path / "log.duckdb")) as base:
        base.execute("CREATE TABLE decisions AS SELECT * FROM small_log")
    sources: list[Any] = [
        small_log,
        small_log.lazy(),
        small_log.to_pandas(),
        small_log.to_arrow(),
        duckdb.sql("SELECT * FROM small_log"),
        small_log.to_dict(as_series=False),
        tmp_path / "log.parquet",
        str(tmp_path / "*.parquet"),
        tmp_path / "log.csv",
        tmp_path / "log.jsonl",
        f"{tmp_path / 'log.duckdb'}::decisions",
    ]
    logs = [Rounds(source, **roles) for source in sources]
    assert len({made.fingerprint for made in logs}) == 1
    for made in logs:
        np.testing.assert_array_equal(made.action, logs[0].action)
        np.testing.assert_array_equal(made.reward_of("money"), logs[0].reward_of("money"))


def test_the_input_is_not_changed(small_log: pl.DataFrame) -> None:
    frame = small_log.to_pandas()
    before = frame.copy()
    made = Rounds(frame, **ROLES, context=["x"])
    made.propensity
    pd.testing.assert_frame_equal(frame, before)
    with pytest.raises(ValueError, match="read-only"):
        made.reward[0] = 9.0


@pytest.mark.parametrize(
    ("columns", "roles", "kind", "words"),
    [
        (
            {"p": [0.5, 0.0, 0.5, 1.2]},
            {},
            PropensityError,
            r"'p' is not a probability .* 2 of 4 rows: rows 1, 3\nhint: ",
        ),
        ({"p": [0.5, None, 0.5, float("nan")]}, {}, PropensityError, r"2 of 4 rows: rows 1, 3"),
        (
            {"click": [0, None, 1, 1]},
            {},
            LogError,
            r"'click' has no reward in 1 of 4 rows: row 1\nhint: drop rows",
        ),
        (
            {"click": [0.0, float("inf"), 1.0, 1.0]},
            {},
            LogError,
            r"'click' has an infinite reward in 1 of 4 rows: row 1",
        ),
        (
            {"click": ["0", "1", "yes", "no"]},
            {},
            LogError,
            r"'click' is text: rows 2, 3, for example 'yes'; expected numbers",
        ),
        ({"item": ["a", None, "b", "c"]}, {}, LogError, r"'item' is empty \(null\) in 1 of 4 rows: row 1"),
        ({"item": ["a", 3, "b", "c"]}, {}, LogError, r"'item' mixes types \(str in row 0, number in row 1\)"),
        (
            {"x": [1.0, float("-inf"), 2.0, 3.0]},
            {"context": ["x"]},
            LogError,
            r"'x' is infinite in 1 of 4 rows: row 1",
        ),
        (
            {},
            {"reward": "clicks"},
            LogError,
            r"no column 'clicks' for reward; .*\nhint: did you mean 'click'\?",
        ),
        ({}, {"context": ["click"]}, LogError, r"'click' is context and also action, reward or propensity"),
        ({}, {"propensity": 0.0}, PropensityError, r"constant propensity 0.0 is not a probability"),
        (
            {"ok": ["a|b", "b", "b|c", "c"]},
            {"available": "ok"},
            LogError,
            r"'item' was taken although .* 1 of 4 rows: row 2",
        ),
        (
            {"ok": [["a"], ["b"], [], ["c"]]},
            {"available": "ok"},
            LogError,
            r"'ok' lists no action in 1 of 4 rows: row 2",
        ),
        ({"user": [1, None, 2, 2]}, {"unit": "user"}, LogError, r"'user' is empty \(null\) in 1 of 4 rows"),
        (
            {"item": [1.5, float("nan"), 2.0, 2.0]},
            {},
            LogError,
            r"'item' is not a finite number in 1 of 4 rows: row 1",
        ),
        ({"item": [[1], [2], [1], [2]]}, {}, LogError, r"'item' is of type List"),
    ],
)
def test_what_is_wrong_is_named(
    columns: dict[str, list[Any]], roles: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        log(roles, **columns)


def test_many_bad_rows_are_counted_and_the_first_shown() -> None:
    frame = pl.DataFrame({"item": ["a", "b"] * 50, "click": [0, 1] * 50, "p": [0.5, 0.0] * 50})
    with pytest.raises(PropensityError, match=r"50 of 100 rows: rows 1, 3, 5, 7, 9, \.\.\. \(50 in all\)"):
        Rounds(frame, **ROLES)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(LogError) as caught:
        log(item=["a", None, "b", "c"], click=[0, 1, None, 1], p=[0.5, 0.5, 0.5, 7.0])
    text = str(caught.value)
    assert text.startswith("column 'item' is empty (null) in 1 of 4 rows: row 1\nhint: ")
    assert "also: column 'click' has no reward in 1 of 4 rows: row 2" in text
    assert "also: column 'p' is not a probability in (0, 1] in 1 of 4 rows: row 3" in text


def test_an_empty_log_one_row_and_one_action() -> None:
    with pytest.raises(LogError, match="0 rows"):
        Rounds(pl.DataFrame(BASE).head(0), **ROLES)
    with pytest.raises(SupportError, match="1 row, and an interval needs"):
        Rounds(pl.DataFrame(BASE).head(1), **ROLES).check_estimable()
    with pytest.raises(SupportError, match="every row has the same action"):
        log(item=["a"] * 4).check_estimable()


def test_a_missing_role_says_how_to_give_it() -> None:
    made = Rounds(BASE, action="item", reward="click")
    with pytest.raises(LogError, match=r"no propensity.*\nhint: name its column"):
        made.need("propensity")
    with pytest.raises(LogError, match=r"no 'unit' column\nhint: name it: Rounds\(\.\.\., unit="):
        made.need("unit")
    with pytest.raises(LogError, match="'colour' is not a role"):
        made.need("colour")


def test_uniform_propensity_counts_the_available_actions() -> None:
    listed = {"ok": [["a", "b"], ["b"], ["a", "b", "c"], ["c", "d"]]}
    made = log({"available": "ok", "propensity": "uniform"}, **listed)
    assert made.actions == ("a", "b", "c", "d")
    np.testing.assert_allclose(made.propensity, [1 / 2, 1, 1 / 3, 1 / 2])
    np.testing.assert_allclose(log({"propensity": "uniform"}).propensity, 1 / 3)


@pytest.mark.parametrize(
    "name", ["two words", 'quo"te', "ünï", "drop table x;--", "a'b", "{x}", "[y]", "<b>"]
)
def test_any_column_name_may_play_a_role(name: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({name: BASE["item"], "click": BASE["click"], f"p {name}": BASE["p"]})
    made = Rounds(frame, action=name, reward="click", propensity=f"p {name}", segment=name)
    assert made.actions == ("a", "b", "c")
    with duckdb.connect(str(tmp_path / "d.duckdb")) as base:
        quoted = '"' + name.replace('"', '""') + '"'
        base.execute(f"CREATE TABLE {quoted} AS SELECT * FROM frame")
    from_table = Rounds(
        f"{tmp_path / 'd.duckdb'}::{name}", action=name, reward="click", propensity=f"p {name}"
    )
    np.testing.assert_array_equal(from_table.action, made.action)


def test_views_keep_the_codes_of_the_whole_log() -> None:
    made = log({"reward": ["click", "x"]})
    part = made.take(np.array([3, 1]))
    assert part.actions == made.actions
    np.testing.assert_array_equal(part.action, [2, 1])
    np.testing.assert_array_equal(part.reward, [1, 1])
    assert part.n == 2
    assert part.fingerprint != made.fingerprint
    other = made.with_reward("x")
    assert other.reward_name == "x"
    np.testing.assert_array_equal(other.reward, BASE["x"])
    np.testing.assert_array_equal(made.take(np.array([True, False, True, False])).reward, [0, 0])


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(LogError, match="there is no file"):
        Rounds(tmp_path / "absent.csv", **ROLES)
    with pytest.raises(LogError, match="unknown kind; expected"):
        Rounds(tmp_path / "log.txt", **ROLES)
    with pytest.raises(CounterlogError, match="cannot be read"):
        Rounds(tmp_path / "broken.parquet", **ROLES)
    with pytest.raises(LogError, match="a int cannot be read as a log"):
        Rounds(3, **ROLES)
    with pytest.raises(LogError, match="cannot be one table"):
        Rounds({"item": ["a"], "click": [1, 2], "p": [1.0]}, **ROLES)
    with duckdb.connect(str(tmp_path / "d.duckdb")) as base:
        base.execute("CREATE TABLE real AS SELECT 1 AS x")
    with pytest.raises(LogError, match="no table 'unreal'; its tables: real"):
        Rounds(f"{tmp_path / 'd.duckdb'}::unreal", **ROLES)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(400)))
def test_row_order_changes_nothing_but_the_order(order: list[int]) -> None:
    gen = np.random.default_rng(1)
    frame = pl.DataFrame({"item": gen.integers(0, 4, 400), "click": gen.random(400), "p": np.full(400, 0.25)})
    made, moved = Rounds(frame, **ROLES), Rounds(frame[order], **ROLES)
    assert made.actions == moved.actions
    np.testing.assert_array_equal(made.action[order], moved.action)
