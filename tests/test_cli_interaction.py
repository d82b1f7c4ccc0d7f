"""Acting on the command line: improve a policy, record its log, learn from that log, go on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from typer.testing import CliRunner, Result

from counterlog.cli import app
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError
from counterlog.core.neural_policies import NeuralPolicy

pytestmark = [pytest.mark.torch, pytest.mark.rl]
SMALL = ("--set", "hidden=8,8", "--set", "seeds=2", "--quiet")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.mark.parametrize("system", ["mdpo", "ppo", "trpo"])
def test_a_policy_is_improved_saved_and_recorded(system: str, tmp_path: Path) -> None:
    out, log = tmp_path / "policy.safetensors", tmp_path / "log.npz"
    words = (
        "improve",
        "CartPole-v1",
        "--system",
        system,
        *SMALL,
        "--set",
        "horizon=32",
        "--set",
        "steps=256",
    )
    done = run(*words, "--out", out, "--record", log, "--episodes", 12, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [row["seed"] for row in said["result"]] == [0, 1]
    assert NeuralPolicy.load(out).seeds == (0, 1)
    assert out.with_suffix(".json").exists()
    found = Episodes.from_npz(log)
    assert found.n == 12
    assert found.log_propensity is not None


@pytest.mark.parametrize("system", ["sac", "off-policy-mdpo"])
def test_its_log_teaches_a_learner_with_a_replay_and_a_learner_without_a_simulator(
    system: str, tmp_path: Path
) -> None:
    log = tmp_path / "log.npz"
    tiny = ("--set", "hidden=8,8", "--set", "steps=220", "--set", "warmup=200", "--set", "batch=8", "--quiet")
    first = run("improve", "Pendulum-v1", "--system", system, *tiny, "--out", tmp_path / "a.safetensors",
                "--record", log, "--episodes", 2)  # fmt: skip
    assert first.exit_code == 0, first.output
    again = run(
        "improve", "Pendulum-v1", "--system", system, *tiny, "--log", log, "--out", tmp_path / "b.safetensors"
    )
    assert again.exit_code == 0, again.output
    clone = run("learn", log, "--system", "bc", "--bounds=-2,2", "--set", "hidden=8", "--set", "steps=10", "--quiet",
                "--out", tmp_path / "c.safetensors")  # fmt: skip
    assert clone.exit_code == 0, clone.output
    alone = run("learn", log, "--system", system, "--bounds=-2,2", *tiny, "--set", "steps=5",
                "--out", tmp_path / "d.safetensors")  # fmt: skip
    assert alone.exit_code == 0, alone.output
    assert NeuralPolicy.load(tmp_path / "d.safetensors").origin["environment"].startswith("log ")


def test_a_stopped_run_goes_on_to_the_same_policy(tmp_path: Path) -> None:
    words = (
        "improve",
        "CartPole-v1",
        "--system",
        "mdpo",
        *SMALL,
        "--set",
        "horizon=32",
        "--set",
        "steps=256",
    )
    for name in ("a", "a", "b"):
        folder = ("--folder", tmp_path / "run") if name == "a" else ()
        assert run(*words, *folder, "--out", tmp_path / f"{name}.safetensors").exit_code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_what_is_refused(tmp_path: Path) -> None:
    wrong = run("improve", "Pendulum-v1", "--system", "td3-bc", "--quiet")
    assert isinstance(wrong.exception, ConfigError)
    assert "does not act" in str(wrong.exception)
    no_log = run("improve", "Pendulum-v1", "--system", "ppo", "--log", tmp_path / "x.npz", "--quiet")
    assert "keeps no replay" in str(no_log.exception)
    unknown = run("improve", "NoSuchWorld-v0", "--quiet")
    assert "no 'NoSuchWorld-v0'" in str(unknown.exception)
