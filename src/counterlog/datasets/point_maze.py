"""A point mass that is pushed through a maze, all copies at once in numpy, and logs of a way-point controller in it.

State (x, y, speed x, speed y); action: force in [-1, 1] on each axis; 0.1 s a step. A wall stops the axis that runs
into it. Reward 1 in every step that ends within 0.5 of the fixed goal cell's centre; 150 steps, then the recording
stops.

    v' = 0.9 v + 0.2 force,     x' = x + 0.1 v' unless a wall is there

The log is made by walkers to random goals, who know nothing of the reward: good pieces must be put together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Act, Moves, check_groups, record_episodes
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message

Floats = NDArray[np.float64]
MAZES = {
    "umaze": ("#####", "#...#", "###.#", "#G..#", "#####"),
    "medium": (
        "########",
        "#..##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
}
STEP, GAIN, DRAG, HORIZON, NEAR, NOISE = 0.1, 2.0, 0.9, 150, 0.5, 0.3


class PointMaze:
    """Copies of a maze; starts uniform over free cells, at rest."""

    state_size, action_size, discrete = 4, 2, False
    low: tuple[float, ...] = (-1.0, -1.0)
    high: tuple[float, ...] = (1.0, 1.0)
    longest, reward_unit = HORIZON, "steps at the goal"

    def __init__(self, copies: int = 1, maze: str = "umaze") -> None:
        if maze not in MAZES:
            raise ConfigError(message(f"maze {maze!r}", expected=", ".join(MAZES)))
        self.name, self.copies = f"pointmaze-{maze}", copies
        cells = np.array([list(row) for row in MAZES[maze]])
        self.walls = cells == "#"
        self.free = np.argwhere(~self.walls)
        self.goal = np.argwhere(cells == "G")[0] + 0.5
        self._begin(np.random.default_rng(0), 1)

    def _begin(self, gen: np.random.Generator, groups: int) -> None:
        each = check_groups(self.copies, groups)
        place = self.free[gen.integers(0, len(self.free), each)] + gen.uniform(0.2, 0.8, (each, 2))
        self._gen, self._steps = gen, 0
        self.place = np.tile(place, (groups, 1))
        self.speed = np.zeros_like(self.place)

    def reset(self, rng: int, *, groups: int = 1) -> Floats:
        """(copies, 4) fresh states."""
        self._begin(np.random.default_rng(rng), groups)
        return self.state

    @property
    def state(self) -> Floats:
        """(copies, 4)."""
        return np.column_stack([self.place, self.speed])

    def step(self, action: Any) -> Moves:
        """One step of all copies; all end together."""
        force = np.asarray(action, np.float64).reshape(self.copies, 2).clip(-1, 1)
        self.speed = DRAG * self.speed + STEP * GAIN * force
        for axis in (0, 1):
            moved = self.place.copy()
            moved[:, axis] += STEP * self.speed[:, axis]
            cell = moved.astype(int)
            stopped = self.walls[cell[:, 0], cell[:, 1]]
            self.place = np.where(stopped[:, None], self.place, moved)
            self.speed[stopped, axis] = 0.0
        reward = (np.linalg.norm(self.place - self.goal, axis=1) < NEAR).astype(np.float64)
        self._steps += 1
        following = self.state
        cut = np.full(self.copies, self._steps >= HORIZON)
        if cut[0]:
            self._begin(self._gen, 1)
        return Moves(following, reward, np.zeros(self.copies, bool), cut, self.state)


def next_cells(walls: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H, W, H, W, 2) the cell to enter next on a shortest way from the first cell to the second; itself where none."""
    height, width = walls.shape
    table = np.full((height, width, height, width, 2), -1)
    for goal in np.argwhere(~walls):
        table[goal[0], goal[1], goal[0], goal[1]] = goal
        border = [tuple(goal)]
        seen = {tuple(goal)}
        while border:
            ring = []
            for r, c in border:
                for step in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                    if not walls[step] and step not in seen:
                        seen.add(step)
                        table[step[0], step[1], goal[0], goal[1]] = (r, c)
                        ring.append(step)
            border = ring
    return table


def steer(state: Floats, waypoint: Floats) -> Floats:
    """(n, 2) force towards a point, damped."""
    return np.asarray((3.0 * (waypoint - state[:, :2]) - 1.0 * state[:, 2:]).clip(-1, 1))


def walker(env: PointMaze, *, goal: Floats | None = None, noise: float = NOISE) -> Act:
    """Walks by way-points to random free cells, a new one on arrival (or always to `goal`), with noise on the force.

    The log-density of a force that was cut to the bounds is that of the cut end as an atom.
    """
    from scipy.stats import norm

    table = next_cells(env.walls)
    aims: list[NDArray[np.int64]] = []

    def act(state: Any, gen: np.random.Generator) -> tuple[Floats, Floats]:
        n = len(state)
        if not aims or len(aims[0]) != n:
            aims[:] = [env.free[gen.integers(0, len(env.free), n)]]
        aim = aims[0]
        if goal is None:
            there = np.linalg.norm(state[:, :2] - aim - 0.5, axis=1) < NEAR
            aim[there] = env.free[gen.integers(0, len(env.free), int(there.sum()))]
        else:
            aim[:] = goal.astype(int)
        cell = state[:, :2].astype(int)
        mean = steer(state, table[cell[:, 0], cell[:, 1], aim[:, 0], aim[:, 1]] + 0.5)
        if noise == 0:
            return mean, np.zeros(n)
        action = (mean + noise * gen.normal(size=mean.shape)).clip(-1, 1)
        inside = norm.logpdf(action, mean, noise)
        low, high = norm.logcdf(-1, mean, noise), norm.logsf(1, mean, noise)
        return action, np.where(action <= -1, low, np.where(action >= 1, high, inside)).sum(axis=1)

    return act


def maze_log(name: str, rows: int = 100_000, *, rng: int = 0) -> Episodes:
    """`pointmaze-umaze` or `pointmaze-medium`: episodes of a walker to random goals."""
    env = PointMaze(max(2, round(rows / HORIZON)), name.removeprefix("pointmaze-"))
    return record_episodes(env, walker(env), rng=rng)
