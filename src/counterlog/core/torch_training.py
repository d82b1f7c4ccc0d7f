"""A small supervised trainer: seeded, stopped and resumed with the same result, one model or a stack of seeds.

Row order of epoch e comes from `default_rng([rng, e])`, so a resumed run draws what an unbroken one would. A stack
trains models of one architecture side by side: parameters get a leading axis (seeds,), one optimiser call serves all.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, ConvergenceError, LogError, message
from counterlog.core.files import write_whole
from counterlog.core.torch_models import RowLoss, checked_loss, cross_entropy_rows, losses, weights_of

Objective = Callable[[Tensor, Sequence[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """How a model is trained."""

    epochs: int = param(30, "passes over the rows", at_least=1)
    batch: int = param(64, "rows a step", at_least=1)
    lr: float = param(1e-3, "step size", above=0)
    optimiser: str = param("adam", "which optimiser", choices=("adam", "sgd"))
    momentum: float = param(0.9, "momentum of sgd", at_least=0, below=1)
    weight_decay: float = param(0.0, "pull of the weights towards zero", at_least=0)
    patience: int = param(10, "epochs without a better validation loss before stopping", at_least=1)


def make_optimiser(weights: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    """A fresh optimiser over these tensors."""
    if config.optimiser == "adam":
        return torch.optim.Adam(weights, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(weights, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def minibatches(n: int, batch: int, seed: Sequence[int]) -> Iterator[Tensor]:
    """Row numbers of one epoch in an order drawn from `seed`, `batch` at a time; the last may be smaller."""
    order = torch.from_numpy(np.random.default_rng(list(seed)).permutation(n))
    yield from order.split(batch)


def mean_only(loss: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The objective of plain training: the mean loss itself."""
    return loss


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: TrainConfig | None = None,
    *,
    loss: RowLoss = cross_entropy_rows,
    objective: Objective = mean_only,
    validation: tuple[Tensor, Tensor] | None = None,
    rng: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """A trained copy of `model`. `objective(mean loss of the batch, weights)` is what is minimised.

    With `validation` training stops after `patience` epochs without a better mean loss there, and the best weights
    are kept. With `folder` every epoch is saved (safetensors) and a later call goes on from the last one.
    Raises `ConvergenceError` when the loss is no longer finite, `ConfigError` when the folder holds another run.
    """
    c = config or TrainConfig()
    model = copy.deepcopy(model)
    weights = weights_of(model)
    optimiser = make_optimiser(weights, c)
    best: dict[str, Tensor] = {}
    progress = {"epoch": 0, "best": float("inf"), "waited": 0}
    file = None if folder is None else Path(folder) / "training.safetensors"
    mark = _fingerprint(c, x, y, rng)
    if file is not None and file.exists():
        best, progress = _load(file, mark, model, optimiser)
    model.train()
    while progress["epoch"] < c.epochs and progress["waited"] < c.patience:
        for i in minibatches(len(x), c.batch, (rng, int(progress["epoch"]))):
            value = objective(checked_loss(loss, model, x[i], y[i]).mean(), weights)
            descend(optimiser, value)
        _refuse_nan(value, int(progress["epoch"]))
        progress["epoch"] += 1
        if validation is not None:
            now = float(losses(model, *validation, loss).mean())
            if now < progress["best"]:
                progress["best"], progress["waited"] = now, 0
                best = {k: v.clone() for k, v in model.state_dict().items()}
            else:
                progress["waited"] += 1
        if file is not None:
            _save(file, mark, model, optimiser, best, progress)
    if best:
        model.load_state_dict(best)
    return model


def descend(optimiser: torch.optim.Optimizer, value: Tensor) -> None:
    """One step down `value`."""
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    optimiser.step()


def train_stack(
    models: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    config: TrainConfig | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    objective: Objective = mean_only,
    rng: Sequence[int] = (),
) -> list[nn.Module]:
    """Trained copies of models of one architecture, all at once: x (seeds, n, ...), y (seeds, n), one `rng` each.

    Model k comes out as `train(models[k], x[k], y[k], rng=rng[k])` would give it, up to rounding. `loss(outputs, y)`
    gives one loss a row (cross-entropy by default). Dropout and running statistics are refused.
    """
    c = config or TrainConfig()
    seeds = list(rng) or list(range(len(models)))
    if len(x) != len(models) or len(y) != len(models) or len(seeds) != len(models):
        msg = message(f"{len(models)} models, x for {len(x)}, y for {len(y)}, {len(seeds)} seeds")
        raise LogError(msg)
    if any(list(m.buffers()) for m in models) or any(isinstance(k, nn.Dropout) for k in models[0].modules()):
        msg = message(
            "a stack cannot hold dropout or running statistics", hint="train one by one with train()"
        )
        raise ConfigError(msg)
    row_loss = loss or (lambda out, t: torch.nn.functional.cross_entropy(out, t, reduction="none"))
    stacked, _ = torch.func.stack_module_state(list(models))
    stacked = {k: v.detach().requires_grad_(True) for k, v in stacked.items()}
    weights = list(stacked.values())
    skeleton = copy.deepcopy(models[0])

    def one(state: dict[str, Tensor], rows: Tensor, labels: Tensor) -> Tensor:
        return row_loss(torch.func.functional_call(skeleton, state, (rows,)), labels).mean()

    plain = isinstance(skeleton, nn.Sequential) and all(type(m) in (nn.Linear, nn.ReLU) for m in skeleton)
    mapped = torch.vmap(one)

    def every(rows: Tensor, labels: Tensor) -> Tensor:
        if not plain or rows.dim() != 3:
            return cast(Tensor, mapped(stacked, rows, labels))
        out = _linear_chain(skeleton, stacked, rows)
        return row_loss(out.flatten(0, 1), labels.flatten()).reshape(labels.shape).mean(dim=1)

    optimiser = make_optimiser(weights, c)
    index = torch.arange(len(models))[:, None]
    for epoch in range(c.epochs):
        orders = [minibatches(x.shape[1], c.batch, (seed, epoch)) for seed in seeds]
        for parts in zip(*orders, strict=True):
            i = torch.stack(parts)
            value = objective(every(x[index, i], y[index, i]), weights)
            descend(optimiser, value.sum())
        _refuse_nan(value.sum(), epoch)
    out = [copy.deepcopy(m) for m in models]
    for k, model in enumerate(out):
        model.load_state_dict({name: v[k].detach() for name, v in stacked.items()})
    return out


def _linear_chain(skeleton: nn.Module, stacked: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Linear and ReLU layers of all seeds by batched products: quicker than mapping. (seeds, b, d) -> (seeds, b, k)."""
    for name, layer in skeleton.named_children():
        if isinstance(layer, nn.ReLU):
            rows = rows.relu()
            continue
        turned = stacked[f"{name}.weight"].transpose(1, 2)
        bias = stacked.get(f"{name}.bias")
        rows = torch.bmm(rows, turned) if bias is None else torch.baddbmm(bias[:, None], rows, turned)
    return rows


def _refuse_nan(value: Tensor, epoch: int) -> None:
    if not bool(torch.isfinite(value)):
        msg = message(
            f"the loss is {float(value.detach())} in epoch {epoch + 1}",
            hint="lower lr, or scale the features",
        )
        raise ConvergenceError(msg)


def _fingerprint(config: TrainConfig, x: Tensor, y: Tensor, rng: int) -> str:
    said = json.dumps({**config.to_dict(), "epochs": 0}, sort_keys=True)
    content = (x.detach().cpu().numpy().tobytes(), y.detach().cpu().numpy().tobytes())
    return hashlib.sha256(f"{said}|{rng}|".encode() + b"|".join(content)).hexdigest()


def _save(
    file: Path,
    mark: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    progress: dict[str, float],
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"step.{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    said = {"mark": mark, "progress": json.dumps({k: str(v) for k, v in progress.items()})}
    write_whole(file, save({k: v.detach().contiguous().clone() for k, v in tensors.items()}, metadata=said))


def _load(
    file: Path, mark: str, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, float]]:
    with safe_open(file, framework="pt") as stored:
        said = stored.metadata()
        if said.get("mark") != mark:
            msg = message(f"{file} belongs to other rows, another rng or another configuration")
            raise ConfigError(message(msg, hint="choose an empty folder"))
        tensors = {k: stored.get_tensor(k) for k in stored.keys()}  # noqa: SIM118 - not a mapping
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}}
    steps: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        if kind == "step":
            i, key = rest.split(".", 1)
            steps.setdefault(int(i), {})[key] = tensor
        else:
            parts[kind][rest] = tensor
    model.load_state_dict(parts["model"])
    optimiser.load_state_dict({"state": steps, "param_groups": optimiser.state_dict()["param_groups"]})
    read = {k: float(v) for k, v in json.loads(said["progress"]).items()}
    return parts["best"], {**read, "epoch": int(read["epoch"]), "waited": int(read["waited"])}
