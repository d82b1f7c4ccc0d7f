"""Grid worlds as tables: many copies a call, with their exact decision process beside them.

A layout is text: `#` wall, `S` start, `G` goal (reward 1, the task ends), `L` lava (the task ends), all else floor.
Actions: up, down, left, right; a step into a wall stays. With probability `slip` the executed action is uniform over
the four. Episodes are cut after 200 steps. Cells that are no wall are numbered row by row.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Moves, check_groups
from counterlog.core.errors import ConfigError, message
from counterlog.core.tabular import TabularMDP

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
HORIZON = 200
LAYOUTS = {
    # 104 cells in four rooms that are joined by four doors
    "four-rooms": """
S....#.....
.....#.....
...........
.....#.....
.....#.....
##.#####.##
.....#.....
.....#.....
...........
.....#.....
.....#....G""",
    # a wall of lava with one gap between start and goal
    "lava-gap": """
S..L...
...L...
...L...
...L...
.......
...L...
...L..G""",
}


class GridWorld:
    """Copies of a grid world. `observe`: "codes" gives cell numbers, "cells" the row and the column one-hot."""

    action_size, discrete = 4, True
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    longest, reward_unit = HORIZON, "reward"

    def __init__(
        self, copies: int = 1, layout: str = "four-rooms", *, slip: float = 0.1, observe: str = "codes"
    ) -> None:
        if layout not in LAYOUTS or observe not in ("codes", "cells") or not 0 <= slip <= 1:
            msg = message(
                f"layout {layout!r}, observe {observe!r}, slip {slip:g}",
                expected=f"a layout of {', '.join(LAYOUTS)}; codes or cells; slip in [0, 1]",
            )
            raise ConfigError(msg)
        self.name, self.copies, self.slip, self.observe = layout, copies, slip, observe
        rows = LAYOUTS[layout].strip().splitlines()
        self.cells = [(r, c) for r, line in enumerate(rows) for c, x in enumerate(line) if x != "#"]
        number = {cell: k for k, cell in enumerate(self.cells)}
        text = [rows[r][c] for r, c in self.cells]
        self.start = text.index("S")
        self.ends = np.isin(text, ("G", "L"))
        self.pays = np.array([float(x == "G") for x in text])
        self.follow = np.array(
            [[number.get((r + dr, c + dc), number[r, c]) for dr, dc in MOVES] for r, c in self.cells]
        )
        self.shape = (len(rows), len(rows[0]))
        self.state_size = 1 if observe == "codes" else sum(self.shape)
        self._seen = self._observations()
        self._begin(np.random.default_rng(0))

    def _observations(self) -> NDArray[Any]:
        if self.observe == "codes":
            return np.arange(len(self.cells))
        place = np.array(self.cells)
        return np.concatenate([np.eye(n)[place[:, i]] for i, n in enumerate(self.shape)], axis=1)

    def _begin(self, gen: np.random.Generator) -> None:
        self._gen = gen
        self.code = np.full(self.copies, self.start)
        self._age = np.zeros(self.copies, np.int64)

    def reset(self, rng: int, *, groups: int = 1) -> NDArray[Any]:
        """Every copy at the start."""
        check_groups(self.copies, groups)
        self._begin(np.random.default_rng(rng))
        return np.asarray(self._seen[self.code])

    def step(self, action: Any) -> Moves:
        """One step of all copies; copies that end begin anew."""
        wanted = np.asarray(action, np.int64)
        slipped = self._gen.random(self.copies) < self.slip
        done = np.where(slipped, self._gen.integers(0, 4, self.copies), wanted)
        self.code = self.follow[self.code, done]
        self._age += 1
        over, reward = self.ends[self.code], self.pays[self.code]
        cut = (self._age >= HORIZON) & ~over
        following = self._seen[self.code]
        self.code[over | cut] = self.start
        self._age[over | cut] = 0
        return Moves(following, reward, over, cut, self._seen[self.code])

    @cached_property
    def process(self) -> TabularMDP:
        """The exact decision process, without the cut after 200 steps."""
        states = len(self.cells)
        reached = np.zeros((states, 4, states))
        for executed in range(4):
            arrival = np.eye(states)[self.follow[:, executed]]
            reached[:, executed] += (1 - self.slip) * arrival
            reached += self.slip / 4 * arrival[:, None]
        reward = reached @ self.pays
        reached[:, :, self.ends] = 0.0
        reached[self.ends] = 0.0
        reward[self.ends] = 0.0
        return TabularMDP(reached, reward, np.eye(states)[self.start])

    def plan(self, gamma: float = 0.95) -> Codes:
        """(cells,) the optimal action of every cell, by value iteration; ties to the first action."""
        process = self.process
        value = np.zeros(process.states)
        while True:
            q = process.reward + gamma * process.transition @ value
            if np.abs(q.max(axis=1) - value).max() < 1e-13:
                return np.asarray(q.round(12).argmax(axis=1))
            value = q.max(axis=1)

    def code_of(self, state: NDArray[Any]) -> Codes:
        """Cell numbers of observations."""
        if self.observe == "codes":
            return np.asarray(state, np.int64)
        rows = self.shape[0]
        wanted = state[:, :rows].argmax(axis=1) * self.shape[1] + state[:, rows:].argmax(axis=1)
        flat = np.full(self.shape[0] * self.shape[1], -1)
        flat[[r * self.shape[1] + c for r, c in self.cells]] = np.arange(len(self.cells))
        return np.asarray(flat[wanted])
