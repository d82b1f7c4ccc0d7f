"""`counterlog rank`: from a file of clicks to ranker, result and page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from counterlog.cli import app
from counterlog.datasets.click_logs import simulated_queries
from counterlog.rank.ranking_report import RankingReport
from counterlog.rank.saved_rankers import load_ranker

pytestmark = pytest.mark.torch
SHORT = ["--set", "steps=20", "--set", "replicates=20", "--quiet"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = simulated_queries(0, queries=50, test=2).log(300)
    frame = pl.DataFrame(
        {
            "view": np.repeat(np.arange(300), 10),
            "position": log.position,
            "click": log.click,
            "x": log.features[log.doc],
            "grade": log.label,
            "device": np.repeat(["<b>", "desk"], 1500),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def test_it_writes_ranker_result_and_page(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--list", "view", "--features", "x", "--label", "grade", "--segment", "device"]
    done = CliRunner().invoke(app, ["rank", str(path), *options, *SHORT, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n"] == 300
    report = RankingReport.load(out / "result.json")
    assert len(report.propensity) == 30
    assert load_ranker(out / "ranker.safetensors").score(np.zeros((2, 20))).shape == (2,)
    page = (out / "report.html").read_text()
    assert "Examination by position" in page
    assert "nDCG@10" in page
    assert "<td><b></td>" not in page


def test_letor_clicks_need_no_columns(tmp_path: Path) -> None:
    gen = np.random.default_rng(0)
    lines = [
        f"{int(gen.random() < 0.5)} qid:{q} 1:{gen.normal():.3f} 2:{gen.normal():.3f}"
        for q in range(60)
        for _ in range(3)
    ]
    (tmp_path / "clicks.txt").write_text("\n".join(lines) + "\n")
    options = ["--system", "regression-em", "--set", "steps=20", "--quiet"]
    done = CliRunner().invoke(
        app, ["rank", str(tmp_path / "clicks.txt"), *options, "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    assert "regression-em on 60 lists" in done.stdout


def test_a_system_that_reads_no_clicks_is_refused(path: Path) -> None:
    done = CliRunner().invoke(app, ["rank", str(path), "--system", "ad-load"])
    assert done.exit_code == 1
    assert "learns no ranker from clicks" in str(done.exception)
