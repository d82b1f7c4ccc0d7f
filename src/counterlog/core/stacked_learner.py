"""Learners that are stepped: `update(batch) -> metrics`, several seeds at once, saved and resumed bit by bit.

A learner keeps its networks, descents and streams as attributes; its state is theirs. `OfflineLearner` adds what every
learner from a fixed log does the same way: transitions from the log, the loop, the policy with its report.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from counterlog.core.actor_heads import Actor
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import NotFittedError, message
from counterlog.core.neural_policies import NeuralPolicy
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_nets import Descent, StackedTensors
from counterlog.core.training_loop import Metrics, Progress, TrainingReport, run_training
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions

Evaluate = Callable[[NeuralPolicy], Mapping[str, Any]]


class StackedLearner(ABC):
    """A learner of several seeds. Networks, descents and streams that are attributes make up its state."""

    seeds: tuple[int, ...]
    updates: int = 0

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """One step on a batch (seeds, b); every metric is a tensor (seeds,)."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that a later `restore` needs."""
        found = {"updates": torch.tensor(self.updates)}
        for name, part in self._parts().items():
            found |= {f"{name}:{k}": v for k, v in part.state().items()}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`, taken from a learner of the same configuration."""
        self.updates = int(state["updates"])
        for name, part in self._parts().items():
            part.restore({k.split(":", 1)[1]: v for k, v in state.items() if k.split(":", 1)[0] == name})

    def _parts(self) -> dict[str, Any]:
        kinds = (StackedTensors, Descent, SeedStreams)
        return {name: value for name, value in vars(self).items() if isinstance(value, kinds)}


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(Config):
    """What learners from a fixed log share."""

    seeds: int = param(1, "policies trained side by side, with seeds rng, rng + 1, ...", at_least=1)
    hidden: tuple[int, ...] = param((256, 256), "hidden units a layer", at_least=1)
    batch: int = param(256, "rows a step and seed", at_least=1)
    steps: int = param(1_000_000, "gradient steps", at_least=1)
    lr: float = param(3e-4, "Adam step size", above=0)
    gamma: float = param(0.99, "discount a step", above=0, at_most=1)
    states: str = param(
        "td3",
        "scale of states: none, or deviation + 1e-3 (td3), + 1e-6 (fine)",
        choices=("none", "td3", "fine"),
    )
    reward: str = param(
        "none",
        "preset that shapes rewards",
        choices=(
            "none",
            "iql_locomotion",
            "antmaze_minus1",
            "antmaze_odice",
            "antmaze_prdc",
            "cql_antmaze",
            "standard",
        ),
    )
    log_every: int = param(100, "steps between logged metrics", at_least=1)


class OfflineLearner(StackedLearner):
    """A learner from a fixed log: write `build` and `update`, and keep the policy network in `self.actor`.

    `start(data, rng)` makes a learner ready to be stepped by hand; `fit(log)` does everything.
    """

    reward_needed = True
    actor: Actor
    config: OfflineConfig

    @abstractmethod
    def build(self, data: Transitions) -> None:
        """Make networks, targets and descents for `self.seeds` from `data.state_size` and `data.action_size`."""

    def start(self, data: Transitions, *, rng: int = 0) -> Self:
        """Ready for `update`: fresh networks and noise for the seeds rng, rng + 1, ..."""
        self.seeds = tuple(range(rng, rng + self.config.seeds))
        self.data = data
        self.noise = SeedStreams(self.seeds, "noise")
        self.draws = SeedStreams(self.seeds, "rows")
        self.updates = 0
        self.build(data)
        return self

    def prepare(
        self, log: Episodes, low: ArrayLike | None = None, high: ArrayLike | None = None
    ) -> Transitions:
        """The transitions that this learner reads; filters and relabels go here."""
        c = self.config
        return Transitions.from_episodes(
            log,
            states=c.states,
            reward=c.reward,
            gamma=c.gamma,
            low=low,
            high=high,
            reward_needed=self.reward_needed,
        )

    def draw(self) -> Batch:
        """The next batch, from the rows' own stream."""
        return self.data.batch(self.draws.index(len(self.data), self.config.batch))

    def fit(
        self,
        log: Episodes,
        *,
        rng: int = 0,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        evaluate: Evaluate | None = None,
        evaluate_every: int = 0,
        folder: str | os.PathLike[str] | None = None,
        save_every: int = 5000,
        progress: Progress | None = None,
    ) -> NeuralPolicy:
        """The policies of `config.seeds` seeds.

        low, high   bounds of continuous actions; [-1, 1], or the logged range, when not given
        evaluate    policy -> numbers a seed, called every `evaluate_every` steps and at the end
        folder      where checkpoints and metrics go; a later call with the same arguments goes on from there
        """
        begun = time.process_time()
        data = self.prepare(log, low, high)
        self.start(data, rng=rng)

        def advance(step: int) -> Metrics:
            return self.update(self.draw())

        said = json.dumps({**self.config.to_dict(), "steps": 0, "log": data.fingerprint, "rng": rng})
        system = type(self).__name__
        history = run_training(
            advance,
            steps=self.config.steps,
            seeds=self.seeds,
            stateful={"learner": self},
            log_every=self.config.log_every,
            evaluate=None if evaluate is None else lambda step: evaluate(self.policy()),
            evaluate_every=evaluate_every,
            folder=folder,
            save_every=save_every,
            mark=hashlib.sha256(f"{system}|{said}".encode()).hexdigest(),
            progress=progress,
            what=system,
        )
        report = TrainingReport(
            system=system,
            unit=data.reward_unit,
            n=len(data),
            steps=self.config.steps,
            seeds=self.seeds,
            metrics=tuple(history.metrics),
            evaluations=tuple(history.evaluations),
            seconds=time.process_time() - begun,
        )
        return self.policy(report)

    def acting(self) -> Actor:
        """A copy of the network that acts; a learner without a policy network makes one here."""
        return self.actor.frozen()

    def policy(self, report: TrainingReport | None = None) -> NeuralPolicy:
        """The policies as they stand, copied. Raises `NotFittedError` before `start` or `fit`."""
        if not hasattr(self, "data"):
            raise NotFittedError(message("there is no policy yet", hint="call fit(log) first"))
        return NeuralPolicy(
            actor=self.acting(),
            scale=self.data.scale,
            bounds=self.data.bounds,
            labels=self.data.labels,
            report=report,
            origin={
                "system": type(self).__name__,
                "config": self.config.to_dict(),
                "log": self.data.fingerprint,
                "updates": self.updates,
            },
        )
