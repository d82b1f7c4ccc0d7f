"""Write a log of trajectories as a Minari data set: a folder that Minari, and everything that reads it, can load.

The logging policy's log-probability of each action travels in `infos["log_propensity"]`, where `read_minari` finds it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError, message, need_extra


def write_minari(
    log: Episodes,
    folder: str | os.PathLike[str],
    *,
    name: str,
    about: str = "",
    low: Any = -np.inf,
    high: Any = np.inf,
) -> Path:
    """Write `log` to `folder` (which must not exist), whole or not at all. `name` is the data set's id.

    Raises `LogError` when a trajectory's last state is not known or rewards are missing: Minari needs both;
    `MissingExtraError` without minari.
    """
    gym, storage = (
        need_extra("gymnasium", "rl"),
        need_extra("minari.dataset.minari_storage", "rl").MinariStorage,
    )
    buffer = need_extra("minari.data_collector", "rl").EpisodeBuffer
    target = Path(
        folder
    ).absolute()  # Minari reads its own files by paths that a relative folder would double
    if target.exists():
        msg = message(f"{target} exists", hint="name a new folder, or delete that one")
        raise LogError(msg)
    reward, final = log.need("reward", "final_state")
    if not log.continues[log.last[~log.terminated[log.last]]].all():
        msg = message(
            "the last state of some trajectories is not known", hint="Minari needs T + 1 observations"
        )
        raise LogError(msg)
    made = []
    for i in range(log.n):
        rows = slice(int(log.offsets[i]), int(log.offsets[i + 1]))
        infos = None
        if log.log_propensity is not None:
            # Minari keeps T + 1 infos; the first belongs to the reset
            infos = {"log_propensity": np.concatenate([[0.0], log.log_propensity[rows]])}
        made.append(
            buffer(
                id=i,
                observations=np.concatenate([log.state[rows], final[i : i + 1]]),
                actions=log.action[rows],
                rewards=reward[rows],
                terminations=log.terminated[rows],
                truncations=log.truncated[rows],
                infos=infos,
            )
        )
    if log.state.ndim == 1:
        states = gym.spaces.Discrete(int(max(log.state.max(), final.max())) + 1)
    else:
        states = gym.spaces.Box(-np.inf, np.inf, log.state.shape[1:], log.state.dtype.type)
    if log.discrete:
        actions = gym.spaces.Discrete(len(log.actions))
    else:
        shape, dtype = log.action.shape[1:], log.action.dtype.type
        actions = gym.spaces.Box(
            np.broadcast_to(low, shape).astype(dtype),
            np.broadcast_to(high, shape).astype(dtype),
            shape,
            dtype,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        (beside / "data").mkdir()
        kept = storage.new(beside / "data", observation_space=states, action_space=actions)
        kept.update_metadata({"dataset_id": name, "description": about, "minari_version": version("minari")})
        kept.update_episodes(made)
        beside.chmod(0o755)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target
