"""Learnt policies that can be saved and read back: a softmax over scores of the encoded context.

The file is safetensors: weights as tensors, everything else (actions, encoding, origin) as JSON in its
metadata. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import CounterlogError, SupportError, message
from counterlog.core.features import Encoder
from counterlog.core.files import write_whole
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
FORMAT = "counterlog-policy-1"


@dataclass(kw_only=True)
class SoftmaxPolicy(Policy):
    """pi(a|x) = (1 - explore) softmax(score(x)_a / temperature) + explore / k, over the k available actions.

    `layers` are (weights (d_in, d_out), bias (d_out,)) pairs with tanh between them: one pair is a linear policy. A
    `temperature` of 0 is the greedy policy (ties go to the first action). `origin` records how it was learnt.
    """

    name: str
    actions: tuple[Any, ...]
    encoder: Encoder
    layers: tuple[tuple[Floats, Floats], ...]
    temperature: float = 1.0
    explore: float = 0.0
    origin: dict[str, Any] = field(default_factory=dict)

    def scores(self, context: pl.DataFrame) -> Floats:
        """(n, actions) scores of the encoded context."""
        hidden = self.encoder.transform(context)
        for i, (weights, bias) in enumerate(self.layers):
            hidden = (np.tanh(hidden) if i else hidden) @ weights + bias
        return hidden

    def probs(self, log: Rounds) -> Floats:
        """(n, len(log.actions)); the log may hold the policy's actions in another order, or more of them.

        Raises `SupportError` when the policy knows an action that the log does not.
        """
        place = {str(a): i for i, a in enumerate(log.actions)}
        if unknown := [a for a in self.actions if str(a) not in place]:
            msg = message(
                f"policy {self.name!r} may choose {unknown[0]!r}, an action the log does not have",
                hint="an action without a single logged row cannot be valued",
            )
            raise SupportError(msg)
        columns = [place[str(a)] for a in self.actions]
        allowed = np.ones((log.n, len(columns)), bool) if log.available is None else log.available[:, columns]
        if (stuck := ~allowed.any(axis=1)).any():
            msg = message(
                f"policy {self.name!r} knows no available action in row {int(np.flatnonzero(stuck)[0])}"
            )
            raise SupportError(msg)
        matrix = np.zeros((log.n, len(log.actions)))
        matrix[:, columns] = softmax(
            self.scores(log.context), allowed, temperature=self.temperature, explore=self.explore
        )
        return matrix

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the policy, whole or not at all."""
        return write_whole(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes. Actions that are decimals are written as the floats that equal them."""
        from safetensors.numpy import save

        tensors: dict[str, Floats] = {}
        for i, (weights, bias) in enumerate(self.layers):
            tensors |= {
                f"weights.{i}": np.ascontiguousarray(weights),
                f"bias.{i}": np.ascontiguousarray(bias),
            }
        content = {
            "name": self.name,
            "actions": list(self.actions),
            "encoder": self.encoder.to_json(),
            "layers": len(self.layers),
            "temperature": self.temperature,
            "explore": self.explore,
            "origin": self.origin,
        }
        written: bytes = save(tensors, metadata={FORMAT: json.dumps(content, default=float)})
        return written


def softmax(scores: Floats, allowed: NDArray[np.bool_], *, temperature: float, explore: float) -> Floats:
    """(n, k) probabilities over the allowed actions of each row."""
    masked = np.where(allowed, scores, -np.inf)
    shifted = masked - masked.max(axis=1, keepdims=True)
    if temperature == 0:
        p = (np.arange(scores.shape[1]) == masked.argmax(axis=1)[:, None]).astype(np.float64)
    else:
        p = np.exp(shifted / temperature)
        p /= p.sum(axis=1, keepdims=True)
    return np.asarray((1 - explore) * p + explore * allowed / allowed.sum(axis=1, keepdims=True), np.float64)


def load_policy(path: str | os.PathLike[str]) -> SoftmaxPolicy:
    """Read what `SoftmaxPolicy.save` wrote. Raises `CounterlogError` for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as stream:
            metadata = stream.metadata() or {}
            if FORMAT not in metadata:
                raise ValueError(message("it was not saved by this library", expected=FORMAT))
            content = json.loads(metadata[FORMAT])
            layers = tuple(
                (_floats(stream.get_tensor(f"weights.{i}")), _floats(stream.get_tensor(f"bias.{i}")))
                for i in range(content["layers"])
            )
        policy = SoftmaxPolicy(
            name=str(content["name"]),
            actions=tuple(content["actions"]),
            encoder=Encoder.from_json(content["encoder"]),
            layers=layers,
            temperature=float(content["temperature"]),
            explore=float(content["explore"]),
            origin=dict(content["origin"]),
        )
        _check(policy)
        return policy
    except (
        SafetensorError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as cause:
        msg = message(
            f"{os.fspath(path)!r} is not a saved policy ({cause})",
            hint="give a file that a policy's save() wrote",
        )
        raise CounterlogError(msg) from cause


def _floats(tensor: Any) -> Floats:
    return np.asarray(tensor, dtype=np.float64)


def _check(policy: SoftmaxPolicy) -> None:
    """What a file may claim and a policy cannot be. Raises `ValueError`."""
    names = [str(a) for a in policy.actions]
    if not names or len(set(names)) < len(names):
        raise ValueError(message("its actions are none, or one stands twice"))
    if not all(isinstance(a, (str, int, float)) for a in policy.actions):
        raise ValueError(message("an action is neither text nor a number"))
    if not (math.isfinite(policy.temperature) and policy.temperature >= 0 and 0 <= policy.explore <= 1):
        found = f"its temperature is {policy.temperature:g} and its exploration {policy.explore:g}"
        raise ValueError(message(found, expected="a temperature of at least 0, exploration in [0, 1]"))
    width = len(policy.encoder.names)
    for i, (weights, bias) in enumerate(policy.layers):
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError(message(f"layer {i} holds a weight that is not a finite number"))
        if weights.ndim != 2 or len(weights) != width or bias.shape != weights.shape[1:]:
            found = f"layer {i} has weights {weights.shape} and bias {bias.shape}"
            raise ValueError(message(found, expected=f"weights ({width}, k) and bias (k,)"))
        width = weights.shape[1]
    if not policy.layers or width != len(names):
        raise ValueError(message(f"it scores {width} actions and names {len(names)}"))
