"""Generated logs: the same for the same seed, walls that hold, walkers that arrive, files that are read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from counterlog.core.environments import episode_returns
from counterlog.core.episode_files import read_minari
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, DatasetError
from counterlog.datasets.episode_logs import EPISODE_LOGS, get_minari, make_episodes
from counterlog.datasets.point_maze import MAZES, PointMaze, maze_log, next_cells, walker


@pytest.mark.parametrize("maze", MAZES)
def test_nobody_walks_through_a_wall(maze) -> None:
    env = PointMaze(300, maze)
    gen = np.random.default_rng(0)
    state = env.reset(1)
    force = gen.uniform(-1, 1, (300, 2))
    for t in range(149):
        if t % 20 == 0:
            force = np.sign(gen.uniform(-1, 1, (300, 2)))  # long hard pushes
        moved = env.step(force)
        cell = moved.next_state[:, :2].astype(int)
        assert not env.walls[cell[:, 0], cell[:, 1]].any()
        assert np.abs(moved.next_state[:, :2] - state[:, :2]).max() <= 0.2 + 1e-12
        assert not moved.done.any()
        state = moved.state
    assert env.step(force).truncated.all()


def test_ways_are_shortest_on_an_open_floor_and_lead_round_walls() -> None:
    walls = np.pad(np.zeros((3, 3), bool), 1, constant_values=True)
    table = next_cells(walls)
    here, steps = (1, 1), 0
    while here != (3, 3):
        here, steps = tuple(table[here[0], here[1], 3, 3]), steps + 1
    assert steps == 4
    walls[2, 1:3] = True
    assert tuple(next_cells(walls)[1, 1, 3, 1]) == (1, 2)


def test_a_walker_to_the_goal_earns_more_than_walkers_to_anywhere() -> None:
    env = PointMaze(60)
    act, gen = walker(env, goal=env.goal, noise=0.0), np.random.default_rng(0)
    oracle, _ = episode_returns(env, lambda s: act(s, gen)[0])
    log = maze_log("pointmaze-umaze", 9000)
    assert oracle.min() > 60
    assert log.returns().mean() < 0.5 * oracle.mean()
    assert log.rows == 9000
    assert np.isfinite(log.log_propensity).all()
    with pytest.raises(ConfigError, match="maze 'large'"):
        PointMaze(1, "large")


@pytest.mark.parametrize("name", [n for n in EPISODE_LOGS if not n.startswith("hopper")])
def test_a_log_is_made_from_its_seed_and_read_back(name: str, tmp_path: Path) -> None:
    made = make_episodes(name, tmp_path / "a.npz", rows=2000, rng=3)
    log = Episodes.from_npz(made)
    assert log.rows == pytest.approx(2000, abs=200)
    assert (
        Episodes.from_npz(make_episodes(name, tmp_path / "b.npz", rows=2000, rng=3)).fingerprint
        == log.fingerprint
    )
    assert (
        Episodes.from_npz(make_episodes(name, tmp_path / "c.npz", rows=2000, rng=4)).fingerprint
        != log.fingerprint
    )
    with pytest.raises(DatasetError, match="no log 'nothing'"):
        make_episodes("nothing", tmp_path / "d.npz", rows=10, rng=0)


@pytest.mark.rl
def test_a_log_is_made_as_a_minari_folder(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    folder = make_episodes("pointmaze-umaze", tmp_path / "maze", rows=1500, rng=0)
    assert read_minari(folder).fingerprint == maze_log("pointmaze-umaze", 1500).fingerprint


@pytest.mark.rl
@pytest.mark.data
def test_linear_policies_hop(data_folder: Path) -> None:
    pytest.importorskip("mujoco")
    from counterlog.datasets.linear_locomotion import locomotion_log

    log = locomotion_log("hopper-linear-medium-expert", 3000, rng=1)
    assert log.rows >= 3000
    assert len(set(log.lengths.tolist())) > 5
    assert log.terminated.any()
    assert log.returns()[-5:].mean() > log.returns()[:5].mean() > 300
    with pytest.raises(DatasetError, match="no log"):
        locomotion_log("hopper-linear-random")


@pytest.mark.rl
def test_a_published_set_that_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def offline(identity: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(minari, "download_dataset", offline)
    with pytest.raises(DatasetError, match="no network"):
        get_minari("D4RL/pen/human-v2")
    (tmp_path / "a" / "b-v0" / "data").mkdir(parents=True)
    assert get_minari("a/b-v0") == tmp_path / "a" / "b-v0"
