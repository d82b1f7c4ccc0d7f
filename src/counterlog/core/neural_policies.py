"""Learnt neural policies of one or several seeds: they act on raw states, give densities, and are saved without pickle.

A file is safetensors: the weights as tensors, everything else as JSON in its metadata. Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from counterlog.core.actor_heads import DISCRETE, Actor, Head
from counterlog.core.errors import ConfigError, CounterlogError, SupportError, message
from counterlog.core.files import write_whole
from counterlog.core.results import Result
from counterlog.core.scaling import ActionBounds, StateScale
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.training_loop import TrainingReport

Floats = NDArray[np.float64]
FORMAT = "counterlog-neural-policy-1"


@dataclass(frozen=True)
class NeuralPolicy:
    """Policies pi_k(a|s) of the seeds k. `seed` in a method is a position in the stack; 0 is the first.

    `policy.act(states)` -> (n, k) actions in the environment's units, or (n,) codes; also `probs` (discrete) and
    `log_density` (stochastic, continuous), the protocol of `core.state_policies`.
    """

    actor: Actor
    scale: StateScale
    bounds: ActionBounds | None = None
    labels: tuple[Any, ...] = ()
    report: Result | None = None
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in the stack."""
        return self.actor.seeds

    @property
    def stochastic(self) -> bool:
        """Whether the policy has a distribution."""
        return self.actor.head.kind not in ("tanh", "greedy", "allowed")

    def take(self, seed: int) -> NeuralPolicy:
        """One seed as a policy of its own."""
        return dataclasses.replace(self, actor=self.actor.take(seed), scale=self.scale.take(seed))

    def act(self, states: ArrayLike, *, seed: int = 0, rng: int | None = None) -> NDArray[Any]:
        """(n, k) actions, or (n,) codes: the mode, or with `rng` a sample. Raises `SupportError` far from the log."""
        actor = self.actor.take(seed)
        scaled = self._scaled(states, seed)[None]
        streams = None if rng is None else SeedStreams([rng], "acting")
        found: NDArray[Any] = self._acting(actor, scaled, streams)[0]
        return found

    def act_stacked(self, states: ArrayLike, streams: SeedStreams | None = None) -> NDArray[Any]:
        """(seeds, n, d) states -> (seeds, n, k) actions, every seed its own; a sample with `streams`.

        A state that is not finite or far off is not refused here: simulators may go where the log never was.
        """
        return self._acting(self.actor, torch.from_numpy(self.scale.transform(states)), streams)

    def _acting(self, actor: Actor, scaled: torch.Tensor, streams: SeedStreams | None) -> NDArray[Any]:
        with torch.no_grad():
            if streams is None or not self.stochastic:
                found = actor.mode(scaled)
            elif actor.head.kind == "categorical":
                found, _ = actor.sample(scaled, streams.uniform(scaled.shape[1]))
            else:
                found, _ = actor.sample(scaled, streams.normal(scaled.shape[1], actor.actions))
        array: NDArray[Any] = found.numpy()
        return self.bounds.outwards(array) if self.bounds is not None else array

    def probs(self, states: ArrayLike, *, seed: int = 0) -> Floats:
        """(n, actions) of a discrete policy."""
        if self.actor.head.kind not in DISCRETE:
            raise ConfigError(message(f"a policy with a {self.actor.head.kind} head has no probabilities"))
        with torch.no_grad():
            found = self.actor.take(seed).probs(self._scaled(states, seed)[None])[0]
        p = found.numpy().astype(np.float64)
        return np.asarray(p / p.sum(axis=1, keepdims=True), np.float64)

    def log_density(self, states: ArrayLike, actions: ArrayLike, *, seed: int = 0) -> Floats:
        """(n,) log pi(a|s) per environment unit. Raises `ConfigError` for a deterministic policy."""
        if self.actor.head.kind not in ("tanh_gaussian", "gaussian"):
            raise ConfigError(message(f"a policy with a {self.actor.head.kind} head has no density"))
        bounds = self.bounds
        a = np.asarray(actions, np.float32) if bounds is None else bounds.inwards(actions)
        with torch.no_grad():
            scaled = self._scaled(states, seed)[None]
            found = self.actor.take(seed).log_prob(scaled, torch.from_numpy(a)[None])[0]
        volume = 0.0 if bounds is None else bounds.log_volume
        return np.asarray(found.numpy().astype(np.float64) - volume, np.float64)

    def _scaled(self, states: ArrayLike, seed: int) -> torch.Tensor:
        scale = self.scale.take(seed)
        scaled = scale.transform(states)
        scale.check_near(scaled)
        return torch.from_numpy(scaled)

    def check_log(self, fingerprint: str) -> None:
        """Raise `SupportError` unless the policy was learnt from the log of that fingerprint."""
        if (own := self.origin.get("log")) != fingerprint:
            msg = message(f"the policy was learnt from log {own}, not {fingerprint}")
            raise SupportError(message(msg, hint="its scaling of states belongs to that other log"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the policy, whole or not at all."""
        said = {
            "format": FORMAT,
            "seeds": self.seeds,
            "sizes": self.actor.sizes,
            "actions": self.actor.actions,
            "activation": self.actor.activation,
            "layer_norm": self.actor.layer_norm,
            "head": dataclasses.asdict(self.actor.head),
            "scale": dataclasses.asdict(self.scale),
            "bounds": None if self.bounds is None else dataclasses.asdict(self.bounds),
            "labels": [x.item() if hasattr(x, "item") else x for x in self.labels],
            "origin": self.origin,
            "report": self.report.to_dict() if isinstance(self.report, TrainingReport) else None,
        }
        tensors = {k: v.detach().contiguous().clone() for k, v in self.actor.leaves.items()}
        return write_whole(path, save(tensors, metadata={"counterlog": json.dumps(said)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuralPolicy:
        """Read what `save` wrote. Raises `CounterlogError` for a file of another kind."""
        try:
            with safe_open(path, framework="pt") as stored:
                said = json.loads((stored.metadata() or {})["counterlog"])
                tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118 - not a mapping
            if said.get("format") != FORMAT:
                raise ValueError(said.get("format"))
            actor = Actor(
                said["sizes"][0],
                said["sizes"][1:-1],
                said["actions"],
                seeds=said["seeds"],
                head=Head(**said["head"]),
                activation=said["activation"],
                layer_norm=said["layer_norm"],
            )
            for name, leaf in actor.leaves.items():
                leaf.detach().copy_(tensors[name])
            return cls(
                actor=actor.frozen(),
                scale=StateScale(**_tuples(said["scale"])),
                bounds=None if said["bounds"] is None else ActionBounds(**_tuples(said["bounds"])),
                labels=tuple(said["labels"]),
                report=None if said["report"] is None else TrainingReport(**_tuples(said["report"])),
                origin=said["origin"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as cause:
            msg = message(f"{os.fspath(path)} is not a saved neural policy ({cause})")
            raise CounterlogError(msg) from cause


def _tuples(said: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were, one level down as well."""
    return {
        k: tuple(tuple(x) if isinstance(x, list) else x for x in v) if isinstance(v, list) else v
        for k, v in said.items()
    }
