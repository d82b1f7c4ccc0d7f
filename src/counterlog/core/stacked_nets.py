"""Networks of several seeds and ensemble members in one flat buffer: one product a layer serves them all.

A weight has axes (seeds, members, inputs, outputs), or (seeds, inputs, outputs) without members. All parameters of a
network lie end to end in one float32 vector: one fused Adam call steps it, one `lerp_` moves its target, one copy saves
it. Losses are one number a seed, so that seeds cannot mix: seed k alone equals seed k in a stack up to rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from counterlog.core.errors import ConfigError, message
from counterlog.core.seed_streams import checked_seeds, numpy_stream

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "selu": functional.selu,
    "gelu": functional.gelu,
}
Floats = NDArray[np.float64]


def uniform_fan_in(gen: np.random.Generator, inputs: int, width: int) -> tuple[Floats, Floats]:
    """Weights and biases uniform in +-1/sqrt(inputs): torch's rule for a linear layer."""
    bound = inputs**-0.5
    return gen.uniform(-bound, bound, (inputs, width)), gen.uniform(-bound, bound, width)


def normal_fan_in(gen: np.random.Generator, inputs: int, width: int) -> tuple[Floats, Floats]:
    """Weights N(0, 1/inputs), biases 0: the rule for SELU."""
    return gen.normal(0.0, inputs**-0.5, (inputs, width)), np.zeros(width)


def truncated_normal(gen: np.random.Generator, inputs: int, width: int) -> tuple[Floats, Floats]:
    """Weights normal with deviation 1 / (2 sqrt(inputs)), cut at two deviations; biases 0."""
    drawn = gen.normal(size=(inputs, width))
    while (far := np.abs(drawn) > 2).any():
        drawn[far] = gen.normal(size=int(far.sum()))
    return drawn / (2 * inputs**0.5), np.zeros(width)


def orthogonal(gen: np.random.Generator, inputs: int, width: int) -> tuple[Floats, Floats]:
    """Orthogonal weights with gain sqrt(2), biases 0: the rule for PPO."""
    q, r = np.linalg.qr(gen.normal(size=(max(inputs, width), min(inputs, width))))
    q = q * np.sign(np.diag(r))
    return math.sqrt(2) * (q if inputs >= width else q.T), np.zeros(width)


STARTS = {
    "uniform": uniform_fan_in,
    "normal": normal_fan_in,
    "truncated": truncated_normal,
    "orthogonal": orthogonal,
}


class StackedTensors:
    """Named trainable tensors, each with the leading axis (seeds,), end to end in one flat float32 vector.

    `shapes` are the shapes a seed; the values start at zero. `net["name"]` is the tensor (seeds, *shape).
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], seeds: Sequence[int]) -> None:
        self.seeds = checked_seeds(seeds)
        self.shapes = {name: (len(self.seeds), *shape) for name, shape in shapes.items()}
        self.flat = torch.zeros(sum(math.prod(s) for s in self.shapes.values()))
        self.leaves: dict[str, Tensor] = {}
        self._cut(trainable=True)

    def _cut(self, *, trainable: bool) -> None:
        sizes = [math.prod(s) for s in self.shapes.values()]
        for (name, shape), part in zip(self.shapes.items(), self.flat.split(sizes), strict=True):
            self.leaves[name] = part.view(shape).requires_grad_(trainable)

    def __getitem__(self, name: str) -> Tensor:
        return self.leaves[name]

    def fill(self, **values: float) -> Self:
        """Set whole tensors to a number: `StackedTensors({"log_alpha": ()}, seeds).fill(log_alpha=0.0)`."""
        with torch.no_grad():
            for name, value in values.items():
                self.leaves[name].fill_(value)
        return self

    def frozen(self) -> Self:
        """A copy that takes no gradient: a target network."""
        twin = copy.copy(self)
        twin.flat = self.flat.clone()
        twin.leaves = {}
        twin._cut(trainable=False)
        return twin

    def follow(self, other: StackedTensors, tau: float) -> None:
        """theta <- (1 - tau) theta + tau other: the target update, one call for all seeds and members."""
        if tau >= 1:
            self.flat.copy_(other.flat)
        else:
            self.flat.lerp_(other.flat, tau)

    def take(self, seed: int) -> Self:
        """The seed at that position as a stack of one, copied, without gradients."""
        twin = copy.copy(self)
        twin.seeds = (self.seeds[seed],)
        twin.shapes = {name: (1, *shape[1:]) for name, shape in self.shapes.items()}
        twin.flat = torch.cat([leaf.detach()[seed].reshape(-1) for leaf in self.leaves.values()])
        twin.leaves = {}
        twin._cut(trainable=False)
        return twin

    def state(self) -> dict[str, Tensor]:
        """The flat vector."""
        return {"flat": self.flat}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put the values of `state` in place."""
        if state["flat"].shape != self.flat.shape:
            msg = message(
                f"saved parameters have {state['flat'].numel()} numbers, the network {self.flat.numel()}"
            )
            raise ConfigError(message(msg, hint="the file belongs to another network"))
        self.flat.copy_(state["flat"])


class StackedMLP(StackedTensors):
    """Perceptrons of all seeds and members.

    sizes        inputs, hidden widths, outputs
    members      ensemble members a seed; None for one network without a members axis
    layer_norm   after the affine map, before the activation, with learnt scale and shift
    start        how layers begin: uniform, normal, truncated or orthogonal
    last         the output layer's weights and biases uniform in +-last instead ("orthogonal": the gain of its weights)
    hidden_bias  the value that hidden biases begin with
    extra        further tensors a seed in the same buffer, such as {"log_std": (k,)}, beginning at zero
    role         names the streams of the starting values: two networks of one seed need different roles
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seeds: Sequence[int],
        role: str,
        members: int | None = None,
        activation: str = "relu",
        layer_norm: bool = False,
        start: str = "uniform",
        last: float | None = None,
        hidden_bias: float | None = None,
        extra: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if len(sizes) < 2 or min(sizes) < 1 or (members is not None and members < 1):
            msg = message(f"layers {list(sizes)} with {members} members", expected="positive widths")
            raise ConfigError(msg)
        if activation not in ACTIVATIONS or start not in STARTS:
            msg = message(f"activation {activation!r}, start {start!r}")
            raise ConfigError(message(msg, expected=f"{', '.join(ACTIVATIONS)}; {', '.join(STARTS)}"))
        self.sizes, self.members, self.role = tuple(int(w) for w in sizes), members, role
        self.activation, self.layer_norm = activation, layer_norm
        axis = () if members is None else (members,)
        shapes: dict[str, Sequence[int]] = {}
        for i, (inputs, width) in enumerate(pairwise(self.sizes)):
            shapes[f"weight{i}"] = (*axis, inputs, width)
            shapes[f"bias{i}"] = (*axis, 1, width)
            if layer_norm and i < len(self.sizes) - 2:
                shapes[f"scale{i}"] = shapes[f"shift{i}"] = (*axis, 1, width)
        super().__init__({**shapes, **(extra or {})}, seeds)
        with torch.no_grad():
            self._begin(start, last, hidden_bias)

    @property
    def layers(self) -> int:
        """Affine maps from input to output."""
        return len(self.sizes) - 1

    def _begin(self, start: str, last: float | None, hidden_bias: float | None) -> None:
        for k, seed in enumerate(self.seeds):
            gen = numpy_stream(seed, self.role)
            for member in range(self.members or 1):
                place: tuple[int, ...] = (k,) if self.members is None else (k, member)
                for i, (inputs, width) in enumerate(pairwise(self.sizes)):
                    weight, bias = STARTS[start](gen, inputs, width)
                    if i == self.layers - 1 and last is not None:
                        if start == "orthogonal":
                            weight = weight * (last / math.sqrt(2))
                        else:
                            weight, bias = (
                                gen.uniform(-last, last, weight.shape),
                                gen.uniform(-last, last, width),
                            )
                    elif i < self.layers - 1 and hidden_bias is not None:
                        bias = np.full(width, hidden_bias)
                    self.leaves[f"weight{i}"][place] = torch.from_numpy(np.ascontiguousarray(weight)).float()
                    self.leaves[f"bias{i}"][place] = torch.from_numpy(bias).float()
        for name, leaf in self.leaves.items():
            if name.startswith("scale") and name[5:].isdigit():
                leaf.fill_(1.0)

    def __call__(self, x: Tensor, member: int | None = None) -> Tensor:
        """(seeds, b, inputs) -> (seeds, members, b, outputs), or (seeds, b, outputs) without members.

        x may bring the members axis itself: (seeds, members, b, inputs). `member` runs that one alone.
        """
        if x.dim() not in (3, 4) or x.shape[0] != len(self.seeds) or x.shape[-1] != self.sizes[0]:
            msg = message(
                f"input of shape {tuple(x.shape)}", expected=f"({len(self.seeds)}, b, {self.sizes[0]})"
            )
            raise ConfigError(msg)
        stacked = self.members is not None and member is None
        h = x
        if stacked:
            wide = x[:, None].expand(-1, self.members or 1, -1, -1) if x.dim() == 3 else x
            h = wide.flatten(0, 1)

        def leaf(name: str) -> Tensor:
            found = self.leaves[name]
            if self.members is None:
                return found
            return found.flatten(0, 1) if member is None else found[:, member]

        act = ACTIVATIONS[self.activation]
        for i in range(self.layers):
            h = torch.baddbmm(leaf(f"bias{i}"), h, leaf(f"weight{i}"))
            if i < self.layers - 1:
                if self.layer_norm:
                    h = functional.layer_norm(h, h.shape[-1:])
                    h = torch.addcmul(leaf(f"shift{i}"), leaf(f"scale{i}"), h)
                h = act(h)
        return h.unflatten(0, (len(self.seeds), self.members or 1)) if stacked else h


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """(seeds,) norm of each seed's gradient over all its tensors."""
    squares = [g.detach().reshape(g.shape[0], -1).square().sum(dim=1) for g in gradients]
    return torch.stack(squares).sum(dim=0).sqrt()


class Descent:
    """Adam over the flat buffers of some networks: one fused call a step. A loss is one number a seed.

    `clip` bounds the norm of each seed's gradient over all these networks.
    """

    def __init__(
        self,
        *nets: StackedTensors,
        lr: float,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.nets, self.lr, self.clip = nets, lr, clip
        self.eps, self.betas, self.weight_decay = eps, betas, weight_decay
        self._leaves = [leaf for n in nets for leaf in n.leaves.values()]
        self._grads, self._means, self._squares = ([torch.zeros_like(n.flat) for n in nets] for _ in range(3))
        self._counts = [torch.zeros(()) for _ in nets]

    def step(self, loss: Tensor, *, lr: float | None = None, retain_graph: bool = False) -> None:
        """One step down each seed's loss, (seeds,). `lr` replaces the step size from here on (schedules)."""
        if loss.shape != (len(self.nets[0].seeds),):
            msg = message(f"a loss of shape {tuple(loss.shape)}", expected="(seeds,), one number a seed")
            raise ConfigError(msg)
        self.apply(
            torch.autograd.grad(loss.sum(), self._leaves, allow_unused=True, retain_graph=retain_graph), lr=lr
        )

    def apply(self, gradients: Sequence[Tensor | None], *, lr: float | None = None) -> None:
        """One step with these gradients, one a tensor of the networks in their order; None counts as zero."""
        at = 0
        for net, flat in zip(self.nets, self._grads, strict=True):
            size = len(net.leaves)
            parts = [
                torch.zeros(leaf.numel()) if g is None else g.reshape(-1)
                for g, leaf in zip(gradients[at : at + size], net.leaves.values(), strict=True)
            ]
            torch.cat(parts, out=flat)
            at += size
        if self.clip is not None:
            self._clip(self.clip)
        if lr is not None:
            self.lr = lr
        # the function, not the class: the class loads torch's compiler, two seconds of processor time
        with torch.no_grad():
            adam(
                [n.flat for n in self.nets],
                self._grads,
                self._means,
                self._squares,
                [],
                self._counts,
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=self.lr,
                weight_decay=self.weight_decay,
                eps=self.eps,
                maximize=False,
            )

    def _clip(self, most: float) -> None:
        grads = [
            part.view(shape)
            for n, flat in zip(self.nets, self._grads, strict=True)
            for part, shape in zip(
                flat.split([math.prod(s) for s in n.shapes.values()]), n.shapes.values(), strict=True
            )
        ]
        scale = (most / (gradient_norm(grads) + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and counts, and the step size."""
        found = {"lr": torch.tensor(self.lr, dtype=torch.float64)}
        for i, (mean, square, count) in enumerate(zip(self._means, self._squares, self._counts, strict=True)):
            found |= {f"{i}.mean": mean, f"{i}.square": square, f"{i}.count": count}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.lr = float(state["lr"])
        for i, (mean, square, count) in enumerate(zip(self._means, self._squares, self._counts, strict=True)):
            mean.copy_(state[f"{i}.mean"])
            square.copy_(state[f"{i}.square"])
            count.copy_(state[f"{i}.count"])
