"""The files of the offline-RL field, written by their own libraries and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from counterlog.core.episode_files import read_d4rl, read_minari
from counterlog.core.episodes import EpisodeWarning
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
