"""A log of trajectories as transitions for learners: scaled, shaped, checked, one float32 row a step.

The successor of a step is stored, never found by shifting: the last row of a trajectory that was cut without a recorded
final state has no successor and is left out (D4RL's rule). `terminated` alone ends a value; a time limit does not.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from counterlog.core import ragged
from counterlog.core.episodes import Episodes, EpisodeWarning
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.scaling import ActionBounds, StateScale
from counterlog.core.transition_rows import Batch, Columns

Floats = NDArray[np.float64]
REWARDS = (
    "none",
    "iql_locomotion",
    "antmaze_minus1",
    "antmaze_odice",
    "antmaze_prdc",
    "cql_antmaze",
    "standard",
)


def shaped_rewards(log: Episodes, preset: str) -> Floats:
    """(N,) rewards under a named preset.

    none             as logged
    iql_locomotion   r 1000 / (largest - smallest undiscounted return)
    antmaze_minus1   r - 1
    antmaze_odice    0 -> -3, 1 -> 0
    antmaze_prdc     10000 r - 1
    cql_antmaze      10 r - 5
    standard         (r - mean) / (std + 1e-3)
    """
    (r,) = log.need("reward")
    if preset == "none":
        return np.asarray(r)
    if preset == "iql_locomotion":
        span = float(np.ptp(log.returns()))
        if span == 0:
            raise SupportError(message("all trajectories have one return, so rewards cannot be scaled by it"))
        return np.asarray(r * (1000.0 / span))
    if preset == "standard":
        return np.asarray((r - r.mean()) / (r.std() + 1e-3))
    linear = {
        "antmaze_minus1": (1.0, -1.0),
        "antmaze_odice": (3.0, -3.0),
        "antmaze_prdc": (1e4, -1.0),
        "cql_antmaze": (10.0, -5.0),
    }
    if preset not in linear:
        raise ConfigError(message(f"reward preset {preset!r}", expected=f"one of {', '.join(REWARDS)}"))
    scale, shift = linear[preset]
    return np.asarray(scale * r + shift)


def returns_to_go(reward: Floats, offsets: NDArray[np.int64], gamma: float) -> Floats:
    """(N,) sum of gamma^k r from each step to the end of its trajectory, as recorded."""
    out = np.array(reward, np.float64)
    size = ragged.lengths(offsets)
    for t in range(int(size.max()) - 2, -1, -1):
        rows = offsets[:-1][size > t + 1] + t
        out[rows] += gamma * out[rows + 1]
    return out


def best_trajectories(log: Episodes, share: float, gamma: float = 1.0) -> Episodes:
    """The best share of trajectories by return, at least one: max(1, floor(share n)). Ties keep the log's order."""
    order = np.argsort(-log.returns(gamma), kind="stable")
    return log.take(np.sort(order[: max(1, int(share * log.n))]))


@dataclass(frozen=True)
class Transitions:
    """What a learner reads. `rows` (N, columns); what acting on raw states needs is `scale`, `bounds`, `labels`."""

    rows: Tensor
    columns: Columns
    scale: StateScale
    bounds: ActionBounds | None
    labels: tuple[Any, ...]
    starts: Tensor
    trajectory: NDArray[np.int64]
    step: NDArray[np.int64]
    fingerprint: str
    reward_unit: str = "reward"

    @classmethod
    def from_episodes(
        cls,
        log: Episodes,
        *,
        states: str = "td3",
        reward: str = "none",
        gamma: float = 0.99,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        longest: int | None = None,
        reward_needed: bool = True,
    ) -> Transitions:
        """The transitions of a log.

        states   scale of the states: none, td3 (deviation + 1e-3), fine (+ 1e-6); codes become one-hot
        reward   a preset of `shaped_rewards`
        gamma    discount of the column `return_to_go`
        longest  refuse trajectories with more steps than this

        Raises `LogError` for actions outside the bounds or trajectories that are too long, `SupportError` when every
        reward is the same and either 0 or without an end that would make longer lives worth more.
        """
        if longest is not None and int(log.lengths.max()) > longest:
            worst = int(log.lengths.argmax())
            msg = message(
                f"trajectory {worst} has {int(log.lengths[worst]):,} steps", expected=f"at most {longest:,}"
            )
            raise LogError(message(msg, hint="look for a missing terminated or truncated flag"))
        kept = np.flatnonzero(log.continues | log.terminated)
        if not kept.size:
            msg = message("no step has a known successor", hint="log at least two steps a trajectory")
            raise SupportError(msg)
        if (left := log.rows - kept.size) > 0.1 * log.rows:
            warnings.warn(
                f"{left:,} of {log.rows:,} steps have no known successor and are left out",
                EpisodeWarning,
                stacklevel=2,
            )
        scale = StateScale.fit(log, states)
        bounds = None if log.discrete else ActionBounds.fit(log, low, high)
        action = log.action if bounds is None else bounds.inwards(log.action)
        following = np.minimum(np.arange(log.rows) + 1, log.rows - 1)
        following[log.last] = log.last
        parts: dict[str, NDArray[Any]] = {
            "state": scale.transform(log.state),
            "action": action,
            "next_state": scale.transform(log.next_state),
            "next_action": action[following],
            "terminated": log.terminated,
        }
        if reward_needed or log.reward is not None:
            shaped = shaped_rewards(log, reward)
            alike = np.ptp(shaped) == 0
            if reward_needed and alike and (shaped[0] == 0 or not log.terminated.any()):
                msg = message(
                    f"every reward is {shaped[0]:g}", hint="a log without better and worse teaches no value"
                )
                raise SupportError(msg)
            parts["reward"] = shaped
            parts["return_to_go"] = returns_to_go(shaped, log.offsets, gamma)
        if log.log_propensity is not None:
            parts["log_propensity"] = log.log_propensity
        order = ("state", "action", "reward", "next_state", "terminated", "next_action")
        names = [n for n in order if n in parts] + [n for n in parts if n not in order]
        columns = Columns(
            {n: parts[n].shape[1] if parts[n].ndim == 2 else 0 for n in names}, discrete=log.discrete
        )
        matrix = np.empty((kept.size, columns.total), np.float32)
        for name in names:
            part = parts[name][kept]
            matrix[:, columns.slices[name]] = part if part.ndim == 2 else part[:, None]
        return cls(
            rows=torch.from_numpy(matrix),
            columns=columns,
            scale=scale,
            bounds=bounds,
            labels=tuple(log.actions) if log.discrete else (),
            starts=torch.from_numpy(scale.transform(log.state[log.first])),
            trajectory=log.owners[kept],
            step=log.steps[kept],
            fingerprint=log.fingerprint,
            reward_unit=log.reward_unit,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def discrete(self) -> bool:
        """Whether actions are codes."""
        return self.columns.discrete

    @property
    def state_size(self) -> int:
        """Width of a scaled state."""
        return self.scale.size

    @property
    def action_size(self) -> int:
        """Width of an action, or the number of actions."""
        return len(self.labels) if self.discrete else self.columns.widths["action"]

    def column(self, name: str) -> Tensor:
        """(N, width) or (N,) one role of all rows, a view."""
        return self.columns.cut(self.rows, name)

    def batch(self, index: Tensor) -> Batch:
        """The rows (seeds, b) as a batch: one gather."""
        picked = self.rows.index_select(0, index.reshape(-1))
        return Batch(picked.view(*index.shape, -1), self.columns, index)

    def select(self, keep: NDArray[np.bool_]) -> Transitions:
        """The rows of a mask, scales unchanged."""
        from dataclasses import replace

        mask = torch.from_numpy(np.asarray(keep, bool))
        return replace(self, rows=self.rows[mask], trajectory=self.trajectory[keep], step=self.step[keep])
