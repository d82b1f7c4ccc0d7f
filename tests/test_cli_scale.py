"""The command line on large logs: engines, sums alone, predictions in columns, and a month of daily files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from counterlog.cli import app
from counterlog.core import row_sample as sampling

ASK = ["--action", "item", "--reward", "click", "--propensity", "p", "--quiet", "--json"]
CANDIDATE = ["--policy", "column:new", "--estimators", "IPS,SNIPS"]


def decisions(n: int, seed: int) -> pl.DataFrame:
    gen = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "item": gen.choice(["a", "b"], n),
            "click": (gen.random(n) < 0.3).astype(int),
            "p": gen.uniform(0.2, 0.8, n),
            "new": gen.random(n),
            "q": gen.random(n),
            "v": gen.random(n),
            "x": gen.normal(size=n),
            "user": [f"u{k}" for k in gen.integers(0, 300, n)],
        }
    )


def run(*words: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if code == 0 and "--json" in words else done.output


def numbers(answer: Any) -> list[float]:
    return [e[k] for e in answer["policies"] for k in ("value", "lo", "hi")]


def test_engines_of_the_command_line_print_the_same_digits(tmp_path: Path) -> None:
    decisions(2000, 0).write_parquet(tmp_path / "log.parquet")
    ask = ["estimate", tmp_path / "log.parquet", *ASK, *CANDIDATE, "--unit", "user"]
    found = [run(*ask, "--engine", name) for name in ("polars", "duckdb")]
    assert [f"{x:.9g}" for x in numbers(found[0])] == [f"{x:.9g}" for x in numbers(found[1])]
    assert run(*ask)["policies"] == found[0]["policies"]


def test_a_month_of_daily_files_adds_up_to_one_scan(tmp_path: Path) -> None:
    ask = [*ASK, *CANDIDATE, "--unit", "user"]
    for day in range(1, 6):
        decisions(400, day).write_parquet(tmp_path / f"day-{day}.parquet")
        add = ["--add", tmp_path / f"{day - 1}.result"] if day > 1 else []
        last = run(
            "estimate", tmp_path / f"day-{day}.parquet", *ask, *add, "--save", tmp_path / f"{day}.result"
        )
    once = run("estimate", tmp_path / "day-*.parquet", *ask)
    assert last["n"] == once["n"] == 2000
    assert numbers(last) == pytest.approx(numbers(once), rel=1e-12)


def test_sums_alone_and_predictions_in_columns(tmp_path: Path) -> None:
    decisions(2000, 0).write_parquet(tmp_path / "log.parquet")
    ask = ["estimate", tmp_path / "log.parquet", *ASK, *CANDIDATE]
    assert numbers(run(*ask, "--sums-only")) == pytest.approx(numbers(run(*ask)), rel=1e-12)
    robust = [*ask[:-1], "DR", "--q", "q", "--v", "column:new=v"]
    rows = decisions(2000, 0)
    w = rows["new"] / rows["p"]
    expected = (rows["v"] + w * (rows["click"] - rows["q"])).mean()
    assert run(*robust)["policies"][0]["value"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "oracle"], "'oracle' is not an engine"),
        (["--v", "column:new=v"], "--v was given without --q"),
        (["--q", "q", "--v", "v"], "has no '='"),
        (["--q", "q", "--reward", "new"], "predicts one reward"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    decisions(100, 0).write_parquet(tmp_path / "log.parquet")
    done = CliRunner().invoke(app, ["estimate", str(tmp_path / "log.parquet"), *ASK, *CANDIDATE, *words])
    assert done.exit_code != 0
    assert said in done.output + str(done.exception)


def test_the_report_of_a_large_log_is_made_from_a_sample_beside_sums_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sampling.row_sample.__kwdefaults__, "most", 3000)
    monkeypatch.setitem(sampling.row_sample.__kwdefaults__, "sample", 1500)
    decisions(6000, 0).write_parquet(tmp_path / "log.parquet")
    where = ["report", tmp_path / "log.parquet", *ASK, "--engine", "duckdb", "--out", tmp_path / "out"]
    made = run(*where, "--policy", "column:new", "--unit", "user")
    assert 1000 < made["n"] < 2000
    assert f"a sample of {made['n']:,} of 6,000 rows, drawn by unit" in made["notes"][0]
    beside = {e["policy"]: e for r in made["rewards"] for e in r["beside"]}
    once = run("estimate", tmp_path / "log.parquet", *ASK, *CANDIDATE, "--unit", "user")
    snips = next(e for e in once["policies"] if e["estimator"] == "SNIPS")
    assert beside["column:new (all rows)"]["value"] == pytest.approx(snips["value"], rel=1e-9)
    assert made["notes"][0].split(".")[0] in (tmp_path / "out" / "report.html").read_text()
