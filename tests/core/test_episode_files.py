"""The files of the offline-RL field, written by their own libraries and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.core.episode_files import read_d4rl, read_lerobot, read_minari
from counterlog.core.episodes import Episodes, EpisodeWarning
from counterlog.core.errors import LogError

h5py = pytest.importorskip("h5py", reason="needs the rl extra")
pytestmark = pytest.mark.rl


def test_a_d4rl_file_is_cut_at_terminals_and_timeouts(tmp_path: Path) -> None:
    path = tmp_path / "d.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(12.0).reshape(6, 2)
        file["actions"] = np.arange(6.0).reshape(6, 1)
        file["rewards"] = np.arange(6.0)
        file["terminals"] = np.array([0, 1, 0, 0, 0, 0], bool)
        file["timeouts"] = np.array([0, 0, 0, 0, 1, 0], bool)
    with pytest.warns(EpisodeWarning, match="trajectory 2"):
        log = read_d4rl(path)
    assert log.n == 3
    np.testing.assert_array_equal(log.offsets[:3], [0, 2, 5])
    with h5py.File(path, "a") as file:
        del file["rewards"]
    with pytest.raises(LogError, match="has no 'rewards'"):
        read_d4rl(path)
    (tmp_path / "x.hdf5").write_text("no")
    with pytest.raises(LogError, match="is not an HDF5 file"):
        read_d4rl(tmp_path / "x.hdf5")


@pytest.mark.filterwarnings("ignore")
def test_a_minari_data_set_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari", reason="needs the rl extra")
    gymnasium = pytest.importorskip("gymnasium", reason="needs the rl extra")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    from minari.data_collector import EpisodeBuffer

    gen, lengths = np.random.default_rng(0), [3, 5, 2]
    buffers = [
        EpisodeBuffer(
            id=i,
            observations=gen.normal(size=(n + 1, 2)).astype(np.float32),
            actions=gen.integers(0, 2, n),
            rewards=np.ones(n),
            terminations=np.arange(n) == n - 1,
            truncations=np.zeros(n, bool),
        )
        for i, n in enumerate(lengths)
    ]
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    made = minari.create_dataset_from_buffers(
        "walk/test-v0", buffers, observation_space=space, action_space=gymnasium.spaces.Discrete(2)
    )
    log = read_minari(made)
    assert log.n == 3
    np.testing.assert_array_equal(np.diff(log.offsets), lengths)
    np.testing.assert_array_equal(log.terminated[log.offsets[1:] - 1], True)


def test_a_log_written_for_minari_comes_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari", reason="needs the rl extra")
    from counterlog.core.minari_files import write_minari
    from counterlog.datasets.cart_pole import balancers, roll
    from counterlog.datasets.pendulum import pendulum_log

    logs = {"pendulum": pendulum_log("pendulum-mix", 2000), "pole": roll(balancers(2)["pole-0"], 7, 20)}
    for name, log in logs.items():
        again = read_minari(write_minari(log, tmp_path / name, name=f"counterlog/{name}-v0"))
        assert again.fingerprint == log.fingerprint
    monkeypatch.chdir(tmp_path)
    assert read_minari(write_minari(log, "here", name="counterlog/here-v0")).fingerprint == log.fingerprint
    with pytest.raises(LogError, match="exists"):
        write_minari(log, tmp_path / "pole", name="x")
    with pytest.raises(LogError, match="no 'final_state'"), pytest.warns(EpisodeWarning):
        write_minari(Episodes(offsets=[0, 1], state=[0], action=[0], reward=[0.0]), tmp_path / "y", name="x")
    assert not (tmp_path / "y").exists()


def test_lerobot_tables_are_read_in_order(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "episode_index": [1, 0, 0, 1, 1],
            "frame_index": [0, 1, 0, 2, 1],
            "observation.state": [[10.0, 0.0], [2.0, 0.0], [1.0, 0.0], [12.0, 0.0], [11.0, 0.0]],
            "action": [[0.1], [0.2], [0.3], [0.4], [0.5]],
            "next.reward": [0.0, 1.0, 0.0, 5.0, 0.0],
            "next.done": [False, True, False, True, False],
        }
    )
    (tmp_path / "data" / "chunk-000").mkdir(parents=True)
    table.write_parquet(tmp_path / "data" / "chunk-000" / "file-000.parquet")
    log = read_lerobot(tmp_path)
    assert log.offsets.tolist() == [0, 2, 5]
    assert log.state[:, 0].tolist() == [1, 2, 10, 11, 12]
    assert log.action[:, 0].tolist() == [0.3, 0.2, 0.1, 0.5, 0.4]
    assert log.truncated.tolist() == [False, True, False, False, True]
    assert log.returns().tolist() == [1.0, 5.0]
    assert read_lerobot(tmp_path, ends="terminated").terminated.sum() == 2
    bad = tmp_path / "bad.parquet"
    table.filter(pl.col("frame_index") != 1).write_parquet(bad)
    with pytest.raises(LogError, match="frame_index has gaps"):
        read_lerobot(bad)
    table.drop("action").write_parquet(bad)
    with pytest.raises(LogError, match="no column 'action'"):
        read_lerobot(bad)
    table.with_columns(action=pl.Series([[0.1], [0.2, 0.3], [0.1], [0.1], [0.1]])).write_parquet(bad)
    with pytest.raises(LogError, match="lists of 1 to 2 numbers"):
        read_lerobot(bad)
