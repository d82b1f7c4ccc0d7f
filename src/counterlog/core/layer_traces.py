"""What passes through the layers of a network: inputs and output gradients of every row, caught by hooks.

The gradient of a row's loss by a layer's weights is a sum over its tokens of (output gradient) x (input), so inputs and
output gradients say everything about per-row gradients without holding one. A layer that runs twice adds tokens.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.errors import ConfigError, ConvergenceError, LogError, message
from counterlog.core.layer_rows import EmbeddingRows, LayerRows, NormRows, OuterRows
from counterlog.core.torch_models import RowLoss, checked_loss, frozen_layers

KINDS = ("linear", "conv", "embedding", "norm")


@dataclass(frozen=True)
class Layer:
    """One tracked module; its gradient is (outputs, inputs), the bias as last input."""

    name: str
    module: nn.Module
    kind: str
    outputs: int
    inputs: int
    bias: bool

    @property
    def weights(self) -> int:
        """Weights of the layer, the bias among them."""
        return self.outputs * self.inputs


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "norm" if isinstance(module, nn.LayerNorm) else ""


def _layer(name: str, module: Any, kind: str) -> Layer:
    bias = getattr(module, "bias", None) is not None
    if kind == "embedding":
        return Layer(name, module, kind, module.embedding_dim, module.num_embeddings, False)
    if kind == "norm":
        return Layer(name, module, kind, module.weight.numel(), 1 + bias, bias)
    if kind == "conv":
        return Layer(name, module, kind, module.out_channels, module.weight[0].numel() + bias, bias)
    inputs, outputs = module.weight.shape if type(module).__name__ == "Conv1D" else module.weight.shape[::-1]
    return Layer(name, module, kind, outputs, inputs + bias, bias)


def tracked_layers(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    kinds: Sequence[str] = ("linear", "conv"),
) -> tuple[Layer, ...]:
    """The layers whose weights are traced: names that match a pattern of `include` (`*mlp*`; all when none is given).

    Raises `ConfigError` when nothing is left, and for a named layer that is tied, frozen or quantised.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=True):
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(name)
    candidates = [(n, m, _kind(m)) for n, m in model.named_modules() if _kind(m)]
    found = []
    for name, module, kind in candidates:
        named = any(fnmatch.fnmatch(name, p) for p in include)
        if kind not in kinds or (include and not named) or any(fnmatch.fnmatch(name, p) for p in exclude):
            continue
        weight = module.weight
        trouble = ""
        if not isinstance(weight, Tensor):
            trouble = "has no weight"
        elif not weight.is_floating_point():
            trouble = f"is quantised ({weight.dtype})"
        elif not weight.requires_grad:
            trouble = "is frozen (requires_grad is False)"
        elif len(owners[id(weight)]) > 1:
            trouble = f"shares its weight with {', '.join(o for o in owners[id(weight)] if o != name)}"
        if trouble and include:
            msg = message(f"layer {name!r} {trouble}", hint=f"leave it out: exclude=({name!r},)")
            raise ConfigError(msg)
        if not trouble:
            found.append(_layer(name, module, kind))
    if not found:
        there = ", ".join(f"{n or 'the model itself'} ({type(m).__name__})" for n, m, _ in candidates[:12])
        msg = message(
            f"no layer is tracked by include={tuple(include)}, exclude={tuple(exclude)}, kinds={tuple(kinds)}",
            expected=f"some of: {there or 'a Linear, Conv2d, Conv1D, Embedding or LayerNorm, and there is none'}",
            hint="patterns match whole names, as in '*mlp*'",
        )
        raise ConfigError(msg)
    return tuple(found)


@dataclass(frozen=True)
class Call:
    """One run of a layer: what went in, and the zero added to what came out."""

    entered: Tensor
    probe: Tensor


class Recorder:
    """Hooks on the tracked layers while the block runs; nothing of the model is changed."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.calls: dict[str, list[Call]] = {layer.name: [] for layer in layers}

    def __enter__(self) -> Recorder:
        self._handles = [layer.module.register_forward_hook(self._hook(layer)) for layer in self.layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, layer: Layer) -> Any:
        def hook(_: nn.Module, entered: tuple[Tensor, ...], out: Tensor) -> Tensor:
            zero = torch.zeros((), dtype=out.dtype, device=out.device, requires_grad=True)
            probe = zero.expand_as(
                out
            )  # its gradient is the output's, whatever is done to the output in place
            self.calls[layer.name].append(Call(entered[0].detach(), probe))
            return out + probe

        return hook


def trace(
    model: nn.Module,
    layers: Sequence[Layer],
    rows: RowLoss,
    x: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None = None,
    shared: bool = False,
    at: int = 0,
) -> dict[str, LayerRows]:
    """One pass forward and back over a batch: for every layer the rows' inputs and gradients of `rows` (b,).

    Layers run frozen (no dropout). `at` is the number of the batch's first row, for messages. Raises `ConfigError` for
    a layer that is never called, or twice without `shared`; `ConvergenceError` for gradients that are not finite.
    """
    with torch.enable_grad(), frozen_layers(model), Recorder(layers) as recorder:
        value = checked_loss(rows, model, x, y).sum()
        _refuse_calls(recorder, shared)
        probes = [c.probe for layer in layers for c in recorder.calls[layer.name]]
        found = iter(torch.autograd.grad(value, probes, allow_unused=True))
    out: dict[str, LayerRows] = {}
    for layer in layers:
        parts = [_rows(layer, c, next(found), len(x), mask) for c in recorder.calls[layer.name]]
        joined = parts[0] if len(parts) == 1 else type(parts[0]).joined(parts)
        if not bool(torch.isfinite(joined.total())):
            msg = message(
                f"the gradient at layer {layer.name!r} is not finite in rows {at} to {at + len(x) - 1}",
                hint="look for infinite inputs, log(0) in the loss, or half precision that overflows",
            )
            raise ConvergenceError(msg)
        out[layer.name] = joined
    return out


def _refuse_calls(recorder: Recorder, shared: bool) -> None:
    silent = [n for n, c in recorder.calls.items() if not c]
    if silent:
        msg = message(
            f"layer {silent[0]!r} is never called as a module",
            hint="its weight may be used directly (as attention blocks of torch do); leave it out by exclude=",
        )
        raise ConfigError(msg)
    twice = [n for n, c in recorder.calls.items() if len(c) > 1]
    if twice and not shared:
        n = len(recorder.calls[twice[0]])
        msg = message(
            f"layer {twice[0]!r} is called {n} times in one pass", hint="shared=True adds its calls up"
        )
        raise ConfigError(msg)


def _rows(layer: Layer, call: Call, gradient: Tensor | None, b: int, mask: Tensor | None) -> LayerRows:
    """One call as rows of tokens: (b, t, inputs) and (b, t, outputs), in float32 at least."""
    s = torch.zeros_like(call.probe) if gradient is None else gradient.detach()
    entered = call.entered
    wide = torch.promote_types(s.dtype, torch.float32)
    s = s.to(wide)
    module: Any = layer.module
    if layer.kind == "conv":
        return OuterRows(*_conv_tokens(module, entered.to(wide), s, layer.bias))
    if layer.kind == "norm":
        entered = functional.layer_norm(entered.to(wide), module.normalized_shape, eps=module.eps)
        width = module.weight.numel()
        return NormRows(_tokens(layer, entered, b, width), _tokens(layer, s, b, width), layer.bias)
    if layer.kind == "embedding":
        ids = entered.reshape(b, -1)
        s = _tokens(layer, s, b, layer.outputs)
        if module.padding_idx is not None:
            s = s * (ids != module.padding_idx)[..., None]
        return EmbeddingRows(ids, s, layer.inputs)
    a = _tokens(layer, entered.to(wide), b, layer.inputs - layer.bias)
    one = torch.ones_like(a[..., :1]) if layer.bias else None
    a = a if one is None else torch.cat([a, one], dim=-1)
    if mask is not None and entered.dim() > 2:
        if mask.shape[1] != a.shape[1]:
            msg = message(
                f"layer {layer.name!r} has {a.shape[1]} tokens a row and the mask {mask.shape[1]}",
                hint="the mask must be as long as the sequences that enter the layers",
            )
            raise LogError(msg)
        a = a * mask[..., None]
        return OuterRows(a, _tokens(layer, s, b, layer.outputs), float(mask.sum()))
    return OuterRows(a, _tokens(layer, s, b, layer.outputs))


def _tokens(layer: Layer, values: Tensor, b: int, width: int) -> Tensor:
    """(..., width) as (b, tokens, width): rows come first."""
    if values.numel() % (b * width):
        msg = message(
            f"layer {layer.name!r} sees a tensor of shape {tuple(values.shape)} for {b} rows",
            expected="rows first, the same number of tokens in every row",
        )
        raise ConfigError(msg)
    return values.reshape(b, -1, width)


def _conv_tokens(module: Any, entered: Tensor, s: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Positions as tokens. With groups every (position, group) is a token that touches its group's outputs alone."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(entered, module._reversed_padding_repeated_twice, mode=mode)
    patches = functional.unfold(padded, module.kernel_size, module.dilation, 0, module.stride)
    b, _, positions = patches.shape
    g, outputs = module.groups, s.shape[1]
    a = patches.reshape(b, g, -1, positions).permute(0, 3, 1, 2).reshape(b, positions * g, -1)
    s = s.reshape(b, g, outputs // g, positions).permute(0, 3, 1, 2)
    if g > 1:
        spread = s.new_zeros(b, positions, g, g, outputs // g)
        spread.diagonal(dim1=2, dim2=3).copy_(s.permute(0, 1, 3, 2))
        s = spread
    s = s.reshape(b, positions * g, outputs)
    a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1) if bias else a
    return a, s
