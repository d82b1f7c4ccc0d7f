"""Sampled images with their rewards, as the losses take them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

ROWWISE = (
    "x0",
    "prompt",
    "reward",
    "group",
    "advantage",
    "weight",
    "version",
    "old",
    "states",
    "logp",
    "times",
    "eps",
)


@dataclass
class ImageBatch:
    """Rows of an epoch or of a step. `total` is how many rows the whole step has: losses divide by it."""

    x0: Tensor  # (b, c, h, w)
    prompt: Tensor  # (b,) int64, which prompt
    reward: Tensor  # (b,)
    group: Tensor  # (b,) int64
    advantage: Tensor  # (b,)
    weight: Tensor  # (b,)
    version: Tensor  # (b,) the step at which the row was sampled
    old: Tensor | None = None  # (b, k) what the sampler's weights say, as the loss defines it
    states: Tensor | None = None  # (b, steps + 1, c, h, w)
    logp: Tensor | None = None  # (b, steps)
    times: Tensor | None = None  # (b, m) drawn for this step
    eps: Tensor | None = None  # (b, m, c, h, w)
    total: int = 0

    def __len__(self) -> int:
        return len(self.x0)

    def part(self, rows: Any) -> ImageBatch:
        """Some rows, which remember how many the whole has."""
        held = {n: getattr(self, n) for n in ROWWISE}
        return replace(
            self, **{n: v[rows] for n, v in held.items() if v is not None}, total=self.total or len(self)
        )

    def to(self, device: Any) -> ImageBatch:
        """On another device."""
        held = {n: getattr(self, n) for n in ROWWISE}
        return replace(self, **{n: v.to(device) for n, v in held.items() if v is not None})

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a saved state."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}


def joined(parts: list[ImageBatch]) -> ImageBatch:
    """Several batches as one, in order."""
    held = {n: [getattr(p, n) for p in parts] for n in ROWWISE}
    return ImageBatch(**{n: torch.cat(v) for n, v in held.items() if v[0] is not None})
