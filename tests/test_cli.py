"""The command line as a user meets it: tables, JSON, refusals, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from counterlog import cli
from counterlog.datasets.simulated import coupons

ROLES = [
    "--action",
    "coupon",
    "--reward",
    "bought",
    "--propensity",
    "propensity",
    "--context",
    "age,visits,channel",
]
ROLES += ["--unit", "customer", "--time", "day"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    coupons(2500, 1).write_csv(path)
    return path


def run(*words: str | Path, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "counterlog.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done


def test_estimate_prints_one_row_a_policy_and_a_verdict(log: Path) -> None:
    done = run("estimate", log, *ROLES, "--policy", "always:ten", "--estimators", "SNIPS", "--quiet")
    assert "always:ten" in done.stdout
    assert done.stderr == ""
    assert "\x1b[" not in done.stdout


def test_json_of_estimate_and_audit_have_one_shape(log: Path) -> None:
    estimate = json.loads(
        run("estimate", log, *ROLES, "--json", "--quiet", "--estimators", "IPS,SNIPS").stdout
    )
    audit = json.loads(run("audit", log, *ROLES, "--json", "--quiet").stdout)
    assert set(estimate) == set(audit) == {"n", "policies", "audit", "verdict"}
    assert estimate["n"] == audit["n"] == 2500
    wanted = {"policy", "estimator", "value", "lo", "hi", "se", "ess", "n", "unit", "valid", "reason"}
    assert wanted <= set(estimate["policies"][0])
    assert {f["severity"] for f in audit["audit"]} <= {"ok", "note", "warning", "stop"}


def test_report_writes_one_page_and_the_same_content_as_json(log: Path, tmp_path: Path) -> None:
    done = run("report", log, *ROLES, "--model", "linear", "--json", "--out", tmp_path / "out")
    content = json.loads(done.stdout)
    assert {"n", "policies", "audit", "verdict"} <= set(content)
    assert content["verdict"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "counterlog report" in page
    assert "auditing the log" in done.stderr


def test_today_can_be_added_to_yesterday(log: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(log)
    frame.head(1000).write_parquet(tmp_path / "monday.parquet")
    frame.tail(1500).write_parquet(tmp_path / "tuesday.parquet")
    ask = [*ROLES, "--policy", "always:five", "--estimators", "IPS,SNIPS", "--quiet", "--json"]
    run("estimate", tmp_path / "monday.parquet", *ask, "--save", tmp_path / "m.result")
    both = run("estimate", tmp_path / "tuesday.parquet", *ask, "--add", tmp_path / "m.result")
    whole = run("estimate", log, *ask)
    for one, two in zip(
        json.loads(both.stdout)["policies"], json.loads(whole.stdout)["policies"], strict=True
    ):
        for key in ("value", "se", "ess"):
            assert one[key] == pytest.approx(two[key], rel=1e-9)


def test_a_learnt_policy_is_saved_and_valued_on_another_log(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    run("learn", log, *ROLES, "--out", out, "--quiet", "--set", "steps=100")
    next_week = tmp_path / "next.parquet"
    coupons(2000, 2).write_parquet(next_week)
    done = run(
        "estimate", next_week, *ROLES, "--policy", f"file:{out}", "--estimators", "SNIPS", "--json", "--quiet"
    )
    first = json.loads(done.stdout)["policies"][0]
    assert 0 < first["lo"] < first["value"] < first["hi"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--action", "cupon"], "no column 'cupon' for action"),
        (["--action", "coupon", "--reward", "bougt"], "did you mean 'bought'?"),
        (
            ["--action", "coupon", "--reward", "bought", "--propensity", "spend"],
            "is not a probability in (0, 1]",
        ),
        (
            ["--action", "coupon", "--reward", "bought", "--policy", "always:fifty"],
            "never holds the action 'fifty'",
        ),
        (["--action", "coupon"], "a log needs --action and --reward"),
    ],
)
def test_a_refusal_is_one_message_on_stderr_and_exit_code_1(
    log: Path, words: list[str], message: str
) -> None:
    extra = [] if "--reward" in words or words == ["--action", "coupon"] else ["--reward", "bought"]
    if "--propensity" not in words:
        extra += ["--propensity", "propensity"]
    done = run("estimate", log, *words, *extra, "--estimators", "SNIPS", "--quiet", code=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_bad_usage_is_exit_code_2() -> None:
    assert "No such option" in run("report", "--no-such-option", code=2).stderr


def test_catalogue_commands() -> None:
    rows = json.loads(run("systems", "--question", "estimate", "--data", "Rounds", "--json").stdout)
    assert {"importance-weighting", "doubly-robust"} <= {r["slug"] for r in rows}
    shown: dict[str, Any] = json.loads(run("show", "doubly-robust", "--json").stdout)
    assert shown["parameters"]["SwitchDRConfig"][0]["name"] == "lam"
    assert "did you mean" in run("show", "doubly-robustt", code=1).stderr
    assert "hillstrom" in run("data", "list").stdout
    assert "pyarrow" in run("doctor").stdout
    assert "there is no study 'nothing'" in run("study", "nothing", code=1).stderr


def test_simulated_data_can_be_made(tmp_path: Path) -> None:
    run("data", "make", "coupons", "--rows", "50", "--out", tmp_path / "c.parquet")
    assert pl.read_parquet(tmp_path / "c.parquet").height == 50
    assert "there is no simulator" in run("data", "make", "nothing", "--out", tmp_path / "x", code=1).stderr


def test_a_log_of_trajectories_can_be_made(tmp_path: Path) -> None:
    run("data", "make", "pendulum-mix", "--rows", "2000", "--out", tmp_path / "p.npz")
    assert (tmp_path / "p.npz").exists()


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs(module: str) -> None:
        monkeypatch.setattr(cli, "app", lambda: import_module(module))
        monkeypatch.setitem(sys.modules, module.partition(".")[0], None)

    needs("gymnasium")
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "pip install 'counterlog[rl]'" in capsys.readouterr().err
    needs("torch")
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "pip install 'counterlog[torch]'" in capsys.readouterr().err
    needs("no_such_module")
    with pytest.raises(ModuleNotFoundError):
        cli.main()
