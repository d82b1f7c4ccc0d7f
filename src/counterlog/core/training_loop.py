"""The training loop: steps, metrics, evaluations, progress, and checkpoints from which a killed run goes on exactly.

A step is a function `advance(step) -> metrics`, one number a seed each: an update from a fixed log, or acting and then
updating. What must survive a kill is given as `stateful`: anything with `state()` and `restore(state)`.
Metrics are looked at every `log_every` steps only; between them nothing is read back from tensors.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from counterlog.core.errors import ConfigError, ConvergenceError, message
from counterlog.core.files import write_whole
from counterlog.core.results import Result, plain

Metrics = dict[str, Tensor]
Progress = Callable[[str, float], None]


class Stateful(Protocol):
    """Anything that can be stopped and go on: tensors by name out, and in again."""

    def state(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingReport(Result):
    """What a training run measured: a record a logged step and seed. `n` counts the rows or steps learnt from."""

    system: str
    unit: str
    n: int
    steps: int
    seeds: tuple[int, ...]
    metrics: tuple[dict[str, float], ...] = ()
    evaluations: tuple[dict[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the time that it took is left out, so that equal runs have equal reports."""
        return {k: v for k, v in super().to_dict().items() if k != "seconds"}

    def records(self) -> list[dict[str, Any]]:
        """One row a logged step and seed: the evaluations where there are any, else the metrics."""
        return [dict(r) for r in (self.evaluations or self.metrics)] or super().records()

    def curve(self, name: str) -> dict[int, list[tuple[int, float]]]:
        """Seed -> [(step, value), ...] of one metric or evaluation. Raises `ConfigError` for an unknown name."""
        rows = [r for r in (*self.metrics, *self.evaluations) if name in r]
        if not rows:
            known = sorted({k for r in (*self.metrics, *self.evaluations) for k in r} - {"step", "seed"})
            raise ConfigError(message(f"nothing was measured as {name!r}", expected=", ".join(known)))
        found: dict[int, list[tuple[int, float]]] = {s: [] for s in self.seeds}
        for r in rows:
            found[int(r["seed"])].append((int(r["step"]), r[name]))
        return found

    def last(self, name: str) -> list[float]:
        """The final value of each seed: what a run reports when nobody chose a checkpoint."""
        return [points[-1][1] for points in self.curve(name).values()]

    def best(self, name: str) -> list[float]:
        """The largest value of each seed on its way: it needs the simulator to choose, so never mix it with `last`."""
        return [max(v for _, v in points) for points in self.curve(name).values()]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch at one thread inside the block: below 512 units more threads cost time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class History:
    """Records a logged step and seed."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


def run_training(
    advance: Callable[[int], Metrics],
    *,
    steps: int,
    seeds: tuple[int, ...],
    stateful: Mapping[str, Stateful],
    log_every: int = 100,
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    evaluate_every: int = 0,
    folder: str | os.PathLike[str] | None = None,
    save_every: int = 5000,
    mark: str = "",
    progress: Progress | None = None,
    what: str = "training",
) -> History:
    """Run steps 1 .. `steps`. `evaluate(step)` gives numbers a seed every `evaluate_every` steps and after the last.

    With `folder` the state is saved every `save_every` steps and after the last, and `metrics.jsonl` beside it; a later
    call with the same `mark` goes on from there and gives bit-equal metrics. Raises `ConvergenceError` when a metric is
    not finite, `ConfigError` when the folder holds another run.
    """
    history, done = History(), 0
    file = None if folder is None else Path(folder) / "state" / "training.safetensors"
    if file is not None and file.exists():
        done = _load(file, mark, steps, stateful, history)
    shown = time.monotonic()
    with one_thread():
        for step in range(done + 1, steps + 1):
            found = advance(step)
            if step % log_every == 0 or step == steps:
                history.metrics += _records(found, step, seeds, check=True)
                if progress is not None and time.monotonic() - shown > 1:
                    shown = time.monotonic()
                    progress(f"{what}: step {step:,} of {steps:,}", step / steps)
            if evaluate is not None and (step == steps or (evaluate_every and step % evaluate_every == 0)):
                history.evaluations += _records(evaluate(step), step, seeds, check=False)
            if file is not None and (step % save_every == 0 or step == steps):
                _save(file, mark, step, stateful, history)
    return history


def _records(
    found: Mapping[str, Any], step: int, seeds: tuple[int, ...], *, check: bool
) -> list[dict[str, float]]:
    """One record a seed."""
    values = {k: [float(x) for x in v] for k, v in found.items()}
    if check:
        for name, numbers in values.items():
            for seed, number in zip(seeds, numbers, strict=True):
                if not abs(number) < float("inf"):
                    msg = message(
                        f"{name} of seed {seed} is {number} at step {step}",
                        hint="lower lr, raise the regularisation, or scale the rewards",
                    )
                    raise ConvergenceError(msg)
    return [
        {"step": step, "seed": seed, **{name: v[k] for name, v in values.items()}}
        for k, seed in enumerate(seeds)
    ]


def _save(file: Path, mark: str, step: int, stateful: Mapping[str, Stateful], history: History) -> None:
    tensors = {f"{k}/{n}": t for k, part in stateful.items() for n, t in part.state().items()}
    said = {
        "mark": mark,
        "step": str(step),
        "metrics": json.dumps(plain(history.metrics)),
        "evaluations": json.dumps(plain(history.evaluations)),
    }
    write_whole(file, save({k: v.detach().contiguous().clone() for k, v in tensors.items()}, metadata=said))
    lines = [json.dumps(plain(r)) for r in (*history.metrics, *history.evaluations)]
    write_whole(file.parents[1] / "metrics.jsonl", "".join(f"{line}\n" for line in lines))


def _load(file: Path, mark: str, steps: int, stateful: Mapping[str, Stateful], history: History) -> int:
    with safe_open(file, framework="pt") as stored:
        said = stored.metadata()
        step = int(said.get("step", 0))
        if said.get("mark") != mark or step > steps:
            msg = message(f"{file.parents[1]} holds another run (step {step})")
            hint = "choose an empty folder, or go on with the same log, rng and configuration"
            raise ConfigError(message(msg, hint=hint))
        tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118 - not a mapping
    for name, part in stateful.items():
        part.restore({k.split("/", 1)[1]: v for k, v in tensors.items() if k.split("/", 1)[0] == name})
    history.metrics = json.loads(said["metrics"])
    history.evaluations = [
        {k: float(v) if k not in ("step", "seed") else v for k, v in r.items()}
        for r in json.loads(said["evaluations"])
    ]
    return step
