"""Figures of a choice on a network: the network itself (a sample when large), and spread against capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from counterlog.core.choice import Choice
from counterlog.core.network import Network
from counterlog.report.figures import COLOURS, figure, label

MOST_DRAWN = 300
STEPS = 80


def drawn_nodes(
    network: Network, starters: NDArray[Any], seeds: NDArray[Any], rng: int = 0
) -> NDArray[np.int64]:
    """Which nodes are drawn: starters, seeds, then their neighbours drawn at random, up to `MOST_DRAWN`."""
    first = np.unique(np.concatenate([starters, seeds]).astype(np.int64))
    gen = np.random.default_rng([rng, 11])
    if len(first) >= MOST_DRAWN:
        return np.sort(gen.choice(first, MOST_DRAWN, replace=False))
    near = np.concatenate([network.targets[network.indptr[v] : network.indptr[v + 1]] for v in first])
    others = gen.permutation(np.setdiff1d(near, first))
    return np.sort(np.concatenate([first, others[: MOST_DRAWN - len(first)]]).astype(np.int64))


def positions(source: NDArray[Any], target: NDArray[Any], n: int, rng: int = 0) -> NDArray[np.float64]:
    """(n, 2) places by springs (Fruchterman and Reingold): all push each other, edges pull."""
    gen = np.random.default_rng([rng, 12])
    place = gen.uniform(-1, 1, (n, 2))
    joined = sparse.csr_array((np.ones(len(source)), (source, target)), shape=(n, n)).toarray() > 0
    joined |= joined.T
    apart = 1.6 / np.sqrt(max(n, 1))
    for step in range(STEPS):
        gap = place[:, None] - place[None]
        distance = np.sqrt((gap**2).sum(axis=2)) + 1e-3
        force = (apart**2 / distance**2 - joined * distance / apart)[:, :, None] * gap
        move = force.sum(axis=1) - 0.3 * place
        length = np.sqrt((move**2).sum(axis=1, keepdims=True)) + 1e-9
        place = place + move / length * np.minimum(length, 0.2 * (1 - step / STEPS))
    return place


def network_figure(network: Network, choice: Choice, rng: int = 0) -> tuple[Any, int]:
    """The starters, whom they invite (heavy lines), and some who may be reached; and how many nodes are drawn."""
    names = [s.starter for s in choice.starters]
    who = network.ids(names) if names else np.empty(0, np.int32)
    seeds = network.ids(list(choice.seeds))
    shown = drawn_nodes(network, who, seeds, rng)
    number = np.full(network.n, -1)
    number[shown] = np.arange(len(shown))
    source = np.repeat(np.arange(network.n), network.out_degree)
    inside = (number[source] >= 0) & (number[network.targets] >= 0)
    tail, head = number[source[inside]], number[network.targets[inside]]
    place = positions(tail, head, len(shown), rng)
    number_of = {name: int(v) for name, v in zip(names, who, strict=True)}
    number_of.update(zip(choice.seeds, seeds.tolist(), strict=True))
    ends = [(number[number_of[p.starter]], number[number_of[p.node]]) for p in choice.picks if names]
    pairs = [(a, b) for a, b in ends if a >= 0 and b >= 0]
    kinds = np.where(np.isin(shown, who), 0, np.where(np.isin(shown, seeds), 1, 2))
    data = [
        _lines(place, np.column_stack([tail, head]), "#8a8f98", 0.4, "links"),
        _lines(place, np.array(pairs, dtype=int).reshape(-1, 2), COLOURS[1], 1.6, "invitations"),
    ]
    for kind, name, size in ((2, "others", 5), (1, "invited", 9), (0, "starters", 11)):
        here = np.flatnonzero(kinds == kind)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "meta": name,
                "x": place[here, 0].round(3).tolist(),
                "y": place[here, 1].round(3).tolist(),
                "text": [label(network.labels[v]) for v in shown[here]],
                "hoverinfo": "text",
                "marker": {"size": size, "color": (COLOURS[3], COLOURS[1], COLOURS[4])[kind]},
            }
        )
    blank = {"visible": False}
    return figure(data, height=460, xaxis=blank, yaxis=blank), len(shown)


def _lines(
    place: NDArray[np.float64], pairs: NDArray[Any], colour: str, width: float, name: str
) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for a, b in pairs:
        x += [round(float(place[a, 0]), 3), round(float(place[b, 0]), 3), None]
        y += [round(float(place[a, 1]), 3), round(float(place[b, 1]), 3), None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "meta": name,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": width},
        "marker": {"color": colour},
        "hoverinfo": "skip",
    }


def capacity_figure(ks: Sequence[int], choices: Sequence[Choice]) -> Any:
    """Spread with its interval, and the certified bound on the best, against the places each starter has."""
    value = [c.spread for c in choices]
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "spread of the plan, 95%",
            "meta": "spread of the plan, 95%",
            "x": list(ks),
            "y": value,
            "line": {"color": COLOURS[0]},
            "marker": {"color": COLOURS[0]},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [c.hi - c.spread for c in choices],
                "arrayminus": [c.spread - c.lo for c in choices],
            },
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "no plan can reach more than",
            "meta": "no plan can reach more than",
            "x": list(ks),
            "y": [c.upper for c in choices],
            "line": {"color": COLOURS[1], "dash": "dash"},
            "marker": {"color": COLOURS[1]},
        },
    ]
    return figure(
        data,
        height=320,
        xaxis={"title": {"text": "friends that each starter may invite"}, "automargin": True},
        yaxis={"title": {"text": choices[0].unit}, "rangemode": "tozero", "automargin": True},
    )


def starters_figure(choice: Choice, most: int = 30) -> Any:
    """What each starter alone brings, and what one more place would add: the `most` largest."""
    ranked = sorted(choice.starters, key=lambda s: -max(s.alone, s.next_gain))[:most][::-1]
    names = [label(s.starter) for s in ranked]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "meta": name,
            "y": names,
            "x": [getattr(s, field) for s in ranked],
            "marker": {"color": colour},
        }
        for name, field, colour in (
            ("reached through this starter alone", "alone", COLOURS[0]),
            ("one more place would add", "next_gain", COLOURS[2]),
        )
    ]
    return figure(
        data,
        height=60 + 22 * len(ranked),
        barmode="group",
        xaxis={"title": {"text": choice.unit}, "automargin": True},
        yaxis={"type": "category", "automargin": True},
    )
