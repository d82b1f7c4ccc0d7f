"""Trajectory estimators: value a policy of many steps from another policy's trajectories.

Use when    decisions follow each other and the log holds whole trajectories with their probabilities.
Not when    every decision stands alone (the one-step estimators are sharper), or propensities are unknown (use FQE).
Data        Episodes(state, action, reward, propensity)
Paper       Kiyohara and others (2023), arXiv 2311.18207 (the family); Precup, Sutton and Singh (2000), per-decision;
            Jiang and Li (2016), arXiv 1511.03722, doubly robust; Kallus and Uehara (2020), arXiv 1908.08526, DRL;
            Yuan and others (2021), arXiv 2111.03936, lag k
Equation    rho_t = pi(a_t|s_t) / p_t,  c_t = prod_{u<=t} rho_u;  every estimator is one of two forms
            plain            E[base] + sum_t gamma^t E[W_t x_t]  (1)
            self-normalised  E[base] + sum_t gamma^t E[W_t x_t] / E[W_t], E over all n trajectories  (2)
                             gamma_log marginal weights: E[base] + H E[sum_t gamma^t W_t x_t] / E[sum_t gamma^t W_t],
                             H = sum_t gamma^t, because only their discounted sum over steps has a known mean  (2')
            base 0, x_t = r_t;  doubly robust: base V(s_0), x_t = r_t + gamma V(s_t+1) - q(s_t, a_t)  (3)
            TIS W_t = c_{T-1};  PDIS, DR W_t = c_t;  SAM_k W_t = w(s_t-k, a_t-k) rho_t-k+1 .. rho_t;
            SM_k W_t = w(s_t-k) rho_t-k .. rho_t;  both c_t for t < k  (4)
            DRL sum_t gamma^t [w_t (r_t - q_t) + w_t-1 V_t], w_-1 = 1;  equal to SAM-DR_0 on the same arrays  (5)
            stationary       E[base] + E[sum_{t<k} gamma^t c_t x_t] + gamma^k sum_t gamma^t mean over rows of W x  (6)
Shapes      r, rho, W, x (N,) over all steps | base, influence (n,) over trajectories
Units       value: discounted reward units a trajectory | rho, c, w: none
Raises      PropensityError, LogError: the log | SupportError: no trajectory is possible under the policy, weights leave
            the range of numbers, pooled self-normalisation of trajectories that end by themselves | ConfigError:
            stationary with gamma = 1
Differs     marginal weights w come in three conventions, never mixed: gamma_log, d_pi / d_log with both discounted;
            stationary, discounted over plain rows; by_step, d_pi,t / d_log,t, which (2) needs. A finished trajectory
            keeps its last weight in (2), so lengths may differ. A cut trajectory goes on in V of its final state
            (`bootstrap`) or counts as over (`end`). Fitted w for lag k leave out the last k rows of a trajectory that
            goes on unseen. q and w of doubly robust forms come from other folds of trajectories. Products are kept as
            logarithms. Intervals include the error of fitted values and weights where it does not cancel.
Builds on   estimate/fitted-q, estimate/marginal-weights, estimate/neural-marginal-weights
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterlog.core.bellman import Features, system, table_of
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, CounterlogError
from counterlog.core.intervals import Interval, adequate, mean_ratio_interval
from counterlog.core.ragged import Weights
from counterlog.core.results import Estimate
from counterlog.core.trajectory_models import Candidate, SharedLog
from counterlog.core.trajectory_terms import (
    FORMS,
    NEURAL,
    Form,
    check_weights,
    effect_of_marginals,
    lagged_weights,
    linearised,
    normalised_replicates,
    normalised_terms,
    parse,
    plain_terms,
    pooled_terms,
    pull_of_errors,
    whole_weights,
)
from counterlog.estimate.fitted_q import blind_notes, fit_q, fitted_influence, unseen_share
from counterlog.estimate.marginal_weights import discounted_time, row_weights

Floats = NDArray[np.float64]
ESTIMATORS = tuple(FORMS)


@dataclass(frozen=True, kw_only=True)
class TrajectoriesConfig(Config):
    """Settings of every trajectory estimator; each uses those it needs."""

    gamma: float = param(0.99, "discount a step; the first step has weight 1", at_least=0, at_most=1)
    lag: int = param(0, "k of (4): steps whose ratios are multiplied after the marginal weight", at_least=0)
    convention: str = param(
        "gamma_log",
        "marginal weights are ratios to the log's discounted occupancy, to its plain rows (6), or step by step",
        choices=("gamma_log", "stationary", "by_step"),
    )
    truncation: str = param(
        "bootstrap",
        "a cut trajectory goes on in its value, or counts as over",
        choices=("bootstrap", "end"),
    )
    features: str = param(
        "auto",
        "what q and w are linear in, with each action its own block",
        choices=("auto", "tabular", "linear", "quadratic"),
    )
    time: bool = param(False, "features know the step as well as the state (exact for a finite horizon)")
    folds: int = param(
        3, "parts of the trajectories for cross-fitted q and w; 1 fits on all of them", at_least=1
    )
    ridge: float = param(1e-6, "ridge a row of the fits", at_least=0)
    bandwidth: float | None = param(
        None, "kernel width for a deterministic policy of continuous actions", above=0
    )
    level: float = param(0.95, "coverage of the interval", above=0, below=1)
    interval: str = param("t", "how the interval is made", choices=("t", "bootstrap"))
    replicates: int = param(1000, "bootstrap replicates", at_least=2)


# one estimator on one candidate


def estimate_one(
    candidate: Candidate, name: str, config: TrajectoriesConfig, *, policy: str, rng: int
) -> Estimate:
    """The value of a candidate by the estimator `name` (with `_k` for a lag of its own)."""
    kind, lag = parse(name)
    form, log = FORMS[kind], candidate.log
    c = replace(config, lag=0 if kind == "DRL" else config.lag if lag is None else lag)
    notes: list[str] = []
    method: Any = c.interval
    if form.weight == "none":
        return _direct(candidate, c, name, policy, rng)
    (reward,) = log.need("reward")
    x = candidate.bellman_errors if form.model else np.asarray(reward)
    base = candidate.start_values if form.model else np.zeros(log.n)
    learnt = form.weight in ("pair", "state")
    if learnt and not form.model:
        x = np.where(candidate.shared.design.use, x, 0.0)
    if not form.model and log.truncated.any() and c.truncation == "bootstrap" and not learnt:
        notes.append(
            f"{log.truncated.sum() / log.n:.0%} of trajectories were cut; rewards after the cut are not counted"
        )
    w = _weights(candidate, form, c)
    gain = np.asarray(c.gamma**log.steps, np.float64)
    pooled = learnt and (c.convention == "stationary" or (c.convention == "gamma_log" and form.normalised))
    check_weights(w, normalised=form.normalised, model=form.model, pooled=pooled)
    if pooled:
        pieces, coefficient, ess = pooled_terms(
            candidate,
            w,
            x,
            base,
            lag=c.lag,
            total=discounted_time(log, c.gamma, candidate.shared.truncation),
            rows_alike=c.convention == "stationary",
            normalised=form.normalised,
        )
        fitted = not form.model and not _given(candidate, form)
        if fitted and c.interval == "t":
            influence = linearised(*pieces, counts=not form.normalised)
            effect = effect_of_marginals(w, coefficient, c.lag)
            influence = influence + candidate.learning(effect, state=form.weight == "state", lag=c.lag)
            value, ends = mean_ratio_interval(influence, level=c.level, method="t", rng=rng)
        else:
            value, ends = mean_ratio_interval(*pieces, level=c.level, method=method, rng=rng)
            if fitted:
                notes.append("the interval takes the fitted weights as given")
    else:
        terms = normalised_terms if form.normalised else plain_terms
        influence, coefficient = terms(base, x, w, gain)
        extra = np.zeros(log.n)  # the error of what was fitted, mean 0
        if learnt and not form.model and not _given(candidate, form):
            effect = effect_of_marginals(w, coefficient, c.lag)
            extra = candidate.learning(effect, state=form.weight == "state", lag=c.lag)
        cut = form.model and candidate.given_q is None and c.truncation == "bootstrap" and log.truncated.any()
        if cut:  # the value of final states is fitted, and no correction follows it
            pull = pull_of_errors(w, gain, normalised=form.normalised)
            extra = candidate.value_learning(pull)
        influence = influence + extra
        value, ends = mean_ratio_interval(influence, level=c.level, method="t", rng=rng)
        if c.interval == "bootstrap" and form.normalised:
            drawn = normalised_replicates(base + extra, x, w, gain, c.replicates, rng)
            lo, hi = np.quantile(drawn, [(1 - c.level) / 2, (1 + c.level) / 2])
            spread = float(drawn.std(ddof=1))
            ends = replace(ends, lo=float(lo), hi=float(hi), se=spread, method="bootstrap percentile")
        elif c.interval == "bootstrap":
            value, ends = mean_ratio_interval(influence, level=c.level, method="bootstrap", rng=rng)
        ess = w.effective(c.gamma)
    valid, reason = adequate(ess, log.n, ends.se)
    if form.model and candidate.given_q is None and candidate.shared.folds == 1:
        notes.append("in_sample_q: the value model was fitted on the rows it corrects")
    return _estimate(
        log,
        c,
        name,
        policy,
        value,
        ends,
        ess=ess,
        valid=valid,
        reason=reason.replace("rows", "trajectories"),
        notes=tuple(note for note in notes if note),
    )


def _estimate(
    log: Episodes,
    c: TrajectoriesConfig,
    name: str,
    policy: str,
    value: float,
    ends: Interval,
    **fields: Any,
) -> Estimate:
    return Estimate(
        value=value,
        lo=ends.lo,
        hi=ends.hi,
        se=ends.se,
        unit=f"{log.reward_unit} per trajectory, discounted by {c.gamma:g} a step",
        n=log.n,
        level=c.level,
        interval=ends.method,
        policy=policy,
        estimator=name,
        **fields,
    )


def _given(candidate: Candidate, form: Form) -> bool:
    return (candidate.given_weights if form.weight == "pair" else candidate.given_state_weights) is not None


def _direct(candidate: Candidate, c: TrajectoriesConfig, name: str, policy: str, rng: int) -> Estimate:
    """DM: the mean of V(s_0), from a given q or from fitted Q evaluation on the whole log."""
    d, log, probs = candidate.shared.design, candidate.log, candidate.probs
    method: Any = c.interval
    share, units = 0.0, candidate.start_values if candidate.given_q is not None else np.empty(0)
    notes = ["the interval leaves out the error of the given q"]
    if candidate.given_q is None:
        equations = system(d, probs, c.gamma, np.ones(log.rows))
        q = table_of(d, fit_q(equations, c.ridge))
        units = fitted_influence(d, equations, probs, q, c.gamma, c.ridge)
        notes = ["the interval includes the error of the fitted values, not that of the features"]
        notes += blind_notes(log, c.truncation, time=c.time or callable(candidate.shared.features))
        if (share := unseen_share(d, probs)) > 0:
            notes.append(f"{share:.2%} of the policy's actions were never logged in their state; valued at 0")
    value, ends = mean_ratio_interval(units, level=c.level, method=method, rng=rng)
    return _estimate(
        log,
        c,
        name,
        policy,
        value,
        ends,
        valid=share < 0.01,
        reason="" if share < 0.01 else "the policy leaves the logged states and actions",
        notes=tuple(notes),
    )


def _weights(candidate: Candidate, form: Form, c: TrajectoriesConfig) -> Weights:
    offsets, log_ratio = candidate.log.offsets, candidate.log_ratio
    if form.weight == "whole":
        return whole_weights(candidate.cumulative, offsets)
    if form.weight == "step":
        return Weights(np.ones(len(log_ratio)), candidate.cumulative, offsets)
    if form.weight == "pair":
        marginal = candidate.weights(c.lag, crossfit=form.model)
        return lagged_weights(log_ratio, marginal, offsets, c.lag, c.lag)
    marginal = candidate.state_weights(c.lag, crossfit=form.model)
    return lagged_weights(log_ratio, marginal, offsets, c.lag, c.lag + 1)


def shared_log(
    log: Episodes, config: TrajectoriesConfig, *, features: Features | None = None, rng: int = 0
) -> SharedLog:
    """What every policy and estimator shares on one log."""
    c = config
    truncation: Any = c.truncation
    convention: Any = "stationary" if c.convention == "stationary" else "gamma_log"
    return SharedLog(
        log,
        gamma=c.gamma,
        truncation=truncation,
        features=features or c.features,
        time=c.time or c.convention == "by_step",
        folds=c.folds,
        ridge=c.ridge,
        omega=row_weights(log, c.gamma, convention, truncation),
        rng=rng,
    )


def evaluate_trajectories(
    log: Episodes,
    policies: Mapping[str, Any],
    estimators: Sequence[str] = ("DM", "PDIS", "SNPDIS", "DR", "SAM-IS", "SAM-DR"),
    *,
    gamma: float | None = None,
    level: float | None = None,
    config: TrajectoriesConfig | None = None,
    features: Features | None = None,
    rng: int = 0,
) -> tuple[Estimate, ...]:
    """Every policy by every estimator (`NAME` or `NAME_k`), policies outermost; shared pieces are computed once.

    Where one estimator refuses one policy, its value is NaN, `valid` is False and `reason` says why; what is wrong with
    the log or the configuration is raised.
    """
    c = config or TrajectoriesConfig()
    c = replace(c, gamma=c.gamma if gamma is None else gamma, level=c.level if level is None else level)
    for name in set(estimators) - set(NEURAL):
        parse(name)
    shared = shared_log(log, c, features=features, rng=rng)
    networks: Mapping[Any, Estimate] = {}
    if asked := [name for name in estimators if name in NEURAL]:
        from counterlog.estimate.neural_marginal_weights import estimates_by_networks

        networks = estimates_by_networks(log, policies, asked, c, rng=rng)
    found = []
    for label, policy in policies.items():
        candidate = Candidate(shared, policy, bandwidth=c.bandwidth)
        for name in estimators:
            try:
                known = networks.get((label, name))
                found.append(known or estimate_one(candidate, name, c, policy=label, rng=rng))
            except (ConfigError, ValueError):
                raise
            except CounterlogError as refusal:
                nothing = Interval(math.nan, math.nan, math.nan, "none", c.level)
                reason = str(refusal).split("\n")[0]
                found.append(_estimate(log, c, name, label, math.nan, nothing, valid=False, reason=reason))
    return tuple(found)


class TrajectoryEstimator:
    """Base of the classes below: `q`, `weights` and `state_weights` may be given, else they are fitted."""

    name: ClassVar[str] = ""

    def __init__(
        self,
        config: TrajectoriesConfig | None = None,
        *,
        q: Any = None,
        weights: Any = None,
        state_weights: Any = None,
        features: Features | None = None,
    ) -> None:
        self.config = config or TrajectoriesConfig()
        self.given = {"q": q, "weights": weights, "state_weights": state_weights}
        self.features = features

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0) -> Estimate:
        """The policy's value with its interval; `policy.probs(states) -> (n, actions)` or such a function."""
        c = self.config
        candidate = Candidate(
            shared_log(log, c, features=self.features, rng=rng), policy, bandwidth=c.bandwidth, **self.given
        )
        lagged = FORMS[self.name].weight in ("pair", "state") and self.name != "DRL"
        label = f"{self.name}_{c.lag}" if lagged else self.name
        return estimate_one(candidate, label, c, policy=str(getattr(policy, "name", "")), rng=rng)


class DM(TrajectoryEstimator):
    """Mean of V(s_0)."""

    name = "DM"


class TIS(TrajectoryEstimator):
    """(1) with the weight of the whole trajectory."""

    name = "TIS"


class SNTIS(TrajectoryEstimator):
    """(2) with the weight of the whole trajectory."""

    name = "SNTIS"


class PDIS(TrajectoryEstimator):
    """(1) with the product of the ratios so far."""

    name = "PDIS"


class SNPDIS(TrajectoryEstimator):
    """(2) with the product of the ratios so far."""

    name = "SNPDIS"


class DR(TrajectoryEstimator):
    """(1) and (3) with the product of the ratios so far."""

    name = "DR"


class SNDR(TrajectoryEstimator):
    """(2) and (3) with the product of the ratios so far."""

    name = "SNDR"


class SAMIS(TrajectoryEstimator):
    """(1) with marginal weights of state and action, `lag` steps ago (4)."""

    name = "SAM-IS"


class SAMSNIS(TrajectoryEstimator):
    """(2) with marginal weights of state and action (4)."""

    name = "SAM-SNIS"


class SAMDR(TrajectoryEstimator):
    """(1) and (3) with marginal weights of state and action (4)."""

    name = "SAM-DR"


class SAMSNDR(TrajectoryEstimator):
    """(2) and (3) with marginal weights of state and action (4)."""

    name = "SAM-SNDR"


class SMIS(TrajectoryEstimator):
    """(1) with marginal weights of the state, times the ratios since (4)."""

    name = "SM-IS"


class SMSNIS(TrajectoryEstimator):
    """(2) with marginal weights of the state (4)."""

    name = "SM-SNIS"


class SMDR(TrajectoryEstimator):
    """(1) and (3) with marginal weights of the state (4)."""

    name = "SM-DR"


class SMSNDR(TrajectoryEstimator):
    """(2) and (3) with marginal weights of the state (4)."""

    name = "SM-SNDR"


class DRL(TrajectoryEstimator):
    """(5): efficient when both q and w are right; cross-fitted."""

    name = "DRL"
