"""Advantages of responses against the others of their group (the same prompt). Nothing here takes a gradient.

A reward that is NaN was never given: the row is left out of its group's statistics and gets advantage zero, as does the
only judged row of a group. Rows of a group may stand in any order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ("mean", "zscore", "leave-one-out", "log-average-exp", "quantile", "batch", "global-std")


class Groups:
    """Sums over the groups of a batch, given back to every row; computed in float64."""

    def __init__(self, rewards: Tensor, group: Tensor, keep: Tensor | None = None) -> None:
        _, self.place = torch.unique(group, return_inverse=True)
        self.known = torch.isfinite(rewards) if keep is None else torch.isfinite(rewards) & keep
        self.rewards = torch.where(self.known, rewards.double(), 0.0)
        self.count = self.sum(self.known.double())

    def sum(self, values: Tensor) -> Tensor:
        """(b,) the sum over each row's group."""
        total = torch.zeros(int(self.place.max()) + 1, dtype=torch.float64, device=values.device)
        return total.index_add(0, self.place, values.double())[self.place]

    @property
    def mean(self) -> Tensor:
        """(b,) the mean reward of the row's group."""
        return self.sum(self.rewards) / self.count.clamp(min=1)

    def std(self, ddof: int) -> Tensor:
        """(b,) the standard deviation of the rewards of the row's group."""
        centred = torch.where(self.known, self.rewards - self.mean, 0.0)
        return (self.sum(centred.square()) / (self.count - ddof).clamp(min=1)).sqrt()


def group_advantage(
    rewards: Tensor,
    group: Tensor,
    kind: str = "mean",
    *,
    ddof: int = 0,
    eps: float = 1e-6,
    tau: float = 1.0,
    quantile: float = 0.5,
    keep: Tensor | None = None,
) -> Tensor:
    """(b,) float32, reward units (`zscore`, `batch` and `global-std`: none). `keep` False leaves a row out."""
    g = Groups(rewards, group, keep)
    centred = g.rewards - g.mean
    if kind == "mean":
        out = centred
    elif kind == "zscore":
        out = centred / (g.std(ddof) + eps)
    elif kind == "leave-one-out":
        out = centred * g.count / (g.count - 1).clamp(min=1)
    elif kind == "log-average-exp":
        out = g.rewards - log_average_exp(g, tau)
    elif kind == "quantile":
        out = g.rewards - _quantile(g, quantile)
    else:
        known = g.rewards[g.known]
        centre = known.mean() if kind == "batch" else g.mean
        out = (g.rewards - centre) / (known.std(correction=ddof) + eps)
    return torch.where(g.known & (g.count > 1), out, 0.0).float()


def log_average_exp(g: Groups, tau: float) -> Tensor:
    """(b,) tau log mean exp(r / tau) of the row's group: between the mean (tau large) and the maximum (tau small)."""
    scaled = torch.where(g.known, g.rewards / tau, -math.inf)
    peak = torch.full((int(g.place.max()) + 1,), -math.inf, dtype=torch.float64, device=scaled.device)
    peak = peak.scatter_reduce(0, g.place, scaled, "amax")[g.place]
    peak = torch.where(torch.isfinite(peak), peak, 0.0)
    return tau * (peak + (g.sum((scaled - peak).exp()) / g.count.clamp(min=1)).log())


def _quantile(g: Groups, q: float) -> Tensor:
    """(b,) the q-quantile of the judged rewards of the row's group."""
    out = torch.zeros_like(g.rewards)
    for k in range(int(g.place.max()) + 1):
        mine = g.place == k
        if bool((mine & g.known).any()):
            out[mine] = g.rewards[mine & g.known].quantile(q)
    return out


def spread_share(rewards: Tensor, group: Tensor) -> tuple[float, float]:
    """(share of groups whose judged rewards are all alike, share of rows that are alone in their group)."""
    g = Groups(rewards, group)
    first = _first_of_each(g.place)
    alike = (g.std(0) == 0)[first].double().mean()
    return float(alike), float((g.count <= 1).double().mean())


def _first_of_each(place: Tensor) -> Tensor:
    order = place.argsort(stable=True)
    sorted_place = place[order]
    starts = torch.cat([sorted_place.new_ones(1, dtype=torch.bool), sorted_place[1:] != sorted_place[:-1]])
    return order[starts]
