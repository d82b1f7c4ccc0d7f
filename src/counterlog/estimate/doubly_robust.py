"""Doubly robust: a reward model corrected by weighted residuals; right when the weights or the model are right.

Use when    propensities are known and a reward model helps: the usual first choice.
Not when    weights are so large that a few residuals decide (look at Switch and DRos), or nothing predicts the reward.
Data        Rounds(action, reward, propensity, context)
Paper       Dudik, Langford and Li (2011); Wang, Agarwal and Dudik (2017), Switch; Su, Dimakopoulou,
Krishnamurthy and Dudik
            (2020), optimistic shrinkage; Thomas and Brunskill (2016), self-normalised; Farajtabar, Chow and Ghavamzadeh
            (2018), MRDR.
Equation    v_i = sum_a pi(a|x_i) q(x_i, a);  e_i = r_i - q(x_i, a_i)
            DR       mean [v_i + w_i e_i]                                                                 (1)
            SNDR     mean v_i + sum w_i e_i / sum w_i                                                     (2)
            Switch   mean [v_i + 1{w_i <= lam} w_i e_i]                                                   (3)
            DRos     mean [v_i + lam w_i / (w_i^2 + lam) e_i]                                             (4)
            SGDR     mean [v_i + w_i / (1 - lam + lam w_i) e_i]                                           (5)
            MRDR     (1) with q fitted by row weights pi(a_i|x_i) (1 - p_i) / p_i^2                        (6)
Shapes      w, r, p (n,) | q (n, actions), cross-fitted
Units       value: reward units per decision
Raises      PropensityError, SupportError as importance weighting and the direct method
Differs     (3) follows the widely used form on the logged action's weight; lam = 0 in (3), (4) is the direct method and
            lam = inf is DR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from counterlog.core.config import Config, param
from counterlog.core.crossfit import reward_model
from counterlog.core.estimators import Estimator, Parts, Row, capped, keep_where, subgaussian
from counterlog.core.policies import Policy, checked_probs
from counterlog.core.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class DRConfig(Config):
    """Settings of `DR`."""

    cap: float = param(math.inf, "largest weight kept; infinite is plain DR (1)", above=0)


@dataclass(frozen=True, kw_only=True)
class SwitchDRConfig(Config):
    """Settings of `SwitchDR`."""

    lam: float = param(10.0, "rows with a larger weight use the model alone (3)", at_least=0)


@dataclass(frozen=True, kw_only=True)
class DRosConfig(Config):
    """Settings of `DRos`."""

    lam: float = param(100.0, "0 is the direct method, infinite is DR (4)", at_least=0)


@dataclass(frozen=True, kw_only=True)
class SGDRConfig(Config):
    """Settings of `SGDR`."""

    lam: float = param(0.1, "0 is DR (5)", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class MRDRConfig(Config):
    """Settings of `MRDR`."""

    model: str = param("boosting", "reward model", choices=("boosting", "linear"))
    folds: int = param(3, "folds of the cross-fitting", at_least=2)


class DR(Estimator):
    """Equation (1)."""

    name: ClassVar[str] = "DR"
    needs_model: ClassVar[bool] = True

    def __init__(self, config: DRConfig | None = None) -> None:
        self.config = config or DRConfig()

    @property
    def label(self) -> str:
        """Names its cap when there is one."""
        return "DR" if math.isinf(self.config.cap) else f"DR(cap {self.config.cap:g})"

    def parts(self, row: Row) -> Parts:
        """v + w e."""
        w = row.w if math.isinf(self.config.cap) else capped(row.w, self.config.cap)
        return Parts(mean=row.v + w * (row.r - row.q))


class SNDR(Estimator):
    """Equation (2)."""

    name: ClassVar[str] = "SNDR"
    needs_model: ClassVar[bool] = True

    def parts(self, row: Row) -> Parts:
        """v, and w e over w."""
        return Parts(mean=row.v, top=row.w * (row.r - row.q), bottom=row.w)


class SwitchDR(Estimator):
    """Equation (3)."""

    name: ClassVar[str] = "SwitchDR"
    needs_model: ClassVar[bool] = True

    def __init__(self, config: SwitchDRConfig | None = None) -> None:
        self.config = config or SwitchDRConfig()

    @property
    def label(self) -> str:
        """Names its lam."""
        return f"SwitchDR({self.config.lam:g})"

    def parts(self, row: Row) -> Parts:
        """v + w e where w is at most lam."""
        return Parts(mean=row.v + keep_where(row.w <= self.config.lam, row.w * (row.r - row.q)))


class DRos(Estimator):
    """Equation (4)."""

    name: ClassVar[str] = "DRos"
    needs_model: ClassVar[bool] = True

    def __init__(self, config: DRosConfig | None = None) -> None:
        self.config = config or DRosConfig()

    @property
    def label(self) -> str:
        """Names its lam."""
        return f"DRos({self.config.lam:g})"

    def parts(self, row: Row) -> Parts:
        """v + shrunk w times e."""
        return Parts(mean=row.v + shrunk(row.w, self.config.lam) * (row.r - row.q))


class SGDR(Estimator):
    """Equation (5)."""

    name: ClassVar[str] = "SGDR"
    needs_model: ClassVar[bool] = True

    def __init__(self, config: SGDRConfig | None = None) -> None:
        self.config = config or SGDRConfig()

    @property
    def label(self) -> str:
        """Names its lam."""
        return f"SGDR({self.config.lam:g})"

    def parts(self, row: Row) -> Parts:
        """v + subgaussian w times e."""
        return Parts(mean=row.v + subgaussian(row.w, self.config.lam) * (row.r - row.q))


class MRDR(DR):
    """Equation (6): the model is fitted, for each policy anew, to make the variance of DR small."""

    name: ClassVar[str] = "MRDR"
    needs_model: ClassVar[bool] = False

    def __init__(self, config: MRDRConfig | None = None) -> None:
        super().__init__()
        self.settings = config or MRDRConfig()

    @property
    def label(self) -> str:
        """Its name."""
        return "MRDR"

    def prepare(self, log: Rounds, policy: Policy, *, rng: int) -> dict[str, Any]:
        """q and v of the variance-weighted model."""
        pi, p, rows = checked_probs(policy, log), log.propensity, np.arange(log.n)
        weight = pi[rows, log.action] * (1 - p) / p**2
        floor = weight.max() * 1e-6
        c = self.settings
        q = reward_model(log, model=c.model, folds=c.folds, rng=rng, sample_weight=np.maximum(weight, floor))
        return {"q": q[rows, log.action], "v": (pi * q).sum(axis=1)}


def shrunk(w: Any, lam: float) -> Any:
    """The weight of equation (4), (n,) -> (n,); lam infinite leaves it as it is."""
    return w if math.isinf(lam) else lam * w / (w * w + max(lam, 1e-300))
