"""Importance weighting: value a policy by reweighting logged rewards, with no model of the rewards.

Use when    the logging probabilities are known and the candidate overlaps with the logging policy.
Not when    weights are huge (few effective rows), or propensities are unknown and the context does not explain them.
Data        Rounds(action, reward, propensity)
Paper       Horvitz and Thompson (1952); Swaminathan and Joachims (2015), self-normalised; Li, Chu, Langford and
            Wang (2011), replay; Metelli, Russo and Restelli (2021), subgaussian weights.
Equation    w_i = pi(a_i|x_i) / p_i
            Replay      sum 1{a_i = pi(x_i)} r_i / sum 1{a_i = pi(x_i)}                                   (1)
            IPS         mean w_i r_i                                                                      (2)
            ClippedIPS  mean min(w_i, cap) r_i                                                            (3)
            SNIPS       sum w_i r_i / sum w_i                                                             (4)
            SubGaussian mean [w_i / (1 - lam + lam w_i)] r_i                                              (5)
Shapes      w, r, p (n,) float64
Units       value: reward units per decision | w: none
Raises      PropensityError: a propensity outside (0, 1] | SupportError: no logged row agrees with the policy, or it
            takes actions that were never logged; for (1) also a randomised policy or a log that is not uniform
Differs     none; the interval of (1) and (4) is that of a ratio (delta method), never of r w / mean(w) as if
            independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from counterlog.core.config import Config, param
from counterlog.core.errors import SupportError, first_rows, message
from counterlog.core.estimators import Estimator, Floats, Parts, Row, capped, keep_where, subgaussian
from counterlog.core.policies import TOLERANCE, Logged, Policy, checked_logged_probs
from counterlog.core.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class ClippedIPSConfig(Config):
    """Settings of `ClippedIPS`."""

    cap: float = param(10.0, "largest weight kept (3)", above=0)


@dataclass(frozen=True, kw_only=True)
class SubGaussianIPSConfig(Config):
    """Settings of `SubGaussianIPS`."""

    lam: float = param(0.1, "0 is IPS, 1 is the plain mean of the rewards (5)", at_least=0, at_most=1)


class Replay(Estimator):
    """Equation (1): the mean reward of the rows in which a deterministic policy agrees; the log must be uniform."""

    name: ClassVar[str] = "Replay"

    def parts(self, row: Row) -> Parts:
        """Agreement is a positive weight."""
        agrees = keep_where(row.w > 0, row.w * 0 + 1.0)
        return Parts(top=agrees * row.r, bottom=agrees)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """Nothing, after checking that (1) applies. Raises `SupportError` when it does not."""
        if isinstance(policy, Logged):
            return {}
        chance = checked_logged_probs(policy, log)
        if (bad := np.flatnonzero((chance > TOLERANCE) & (chance < 1 - TOLERANCE))).size:
            msg = message(
                f"Replay needs a deterministic policy, and {policy.name!r} is random at {first_rows(bad)}",
                hint="use SNIPS or IPS",
            )
            raise SupportError(msg)
        k = len(log.actions) if log.available is None else log.available.sum(axis=1)
        if (bad := np.flatnonzero(np.abs(log.propensity * k - 1) > 1e-3)).size:
            msg = message(
                f"Replay needs a log of uniformly random actions, and {bad.size:,} of {log.n:,} propensities differ "
                f"from 1/actions: {first_rows(bad)}",
                hint="use SNIPS or IPS, which weight by the propensity",
            )
            raise SupportError(msg)
        return {}


class IPS(Estimator):
    """Equation (2): unbiased where the logging policy supports the candidate."""

    name: ClassVar[str] = "IPS"

    def parts(self, row: Row) -> Parts:
        """w r."""
        return Parts(mean=row.w * row.r)


class ClippedIPS(Estimator):
    """Equation (3): less variance, biased towards 0 for positive rewards."""

    name: ClassVar[str] = "ClippedIPS"

    def __init__(self, config: ClippedIPSConfig | None = None) -> None:
        self.config = config or ClippedIPSConfig()

    @property
    def label(self) -> str:
        """Names its cap."""
        return f"ClippedIPS({self.config.cap:g})"

    def parts(self, row: Row) -> Parts:
        """min(w, cap) r."""
        return Parts(mean=capped(row.w, self.config.cap) * row.r)


class SNIPS(Estimator):
    """Equation (4): unchanged by adding a constant to every reward."""

    name: ClassVar[str] = "SNIPS"

    def parts(self, row: Row) -> Parts:
        """w r over w."""
        return Parts(top=row.w * row.r, bottom=row.w)


class SubGaussianIPS(Estimator):
    """Equation (5): weights bounded by 1/lam without a kink."""

    name: ClassVar[str] = "SubGaussianIPS"

    def __init__(self, config: SubGaussianIPSConfig | None = None) -> None:
        self.config = config or SubGaussianIPSConfig()

    @property
    def label(self) -> str:
        """Names its lam."""
        return f"SubGaussianIPS({self.config.lam:g})"

    def parts(self, row: Row) -> Parts:
        """Shrunk w times r."""
        return Parts(mean=subgaussian(row.w, self.config.lam) * row.r)
