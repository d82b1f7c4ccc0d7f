"""Exploration plan: how many decisions, and how much randomness, an interval of a chosen width needs.

Use when    a candidate's interval is too wide and the next log can be drawn differently.
Not when    the candidate is already in an A/B test: that interval does not depend on logging.
Data        Rounds(action, reward, propensity, context), a candidate policy
Paper       none: the variance of importance weighting, minimised over the logging policy.
Equation    n Var(IPS) = E[w^2 R^2] - J^2  under the log that is                                            (1)
            n Var(IPS) = E_x sum_a pi(a|x)^2 m(x,a) / p'(a|x) - J^2  under another log p',  m = E[R^2|x,a]   (2)
            p'(a|x) = (1 - k floor) pi(a|x) sqrt(m(x,a)) / sum_b pi(b|x) sqrt(m(x,b)) + floor               (3)
            rows needed = n Var z^2 / half^2                                                                (4)
Shapes      pi, m, p' (n, actions), floor for each of the row's k available actions
Units       half, J: reward units | m: reward units squared
Raises      SupportError: one action | ConfigError: a floor above 1/k
Differs     m comes from a ridge model and has a floor of a twentieth of mean R^2, so that no level looks free of noise.
Call        plan(log, policy) -> PlanResult
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.action_ridge import action_ridge
from counterlog.core.config import Config, param
from counterlog.core.crossfit import folds_of
from counterlog.core.errors import ConfigError, message
from counterlog.core.features import Encoder
from counterlog.core.policies import Policy, checked_probs
from counterlog.core.results import Result
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExplorationPlanConfig(Config):
    """Settings of `ExplorationPlan`."""

    half_width: float = param(0.01, "half the width of the interval wanted", unit="reward", above=0)
    level: float = param(0.95, "coverage of that interval", above=0, below=1)
    floor: float = param(0.02, "least probability of every available action (3)", at_least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """Rows needed under the log as it is and under (3), and what (3) asks of every action.

    `rows_now` and `rows_planned` are decisions; `share` (actions,) is the mean probability (3) gives each action,
    `logged_share` what the log gave it, and `burden` (actions,) its share of E[w^2 R^2]: where the width comes from.
    """

    policy: str
    half_width: float
    unit: str
    n: int
    rows_now: int
    rows_planned: int
    actions: tuple[str, ...]
    share: tuple[float, ...]
    logged_share: tuple[float, ...]
    burden: tuple[float, ...]
    segment: str = ""
    level: float = 0.95

    def records(self) -> list[dict[str, Any]]:
        """One record an action."""
        return [
            {
                "action": a,
                "logged_share": p,
                "planned_share": s,
                "share_of_variance": b,
                "segment": self.segment,
            }
            for a, p, s, b in zip(self.actions, self.logged_share, self.share, self.burden, strict=True)
        ]


def planned_logging(pi: Floats, m: Floats, allowed: NDArray[np.bool_], floor: float) -> Floats:
    """Equation (3). (n, actions). Raises `ConfigError` when the floors alone exceed 1."""
    k = allowed.sum(axis=1, keepdims=True)
    if floor * int(k.max()) >= 1:
        msg = message(f"floor={floor:g} for {int(k.max())} actions", expected=f"below {1 / int(k.max()):.3g}")
        raise ConfigError(msg)
    ideal = pi * np.sqrt(m)
    ideal = ideal / np.maximum(ideal.sum(axis=1, keepdims=True), 1e-300)
    return np.asarray(((1 - k * floor) * ideal + floor) * allowed, dtype=np.float64)


def second_moment(pi: Floats, m: Floats, p: Floats) -> float:
    """E_x sum_a pi^2 m / p of equation (2); an action that pi never takes costs nothing."""
    return float(np.where(pi > 0, pi**2 * m / np.maximum(p, 1e-300), 0.0).sum(axis=1).mean())


class ExplorationPlan:
    """Plans the next log for one candidate policy and the primary reward."""

    def __init__(self, config: ExplorationPlanConfig | None = None) -> None:
        self.config = config or ExplorationPlanConfig()

    def plan(self, log: Rounds, policy: Policy, *, rng: int = 0) -> PlanResult:
        """The plan over the whole log."""
        log.check_estimable()
        c, actions = self.config, len(log.actions)
        pi = checked_probs(policy, log)
        allowed = np.ones_like(pi, dtype=bool) if log.available is None else log.available
        r = log.reward
        x = Encoder.fit(log.context).transform(log.context)
        m = action_ridge(x, log.action, r**2, actions, fold=folds_of(log, 3, rng=rng))[0]
        m = np.maximum(m, 0.05 * float((r**2).mean()) + 1e-12)
        w = pi[np.arange(log.n), log.action] / log.propensity
        value, spent = float((w * r).mean()), (w * r) ** 2
        planned = planned_logging(pi, m, allowed, c.floor)
        now = float(spent.mean()) - value**2
        then = second_moment(pi, m, planned) - value**2
        scale = float(ndtri(0.5 + c.level / 2)) ** 2 / c.half_width**2
        total = max(float(spent.sum()), 1e-300)
        hits = np.bincount(log.action, minlength=actions) / log.n
        return PlanResult(
            policy=policy.name,
            half_width=c.half_width,
            unit=log.reward_unit,
            n=log.n,
            rows_now=int(np.ceil(max(now, 0.0) * scale)),
            rows_planned=int(np.ceil(max(then, 0.0) * scale)),
            actions=tuple(map(str, log.actions)),
            share=tuple(planned.mean(axis=0).tolist()),
            logged_share=tuple(hits.tolist()),
            burden=tuple((np.bincount(log.action, spent, minlength=actions) / total).tolist()),
            level=c.level,
        )
