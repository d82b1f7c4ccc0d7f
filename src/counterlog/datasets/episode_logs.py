"""Logs of trajectories by name: generated here from a seed, or published Minari data sets where the network allows.

What `counterlog data make NAME` writes (a Minari folder, or one .npz file), and what `counterlog data get minari:ID`
fetches. Every generated log is the same for the same name, rows and rng.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterlog.core.episodes import Episodes
from counterlog.core.errors import DatasetError, message, need_extra

if TYPE_CHECKING:
    from counterlog.core.environments import MakeEnvironment

Maker = Callable[[str, int, int], Episodes]


@dataclass(frozen=True)
class EpisodeLog:
    """A named generator: `make(name, rows, rng)`. `simulator(name, copies)` is the environment that it was recorded in,
    and `true_rows` how many fresh rows show what was done is truly worth."""

    about: str
    make: Maker
    low: float = -1.0
    high: float = 1.0
    simulator: Callable[[str, int], Any] | None = None
    true_rows: int = 400_000


def _pendulum(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.pendulum import pendulum_log

    return pendulum_log(name, rows, rng=rng)


def _maze(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.point_maze import maze_log

    return maze_log(name, rows, rng=rng)


def _locomotion(name: str, rows: int, rng: int) -> Episodes:
    from counterlog.datasets.linear_locomotion import locomotion_log

    return locomotion_log(name, rows, rng=rng)


def _pendulum_simulator(name: str, copies: int) -> Any:
    from counterlog.datasets.pendulum import Pendulum

    return Pendulum(copies)


def _maze_simulator(name: str, copies: int) -> Any:
    from counterlog.datasets.point_maze import PointMaze

    return PointMaze(copies, name.removeprefix("pointmaze-"))


def _hopper_simulator(name: str, copies: int) -> Any:
    from counterlog.core.environments import GymnasiumEnvironment

    return GymnasiumEnvironment("Hopper-v5", copies)


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
        "pendulum: 90 % uniform torques, 10 % a good controller", _pendulum, -2.0, 2.0, _pendulum_simulator
    ),
    "pendulum-weak": EpisodeLog(
        "pendulum: 90 % a weak controller, 10 % a good one", _pendulum, -2.0, 2.0, _pendulum_simulator
    ),
    "pendulum-eps": EpisodeLog(
        "pendulum: a good controller, 70 % of actions uniform", _pendulum, -2.0, 2.0, _pendulum_simulator
    ),
    "pointmaze-umaze": EpisodeLog(
        "point mass in a U: a walker to random goals", _maze, simulator=_maze_simulator
    ),
    "pointmaze-medium": EpisodeLog(
        "point mass in a larger maze: a walker to random goals", _maze, simulator=_maze_simulator
    ),
    "hopper-linear-medium": EpisodeLog(
        "MuJoCo Hopper-v5: a linear policy half-way",
        _locomotion,
        simulator=_hopper_simulator,
        true_rows=60_000,
    ),
    "hopper-linear-expert": EpisodeLog(
        "MuJoCo Hopper-v5: the best linear policy", _locomotion, simulator=_hopper_simulator, true_rows=60_000
    ),
    "hopper-linear-medium-expert": EpisodeLog(
        "MuJoCo Hopper-v5: half of each", _locomotion, simulator=_hopper_simulator, true_rows=60_000
    ),
    **{f"{g}-{b}": EpisodeLog(f"{x}: {y}", _grid) for g, x in GRIDS.items() for b, y in BEHAVIOURS.items()},
}


def known_truth(name: str, gamma: float, *, rng: int) -> tuple[MakeEnvironment, float]:
    """The simulator of a generated log, and what such a log's own policy is worth: the mean discounted return of a
    fresh one. Raises `DatasetError` for a log without a simulator."""
    found = EPISODE_LOGS.get(name)
    if found is None or found.simulator is None:
        known = [k for k, v in EPISODE_LOGS.items() if v.simulator is not None]
        raise DatasetError(
            message(f"there is no simulator of {name!r}", expected=f"one of {', '.join(known)}")
        )
    play = found.simulator
    fresh = found.make(name, found.true_rows, rng)
    return lambda copies: play(name, copies), float(fresh.returns(gamma).mean())


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
