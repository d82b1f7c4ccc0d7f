"""What `ad-load` reports: values, trade-off, differences, the A/B test to run, and what happened afterwards.

users an arm   2 s^2 (z_{1 - alpha/2} + z_power)^2 / effect^2,  s^2 the variance of a user's reward per fetch    (1)
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.policies import Policy, Table
from counterlog.core.results import Estimate, Finding, Result
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy
from counterlog.rank.pareto_front import Front
from counterlog.rank.value_components import Components

Floats = NDArray[np.float64]
LEARNT, NONE = "learnt", "none"
TOP, HEAVY = 10, 0.1


@dataclass(frozen=True, kw_only=True)
class AdLoadReport(Result):
    """Everything `AdLoad` found. `chosen` names the policy to test, or `none` when (4) leaves nothing.

    `values` holds every policy by reward, group and estimator; `differences` the chosen policy against the log and the
    best static load; `winsor` what was cut for learning; `plan` the A/B test. Values are per fetch, of rewards as
    logged; `n` counts independent units.
    """

    chosen: str
    best_static: str
    values: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    front: Front
    components: tuple[Components, ...]
    winsor: tuple[dict[str, Any], ...]
    plan: tuple[dict[str, Any], ...]
    findings: tuple[Finding, ...]
    unit: str
    n: int
    level: float = 0.95
    notes: tuple[str, ...] = ()

    def find(self, policy: str, reward: str, *, estimator: str = "DR", segment: str = "") -> Estimate:
        """One value. Raises `ConfigError` when there is none."""
        for e in self.values:
            if (e.policy, e.reward, e.estimator, e.segment) == (policy, reward, estimator, segment):
                return e
        msg = message(f"no value of {policy!r} for {reward!r} by {estimator} in segment {segment!r}")
        raise ConfigError(msg)

    def records(self) -> list[dict[str, Any]]:
        """One record a value."""
        return [record for e in self.values for record in e.records()]

    def plot(self) -> Any:
        """The trade-off with joint bands, as a plotly figure."""
        return self.front.plot()


@dataclass
class LearntLoad(Policy):
    """The chosen policy, ready to save, and its report. `honest` holds its out-of-fold probabilities for the log."""

    report: AdLoadReport
    policy: SoftmaxPolicy | None
    honest: Table | None
    name: str = LEARNT

    def probs(self, log: Rounds) -> Floats:
        """(n, levels). Raises `SupportError` when no policy kept the floor."""
        return self._policy().probs(log)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the policy; `load_policy` and `file:PATH` read it. Raises `SupportError` when there is none."""
        return self._policy().save(path)

    def _policy(self) -> SoftmaxPolicy:
        if self.policy is None:
            msg = message(
                "no policy on the front keeps satisfaction above the floor with the confidence asked for",
                hint="lower the floor, give satisfaction more weight, or log more exploration",
            )
            raise SupportError(msg)
        return self.policy


def users_needed(effect: float, variance: float, level: float, power: float) -> int:
    """Equation (1)."""
    z = float(ndtri(0.5 + level / 2) + ndtri(power))
    return math.ceil(2 * variance * z**2 / effect**2) if effect else 0


def predicted_against_observed(predicted: Estimate, observed: Estimate) -> Finding:
    """After the test: whether the observed difference lies within the joint error of the two."""
    gap, se = observed.value - predicted.value, math.hypot(observed.se, predicted.se)
    off = abs(gap) > float(ndtri(0.5 + predicted.level / 2)) * se
    return Finding(
        check="predicted against observed",
        severity="warning" if off else "ok",
        message=f"predicted {predicted.value:.4g}, observed {observed.value:.4g}, {gap / se:.1f} standard errors apart",
        remedy="look for drift, carry-over, or propensities that are not what was drawn" if off else "",
        unit=predicted.unit,
        n=observed.n,
        value=gap,
    )


def variance_of_ratio(total: Floats, unit: NDArray[np.int64] | None) -> float:
    """Variance of a user's share in the mean reward per fetch (n,): s^2 of (1)."""
    if unit is None:
        return float(total.var(ddof=1))
    fetches = np.bincount(unit)
    here = fetches > 0
    each = np.bincount(unit, total)[here] - total.mean() * fetches[here]
    return float(each.var(ddof=1)) / float(fetches[here].mean()) ** 2


def plan_test(
    differences: Sequence[Estimate],
    rewards: Mapping[str, Floats],
    unit: NDArray[np.int64] | None,
    *,
    level: float,
    power: float,
) -> tuple[dict[str, Any], ...]:
    """The A/B test of the chosen policy against the log: predicted effects per fetch, and users an arm by (1)."""
    return tuple(
        {
            "reward": e.reward,
            "effect": e.value,
            "lo": e.lo,
            "hi": e.hi,
            "unit": e.unit,
            "users_an_arm": users_needed(e.value, variance_of_ratio(rewards[e.reward], unit), level, power),
        }
        for e in differences
    )


def heavy_tail(name: str, terms: Floats) -> Finding:
    """How much of an IPS value hangs on its largest rows (n,)."""
    share = float(np.sort(terms)[::-1][:TOP].sum() / max(float(terms.sum()), 1e-300))
    return Finding(
        check="heavy tail",
        severity="warning" if share > HEAVY else "ok",
        message=f"the {TOP} largest rows hold {share:.1%} of the IPS value of {name!r}",
        remedy="trust the winsorised value more than the raw one" if share > HEAVY else "",
        unit="share",
        n=len(terms),
        value=share,
    )
