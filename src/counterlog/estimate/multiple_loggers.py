"""Several loggers: value a policy on decisions that different policies made, weighting each as it deserves.

Use when    the log mixes policies (an A/B test, a sequence of deployments), and it is known which of them decided.
Not when    one policy made the log; then balanced and weighted are IPS and DR again.
Data        Rounds(action, reward, propensity; context for DR), with a column naming the logger, and for balanced the
            probability of the logged action under every logger
Paper       Agarwal, Basu, Schnabel and Joachims (2017); Kallus, Saito and Uehara (2021), arXiv 2010.11002
Equation    naive      w_i = pi(a_i|x_i) / p_i, the row's own logger: plain IPS and DR                      (1)
            balanced   w_i = pi(a_i|x_i) / sum_j (n_j / n) p_j(a_i|x_i)                                     (2)
            weighted   sum_j alpha_j mean_{i of j} y_i,   alpha_j proportional to n_j / var_j(y)            (3)
            y_i        w_i r_i, or v_i + w_i (r_i - q_i) with a model                                       (4)
            (3) is     sum_i c_i y_i / sum_i c_i,  c_i = 1 / var_j(y) of the row's logger                   (5)
Shapes      w, y, c (n,) | p_j (n, loggers)
Units       w, alpha: none | value: reward units per decision
Raises      LogError: no column named | PropensityError: a logger's probability is none, or contradicts the propensity
            | SupportError: a logger has one row, or all its terms are alike (3)
Differs     (3) is computed as the ratio (5), so that interval, segments and sums over days are those of a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.errors import LogError, PropensityError, SupportError, first_rows, message
from counterlog.core.estimators import (
    Estimator,
    Floats,
    Parts,
    Row,
    array_row,
    check_support,
    extra_columns,
    no_terms,
    number_columns,
)
from counterlog.core.policies import TOLERANCE, Logged, Policy, checked_logged_probs
from counterlog.core.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class BalancedConfig(Config):
    """Settings of `BalancedIPS` and `BalancedDR`."""

    logger: str = param("", "column that names who made the decision")
    probabilities: tuple[str, ...] = param(
        (), "columns of each logger's probability of the logged action, loggers in sorted order"
    )


@dataclass(frozen=True, kw_only=True)
class WeightedConfig(Config):
    """Settings of `WeightedIPS` and `WeightedDR`."""

    logger: str = param("", "column that names who made the decision")


def loggers_of(log: Rounds, column: str) -> tuple[tuple[Any, ...], NDArray[np.int64]]:
    """The loggers, sorted, and (n,) the code of each row's."""
    names = (column,) if column else ()
    series = extra_columns(log, names, "the logger", "a config with logger='column'")[column]
    found, code = np.unique(series.to_numpy(), return_inverse=True)
    return tuple(found.tolist()), code.astype(np.int64)


def mixture(probabilities: Floats, logger: NDArray[np.int64]) -> Floats:
    """Denominator of (2): (n, loggers) probabilities of the logged action, (n,) logger -> (n,)."""
    share = np.bincount(logger, minlength=probabilities.shape[1]) / len(logger)
    return np.asarray(probabilities @ share)


def precision(y: Floats, logger: NDArray[np.int64]) -> Floats:
    """(loggers,) 1 / var_j(y) of equation (5), divisor n_j; NaN for one row, infinite when all are alike."""
    n = np.bincount(logger).astype(np.float64)
    mean = np.bincount(logger, weights=y) / n
    square = np.bincount(logger, weights=(y - mean[logger]) ** 2)
    square = np.where(square > 1e-24 * n * mean**2, square, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(n > 1, n / square, np.nan))


class BalancedIPS(Estimator):
    """Equation (2) in IPS: the row is weighted as if drawn from the mixture of the loggers."""

    name: ClassVar[str] = "BalancedIPS"
    needs_propensity: ClassVar[bool] = False

    def __init__(self, config: BalancedConfig | None = None) -> None:
        self.config = config or BalancedConfig()

    def parts(self, row: Row) -> Parts:
        """w r."""
        return Parts(mean=row.w * row.r)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The balanced weights."""
        c = self.config
        loggers, code = loggers_of(log, c.logger)
        given = number_columns(
            log, c.probabilities, "a logger's probability", "a config with probabilities=(...)"
        )
        self._check(log, loggers, code, given)
        if isinstance(policy, Logged):
            return {"w": np.ones(log.n)}
        check_support(log, policy)
        w = checked_logged_probs(policy, log) / mixture(given, code)
        if not (w > 0).any():
            msg = message(
                f"no logged decision agrees with policy {policy.name!r}",
                hint="use a policy closer to the log",
            )
            raise SupportError(msg)
        return {"w": w}

    def _check(self, log: Rounds, loggers: tuple[Any, ...], code: NDArray[np.int64], given: Floats) -> None:
        if given.shape[1] != len(loggers):
            msg = message(
                f"{given.shape[1]} columns of probabilities for {len(loggers)} loggers",
                expected=f"one for each of {', '.join(map(str, loggers))}, in this order",
            )
            raise LogError(msg)
        own = given[np.arange(log.n), code]
        if (bad := np.flatnonzero(~((given >= 0) & (given <= 1)).all(axis=1) | ~(own > 0))).size:
            msg = message(
                f"the loggers' probabilities are none in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
                expected="numbers in [0, 1], above 0 for the logger that decided",
            )
            raise PropensityError(msg)
        if log.propensity_label in ("none", "estimated"):
            return
        if (bad := np.flatnonzero(np.abs(own - log.propensity) > TOLERANCE)).size:
            msg = message(
                f"the deciding logger's probability differs from the propensity in {bad.size:,} of {log.n:,} rows: "
                f"{first_rows(bad)}",
                expected=f"columns in the order of the loggers: {', '.join(map(str, loggers))}",
            )
            raise PropensityError(msg)


class BalancedDR(BalancedIPS):
    """Equation (2) in DR."""

    name: ClassVar[str] = "BalancedDR"
    needs_model: ClassVar[bool] = True

    def parts(self, row: Row) -> Parts:
        """v + w e."""
        return Parts(mean=row.v + row.w * (row.r - row.q))


class WeightedIPS(Estimator):
    """Equation (3) of IPS: a logger far from the candidate has large weights, and little say."""

    name: ClassVar[str] = "WeightedIPS"

    def __init__(self, config: WeightedConfig | None = None) -> None:
        self.config = config or WeightedConfig()

    def parts(self, row: Row) -> Parts:
        """Raises `ConfigError`: the loggers are in the log."""
        raise no_terms(self)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The terms of (5), and each logger's share of the value as a note."""
        loggers, code = loggers_of(log, self.config.logger)
        row = array_row(log, policy, q)
        y = row.w * row.r if row.q is None else row.v + row.w * (row.r - row.q)
        c = precision(y, code)
        if (bad := np.flatnonzero(~np.isfinite(c))).size:
            msg = message(
                f"logger {loggers[bad[0]]!r} has one row, or the same term in all its rows, so its variance is unknown",
                hint="use the balanced estimator, or leave this logger's rows out",
            )
            raise SupportError(msg)
        share = np.bincount(code) * c / (np.bincount(code) * c).sum()
        told = ", ".join(f"{name} {part:.0%}" for name, part in zip(loggers[:10], share, strict=False))
        return {
            "parts": Parts(top=c[code] * y, bottom=c[code]),
            "notes": (f"weights of the loggers: {told}; the interval takes them as known",),
        }


class WeightedDR(WeightedIPS):
    """Equation (3) of DR."""

    name: ClassVar[str] = "WeightedDR"
    needs_model: ClassVar[bool] = True
