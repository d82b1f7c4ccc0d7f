"""SLOPE: choose the amount of shrinkage, or the estimator, from the log itself.

Use when    an estimator has a setting that trades bias for variance (a cap, a switch, a bandwidth), which nobody knows.
Not when    the log is tiny: the intervals then overlap whatever the bias, and the most shrunken candidate wins.
Data        Rounds(action, reward, propensity; context for the doubly robust families)
Paper       Su, Srinath and Krishnamurthy (2020), arXiv 2002.07729; Tucker and Lee (2021), the improved test (2);
            Su, Dimakopoulou, Krishnamurthy and Dudik (2020), arXiv 1907.09623, the error bound (4)
Equation    theta_l = mean_i psi_i(l),   c_l = t_{1-delta, n-1} sd(psi(l)) / sqrt(n)                          (1)
            from the widest c to the narrowest, accept i while, for every accepted j,
                |theta_i - theta_j| <= c_i + (sqrt 6 - 1) c_j;   the last accepted is the choice              (2)
            psi_i(l) = v_i + s_l(w_i) (r_i - q_i),  s_l the shrunken weight (v = q = 0 without a model)       (3)
            or l minimising  var(psi(l)) / n + B_l^2,  B_l = |mean (w - s_l(w)) (r - q)|  [+ a deviation
                sqrt(2 mean(w^2) log(2/delta) / n) + 2 max(w) log(2/delta) / (3 n)]                           (4)
Shapes      w, r, q, v, psi (n,) | theta, c (candidates,)
Units       theta, c, B: reward units per decision | lam: as the family's own setting
Raises      SupportError: no weight is positive | ConfigError: no candidate
Differs     the grid comes from the weights themselves (10 values, evenly spaced in logarithm between their median and
            their largest, and infinity); units of several rows count once in c; B takes the rows as independent.
Builds on   estimate/importance-weighting, estimate/direct-method, estimate/doubly-robust
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import stdtrit

from counterlog.core import intervals
from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.estimators import (
    Estimator,
    Floats,
    Parts,
    Row,
    array_row,
    capped,
    keep_where,
    no_terms,
    subgaussian,
)
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds
from counterlog.estimate.direct_method import DM
from counterlog.estimate.doubly_robust import DR, SNDR, shrunk
from counterlog.estimate.importance_weighting import IPS

SLACK = math.sqrt(6) - 1


@dataclass(frozen=True, kw_only=True)
class SlopeConfig(Config):
    """Settings of the choice."""

    criterion: str = param(
        "slope", "(2), (4), or (4) with its deviation", choices=("slope", "mse", "mse-bound")
    )
    delta: float = param(0.1, "one minus the confidence of c (1) and of the bound (4)", above=0, below=1)
    grid: tuple[float, ...] = param(
        (), "values to choose from; empty takes them from the weights", at_least=0
    )
    size: int = param(10, "finite values in a grid taken from the weights", at_least=1)


def accept(theta: Floats, width: Floats) -> int:
    """Equation (2): the index chosen among theta, width (candidates,)."""
    if len(theta) == 0:
        raise ConfigError(message("no candidate to choose from", expected="at least one"))
    order = np.argsort(-width, kind="stable")
    chosen = order[:1]
    for i in order[1:]:
        if (np.abs(theta[chosen] - theta[i]) > width[i] + SLACK * width[chosen]).any():
            break
        chosen = np.append(chosen, i)
    return int(chosen[-1])


def value_and_width(parts: Parts, unit: Any = None, *, delta: float = 0.1) -> tuple[float, float]:
    """Equation (1) for any terms (n,), of independent rows or of units (n,) that several rows share."""
    a, b, c = parts.mean, parts.top, parts.bottom
    if unit is None:
        moments = intervals.Moments.from_units(a, b, c)
    else:
        code = np.unique(unit, return_inverse=True)[1]
        a, b, c = (None if t is None else np.bincount(code, weights=t) for t in (a, b, c))
        moments = intervals.Moments.from_units(a, b, c, np.bincount(code).astype(np.float64))
    quantile = float(stdtrit(moments.n - 1, 1 - delta))
    return intervals.value(moments), quantile * intervals.standard_error(moments)


def choose(candidates: Sequence[Parts], unit: Any = None, *, delta: float = 0.1) -> int:
    """(1) and (2) over the terms of the candidates."""
    pairs = [value_and_width(parts, unit, delta=delta) for parts in candidates]
    return accept(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))


def weight_grid(w: Floats, size: int = 10) -> Floats:
    """(size + 1,) caps: even in logarithm from the median of the positive weights to their maximum, then infinity."""
    positive = w[w > 0]
    if not positive.size:
        raise SupportError(message("every weight is 0", hint="the log does not support this policy"))
    return np.append(np.geomspace(np.quantile(positive, 0.5), positive.max(), size), np.inf)


def bias(w: Floats, kept: Floats, residual: Floats, *, bound: bool, delta: float) -> float:
    """B of (4) for shrunken weights `kept` (n,); with its deviation when `bound`."""
    n = len(w)
    found = float(abs(np.mean((w - kept) * residual)))
    if not bound:
        return found
    log_term = math.log(2 / delta)
    return (
        found + math.sqrt(2 * float(np.mean(w**2)) * log_term / n) + 2 * float(w.max()) * log_term / (3 * n)
    )


class Tuned(Estimator):
    """Equation (3) with its setting chosen by (2) or (4); the base of the families."""

    def __init__(self, config: SlopeConfig | None = None) -> None:
        self.config = config or SlopeConfig()

    @property
    def label(self) -> str:
        """Names the criterion."""
        return self.name.replace("(slope)", f"({self.config.criterion})")

    def shrink(self, w: Floats, lam: float) -> Floats:
        """s_lam(w), (n,) -> (n,)."""
        raise NotImplementedError

    def setting(self, cap: Floats) -> Floats:
        """The family's own settings for caps on the weight; the caps themselves unless overridden."""
        return cap

    def parts(self, row: Row) -> Parts:
        """Raises `ConfigError`: the setting is chosen on a log."""
        raise no_terms(self)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The terms of the chosen setting, and a note that names it."""
        row, c = array_row(log, policy, q), self.config
        grid = np.array(c.grid) if c.grid else self.setting(weight_grid(row.w, c.size))
        residual = row.r if row.q is None else row.r - row.q
        base = np.zeros(log.n) if row.v is None else row.v
        kept = [self.shrink(row.w, float(lam)) for lam in grid]
        terms = [Parts(mean=base + s * residual) for s in kept]
        if c.criterion == "slope":
            best = choose(terms, log.unit, delta=c.delta)
        else:
            bound = c.criterion == "mse-bound"
            error = [
                float(np.var(t.mean)) / log.n + bias(row.w, s, residual, bound=bound, delta=c.delta) ** 2
                for t, s in zip(terms, kept, strict=True)
            ]
            best = int(np.argmin(error))
        note = f"{grid[best]:.4g} was chosen by {c.criterion} from {len(grid)} settings; the interval leaves that out"
        model = () if kept[best].any() else ("the interval leaves out the error of the reward model",)
        return {"parts": terms[best], "notes": (note, *model)}


class TunedClippedIPS(Tuned):
    """ClippedIPS with its cap chosen."""

    name: ClassVar[str] = "ClippedIPS(slope)"

    def shrink(self, w: Floats, lam: float) -> Floats:
        """min(w, lam)."""
        return np.asarray(capped(w, lam))


class TunedSubGaussianIPS(Tuned):
    """SubGaussianIPS with its lam chosen."""

    name: ClassVar[str] = "SubGaussianIPS(slope)"

    def shrink(self, w: Floats, lam: float) -> Floats:
        """w / (1 - lam + lam w)."""
        return np.asarray(subgaussian(w, lam))

    def setting(self, cap: Floats) -> Floats:
        """1/cap, at most 1: the bound on a weight is 1/lam."""
        return np.minimum(1.0, 1.0 / cap)


class TunedDR(TunedClippedIPS):
    """Clipped DR with its cap chosen."""

    name: ClassVar[str] = "DR(slope)"
    needs_model: ClassVar[bool] = True


class TunedSwitchDR(Tuned):
    """SwitchDR with its lam chosen; 0, the direct method, is among the settings."""

    name: ClassVar[str] = "SwitchDR(slope)"
    needs_model: ClassVar[bool] = True

    def shrink(self, w: Floats, lam: float) -> Floats:
        """w where it is at most lam."""
        return np.asarray(keep_where(w <= lam, w))

    def setting(self, cap: Floats) -> Floats:
        """0, then the caps."""
        return np.append(0.0, cap)


class TunedDRos(Tuned):
    """DRos with its lam chosen; 0, the direct method, is among the settings."""

    name: ClassVar[str] = "DRos(slope)"
    needs_model: ClassVar[bool] = True

    def shrink(self, w: Floats, lam: float) -> Floats:
        """lam w / (w^2 + lam)."""
        return np.asarray(shrunk(w, lam))

    def setting(self, cap: Floats) -> Floats:
        """0, then the squares of the caps: lam is on the scale of w^2."""
        return np.append(0.0, cap**2)


class TunedSGDR(TunedSubGaussianIPS):
    """SGDR with its lam chosen."""

    name: ClassVar[str] = "SGDR(slope)"
    needs_model: ClassVar[bool] = True


class SLOPE(Estimator):
    """(1) and (2) over whole estimators; IPS, DR, SNDR and DM unless others are given."""

    name: ClassVar[str] = "SLOPE"
    needs_model: ClassVar[bool] = True

    def __init__(self, candidates: Sequence[Estimator] = (), config: SlopeConfig | None = None) -> None:
        self.candidates = tuple(candidates) or (IPS(), DR(), SNDR(), DM())
        self.config = config or SlopeConfig()
        if self.config.criterion != "slope":
            msg = message(
                "SLOPE over estimators knows no bias (4)",
                expected="criterion='slope'",
                hint="tune one family",
            )
            raise ConfigError(msg)

    def parts(self, row: Row) -> Parts:
        """Raises `ConfigError`: the estimator is chosen on a log."""
        raise no_terms(self)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The terms of the chosen estimator, and a note that names it."""
        usual = array_row(log, policy, q)
        terms = []
        for candidate in self.candidates:
            own = candidate.prepare(log, policy, q=q if candidate.needs_model else None, rng=rng)
            row = Row(own.get("w", usual.w), usual.r, own.get("q", usual.q), own.get("v", usual.v))
            terms.append(own["parts"] if "parts" in own else candidate.parts(row))
        best = choose(terms, log.unit, delta=self.config.delta)
        labels = [candidate.label for candidate in self.candidates]
        note = f"{labels[best]} was chosen by slope from {', '.join(labels)}; the interval leaves that out"
        return {"parts": terms[best], "notes": (note,)}
