"""What one fold of one repeat leaves behind: held-out predictions by learner and short vectors by triple.

Memory is rows times learners, not rows times triples: the held-out values of a triple are made again from these.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from counterlog.core.errors import ConfigError, message
from counterlog.core.files import write_whole
from counterlog.core.nuisances import Floats, Rows


@dataclass(frozen=True)
class Piece:
    """Axes: J1 instrument, J2 treatment, M outcome-mean learners, J3 outcome-side learners; n held-out rows.

    `floor` is the least |D| by J2; `b`, `c` the coefficients of (4); `delta` are held-out effects by the outcome-side
    learners that have no coefficients, nan elsewhere, and without rows when there are none.
    """

    rows: Rows
    f: Floats
    e: Floats
    v: Floats
    m: Floats
    g: Floats
    floor: Floats
    b: Floats
    c: Floats
    delta: Floats
    psi: Floats

    def to_bytes(self) -> bytes:
        """safetensors."""
        from safetensors.numpy import save

        made: bytes = save({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)})
        return made

    @classmethod
    def from_bytes(cls, data: bytes) -> Piece:
        """The inverse of `to_bytes`."""
        from safetensors.numpy import load

        return cls(**load(data))


class Shelf:
    """A folder of finished pieces, so that a killed run goes on where it stopped; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, plan: dict[str, object]) -> None:
        """`plan` is all that the pieces depend on. Raises `ConfigError` when the folder holds another plan's."""
        self.folder = Path(folder) if folder is not None else None
        if self.folder is None:
            return
        text = json.dumps(plan, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / "plan.json"
        if path.exists() and json.loads(path.read_text()).get("digest") != digest:
            msg = message(
                f"{self.folder} holds the state of another run",
                hint="choose an empty folder, or the data, settings and seed of that run",
            )
            raise ConfigError(msg)
        write_whole(path, json.dumps({"digest": digest, "plan": text}, indent=1))

    def get(self, repeat: int, fold: int) -> Piece | None:
        """The finished piece, if it is there."""
        if self.folder is None or not (path := self._path(repeat, fold)).exists():
            return None
        return Piece.from_bytes(path.read_bytes())

    def put(self, repeat: int, fold: int, piece: Piece) -> None:
        """Keep it, whole or not at all."""
        if self.folder is not None:
            write_whole(self._path(repeat, fold), piece.to_bytes())

    def _path(self, repeat: int, fold: int) -> Path:
        assert self.folder is not None
        return self.folder / f"piece-{repeat}-{fold}.safetensors"
