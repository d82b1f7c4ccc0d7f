"""Vectorised environments: many copies a call, ended copies reset in the same step, the true successor kept.

`VectorEnvironment` is the protocol; `GymnasiumEnvironment` wraps any Gymnasium id. A step gives both the state that the
action led to (`next_state`, what a transition stores) and the state to act in next (`state`, fresh after an end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, SupportError, message, need_extra

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Act = Callable[[Any, np.random.Generator], tuple[Any, Any]]


@dataclass(frozen=True)
class Moves:
    """One step of all copies; (copies, ...) each."""

    next_state: NDArray[Any]
    reward: Floats
    terminated: Flags
    truncated: Flags
    state: NDArray[Any]

    @property
    def done(self) -> Flags:
        """Copies whose episode ended in this step."""
        return self.terminated | self.truncated


class VectorEnvironment(Protocol):
    """`copies` of one environment. Continuous actions lie between `low` and `high`; discrete ones are codes."""

    name: str
    copies: int
    state_size: int
    action_size: int
    discrete: bool
    low: tuple[float, ...]
    high: tuple[float, ...]
    longest: int
    reward_unit: str

    def reset(self, rng: int, *, groups: int = 1) -> NDArray[Any]:
        """(copies, d) fresh states; the copies form `groups` equal groups with the same starts in each."""
        ...

    def step(self, action: Any) -> Moves:
        """One step; copies that end are reset."""
        ...


MakeEnvironment = Callable[[int], VectorEnvironment]


def check_groups(copies: int, groups: int) -> int:
    """Copies a group. Raises `ConfigError` unless they divide."""
    if groups < 1 or copies % groups:
        raise ConfigError(message(f"{copies} copies in {groups} groups", expected="equal groups"))
    return copies // groups


class GymnasiumEnvironment:
    """Copies of a Gymnasium environment in this process, reset in the step that ends them.

    Raises `ConfigError` for spaces that are neither numbers in a vector nor one discrete choice, `MissingExtraError`
    without gymnasium, `SupportError` when a step gives numbers that are not finite.
    """

    def __init__(self, name: str, copies: int = 1, **options: Any) -> None:
        gym = need_extra("gymnasium", "rl")
        reset = need_extra("gymnasium.vector", "rl").AutoresetMode.SAME_STEP
        try:
            self.env = gym.make_vec(
                name,
                num_envs=copies,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": reset},
                **options,
            )
        except gym.error.DependencyNotInstalled as cause:
            msg = message(f"{name} needs {cause}", hint="pip install 'counterlog[rl]'")
            raise ConfigError(msg) from cause
        self.name, self.copies, self.reward_unit = name, copies, "reward"
        self.low: tuple[float, ...] = ()
        self.high: tuple[float, ...] = ()
        space, action = self.env.single_observation_space, self.env.single_action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            msg = message(
                f"{name} observes {space}", expected="a Box of one axis", hint="wrap it to a flat vector"
            )
            raise ConfigError(msg)
        self.state_size = int(space.shape[0])
        self.discrete = isinstance(action, gym.spaces.Discrete)
        if self.discrete:
            self.action_size = int(action.n)
        elif isinstance(action, gym.spaces.Box) and len(action.shape) == 1:
            self.action_size = int(action.shape[0])
            self.low, self.high = tuple(map(float, action.low)), tuple(map(float, action.high))
        else:
            msg = message(f"{name} takes {action}", expected="a Discrete or a Box of one axis")
            raise ConfigError(msg)
        spec = self.env.spec
        self.longest = int(
            options.get("max_episode_steps") or (spec.max_episode_steps if spec else 0) or 10**9
        )
        self._steps = 0

    def reset(self, rng: int, *, groups: int = 1) -> NDArray[Any]:
        """(copies, d) fresh states."""
        each = check_groups(self.copies, groups)
        seeds = np.random.SeedSequence(rng).generate_state(each).tolist()
        state, _ = self.env.reset(seed=seeds * groups)
        self._steps = 0
        return np.array(state)

    def step(self, action: Any) -> Moves:
        """One step of all copies."""
        given = np.asarray(action)
        if not self.discrete:
            space = self.env.single_action_space
            given = given.clip(space.low, space.high).astype(space.dtype)
        state, reward, terminated, truncated, info = self.env.step(given)
        self._steps += 1
        state = np.array(state)
        following = state.copy()
        ended = np.asarray(terminated | truncated)
        for i in np.flatnonzero(ended):
            following[i] = info["final_obs"][i]
        if not (np.isfinite(following).all() and np.isfinite(reward).all()):
            bad = int((~np.isfinite(following).all(axis=1) | ~np.isfinite(reward)).argmax())
            msg = message(f"{self.name} gave numbers that are not finite at step {self._steps}, copy {bad}")
            raise SupportError(message(msg, hint=f"the action was {given[bad].tolist()}"))
        return Moves(
            next_state=following,
            reward=np.asarray(reward, np.float64),
            terminated=np.asarray(terminated, bool),
            truncated=np.asarray(truncated & ~terminated, bool),
            state=state,
        )


def episode_returns(
    env: VectorEnvironment,
    act: Callable[[Any], Any],
    *,
    gamma: float = 1.0,
    rng: int = 0,
    groups: int = 1,
) -> tuple[Floats, Floats]:
    """(copies,) return and discounted return of the first episode of every copy. `act` maps all states to actions."""
    state = env.reset(rng, groups=groups)
    total, discounted = np.zeros(env.copies), np.zeros(env.copies)
    alive, weight = np.ones(env.copies, bool), 1.0
    while alive.any():
        moved = env.step(act(state))
        total += alive * moved.reward
        discounted += alive * weight * moved.reward
        alive &= ~moved.done
        weight *= gamma
        state = moved.state
    return total, discounted


def record_episodes(env: VectorEnvironment, act: Act, *, rng: int = 0, rounds: int = 1) -> Episodes:
    """A log of `rounds` episodes of every copy. `act(states, generator) -> (actions, log_propensity or None)`.

    Every copy plays one episode a round; a copy that has ended waits, its steps are not recorded.
    """
    gen = np.random.default_rng(rng)
    parts: dict[str, list[NDArray[Any]]] = {
        k: []
        for k in ("state", "action", "reward", "log_propensity", "terminated", "truncated", "final_state")
    }
    sizes = []
    for r in range(rounds):
        found = _one_round(env, act, gen, rng + 7919 * r)
        size = found.pop("size")
        keep = np.arange(found["reward"].shape[1]) < size[:, None]
        for k, v in found.items():
            parts[k].append(v if k == "final_state" else v[keep])
        sizes.append(size)
    merged = {k: np.concatenate(v) for k, v in parts.items() if v}
    return Episodes(
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(sizes))]),
        **merged,
        actions=env.action_size if env.discrete else None,
        reward_unit=env.reward_unit,
    )


def _one_round(
    env: VectorEnvironment, act: Act, gen: np.random.Generator, seed: int
) -> dict[str, NDArray[Any]]:
    """(copies, T, ...) arrays of one episode a copy, with `size` (copies,)."""
    state = env.reset(seed)
    size = np.zeros(env.copies, np.int64)
    alive = np.ones(env.copies, bool)
    final = state.copy()
    steps: dict[str, list[NDArray[Any]]] = {}
    while alive.any():
        action, log_p = act(state, gen)
        moved = env.step(action)
        now = {
            "state": state,
            "action": np.asarray(action),
            "reward": moved.reward,
            "terminated": moved.terminated,
            "truncated": moved.truncated,
        }
        if log_p is not None:
            now["log_propensity"] = np.asarray(log_p)
        for k, v in now.items():
            steps.setdefault(k, []).append(np.array(v))
        size += alive
        final[alive] = moved.next_state[alive]
        alive &= ~moved.done
        state = moved.state
    return {"size": size, "final_state": final, **{k: np.stack(v, axis=1) for k, v in steps.items()}}
