"""Replay: rings of transitions, one a seed, in one float32 allocation; the oldest rows make room for the newest.

Memory is touched as rows arrive. A batch of all seeds is one gather, in the layout of `transition_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.transition_rows import Batch, Columns


class Replay:
    """`capacity` rows a seed of the roles in `columns`. `relabel(batch) -> batch` runs on every sampled batch."""

    def __init__(
        self,
        columns: Columns,
        *,
        seeds: int,
        capacity: int,
        relabel: Callable[[Batch], Batch] | None = None,
    ) -> None:
        if capacity < 1 or seeds < 1:
            raise ConfigError(message(f"capacity {capacity} for {seeds} seeds", expected="at least 1 each"))
        self.columns, self.seeds, self.capacity, self.relabel = columns, seeds, capacity, relabel
        self.rows = torch.empty(seeds * capacity, columns.total)
        self.written = 0
        self._base = (torch.arange(seeds) * capacity)[:, None]

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add (seeds, n, width) or (seeds, n) of every role: n rows to every seed's ring.

        Raises `LogError` for a row that is not finite.
        """
        new = self.columns.join(parts)
        if new.dim() != 3 or new.shape[0] != self.seeds or new.shape[1] > self.capacity:
            msg = message(
                f"rows of shape {tuple(new.shape[:-1])}", expected=f"({self.seeds}, n), n <= {self.capacity}"
            )
            raise LogError(msg)
        if not bool(torch.isfinite(new).all()):
            bad = (~torch.isfinite(new)).nonzero()[0]
            name = next(n for n, s in self.columns.slices.items() if s.start <= int(bad[2]) < s.stop)
            msg = message(f"{name} is not finite in row {int(bad[1])} of seed {int(bad[0])}")
            raise LogError(message(msg, hint="the environment, or a diverged policy, gave it"))
        place = (self.written + torch.arange(new.shape[1])) % self.capacity
        self.rows[self._base + place] = new
        self.written += new.shape[1]

    def sample(self, streams: SeedStreams, batch: int) -> Batch:
        """`batch` rows of each seed's ring, with replacement. Raises `SupportError` while it is empty."""
        if not self.written:
            raise SupportError(message("the replay is empty", hint="collect steps before the first update"))
        found = self.gather(streams.index(len(self), batch))
        return found if self.relabel is None else self.relabel(found)

    def gather(self, index: Tensor) -> Batch:
        """The rows `index` (seeds, b) of each seed's ring."""
        picked = self.rows.index_select(0, (index + self._base).reshape(-1))
        return Batch(picked.view(*index.shape, -1), self.columns, index)

    def state(self) -> dict[str, Tensor]:
        """The rows written so far and their count."""
        filled = self.rows.view(self.seeds, self.capacity, -1)[:, : len(self)]
        return {"rows": filled.contiguous(), "written": torch.tensor(self.written)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.written = int(state["written"])
        if state["rows"].shape != (self.seeds, len(self), self.columns.total):
            raise ConfigError(message(f"saved rows have shape {tuple(state['rows'].shape)}"))
        self.rows.view(self.seeds, self.capacity, -1)[:, : len(self)] = state["rows"]
