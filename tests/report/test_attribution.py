"""`trace`: the rows that were tampered with are found, the page and the folder hold what the result says."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from counterlog.core.errors import ConfigError, LogError
from counterlog.report.attribution import AttributionReport, attribute
from counterlog.trace.tree_influence import TreeInfluenceConfig

pytestmark = pytest.mark.trees
lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
HOSTILE = "<script>alert(1)</script>"
FLIPPED: list[int] = []  # the three clearest rows, set by `folder`


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 300 rows, three of them with the wrong label, all in the group with the hostile name."""
    out = tmp_path_factory.mktemp("trace")
    gen = np.random.default_rng(0)
    X = gen.normal(size=(360, 3))
    y = np.where(X[:, 0] + 0.5 * X[:, 1] + 0.3 * gen.normal(size=360) > 0, "good", "bad")
    FLIPPED[:] = np.argsort(-np.abs(X[:300, 0] + 0.5 * X[:300, 1]))[:3].tolist()
    y[FLIPPED] = np.where(y[FLIPPED] == "good", "bad", "good")
    site = np.where(
        np.isin(np.arange(360), FLIPPED), HOSTILE, np.array(["north", "south"])[np.arange(360) % 2]
    )
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(label=y, site=site)
    frame[:300].write_parquet(out / "train.parquet")
    frame[300:].write_csv(out / "test.csv")
    model = lightgbm.LGBMClassifier(n_estimators=20, num_leaves=6, min_child_samples=5, verbose=-1, n_jobs=1)
    model.fit(X[:300], y[:300]).booster_.save_model(out / "model.txt")
    return out


def run(folder, **extra):
    given = {"target": "label", "group": "site", "top": 3, **extra}
    return attribute(folder / "model.txt", folder / "train.parquet", folder / "test.csv", **given)


@pytest.fixture(scope="module")
def found(folder):
    return run(folder)


def test_flipped_labels_come_first_by_harm_and_by_self_influence(found):
    assert len(set(FLIPPED) & {r.row for r in found.report.harmful[:6]}) >= 2
    assert len(set(FLIPPED) & {r.row for r in found.report.outliers}) >= 2
    worst = min(found.report.groups, key=lambda g: g.mean)
    assert worst.group == HOSTILE


def test_groups_and_rows_add_up_and_the_ends_are_those_of_the_scores(found):
    r = found.report
    assert sum(g.total for g in r.groups) == pytest.approx(found.rows["summed"].sum(), abs=1e-9)
    assert sum(g.rows for g in r.groups) == r.n == 300
    assert r.harmful[0].score == pytest.approx(found.rows["summed"].min())
    first = found.ends.filter((pl.col("target") == 0) & (pl.col("end") == "harmful"))
    assert first["row"].to_list() == [x.row for x in r.targets[0].harmful]
    assert found.ends.height == 60 * 2 * 3
    assert r.leaf_error < 1e-6


def test_the_page_holds_the_numbers_and_no_markup_of_the_table(found):
    page = found.report.html()
    own = page.split("plotly.js v")[0]
    assert "Which rows should be checked first?" in own and "Target row 0" in own
    assert repr(found.report.harmful[0].score) in own
    assert "<script>alert" not in own and "&lt;script&gt;alert(1)&lt;/script&gt;" in own


def test_the_folder_is_read_back(found, tmp_path):
    page = found.write(tmp_path / "out")
    assert page.name == "report.html"
    assert AttributionReport.load(tmp_path / "out" / "result.json").to_dict() == found.report.to_dict()
    assert pl.read_parquet(tmp_path / "out" / "scores.parquet").equals(found.rows)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]["train"]["rows"] == 300


@pytest.mark.parametrize("method", ["leafinfluence", "leafsim", "trex"])
def test_other_methods_make_the_same_kind_of_result(folder, method):
    made = run(folder, config=TreeInfluenceConfig(method=method))
    assert made.report.method == method
    assert any("self-influence is BoostIn's" in n for n in made.report.notes)


def test_what_cannot_be_answered_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="trains again"):
        run(folder, config=TreeInfluenceConfig(method="loo"))
    turned = pl.read_parquet(folder / "train.parquet").with_columns(
        label=pl.when(pl.col("label") == "good").then(pl.lit("bad")).otherwise(pl.lit("good"))
    )
    turned.write_parquet(tmp_path / "turned.parquet")
    with pytest.raises(LogError, match="say --classes"):
        attribute(
            folder / "model.txt",
            tmp_path / "turned.parquet",
            folder / "test.csv",
            target="label",
            group="site",
        )
    with pytest.raises(LogError, match="no column 'lable'"):
        run(folder, target="lable")
    pl.read_parquet(folder / "train.parquet").head(200).write_parquet(tmp_path / "part.parquet")
    with pytest.raises(LogError, match="these are not all the rows"):
        attribute(
            folder / "model.txt", tmp_path / "part.parquet", folder / "test.csv", target="label", group="site"
        )


def test_the_command_prints_the_rows_to_check_and_refuses_in_one_line(folder, tmp_path):
    from counterlog.cli import app

    words = ["trace", str(folder / "model.txt"), "--train", str(folder / "train.parquet"), "--test"]
    words += [str(folder / "test.csv"), "--group", "site", "--out", str(tmp_path), "--quiet"]
    done = CliRunner().invoke(app, [*words, "--target", "label", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["m"] == 60
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ConfigError) and "--target" in str(refused.exception)
