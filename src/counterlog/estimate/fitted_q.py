"""Fitted Q evaluation: value a policy by the fixed point of its Bellman equation in features, solved exactly.

Use when    trajectories are long, weights would explode, and tabular, linear or quadratic features describe the values.
Not when    the features cannot represent the value where the policy goes: that bias is not in the interval.
Data        Episodes(state, action, reward; propensity not needed)
Paper       Le, Voloshin and Yue (2019), arXiv 1903.08738; linear form: Duan, Jia and Wang (2020), arXiv 2002.09516
Equation    theta = fixed point of  argmin_x sum_i [phi_i x - r_i - gamma alive_i sum_a pi(a|s'_i) q(s'_i, a)]^2
            (M + ridge N I) theta = b,  b = sum_i phi_i r_i,
            M = sum_i phi_i (phi_i - gamma alive_i phi_pi(s'_i))^T  (1)
            value = mean_i V(s_0i),  V(s) = sum_a pi(a|s) phi(s, a) theta  (2)
            influence_j = V(s_0j) + n g^T sum_{t in j} phi_t (r_t + gamma V(s_t+1) - q_t),   M^T g = f0  (3)
Shapes      phi (N, actions * m) | theta, b, f0 (actions * m,) | influence (n,) one a trajectory
Units       value: discounted reward units a trajectory | theta: reward units per unit of a feature
Raises      LogError: no reward, continuous actions | ConfigError: more than 6,000 unknowns | ConvergenceError:
            M singular
Differs     papers iterate regressions, with neural networks in the first; here the fixed point in one solve. It exists
            where iteration would diverge. The interval is from (3), so it includes the error of theta, not of phi.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core import ragged
from counterlog.core.bellman import (
    Design,
    Features,
    System,
    design,
    is_sparse,
    of_logged,
    solve,
    start_vector,
    system,
    table_of,
)
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.intervals import mean_ratio_interval
from counterlog.core.results import Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FQEConfig(Config):
    """Settings of `FQE`."""

    gamma: float = param(0.99, "discount a step", at_least=0, at_most=1)
    features: str = param(
        "auto",
        "what the value is linear in, with each action its own block",
        choices=("auto", "tabular", "linear", "quadratic"),
    )
    time: bool = param(False, "features know the step as well as the state (exact for a finite horizon)")
    truncation: str = param(
        "bootstrap",
        "a cut trajectory goes on in its value, or counts as over",
        choices=("bootstrap", "end"),
    )
    ridge: float = param(1e-6, "ridge a row (1)", at_least=0)
    level: float = param(0.95, "coverage of the interval", above=0, below=1)
    interval: str = param("t", "how the interval is made", choices=("t", "bootstrap"))


def fit_q(equations: System, ridge: float) -> Floats:
    """Equation (1): theta (p,). Raises `ConvergenceError` when the system has no solution."""
    return solve(equations.matrix, equations.reward, ridge * equations.mass)


def state_values(q: Floats, probs: Floats) -> Floats:
    """(n, actions), (n, actions) -> (n,): V = sum over a of pi q."""
    return np.asarray((q * probs).sum(axis=1), np.float64)


def bellman_errors(d: Design, q: Floats, v: Floats, gamma: float) -> Floats:
    """(N,) r + gamma V(s') - q of the logged action; 0 where the successor is unknown."""
    (reward,) = d.log.need("reward")
    return np.where(d.use, reward + gamma * d.alive * v[d.follow] - of_logged(d, q), 0.0)


def fitted_influence(
    d: Design,
    equations: System,
    probs: Floats,
    q: Floats,
    gamma: float,
    ridge: float,
    omega: Floats | float = 1.0,
) -> Floats:
    """Equation (3): (n,) per-trajectory numbers whose mean is the value and whose spread is its error.

    `omega` (N,) are the row weights that `equations` were made with.
    """
    v = state_values(q, probs)
    g = solve(equations.matrix.T, start_vector(d, probs), ridge * equations.mass)
    pull = omega * of_logged(d, table_of(d, g)) * bellman_errors(d, q, v, gamma)
    moved = ragged.sums(pull, d.log.offsets)
    return np.asarray(v[d.log.first] + d.log.n * (moved - moved.mean()), np.float64)


def unseen_share(d: Design, probs: Floats) -> float:
    """Share of the policy's mass, over all logged states, on actions never logged there (tabular features only)."""
    if not is_sparse(d.psi):
        return 0.0
    n = d.log.rows
    one_hot = (d.log.action[:, None] == np.arange(d.actions)).astype(np.float64)
    seen = np.asarray(d.psi[:n].T @ one_hot) > 0
    return float((probs[:n] * (d.psi[:n] @ (~seen).astype(np.float64))).sum() / n)


def blind_notes(log: Episodes, truncation: str, *, time: bool) -> list[str]:
    """A warning where a cut counts as the end and features cannot see it coming."""
    if truncation == "end" and log.truncated.any() and not time:
        return ["a cut counts as the end, and the features do not know the step: time=True removes this bias"]
    return []


class FQE:
    """Equations (1) to (3). `features` may also be a function f(state, t) -> (n, m)."""

    name = "FQE"

    def __init__(self, config: FQEConfig | None = None, *, features: Features | None = None) -> None:
        self.config = config or FQEConfig()
        self.features = features or self.config.features

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0) -> Estimate:
        """The policy's value; `policy.probs(states) -> (n, actions)` or a function of the same kind."""
        c = self.config
        kind: Any = c.truncation
        d = design(log, self.features, truncation=kind, time=c.time)
        probs = d.probs(policy)
        equations = system(d, probs, c.gamma, np.ones(log.rows))
        q = table_of(d, fit_q(equations, c.ridge))
        method: Any = c.interval
        units = fitted_influence(d, equations, probs, q, c.gamma, c.ridge)
        value, ends = mean_ratio_interval(units, level=c.level, method=method, rng=rng)
        notes = ["the interval includes the error of the fitted values, not that of the features"]
        notes += blind_notes(log, c.truncation, time=c.time or callable(self.features))
        if (share := unseen_share(d, probs)) > 0:
            notes.append(f"{share:.2%} of the policy's actions were never logged in their state; valued at 0")
        return Estimate(
            value=value,
            lo=ends.lo,
            hi=ends.hi,
            se=ends.se,
            unit=f"{log.reward_unit} per trajectory, discounted by {c.gamma:g} a step",
            n=log.n,
            level=c.level,
            interval=ends.method,
            policy=str(getattr(policy, "name", "")),
            estimator=self.name,
            valid=share < 0.01,
            reason="" if share < 0.01 else "the policy leaves the logged states and actions",
            notes=tuple(notes),
        )
