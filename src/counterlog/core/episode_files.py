"""Trajectories from the files of the field: D4RL HDF5 and Minari (optional extras), and LeRobot tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError, first_rows, message, need_extra


def read_episodes(path: str | os.PathLike[str]) -> Episodes:
    """Trajectories from a file, by its ending: .npz, .hdf5 or .h5 (D4RL), .parquet (LeRobot); a folder with
    data/**/*.parquet is LeRobot's, any other Minari's. Raises `LogError` for another ending or a missing file."""
    place = Path(path)
    if place.is_dir():
        return read_lerobot(place) if any(place.glob("data/**/*.parquet")) else read_minari(place)
    readers: dict[str, Callable[[Path], Episodes]] = {
        ".npz": Episodes.from_npz,
        ".hdf5": read_d4rl,
        ".h5": read_d4rl,
        ".parquet": read_lerobot,
    }
    if not place.exists():
        raise LogError(message(f"there is no file or folder {os.fspath(path)!r}"))
    if place.suffix not in readers:
        msg = message(
            f"{os.fspath(path)!r} is no log of trajectories",
            expected=f"a file ending in {', '.join(readers)}, or a Minari or LeRobot folder",
        )
        raise LogError(msg)
    return readers[place.suffix](place)


def holds_trajectories(path: str | os.PathLike[str]) -> bool:
    """Whether `read_episodes` is meant: a folder with data/, a .npz, .hdf5 or .h5 file, or a LeRobot table."""
    place = Path(path)
    if place.is_dir():
        return (place / "data").is_dir()
    if place.suffix == ".parquet" and place.is_file():
        import polars as pl

        try:
            return {"episode_index", "frame_index"} <= set(pl.scan_parquet(place).collect_schema().names())
        except (OSError, pl.exceptions.PolarsError):
            return False
    return place.suffix in (".npz", ".hdf5", ".h5")


def read_d4rl(path: str | os.PathLike[str], *, longest: int | None = None) -> Episodes:
    """From a D4RL HDF5 file: observations, actions, rewards, terminals, and timeouts where the file has them.

    An episode ends at a terminal or a timeout. A file without timeouts needs `longest`, the environment's time limit,
    unless every episode ends in a terminal. With `next_observations` the state after each end is kept. Raises
    `MissingExtraError` without h5py, `LogError` for a file of another kind.
    """
    h5py = need_extra("h5py", "rl")
    wanted = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    try:
        with h5py.File(path, "r") as file:
            content = {k: np.asarray(file[k]) for k in wanted if k in file}
            log_key = "infos/action_log_probs"
            log_propensity = np.asarray(file[log_key], np.float64) if log_key in file else None
    except OSError as cause:
        msg = message(f"{os.fspath(path)!r} is not an HDF5 file ({cause})")
        raise LogError(msg) from cause
    if missing := [k for k in wanted[:4] if k not in content]:
        msg = message(f"{os.fspath(path)!r} has no {missing[0]!r}", expected="a D4RL file")
        raise LogError(msg)
    return d4rl_episodes(content, log_propensity=log_propensity, longest=longest)


def d4rl_episodes(
    content: dict[str, NDArray[Any]],
    *,
    log_propensity: NDArray[Any] | None = None,
    longest: int | None = None,
) -> Episodes:
    """The arrays of a D4RL file, (N, ...) each, cut into trajectories."""
    terminal = np.asarray(content["terminals"]).astype(bool).ravel()
    rows = len(terminal)
    if "timeouts" in content:
        timeout = np.asarray(content["timeouts"]).astype(bool).ravel() & ~terminal
    else:
        timeout = _limits(terminal, longest)
    done = terminal | timeout
    if not done.any():
        msg = message(
            "no step is a terminal or a timeout, so episodes cannot be separated",
            hint="give longest=, the time limit",
        )
        raise LogError(msg)
    ends = np.flatnonzero(done) + 1
    offsets = np.concatenate([[0], ends, [rows]] if ends[-1] < rows else [[0], ends])
    following = content.get("next_observations")
    return Episodes(
        offsets=offsets,
        state=content["observations"],
        action=content["actions"],
        reward=np.asarray(content["rewards"], np.float64).ravel(),
        log_propensity=log_propensity,
        terminated=terminal,
        truncated=timeout,
        final_state=None if following is None else following[offsets[1:] - 1],
    )


def _limits(terminal: NDArray[np.bool_], longest: int | None) -> NDArray[np.bool_]:
    """(N,) steps at which an episode reaches the time limit."""
    cut = np.zeros(len(terminal), bool)
    if longest is None:
        return cut
    starts = np.concatenate([[0], np.flatnonzero(terminal) + 1])
    starts = starts[starts < len(terminal)]
    begin = np.repeat(starts, np.diff(np.append(starts, len(terminal))))
    return np.asarray(((np.arange(len(terminal)) - begin) % longest == longest - 1) & ~terminal, bool)


def read_minari(dataset: Any) -> Episodes:
    """From a Minari data set: the object, its folder, or the id of one that lies on this machine; no downloads.

    An episode has T + 1 observations and T actions; the last observation is the state after the end. Dict observations
    are joined in the order of their sorted keys. `infos["log_propensity"]` (T + 1, the first for the reset) is the
    logging policy's log-probability. Raises `MissingExtraError` without minari.
    """
    if isinstance(dataset, (str, os.PathLike)):
        minari = need_extra("minari", "rl")
        inside = Path(dataset) / "data"
        if inside.is_dir():
            dataset = minari.MinariDataset(inside)
        else:
            dataset = minari.load_dataset(os.fspath(dataset), download=False)
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        msg = message("the data set has no episodes")
        raise LogError(msg)
    states = [_joined(e.observations) for e in episodes]
    infos = [e.infos or {} for e in episodes]
    known = all("log_propensity" in i for i in infos)
    actions = np.concatenate([np.asarray(e.actions) for e in episodes])
    return Episodes(
        offsets=np.concatenate([[0], np.cumsum([len(e.rewards) for e in episodes])]),
        state=np.concatenate([s[:-1] for s in states]),
        action=actions,
        reward=np.concatenate([np.asarray(e.rewards, np.float64) for e in episodes]),
        terminated=np.concatenate([np.asarray(e.terminations) for e in episodes]),
        truncated=np.concatenate([np.asarray(e.truncations) & ~np.asarray(e.terminations) for e in episodes]),
        log_propensity=np.concatenate([np.asarray(i["log_propensity"])[1:] for i in infos])
        if known
        else None,
        actions=int(getattr(dataset.action_space, "n", 0)) or None if actions.ndim == 1 else None,
        final_state=np.stack([s[-1] for s in states]),
    )


def read_lerobot(
    path: str | os.PathLike[str], *, ends: Literal["terminated", "truncated"] = "truncated"
) -> Episodes:
    """From LeRobot tables: a Parquet file, a glob, or a data set's folder (its data/**/*.parquet).

    Columns: episode_index, frame_index, observation.state and action (lists of numbers), and where they exist
    next.reward, next.terminated and next.truncated. LeRobot's `next.done` says that a recording ended, not why: `ends`
    says what an episode's last frame means when the table does not. Raises `LogError` for another table.
    """
    import polars as pl

    place = Path(path)
    source = str(place / "data" / "**" / "*.parquet") if place.is_dir() else os.fspath(path)
    try:
        table = pl.read_parquet(source)
    except (OSError, pl.exceptions.PolarsError) as cause:
        msg = message(f"{source!r} cannot be read as Parquet ({cause})")
        raise LogError(msg) from cause
    wanted = ("episode_index", "frame_index", "observation.state", "action")
    if missing := [c for c in wanted if c not in table.columns]:
        msg = message(f"{source!r} has no column {missing[0]!r}", expected="a LeRobot table")
        raise LogError(msg)
    table = table.sort("episode_index", "frame_index")
    owner = table["episode_index"].to_numpy()
    offsets = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1, [len(owner)]])
    frames = table["frame_index"].to_numpy()
    if (
        bad := np.flatnonzero(frames != np.arange(len(owner)) - np.repeat(offsets[:-1], np.diff(offsets)))
    ).size:
        msg = message(f"frame_index has gaps or repeats: {first_rows(bad)}", hint="give whole episodes")
        raise LogError(msg)
    last = np.zeros(len(owner), bool)
    last[offsets[1:] - 1] = True
    flags: dict[str, NDArray[Any] | None] = dict.fromkeys(("terminated", "truncated"))
    for kind in flags:
        if f"next.{kind}" in table.columns:
            flags[kind] = table[f"next.{kind}"].to_numpy()
    if all(f is None for f in flags.values()):
        flags[ends] = last
    return Episodes(
        offsets=offsets,
        state=_lists(table["observation.state"]),
        action=_lists(table["action"]),
        reward=table["next.reward"].to_numpy() if "next.reward" in table.columns else None,
        terminated=flags["terminated"],
        truncated=flags["truncated"],
    )


def _lists(column: Any) -> NDArray[Any]:
    """(N, d) from a column of lists of one length. Raises `LogError` for lists of several."""
    import polars as pl

    if not isinstance(column.dtype, pl.List):
        return np.asarray(column.to_numpy())
    sizes = column.list.len()
    if sizes.n_unique() != 1:
        msg = message(
            f"{column.name} has lists of {sizes.min()} to {sizes.max()} numbers", expected="one length"
        )
        raise LogError(msg)
    return np.asarray(column.explode().to_numpy()).reshape(len(column), -1)


def _joined(observations: Any) -> NDArray[Any]:
    """(T + 1,) codes or (T + 1, d) numbers; dict observations flattened in sorted key order."""
    if isinstance(observations, dict):
        parts = [_joined(observations[k]) for k in sorted(observations)]
        return np.column_stack([p.reshape(len(p), -1) for p in parts])
    array = np.asarray(observations)
    return array.reshape(len(array), -1) if array.ndim > 2 else array
