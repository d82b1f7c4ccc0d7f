"""Auditing trajectories on the command line: files, tables, references, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from counterlog.cli import app
from counterlog.core.episode_files import holds_trajectories
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for name in ("replay", "random", "expert", "noisy"):
        made = run("data", "make", f"four-rooms-{name}", "--rows", 2000, "--out", folder / f"{name}.npz")
        assert made.exit_code == 0, made.output
    return folder


def test_a_log_is_profiled_with_and_without_references(logs: Path) -> None:
    alone = run("audit", logs / "replay.npz", "--quiet", "--save-reference", logs / "reference.json")
    assert alone.exit_code == 0, alone.output
    assert "Give a reference log" in alone.stdout.replace("\n", " ")
    done = run(
        "audit",
        logs / "noisy.npz",
        "--reference",
        logs / "reference.json",
        "--random-return",
        logs / "random.npz",
        "--best-return",
        logs / "expert.npz",
        "--set",
        "gamma=0.95",
        "--json",
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    profile = said["profile"]
    assert 0.5 < profile["tq"] < 0.95 and 0.3 < profile["saco"] < 1
    assert said["n"] == Episodes.from_npz(logs / "noisy.npz").n
    assert profile["recommendation"]["learner"] in said["verdict"]
    again = run("audit", logs / "noisy.npz", "--reference", logs / "replay.npz", "--json", "--quiet")
    assert json.loads(again.stdout)["profile"]["saco"] == pytest.approx(profile["saco"])
    printed = run(
        "audit",
        logs / "noisy.npz",
        "--reference",
        logs / "replay.npz",
        "--random-return",
        0,
        "--best-return",
        1,
    )
    assert "TQ" in printed.stdout and "SACo" in printed.stdout


def test_a_table_of_trajectories_is_read_by_its_columns(logs: Path, tmp_path: Path) -> None:
    log = Episodes.from_npz(logs / "expert.npz")
    table = pl.DataFrame(
        {
            "episode": log.owners,
            "step": log.steps,
            "cell": log.state,
            "move": log.action,
            "pay": log.reward,
            "over": log.terminated,
        }
    )
    table.write_parquet(tmp_path / "log.parquet")
    words = (
        "--trajectory",
        "episode",
        "--t",
        "step",
        "--state",
        "cell",
        "--action",
        "move",
        "--reward",
        "pay",
    )
    found = run("audit", tmp_path / "log.parquet", *words, "--terminated", "over", "--json", "--quiet")
    assert found.exit_code == 0, found.output
    straight = run("audit", logs / "expert.npz", "--json", "--quiet")
    one, two = (json.loads(r.stdout)["profile"] for r in (found, straight))
    assert one["pairs"] == two["pairs"] and one["mean_return"] == two["mean_return"]
    short = run("audit", tmp_path / "log.parquet", "--trajectory", "episode", "--t", "step")
    assert isinstance(short.exception, ConfigError) and "--state is missing" in str(short.exception)
    two_rewards = run("audit", tmp_path / "log.parquet", *words, "--reward", "over")
    assert "at most one" in str(two_rewards.exception)


@pytest.mark.rl
def test_a_minari_folder_is_recognised(logs: Path) -> None:
    pytest.importorskip("minari")
    made = run("data", "make", "lava-gap-replay", "--rows", 500, "--out", logs / "lava")
    assert made.exit_code == 0, made.output
    assert holds_trajectories(logs / "lava")
    done = run("audit", logs / "lava", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["profile"]["behaviour_method"] == "logged probabilities"


def test_options_of_the_other_kind_of_log_are_refused(logs: Path) -> None:
    wrong = run("audit", logs / "noisy.npz", "--unit", "user")
    assert isinstance(wrong.exception, ConfigError)
    assert "--unit does not apply to a log of trajectories" in str(wrong.exception)
    other = run("audit", "--random-return", "3")
    assert "--random-return does not apply to a log of decisions" in str(other.exception)
    lone = run("audit", logs / "noisy.npz", "--random-return", "3", "--quiet")
    assert "best is missing" in str(lone.exception)
    assert run("audit", "--trajectory", "episode").exception is not None


def test_only_logs_of_trajectories_are_taken_for_them(tmp_path: Path) -> None:
    pl.DataFrame({"episode_index": [0], "frame_index": [0]}).write_parquet(tmp_path / "robot.parquet")
    pl.DataFrame({"action": [0]}).write_parquet(tmp_path / "decisions.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no")
    assert holds_trajectories(tmp_path / "robot.parquet")
    assert not holds_trajectories(tmp_path / "decisions.parquet")
    assert not holds_trajectories(tmp_path / "broken.parquet")
    assert not holds_trajectories(tmp_path)
    assert holds_trajectories("log.hdf5") and not holds_trajectories("log.csv")
