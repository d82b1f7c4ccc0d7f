"""Trajectories from the files of the offline-RL field: D4RL HDF5 and Minari. Both readers are optional extras."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError, message, need_extra


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
    """From a Minari data set (the object, or the id of one that lies on this machine): nothing is downloaded.

    An episode has T + 1 observations and T actions; the last observation is the state after the end. Dict observations
    are joined in the order of their sorted keys. Raises `MissingExtraError` without minari.
    """
    if isinstance(dataset, str):
        dataset = need_extra("minari", "rl").load_dataset(dataset, download=False)
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        msg = message("the data set has no episodes")
        raise LogError(msg)
    states = [_joined(e.observations) for e in episodes]
    return Episodes(
        offsets=np.concatenate([[0], np.cumsum([len(e.rewards) for e in episodes])]),
        state=np.concatenate([s[:-1] for s in states]),
        action=np.concatenate([np.asarray(e.actions) for e in episodes]),
        reward=np.concatenate([np.asarray(e.rewards, np.float64) for e in episodes]),
        terminated=np.concatenate([np.asarray(e.terminations) for e in episodes]),
        truncated=np.concatenate([np.asarray(e.truncations) & ~np.asarray(e.terminations) for e in episodes]),
        final_state=np.stack([s[-1] for s in states]),
    )


def _joined(observations: Any) -> NDArray[Any]:
    """(T + 1,) codes or (T + 1, d) numbers; dict observations flattened in sorted key order."""
    if isinstance(observations, dict):
        parts = [_joined(observations[k]) for k in sorted(observations)]
        return np.column_stack([p.reshape(len(p), -1) for p in parts])
    array = np.asarray(observations)
    return array.reshape(len(array), -1) if array.ndim > 2 else array
