"""The folder of a run: run.json, metrics.jsonl, result.json, model/, state/, and the page, which is written last.

A state is a folder of safetensors and JSON, written beside and named last, so that a kill leaves the one before. No
pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from counterlog.core.errors import ConfigError, message
from counterlog.core.files import write_whole
from counterlog.core.results import plain

RUN, METRICS, RESULT, STATE, MODEL = "run.json", "metrics.jsonl", "result.json", "state", "model"
ENDLESS = ("steps", "save_every")  # what may differ between a run and its continuation


class RunFolder:
    """A run on disk. Only the process with `writes` writes; all may read."""

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes

    def begin(self, said: Mapping[str, Any]) -> None:
        """Write what the run is. Raises `ConfigError` when the folder holds the state of a run of other content."""
        mark = mark_of(said)
        if (self.path / RUN).exists() and self.latest() is not None:
            held = json.loads((self.path / RUN).read_text()).get("mark")
            if held != mark:
                msg = message(
                    f"{self.path} holds a run with another model, log, configuration or rng",
                    hint="choose an empty folder, or repeat the command that made it",
                )
                raise ConfigError(msg)
        elif self.writes and (self.path / METRICS).exists():
            (self.path / METRICS).unlink()
        if self.writes:
            write_whole(self.path / RUN, json.dumps({**plain(dict(said)), "mark": mark}, indent=1))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if self.writes:
            with open(self.path / METRICS, "a") as stream:
                stream.write(json.dumps(plain(dict(record)), allow_nan=False) + "\n")

    def records(self, before: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, those of steps below `before`; half a line at the end is left out."""
        file = self.path / METRICS
        found = []
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if before is None or record["step"] < before:
                found.append(record)
        return found

    def keep_records(self, before: int) -> list[dict[str, Any]]:
        """Drop the lines of step `before` and later: they will be computed again."""
        found = self.records(before)
        if self.writes:
            lines = "".join(json.dumps(r, allow_nan=False) + "\n" for r in found)
            write_whole(self.path / METRICS, lines)
        return found

    def latest(self) -> int | None:
        """The step of the newest whole state, or None."""
        file = self.path / STATE / "latest.json"
        return int(json.loads(file.read_text())["step"]) if file.exists() else None

    def save_state(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], said: Mapping[str, Any]
    ) -> None:
        """One file of safetensors a group of tensors, and JSON; older states are removed afterwards."""
        if not self.writes:
            return
        folder = self.path / STATE / f"step-{step:07d}"
        shutil.rmtree(folder, ignore_errors=True)
        for name, group in tensors.items():
            whole = {k: v.detach().cpu().contiguous().clone() for k, v in group.items()}
            write_whole(folder / f"{name}.safetensors", save(whole))
        write_whole(folder / "said.json", json.dumps(plain(dict(said)), allow_nan=False))
        write_whole(self.path / STATE / "latest.json", json.dumps({"step": step}))
        for old in (self.path / STATE).glob("step-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def load_state(self, step: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The inverse of `save_state`."""
        folder = self.path / STATE / f"step-{step:07d}"
        tensors = {f.stem: load(f.read_bytes()) for f in sorted(folder.glob("*.safetensors"))}
        said: dict[str, Any] = json.loads((folder / "said.json").read_text())
        return tensors, said


def mark_of(said: Mapping[str, Any]) -> str:
    """A hash of what must be the same for a run to go on: all but the command, versions, and the number of steps."""
    config = dict(said.get("config", {}))
    endless = ENDLESS if config.get("schedule", "constant") == "constant" else ENDLESS[1:]
    config = {k: v for k, v in config.items() if k not in endless}
    same = {k: said.get(k) for k in ("slug", "rng", "data", "model")}
    text = json.dumps(plain({**same, "config": config}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
