"""Learnt rankers: they score, rank, save and load. Networks as safetensors with JSON, trees as LightGBM's text.

Nothing in a file is executed when it is read, and scoring a saved network needs no torch.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, CounterlogError, LogError, message, need_extra
from counterlog.core.files import write_whole
from counterlog.core.ragged import Codes
from counterlog.core.ranking_metrics import ranks

Floats = NDArray[np.float64]
FORMAT = "counterlog-ranker-1"
LARGEST_FILE = 2**30


class Ranker(Protocol):
    """Scores items; higher stands earlier."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def score(self, X: Any) -> Floats:
        """(n, F) -> (n,), no unit."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ranker, whole or not at all."""
        ...


def order(score: Floats) -> Codes:
    """Item numbers of one list, best first; ties keep their order."""
    return np.argsort(-np.asarray(score), kind="stable")


def new_ranks(ranker: Ranker, X: Any, offsets: Codes) -> Codes:
    """(N,) rank of every item among its list by this ranker."""
    return ranks(ranker.score(X), offsets)


def _matrix(X: Any, inputs: int) -> Floats:
    found = np.asarray(X, np.float64)
    if found.ndim != 2 or found.shape[1] != inputs:
        msg = message(f"X has shape {found.shape}", expected=f"(items, {inputs}), the features of training")
        raise LogError(msg)
    if (bad := ~np.isfinite(found).all(axis=1)).any():
        msg = message(f"X is not finite in row {int(bad.argmax())}", hint="fill or drop such rows first")
        raise LogError(msg)
    return found


@dataclass(frozen=True, eq=False)
class LayeredRanker:
    """Linear layers with ELU between them on standardised features; one layer is a linear ranker."""

    layers: tuple[tuple[Floats, Floats], ...]
    shift: Floats
    spread: Floats
    columns: tuple[str, ...] = ()
    name: str = "ranker"

    def score(self, X: Any) -> Floats:
        """(n, F) -> (n,)."""
        hidden = (_matrix(X, len(self.shift)) - self.shift) / self.spread
        for i, (weight, bias) in enumerate(self.layers):
            if i:
                hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0.0)))
            hidden = hidden @ weight + bias
        return np.asarray(hidden[:, 0])

    def rank(self, X: Any) -> Codes:
        """Items of one query, best first."""
        return order(self.score(X))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write safetensors."""
        from safetensors.numpy import save

        tensors = {"shift": self.shift, "spread": self.spread}
        for i, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight.{i}": np.ascontiguousarray(weight), f"bias.{i}": np.ascontiguousarray(bias)}
        said = {"name": self.name, "columns": list(self.columns), "layers": len(self.layers)}
        return write_whole(path, save(tensors, metadata={FORMAT: json.dumps(said)}))


@dataclass(frozen=True, eq=False)
class TreeRanker:
    """A LightGBM booster's raw scores."""

    booster: Any
    name: str = "ranker"

    def score(self, X: Any) -> Floats:
        """(n, F) -> (n,)."""
        found = _matrix(X, self.booster.num_feature())
        return np.asarray(self.booster.predict(found, raw_score=True, num_threads=1))

    def rank(self, X: Any) -> Codes:
        """Items of one query, best first."""
        return order(self.score(X))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write LightGBM's text format."""
        return write_whole(path, self.booster.model_to_string())


@dataclass(frozen=True, eq=False)
class ModuleRanker:
    """A torch module that the user brought: (B, K, F) -> (B, K) scores."""

    module: Any
    scaling: tuple[Any, Any]
    name: str = "ranker"

    def score(self, X: Any) -> Floats:
        """(n, F) -> (n,), the items as one list."""
        import torch

        from counterlog.core.torch_models import frozen_layers

        shift, spread = self.scaling
        x = (torch.as_tensor(_matrix(X, len(shift))).to(shift.dtype) - shift) / spread
        with torch.no_grad(), frozen_layers(self.module):
            found = self.module(x[None])
        return np.asarray(found.reshape(-1).double().numpy())

    def rank(self, X: Any) -> Codes:
        """Items of one query, best first."""
        return order(self.score(X))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Refused: only its maker knows how to build the module again."""
        hint = "save ranker.module.state_dict() with safetensors.torch.save_file"
        raise ConfigError(message("a module of your own has no file format here", hint=hint))


def load_ranker(path: str | os.PathLike[str]) -> Ranker:
    """Read what `save` wrote. Raises `CounterlogError` for any other file."""
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            msg = f"it has more than {LARGEST_FILE:,} bytes"
            raise ValueError(msg)
        with open(path, "rb") as stream:
            head = stream.read(5)
        return _trees(path) if head == b"tree\n" else _layers(path)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as cause:
        msg = message(
            f"{os.fspath(path)!r} is not a saved ranker ({cause})", hint="give a file that save() wrote"
        )
        raise CounterlogError(msg) from cause


def _trees(path: str | os.PathLike[str]) -> TreeRanker:
    lightgbm = need_extra("lightgbm", "trees")
    try:
        return TreeRanker(lightgbm.Booster(model_str=Path(path).read_text()))
    except lightgbm.basic.LightGBMError as cause:
        raise ValueError(str(cause)) from cause


def _layers(path: str | os.PathLike[str]) -> LayeredRanker:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {})[FORMAT])
            held = {k: np.asarray(file.get_tensor(k), np.float64) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as cause:
        raise ValueError(str(cause)) from cause
    layers = tuple((held[f"weight.{i}"], held[f"bias.{i}"]) for i in range(int(said["layers"])))
    width = len(held["shift"])
    for weight, bias in layers:
        if weight.shape != (width, len(bias)):
            msg = f"a layer has shape {weight.shape} where {width} numbers come in"
            raise ValueError(msg)
        width = len(bias)
    if not layers or width != 1 or not all(math.isfinite(float(v.sum())) for v in held.values()):
        msg = "its layers do not end in one finite score"
        raise ValueError(msg)
    return LayeredRanker(layers, held["shift"], held["spread"], tuple(said["columns"]), str(said["name"]))
