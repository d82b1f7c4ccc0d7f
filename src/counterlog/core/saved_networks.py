"""Networks on tables that can be saved and read back: layers, encoding of the columns, classes, the training recipe.

The file is safetensors: weights as tensors, everything else as JSON in its metadata. Nothing in it is executed when it
is read. The recipe (widths, rng of the first weights, training) lets the same model be trained again without some rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, CounterlogError, LogError, first_rows, message
from counterlog.core.features import Encoder
from counterlog.core.files import write_whole
from counterlog.core.labelled_tables import labels, require_columns
from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig, train

FORMAT = "counterlog-network-1"
MOST_CLASSES = 1000


@dataclass(frozen=True)
class SavedNetwork:
    """A classifier of table rows. `sizes` are the widths of all layers, `rng` made the first weights and the order."""

    model: nn.Module
    encoder: Encoder
    target: str
    classes: tuple[Any, ...]
    sizes: tuple[int, ...]
    training: TrainConfig
    rng: int

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame,
        target: str,
        *,
        columns: Sequence[str] = (),
        hidden: Sequence[int] = (64, 64),
        training: TrainConfig | None = None,
        rng: int = 0,
    ) -> SavedNetwork:
        """Train on all rows. `columns` are the features, by default all but the target. Raises `LogError`."""
        require_columns(frame, [target, *columns], "the table")
        names = list(columns) or [c for c in frame.columns if c != target]
        encoder = Encoder.fit(frame.select(names))
        known = tuple(np.unique(labels(frame, target)).tolist())
        if not 2 <= len(known) <= MOST_CLASSES:
            msg = message(f"column {target!r} has {len(known)} classes", expected=f"2 to {MOST_CLASSES}")
            raise LogError(msg)
        sizes = (len(encoder.names), *hidden, len(known))
        made = cls(mlp(sizes, rng=rng), encoder, target, known, sizes, training or TrainConfig(), rng)
        x, y = made.rows(frame)
        return replace(made, model=train(made.model, x, y, made.training, rng=rng))

    def start(self) -> nn.Module:
        """The weights before any training."""
        return mlp(self.sizes, rng=self.rng)

    def rows(self, frame: pl.DataFrame) -> tuple[Tensor, Tensor]:
        """(n, d) float32 and (n,) class numbers. Raises `LogError` for columns or labels that the network never saw."""
        require_columns(frame, [self.target, *(c.name for c in self.encoder.columns)], "the table")
        x = torch.from_numpy(self.encoder.transform(frame).astype(np.float32))
        given = labels(frame, self.target)
        place = {c: i for i, c in enumerate(self.classes)}
        code = np.array([place.get(v, -1) for v in given.tolist()])
        if (bad := np.flatnonzero(code < 0)).size:
            msg = message(
                f"column {self.target!r} holds {given[bad[0]]!r} in {first_rows(bad)}",
                expected=f"one of {', '.join(map(repr, self.classes[:10]))}",
            )
            raise LogError(msg)
        return x, torch.from_numpy(code)

    def with_model(self, model: nn.Module) -> SavedNetwork:
        """The same with other weights."""
        return replace(self, model=model)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network, whole or not at all."""
        content = {
            "encoder": self.encoder.to_json(),
            "target": self.target,
            "classes": list(self.classes),
            "sizes": list(self.sizes),
            "training": {**self.training.to_dict(), "kind": "TrainConfig"},
            "rng": self.rng,
        }
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        return write_whole(path, save(tensors, metadata={FORMAT: json.dumps(content)}))


def is_network_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file is safetensors with this format's name in it."""
    try:
        with safe_open(os.fspath(path), framework="pt") as stream:
            return FORMAT in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_network(path: str | os.PathLike[str]) -> SavedNetwork:
    """Read what `SavedNetwork.save` wrote. Raises `CounterlogError` for any other file."""
    try:
        with safe_open(os.fspath(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
            if FORMAT not in metadata:
                raise ValueError(message("it was not saved by SavedNetwork.save", expected=FORMAT))
            content = json.loads(metadata[FORMAT])
            tensors = {k: stream.get_tensor(k) for k in stream.keys()}  # noqa: SIM118 - not a mapping
        sizes = tuple(int(s) for s in content["sizes"])
        if len(sizes) < 2 or min(sizes) < 1 or len(content["classes"]) != sizes[-1]:
            raise ValueError(message(f"its layers are {sizes} for {len(content['classes'])} classes"))
        encoder = Encoder.from_json(content["encoder"])
        if len(encoder.names) != sizes[0]:
            raise ValueError(
                message(f"its encoding gives {len(encoder.names)} columns, its layers take {sizes[0]}")
            )
        expected = sum(a * b + b for a, b in pairwise(sizes))
        if sum(t.numel() for t in tensors.values()) != expected:
            raise ValueError(message("its tensors are not those of its layers"))
        model = mlp(sizes, rng=0)
        model.load_state_dict(tensors)
        training = {k: v for k, v in content["training"].items() if k != "kind"}
        return SavedNetwork(
            model, encoder, str(content["target"]), tuple(content["classes"]), sizes,
            TrainConfig.from_dict(training), int(content["rng"]),
        )  # fmt: skip
    except ConfigError:
        raise
    except (
        SafetensorError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as cause:
        msg = message(
            f"{os.fspath(path)!r} is not a saved network ({str(cause).splitlines()[0]})",
            hint="give a file that SavedNetwork.save wrote",
        )
        raise CounterlogError(msg) from cause
