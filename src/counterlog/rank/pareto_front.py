"""The trade-off of two objectives: which policies are efficient, with joint bands, and which keep a floor.

Everything here comes from `value_components`; the log is not read. Shapes: k policies. Units: those of the objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.results import Estimate, Result
from counterlog.rank.value_components import Components, Weights

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Point(Result):
    """A policy's place: both objectives, whether no other policy is better in both, and the simultaneous band."""

    policy: str
    satisfaction: Estimate
    revenue: Estimate
    efficient: bool
    satisfaction_band: tuple[float, float]
    revenue_band: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Front(Result):
    """Points of satisfaction against revenue; `critical` is the number of standard errors of the joint bands."""

    points: tuple[Point, ...]
    critical: float
    unit: str
    n: int
    level: float = 0.95

    def records(self) -> list[dict[str, Any]]:
        """One record a policy."""
        return [
            {
                "policy": p.policy,
                "satisfaction": p.satisfaction.value,
                "satisfaction_lo": p.satisfaction_band[0],
                "satisfaction_hi": p.satisfaction_band[1],
                "revenue": p.revenue.value,
                "revenue_lo": p.revenue_band[0],
                "revenue_hi": p.revenue_band[1],
                "efficient": p.efficient,
            }
            for p in self.points
        ]

    def plot(self) -> Any:
        """Satisfaction against revenue with the joint bands, as a plotly figure."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for efficient, label in ((True, "no policy is better in both"), (False, "another is better in both")):
            shown = [p for p in self.points if p.efficient == efficient]
            figure.add_scatter(
                x=[p.satisfaction.value for p in shown],
                y=[p.revenue.value for p in shown],
                error_x={"array": [p.satisfaction_band[1] - p.satisfaction.value for p in shown]},
                error_y={"array": [p.revenue_band[1] - p.revenue.value for p in shown]},
                text=[p.policy for p in shown],
                mode="markers+text",
                textposition="top center",
                name=label,
            )
        first = self.points[0]
        figure.update_layout(
            xaxis_title=f"satisfaction ({first.satisfaction.unit})",
            yaxis_title=f"revenue ({first.revenue.unit})",
            title=f"Trade-off with joint {self.level:.0%} bands",
        )
        return figure


def efficient(points: Floats) -> Mask:
    """(k, m) objectives, larger is better -> (k,) True where no other is at least as good in all and better in one."""
    at_least = (points[:, None, :] >= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] > points[None, :, :]).any(axis=2)
    return np.asarray(~(at_least & better).any(axis=0))


def front(
    found: Components, satisfaction: Weights, revenue: Weights, *, policies: Sequence[str] = (), rng: int = 0
) -> Front:
    """Every policy's point and which are efficient, with bands that hold for all of them together (5)."""
    names = tuple(policies) or found.policies
    first = [found.estimate(p, satisfaction, reward="satisfaction") for p in names]
    second = [found.estimate(p, revenue, reward="revenue") for p in names]
    critical = found.critical([(p, w) for p in names for w in (satisfaction, revenue)], rng=rng)
    best = efficient(np.array([[s.value, r.value] for s, r in zip(first, second, strict=True)]))

    def band(e: Estimate) -> tuple[float, float]:
        return (e.value - critical * e.se, e.value + critical * e.se)

    points = tuple(
        Point(
            policy=p,
            satisfaction=s,
            revenue=r,
            efficient=bool(b),
            satisfaction_band=band(s),
            revenue_band=band(r),
        )
        for p, s, r, b in zip(names, first, second, best, strict=True)
    )
    return Front(
        points=points,
        critical=critical,
        unit=f"{first[0].unit}, {second[0].unit}",
        n=found.n,
        level=found.level,
    )


def keeps(
    found: Components, policies: Sequence[str], weights: Weights, *, baseline: str, floor: float, alpha: float
) -> tuple[str, ...]:
    """The policies whose difference (4) to the baseline is above floor x |baseline value| with confidence 1 - alpha."""
    limit = floor * abs(found.estimate(baseline, weights).value)
    return tuple(p for p in policies if found.lower(p, baseline, weights, alpha=alpha) >= limit)
