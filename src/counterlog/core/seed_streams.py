"""Random streams of a stack of seeds: every seed draws from its own generator, whatever stands beside it.

Seed k alone and seed k inside a stack see the same row numbers and the same noise. The state of all generators is a
tensor, so that a run that was killed goes on with the draws that it would have made.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from counterlog.core.errors import ConfigError, message


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds as plain integers. Raises `ConfigError` for none, a negative one or one twice."""
    found = tuple(int(s) for s in seeds)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        msg = message(f"seeds {list(found)}", expected="at least one, all different, none negative")
        raise ConfigError(msg)
    return found


def numpy_stream(seed: int, role: str) -> np.random.Generator:
    """The numpy generator of one seed for one purpose, such as "critic weights"."""
    return np.random.default_rng([seed, zlib.crc32(role.encode())])


def torch_stream(seed: int, role: str) -> torch.Generator:
    """The torch generator of one seed for one purpose."""
    words = np.random.SeedSequence([seed, zlib.crc32(role.encode())]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 20 ^ int(words[1]))


class SeedStreams:
    """One generator a seed for one purpose; every draw has the leading axis (seeds,)."""

    def __init__(self, seeds: Sequence[int], role: str = "training") -> None:
        self.seeds = checked_seeds(seeds)
        self.role = role
        self._generators = [torch_stream(s, role) for s in self.seeds]

    def index(self, rows: int, batch: int) -> Tensor:
        """(seeds, batch) row numbers below `rows`, with replacement."""
        out = torch.empty(len(self.seeds), batch, dtype=torch.int64)
        for part, generator in zip(out, self._generators, strict=True):
            torch.randint(rows, (batch,), generator=generator, out=part)
        return out

    def normal(self, *shape: int) -> Tensor:
        """(seeds, *shape) standard normal numbers."""
        out = torch.empty(len(self.seeds), *shape)
        for part, generator in zip(out, self._generators, strict=True):
            part.normal_(generator=generator)
        return out

    def uniform(self, *shape: int) -> Tensor:
        """(seeds, *shape) numbers uniform in [0, 1)."""
        out = torch.empty(len(self.seeds), *shape)
        for part, generator in zip(out, self._generators, strict=True):
            part.uniform_(generator=generator)
        return out

    def state(self) -> dict[str, Tensor]:
        """Where the generators stand."""
        return {"generators": torch.stack([g.get_state() for g in self._generators])}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved.clone())  # a view of a row crashes torch 2.13
