"""Fit Kronecker factors to a network: two passes over the rows, one where the traces fit in memory.

Pass one adds up covariances, the eigenbases are taken once, pass two adds up squared gradients in them. With the true
Fisher matrix labels are drawn from the model, by a generator that depends on the seed and the first row of the
batch alone: both passes, and any way to share the rows out, draw the same labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.factor_store import FactorStore, Progress, Sums, batches, cut, model_mark, rows_mark
from counterlog.core.kronecker_factors import (
    LayerFactors,
    added,
    covariance_sums,
    covariances,
    eigenbasis,
    layer_factors,
    square_sums,
)
from counterlog.core.layer_rows import LayerRows
from counterlog.core.layer_traces import Layer, trace
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import frozen_layers

PARTS = 16
Traces = dict[str, LayerRows]


@dataclass(frozen=True)
class FactorPass:
    """What a pass over rows needs; it travels to other processes."""

    model: nn.Module
    layers: Sequence[Layer]
    task: Task
    x: Tensor
    y: Tensor
    batch: int
    fisher: str
    shared: bool
    rng: int
    draws: int = 1

    @property
    def draws_used(self) -> int:
        """Label draws a row: one for the data's own labels."""
        return self.draws if self.fisher == "true" else 1

    def every(self, start: int, stop: int) -> Iterator[tuple[slice, int]]:
        """(batch, draw) over a range of rows."""
        for part in batches(start, stop, self.batch):
            for draw in range(self.draws_used):
                yield part, draw

    def traces(self, part: slice, draw: int = 0) -> Traces:
        """Traces of one batch, with the labels of the chosen Fisher matrix."""
        device = next(self.model.parameters()).device
        x, y = self.x[part].to(device), self.y[part].to(device)
        mask = self.task.token_mask(x, y)
        if self.fisher == "true":
            seed = np.random.SeedSequence([self.rng, part.start, draw]).generate_state(1, np.uint64)
            gen = torch.Generator().manual_seed(int(seed[0]) >> 1)
            with frozen_layers(self.model):
                drawn = self.task.drawn(self.model, x, y, gen)
            y = torch.where(y == -100, y, drawn) if not y.is_floating_point() else drawn
        return trace(
            self.model,
            self.layers,
            self.task.loss,
            x,
            y,
            mask=mask,
            shared=self.shared,
            at=part.start,
        )


class KeptTraces:
    """Traces of pass one for pass two, as long as they fit in `allowed` bytes; else none of them."""

    def __init__(self, allowed: float) -> None:
        self.allowed, self.held, self._items = allowed, 0, list[Traces]()

    def add(self, traces: Traces) -> None:
        """Keep one batch, or give all up."""
        self.held += sum(rows.bytes for rows in traces.values())
        if self.held > self.allowed:
            self._items.clear()
        else:
            self._items.append(traces)

    def next(self) -> Traces | None:
        """The next batch in order, or None when they did not fit."""
        return self._items.pop(0) if self._items else None


@dataclass(frozen=True)
class Covariance:
    """The sums of pass one over a range of rows."""

    rows: FactorPass
    kept: KeptTraces | None = None

    def __call__(self, start: int, stop: int) -> Sums:
        """Sums over rows start to stop."""
        total: Sums = {}
        for part, draw in self.rows.every(start, stop):
            traces = self.rows.traces(part, draw)
            if self.kept is not None:
                self.kept.add(traces)
            total = added(total, covariance_sums(traces))
        return total


@dataclass(frozen=True)
class Squares:
    """The sums of pass two over a range of rows; traces that pass one kept are used again."""

    rows: FactorPass
    bases: dict[str, tuple[Tensor, Tensor]]
    kept: KeptTraces | None = None

    def __call__(self, start: int, stop: int) -> Sums:
        """Sums over rows start to stop."""
        total: Sums = {}
        for part, draw in self.rows.every(start, stop):
            held = self.kept.next() if self.kept is not None else None
            traces = self.rows.traces(part, draw) if held is None else held
            total = added(total, square_sums(traces, self.bases))
        return total


def fit_factors(
    rows: FactorPass,
    strategy: str,
    damping: float | None,
    *,
    folder: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    keep_bytes: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, LayerFactors]:
    """Factors of every layer. With `folder`, sums and eigenbases are stored and a later call resumes."""
    n, layers = len(rows.x), rows.layers
    like = next(rows.model.parameters())
    like = torch.zeros(0, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    manifest = {
        "model": model_mark(rows.model) if folder is not None else "",
        "rows": rows_mark(rows.x, rows.y) if folder is not None else "",
        "n": n,
        "layers": [f"{layer.name} {layer.outputs}x{layer.inputs}" for layer in layers],
        "fisher": rows.fisher,
        "rng": rows.rng,
        "draws": rows.draws_used,
        "batch": rows.batch,
        "basis": strategy in ("ekfac", "kfac"),
    }
    store = FactorStore(folder, manifest)
    sums: Sums = {}
    spectra: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    squares: Sums = {}
    size = -(-n // PARTS) if folder is not None or jobs != 1 else n
    parts = cut(n, max(rows.batch, -(-size // rows.batch) * rows.batch))
    alone = folder is None and jobs == 1 and strategy == "ekfac"
    kept = KeptTraces(keep_bytes) if alone else None
    if strategy in ("ekfac", "kfac"):
        sums = store.summed("covariance", parts, Covariance(rows, kept), jobs=jobs, progress=progress)
        spectra = _spectra(store, sums, [layer for layer in layers if f"{layer.name}|A" in sums])
    bases = {name: (found[1], found[3]) for name, found in spectra.items()} if strategy == "ekfac" else {}
    if strategy in ("ekfac", "diagonal") or (strategy == "kfac" and len(spectra) < len(layers)):
        kind = "squares" if strategy == "ekfac" else "plain-squares"
        squares = store.summed(kind, parts, Squares(rows, bases, kept), jobs=jobs, progress=progress)
    return {
        layer.name: layer_factors(layer, strategy, sums, spectra, squares, n * rows.draws_used, damping, like)
        for layer in layers
    }


def _spectra(
    store: FactorStore, sums: Sums, layers: Sequence[Layer]
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(values S, basis S, values A, basis A) by layer; stored, because bases differ between machines."""
    stored = store.load("eigen") or {}
    out = {}
    for layer in layers:
        name = layer.name
        if f"{name}|QS" not in stored:
            a, s = covariances(sums, name)
            (on_s, left), (on_a, right) = eigenbasis(s), eigenbasis(a)
            stored |= {f"{name}|LS": on_s, f"{name}|QS": left, f"{name}|LA": on_a, f"{name}|QA": right}
        out[name] = tuple(stored[f"{name}|{k}"] for k in ("LS", "QS", "LA", "QA"))
    if store.load("eigen") is None and out:
        store.save("eigen", stored)
    return out
