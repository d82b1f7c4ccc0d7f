"""The plane of coverage and quality: how learners did on logs like this one, and which of them to take.

    P      = 100 (J - g_random) / (g_best - g_random)     performance of a learner on a log, %              (1)
    P_hat  = b0 + b1 TQ + b2 SACo + b3 TQ SACo,  a learner at a time, ridge 1e-3 on b1..b3                  (2)
    bound  = P_hat - t s, s: deviation of the errors on environments left out                               (3)

The recommendation is the learner whose bound (3) is highest, and says so when the log lies outside the convex hull of
the logs that the plane was made from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from counterlog.core.errors import SupportError, message
from counterlog.core.results import Result

Floats = NDArray[np.float64]
RIDGE = 1e-3
LEAST = 8
SLOPES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def performance(value: float | Floats, random: float, best: float) -> Floats:
    """Equation (1)."""
    return np.asarray(100 * (np.asarray(value, np.float64) - random) / (best - random))


def design(tq: Floats, saco: Floats) -> Floats:
    """(n, 4) the terms of (2)."""
    return np.column_stack([np.ones(len(tq)), tq, saco, tq * saco])


def ridge_fit(x: Floats, y: Floats) -> Floats:
    """(4,) the coefficients of (2)."""
    penalty = RIDGE * np.eye(x.shape[1])
    penalty[0, 0] = 0
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y))


def correlation(a: Floats, b: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """Pearson's r with Fisher's interval; not defined for fewer than 4 points or a constant column."""
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan, math.nan
    r = float(np.corrcoef(a, b)[0, 1])
    off = stats.norm.ppf((1 + level) / 2) / math.sqrt(len(a) - 3)
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    return r, math.tanh(z - off), math.tanh(z + off)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """`learner` has the highest lower bound. `inside`: the log lies among those that the plane was made from."""

    learner: str
    predicted: float
    low: float
    high: float
    inside: bool
    level: float
    table: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class LogPlane(Result):
    """Learners on logs: points with environment, regime, learner, tq, saco, performance. `n` counts logs."""

    points: tuple[dict[str, Any], ...]
    n: int
    unit: str = "% of the way from the random to the reference policy"

    def records(self) -> list[dict[str, Any]]:
        """One record a point."""
        return list(self.points)

    @property
    def learners(self) -> tuple[str, ...]:
        """The learners, in the order of the points."""
        return tuple(dict.fromkeys(p["learner"] for p in self.points))

    def columns(self, learner: str) -> tuple[Floats, Floats, Floats, NDArray[np.str_]]:
        """TQ, SACo, performance and environment of a learner's points."""
        mine = [p for p in self.points if p["learner"] == learner]
        tq, saco, p = (np.array([q[k] for q in mine], np.float64) for k in ("tq", "saco", "performance"))
        return tq, saco, p, np.array([q["environment"] for q in mine])

    def correlations(self, level: float = 0.95) -> list[dict[str, Any]]:
        """r(TQ, P) and r(SACo, P) of each learner, and r(TQ, SACo) over its logs, with Fisher's intervals."""
        rows = []
        for learner in self.learners:
            tq, saco, p, _ = self.columns(learner)
            row: dict[str, Any] = {"learner": learner, "logs": len(p)}
            for name, pair in {"r_tq": (tq, p), "r_saco": (saco, p), "r_tq_saco": (tq, saco)}.items():
                row[name], row[f"{name}_low"], row[f"{name}_high"] = correlation(*pair, level)
            rows.append(row)
        return rows

    def regressions(self) -> list[dict[str, Any]]:
        """(2) of each learner, R^2 on its own logs and on environments left out, and the isotonic rival's."""
        rows = []
        for learner in self.learners:
            tq, saco, p, where = self.columns(learner)
            x = design(tq, saco)
            b = ridge_fit(x, p)
            row: dict[str, Any] = {
                "learner": learner,
                "b0": b[0],
                "b_tq": b[1],
                "b_saco": b[2],
                "b_both": b[3],
            }
            row["r2"] = _r2(p, x @ b)
            row["r2_left_out"] = _r2(p, left_out(tq, saco, p, where))
            slope, fitted = isotonic(tq, saco, p, where)
            rows.append({**row, "isotonic_slope": slope, "isotonic_r2_left_out": _r2(p, fitted)})
        return [{k: float(v) if isinstance(v, np.floating) else v for k, v in r.items()} for r in rows]

    def recommend(self, tq: float, saco: float, *, level: float = 0.8) -> Recommendation:
        """The learner with the highest lower end of the `level` prediction interval (3) at a log's place.

        Raises `SupportError` when no learner has `LEAST` points.
        """
        table = []
        for learner in self.learners:
            a, b, p, where = self.columns(learner)
            if len(p) < LEAST:
                continue
            x = design(a, b)
            at = design(np.array([tq]), np.array([saco]))
            guess = float((at @ ridge_fit(x, p))[0])
            error = p - left_out(a, b, p, where)
            s = float(np.sqrt((error**2).mean()))
            leverage = float((at @ np.linalg.solve(x.T @ x + RIDGE * np.eye(4), at.T))[0, 0])
            off = float(stats.t.ppf((1 + level) / 2, max(1, len(p) - 4))) * s * math.sqrt(1 + leverage)
            table.append({"learner": learner, "predicted": guess, "low": guess - off, "high": guess + off})
        if not table:
            msg = message(f"no learner has {LEAST} logs in the plane", hint="run it on more logs")
            raise SupportError(msg)
        table.sort(key=lambda row: -float(str(row["low"])))
        first: dict[str, Any] = table[0]
        return Recommendation(
            **first, inside=self.holds(tq, saco), level=level, table=tuple(dict(r) for r in table)
        )

    def holds(self, tq: float, saco: float) -> bool:
        """Whether a place is within the convex hull of the plane's logs."""
        from scipy.spatial import Delaunay, QhullError

        places = np.unique([[p["saco"], p["tq"]] for p in self.points], axis=0)
        try:
            return bool(Delaunay(places).find_simplex([[saco, tq]])[0] >= 0)
        except (QhullError, ValueError):
            return False

    def plot(self, learner: str | None = None) -> Any:
        """The plane: a learner's performance by colour (cut to 0 .. 120), one marker a regime."""
        import plotly.graph_objects as go

        from counterlog.core.results import show

        chosen = learner or self.learners[0]
        mine = [p for p in self.points if p["learner"] == chosen]
        symbols = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
        figure = go.Figure()
        for k, regime in enumerate(dict.fromkeys(p["regime"] for p in mine)):
            here = [p for p in mine if p["regime"] == regime]
            figure.add_scatter(
                x=[p["saco"] for p in here],
                y=[p["tq"] for p in here],
                mode="markers",
                name=str(regime),
                text=[f"{p['environment']}: {show(float(p['performance']))} %" for p in here],
                marker={
                    "size": 11,
                    "symbol": symbols[k % len(symbols)],
                    "color": [min(max(p["performance"], 0), 120) for p in here],
                    "coloraxis": "coloraxis",
                },
            )
        figure.add_hline(y=1, line={"color": "grey", "width": 1})
        figure.add_vline(x=1, line={"color": "grey", "width": 1})
        figure.update_layout(
            title=f"{chosen}: performance over the plane",
            xaxis_title="SACo",
            yaxis_title="TQ",
            coloraxis={"cmin": 0, "cmax": 120, "colorscale": "Viridis", "colorbar": {"title": "P, %"}},
            legend={"orientation": "h", "y": -0.2},
        )
        return figure


def left_out(tq: Floats, saco: Floats, p: Floats, where: NDArray[np.str_]) -> Floats:
    """(n,) predictions (2) for each environment from the others; of single points when there is one environment."""
    x, found = design(tq, saco), np.empty(len(p))
    groups = where if len(np.unique(where)) > 1 else np.arange(len(p)).astype(str)
    for group in np.unique(groups):
        out = groups == group
        found[out] = x[out] @ ridge_fit(x[~out], p[~out])
    return found


def isotonic(tq: Floats, saco: Floats, p: Floats, where: NDArray[np.str_]) -> tuple[float, Floats]:
    """The monotone rival of (2): P as a rising function of max(TQ, c SACo); its c, and predictions as in `left_out`."""
    from sklearn.isotonic import IsotonicRegression

    groups = where if len(np.unique(where)) > 1 else np.arange(len(p)).astype(str)
    best: tuple[float, float, Floats] = (math.inf, SLOPES[0], p)
    for c in SLOPES:
        score, found = np.maximum(tq, c * saco), np.empty(len(p))
        for group in np.unique(groups):
            out = groups == group
            model = IsotonicRegression(out_of_bounds="clip").fit(score[~out], p[~out])
            found[out] = model.predict(score[out])
        error = float(((p - found) ** 2).sum())
        if error < best[0]:
            best = (error, c, found)
    return best[1], best[2]


def _r2(y: Floats, fitted: Floats) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread > 0 else math.nan
