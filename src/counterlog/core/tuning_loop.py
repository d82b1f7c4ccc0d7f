"""One training loop on `accelerate`, for language and image models: steps, parts, processes, states, trackers.

The loop draws the whole batch of a step, gives every process its rows, a part at a time, and descends the sum of the
parts' losses. A loss divides by the sums of the whole batch, so that neither the size of a part nor the number of
processes changes the step: `accelerate launch` with two processes walks the path of one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.errors import ConvergenceError, LogError, MissingExtraError, message, need_extra
from counterlog.core.run_folder import RunFolder
from counterlog.core.tuning_config import TuningConfig

Record = dict[str, float]
Progress = Callable[[str, float], None]
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Batch(Protocol):
    """The rows of one optimiser step."""

    def __len__(self) -> int: ...

    def part(self, rows: Any) -> Any:
        """Some rows, which remember the sums of the whole batch."""
        ...

    def to(self, device: Any) -> Any:
        """On another device."""
        ...


class Trainee(Protocol):
    """What a system hands to the loop."""

    module: nn.Module  # wrapped for data parallelism; gradients come only through its forward

    def batch(self, step: int, accelerator: Any) -> Batch:
        """The whole batch of the step, the same on every process, drawn from (rng, step) and the weights alone."""
        ...

    def loss(self, module: nn.Module, part: Any, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """() such that the parts' losses add up to the batch's; and numbers to be added up, on the loss's device."""
        ...

    def report(self, sums: Record, batch: Any, step: int) -> Record:
        """The step's metrics from the added numbers of all parts and processes."""
        ...

    def stepped(self, module: nn.Module, step: int) -> None:
        """Called after the weights moved."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What else a resumed run needs, such as a queue of batches."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """The inverse of `state`, before `step` is drawn."""
        ...


def make_accelerator(
    config: TuningConfig, trackers: Sequence[str] = (), folder: RunFolder | None = None
) -> Any:
    """An `Accelerator` with this precision and these trackers. Raises `MissingExtraError` naming a missing tracker."""
    accelerate = need_extra("accelerate", "language")
    for name in trackers:
        try:
            __import__(TRACKERS.get(name, name))
        except ImportError as cause:
            msg = message(
                f"tracker {name!r} is not installed", hint=f"pip install {TRACKERS.get(name, name)}"
            )
            raise MissingExtraError(msg) from cause
    where = None if folder is None else str(folder.path / "trackers")
    return accelerate.Accelerator(
        mixed_precision=config.precision, log_with=list(trackers) or None, project_dir=where
    )


def run_loop(
    trainee: Trainee,
    config: TuningConfig,
    *,
    accelerator: Any = None,
    folder: RunFolder | None = None,
    project: str = "counterlog",
    trackers: Sequence[str] = (),
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> list[Record]:
    """Train `trainee.module` in place and return one record a step.

    With `folder` a state is saved every `save_every` steps and at the end, and a later call goes on from it to the same
    result. `callbacks` may have `on_train_begin`, `on_step_end`, `on_save` and `on_train_end`, called by keyword with
    step, metrics and model. Raises `ConvergenceError` when the loss is not finite, `LogError` for too small a batch.
    """
    accelerator = accelerator or make_accelerator(config, trackers, folder)
    weights = [p for p in trainee.module.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
    module, adam = accelerator.prepare(trainee.module, adam)
    if trackers:
        accelerator.init_trackers(project, config={k: str(v) for k, v in config.to_dict().items()})
    start, records = _restore(folder, trainee, module, adam)
    module.train()
    _tell(callbacks, "on_train_begin", step=start, metrics={}, model=trainee.module)
    for step in range(start, config.steps):
        batch = trainee.batch(step, accelerator)
        rate = learning_rate(config, step)
        _set_rate(adam, rate)
        sums = _accumulate(trainee, module, batch, step, accelerator, config.micro_batch)
        norm = accelerator.clip_grad_norm_(module.parameters(), config.grad_clip)
        adam.step()
        adam.zero_grad(set_to_none=True)
        trainee.stepped(module, step)
        record = {"step": step, "loss": sums["loss"], **trainee.report(sums, batch, step)}
        record |= {"grad_norm": float(norm), "lr": rate}
        _refuse_nan(record, step)
        records.append(record)
        if folder is not None:
            folder.log(record)
        if trackers:
            accelerator.log({k: v for k, v in record.items() if math.isfinite(v)}, step=step)
        _tell(callbacks, "on_step_end", step=step, metrics=record, model=trainee.module)
        last = step + 1 == config.steps
        if folder is not None and (last or (config.save_every and (step + 1) % config.save_every == 0)):
            _save(folder, step + 1, trainee, module, adam)
            accelerator.wait_for_everyone()
            _tell(callbacks, "on_save", step=step, metrics=record, model=trainee.module)
        if progress is not None and accelerator.is_main_process:
            progress(_said(record, step, config.steps), (step + 1) / config.steps)
    if trackers:
        accelerator.end_training()
    _tell(callbacks, "on_train_end", step=config.steps, metrics={}, model=trainee.module)
    return records


def learning_rate(config: TuningConfig, step: int) -> float:
    """The step size at `step`: a linear warm-up, then constant, or to zero on a line or half a cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    left = (step - config.warmup) / max(config.steps - config.warmup, 1)
    if config.schedule == "linear":
        return config.lr * (1 - left)
    return config.lr * (0.5 * (1 + math.cos(math.pi * left)) if config.schedule == "cosine" else 1.0)


def parts_of(n: int, processes: int, largest: int) -> list[list[np.ndarray[Any, Any]]]:
    """For every process the row numbers of its parts: as many parts on each, sizes that differ by at most one.

    Raises `LogError` when there are fewer rows than processes.
    """
    if n < processes:
        msg = message(f"a batch of {n} rows for {processes} processes", hint="start fewer processes")
        raise LogError(msg)
    each = min(math.ceil(math.ceil(n / processes) / largest), n // processes)
    cut = np.array_split(np.arange(n), processes * each)
    return [cut[p * each : (p + 1) * each] for p in range(processes)]


def _accumulate(
    trainee: Trainee, module: nn.Module, batch: Any, step: int, accelerator: Any, largest: int
) -> Record:
    """Gradients of the whole batch into the weights; the added numbers of all parts and processes."""
    processes = accelerator.num_processes
    mine = parts_of(len(batch), processes, largest)[accelerator.process_index]
    added: dict[str, Tensor] = {}
    for k, rows in enumerate(mine):
        whole = len(rows) == len(batch)
        part = (batch if whole else batch.part(torch.from_numpy(rows))).to(accelerator.device)
        with _unsynced(accelerator, module, k + 1 < len(mine)):
            with accelerator.autocast():
                loss, numbers = trainee.loss(module, part, step)
            accelerator.backward(loss * processes)  # data parallelism takes the mean over processes
        for name, value in {"loss": loss.detach(), **numbers}.items():
            added[name] = added[name] + value.detach() if name in added else value.detach()
    flat = torch.cat([v.double().reshape(-1) for v in added.values()])
    if processes > 1:
        flat = accelerator.reduce(flat, reduction="sum")
    listed, sums, at = flat.tolist(), {}, 0
    for name, value in added.items():
        count = value.numel()
        sums[name] = listed[at] if value.dim() == 0 else listed[at : at + count]
        at += count
    return sums


def _unsynced(accelerator: Any, module: nn.Module, more: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients are exchanged once a step, in its last part."""
    if more and accelerator.num_processes > 1:
        return accelerator.no_sync(module)  # type: ignore[no-any-return]
    return contextlib.nullcontext()


def _set_rate(adam: Any, rate: float) -> None:
    for group in adam.param_groups:
        group["lr"] = rate


def _refuse_nan(record: Record, step: int) -> None:
    if not math.isfinite(record["loss"]) or not math.isfinite(record["grad_norm"]):
        msg = message(
            f"the loss is {record['loss']} with a gradient of norm {record['grad_norm']} in step {step}",
            hint="lower lr, clip the ratios, or train in bf16 or float32 instead of fp16",
        )
        raise ConvergenceError(msg)


def _said(record: Record, step: int, steps: int) -> str:
    names = ("reward", "loss", "entropy", "kl_behaviour")
    shown = ", ".join(f"{n} {record[n]:.3g}" for n in names if math.isfinite(record.get(n, math.nan)))
    return f"step {step + 1} of {steps}: {shown}"


def _tell(callbacks: Sequence[Any], event: str, **said: Any) -> None:
    for callback in callbacks:
        if (heard := getattr(callback, event, None)) is not None:
            heard(**said)


def _save(folder: RunFolder, step: int, trainee: Trainee, module: nn.Module, adam: Any) -> None:
    """All processes take part, since a sharded model is gathered; one writes."""
    from torch.distributed.checkpoint import state_dict as shards

    options = shards.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    bare = getattr(adam, "optimizer", adam)
    model, optimiser = shards.get_state_dict(module, bare, options=options)
    moments = {f"{w}|{k}": v for w, s in optimiser.get("state", {}).items() for k, v in s.items()}
    tensors = {"model": dict(model), "optimiser": moments, "trainee": trainee.state()}
    folder.save_state(step, tensors, {"step": step})


def _restore(
    folder: RunFolder | None, trainee: Trainee, module: nn.Module, adam: Any
) -> tuple[int, list[Record]]:
    """The step to go on with, and the records before it."""
    if folder is None or (step := folder.latest()) is None:
        return 0, []
    from torch.distributed.checkpoint import state_dict as shards

    tensors, _ = folder.load_state(step)
    options = shards.StateDictOptions(full_state_dict=True, strict=False)
    bare = getattr(adam, "optimizer", adam)
    _, optimiser = shards.get_state_dict(module, bare, options=options)
    state: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors["optimiser"].items():
        weight, key = name.rsplit("|", 1)
        state.setdefault(weight, {})[key] = value
    groups = {"state": state, "param_groups": optimiser["param_groups"]}
    shards.set_state_dict(
        module, bare, model_state_dict=tensors["model"], optim_state_dict=groups, options=options
    )
    trainee.load_state(tensors.get("trainee", {}), step)
    return step, list(folder.keep_records(step))
