"""The bucket table: sums of sums, merging, saving, and what a bucket holds."""

from __future__ import annotations

from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.buckets import (
    BUCKETS,
    BucketTable,
    Cell,
    bucket_expression,
    cell_columns,
    column_matrix,
    product_matrix,
    scan,
)
from counterlog.core.errors import CounterlogError
from counterlog.core.estimators import Parts
from counterlog.core.terms import column

RATIO = Parts(top=column("t"), bottom=column("b"))
THREE = Parts(mean=column("m"), top=column("t"), bottom=column("b"))


def table(frame: pl.DataFrame, parts: Parts, *, clustered: bool = False, buckets: int = 4) -> BucketTable:
    terms = tuple(n for n in ("mean", "top", "bottom") if getattr(parts, n) is not None)
    columns = cell_columns(0, parts, products=not clustered)
    columns |= {"w0_sum": column("b"), "w0_square": column("b") * column("b")}
    lazy = nw.from_native(frame.lazy())
    sums = scan(lazy, columns, {"w0_wmax": column("b")}, bucket_expression(nw.col("key"), buckets))
    return BucketTable(sums, (Cell(0, "p", "e", "r", "reward", terms, 0),), clustered)


def rows(n: int = 30, seed: int = 0) -> pl.DataFrame:
    gen = np.random.default_rng(seed)
    return pl.DataFrame({"key": np.arange(n), **{c: gen.normal(1, 1, n) for c in "mtb"}})


def test_sums_and_products_are_those_of_the_rows() -> None:
    frame = rows()
    made = table(frame, THREE)
    terms = frame.select("m", "t", "b").to_numpy()
    assert column_matrix(made.part(), made.cells[0]).sum(axis=0) == pytest.approx(
        terms.sum(axis=0), abs=1e-12
    )
    assert product_matrix(made.part(), made.cells[0]) == pytest.approx(terms.T @ terms, abs=1e-12)
    assert made.part()["n"].sum() == 30
    assert made.part()["w0_wmax"].max() == frame["b"].max()


def test_an_absent_bottom_is_one_a_row_and_an_absent_mean_is_nothing() -> None:
    frame = rows(5)
    only = Parts(mean=column("m"))
    made = table(frame, only)
    m = frame["m"].to_numpy()
    assert column_matrix(made.part(), made.cells[0]).sum(axis=0) == pytest.approx([m.sum(), 0, 5])
    assert product_matrix(made.part(), made.cells[0]) == pytest.approx(
        np.array([[m @ m, 0, m.sum()], [0, 0, 0], [m.sum(), 0, 5]])
    )
    ratio = table(frame, RATIO)
    assert column_matrix(ratio.part(), ratio.cells[0]).sum(axis=0)[0] == 0


def test_the_bucket_of_a_key_is_fixed_and_equal_on_every_engine() -> None:
    keys = np.array([0, 1, 2, 5_000_000_000, -7, 2**62])
    mask = (1 << 31) - 1
    expected = []
    for key in np.abs(keys).tolist():
        code = key % mask
        for factor, shift in ((48_271, 11), (69_621, 7_919)):
            code = (code * factor + shift) % mask
        expected.append(code % BUCKETS)
    for frame in (pl.DataFrame({"k": keys}).lazy(), pl.DataFrame({"k": keys}).to_arrow()):
        made = (
            nw.from_native(frame).lazy().select(b=bucket_expression(nw.col("k"), BUCKETS)).collect("polars")
        )
        assert made["b"].to_list() == expected


def test_keys_spread_evenly_over_the_buckets() -> None:
    frame = nw.from_native(pl.DataFrame({"k": np.arange(100_000)}).lazy())
    b = frame.select(b=bucket_expression(nw.col("k"), 100)).collect("polars")["b"].to_numpy()
    counts = np.bincount(b, minlength=100)
    assert ((counts - 1000) ** 2 / 1000).sum() < 170  # chi-square with 99 degrees of freedom


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 29), seed=st.integers(0, 100))
def test_part_a_plus_part_b_is_the_whole(cut: int, seed: int) -> None:
    frame = rows(seed=seed)
    for clustered in (False, True):
        whole = table(frame, THREE, clustered=clustered)
        both = table(frame[:cut], THREE, clustered=clustered) + table(frame[cut:], THREE, clustered=clustered)
        assert both.frame.select("group", "level", "bucket").equals(
            whole.frame.select("group", "level", "bucket")
        )
        names = whole.frame.columns[3:]
        assert both.frame.select(names).to_numpy() == pytest.approx(
            whole.frame.select(names).to_numpy(), rel=1e-12, abs=1e-12
        )


def test_the_order_of_adding_does_not_matter() -> None:
    a, b = table(rows(10, 1), RATIO), table(rows(10, 2), RATIO)
    assert (a + b).frame.select(pl.col("^c0.*$")).to_numpy() == pytest.approx(
        (b + a).frame.select(pl.col("^c0.*$")).to_numpy(), rel=1e-14
    )


def test_tables_of_other_questions_are_not_added() -> None:
    with pytest.raises(CounterlogError, match="do not hold the same policies"):
        table(rows(), THREE) + table(rows(), RATIO)
    with pytest.raises(CounterlogError, match="same settings"):
        table(rows(), THREE) + table(rows(), THREE, clustered=True)


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    made = table(rows(), THREE)
    again = BucketTable.load(made.save(tmp_path / "t.parquet"))
    assert again.frame.equals(made.frame)
    assert (again.cells, again.clustered, again.label, again.dropped) == (made.cells, False, "logged", ())


def test_another_file_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "y.txt").write_text("no")
    for name in ("x.parquet", "y.txt", "missing.parquet"):
        with pytest.raises(CounterlogError, match="is not a saved evaluation"):
            BucketTable.load(tmp_path / name)
