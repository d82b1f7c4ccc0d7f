"""Models of examination by position: a table of logits, a segment's departure from it, or the papers' small networks.

Each gives logits (S, K), a row a segment, and takes one Adagrad step on inverse-relevance-weighted clicks. The table's
gradient is written down (`softmax_gradient`), so that a step costs a fraction of the ranker's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.torch_models import mlp
from counterlog.rank.click_losses import list_loss, masked, softmax_gradient, softmax_loss

MODELS = ("table", "elu_layer", "elu_network")
ADAGRAD_EPSILON = 1e-10


class ExaminationTable:
    """logits[s, k] = shared[k] + own[s, k]; `own` is pulled towards 0 and absent for a single segment.

    Kept in NumPy: on tables this small a torch call costs more than its arithmetic.
    """

    def __init__(
        self, segments: int, size: int, *, lr: float, clip: float, pull: float, dtype: torch.dtype
    ) -> None:
        self.lr, self.clip, self.pull = lr, clip, pull
        rows = 1 if segments == 1 else segments + 1  # row 0 is shared
        kind = np.float64 if dtype == torch.float64 else np.float32
        self.weight, self.square = np.zeros((rows, size), kind), np.zeros((rows, size), kind)

    def logits(self) -> Tensor:
        """(S, K)."""
        own = self.weight if len(self.weight) == 1 else self.weight[:1] + self.weight[1:]
        return torch.from_numpy(own.copy())

    def step(self, weighted_click: Tensor, shown: Tensor, segment: Tensor, whole: bool) -> None:
        """One step on L_exam. `whole`: every position is shown in every list of the batch."""
        if len(self.weight) == 1 and whole:
            column = weighted_click.numpy().sum(axis=0)
            total = column.sum()
            share = np.exp(self.weight - self.weight.max())
            gradient = share / share.sum() - column / total
        elif len(self.weight) == 1:
            rows = softmax_gradient(self.logits().expand(len(shown), -1), weighted_click, shown)
            gradient = rows.sum(dim=0, keepdim=True).numpy()
        else:
            rows = softmax_gradient(self.logits()[segment], weighted_click, shown)
            own = torch.zeros(len(self.weight) - 1, rows.shape[1], dtype=rows.dtype).index_add_(
                0, segment, rows
            )
            whole_gradient = own.sum(dim=0, keepdim=True).numpy()
            gradient = np.concatenate([whole_gradient, own.numpy() + self.pull * self.weight[1:]])
        # one segment's gradient is a difference of two distributions: its norm is at most sqrt(2)
        bound = math.sqrt(2.0) * len(self.weight) if self.pull == 0 or len(self.weight) == 1 else math.inf
        if 0 < self.clip < bound and (size := math.sqrt(float((gradient * gradient).sum()))) > self.clip:
            gradient *= self.clip / size
        self.square += gradient * gradient
        self.weight -= self.lr * gradient / (np.sqrt(self.square) + ADAGRAD_EPSILON)

    def state(self) -> dict[str, Tensor]:
        """Everything a later step needs."""
        held = {"examination.weight": self.weight, "examination.square": self.square}
        return {k: torch.from_numpy(v) for k, v in held.items()}

    def restore(self, held: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.weight[:] = held["examination.weight"].numpy()
        self.square[:] = held["examination.square"].numpy()


class ExaminationNet:
    """A network on one-hot position (and segment), as the released codes have it; any of the list losses."""

    def __init__(
        self, kind: str, segments: int, size: int, *, lr: float, clip: float, loss: str, rng: int, dtype: Any
    ) -> None:
        self.clip, self.loss = clip, loss
        inputs = size + (segments if segments > 1 else 0)
        widths = [(size + 6) // 2, (size + 6) // 4] if kind == "elu_network" else []
        layers: list[nn.Module] = [
            nn.ELU() if isinstance(m, nn.ReLU) else m for m in mlp([inputs, *widths, 1], rng=rng, dtype=dtype)
        ]
        self.net = nn.Sequential(*layers, nn.ELU())
        position, own = torch.eye(size, dtype=dtype), torch.eye(segments, dtype=dtype)
        self.inputs = position.expand(segments, size, size)
        if segments > 1:
            self.inputs = torch.cat([self.inputs, own[:, None].expand(-1, size, -1)], dim=2)
        self.optimiser = torch.optim.Adagrad(self.net.parameters(), lr=lr)

    def logits(self) -> Tensor:
        """(S, K), with their graph."""
        found: Tensor = self.net(self.inputs).squeeze(-1)
        return found

    def step(self, weighted_click: Tensor, shown: Tensor, segment: Tensor, whole: bool) -> None:
        """One step on L_exam."""
        with torch.enable_grad():
            logits = self.logits()[segment]
            if self.loss == "softmax":
                loss = softmax_loss(logits, weighted_click, shown)
            else:
                click = (weighted_click > 0).to(logits.dtype)
                loss = list_loss(self.loss, logits, click, weighted_click, shown)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """Everything a later step needs."""
        held = {f"examination.{k}": v for k, v in self.net.state_dict().items()}
        return held | adagrad_state(self.optimiser, "examination")

    def restore(self, held: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.net.load_state_dict({k: held[f"examination.{k}"] for k in self.net.state_dict()})
        restore_adagrad(self.optimiser, "examination", held)


def adagrad_state(optimiser: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """The accumulated squares of an Adagrad optimiser and its steps, in the order of its parameters."""
    out = {}
    for i, p in enumerate(optimiser.param_groups[0]["params"]):
        out[f"{name}.square.{i}"] = optimiser.state[p]["sum"]
        out[f"{name}.steps.{i}"] = torch.as_tensor(optimiser.state[p]["step"]).reshape(1)
    return out


def restore_adagrad(optimiser: torch.optim.Optimizer, name: str, held: dict[str, Tensor]) -> None:
    """The inverse of `adagrad_state`."""
    for i, p in enumerate(optimiser.param_groups[0]["params"]):
        optimiser.state[p]["sum"].copy_(held[f"{name}.square.{i}"])
        optimiser.state[p]["step"] = held[f"{name}.steps.{i}"].reshape(()).clone()


def log_chance(logits: Tensor, shown: Tensor, link: str) -> Tensor:
    """Logarithm of P: softmax over the shown positions, or sigmoid(z - mean z)."""
    if link == "softmax":
        return functional.log_softmax(masked(logits, shown), dim=-1)
    return functional.logsigmoid(logits - _mean(logits, shown))


def inverse_ratio(logits: Tensor, shown: Tensor, *, link: str, reference: str, most: float | None) -> Tensor:
    """P[reference] / P[k], the weight of position k; the reference is position 1 or the geometric mean.

    Only differences of logits enter, so a constant added to all of them changes nothing. Clipped at `most`.
    """
    z = logits if link == "softmax" else functional.logsigmoid(logits - _mean(logits, shown))
    at = z[..., :1] if reference == "first" else _mean(z, shown)
    weight = (at - z).exp()
    return weight if most is None else weight.clamp(max=most)


def _mean(z: Tensor, shown: Tensor) -> Tensor:
    return (z * shown).sum(dim=-1, keepdim=True) / shown.sum(dim=-1, keepdim=True)
