"""Batches that a policy served, and the folder that lets a killed loop resume to the same result.

A generation is written as `generation-000.safetensors` (arrays) and then `state.json` (records), each whole or not at
all. Fitted models are not written: they are fitted again from the same rows with the same seed when a run resumes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import CounterlogError, LogError, PropensityError, first_rows, message
from counterlog.core.files import write_whole

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
FORMAT = "counterlog-generations-1"


@dataclass(frozen=True)
class Batch:
    """What one generation served.

    x (n, d) contexts | eligible (n, k) | action (n,) codes | propensity (n,) of the logged action | reward (n,) |
    delay (n,) in generations until the reward is known, NaN when it never came | moment (n,) in [0, 1), when in the
    generation the decision was made | scores (n, k) predicted by the serving model, filled in by the loop.
    """

    x: Floats
    eligible: Mask
    action: Codes
    propensity: Floats
    reward: Floats
    delay: Floats
    moment: Floats
    scores: Floats | None = None

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.action)


def make_batch(
    x: Any,
    action: Any,
    propensity: Any,
    reward: Any,
    *,
    eligible: Any = None,
    delay: Any = None,
    moment: Any = None,
    actions: int = 0,
) -> Batch:
    """A checked batch; without `eligible` every action is, without `delay` every reward is known at once."""
    a = np.asarray(action, dtype=np.int64)
    n = len(a)
    k = np.asarray(eligible).shape[1] if eligible is not None else actions
    return check_batch(
        Batch(
            x=np.asarray(x, dtype=np.float64).reshape(n, -1),
            eligible=np.ones((n, k), bool) if eligible is None else np.asarray(eligible, dtype=bool),
            action=a,
            propensity=np.asarray(propensity, dtype=np.float64),
            reward=np.asarray(reward, dtype=np.float64),
            delay=np.zeros(n) if delay is None else np.asarray(delay, dtype=np.float64),
            moment=np.zeros(n) if moment is None else np.asarray(moment, dtype=np.float64),
        )
    )


def check_batch(batch: Batch) -> Batch:
    """The batch itself. Raises `PropensityError` or `LogError` naming the field and the first bad rows."""
    n = batch.n
    if n == 0:
        msg = message("a generation served 0 rows", hint="every generation needs at least one decision")
        raise LogError(msg)
    for name in ("x", "eligible", "propensity", "reward", "delay", "moment"):
        if len(getattr(batch, name)) != n:
            msg = message(f"batch field {name!r} has {len(getattr(batch, name)):,} rows", expected=f"{n:,}")
            raise LogError(msg)
    p = batch.propensity
    _refuse("propensity", ~((p > 0) & (p <= 1)), "is not a probability in (0, 1]", PropensityError)
    _refuse("x", ~np.isfinite(batch.x).all(axis=1), "is not a finite number", LogError)
    _refuse("eligible", ~batch.eligible.any(axis=1), "lists no action", LogError)
    k = batch.eligible.shape[1]
    outside = (batch.action < 0) | (batch.action >= k)
    _refuse("action", outside, f"is no code in [0, {k})", LogError)
    _refuse("action", ~batch.eligible[np.arange(n), batch.action], "was not eligible", LogError)
    _refuse("reward", ~np.isfinite(batch.reward) & ~np.isnan(batch.delay), "is not a finite number", LogError)
    _refuse("delay", batch.delay < 0, "is negative: the reward was known before the decision", LogError)
    return batch


def _refuse(name: str, bad: Any, what: str, kind: type[LogError]) -> None:
    bad = np.asarray(bad)
    if bad.any():
        rows = np.flatnonzero(bad)
        msg = message(
            f"batch field {name!r} {what} in {rows.size:,} of {bad.size:,} rows: {first_rows(rows)}"
        )
        raise kind(msg)


@dataclass(frozen=True)
class Rows:
    """What a fit uses, (n,) or (n, k): only rows with a known reward. `weight` carries delay and time, not (2)."""

    x: Floats
    eligible: Mask
    action: Codes
    propensity: Floats
    reward: Floats
    weight: Floats
    scores: Floats

    def take(self, keep: NDArray[Any]) -> Rows:
        """The rows of a mask or index."""
        return Rows(**{k: getattr(self, k)[keep] for k in Rows.__dataclass_fields__})


def save_state(folder: str | os.PathLike[str], batches: list[Batch], content: dict[str, Any]) -> None:
    """Write the newest batch, then the records. Batches written before are left as they are."""
    from safetensors.numpy import save

    place = Path(folder)
    newest = batches[-1]
    arrays = {
        f.name: np.ascontiguousarray(getattr(newest, f.name))
        for f in fields(Batch)
        if getattr(newest, f.name) is not None
    }
    write_whole(place / f"generation-{len(batches) - 1:03d}.safetensors", save(arrays))
    write_whole(place / "state.json", json.dumps({"format": FORMAT, "batches": len(batches), **content}))


def load_state(folder: str | os.PathLike[str]) -> tuple[list[Batch], dict[str, Any]] | None:
    """What `save_state` wrote, or None when nothing was finished there. Raises `CounterlogError` for other files."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder) / "state.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise ValueError(message("another format", expected=FORMAT))
        count = int(content.pop("batches"))
        files = [Path(folder) / f"generation-{g:03d}.safetensors" for g in range(count)]
        batches = [Batch(**load_file(file)) for file in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as cause:
        msg = message(
            f"{os.fspath(folder)!r} is not the saved state of a loop ({cause})",
            hint="give an empty folder, or the one that an earlier run wrote",
        )
        raise CounterlogError(msg) from cause
    return batches, content
