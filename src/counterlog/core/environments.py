"""Vectorised environments: many copies a call, ended copies reset in the same step, the true successor kept.

`VectorEnvironment` is the protocol; `GymnasiumEnvironment` wraps any Gymnasium id. A step gives both the state that the
action led to (`next_state`, what a transition stores) and the state to act in next (`state`, fresh after an end).
An environment that is `Resumable` can be written down in the middle of its episodes and put back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Resumable(Protocol):
    """An environment whose copies can be put back where they stood."""

    def snapshot(self) -> str:
        """Where all copies stand, as JSON."""
        ...

    def put_back(self, text: str) -> NDArray[Any]:
        """Go on from a snapshot; the states to act in."""
        ...


def check_groups(copies: int, groups: int) -> int:
    """Copies a group. Raises `ConfigError` unless they divide."""
    if groups < 1 or copies % groups:
        raise ConfigError(message(f"{copies} copies in {groups} groups", expected="equal groups"))
    return copies // groups


class GymnasiumEnvironment:
    """Copies of a Gymnasium environment in this process, reset in the step that ends them.

    A copy remembers how its episode began and the actions since. A snapshot is played again when it is put back:
    exactly, for any environment whose randomness is Gymnasium's own generator.

    Raises `ConfigError` for spaces that are neither numbers in a vector nor one discrete choice, `MissingExtraError`
    without gymnasium, `SupportError` when a step gives numbers that are not finite.
    """

    def __init__(self, name: str, copies: int = 1, **options: Any) -> None:
        gym = need_extra("gymnasium", "rl")
        try:
            self.envs = [gym.make(name, disable_env_checker=True, **options) for _ in range(copies)]
        except gym.error.DependencyNotInstalled as cause:
            msg = message(f"{name} needs {cause}", hint="pip install 'counterlog[rl]'")
            raise ConfigError(msg) from cause
        except gym.error.Error as cause:
            raise ConfigError(message(f"Gymnasium has no {name!r} ({cause})")) from cause
        self.name, self.copies, self.reward_unit = name, copies, "reward"
        self.low: tuple[float, ...] = ()
        self.high: tuple[float, ...] = ()
        space, action = self.envs[0].observation_space, self.envs[0].action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            hint = "pictures need an encoder" if str(getattr(space, "dtype", "")) == "uint8" else ""
            msg = message(
                f"{name} observes {space}",
                expected="a Box of one axis",
                hint=f"wrap it to a flat vector{'; ' * bool(hint)}{hint}",
            )
            raise ConfigError(msg)
        self.state_size, self._dtype = int(space.shape[0]), space.dtype
        self.discrete = isinstance(action, gym.spaces.Discrete)
        if self.discrete:
            self.action_size = int(action.n)
        elif isinstance(action, gym.spaces.Box) and len(action.shape) == 1:
            self.action_size, self._action = int(action.shape[0]), action
            self.low, self.high = tuple(map(float, action.low)), tuple(map(float, action.high))
        else:
            msg = message(f"{name} takes {action}", expected="a Discrete or a Box of one axis")
            raise ConfigError(msg)
        spec = self.envs[0].spec
        self.longest = int(
            options.get("max_episode_steps") or (spec.max_episode_steps if spec else 0) or 10**9
        )
        self._steps = 0
        self._begun: list[Any] = [None] * copies
        self._since: list[list[Any]] = [[] for _ in range(copies)]

    def _begin(self, i: int, seed: int | None = None) -> Any:
        """A fresh episode of copy i, which remembers what it began from: a seed, or where its generator stood."""
        env = self.envs[i]
        self._begun[i] = env.unwrapped.np_random.bit_generator.state if seed is None else seed
        self._since[i] = []
        return env.reset(seed=seed)[0]

    def reset(self, rng: int, *, groups: int = 1) -> NDArray[Any]:
        """(copies, d) fresh states."""
        each = check_groups(self.copies, groups)
        seeds = np.random.SeedSequence(rng).generate_state(each).tolist() * groups
        self._steps = 0
        return np.array([self._begin(i, seed) for i, seed in enumerate(seeds)], self._dtype)

    def step(self, action: Any) -> Moves:
        """One step of all copies."""
        given = np.asarray(action)
        if not self.discrete:
            given = given.clip(self._action.low, self._action.high).astype(self._action.dtype)
        following = np.empty((self.copies, self.state_size), self._dtype)
        reward = np.empty(self.copies)
        terminated, truncated = np.zeros(self.copies, bool), np.zeros(self.copies, bool)
        for i, env in enumerate(self.envs):
            following[i], reward[i], terminated[i], truncated[i], _ = env.step(given[i])
            self._since[i].append(given[i])
        self._steps += 1
        if not (np.isfinite(following).all() and np.isfinite(reward).all()):
            bad = int((~np.isfinite(following).all(axis=1) | ~np.isfinite(reward)).argmax())
            msg = message(f"{self.name} gave numbers that are not finite at step {self._steps}, copy {bad}")
            raise SupportError(message(msg, hint=f"the action was {given[bad].tolist()}"))
        state = following.copy()
        for i in np.flatnonzero(terminated | truncated).tolist():
            state[i] = self._begin(i)
        return Moves(following, reward, terminated, truncated & ~terminated, state)

    def snapshot(self) -> str:
        """How each copy's episode began, and its actions."""
        since = [[np.asarray(a).tolist() for a in actions] for actions in self._since]
        return json.dumps({"steps": self._steps, "begun": self._begun, "since": since})

    def put_back(self, text: str) -> NDArray[Any]:
        """Play every copy's episode again up to where it stood."""
        said = json.loads(text)
        self._steps = said["steps"]
        state = np.empty((self.copies, self.state_size), self._dtype)
        for i, (begun, actions) in enumerate(zip(said["begun"], said["since"], strict=True)):
            env = self.envs[i]
            if isinstance(begun, dict):
                generator = np.random.Generator(getattr(np.random, begun["bit_generator"])())
                generator.bit_generator.state = begun
                env.unwrapped.np_random = generator
            state[i] = self._begin(i, None if isinstance(begun, dict) else begun)
            for action in actions:
                given = action if self.discrete else np.asarray(action, self._action.dtype)
                state[i] = env.step(given)[0]
                self._since[i].append(given)
        return state


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
