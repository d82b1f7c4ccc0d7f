"""Learners that act: collect, update, repeat; several seeds at once, each in its own copies of the environment.

A learner writes `build` (networks and descents) and `advance` (one round: act, then learn). What a round needs to go on
after a kill is an attribute that can be saved: networks, descents, streams, normalisers, replay, environments.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from counterlog.core.actor_heads import Actor
from counterlog.core.config import Config, param
from counterlog.core.environments import MakeEnvironment
from counterlog.core.errors import ConfigError, NotFittedError, message
from counterlog.core.neural_policies import NeuralPolicy
from counterlog.core.replay import Replay
from counterlog.core.running_moments import FURTHEST, RewardNormaliser, StateNormaliser
from counterlog.core.scaling import StateScale
from counterlog.core.seed_environments import SeedEnvironments
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_learner import Evaluate, StackedLearner
from counterlog.core.stacked_nets import Descent, StackedTensors
from counterlog.core.training_loop import Metrics, Progress, TrainingReport, run_training

Environment = MakeEnvironment | str
SAVED = (StackedTensors, Descent, SeedStreams, StateNormaliser, RewardNormaliser, Replay, SeedEnvironments)


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(Config):
    """What learners that act share."""

    seeds: int = param(1, "policies trained side by side, with seeds rng, rng + 1, ...", at_least=1)
    steps: int = param(1_000_000, "environment steps of each seed", at_least=1)
    copies: int = param(1, "copies of the environment that a seed plays at once", at_least=1)
    hidden: tuple[int, ...] = param((64, 64), "hidden units a layer", at_least=1)
    lr: float = param(3e-4, "Adam step size", above=0)
    gamma: float = param(0.99, "discount a step", above=0, at_most=1)
    log_every: int = param(1, "rounds between logged metrics", at_least=1)


class OnlineLearner(StackedLearner):
    """A learner that acts. `begin(environment, rng)` makes it ready for `advance`; `improve(environment)` does it all.

    An environment is a Gymnasium id, or a function of the number of copies. `annealed`: the number of steps is part of
    the algorithm (a schedule), so that a run cannot be made longer afterwards.
    """

    config: OnlineConfig
    actor: Actor
    annealed = False
    fingerprint = ""  # of the log that was learnt from, where there is one

    @abstractmethod
    def build(self) -> None:
        """Make networks and descents for `self.seeds` from `self.worlds`."""

    @abstractmethod
    def advance(self, step: int) -> Metrics:
        """Round `step`, from 1: act and learn."""

    @property
    def rounds(self) -> int:
        """Rounds in `config.steps` environment steps a seed."""
        return -(-self.config.steps // self.round_size)

    @property
    def round_size(self) -> int:
        """Environment steps of a seed in a round."""
        return self.config.copies

    def begin(self, environment: Environment, *, rng: int = 0) -> Self:
        """Ready for `advance`: fresh environments, networks and streams for the seeds rng, rng + 1, ..."""
        self.seeds = tuple(range(rng, rng + self.config.seeds))
        self.worlds = SeedEnvironments(environment, self.seeds, self.config.copies)
        self.begin_streams()
        self.build()
        return self

    def begin_streams(self) -> None:
        """Fresh streams, and states that pass as they are."""
        self.acting = SeedStreams(self.seeds, "acting")
        self.draws = SeedStreams(self.seeds, "rows")
        self.noise = SeedStreams(self.seeds, "noise")
        self.look = StateNormaliser(len(self.seeds), self.worlds.state_size, on=False)
        self.updates = 0

    def improve(
        self,
        environment: Environment,
        *,
        rng: int = 0,
        evaluate: Evaluate | None = None,
        evaluate_every: int = 0,
        folder: str | os.PathLike[str] | None = None,
        save_every: int = 50_000,
        progress: Progress | None = None,
    ) -> NeuralPolicy:
        """The policies of `config.seeds` seeds after `config.steps` environment steps each.

        evaluate    policy -> numbers a seed, called every `evaluate_every` environment steps and at the end
        folder      where checkpoints and metrics go, every `save_every` environment steps; a later call with the same
                    arguments goes on from there
        """
        begun = time.process_time()
        self.begin(environment, rng=rng)
        if folder is not None:
            self.worlds.state()  # an environment that cannot be saved is refused now, not at the first checkpoint
        return self._train(
            lambda step: {**self.advance(step), **self.worlds.recent()},
            rounds=self.rounds,
            begun=begun,
            what=self.worlds.name,
            rng=rng,
            evaluate=evaluate,
            evaluate_every=-(-evaluate_every // self.round_size),
            folder=folder,
            save_every=max(1, save_every // self.round_size),
            progress=progress,
        )

    def _train(
        self,
        advance: Callable[[int], Metrics],
        *,
        rounds: int,
        begun: float,
        what: str,
        rng: int,
        evaluate: Evaluate | None,
        **options: Any,
    ) -> NeuralPolicy:
        system = type(self).__name__
        config = self.config.to_dict() if self.annealed else {**self.config.to_dict(), "steps": 0}
        said = json.dumps({**config, "environment": what, "log": self.fingerprint, "rng": rng})
        history = run_training(
            advance,
            steps=rounds,
            seeds=self.seeds,
            stateful={"learner": self},
            log_every=self.config.log_every,
            evaluate=None if evaluate is None else lambda step: evaluate(self.policy()),
            mark=hashlib.sha256(f"{system}|{said}".encode()).hexdigest(),
            what=system,
            **options,
        )
        report = TrainingReport(
            system=system,
            unit=self.worlds.reward_unit,
            n=rounds * self.round_size,
            steps=rounds,
            seeds=self.seeds,
            metrics=tuple(history.metrics),
            evaluations=tuple(history.evaluations),
            notes=(f"a step is a round of {self.round_size:,} environment steps",),
            seconds=time.process_time() - begun,
        )
        return self.policy(report)

    def policy(self, report: TrainingReport | None = None) -> NeuralPolicy:
        """The policies as they stand, with the statistics of their states. Raises `NotFittedError` before `begin`."""
        if not hasattr(self, "worlds"):
            raise NotFittedError(message("there is no policy yet", hint="call improve(environment) first"))
        size = self.worlds.state_size
        scale = StateScale((0.0,) * size, (1.0,) * size)
        if self.look.on:
            moments = self.look.moments
            mean, divisor = moments.mean.tolist(), moments.divisor.tolist()
            scale = StateScale(tuple(map(tuple, mean)), tuple(map(tuple, divisor)), clip=FURTHEST)
        return NeuralPolicy(
            actor=self.actor.frozen(),
            scale=scale,
            bounds=self.worlds.bounds,
            labels=tuple(range(self.worlds.action_size)) if self.worlds.discrete else (),
            report=report,
            origin={
                "system": type(self).__name__,
                "config": self.config.to_dict(),
                "environment": self.worlds.name,
                "updates": self.updates,
            },
        )

    def _parts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if isinstance(value, SAVED)}


def continuous_only(worlds: SeedEnvironments, system: str) -> None:
    """Raises `ConfigError` for discrete actions."""
    if worlds.discrete:
        msg = message(f"{worlds.name} has discrete actions", expected=f"continuous ones for {system}")
        raise ConfigError(message(msg, hint="mdpo, ppo and trpo take discrete actions"))
