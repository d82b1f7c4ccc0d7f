"""What `invalid-iv-ate` answers with: the effect, other estimators beside it, and what the number leans on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.effect_charts import band, histogram
from counterlog.core.effects import EffectEstimate
from counterlog.core.errors import SupportError, message
from counterlog.core.features import Encoder
from counterlog.core.frames import collect, open_frame
from counterlog.core.second_order import SecondOrder


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """How much the instrument changes the variance of the treatment: D(X), squared units of the treatment.

    `strength` is n mean(D^2) / variance, a first-stage F for the variance; `at_floor` the share of rows whose |D| was
    raised to the floor; `negative` the share with D < 0. `edges` and `shares` are the histogram of D.
    """

    mean: float
    sd: float
    quantiles: tuple[float, ...]
    negative: float
    at_floor: float
    outside: float
    strength: float
    mean_shift: float
    effective: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The effect when the hidden correlation of A and Y may differ by Gamma between the arms.

    `low`, `high` bound the estimate; `low_ci`, `high_ci` add its sampling error. `flips` is the Gamma where the bound
    reaches zero, `loses` the one at which the interval does. `slope` is the bias a unit of Gamma can make.
    """

    gamma: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    low_ci: tuple[float, ...]
    high_ci: tuple[float, ...]
    slope: float
    flips: float
    loses: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """A hidden assumption's trace in the data: a coefficient that should be 0, with its z value."""

    name: str
    coefficient: float
    z: float
    meaning: str


@dataclass(frozen=True, kw_only=True)
class InvalidIVEstimate(EffectEstimate):
    """The average effect (an `Estimate`), and beside it: OLS, 2SLS, LATE-DML, PLR-DML, GENIUS.

    `chosen` names the learners of the three groups; `selection` has a row a triple; `nuisances` one a learner with its
    out-of-fold loss; `sway` the rows that move the estimate most; `robust` the confidence set that holds under weak
    identification (of the effect weighted by f_0 f_1 D^2).
    """

    chosen: tuple[str, ...]
    selection: tuple[dict[str, Any], ...]
    nuisances: tuple[dict[str, Any], ...]
    relevance: Relevance
    sensitivity: Sensitivity
    checks: tuple[Check, ...]
    robust_form: str
    robust: tuple[tuple[float, float], ...]
    robust_meaning: str
    sway: tuple[dict[str, Any], ...]
    without: tuple[dict[str, Any], ...]
    effect_terms: tuple[str, ...] = ()
    effect_coefficients: tuple[float, ...] = ()
    encoding: dict[str, Any] = field(default_factory=dict)

    @property
    def ate(self) -> float:
        """The average effect."""
        return self.value

    @property
    def ci(self) -> tuple[float, float]:
        """Its interval."""
        return self.lo, self.hi

    def delta_hat(self, frame: Any) -> NDArray[np.float64]:
        """(n,) the effect by covariates, the mean of the folds' fits. Raises `SupportError` for boosted effects."""
        if not self.effect_coefficients:
            msg = message(
                "the chosen effect by covariates has no coefficients",
                hint="fit with outcome learners that end in /constant, /quadratic or /ridge",
            )
            raise SupportError(msg)
        x = Encoder.from_json(self.encoding["columns"]).transform(collect(open_frame(frame)))
        pairs = tuple((int(i), int(j)) for i, j in self.encoding["pairs"])
        second = SecondOrder(pairs, tuple(self.encoding["centre"]), tuple(self.encoding["scale"]))
        return np.asarray(second.with_constant(x) @ np.asarray(self.effect_coefficients))

    def plot_relevance(self) -> Any:
        """D(X): how much the instrument changes the treatment's variance, by row."""
        return histogram(
            self.relevance.edges, self.relevance.shares, x="D(X) = Var(A | Z=1, X) - Var(A | Z=0, X)"
        )

    def plot_sensitivity(self) -> Any:
        """The interval by Gamma."""
        s = self.sensitivity
        return band(
            s.gamma,
            s.low_ci,
            s.high_ci,
            self.value,
            title="Gamma: difference of the hidden correlation of treatment and outcome between the arms",
            unit=self.unit,
        )

    def __str__(self) -> str:
        text = f"ATE {self.value:,.4g} (se {self.se:,.3g}) [{self.lo:,.4g}, {self.hi:,.4g}] {self.unit}, n={self.n:,}"
        return text if self.valid else f"{text}; {self.reason}"
