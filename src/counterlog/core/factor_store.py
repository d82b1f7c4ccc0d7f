"""Sums over training rows that outlive the process: parts on disk, resumed after a kill, shared out over processes.

The rows are cut into parts of a fixed size. Each part's sums are one safetensors file, written whole or not at all; a
run does the parts that are missing and adds all up in order, so that a resumed run gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from safetensors.torch import load_file, save
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, message
from counterlog.core.files import write_whole
from counterlog.core.kronecker_factors import added

Sums = dict[str, Tensor]
PartSums = Callable[[int, int], Sums]
Progress = Callable[[str, int, int], None]


def model_mark(model: nn.Module) -> str:
    """A hash of the parameters' names, shapes, types and values."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def rows_mark(*tensors: Tensor) -> str:
    """A hash of the rows."""
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(f"{tuple(t.shape)}{t.dtype}".encode())
        digest.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


class FactorStore:
    """A folder of sums with a manifest of what made them. Without a folder nothing is written.

    Raises `ConfigError` when the folder belongs to another model, other rows or other settings.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, manifest: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        file, now = self.folder / "manifest.json", json.loads(json.dumps(dict(manifest)))
        if not file.exists():
            write_whole(file, json.dumps(now, indent=1))
            return
        before = json.loads(file.read_text())
        if changed := [k for k in sorted({*now, *before}) if now.get(k) != before.get(k)]:
            k = changed[0]
            msg = message(
                f"{self.folder} was fitted with {k} = {before.get(k)!r}, and now it is {now.get(k)!r}",
                hint="choose an empty folder",
            )
            raise ConfigError(msg)

    def part(self, kind: str, number: int) -> Path | None:
        """The file of one part."""
        return None if self.folder is None else self.folder / f"{kind}-{number:05d}.safetensors"

    def load(self, name: str) -> Sums | None:
        """A stored set of tensors, or None."""
        file = None if self.folder is None else self.folder / f"{name}.safetensors"
        return load_file(file) if file is not None and file.exists() else None

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Store a set of tensors, whole or not at all."""
        if self.folder is not None:
            write_whole(self.folder / f"{name}.safetensors", _packed(tensors))

    def summed(
        self,
        kind: str,
        parts: Sequence[tuple[int, int]],
        sums: PartSums,
        *,
        jobs: int = 1,
        progress: Progress | None = None,
    ) -> Sums:
        """Sums over all parts, each (start, stop) of rows. Processes of an `accelerate` launch share the parts out;
        the folder must then be one that all of them see."""
        rank, world, wait = _processes() if self.folder is not None else (0, 1, None)
        mine = [i for i in range(len(parts)) if i % world == rank and not self._done(kind, i)]
        if jobs != 1 and len(mine) > 1:
            work = (delayed(self._one)(kind, i, parts[i], sums) for i in mine)
            made = dict(zip(mine, Parallel(n_jobs=jobs)(work), strict=True))
            return self._total(kind, parts, made)
        if world == 1:
            return self._in_turn(kind, parts, sums, progress)
        for i in mine:
            self._one(kind, i, parts[i], sums)
        if wait is not None:
            wait()
        return self._total(kind, parts, {})

    def _in_turn(
        self, kind: str, parts: Sequence[tuple[int, int]], sums: PartSums, progress: Progress | None
    ) -> Sums:
        total: Sums = {}
        for i, part in enumerate(parts):
            stored = self._stored(kind, i)
            total = added(total, self._one(kind, i, part, sums) if stored is None else stored)
            if progress is not None:
                progress(kind, i + 1, len(parts))
        return total

    def _total(self, kind: str, parts: Sequence[tuple[int, int]], made: Mapping[int, Sums]) -> Sums:
        total: Sums = {}
        for i in range(len(parts)):
            found = made.get(i) or self._stored(kind, i)
            if found is None:
                msg = message(
                    f"part {i} of {kind} is missing in {self.folder}", hint="run again: it will be made"
                )
                raise ConfigError(msg)
            total = added(total, found)
        return total

    def _done(self, kind: str, i: int) -> bool:
        file = self.part(kind, i)
        return file is not None and file.exists()

    def _stored(self, kind: str, i: int) -> Sums | None:
        file = self.part(kind, i)
        return load_file(file) if file is not None and file.exists() else None

    def _one(self, kind: str, i: int, part: tuple[int, int], sums: PartSums) -> Sums:
        found = {k: v.cpu() for k, v in sums(*part).items()}
        file = self.part(kind, i)
        if file is not None:
            write_whole(file, _packed(found))
        return found


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    packed: bytes = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    return packed


def _processes() -> tuple[int, int, Callable[[], None] | None]:
    """(rank, processes, barrier) of an `accelerate` launch that is under way, else one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1, None
    from counterlog.core.errors import need_extra

    state = need_extra("accelerate", "language").PartialState()
    return state.process_index, state.num_processes, state.wait_for_everyone


def cut(n: int, rows: int) -> list[tuple[int, int]]:
    """Row ranges of at most `rows` rows."""
    return [(i, min(i + rows, n)) for i in range(0, n, rows)]


def batches(start: int, stop: int, rows: int) -> Iterator[slice]:
    """The range in slices of at most `rows` rows."""
    for i in range(start, stop, rows):
        yield slice(i, min(i + rows, stop))
