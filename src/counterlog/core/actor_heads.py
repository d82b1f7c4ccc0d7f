"""From a network's output to an action: six heads, each with a mode, a sample and a log-density.

    tanh           a = tanh(out)                                           deterministic
    tanh_gaussian  u ~ N(mean, std), a = tanh(u);  log pi = N(u) - sum 2 (ln 2 - u - softplus(-2 u))      (1)
    gaussian       a ~ N(mean, std), one log-std a dimension whatever the state; the mean may be squashed
    categorical    a ~ softmax(out); the mode is the argmax
    greedy         a = argmax_a out: the outputs are values
    allowed        a = argmax_a value over the actions with f - max f > log threshold; out = (values, f)

Actions are in [-1, 1] for the first two. (1) is exact and finite wherever u is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from counterlog.core.errors import ConfigError, message
from counterlog.core.stacked_nets import StackedMLP

HEADS = ("tanh", "tanh_gaussian", "gaussian", "categorical", "greedy", "allowed")
DISCRETE = ("categorical", "greedy", "allowed")
EDGE = 1 - 1e-6
LOG_ROOT = math.log(2 * math.pi) / 2


@dataclass(frozen=True)
class Head:
    """What a network's output means. `low`, `high` bound the log-std; raw log-std outputs are `scale` out + `shift`.

    `threshold` is that of the head allowed.
    """

    kind: str = "tanh"
    low: float = -20.0
    high: float = 2.0
    scale: float = 1.0
    shift: float = 0.0
    squash_mean: bool = True
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise ConfigError(message(f"head {self.kind!r}", expected=f"one of {', '.join(HEADS)}"))


def normal_log_density(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(...,) sum over the last axis of log N(u; mean, exp(log_std))."""
    return (-0.5 * ((u - mean) * torch.exp(-log_std)).square() - log_std - LOG_ROOT).sum(dim=-1)


def allowed_values(value: Tensor, f: Tensor, threshold: float) -> Tensor:
    """(..., actions) values, -inf where softmax(f) is at most `threshold` times its largest; 0 allows all."""
    if threshold <= 0:
        return value
    return value.masked_fill(f - f.amax(dim=-1, keepdim=True) <= math.log(threshold), -math.inf)


def squash_correction(u: Tensor) -> Tensor:
    """(...,) sum over the last axis of log(1 - tanh(u)^2), equation (1)."""
    return (2 * (math.log(2) - u - functional.softplus(-2 * u))).sum(dim=-1)


class Actor(StackedMLP):
    """A stack of policies: perceptrons under one head. `actions` is the action's size, or the number of actions."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        actions: int,
        *,
        seeds: Sequence[int],
        head: Head | None = None,
        role: str = "actor",
        **options: Any,
    ) -> None:
        self.head, self.actions = head or Head(), actions
        outputs = 2 * actions if self.head.kind in ("tanh_gaussian", "allowed") else actions
        extra = {"log_std": (1, actions)} if self.head.kind == "gaussian" else None
        super().__init__((inputs, *hidden, outputs), seeds=seeds, role=role, extra=extra, **options)

    def moments(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of the Gaussian (before tanh for tanh_gaussian), each (seeds, b, k)."""
        out, head = self(state), self.head
        if head.kind == "tanh_gaussian":
            mean, raw = out.chunk(2, dim=-1)
            return mean, (head.scale * raw + head.shift).clamp(head.low, head.high)
        if head.kind != "gaussian":
            raise ConfigError(message(f"a {head.kind} head has no Gaussian"))
        mean = torch.tanh(out) if head.squash_mean else out
        return mean, self["log_std"].clamp(head.low, head.high).expand_as(mean)

    def scores(self, state: Tensor) -> Tensor:
        """(seeds, b, actions) of a discrete head: what its mode is the argmax of."""
        out = self(state)
        if self.head.kind != "allowed":
            return out
        value, f = out.chunk(2, dim=-1)
        return allowed_values(value, f, self.head.threshold)

    def mode(self, state: Tensor) -> Tensor:
        """The deterministic action: (seeds, b, k), or codes (seeds, b)."""
        if self.head.kind == "tanh":
            return torch.tanh(self(state))
        if self.head.kind in DISCRETE:
            return self.scores(state).argmax(dim=-1)
        mean, _ = self.moments(state)
        return torch.tanh(mean) if self.head.kind == "tanh_gaussian" else mean

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-density (seeds, b). `noise`: normal (seeds, b, k); uniform (seeds, b) for codes.

        Gradients pass through the actions of the Gaussian heads (re-parameterised).
        """
        if self.head.kind == "categorical":
            log_p = torch.log_softmax(self(state), dim=-1)
            cumulative = log_p.exp().cumsum(dim=-1)
            code = (noise[..., None] * cumulative[..., -1:] >= cumulative).sum(dim=-1)
            code = code.clamp(max=self.actions - 1)
            return code, log_p.gather(-1, code[..., None])[..., 0]
        if self.head.kind in DISCRETE:
            best = self.mode(state)
            return best, torch.zeros(best.shape)
        mean, log_std = self.moments(state)
        u = mean + log_std.exp() * noise
        log_density = normal_log_density(u, mean, log_std)
        if self.head.kind == "gaussian":
            return u, log_density
        return torch.tanh(u), log_density - squash_correction(u)

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """(seeds, b) log-density of given actions; tanh_gaussian reads actions no nearer to +-1 than 1e-6."""
        if self.head.kind == "categorical":
            return torch.log_softmax(self(state), dim=-1).gather(-1, action.long()[..., None])[..., 0]
        if self.head.kind in DISCRETE:
            return torch.where(self.mode(state) == action.long(), 0.0, -math.inf)
        mean, log_std = self.moments(state)
        if self.head.kind == "gaussian":
            return normal_log_density(action, mean, log_std)
        u = torch.atanh(action.clamp(-EDGE, EDGE))
        return normal_log_density(u, mean, log_std) - squash_correction(u)

    def probs(self, state: Tensor) -> Tensor:
        """(seeds, b, actions) of a discrete head."""
        if self.head.kind == "categorical":
            return torch.softmax(self(state), dim=-1)
        return functional.one_hot(self.mode(state), self.actions).float()
