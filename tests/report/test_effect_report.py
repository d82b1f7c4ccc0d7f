"""The command `effect` and its page."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from counterlog.cli import app
from counterlog.core.errors import LogError
from counterlog.datasets.encouragement import encouragement
from counterlog.estimate.invalid_iv_result import InvalidIVEstimate

NARROW = (
    "folds=2",
    "repeats=1",
    "instrument_learners=linear",
    "treatment_learners=linear",
    "outcome_learners=ridge2/ridge,ridge2/constant",
)


def arguments(data: Path, out: Path, **roles: str) -> list[str]:
    named = {"outcome": "y", "treatment": "a", "instrument": "z", "covariates": "x1,x2,<b>place</b>", **roles}
    options = [f"--{k}={v}" for k, v in named.items()]
    return ["effect", str(data), *options, *(f"--set={s}" for s in NARROW), f"--out={out}", "--quiet"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    frame = encouragement(800).with_columns(pl.lit("<script>alert(1)</script>").alias("<b>place</b>"))
    frame = frame.with_columns(
        pl.when(pl.col("x1") > 0).then(pl.lit("in")).otherwise(pl.col("<b>place</b>")).alias("<b>place</b>")
    )
    frame.write_parquet(tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def test_the_command_writes_a_page_with_its_numbers_and_nothing_from_the_data_runs(
    data: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [*arguments(data, tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    found = InvalidIVEstimate.load(tmp_path / "out" / "result.json")
    assert json.loads(done.stdout)["value"] == found.value
    page = (tmp_path / "out" / "report.html").read_text()
    assert repr(found.value) in page
    for words in ("OLS of Y on A, Z, X", "GENIUS", "Gamma", "D(X)", "Rows by sway"):
        assert words in page
    assert "<script>alert(1)" not in page
    assert "http" not in page.partition("<script>")[0]
    assert pl.read_parquet(tmp_path / "out" / "result.parquet").height == 6
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]["rows"] == 800


def test_a_wrong_column_is_refused(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, arguments(data, tmp_path / "out", instrument="elig"))
    assert isinstance(done.exception, LogError)
    assert "no column 'elig' for instrument" in str(done.exception)
