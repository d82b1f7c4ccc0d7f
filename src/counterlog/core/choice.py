"""`Choice`: who is seeded or invited by whom, what that is worth, and how far from the best it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.cascades import UNIT
from counterlog.core.friend_lists import FriendLists
from counterlog.core.network import Network
from counterlog.core.results import Result, show
from counterlog.core.reverse_sets import ReverseSets

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One choice, in order: `starter` invites `node` ("" when nobody does), and the spread that it adds to those
    before it."""

    starter: Any
    node: Any
    gain: float


@dataclass(frozen=True, kw_only=True)
class StarterShare:
    """One starter: friends on offer, how many were chosen, the spread that nobody else's picks bring (`alone`), and the
    spread that one more place would add (`next_gain`)."""

    starter: Any
    friends: int
    capacity: int
    chosen: int
    alone: float
    next_gain: float


@dataclass(frozen=True, kw_only=True)
class Choice(Result):
    """Seeds and their value. `n` counts the nodes that can be reached; `spread` with [`lo`, `hi`] (95%) is estimated on
    sets that took no part in the selection.

    `lower` and `upper` bound the spread of this choice and of the best one: `ratio` of them is certified with
    probability 1 - `delta`. `guaranteed` says whether it is at least `target`; a method without a certificate leaves
    them nan. `sets` is the size of one sample.
    """

    method: str
    n: int
    spread: float
    lo: float
    hi: float
    unit: str = UNIT
    picks: tuple[Pick, ...] = ()
    lower: float = math.nan
    upper: float = math.nan
    ratio: float = math.nan
    target: float = math.nan
    delta: float = math.nan
    guaranteed: bool = False
    sets: int = 0
    rounds: int = 0
    starters: tuple[StarterShare, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[Any, ...]:
        """The distinct nodes chosen, in order."""
        return tuple(dict.fromkeys(p.node for p in self.picks))

    def records(self) -> list[dict[str, Any]]:
        """A row a pick."""
        return [{"starter": p.starter, "node": p.node, "gain": p.gain} for p in self.picks]

    def __str__(self) -> str:
        text = f"{len(self.seeds):,} seeds reach {show(self.spread)} [{show(self.lo)}, {show(self.hi)}] of {self.n:,}"
        if self.ratio == self.ratio:
            text += f"; at least {self.ratio:.1%} of the best possible (probability {1 - self.delta:.6g})"
        return text

    def plot(self) -> Any:
        """What each pick adds, in the order of selection, as a plotly figure."""
        import plotly.graph_objects as go

        total = np.cumsum([p.gain for p in self.picks])
        trace = go.Scatter(x=np.arange(1, len(total) + 1), y=total, mode="lines+markers")
        return go.Figure(trace).update_layout(xaxis_title="picks", yaxis_title=self.unit)


def share_interval(covered: int, sets: int, population: int) -> tuple[float, float, float]:
    """Spread and its 95% Wilson interval from the share of sets covered."""
    p, z2 = covered / sets, Z95 * Z95
    centre, half = (
        p + z2 / (2 * sets),
        Z95 * math.sqrt(p * (1 - p) / sets + z2 / (4 * sets * sets)),
    )
    below, above = ((centre + sign * half) / (1 + z2 / sets) for sign in (-1, 1))
    return p * population, max(below, 0.0) * population, min(above, 1.0) * population


def credit(
    network: Network,
    population: int,
    lists: FriendLists,
    owner: NDArray[np.int32],
    node: NDArray[np.int32],
    sample: ReverseSets,
) -> tuple[NDArray[np.float64], tuple[StarterShare, ...]]:
    """Spread that each pick adds in order, and what each starter brings, on sets that took no part in the selection.

    One more place of a starter is worth the best friend left; that maximum is taken on the first half of the sets and
    valued on the second, so that it is not the luck of the draw.
    """
    from counterlog.core.coverage_kernels import credited, marginal

    place = np.zeros(network.n, np.int32)
    place[node[::-1]] = np.arange(len(node), 0, -1)
    chosen = (place > 0).astype(np.uint8)
    sets, d = len(sample), len(lists.starters)
    holder = np.full(network.n, -2, np.int32)
    once = np.bincount(node, minlength=network.n)[node] == 1
    holder[node[once]] = owner[once]
    added, alone = credited(sample.nodes, sample.offsets, place, holder, len(node), d)
    half = sets // 2
    halves = [
        marginal(sample.nodes, sample.offsets[a : b + 1], network.n, chosen)
        for a, b in ((0, half), (half, sets))
    ]
    counted = np.bincount(owner, minlength=d)
    shares = []
    for u, start in enumerate(lists.starters):
        mine = lists.friends[lists.indptr[u] : lists.indptr[u + 1]]
        free = mine[chosen[mine] == 0]
        best = free[np.argmax(halves[0][free])] if len(free) else None
        shares.append(
            StarterShare(
                starter=network.labels[start].item(),
                friends=len(mine),
                capacity=int(lists.capacity[u]),
                chosen=int(counted[u]),
                alone=float(alone[u] * population / sets),
                next_gain=0.0 if best is None else float(halves[1][best] * population / (sets - half)),
            )
        )
    return added * population / sets, tuple(shares)
