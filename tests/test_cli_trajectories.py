"""Learning from trajectories on the command line: make a log, learn from it, go on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner, Result

from counterlog.cli import app
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError
from counterlog.core.neural_policies import NeuralPolicy

pytestmark = pytest.mark.torch
SMALL = ("--set", "hidden=8,8", "--set", "batch=16", "--set", "log_every=10", "--set", "seeds=2", "--quiet")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "pendulum.npz"
    made = run("data", "make", "pendulum-mix", "--rows", 600, "--out", path)
    assert made.exit_code == 0, made.output
    return path


def test_a_policy_is_learnt_from_a_file_of_trajectories_and_saved(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.safetensors"
    words = ("learn", log, "--system", "td3-bc", "--bounds", "-2,2", *SMALL, "--set", "steps=20")
    done = run(*words, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["n"] == Episodes.from_npz(log).n and [row["seed"] for row in said["result"]] == [0, 1]
    assert {row["step"] for row in said["result"]} == {20}
    assert NeuralPolicy.load(out).seeds == (0, 1)
    assert out.with_suffix(".json").exists()


def test_a_stopped_run_goes_on_to_the_same_policy(log: Path, tmp_path: Path) -> None:
    words = ("learn", log, "--system", "bc", "--bounds", "-2,2", *SMALL)
    for steps in (20, 40):
        done = run(
            *words,
            "--set",
            f"steps={steps}",
            "--folder",
            tmp_path / "run",
            "--out",
            tmp_path / "a.safetensors",
        )
        assert done.exit_code == 0, done.output
    assert run(*words, "--set", "steps=40", "--out", tmp_path / "b.safetensors").exit_code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_that_holds_no_trajectories_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    done = run("learn", tmp_path / "log.csv", "--system", "iql", "--quiet")
    assert isinstance(done.exception, LogError)
    assert "is no log of trajectories" in str(done.exception)
    assert isinstance(run("learn", "--system", "iql", "--quiet").exception, ConfigError)
