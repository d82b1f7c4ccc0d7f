"""Environments of a stack of seeds: every seed plays its own copies from its own starts, whatever stands beside it.

Returns of finished episodes are counted on the way, in the environment's own reward. All of it can be saved in the
middle of an episode and put back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.environments import GymnasiumEnvironment, MakeEnvironment, Moves, Resumable
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.scaling import ActionBounds
from counterlog.core.seed_streams import checked_seeds, numpy_stream

RECENT = 20
Floats = NDArray[np.float64]


def maker(environment: MakeEnvironment | str) -> MakeEnvironment:
    """A function of the number of copies: itself, or that of a Gymnasium id."""
    if isinstance(environment, str):
        name = environment
        return lambda copies: GymnasiumEnvironment(name, copies)
    return environment


class SeedEnvironments:
    """`copies` of an environment for each seed. Arrays have the axes (seeds, copies, ...).

    Raises `ConfigError` for continuous actions without finite bounds.
    """

    def __init__(self, make: MakeEnvironment | str, seeds: Sequence[int], copies: int) -> None:
        build = maker(make)
        self.seeds, self.copies = checked_seeds(seeds), copies
        self.each = [build(copies) for _ in self.seeds]
        one = self.each[0]
        self.name, self.reward_unit, self.longest = one.name, one.reward_unit, one.longest
        self.state_size, self.action_size, self.discrete = one.state_size, one.action_size, one.discrete
        self.bounds: ActionBounds | None = None
        if not self.discrete:
            if not np.isfinite([*one.low, *one.high]).all():
                msg = message(f"{self.name} has actions between {one.low} and {one.high}")
                raise ConfigError(
                    message(msg, expected="finite bounds", hint="wrap it to rescale its actions")
                )
            self.bounds = ActionBounds(one.low, one.high)
        self.running, self.ages = np.zeros((2, len(self.seeds), copies))
        self.returns: list[list[float]] = [[] for _ in self.seeds]
        self.lengths: list[list[int]] = [[] for _ in self.seeds]
        self.episodes = np.zeros(len(self.seeds), np.int64)
        self.states: NDArray[Any] = self.reset()

    def reset(self) -> NDArray[Any]:
        """Fresh episodes of every copy: (seeds, copies, d) states."""
        starts = [int(numpy_stream(s, "environment").integers(2**31)) for s in self.seeds]
        self.states = np.stack([env.reset(start) for env, start in zip(self.each, starts, strict=True)])
        self.running[:], self.ages[:] = 0, 0
        return self.states

    def step(self, action: Any) -> Moves:
        """One step of all copies of all seeds; actions in the environment's unit."""
        moved = [env.step(a) for env, a in zip(self.each, action, strict=True)]
        names = ("next_state", "reward", "terminated", "truncated", "state")
        if len(moved) == 1:
            found = Moves(*(np.array(getattr(moved[0], name))[None] for name in names))  # a copy
        else:
            found = Moves(*(np.stack([getattr(m, name) for m in moved]) for name in names))
        self._check(found, action)
        self.running += found.reward
        self.ages += 1
        if (done := found.done).any():
            for k, i in np.argwhere(done).tolist():
                self.returns[k] = [*self.returns[k][-RECENT + 1 :], float(self.running[k, i])]
                self.lengths[k] = [*self.lengths[k][-RECENT + 1 :], int(self.ages[k, i])]
                self.episodes[k] += 1
            self.running[done], self.ages[done] = 0, 0
        self.states = found.state
        return found

    def _check(self, found: Moves, action: Any) -> None:
        """Raises `SupportError` for numbers that are not finite."""
        for name, array in (("reward", found.reward), ("next_state", found.next_state)):
            if not np.isfinite(array).all():
                k, i = np.argwhere(~np.isfinite(array))[0][:2]
                msg = message(
                    f"{name} of seed {self.seeds[k]}, copy {i} is not finite at step {int(self.ages[k, i]) + 1} "
                    f"of an episode of {self.name}"
                )
                raise SupportError(message(msg, hint=f"the action was {np.asarray(action)[k, i].tolist()}"))

    def recent(self) -> dict[str, Tensor]:
        """`return` and `length`: means of each seed's last 20 finished episodes; nothing until every seed has one."""
        if not all(self.returns):
            return {}
        return {
            "return": torch.tensor([float(np.mean(v)) for v in self.returns]),
            "length": torch.tensor([float(np.mean(v)) for v in self.lengths]),
        }

    @property
    def resumable(self) -> bool:
        """Whether the environment can be put back in the middle of an episode."""
        return all(isinstance(env, Resumable) for env in self.each)

    def state(self) -> dict[str, Tensor]:
        """Snapshots and counts. Raises `ConfigError` for an environment without snapshots."""
        if not self.resumable:
            msg = message(f"{self.name} cannot be saved in the middle of an episode")
            hint = "give it snapshot() and put_back(text), or train without a folder"
            raise ConfigError(message(msg, hint=hint))
        said = {
            "each": [env.snapshot() for env in self.each if isinstance(env, Resumable)],
            "returns": self.returns,
            "lengths": self.lengths,
        }
        return {
            "said": torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8),
            "running": torch.from_numpy(self.running),
            "ages": torch.from_numpy(self.ages),
            "episodes": torch.from_numpy(self.episodes),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        said = json.loads(bytes(state["said"].tolist()).decode())
        pairs = zip(self.each, said["each"], strict=True)
        self.states = np.stack([env.put_back(text) for env, text in pairs if isinstance(env, Resumable)])
        self.returns, self.lengths = said["returns"], said["lengths"]
        self.running, self.ages = state["running"].numpy().copy(), state["ages"].numpy().copy()
        self.episodes = state["episodes"].numpy().copy()
