"""Doubly robust: a reward model corrected by weighted residuals; right when the weights or the model are right.

Use when    propensities are known and a reward model helps: the usual first choice.
Not when    weights are so large that a few residuals decide (look at Switch and DRos), or nothing predicts the reward.
Data        Rounds(action, reward, propensity, context)
Paper       Dudik, Langford and Li (2011); Wang, Agarwal and Dudik (2017), Switch; Su, Dimakopoulou, Krishnamurthy
            and Dudik (2020), optimistic shrinkage; Thomas and Brunskill (2016), self-normalised; Metelli, Russo and
            Restelli (2021), subgaussian weights; Farajtabar, Chow and Ghavamzadeh (2018), MRDR.
Equation    v_i = sum_a pi(a|x_i) q(x_i, a);  e_i = r_i - q(x_i, a_i);  w_i(a) = pi(a|x_i) / p(a|x_i)
            DR       mean [v_i + w_i e_i]                                                                 (1)
            SNDR     mean v_i + sum w_i e_i / sum w_i                                                     (2)
            Switch   mean [v_i + 1{w_i <= lam} w_i e_i]                                                   (3)
            DRos     mean [v_i + lam w_i / (w_i^2 + lam) e_i]                                             (4)
            SGDR     mean [v_i + w_i / (1 - lam + lam w_i) e_i]                                           (5)
            MRDR     (1) with q fitted by row weights pi(a_i|x_i) (1 - p_i) / p_i^2, or w_i               (6)
            Switch   mean [sum_a pi(a|x_i) q(x_i, a) 1{w_i(a) > lam} + 1{w_i <= lam} w_i r_i]             (7)
Shapes      w, r, p (n,) | q (n, actions), cross-fitted
Units       value: reward units per decision
Raises      PropensityError, SupportError as importance weighting and the direct method | (7) SupportError: the logging
            policy's probabilities are known for the logged actions only
Differs     Switch is (3), on the logged action's weight, unless switch_ips=True asks for (7), the paper's, which needs
            the logging probability of every action. lam = 0 in (3), (4), (7) is the direct method; lam = inf is DR in
            (3) and (4), and IPS in (7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from counterlog.core.config import Config, param
from counterlog.core.crossfit import reward_model
from counterlog.core.estimators import (
    Estimator,
    Floats,
    Parts,
    Row,
    capped,
    keep_where,
    logging_probs,
    predictions_under,
    subgaussian,
)
from counterlog.core.policies import Logged, Policy, checked_logged_probs, checked_probs
from counterlog.core.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class DRConfig(Config):
    """Settings of `DR`."""

    cap: float = param(math.inf, "largest weight kept; infinite is plain DR (1)", above=0)


@dataclass(frozen=True, kw_only=True)
class SwitchDRConfig(Config):
    """Settings of `SwitchDR`."""

    lam: float = param(10.0, "rows with a larger weight use the model alone (3)", at_least=0)
    switch_ips: bool = param(False, "use (7): switch action by action between the model and plain weighting")


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
    weights: str = param(
        "variance", "row weights of the fit (6): variance, or iw for w", choices=("variance", "iw")
    )


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
    """Equation (3), or (7). `logging` is the logging policy for (7), where the log does not tell all its chances."""

    name: ClassVar[str] = "SwitchDR"
    needs_model: ClassVar[bool] = True

    def __init__(self, config: SwitchDRConfig | None = None, *, logging: Policy | str | None = None) -> None:
        self.config, self.logging = config or SwitchDRConfig(), logging

    @property
    def label(self) -> str:
        """Names its lam."""
        return f"{'SwitchIPS' if self.config.switch_ips else 'SwitchDR'}({self.config.lam:g})"

    @property
    def prepares(self) -> bool:
        """(7) needs the logging policy's chance of every action; (3) is an expression of the row."""
        return self.config.switch_ips

    def parts(self, row: Row) -> Parts:
        """v + w e where w is at most lam; in (7) v counts only the actions beyond lam, and e is r."""
        residual = row.r if self.config.switch_ips else row.r - row.q
        return Parts(mean=row.v + keep_where(row.w <= self.config.lam, row.w * residual))

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """For (7), the model's value of the actions whose weight exceeds lam."""
        if not self.config.switch_ips or q is None:
            return {}
        if isinstance(policy, Logged):
            logged, value = predictions_under(log, policy, q)
            return {"q": logged, "v": value * (self.config.lam < 1)}
        pi, p = checked_probs(policy, log), logging_probs(log, self.logging, rng=rng)
        return {"q": q[np.arange(log.n), log.action], "v": beyond(pi, p, q, self.config.lam)}


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

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """q and v of the weighted model."""
        c = self.settings
        weight = fit_weights(checked_logged_probs(policy, log), log.propensity, c.weights)
        fitted = reward_model(log, model=c.model, folds=c.folds, rng=rng, sample_weight=weight)
        logged, value = predictions_under(log, policy, fitted)
        return {"q": logged, "v": value}


def fit_weights(pi: Floats, p: Floats, kind: str = "variance") -> Floats:
    """Row weights of equation (6): (n,), (n,) -> (n,), at least a millionth of the largest."""
    weight = pi * (1 - p) / p**2 if kind == "variance" else pi / p
    peak = float(weight.max())
    return np.maximum(weight, 1e-6 * peak) if peak > 0 else np.ones_like(weight)


def beyond(pi: Floats, p: Floats, q: Floats, lam: float) -> Floats:
    """First term of equation (7): (n, actions) pi, p, q -> (n,). An action that is never logged is beyond any lam."""
    unlogged = (p <= 0) & (pi > 0)
    w = np.divide(pi, p, out=np.zeros_like(pi), where=p > 0)
    return np.asarray(np.where((w > lam) | unlogged, pi * q, 0.0).sum(axis=1))


def shrunk(w: Any, lam: float) -> Any:
    """The weight of equation (4), (n,) -> (n,); lam infinite leaves it as it is."""
    return w if math.isinf(lam) else lam * w / (w * w + max(lam, 1e-300))
