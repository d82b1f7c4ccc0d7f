"""Marginal weights: value a policy by reweighting states and actions, not whole trajectories.

Use when    trajectories are long: the weights do not multiply over steps, so their spread does not grow with length.
Not when    states are features too coarse to tell how the future goes on, or the policy visits states never logged.
Data        Episodes(state, action, reward; propensity only for weights of states)
Paper       Uehara, Huang and Jiang (2020), arXiv 1910.12809 (MWL); Yang and others (2020), arXiv 2007.03438 (the DICE
            family as one regularised Lagrangian); Liu and others (2018), arXiv 1810.12429 (weights of states)
Equation    w(s, a) = d_pi(s, a) / d_log(s, a);   value = sum_i omega_i w_i r_i  (1)
            gamma_log: omega_i = gamma^t_i / n;   stationary: omega_i = (sum_t gamma^t) / N  (2)
            linear: w = phi beta,  M^T beta = f0,  M = sum_i omega_i phi_i (phi_i - gamma alive_i phi_pi(s'_i))^T  (3)
            states: w_s = psi beta,  M_s^T beta = mean psi(s_0),
                    M_s = sum_i omega_i rho_i psi_i (psi_i - gamma alive_i psi(s'_i))^T  (4)
            kernel: argmin_w || sum_i omega_i w_i v_i - k((s_0, pi), .) ||^2_H,
                    v_i = k(z_i, .) - gamma alive_i k((s'_i, pi), .)  (5)
            dice:   max_{w >= 0} min_{Q, lam} (1-gamma) E[Q(s_0, pi)] + lam
                    + E[w (alpha_r r + gamma Q(s', pi) - Q - lam)]
                    + alpha_q E[Q^2] - alpha_w E[(w - 1)^2],  Q and w linear in phi  (6)
Shapes      w (N,) a row | phi (N, actions * m) | rho (N,) one-step probability ratios
Units       value: discounted reward units a trajectory | w: none
Raises      LogError: no reward, continuous actions | ConfigError: stationary with gamma = 1, gendice or bestdice with
            terminations | SupportError: every weight is 0 | ConvergenceError: no solution
Differs     papers train w and Q against each other by stochastic gradients; here both are linear in features and the
            inner minimum is taken exactly, which leaves a linear system (3), (4) or a convex problem (5), (6).
            Expectations over a' ~ pi are exact sums. (5): the whole square, with gamma^2, over a random part of the
            rows. States and actions that the log never shows have weight 0.
Builds on   estimate/fitted-q: the linear weights and the linear Q function solve one system, and share their interval
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from counterlog.core import ragged
from counterlog.core.bellman import (
    Design,
    Features,
    System,
    Truncation,
    design,
    is_sparse,
    of_logged,
    solve,
    solve_weights,
    start_vector,
    state_start,
    state_system,
    system,
    table_of,
)
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, ConvergenceError, SupportError, message
from counterlog.core.intervals import adequate, mean_ratio_interval
from counterlog.core.results import Estimate
from counterlog.estimate.fitted_q import fit_q, fitted_influence

Floats = NDArray[np.float64]
Convention = Literal["gamma_log", "stationary"]
# method: (alpha_q, alpha_w, alpha_r, whether lam is there), the members of (6)
DICE = {
    "dualdice": (1.0, 0.0, 0.0, False),
    "gendice": (1.0, 0.0, 0.0, True),
    "algaedice": (0.0, 1.0, 1.0, False),
    "bestdice": (0.0, 1.0, 1.0, True),
    "mql": (0.0, 0.0, 1.0, False),
    "mwl": (0.0, 0.0, 0.0, False),
}
LEARNERS = ("linear", "kernel", *DICE)
SMALL, STEEP = 1e-7, 1e4


@dataclass(frozen=True, kw_only=True)
class MarginalWeightsConfig(Config):
    """Settings of `MarginalWeights`."""

    gamma: float = param(0.99, "discount a step", at_least=0, at_most=1)
    learner: str = param("linear", "how the weights are found", choices=LEARNERS)
    convention: str = param(
        "gamma_log",
        "whether the log's occupancy is discounted too, or every row counts alike (2)",
        choices=("gamma_log", "stationary"),
    )
    features: str = param(
        "auto",
        "what the weights are linear in, with each action its own block",
        choices=("auto", "tabular", "linear", "quadratic"),
    )
    time: bool = param(False, "features know the step as well as the state (exact for a finite horizon)")
    truncation: str = param(
        "bootstrap", "a cut trajectory goes on unseen, or counts as over", choices=("bootstrap", "end")
    )
    ridge: float = param(1e-6, "ridge a row (3, 4)", at_least=0)
    kernel_rows: int = param(1000, "rows drawn for (5)", at_least=2)
    landmarks: int = param(200, "kernel functions that w is a sum of (5)", at_least=1)
    level: float = param(0.95, "coverage of the interval", above=0, below=1)
    interval: str = param("t", "how the interval is made", choices=("t", "bootstrap"))


def row_weights(log: Episodes, gamma: float, convention: Convention, truncation: Truncation) -> Floats:
    """Equation (2): omega (N,). Raises `ConfigError` for stationary weights of an endless sum with gamma = 1."""
    if convention == "gamma_log":
        return np.asarray(gamma**log.steps / log.n, np.float64)
    total = discounted_time(log, gamma, truncation)
    if not math.isfinite(total):
        msg = message(
            "stationary weights with gamma = 1 have an endless sum",
            hint="use convention='gamma_log', truncation='end', or gamma below 1",
        )
        raise ConfigError(msg)
    rows = design_rows(log, truncation)
    return np.where(rows, total / rows.sum(), 0.0)


def discounted_time(log: Episodes, gamma: float, truncation: Truncation) -> float:
    """sum_t gamma^t, over the longest trajectory when a cut counts as the end, without end otherwise."""
    if truncation == "end":
        return float((gamma ** np.arange(log.lengths.max())).sum())
    return 1 / (1 - gamma) if gamma < 1 else math.inf


def design_rows(log: Episodes, truncation: Truncation) -> NDArray[np.bool_]:
    """(N,) rows whose transition is known: all of them when a cut counts as the end."""
    return np.ones(log.rows, bool) if truncation == "end" else log.continues | log.terminated


def linear_weights(equations: System, start: Floats, ridge: float) -> Floats:
    """Equation (3): beta (p,). Raises `ConvergenceError` when the system has no solution."""
    return solve_weights(equations, start, ridge)


def state_weights(d: Design, ratio: Floats, gamma: float, omega: Floats, ridge: float) -> Floats:
    """Equation (4): w_s (N [+ n],) in every stacked state."""
    beta = linear_weights(state_system(d, ratio, gamma, omega), state_start(d), ridge)
    return np.asarray(d.psi @ beta, np.float64)


def state_kernel(x: Floats, y: Floats, bandwidth: float) -> Floats:
    """(n, d), (m, d) -> (n, m): Gaussian; for codes (bandwidth 0) 1 where equal."""
    if bandwidth == 0:
        return np.asarray(x == y.T, np.float64)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * x @ y.T
    return np.asarray(np.exp(-np.maximum(squares, 0) / (2 * bandwidth**2)), np.float64)


def kernel_weights(
    d: Design,
    probs: Floats,
    gamma: float,
    omega: Floats,
    *,
    rows: int,
    landmarks: int,
    ridge: float,
    rng: int,
) -> Floats:
    """Equation (5): w (N,), a sum of kernels at `landmarks` rows; k((s, a), (s', a')) = k(s, s') 1{a = a'}.

    With v_i = k(z_i, .) - gamma alive_i sum_a pi(a|s'_i) k((s'_i, a), .), <v_i, v_j> keeps all four products.
    """
    gen = np.random.default_rng(rng)
    x = d.states.astype(np.float64)
    if codes := x.ndim == 1:
        x = x[:, None]
    else:
        x = (x - x[: d.log.rows].mean(axis=0)) / np.maximum(x[: d.log.rows].std(axis=0), 1e-12)
    usable = np.flatnonzero(d.use)
    i = gen.choice(usable, min(rows, len(usable)), replace=False)
    marks = gen.permutation(usable)
    if codes:  # equal codes are equal kernel functions
        marks = marks[np.unique(d.log.action[marks] + d.actions * d.log.state[marks], return_index=True)[1]]
    marks = marks[:landmarks]
    first = gen.choice(d.log.first, min(rows, d.log.n), replace=False)
    far = np.sqrt(((x[i][:300, None] - x[i][None, :300]) ** 2).sum(axis=2))
    bandwidth = 0.0 if codes else float(np.median(far[far > 0])) if (far > 0).any() else 1.0
    action, after, go = d.log.action, d.follow[i], gamma * d.alive[i]

    def k(one: Any, two: Any) -> Floats:
        return state_kernel(x[one], x[two], bandwidth)

    same = (action[i][:, None] == action[i][None, :]).astype(np.float64)
    cross = k(i, after) * probs[after][:, action[i]].T * go[None, :]  # <k(z_i), go_j k(y_j)>
    gram = (
        k(i, i) * same
        - cross
        - cross.T
        + k(after, after) * (probs[after] @ probs[after].T) * np.outer(go, go)
    )
    here = k(i, first) * probs[first][:, action[i]].T
    ahead = go[:, None] * k(after, first) * (probs[after] @ probs[first].T)
    pull = (here - ahead).mean(axis=1)  # <v_i, mean k((s_0, pi), .)>
    share = omega[i] * omega[usable].sum() / omega[i].sum()
    basis = np.column_stack([np.ones(len(i)), k(i, marks) * (action[i][:, None] == action[marks][None, :])])
    scaled = basis * share[:, None]
    quadratic = scaled.T @ gram @ scaled
    damping = max(ridge, 1e-8) * float(np.trace(quadratic)) / len(quadratic)
    alpha = solve(quadratic, scaled.T @ pull, damping)
    w = np.empty(d.log.rows)
    for block in np.array_split(np.arange(d.log.rows), max(1, d.log.rows // 20_000)):
        near = k(block, marks) * (action[block][:, None] == action[marks][None, :])
        w[block] = alpha[0] + near @ alpha[1:]
    return w


def dice_weights(
    d: Design, probs: Floats, gamma: float, omega: Floats, name: str, *, total: float, ridge: float
) -> Floats:
    """Equation (6): w (N,), at least 0. One convex problem for all members.

    With u(beta) = (f0 - M^T beta) / mass the inner minimum is -u^T C^-1 u / (4 alpha_q), C = E[phi phi^T], and lam
    makes sum_i omega_i w_i = `total`, the policy's discounted time; alpha_q = 0 (an equality u = 0) and that equality
    are held by steep squares. Raises `ConfigError` for lam when trajectories terminate: the time is then unknown.
    """
    alpha_q, alpha_w, alpha_r, normalised = DICE[name]
    if normalised and (not math.isfinite(total) or d.log.terminated.any()):
        msg = message(
            f"{name} makes the weights sum to the policy's discounted time, unknown when trajectories terminate",
            hint="use dualdice, algaedice or linear",
        )
        raise ConfigError(msg)
    equations = system(d, probs, gamma, omega)
    mass, start = equations.mass, start_vector(d, probs)
    squared = system(d, probs, 0.0, omega).matrix / mass  # gamma = 0 leaves E[phi phi^T]
    size = len(start)
    damp = max(ridge, 1e-10) * np.eye(size)
    mean_phi = system_means(d, omega) / mass
    root = np.linalg.cholesky(np.linalg.inv(squared + damp))  # root root^T = C^-1
    steep = 1 / np.sqrt(2 * max(alpha_q, SMALL))
    left = [
        steep * root.T @ (equations.matrix.T / mass),
        np.sqrt(2 * max(alpha_w, ridge)) * np.linalg.cholesky(squared + damp).T,
    ]
    unit = solve(squared, mean_phi, float(damp[0, 0]))  # w = 1 as nearly as phi can say it
    level = total / mass if math.isfinite(total) else 1.0
    right = [steep * root.T @ (start / mass), left[1] @ unit * level]
    if normalised:
        left.append(mean_phi[None, :] * STEEP)
        right.append(np.array([level * STEEP]))
    a, b = np.vstack(left), np.concatenate(right)
    pull = alpha_r * equations.reward / mass
    try:
        upper = np.linalg.cholesky(a.T @ a + 1e-12 * np.trace(a.T @ a) / size * np.eye(size)).T
        target = np.linalg.solve(upper.T, a.T @ b + pull)
        beta = nnls(upper, target)[0] if is_sparse(d.psi) else np.linalg.solve(upper, target)
    except (np.linalg.LinAlgError, RuntimeError) as cause:
        msg = message(f"{name} found no weights ({cause})", hint="raise ridge, or use learner='linear'")
        raise ConvergenceError(msg) from cause
    return np.maximum(of_logged(d, table_of(d, beta)), 0.0)


def system_means(d: Design, omega: Floats) -> Floats:
    """(p,) sum_i omega_i phi_i over the usable rows."""
    out = []
    for a in range(d.actions):
        i = np.flatnonzero(d.use & (d.log.action == a))
        out.append(np.asarray(d.psi[i].T @ omega[i], np.float64).ravel())
    return np.concatenate(out)


class MarginalWeights:
    """Equations (1) to (6). `features` may also be a function f(state, t) -> (n, m)."""

    name = "MIS"

    def __init__(
        self, config: MarginalWeightsConfig | None = None, *, features: Features | None = None
    ) -> None:
        self.config = config or MarginalWeightsConfig()
        self.features = features or self.config.features

    def weights(self, log: Episodes, policy: Any, *, rng: int = 0) -> Floats:
        """(N,) w(s_t, a_t) on every row, fitted on the whole log."""
        c = self.config
        kind: Any = c.truncation
        d = design(log, self.features, truncation=kind, time=c.time)
        return self.fit(d, d.probs(policy), rng=rng)

    def fit(self, d: Design, probs: Floats, *, rng: int = 0) -> Floats:
        """(N,) weights from a laid-out log and the policy's stacked probabilities."""
        c = self.config
        convention: Any = c.convention
        kind: Any = c.truncation
        omega = row_weights(d.log, c.gamma, convention, kind)
        if c.learner == "kernel":
            return kernel_weights(
                d, probs, c.gamma, omega, rows=c.kernel_rows, landmarks=c.landmarks, ridge=c.ridge, rng=rng
            )
        if c.learner in DICE:
            return dice_weights(
                d,
                probs,
                c.gamma,
                omega,
                c.learner,
                total=discounted_time(d.log, c.gamma, kind),
                ridge=c.ridge,
            )
        beta = linear_weights(system(d, probs, c.gamma, omega), start_vector(d, probs), c.ridge)
        return of_logged(d, table_of(d, beta))

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0) -> Estimate:
        """Equation (1). Raises `SupportError` when every weight is 0."""
        c = self.config
        convention: Any = c.convention
        kind: Any = c.truncation
        w = self.weights(log, policy, rng=rng)
        (reward,) = log.need("reward")
        rows = design_rows(log, kind)
        if not (w[rows] != 0).any():
            msg = message("every weight is 0", hint="the policy never does what was logged")
            raise SupportError(msg)
        omega = row_weights(log, c.gamma, convention, kind)
        units = log.n * ragged.sums(np.where(rows, omega * w * reward, 0.0), log.offsets)
        note = "the interval takes the weights as given; the error of learning them is not in it"
        if c.learner == "linear":
            units, note = (
                self._influence(log, policy, omega),
                "the interval includes the error of the weights",
            )
        method: Any = c.interval
        value, ends = mean_ratio_interval(units, level=c.level, method=method, rng=rng)
        held = ragged.sums(np.where(rows, omega * w, 0.0), log.offsets)
        ess = float(held.sum() ** 2 / (held**2).sum())
        valid, reason = adequate(ess, log.n, ends.se)
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
            estimator=f"{self.name}({c.learner})",
            ess=ess,
            valid=valid,
            reason=reason,
            notes=(note,),
        )

    def _influence(self, log: Episodes, policy: Any, omega: Floats) -> Floats:
        """(n,) the linear weights' value is also that of the linear Q function of the same system, so its influence is
        that of fitted Q evaluation with rows weighted by omega."""
        c = self.config
        kind: Any = c.truncation
        d = design(log, self.features, truncation=kind, time=c.time)
        probs = d.probs(policy)
        equations = system(d, probs, c.gamma, omega)
        q = table_of(d, fit_q(equations, c.ridge))
        return fitted_influence(d, equations, probs, q, c.gamma, c.ridge, omega)
