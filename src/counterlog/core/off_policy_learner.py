"""Learning from a replay: act a step, keep it, learn from old steps; or from a log alone; or from both.

The first `warmup` steps of a seed are uniform over the actions. Rows of a log, where one is given, enter the replay
first. With a log instead of an environment nothing is played: `steps` are then gradient steps.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import ArrayLike

from counterlog.core.config import param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message
from counterlog.core.neural_policies import NeuralPolicy
from counterlog.core.online_learner import Environment, OnlineConfig, OnlineLearner, continuous_only
from counterlog.core.replay import Replay
from counterlog.core.scaling import ActionBounds
from counterlog.core.stacked_learner import Evaluate
from counterlog.core.training_loop import Metrics, Progress, TrainingReport
from counterlog.core.transition_rows import Batch, Columns
from counterlog.core.transitions import Transitions

ROLES = ("state", "action", "reward", "next_state", "terminated")


@dataclass(frozen=True)
class LoggedWorld:
    """What a learner must know of an environment that it sees through a log alone."""

    name: str
    reward_unit: str
    state_size: int
    action_size: int
    bounds: ActionBounds | None
    discrete: bool = False


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(OnlineConfig):
    """What learners with a replay share."""

    hidden: tuple[int, ...] = param((256, 256), "hidden units a layer", at_least=1)
    batch: int = param(256, "rows a step and seed", at_least=1)
    capacity: int = param(1_000_000, "rows of a seed's replay", at_least=1)
    warmup: int = param(10_000, "first environment steps, uniform over the actions", at_least=1)
    updates: int = param(1, "gradient steps a round", at_least=1)
    tau: float = param(0.005, "share of the network that its target takes over", above=0, at_most=1)
    log_every: int = param(500, "rounds between logged metrics", at_least=1)


class OffPolicyLearner(OnlineLearner):
    """Write `build_networks` and `update(batch)`; `explore` says how actions are chosen while collecting."""

    config: OffPolicyConfig
    alone = False  # nothing is played: all rows are a log's
    logged = 0  # rows of a log in the replay
    _log: Episodes | None = None

    @abstractmethod
    def build_networks(self) -> None:
        """Make networks and descents."""

    def build(self) -> None:
        """The replay, and the networks."""
        c, w = self.config, self.worlds
        continuous_only(w, type(self).__name__)
        widths = {"state": w.state_size, "action": w.action_size, "reward": 0, "next_state": w.state_size}
        room = min(c.capacity, c.steps + c.copies + self.logged)
        self.replay = Replay(Columns({**widths, "terminated": 0}), seeds=len(self.seeds), capacity=room)
        self.build_networks()

    def explore(self, state: torch.Tensor) -> torch.Tensor:
        """(seeds, copies, k) actions while collecting: samples of the policy."""
        noise = self.acting.normal(self.config.copies, self.worlds.action_size)
        return self.actor.sample(state, noise)[0]

    def advance(self, step: int) -> Metrics:
        """A step of every copy, then `updates` steps on batches of the replay."""
        c = self.config
        self.collect((step - 1) * c.copies < c.warmup)
        if step * c.copies < c.warmup:
            return {}
        metrics: Metrics = {}
        for _ in range(c.updates):
            metrics = self.update(self.draw())
        return metrics

    def collect(self, uniform: bool) -> None:
        """One step of every copy into the replay."""
        c, w = self.config, self.worlds
        state = torch.from_numpy(w.states).float()
        if uniform:
            action = 2 * self.acting.uniform(c.copies, w.action_size) - 1
        else:
            with torch.no_grad():
                action = self.explore(state)
        moved = w.step(w.bounds.outwards(action.numpy()) if w.bounds is not None else action.numpy())
        self.replay.add(
            {
                "state": state,
                "action": action,
                "reward": torch.from_numpy(moved.reward),
                "next_state": torch.from_numpy(moved.next_state),
                "terminated": torch.from_numpy(moved.terminated),
            }
        )

    def draw(self) -> Batch:
        """A batch of the replay."""
        return self.replay.sample(self.draws, self.config.batch)

    def improve(
        self,
        environment: Environment | Episodes,
        *,
        log: Episodes | None = None,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        rng: int = 0,
        evaluate: Evaluate | None = None,
        evaluate_every: int = 0,
        folder: str | os.PathLike[str] | None = None,
        save_every: int = 50_000,
        progress: Progress | None = None,
    ) -> NeuralPolicy:
        """The policies of `config.seeds` seeds.

        environment  a Gymnasium id, a function of the number of copies, or a log: then nothing is played
        log          trajectories whose steps enter the replay before the first step is played
        low, high    bounds of the actions of a log that is learnt from alone
        evaluate, folder, ...  as for every learner that acts
        """
        options: dict[str, Any] = {"rng": rng, "evaluate": evaluate, "folder": folder, "progress": progress}
        if isinstance(environment, Episodes):
            return self._from_log(environment, low, high, evaluate_every, save_every, **options)
        self.alone, self._log = False, log
        self.logged, self.fingerprint = (0, "") if log is None else (log.rows, log.fingerprint)
        return super().improve(environment, evaluate_every=evaluate_every, save_every=save_every, **options)

    def begin(self, environment: Environment, *, rng: int = 0) -> Self:
        """As for every learner that acts; the rows of the log that `improve` was given enter the replay."""
        super().begin(environment, rng=rng)
        log, bounds = self._log, self.worlds.bounds
        if log is not None and bounds is not None:
            self.add_log(
                Transitions.from_episodes(log, states="none", low=bounds.low, high=bounds.high),
                self.worlds.name,
            )
        return self

    def add_log(self, data: Transitions, name: str) -> None:
        """The transitions of a log, to every seed's replay. Raises `ConfigError` when they do not fit."""
        sizes = (data.state_size, data.action_size)
        if data.discrete or sizes != (self.worlds.state_size, self.worlds.action_size):
            msg = message(f"the log has {sizes[0]} state and {sizes[1]} action columns")
            wanted = f"{self.worlds.state_size} and {self.worlds.action_size} as in {name}"
            raise ConfigError(message(msg, expected=wanted))
        seeds, room = len(self.seeds), self.replay.capacity
        parts = {
            role: data.column(role)[-room:].expand(seeds, *data.column(role)[-room:].shape) for role in ROLES
        }
        self.replay.add(parts)

    def policy(self, report: TrainingReport | None = None) -> NeuralPolicy:
        """As for every learner that acts; its origin names the log that was learnt from."""
        found = super().policy(report)
        if self.fingerprint:
            found.origin["log"] = self.fingerprint
        return found

    def before_log(self) -> None:
        """What a learner does first when nothing will be played; the replay holds the log."""

    def _from_log(
        self,
        log: Episodes,
        low: ArrayLike | None,
        high: ArrayLike | None,
        evaluate_every: int,
        save_every: int,
        *,
        rng: int,
        **options: Any,
    ) -> NeuralPolicy:
        begun, c = time.process_time(), self.config
        if log.discrete:
            msg = message(
                "the log has discrete actions", expected=f"continuous ones for {type(self).__name__}"
            )
            raise ConfigError(msg)
        data = Transitions.from_episodes(log, states="none", low=low, high=high)
        self.seeds = tuple(range(rng, rng + c.seeds))
        self.worlds: Any = LoggedWorld(
            f"log {data.fingerprint}", data.reward_unit, data.state_size, data.action_size, data.bounds
        )
        self.begin_streams()
        self.logged, self.alone, self.fingerprint = len(data), True, data.fingerprint
        self.build()
        self.add_log(data, "the log")
        self.before_log()
        return self._train(
            lambda step: self.update(self.draw()),
            rounds=c.steps,
            begun=begun,
            what=self.worlds.name,
            rng=rng,
            evaluate_every=evaluate_every,
            save_every=save_every,
            **options,
        )
