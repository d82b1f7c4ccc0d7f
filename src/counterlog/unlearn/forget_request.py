"""What every way of forgetting shares: a checked request, a copy of the model, the clock and the report.

A way of forgetting is an `Unlearner`: it gets a copy of the model and a `Request` and returns how many rows it passed
through the model. The model that was handed in is never changed.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.config import Config
from counterlog.core.errors import ConvergenceError, LogError, first_rows, message
from counterlog.core.results import Result
from counterlog.core.torch_models import (
    RowLoss,
    as_rows,
    cross_entropy_rows,
    flat,
    frozen_layers,
    losses,
    outputs,
    weights_of,
)

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """Rows to forget and rows to keep, of one data set x (n, ...), y (n,)."""

    x: Tensor
    y: Tensor
    forget: Tensor
    retain: Tensor
    loss: RowLoss
    rng: int

    @property
    def gone(self) -> tuple[Tensor, Tensor]:
        """x and y of the rows to forget."""
        return self.x[self.forget], self.y[self.forget]

    @property
    def kept(self) -> tuple[Tensor, Tensor]:
        """x and y of the rows to keep."""
        return self.x[self.retain], self.y[self.retain]


@dataclass(frozen=True, kw_only=True)
class UnlearnReport(Result):
    """What forgetting did. Losses are means in nats (or the row loss's unit), accuracies shares, before and after.

    `passes` counts rows sent through the model, in units of the whole data; `moved` is |theta - theta0|; `digest`
    names the set of forgotten rows, so that two models can be told to have forgotten the same.
    """

    method: str
    settings: dict[str, Any]
    rng: int
    n: int
    forgotten: int
    kept: int
    unit: str = "loss a row"
    seconds: float
    cpu_seconds: float
    passes: float
    moved: float
    forget_loss: tuple[float, float]
    retain_loss: tuple[float, float]
    forget_accuracy: tuple[float, float]
    retain_accuracy: tuple[float, float]
    digest: str
    notes: tuple[str, ...] = ()

    def without_times(self) -> UnlearnReport:
        """The same with its clocks at zero: equal for equal work."""
        return replace(self, seconds=0.0, cpu_seconds=0.0)


@dataclass(frozen=True)
class Forgotten:
    """The new model and the report."""

    model: nn.Module
    report: UnlearnReport


class Unlearner(ABC):
    """A way of forgetting. Subclasses have `config` and write `_update`."""

    config: Config

    def forget(
        self,
        model: nn.Module,
        x: object,
        y: object,
        forget: object,
        *,
        retain: object = None,
        loss: RowLoss = cross_entropy_rows,
        rng: int = 0,
    ) -> Forgotten:
        """A model without the rows `forget` (numbers or a mask over the rows of x); `retain` is the rest by default.

        Raises `LogError` for rows that overlap, do not exist, are none or are all; `ConfigError` for a model
        without gradients or a loss that averages; `ConvergenceError` when weights stop being finite.
        """
        request = make_request(model, x, y, forget, retain=retain, loss=loss, rng=rng)
        new = copy.deepcopy(model)
        wall, cpu = time.perf_counter(), time.process_time()
        with frozen_layers(new):
            rows, notes = self._update(new, request)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        refuse_nan(new, "the update")
        before, after = _state(model, request), _state(new, request)
        report = UnlearnReport(
            method=type(self).__name__,
            settings=self.config.to_dict(),
            rng=rng,
            n=len(request.x),
            forgotten=len(request.forget),
            kept=len(request.retain),
            seconds=wall,
            cpu_seconds=cpu,
            passes=rows / len(request.x),
            moved=_distance(model, new),
            forget_loss=(before[0], after[0]),
            retain_loss=(before[1], after[1]),
            forget_accuracy=(before[2], after[2]),
            retain_accuracy=(before[3], after[3]),
            digest=digest(request.forget),
            notes=notes,
        )
        return Forgotten(new, report)

    @abstractmethod
    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        """Change `model` in place; return the rows passed through it, and notes."""


def make_request(
    model: nn.Module, x: object, y: object, forget: object, *, retain: object, loss: RowLoss, rng: int
) -> Request:
    """A checked `Request`; see `Unlearner.forget` for what it refuses."""
    weights_of(model)
    rows, labels = as_rows(x, y, model)
    gone = row_numbers(forget, len(rows), "forget")
    if retain is None:
        kept = np.setdiff1d(np.arange(len(rows)), gone)
    else:
        kept = row_numbers(retain, len(rows), "retain")
        if (both := np.intersect1d(gone, kept)).size:
            msg = message(
                f"{first_rows(both)} are to be forgotten and kept", hint="leave `retain` out: it is the rest"
            )
            raise LogError(msg)
    if gone.size == 0:
        raise LogError(message("no row is to be forgotten", hint="give row numbers or a mask with some True"))
    if kept.size == 0:
        msg = message(
            "every row is to be forgotten", hint="nothing is left to keep: begin with a fresh model"
        )
        raise LogError(msg)
    return Request(rows, labels, torch.from_numpy(gone), torch.from_numpy(kept), loss, rng)


def row_numbers(rows: object, n: int, name: str) -> Rows:
    """Sorted row numbers from numbers or a mask over n rows. Raises `LogError`."""
    found = np.asarray(rows.detach().cpu() if isinstance(rows, Tensor) else rows)
    if found.dtype == bool:
        if found.shape != (n,):
            raise LogError(message(f"the mask `{name}` has shape {found.shape}", expected=f"({n},)"))
        return np.flatnonzero(found)
    if found.size == 0:
        return np.zeros(0, np.int64)
    if not np.issubdtype(found.dtype, np.integer):
        raise LogError(
            message(f"`{name}` holds {found.dtype}", expected="whole row numbers or a mask of booleans")
        )
    if (bad := found[(found < 0) | (found >= n)]).size:
        msg = message(f"`{name}` names {first_rows(bad)}", expected=f"numbers from 0 to {n - 1}")
        raise LogError(msg)
    distinct = np.unique(found).astype(np.int64)
    if distinct.size != found.size:
        raise LogError(
            message(f"`{name}` names {found.size - distinct.size} rows twice", hint="give each row once")
        )
    return distinct


def refuse_nan(model: nn.Module, where: str) -> None:
    """Raise `ConvergenceError` when a weight is not finite."""
    if not all(bool(torch.isfinite(w).all()) for w in model.parameters()):
        msg = message(f"a weight is no longer finite after {where}", hint="lower lr, or take fewer steps")
        raise ConvergenceError(msg)


def digest(forget: Tensor) -> str:
    """Sixteen hexadecimal digits that name a set of rows."""
    return hashlib.sha256(np.sort(forget.cpu().numpy()).astype("<i8").tobytes()).hexdigest()[:16]


def share_right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy; NaN for targets that are not classes."""
    if y.is_floating_point() or len(x) == 0:
        return math.nan
    return float((outputs(model, x).argmax(dim=-1) == y).double().mean())


def _distance(a: nn.Module, b: nn.Module) -> float:
    return float((flat(list(a.parameters())).double() - flat(list(b.parameters())).double()).norm())


def _state(model: nn.Module, request: Request) -> tuple[float, float, float, float]:
    gone, kept = request.gone, request.kept
    return (
        float(losses(model, *gone, request.loss).mean()),
        float(losses(model, *kept, request.loss).mean()),
        share_right(model, *gone),
        share_right(model, *kept),
    )
