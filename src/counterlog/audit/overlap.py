"""Overlap: can the log speak for a candidate policy? Effective sample size, largest weight, mass without support.

Use when    candidate policies are to be valued from the log.
Not when    there are no propensities: no weight can be formed.
Data        Rounds(action, propensity), candidate policies, optionally available
Paper       Kish, "Survey sampling", 1965 (effective sample size); Sachdeva, Su, Joachims, "Off-policy bandits with
            deficient support", KDD 2020 (mass without support).
Equation    w_i = pi(a_i|x_i) / p_i;    ESS = (sum w)^2 / sum w^2                                             (1)
            lost = (1/n) sum_i sum_k pi(k|x_i) 1{k was unavailable in row i, or never logged}                 (2)
            mean w has expectation 1 - lost                                                                   (3)
Shapes      w (n,) | pi (n, actions) when the policy gives it
Units       ESS: rows | lost, mean w: none
Raises      ConfigError: a threshold is outside its bounds. A policy that cannot be valued is a `stop` finding, no error
Differs     when a policy gives only the probability of the logged action, (2) is unknown and (3) is tested by betting
            against mean 1 (see core.weight_means), with the log's largest weight as bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.errors import CounterlogError, LogError, SupportError, message
from counterlog.core.policies import Policy, Uniform, checked_logged_probs
from counterlog.core.results import SEVERITIES, Finding, show
from counterlog.core.rounds import Rounds
from counterlog.core.weight_means import gamma_interval

CHECK = "overlap"
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OverlapConfig(Config):
    """Thresholds of the overlap check."""

    ess_stop: float = param(30, "effective rows below which a value is refused", unit="rows", above=0)
    ess_warn: float = param(200, "effective rows below which it is a `warning`", unit="rows", above=0)
    ess_share: float = param(0.01, "effective share of the rows below which it is a `note`", above=0, below=1)
    lost_stop: float = param(
        0.05, "mass without support from which it is `stop`", unit="share", above=0, below=1
    )
    lost_warn: float = param(
        0.001, "mass without support from which it is a `warning`", unit="share", above=0, below=1
    )
    rare: int = param(30, "an action logged less often than this is rare", unit="rows", at_least=1)
    level: float = param(0.95, "coverage of the interval of the mean weight", above=0, below=1)


class Overlap:
    """The check. One finding per candidate; the uniform policy stands in, as a note, when none is given."""

    def __init__(self, config: OverlapConfig = OverlapConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, policies: Sequence[Policy] = (), *, rng: int = 0) -> tuple[Finding, ...]:
        """Evidence: one record per candidate with ess, ess share, largest weight, mean weight, lost and rare mass.

        `rng` is unused: nothing here is random.
        """
        if log.propensity_role is None:
            text = "the log gives no propensities, so no candidate can be weighted"
            return (
                Finding(
                    check=CHECK,
                    severity="note",
                    message=text,
                    n=log.n,
                    remedy="name the propensities, or say propensity='estimate'",
                ),
            )
        return tuple(self._one(log, policy, bool(policies)) for policy in policies or (Uniform(),))

    def _one(self, log: Rounds, policy: Policy, asked: bool) -> Finding:
        c, name = self.config, f"policy {policy.name!r}"
        try:
            weight = checked_logged_probs(policy, log) / log.propensity
            lost, rare = unsupported_mass(policy, log, c.rare)
        except CounterlogError as cause:
            first, _, hint = str(cause).partition("\nhint: ")
            return Finding(
                check=f"{CHECK}: {policy.name}",
                severity="stop",
                message=f"{name} cannot be valued: {first}",
                remedy=hint or "give another candidate",
                n=log.n,
            )
        ess, mean = effective_rows(weight), float(weight.mean())
        largest, total = float(weight.max()), float(weight.sum())
        variance = np.var(weight) / log.n
        lo, hi = gamma_interval(
            np.array(mean), np.array(variance), np.array(max(largest, 1.0) / log.n), c.level
        )
        evidence: dict[str, Any] = {
            "policy": policy.name,
            "ess": ess,
            "ess share": ess / log.n,
            "largest weight": largest,
            "largest weight's share": largest / total if total > 0 else 0.0,
            "mean weight": mean,
            "lo": float(lo),
            "hi": float(hi),
            "mass without support": lost,
            "mass on rare actions": rare,
        }
        severity, parts, remedy = "ok", [f"{name} has {ess:,.0f} effective of {log.n:,} rows"], ""
        if ess < max(c.ess_warn, c.ess_share * log.n):
            few = ess < c.ess_warn
            severity = "stop" if ess < c.ess_stop else ("warning" if few else "note")
            remedy = (
                "collect rows from a policy closer to it, mix it with the logging policy, or choose a candidate "
                "nearer to the log"
            )
            parts.append(f"its largest weight is {show(largest)}")
        gone = lost if lost is not None else short_mass(weight, 1 / log.propensity.min())
        if gone >= c.lost_warn:
            severity = "stop" if gone >= c.lost_stop else worse(severity, "warning")
            parts.append(f"{gone:.1%} of its decisions have no support in the log, and count as reward 0")
            remedy = "restrict it to actions that the log holds and that were available, or log those actions first"
        if not asked and severity in ("warning", "stop"):
            severity = "note"
        return Finding(
            check=f"{CHECK}: {policy.name}",
            severity=severity,
            message="; ".join(parts),
            remedy=remedy,
            unit="effective rows",
            n=log.n,
            value=ess,
            evidence=(evidence,),
        )


def effective_rows(weight: Floats) -> float:
    """Equation (1); 0 when every weight is 0."""
    if not weight.any():
        return 0.0
    relative = weight / weight.max()
    return float(relative.sum() ** 2 / (relative**2).sum())


def unsupported_mass(policy: Policy, log: Rounds, rare: int) -> tuple[float | None, float | None]:
    """Equation (2), and the mass on actions logged fewer than `rare` times; None when the policy gives no matrix."""
    try:
        matrix = np.asarray(policy.probs(log), dtype=np.float64)
    except SupportError:
        return None, None
    if matrix.shape != (log.n, len(log.actions)):
        msg = message(
            f"it answered shape {matrix.shape}", expected=f"{(log.n, len(log.actions))}, one column an action"
        )
        raise LogError(msg)
    counts = np.bincount(log.action, minlength=len(log.actions))
    lost = float(matrix[:, counts == 0].sum())
    if log.available is not None:
        lost += float((matrix * ~log.available)[:, counts > 0].sum())
    return lost / log.n, float(matrix[:, counts < rare].sum() / log.n)


def short_mass(weight: Floats, bound: float, alpha: float = 0.001) -> float:
    """1 - mean weight when that shortfall is significant by a bet against weights in [0, bound], else 0."""
    stake = 1.9 / max(bound - 1, 1e-2) * 2.0 ** -np.arange(1, 17)
    logs = np.array([np.log1p(-np.minimum(s * (weight - 1), 0.999999)).sum() for s in stake])
    wealth = float(np.logaddexp.reduce(logs) - np.log(len(stake)))
    return float(max(1 - weight.mean(), 0.0)) if wealth > -np.log(alpha) else 0.0


def worse(a: str, b: str) -> str:
    """The worse of two severities."""
    return max(a, b, key=SEVERITIES.index)
