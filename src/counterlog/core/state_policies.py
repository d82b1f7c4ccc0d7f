"""Candidate policies of sequential decisions: what a policy would do in a state, checked.

A policy is any object with `probs(states) -> (n, actions)`, or a plain function of the same kind. For continuous
actions it gives `log_density(states, actions) -> (n,)`, or `act(states) -> (n, k)` when it is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, SupportError, first_rows, message

Floats = NDArray[np.float64]
TOLERANCE = 1e-6


@runtime_checkable
class StatePolicy(Protocol):
    """Anything that gives action probabilities for states."""

    def probs(self, states: Any) -> Floats:
        """(n, actions) probabilities; rows sum to 1."""
        ...


AnyPolicy = StatePolicy | Callable[[Any], Any]


class TablePolicy:
    """Probabilities by state code: `table` (states, actions)."""

    def __init__(self, table: Any) -> None:
        self.table = np.asarray(table, np.float64)

    def probs(self, states: Any) -> Floats:
        """The rows of the states."""
        return np.asarray(self.table[np.asarray(states)], np.float64)


class LinearSoftmax:
    """pi(a|s) = softmax((s W + b) / temperature)_a with `weights` (d, actions) and `bias` (actions,)."""

    def __init__(self, weights: Any, bias: Any = 0.0, temperature: float = 1.0) -> None:
        self.weights, self.bias = np.asarray(weights, np.float64), np.asarray(bias, np.float64)
        self.temperature = temperature

    def probs(self, states: Any) -> Floats:
        """(n, actions)."""
        score = (np.asarray(states) @ self.weights + self.bias) / self.temperature
        p = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True), np.float64)


def action_probs(policy: Any, states: Any, actions: int) -> Floats:
    """(n, actions) checked probabilities. Raises `LogError` for rows that are no distribution."""
    answer = policy.probs(states) if hasattr(policy, "probs") else policy(states)
    matrix = np.asarray(answer, np.float64)
    if matrix.shape != (len(states), actions):
        msg = message(
            f"the policy answered shape {matrix.shape}",
            expected=f"{(len(states), actions)}, one column an action",
        )
        raise LogError(msg)
    bad = np.flatnonzero(~(np.abs(matrix.sum(axis=1) - 1) <= TOLERANCE) | ~(matrix >= 0).all(axis=1))
    if bad.size:
        msg = message(
            f"the policy is not a distribution in {bad.size:,} of {len(matrix):,} states: {first_rows(bad)}",
            expected="probabilities of at least 0 that sum to 1",
        )
        raise LogError(msg)
    return matrix


def check_support(log: Episodes, probs: Floats) -> None:
    """Raise `SupportError` when the policy puts mass on actions that the log never holds."""
    never = np.bincount(log.action, minlength=len(log.actions)) == 0
    share = float(probs[:, never].sum() / len(probs))
    if share > TOLERANCE:
        names = ", ".join(str(log.actions[i]) for i in np.flatnonzero(never)[:5])
        msg = message(
            f"the policy puts {share:.1%} of its mass on actions that were never logged: {names}",
            hint="importance weights cannot reach them; DM extrapolates by its model",
        )
        raise SupportError(msg)


def gaussian_kernel(distance: Floats, bandwidth: float) -> Floats:
    """(N,) log of the product Gaussian kernel over k dimensions, distance (N, k) in units of the scaler."""
    k = distance.shape[1]
    scaled = distance / bandwidth
    return np.asarray(-0.5 * (scaled**2).sum(axis=1) - k * np.log(bandwidth * np.sqrt(2 * np.pi)), np.float64)


def log_ratios(
    log: Episodes, policy: Any, probs: Floats | None = None, bandwidth: float | None = None
) -> Floats:
    """(N,) log pi(a_t|s_t) - log p_t; minus infinity where the policy never takes the logged action.

    Continuous actions: from `policy.log_density`, or, for a deterministic `policy.act`, a Gaussian kernel of width
    `bandwidth` around the policy's action. Raises `LogError` without propensities, `SupportError` (discrete) when the
    policy needs actions that were never logged, `ConfigError` for a deterministic policy without a bandwidth.
    """
    (log_p,) = log.need("log_propensity")
    if log.discrete:
        matrix = action_probs(policy, log.state, len(log.actions)) if probs is None else probs
        check_support(log, matrix)
        with np.errstate(divide="ignore"):
            chosen = np.log(matrix[np.arange(log.rows), log.action])
    elif hasattr(policy, "log_density"):
        chosen = np.asarray(policy.log_density(log.state, log.action), np.float64)
    elif hasattr(policy, "act") and bandwidth is not None:
        chosen = gaussian_kernel(np.asarray(policy.act(log.state), np.float64) - log.action, bandwidth)
    else:
        msg = message(
            "the log has continuous actions",
            expected="a policy with log_density(states, actions), or with act(states) and a bandwidth",
        )
        raise ConfigError(msg)
    return np.asarray(chosen - log_p, np.float64)
