"""Logs of trajectories by name: generated here from a seed, or published Minari data sets where the network allows.

What `counterlog data make NAME` writes (a Minari folder, or one .npz file), and what `counterlog data get minari:ID`
fetches. Every generated log is the same for the same name, rows and rng.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from counterlog.core.episodes import Episodes
from counterlog.core.errors import DatasetError, message, need_extra

Maker = Callable[[str, int, int], Episodes]


@dataclass(frozen=True)
class EpisodeLog:
    """A named generator: `make(name, rows, rng)`."""

    about: str
    make: Maker
    low: float = -1.0
    high: float = 1.0


def _pendulum(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.pendulum import pendulum_log

    return pendulum_log(name, rows, rng=rng)


def _maze(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.point_maze import maze_log

    return maze_log(name, rows, rng=rng)


def _locomotion(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.linear_locomotion import locomotion_log

    return locomotion_log(name, rows, rng=rng)


def _grid(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.regimes import grid_log

    return grid_log(name, rows, rng=rng)


GRIDS = {"four-rooms": "four rooms, 104 cells", "lava-gap": "a gap in a wall of lava, 49 cells"}
BEHAVIOURS = {
    "random": "uniform actions",
    "mixed": "80 % of the steps uniform, then the planned policy",
    "replay": "uniform at first, the planned policy in the end, as a learner's record",
    "noisy": "the planned policy, a fifth of its actions uniform",
    "medium": "the planned policy, half of its actions uniform",
    "expert": "the planned policy",
}
EPISODE_LOGS: dict[str, EpisodeLog] = {
    "pendulum-mix": EpisodeLog(
        "pendulum: 90 % uniform torques, 10 % a good controller", _pendulum, -2.0, 2.0
    ),
    "pendulum-weak": EpisodeLog("pendulum: 90 % a weak controller, 10 % a good one", _pendulum, -2.0, 2.0),
    "pendulum-eps": EpisodeLog("pendulum: a good controller, 70 % of actions uniform", _pendulum, -2.0, 2.0),
    "pointmaze-umaze": EpisodeLog("point mass in a U: a walker to random goals", _maze),
    "pointmaze-medium": EpisodeLog("point mass in a larger maze: a walker to random goals", _maze),
    "hopper-linear-medium": EpisodeLog("MuJoCo Hopper-v5: a linear policy half-way", _locomotion),
    "hopper-linear-expert": EpisodeLog("MuJoCo Hopper-v5: the best linear policy", _locomotion),
    "hopper-linear-medium-expert": EpisodeLog("MuJoCo Hopper-v5: half of each", _locomotion),
    **{f"{g}-{b}": EpisodeLog(f"{x}: {y}", _grid) for g, x in GRIDS.items() for b, y in BEHAVIOURS.items()},
}


def make_episodes(name: str, path: Path, *, rows: int, rng: int) -> Path:
    """Generate a log of about `rows` steps and write it: one file if the path ends in .npz, else a Minari folder."""
    if name not in EPISODE_LOGS:
        raise DatasetError(message(f"there is no log {name!r}", expected=f"one of {', '.join(EPISODE_LOGS)}"))
    found = EPISODE_LOGS[name]
    log = found.make(name, rows, rng)
    if path.suffix == ".npz":
        return log.to_npz(path)
    from counterlog.core.minari_files import write_minari

    about = f"{found.about}; counterlog data make {name} --rows {rows} --rng {rng}"
    return write_minari(log, path, name=f"counterlog/{name}-v0", about=about, low=found.low, high=found.high)


def get_minari(identity: str) -> Path:
    """The folder of a published Minari data set, downloaded where it is not on this machine.

    Raises `DatasetError` when it cannot be had, `MissingExtraError` without minari.
    """
    minari = need_extra("minari", "rl")
    storage = need_extra("minari.storage.datasets_root_dir", "rl")
    try:
        folder = Path(storage.get_dataset_path(identity))
        if not (folder / "data").is_dir():
            minari.download_dataset(identity)
    except Exception as cause:
        msg = message(
            f"{identity} could not be downloaded ({type(cause).__name__}: {cause})",
            hint="put its folder under $MINARI_DATASETS_PATH, or generate a log with `counterlog data make`",
        )
        raise DatasetError(msg) from cause
    return folder
