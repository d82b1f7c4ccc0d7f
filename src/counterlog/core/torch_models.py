"""Small torch networks: seeded layers, losses a row, exact gradients of a mean over any number of rows.

A *row loss* maps (model, x, y) to one loss a row, (b,): nothing is averaged inside, so a mean over a set has one
denominator however it is cut into passes. Nothing here touches torch's global generator or its thread count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.errors import ConfigError, LogError, message

RowLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each row, (b,) nats; `y` holds class numbers."""
    return functional.cross_entropy(model(x), y, reduction="none")


def squared_error_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Half the squared error of each row, (b,) in the target's unit squared; the model gives (b,) or (b, 1)."""
    return (model(x).reshape(y.shape) - y).square() / 2


def mlp(sizes: Sequence[int], *, rng: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them; weights uniform in +-1/sqrt(inputs), from `rng`."""
    gen = np.random.default_rng(rng)
    layers: list[nn.Module] = []
    for i, (inputs, width) in enumerate(pairwise(sizes)):
        layer = nn.utils.skip_init(nn.Linear, inputs, width, dtype=dtype)
        bound = inputs**-0.5
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(gen.uniform(-bound, bound, (width, inputs))))
            layer.bias.copy_(torch.from_numpy(gen.uniform(-bound, bound, width)))
        layers += [layer] if i == 0 else [nn.ReLU(), layer]
    return nn.Sequential(*layers)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The trainable parameters. Raises `ConfigError` when there are none."""
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        msg = message(
            "the model has no parameter that takes a gradient", hint="call model.requires_grad_(True)"
        )
        raise ConfigError(msg)
    return found


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors end to end, (total,), detached."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `flat`."""
    return [v.reshape(t.shape) for v, t in zip(vector.split([t.numel() for t in like]), like, strict=True)]


def as_rows(x: object, y: object, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Arrays or tensors as tensors of the model's float type. Raises `LogError` for unequal lengths or holes."""
    like = next(iter(model.parameters()), torch.zeros(()))
    rows = x if isinstance(x, Tensor) else torch.as_tensor(np.ascontiguousarray(np.asarray(x)))
    labels = y if isinstance(y, Tensor) else torch.as_tensor(np.ascontiguousarray(np.asarray(y)))
    if len(rows) != len(labels) or len(rows) == 0:
        raise LogError(message(f"x has {len(rows)} rows and y {len(labels)}", expected="as many, and some"))
    for name, values in (("x", rows), ("y", labels)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).reshape(len(values), -1).any(dim=1).nonzero()[0, 0])
            msg = message(f"{name} is not finite at row {bad}", hint="fill or drop such rows first")
            raise LogError(msg)
    rows = rows.to(like.device, like.dtype) if rows.is_floating_point() else rows.to(like.device)
    labels = (
        labels.to(like.device, like.dtype) if labels.is_floating_point() else labels.to(like.device).long()
    )
    return rows, labels


def checked_loss(loss: RowLoss, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """`loss(model, x, y)`. Raises `ConfigError` unless it is one number a row."""
    found = loss(model, x, y)
    if found.shape != (len(x),):
        msg = message(
            f"the loss gave a tensor of shape {tuple(found.shape)} for {len(x)} rows",
            expected=f"({len(x)},), one loss a row",
            hint='use reduction="none"; a loss that averages has a denominator of its own',
        )
        raise ConfigError(msg)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread while the block runs: networks below 512 wide lose time to more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def frozen_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Dropout off and batch statistics fixed inside the block; the flags of all layers come back after it."""
    flags = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, flag in flags:
            module.training = flag


def mean_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows, *, rows: int = 1024
) -> list[Tensor]:
    """Gradient of the mean loss over all rows, one tensor a parameter; sums over passes, divided once.

    No rows give a gradient of zero.
    """
    weights = weights_of(model)
    total = [torch.zeros_like(w) for w in weights]
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        value = checked_loss(loss, model, x[part], y[part]).sum()
        found = torch.autograd.grad(value, weights, allow_unused=True)
        for t, g in zip(total, found, strict=True):
            if g is not None:
                t += g
    return [t / max(len(x), 1) for t in total]


def outputs(model: nn.Module, x: Tensor, *, rows: int = 4096) -> Tensor:
    """What the model gives for every row, layers frozen, without gradients."""
    with torch.no_grad(), frozen_layers(model):
        return torch.cat([model(x[i : i + rows]) for i in range(0, len(x), rows)])


def losses(
    model: nn.Module, x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows, *, rows: int = 4096
) -> Tensor:
    """The loss of every row, (n,), layers frozen."""
    with torch.no_grad(), frozen_layers(model):
        parts = [checked_loss(loss, model, x[i : i + rows], y[i : i + rows]) for i in range(0, len(x), rows)]
    return torch.cat(parts)
