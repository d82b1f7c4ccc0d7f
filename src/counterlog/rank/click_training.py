"""What every ranker trained by steps on click lists shares: its settings, its batches, its network with optimiser.

The lists of step t are drawn from `default_rng([rng, t])`, so a run that was stopped and goes on draws what an
unbroken one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from counterlog.core.clicks import Clicks
from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, ConvergenceError, SupportError, message
from counterlog.core.files import write_whole
from counterlog.core.torch_models import mlp
from counterlog.rank.click_losses import LOSSES
from counterlog.rank.examination_models import adagrad_state, restore_adagrad
from counterlog.rank.saved_rankers import LayeredRanker, ModuleRanker, Ranker

FORMAT = "counterlog-ranking-run-1"
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class StepConfig(Config):
    """How a ranker descends on lists of clicks."""

    hidden: tuple[int, ...] = param((32,), "widths of the ELU layers; none is a linear ranker", at_least=1)
    loss: str = param("softmax", "loss of a list", choices=LOSSES)
    lr: float = param(0.05, "step size of the ranker (Adagrad)", above=0)
    batch: int = param(256, "lists a step", unit="lists", at_least=1)
    steps: int = param(2_000, "gradient steps", at_least=1)
    list_size: int = param(
        10, "positions learnt from, from the top; fewer where all lists are shorter", at_least=2
    )
    on_long: str = param("refuse", "lists longer than list_size", choices=("refuse", "truncate"))
    on_clickless: str = param(
        "keep",
        "lists without a click: keep, or draw again (the official simulator)",
        choices=("keep", "resample"),
    )
    clip: float = param(5.0, "largest norm of a gradient; 0 leaves gradients as they are", at_least=0)
    l2: float = param(0.0, "pull of the ranker's weights towards zero", at_least=0)
    max_weight: float | None = param(None, "largest inverse weight of a click; none keeps all", above=0)
    min_clicks: int = param(1, "clicks that every position must have", at_least=1)
    standardise: bool = param(True, "bring features to mean 0, spread 1 over the log's items")
    log_every: int = param(100, "steps between points of the training curves", at_least=1)


C = TypeVar("C", bound=StepConfig)


def fitting(config: C, log: Clicks) -> C:
    """The configuration with no more positions than the log's longest list has."""
    return replace(config, list_size=max(2, min(config.list_size, log.longest)))


@dataclass(frozen=True)
class ListBatch:
    """Lists as tensors: x (B, K, F), click (B, K), shown (B, K), segment (B,)."""

    x: Tensor
    click: Tensor
    shown: Tensor
    segment: Tensor
    whole: bool


class ListSampler:
    """Batches of a log, drawn with replacement. Holds 5 bytes a position beside the items' features."""

    def __init__(
        self,
        log: Clicks,
        config: StepConfig,
        scaling: tuple[Tensor, Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        table = log.table(config.list_size, on_long=config.on_long)
        features = (torch.from_numpy(log.features).to(dtype) - scaling[0]) / scaling[1]
        self.features = torch.cat([features, features.new_zeros(1, features.shape[1])])
        self.doc, self.click = torch.from_numpy(table.doc), torch.from_numpy(table.click)
        self.segment = torch.from_numpy(table.segment)
        self.whole = bool((table.doc >= 0).all())
        self.dtype = dtype
        self.clicked = np.flatnonzero(table.click.any(axis=1))
        if not len(self.clicked):
            msg = message(f"none of the {log.lists} lists has a click", hint="gather clicks first")
            raise SupportError(msg)
        self.pool = self.clicked if config.on_clickless == "resample" else None

    @property
    def lists(self) -> int:
        """Lists held."""
        return len(self.doc)

    def rows(self, chosen: Tensor) -> ListBatch:
        """The lists numbered `chosen`."""
        doc = self.doc[chosen].long()
        shown = doc >= 0
        x = self.features[doc] if self.whole else self.features[doc.where(shown, len(self.features) - 1)]
        return ListBatch(x, self.click[chosen].to(self.dtype), shown, self.segment[chosen], self.whole)

    def draw(self, size: int, seed: tuple[int, int]) -> ListBatch:
        """`size` lists by `default_rng(seed)`."""
        gen = np.random.default_rng(seed)
        if self.pool is None:
            return self.rows(torch.from_numpy(gen.integers(self.lists, size=size)))
        return self.rows(torch.from_numpy(self.pool[gen.integers(len(self.pool), size=size)]))


def scaling(log: Clicks, on: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(mean, spread) of every feature over the log's items, (0, 1) when off or constant."""
    if not on:
        return torch.zeros(log.features.shape[1], dtype=dtype), torch.ones(log.features.shape[1], dtype=dtype)
    spread = log.features.std(axis=0, dtype=np.float64)
    centre = torch.from_numpy(log.features.mean(axis=0, dtype=np.float64)).to(dtype)
    return centre, torch.from_numpy(np.where(spread > 1e-12, spread, 1.0)).to(dtype)


class RankingNet:
    """The ranker f with its Adagrad optimiser: features (..., F) to scores (...)."""

    def __init__(
        self,
        inputs: int,
        config: StepConfig,
        *,
        rng: int,
        module: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        layers = [
            nn.ELU() if isinstance(m, nn.ReLU) else m
            for m in mlp([inputs, *config.hidden, 1], rng=rng, dtype=dtype)
        ]
        self.own = module is None
        self.module = nn.Sequential(*layers) if module is None else module
        self.config = config
        self.weights = [p for p in self.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adagrad(self.weights, lr=config.lr, weight_decay=config.l2)

    def scores(self, x: Tensor) -> Tensor:
        """(B, K)."""
        found: Tensor = self.module(x)
        return found.squeeze(-1) if found.dim() == x.dim() else found

    def descend(self, loss: Tensor) -> None:
        """One clipped step. Raises `ConvergenceError` when the loss is not finite."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.optimiser.step()

    def ranker(self, scaled: tuple[Tensor, Tensor], columns: tuple[str, ...]) -> Ranker:
        """The ranker as it can be used and saved."""
        if not self.own:
            return ModuleRanker(self.module, scaled)
        pairs = [
            (m.weight.detach().double().numpy().T.copy(), m.bias.detach().double().numpy().copy())
            for m in self.module
            if isinstance(m, nn.Linear)
        ]
        shift, spread = (s.double().numpy() for s in scaled)
        return LayeredRanker(layers=tuple(pairs), shift=shift, spread=spread, columns=columns)

    def state(self) -> dict[str, Tensor]:
        """Everything a later step needs."""
        held = {f"ranker.{k}": v for k, v in self.module.state_dict().items()}
        return held | adagrad_state(self.optimiser, "ranker")

    def restore(self, held: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.module.load_state_dict({k: held[f"ranker.{k}"] for k in self.module.state_dict()})
        restore_adagrad(self.optimiser, "ranker", held)


def refuse_not_finite(loss: Tensor, step: int) -> None:
    """Raise `ConvergenceError` when a loss is no number."""
    if not bool(torch.isfinite(loss)):
        msg = message(
            f"the loss is {float(loss.detach())} at step {step}",
            hint="set max_weight, lower lr, or leave standardise on",
        )
        raise ConvergenceError(msg)


def fingerprint(config: Config, log: Clicks, rng: int) -> str:
    """What a resumed run must have in common with the one that was stopped; `steps` may be raised."""
    said = json.dumps({**config.to_dict(), "steps": 0}, sort_keys=True)
    digest = hashlib.sha256(f"{type(config).__name__}|{said}|{rng}|".encode())
    for part in (log.offsets, log.features, log.doc, log.position, log.click):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def write_run(
    folder: str | os.PathLike[str], mark: str, tensors: dict[str, Tensor], said: dict[str, object]
) -> None:
    """State of a run as safetensors with JSON, whole or not at all."""
    content = {"mark": mark, **said}
    held = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_whole(Path(folder) / "ranking.safetensors", save(held, metadata={FORMAT: json.dumps(content)}))


def read_run(folder: str | os.PathLike[str], mark: str) -> tuple[dict[str, Tensor], dict[str, object]] | None:
    """What `write_run` left, or None. Raises `ConfigError` when it is of another run."""
    path = Path(folder) / "ranking.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()[FORMAT])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as cause:
        msg = message(f"{path} is not the state of a run ({cause})", hint="give an empty folder")
        raise ConfigError(msg) from cause
    if said.pop("mark") != mark:
        msg = message(f"{path} is of another log, seed or configuration", hint="give another folder")
        raise ConfigError(msg)
    return tensors, said
