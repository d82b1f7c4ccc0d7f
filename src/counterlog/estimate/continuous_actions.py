"""Continuous actions: value a policy that sets a number (a price, a dose) by weighting logged actions close to it.

Use when    the action is one or a few numbers, the candidate is a function of the context, and densities were logged.
Not when    actions have more than a few dimensions: no logged action is close to the candidate's any more.
Data        Rounds(action as numbers, reward; context for DR), with a column of the logging density
Paper       Kallus and Zhou (2018), arXiv 1802.06037; bandwidth: Su, Srinath and Krishnamurthy (2020), arXiv 2002.07729
Equation    u_i = (t(x_i) - a_i) / h,   w_i = prod_d K(u_id) / (prod_d h_d  p_i)                          (1)
            IPS     mean w_i r_i                                                                          (2)
            SNIPS   sum w_i r_i / sum w_i                                                                 (3)
            DR      mean [q(x_i, t(x_i)) + w_i (r_i - q(x_i, a_i))]                                       (4)
            K       gaussian exp(-u^2/2)/sqrt(2 pi) | epanechnikov 3/4 (1-u^2) | triangular 1-|u| |
                    cosine pi/4 cos(pi u/2), the last three on |u| <= 1                                   (5)
Shapes      a, t (n, dimensions) | p, w, r (n,) | h (dimensions,)
Units       a, t, h: the action's | p: one over the action's unit(s) | value: reward units per decision
Raises      LogError: actions or densities are no numbers | PropensityError: a density is not above 0 | ConfigError: the
            policy is no `Target` | SupportError: no logged action is within reach of the candidate
Differs     h is chosen by SLOPE unless given, from multiples of each dimension's spread; (4) takes the residual at the
            logged action, so a right model leaves no smoothing bias. residual='target' gives r_i - q(x_i, t(x_i)).
Builds on   estimate/slope
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from counterlog.core.config import Config, param
from counterlog.core.crossfit import folds_of, make_model, splits
from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError, first_rows, message
from counterlog.core.estimators import Estimator, Floats, Parts, Row, number_columns
from counterlog.core.features import Encoder
from counterlog.core.policies import Logged, Policy
from counterlog.core.rounds import Rounds
from counterlog.estimate.slope import choose

KERNELS = ("gaussian", "epanechnikov", "triangular", "cosine")
MULTIPLES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)


@dataclass(frozen=True, kw_only=True)
class ContinuousConfig(Config):
    """Settings of `ContinuousIPS` and `ContinuousSNIPS`."""

    density: str = param(
        "", "column of the logging density of the logged action; empty: the log's propensity"
    )
    dimensions: tuple[str, ...] = param((), "columns of a vector action; empty: the log's action column")
    kernel: str = param("epanechnikov", "K (5)", choices=KERNELS)
    bandwidth: tuple[float, ...] = param(
        (), "h, one number or one a dimension; empty: chosen by SLOPE", unit="of the action", above=0
    )
    delta: float = param(0.1, "one minus the confidence in the choice of h", above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class ContinuousDRConfig(ContinuousConfig):
    """Settings of `ContinuousDR`."""

    residual: str = param(
        "logged", "where the residual's prediction is taken (4)", choices=("logged", "target")
    )
    model: str = param("boosting", "reward model", choices=("boosting", "linear"))
    folds: int = param(3, "folds of the cross-fitting", at_least=2)


class Target(Policy):
    """A deterministic policy over numbers: `function(context) -> (n,)` or (n, dimensions); `context` a Polars frame."""

    def __init__(self, function: Callable[[pl.DataFrame], Any], *, name: str = "") -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", "target")

    def target(self, log: Rounds, dimensions: int) -> Floats:
        """(n, dimensions) the actions it would take. Raises `LogError` for another shape or no numbers."""
        answer = np.asarray(self.function(log.context), dtype=np.float64)
        wanted = (log.n, dimensions)
        found = answer[:, None] if answer.ndim == 1 else answer
        if answer.ndim == 0:
            found = np.full(wanted, float(answer))
        if found.shape != wanted or not np.isfinite(found).all():
            msg = message(
                f"target {self.name!r} answered shape {answer.shape}",
                expected=f"finite numbers of shape {wanted}",
            )
            raise LogError(msg)
        return np.asarray(found, dtype=np.float64)

    def probs(self, log: Rounds) -> Floats:
        """Raises `SupportError`: it has no probabilities over logged actions."""
        msg = message(
            f"policy {self.name!r} sets a number and has no probability for single actions",
            hint="use ContinuousIPS, ContinuousSNIPS or ContinuousDR",
        )
        raise SupportError(msg)


def kernel(u: Floats, kind: str) -> Floats:
    """Equation (5), same shape as u; integrates to 1."""
    if kind == "gaussian":
        return np.asarray(np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi))
    inside = np.abs(u) <= 1
    value = {
        "epanechnikov": 0.75 * (1 - u**2),
        "triangular": 1 - np.abs(u),
        "cosine": math.pi / 4 * np.cos(math.pi * u / 2),
    }[kind]
    return np.where(inside, value, 0.0)


def kernel_weights(target: Floats, action: Floats, density: Floats, h: Floats, kind: str) -> Floats:
    """Equation (1): (n, d), (n, d), (n,), (d,) -> (n,)."""
    return np.asarray(kernel((target - action) / h, kind).prod(axis=1) / (h.prod() * density))


def bandwidths(action: Floats) -> list[Floats]:
    """Candidates for h: multiples of each dimension's spread, the lesser of the standard deviation and IQR/1.349."""
    quartiles = np.quantile(action, [0.25, 0.75], axis=0)
    spread, robust = action.std(axis=0), (quartiles[1] - quartiles[0]) / 1.349
    scale = np.where(robust > 0, np.minimum(spread, robust), spread)
    if not (scale > 0).all():
        raise SupportError(message("all logged actions are alike, so nothing is known of any other"))
    return [m * scale for m in MULTIPLES]


class ContinuousIPS(Estimator):
    """Equation (2). The policy is a `Target`."""

    name: ClassVar[str] = "ContinuousIPS"

    def __init__(self, config: ContinuousConfig | None = None) -> None:
        self.config = config or ContinuousConfig()

    def parts(self, row: Row) -> Parts:
        """w r."""
        return Parts(mean=row.w * row.r)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The kernel weights, with their bandwidth in a note."""
        if isinstance(policy, Logged):
            return {"w": np.ones(log.n), "q": np.zeros(log.n), "v": np.zeros(log.n)}
        if not isinstance(policy, Target):
            msg = message(
                f"policy {policy.name!r} gives probabilities of single actions, and these actions are numbers",
                expected="a Target: a function from context to action",
            )
            raise ConfigError(msg)
        c = self.config
        action = number_columns(log, c.dimensions or (log.action_column,), "the action", "dimensions=(...)")
        target, p = policy.target(log, action.shape[1]), self._density(log)
        grid = [self._given(action.shape[1])] if c.bandwidth else bandwidths(action)
        pairs = [(h, kernel_weights(target, action, p, h, c.kernel)) for h in grid]
        pairs = [(h, w) for h, w in pairs if (w > 0).any()]
        if not pairs:
            msg = message(
                f"no logged action is within reach of policy {policy.name!r}",
                hint="widen the bandwidth, or use a policy closer to the log",
            )
            raise SupportError(msg)
        predicted = self._predicted(log, target, action, rng=rng)
        rows = [Row(w, log.reward, predicted.get("q"), predicted.get("v")) for _, w in pairs]
        best = choose([self.parts(row) for row in rows], log.unit, delta=c.delta) if len(rows) > 1 else 0
        h = ", ".join(f"{v:.4g}" for v in pairs[best][0])
        how = "given" if c.bandwidth else "chosen by slope; the interval leaves that out"
        notes = (f"bandwidth {h} was {how}", "the interval leaves out the smoothing bias of the bandwidth")
        return {"w": pairs[best][1], **predicted, "notes": notes}

    def _predicted(self, log: Rounds, target: Floats, action: Floats, *, rng: int) -> dict[str, Floats]:
        """q of the residual and v of the target, where there is a model."""
        return {}

    def _given(self, dimensions: int) -> Floats:
        h = np.asarray(self.config.bandwidth)
        if len(h) not in (1, dimensions):
            msg = message(f"{len(h)} bandwidths for {dimensions} dimensions", expected=f"1 or {dimensions}")
            raise ConfigError(msg)
        return np.broadcast_to(h, (dimensions,)).astype(np.float64)

    def _density(self, log: Rounds) -> Floats:
        if not self.config.density:
            return log.propensity
        p = number_columns(log, (self.config.density,), "the logging density", "density='column'")[:, 0]
        if (bad := np.flatnonzero(~(p > 0))).size:
            msg = message(
                f"density {self.config.density!r} is not above 0 in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
                hint="log the density with which the action was drawn",
            )
            raise PropensityError(msg)
        return p


class ContinuousSNIPS(ContinuousIPS):
    """Equation (3)."""

    name: ClassVar[str] = "ContinuousSNIPS"

    def parts(self, row: Row) -> Parts:
        """w r over w."""
        return Parts(top=row.w * row.r, bottom=row.w)


class ContinuousDR(ContinuousIPS):
    """Equation (4). `predict`, where given, is q fitted elsewhere: (context frame, action (n, d)) -> (n,)."""

    name: ClassVar[str] = "ContinuousDR"

    def __init__(
        self,
        config: ContinuousDRConfig | None = None,
        *,
        predict: Callable[[pl.DataFrame, Floats], Any] | None = None,
    ) -> None:
        settings = config or ContinuousDRConfig()
        super().__init__(settings)
        self.settings, self.predict = settings, predict

    def parts(self, row: Row) -> Parts:
        """v + w (r - q)."""
        return Parts(mean=row.v + row.w * (row.r - row.q))

    def _predicted(self, log: Rounds, target: Floats, action: Floats, *, rng: int) -> dict[str, Floats]:
        c = self.settings
        if self.predict is not None:
            v, q = (np.asarray(self.predict(log.context, a), dtype=np.float64) for a in (target, action))
        else:
            v, q = dose_response(log, target, action, c.model, c.folds, rng=rng)
        return {"v": v, "q": q if c.residual == "logged" else v}


def dose_response(
    log: Rounds, target: Floats, action: Floats, model: Any, folds: int, *, rng: int = 0
) -> tuple[Floats, Floats]:
    """Out-of-fold q(x, target) and q(x, action), (n,) each; the linear model also has squares and products."""
    x = Encoder.fit(log.context).transform(log.context)
    binary = bool(np.isin(log.reward, (0.0, 1.0)).all())
    centre, scale = action.mean(axis=0), action.std(axis=0)
    at_target, at_action = np.empty(log.n), np.empty(log.n)

    def phi(a: Floats, rows: Any) -> Floats:
        z = (a[rows] - centre) / scale
        if model == "boosting":
            return np.hstack([x[rows], z])
        return np.hstack([x[rows], z, z**2, (x[rows][:, :, None] * z[:, None, :]).reshape(len(z), -1)])

    for fit, rest in splits(folds_of(log, folds, rng=rng)):
        if len(np.unique(log.reward[fit])) < 2:
            at_target[rest] = at_action[rest] = log.reward[fit][0]
            continue
        fitted = make_model(model, binary=binary, rng=rng).fit(phi(action, fit), log.reward[fit])
        for out, a in ((at_target, target), (at_action, action)):
            new = phi(a, rest)
            out[rest] = fitted.predict_proba(new)[:, 1] if binary else fitted.predict(new)
    return at_target, at_action
