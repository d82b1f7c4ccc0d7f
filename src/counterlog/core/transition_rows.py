"""Rows of transitions as one float32 matrix, so that a minibatch of all seeds is one gather.

A column is a role; a batch is (seeds, b, columns) cut into views. `state` and `action` lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import torch
from torch import Tensor

from counterlog.core.errors import ConfigError, LogError, message

ROLES = (
    "state",
    "action",
    "reward",
    "next_state",
    "terminated",
    "next_action",
    "return_to_go",
    "log_propensity",
    "weight",
    "source",
    "advantage",
    "value",
)


@dataclass(frozen=True)
class Columns:
    """The width of each role in a row; 0 for a role that is one number and has no axis of its own."""

    widths: dict[str, int]
    discrete: bool = False
    slices: dict[str, slice] = dataclass_field(init=False)

    def __post_init__(self) -> None:
        at, found = 0, {}
        for name, width in self.widths.items():
            found[name] = slice(at, at + max(width, 1))
            at += max(width, 1)
        object.__setattr__(self, "slices", found)

    @property
    def total(self) -> int:
        """Columns of a row."""
        return sum(max(w, 1) for w in self.widths.values())

    def cut(self, rows: Tensor, name: str) -> Tensor:
        """(..., width) view of one role, or (...) for a role that is one number; discrete actions as int64."""
        part = rows[..., self.slices[name]]
        if self.widths[name] == 0:
            part = part[..., 0]
        return part.long() if self.discrete and name in ("action", "next_action") else part

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(..., total) from the roles."""
        if set(parts) != set(self.widths):
            msg = message(f"roles {sorted(parts)}", expected=f"{sorted(self.widths)}")
            raise LogError(msg)
        return torch.cat(
            [
                parts[name].float() if width else parts[name].float()[..., None]
                for name, width in self.widths.items()
            ],
            dim=-1,
        )


class Batch:
    """Transitions (seeds, b) by role: `batch.state` (seeds, b, d), `batch.reward` (seeds, b), ...

    A role that the source does not have is refused by name. `index` are the row numbers that were drawn.
    """

    def __init__(self, rows: Tensor, columns: Columns, index: Tensor | None = None) -> None:
        self.rows, self.columns, self.index = rows, columns, index

    @property
    def shape(self) -> tuple[int, int]:
        """(seeds, b)."""
        return self.rows.shape[0], self.rows.shape[1]

    def has(self, name: str) -> bool:
        """Whether the source has that role."""
        return name in self.columns.widths

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name not in ROLES:
            raise AttributeError(name)
        if name not in self.columns.widths:
            msg = message(
                f"the transitions have no {name!r}", expected=f"one of {', '.join(self.columns.widths)}"
            )
            raise LogError(msg)
        return self.columns.cut(self.rows, name)

    def with_(self, **roles: Tensor) -> Batch:
        """A batch with these roles replaced (relabelled rewards, for instance)."""
        rows = self.rows.clone()
        for name, value in roles.items():
            if name not in self.columns.widths:
                raise ConfigError(message(f"the transitions have no {name!r}"))
            part = rows[..., self.columns.slices[name]]
            part.copy_(value[..., None] if self.columns.widths[name] == 0 else value)
        return Batch(rows, self.columns, self.index)
