"""Return distribution: the whole distribution of the return under a policy, not only its mean.

Use when    bad trajectories matter: the lower tail (CVaR), quantiles or the variance of the return decide.
Not when    trajectories are long and the policy far from the log: weights of whole trajectories then rest on a few.
Data        Episodes(state, action, reward, propensity)
Paper       Chandak and others (2021), arXiv 2104.12820; Huang, Leqi, Lipton and Azizzadenesheli (2022), arXiv
            2104.08977; Kiyohara and others (2023), arXiv 2311.18206
Equation    G = sum_t gamma^t r_t,  w = prod_t pi(a_t|s_t) / p_t,  V_0 = V(s_0)
            F_TIS(m)   = E[w 1{G <= m}]  (1)
            F_SNTIS(m) = E[w 1{G <= m}] / E[w]  (2)
            F_DM(m)    = E[1{V_0 <= m}]  (3)
            F_TDR(m)   = F_DM(m) + E[w (1{G <= m} - 1{V_0 <= m})];   F_SNTDR: w / E[w]  (4)
            then a running maximum, clipped to [0, 1]
            quantile(a) = min {m : F(m) >= a};   CVaR_a = (1/a) times the integral of the lowest mass a  (5)
Shapes      G, w, V_0 (n,) | atoms, cdf (m,), m at most 2 n: every observed return, no grid
Units       atoms and functionals: discounted reward units a trajectory (variance: squared) | w, cdf: none
Raises      LogError, PropensityError: the log | SupportError: every weight is 0 | ConfigError: CVaR of mass 0
Differs     papers evaluate F on a grid; here on the observed returns themselves, so none lies below the smallest.
            Discounting starts at gamma^0. (1) need not reach 1: the missing mass has no return, the result is then
            marked, and mean is the plain sum E[w G]. The last atom of (5) counts with the fraction of it that fits.
Builds on   estimate/trajectories, estimate/fitted-q
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterlog.core.bellman import Features, system, table_of
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.intervals import adequate, poisson_multiplicities
from counterlog.core.results import Estimate, Result
from counterlog.core.trajectory_models import Candidate
from counterlog.estimate.fitted_q import fit_q
from counterlog.estimate.trajectories import TrajectoriesConfig, shared_log

Floats = NDArray[np.float64]
MASS_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class ReturnDistributionConfig(Config):
    """Settings of every estimator of the distribution."""

    gamma: float = param(0.99, "discount a step; the first step has weight 1", at_least=0, at_most=1)
    functional: str = param(
        "mean", "what `estimate` answers", choices=("mean", "variance", "quantile", "cvar")
    )
    alpha: float = param(0.1, "mass of the lower tail, for quantile and cvar", above=0, at_most=1)
    truncation: str = param(
        "bootstrap", "a cut trajectory goes on in V, or counts as over", choices=("bootstrap", "end")
    )
    features: str = param("auto", "what V is linear in", choices=("auto", "tabular", "linear", "quadratic"))
    time: bool = param(False, "features know the step as well as the state")
    folds: int = param(3, "parts of the trajectories for the cross-fitted V of (4)", at_least=1)
    ridge: float = param(1e-6, "ridge a row of the fits", at_least=0)
    level: float = param(0.95, "coverage of the interval", above=0, below=1)
    replicates: int = param(1000, "bootstrap replicates over trajectories", at_least=2)


@dataclass(frozen=True, kw_only=True)
class ReturnDistribution(Result):
    """The estimated distribution: `cdf` at every atom, atoms ascending, in `unit`; `mass` is its last value."""

    atoms: tuple[float, ...]
    cdf: tuple[float, ...]
    unit: str
    n: int
    policy: str = ""
    estimator: str = ""
    ess: float = math.nan
    valid: bool = True
    reason: str = ""

    @property
    def mass(self) -> float:
        """Total mass; below 1 only without self-normalisation."""
        return self.cdf[-1]

    def mean(self) -> float:
        """Sum of atoms times their mass."""
        return float(functional_of(np.array(self.atoms), np.array(self.cdf)[None], "mean", 1.0)[0])

    def variance(self) -> float:
        """Of the distribution scaled to mass 1."""
        return float(functional_of(np.array(self.atoms), np.array(self.cdf)[None], "variance", 1.0)[0])

    def quantile(self, alpha: float) -> float:
        """The smallest atom with cdf of at least alpha; NaN when the mass does not reach alpha."""
        return float(functional_of(np.array(self.atoms), np.array(self.cdf)[None], "quantile", alpha)[0])

    def cvar(self, alpha: float) -> float:
        """Mean of the lowest mass alpha; NaN when the mass does not reach alpha."""
        return float(functional_of(np.array(self.atoms), np.array(self.cdf)[None], "cvar", alpha)[0])

    def records(self) -> list[dict[str, Any]]:
        """One row an atom."""
        return [{"return": a, "cdf": f} for a, f in zip(self.atoms, self.cdf, strict=True)]


# equations


def proper(raw: Floats) -> Floats:
    """(B, m) running maximum along the atoms, clipped to [0, 1]."""
    return np.clip(np.maximum.accumulate(raw, axis=-1), 0.0, 1.0)


def functional_of(atoms: Floats, cdf: Floats, functional: str, alpha: float) -> Floats:
    """Equation (5) and the moments, for each of B distributions: atoms (m,), cdf (B, m) -> (B,)."""
    if not 0 < alpha <= 1:
        msg = message(f"a lower tail of mass {alpha!r}", expected="a number in (0, 1]")
        raise ConfigError(msg)
    mass = np.diff(cdf, axis=1, prepend=0.0)
    total = cdf[:, -1]
    if functional == "mean":
        return np.asarray(mass @ atoms, np.float64)
    if functional == "variance":
        share = mass / total[:, None]
        centre = share @ atoms
        return np.asarray((share * (atoms - centre[:, None]) ** 2).sum(axis=1), np.float64)
    reached = cdf >= alpha - 1e-12
    enough = reached.any(axis=1)
    if functional == "quantile":
        return np.where(enough, atoms[reached.argmax(axis=1)], np.nan)
    kept = np.minimum(cdf, alpha)
    lower = np.diff(kept, axis=1, prepend=0.0) @ atoms / alpha
    return np.where(enough, lower, np.nan)


def distribution_of(
    counts: Floats, g: Floats, w: Floats, v: Floats | None, kind: str, atoms: Floats
) -> Floats:
    """Equations (1) to (4): (B, m) cdf under trajectory weights `counts` (B, n); one row of ones is the estimate."""
    size = counts.sum(axis=1, keepdims=True)

    def spread(at: Floats, mass: Floats) -> Floats:
        order = np.argsort(at, kind="stable")
        upto = np.searchsorted(at[order], atoms, side="right")
        total = np.cumsum(mass[:, order], axis=1)
        return np.asarray(np.concatenate([np.zeros((len(mass), 1)), total], axis=1)[:, upto], np.float64)

    if kind == "F_DM" and v is not None:
        return proper(spread(v, counts / size))
    weight = counts * w
    norm = weight.sum(axis=1, keepdims=True) if kind in ("F_SNTIS", "F_SNTDR") else size
    if (norm <= 0).any():
        msg = message("every weight is 0", hint="the policy never follows a logged trajectory to its end")
        raise SupportError(msg)
    below = spread(g, weight / norm)
    if v is not None:
        below = below + spread(v, counts / size) - spread(v, weight / norm)
    return proper(below)


class ReturnDistributionEstimator:
    """Base of the classes below. `q` may be given (tables or a function, as for trajectory estimators)."""

    name: ClassVar[str] = ""

    def __init__(
        self,
        config: ReturnDistributionConfig | None = None,
        *,
        q: Any = None,
        features: Features | None = None,
    ) -> None:
        self.config, self.q, self.features = config or ReturnDistributionConfig(), q, features

    def distribution(self, log: Episodes, policy: Any, *, rng: int = 0) -> ReturnDistribution:
        """The estimated distribution of the return."""
        g, w, v = self._ingredients(log, policy, rng)
        atoms = self._atoms(g, v)
        cdf = distribution_of(np.ones((1, log.n)), g, w, v, self.name, atoms)[0]
        ess = float(w.sum() ** 2 / (w**2).sum()) if self.name != "F_DM" else math.nan
        valid, reason = self._verdict(log, ess, float(cdf[-1]), w)
        return ReturnDistribution(
            atoms=tuple(atoms.tolist()),
            cdf=tuple(cdf.tolist()),
            unit=self._unit(log),
            n=log.n,
            policy=str(getattr(policy, "name", "")),
            estimator=self.name,
            ess=ess,
            valid=valid,
            reason=reason,
        )

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0) -> Estimate:
        """The configured functional with its bootstrap interval: trajectories are resampled, all ratios formed anew."""
        c = self.config
        g, w, v = self._ingredients(log, policy, rng)
        atoms = self._atoms(g, v)
        point = distribution_of(np.ones((1, log.n)), g, w, v, self.name, atoms)
        value = float(functional_of(atoms, point, c.functional, c.alpha)[0])
        counts = poisson_multiplicities(log.n, c.replicates, rng)
        counts = counts[counts.sum(axis=1) > 0]
        drawn = []
        for block in np.array_split(np.arange(len(counts)), max(1, len(counts) * len(atoms) // 2_000_000)):
            some = counts[block].astype(np.float64)
            cdf = distribution_of(some, g, w, v, self.name, atoms)
            drawn.append(functional_of(atoms, cdf, c.functional, c.alpha))
        values = np.concatenate(drawn)
        missing = float(np.isnan(values).mean())
        ends = (1 - c.level) / 2, (1 + c.level) / 2
        lo, hi = np.nanquantile(values, ends) if missing < 1 else (math.nan, math.nan)
        ess = float(w.sum() ** 2 / (w**2).sum()) if self.name != "F_DM" else math.nan
        valid, reason = self._verdict(log, ess, float(point[0, -1]), w)
        if missing:
            valid, reason = False, f"{missing:.0%} of the replicates do not reach the mass {c.alpha:g}"
        shown = c.functional if c.functional in ("mean", "variance") else f"{c.functional} {c.alpha:g}"
        square = " squared" if c.functional == "variance" else ""
        return Estimate(
            value=value,
            lo=float(lo),
            hi=float(hi),
            se=float(np.nanstd(values, ddof=1)) if missing < 1 else math.nan,
            unit=self._unit(log) + square,
            n=log.n,
            level=c.level,
            interval="bootstrap percentile",
            policy=str(getattr(policy, "name", "")),
            estimator=f"{self.name} {shown}",
            ess=ess,
            valid=valid,
            reason=reason,
            notes=("the error of the fitted values is not in the interval",) if self.name == "F_DM" else (),
        )

    def _ingredients(self, log: Episodes, policy: Any, rng: int) -> tuple[Floats, Floats, Floats | None]:
        """(G, w, V_0), each (n,)."""
        c = self.config
        shared_config = TrajectoriesConfig(
            gamma=c.gamma,
            truncation=c.truncation,
            features=c.features,
            time=c.time,
            folds=1 if self.name == "F_DM" else c.folds,
            ridge=c.ridge,
        )
        shared = shared_log(log, shared_config, features=self.features, rng=rng)
        candidate = Candidate(shared, policy, q=self.q)
        g = log.returns(c.gamma)
        if self.name == "F_DM":
            if self.q is not None:
                return g, np.ones(log.n), candidate.start_values
            d, probs = shared.design, candidate.probs
            theta = fit_q(system(d, probs, c.gamma, np.ones(log.rows)), c.ridge)
            return (
                g,
                np.ones(log.n),
                np.asarray((table_of(d, theta) * probs).sum(axis=1)[log.first], np.float64),
            )
        last = candidate.cumulative[log.last]
        shift = float(np.max(last)) if self.name in ("F_SNTIS", "F_SNTDR") else 0.0
        if np.isneginf(np.max(last)):
            msg = message(
                f"none of the {log.n:,} trajectories is possible under the policy",
                hint="use F_DM, or a candidate closer to the log",
            )
            raise SupportError(msg)
        if np.max(last) - shift > 700:
            msg = message("the weights leave the range of numbers", hint="use F_SNTIS or F_SNTDR")
            raise SupportError(msg)
        w = np.exp(last - shift)
        return g, w, candidate.start_values if "DR" in self.name else None

    def _atoms(self, g: Floats, v: Floats | None) -> Floats:
        if self.name == "F_DM" and v is not None:
            return np.unique(v)
        return np.unique(g if v is None else np.concatenate([g, v]))

    def _unit(self, log: Episodes) -> str:
        return f"{log.reward_unit} per trajectory, discounted by {self.config.gamma:g} a step"

    def _verdict(self, log: Episodes, ess: float, mass: float, w: Floats) -> tuple[bool, str]:
        if self.name == "F_DM":
            alike = self.config.functional == "mean"
            return alike, "" if alike else "F_DM is the spread of start values, not of returns"
        if self.name == "F_TIS" and abs(float(w.mean()) - 1) > MASS_TOLERANCE:
            return (
                False,
                f"the weights average {w.mean():.2f}, so {mass:.2f} of the mass is accounted for; use F_SNTIS",
            )
        valid, reason = adequate(ess, log.n)
        return valid, reason.replace("rows", "trajectories")

    def with_functional(self, functional: str, alpha: float | None = None) -> ReturnDistributionEstimator:
        """The same estimator for another functional."""
        c = self.config
        changed = replace(c, functional=functional, alpha=c.alpha if alpha is None else alpha)
        return type(self)(changed, q=self.q, features=self.features)


class F_TIS(ReturnDistributionEstimator):  # noqa: N801 - the paper's name
    """Equation (1)."""

    name = "F_TIS"


class F_SNTIS(ReturnDistributionEstimator):  # noqa: N801
    """Equation (2)."""

    name = "F_SNTIS"


class F_DM(ReturnDistributionEstimator):  # noqa: N801
    """Equation (3)."""

    name = "F_DM"


class F_TDR(ReturnDistributionEstimator):  # noqa: N801
    """Equation (4)."""

    name = "F_TDR"


class F_SNTDR(ReturnDistributionEstimator):  # noqa: N801
    """Equation (4), self-normalised."""

    name = "F_SNTDR"
