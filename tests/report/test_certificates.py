"""`certify`: the page's curve is the certificates', and what would break the proof is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from counterlog.audit.certified_predictions import Certificates
from counterlog.audit.run_off_election import RunOffElection, RunOffElectionConfig
from counterlog.core.errors import ConfigError, LogError
from counterlog.report.certificates import certify_tables
from counterlog.report.certificates_page import page, verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("certify")
    gen = np.random.default_rng(0)
    X = gen.normal(size=(360, 2))
    y = np.where(X[:, 0] + 0.3 * gen.normal(size=360) > 0, "<b>yes</b>", "no")
    frame = pl.DataFrame(X, schema=["a", "b"]).with_columns(y=y)
    frame[:300].write_parquet(out / "train.parquet")
    frame[300:].write_parquet(out / "test.parquet")
    return out


CONFIG = RunOffElectionConfig(parts=7)


def test_the_folder_holds_the_certificates_of_the_library(folder, tmp_path):
    found = certify_tables(
        folder / "train.parquet", folder / "test.parquet", tmp_path, target="y", config=CONFIG
    )
    train, test = (pl.read_parquet(folder / f"{k}.parquet") for k in ("train", "test"))
    alone = RunOffElection(CONFIG).check(
        train.select("a", "b").to_numpy(),
        train["y"].to_numpy(),
        test.select("a", "b").to_numpy(),
        test["y"].to_numpy(),
    )
    assert found.to_dict() == alone.to_dict()
    assert Certificates.load(tmp_path / "result.json").to_dict() == found.to_dict()
    assert pl.read_parquet(tmp_path / "certificates.parquet").height == 60
    text = (tmp_path / "report.html").read_text().split("plotly.js v")[0]
    assert "How many predictions stand" in text and "<b>yes" not in text
    for point in found.curve():
        assert repr(100 * point["certified_accuracy"]) in text
    assert "Half of the predictions stand" in verdict(found)[0]


def test_a_page_needs_no_labels(folder, tmp_path):
    pl.read_parquet(folder / "test.parquet").drop("y").write_csv(tmp_path / "new.csv")
    found = certify_tables(
        folder / "train.parquet", tmp_path / "new.csv", tmp_path, target="y", config=CONFIG
    )
    assert "% certified" in page(found)
    assert found.correct == ()


def test_text_columns_and_unknown_learners_are_refused(folder, tmp_path):
    frame = pl.read_parquet(folder / "train.parquet").with_columns(c=pl.lit("x"))
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(LogError, match="fixed list of values"):
        certify_tables(tmp_path / "t.parquet", tmp_path / "t.parquet", tmp_path, target="y")
    with pytest.raises(ConfigError, match="no base learner 'oracle'"):
        certify_tables(
            folder / "train.parquet", folder / "test.parquet", tmp_path, target="y", learner="oracle"
        )
