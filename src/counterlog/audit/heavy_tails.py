"""Heavy tails: what do a few rows do to the answer?

Use when    any value is to be estimated from the log: a mean that ten rows carry is not known, whatever its
            interval says.
Not when    rewards and weights are both bounded and common: then there is nothing to see.
Data        Rounds(reward), optionally propensity and candidate policies
Paper       Hill, "A simple general approach to inference about the tail of a distribution", 1975.
Equation    share_t = sum of the t largest |w_i r_i| / sum |w_i r_i|;   w = pi(a|x) / p, or 1 for the log itself   (1)
            value without them = sum of w_i r_i over the other rows / n                                         (2)
            1 / alpha = mean over the k largest of log(w_(j) / w_(k+1));   alpha < 2: variance not finite         (3)
Shapes      reward, weight (n,)
Units       shares: none | values: reward units per row
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     the tail index needs weights that vary: it is left out below 200 distinct weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.errors import CounterlogError
from counterlog.core.policies import Policy, Uniform, checked_logged_probs
from counterlog.core.results import Finding, show
from counterlog.core.rounds import Rounds

CHECK = "heavy tails"
Floats = NDArray[np.float64]
HEAVY_WEIGHTS = (
    "use self-normalised, clipped or doubly robust estimates, report the value with and without these rows, "
    "or log more rows from a policy nearer to this one"
)
HEAVY_REWARDS = (
    "report the value with and without these rows, cap or transform the reward if the decision allows it, or log "
    "more rows"
)
MORE_ROWS = "log for longer: intervals stay wide until the reward has come in a few hundred rows"


@dataclass(frozen=True, kw_only=True)
class HeavyTailsConfig(Config):
    """Thresholds of the heavy-tail check."""

    rows: int = param(10, "how many of the largest rows are taken out", at_least=1)
    warn_share: float = param(
        0.5, "share of the sum in those rows from which it is a `warning`", above=0, at_most=1
    )
    note_share: float = param(0.2, "share from which it is a `note`", above=0, at_most=1)
    tail_level: float = param(
        0.95, "confidence that the tail index is below 2, to report it", above=0, below=1
    )


class HeavyTails:
    """The check. One finding for the log's own mean reward and one per candidate policy."""

    def __init__(self, config: HeavyTailsConfig = HeavyTailsConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, policies: Sequence[Policy] = (), *, rng: int = 0) -> tuple[Finding, ...]:
        """Evidence per finding: shares of the top 1, 10 and 0.1% rows, value with and without them, tail index.

        `rng` is unused: nothing here is random.
        """
        findings = [self._one(log, np.ones(log.n), "", asked=True)]
        if log.propensity_role is not None:
            asked = bool(policies)
            for policy in policies or (Uniform(),):
                try:
                    weight = checked_logged_probs(policy, log) / log.propensity
                except CounterlogError:
                    continue  # overlap reports a policy that the log cannot value
                if np.ptp(weight) > 0:  # else its terms are the rewards themselves
                    findings.append(self._one(log, weight, policy.name, asked=asked))
        return tuple(findings)

    def _one(self, log: Rounds, weight: Floats, policy: str, *, asked: bool) -> Finding:
        c = self.config
        what = f"the value of policy {policy!r}" if policy else "the log's mean reward"
        terms = weight * log.reward
        size = np.abs(terms)
        share = {t: top_share(size, t) for t in sorted({1, c.rows, max(1, math.ceil(log.n / 1000))})}
        without = without_largest(terms, c.rows)
        value, top, paid = float(terms.mean()), share[c.rows], int((size > 0).sum())
        relative = size / size.max() if paid else size
        effective = float(relative.sum() ** 2 / (relative**2).sum()) if paid else 0.0
        alpha, upper = tail_index(weight, c.tail_level)
        heavy, few = upper < 2, paid > 0 and effective > 0.5 * paid
        summary: dict[str, Any] = {
            "policy": policy or "logged",
            "value": value,
            "value without the largest rows": without,
            "rows left out": c.rows,
            "tail index": alpha,
            "effective rows": effective,
            "rows with a reward": paid,
        }
        evidence = (summary, *({"largest rows": t, "share of the sum": s} for t, s in share.items()))
        text = (
            f"the largest {c.rows} of {log.n:,} rows carry {top:.1%} of {what} "
            f"({show(value)}, without them {show(without)})"
        )
        remedy = HEAVY_WEIGHTS if np.ptp(weight) > 0 else HEAVY_REWARDS
        if few and top >= c.note_share:
            text, remedy = (
                f"only {paid:,} of {log.n:,} rows have a reward other than 0: they alone carry {what}",
                MORE_ROWS,
            )
        if heavy:
            text += (
                f"; its weights have tail index {alpha:.2g} (below 2: their variance need not be finite, so "
                "intervals from it are too short)"
            )
        severity = "ok"
        if top >= c.note_share or heavy:
            severity = "note"
        if (top >= c.warn_share or (heavy and top >= c.note_share)) and asked:
            severity = "warning"
        return Finding(
            check=f"{CHECK}: {policy or 'logged'}",
            severity=severity,
            message=text,
            remedy="" if severity == "ok" else remedy,
            unit="share of the sum",
            n=log.n,
            value=top,
            evidence=evidence,
        )


def top_share(size: Floats, rows: int) -> float:
    """Equation (1) for non-negative sizes; 0 when all are 0."""
    total = size.sum()
    rows = min(rows, len(size))
    return float(np.partition(size, len(size) - rows)[len(size) - rows :].sum() / total) if total > 0 else 0.0


def without_largest(terms: Floats, rows: int) -> float:
    """Equation (2): the mean with the `rows` largest terms (by absolute value) set to 0."""
    if rows >= len(terms):
        return 0.0
    largest = np.argpartition(np.abs(terms), len(terms) - rows)[len(terms) - rows :]
    return float((terms.sum() - terms[largest].sum()) / len(terms))


def tail_index(weight: Floats, level: float) -> tuple[float, float]:
    """Equation (3) with k = sqrt of the positive weights: (index, its upper confidence end); infinite when not
    estimable."""
    positive = weight[weight > 0]
    k = math.isqrt(len(positive))
    if k < 20:
        return math.inf, math.inf
    top = np.sort(np.partition(positive, len(positive) - k - 1)[len(positive) - k - 1 :])
    if len(np.unique(top)) < min(200, k) * 0.5 or top[0] <= 0:
        return math.inf, math.inf
    mean = float(np.log(top[1:] / top[0]).mean())
    if mean <= 0:
        return math.inf, math.inf
    from scipy.stats import norm

    return 1 / mean, (1 + float(norm.ppf(level)) / math.sqrt(k)) / mean
