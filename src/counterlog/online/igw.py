"""Exploring in inverse proportion to the predicted gap: the distributions and their exploration parameter gamma.

Equation    b = argmax over eligible a of f_a (ties: lowest code);  K eligible actions;  mu = K unless given
            IGW         p_a = 1 / (mu + gamma (f_b - f_a)) for a != b;  p_b = 1 - sum of the others           (1)
            floor       p <- (1 - K floor) p + floor on the eligible actions                                 (2)
            FastCB      p_a = l_b / (K l_b + gamma (l_a - l_b)) for a != b, l = 1 - f; the rest to b          (3)
            SquareCB    theory: gamma = sqrt(K T / (reg + log(2/delta)))                                     (4)
                        practice: gamma = scale * decisions^exponent                                         (5)
            FALCON      gamma = c sqrt(K tau / log(classes tau / delta)), tau decisions before this epoch    (6)
                        general class: gamma = c sqrt(K / E), E the expected squared error beyond the noise  (7)
            budget      gamma such that mean_x sum_a p_a (f_b - f_a) = budget                                (8)

(1) spends at most (K - 1)/gamma of predicted reward a decision, and an action predicted to be `gap` worse gets about
1/(gamma gap) of the traffic. p_b is what is left, never renormalised: with mu >= K it is at least 1/K.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.online.exploration import best_action, checked_scores

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
BLOCK_CELLS = 65_536
SMALLEST_LOSS = 1e-6
BISECTIONS, LEAST_GAMMA, MOST_GAMMA = 60, 1e-6, 1e12


def igw(
    scores: Floats,
    eligible: Mask | None = None,
    *,
    gamma: float | Floats,
    mu: float | None = None,
    floor: float = 0.0,
) -> Floats:
    """Equations (1) and (2). (n, k) predicted rewards -> (n, k) probabilities; gamma a number or one a row (n,).

    Raises `ConfigError` for gamma < 0 or a floor above 1/K, `LogError` when mu < K makes a probability negative.
    """
    f = np.asarray(scores, dtype=np.float64)
    g = _checked_gamma(gamma, len(f))
    if eligible is None and mu is None and floor == 0 and f.ndim == 2:
        return _igw_all(f, g)
    f, mask = checked_scores(f, eligible)
    rows, k = np.arange(len(f)), mask.sum(axis=1)
    if mu is not None and mu < k.max():
        text = f"mu = {mu:g} is below the number of eligible actions ({int(k.max())}): p of the best may be negative"
        warnings.warn(text, stacklevel=2)
    best = best_action(f, mask)
    gap = np.where(mask, f[rows, best][:, None] - f, 0.0)
    p = np.where(mask, 1.0 / ((k if mu is None else np.full(len(f), mu))[:, None] + g[:, None] * gap), 0.0)
    p[rows, best] = 0.0
    p[rows, best] = 1.0 - p.sum(axis=1)
    if (bad := np.flatnonzero(p[rows, best] < 0)).size:
        msg = message(
            f"mu = {mu:g} makes the best action's probability negative in {first_rows(bad)}",
            expected="mu of at least the number of eligible actions",
        )
        raise LogError(msg)
    return _floored(p, mask, floor)


def _igw_all(f: Floats, g: Floats) -> Floats:
    """(1) when every action is eligible, block by block so that a block stays in cache."""
    n, k = f.shape
    out, ones = np.empty_like(f), np.ones(k)
    block = max(1, BLOCK_CELLS // k)
    for start in range(0, n, block):
        part, p = f[start : start + block], out[start : start + block]
        if not np.isfinite(part @ ones).all():
            checked_scores(f, None)
        rows, best = np.arange(len(part)), part.argmax(axis=1)
        np.subtract(part[rows, best][:, None], part, out=p)
        p *= g[start : start + block, None]
        p += k
        np.reciprocal(p, out=p)
        p[rows, best] = 0.0
        p[rows, best] = 1.0 - p @ ones
    return out


def fastcb(
    scores: Floats, eligible: Mask | None = None, *, gamma: float | Floats, floor: float = 0.0
) -> Floats:
    """Equation (3), for rewards in [0, 1]: where the best loss is small, far less is explored than by (1).

    Raises `LogError` for a predicted reward outside [0, 1].
    """
    f, mask = checked_scores(scores, eligible)
    if (bad := np.flatnonzero((mask & ((f < 0) | (f > 1))).any(axis=1))).size:
        msg = message(
            f"predicted rewards outside [0, 1] in {first_rows(bad)}", hint="FastCB needs losses 1 - f >= 0"
        )
        raise LogError(msg)
    g, rows, k = _checked_gamma(gamma, len(f)), np.arange(len(f)), mask.sum(axis=1)
    loss = np.maximum(1.0 - f, SMALLEST_LOSS)
    best = best_action(f, mask)
    least = loss[rows, best][:, None]
    p = np.where(mask, least / (k[:, None] * least + g[:, None] * np.maximum(loss - least, 0.0)), 0.0)
    p[rows, best] = 0.0
    p[rows, best] = 1.0 - p.sum(axis=1)
    return _floored(p, mask, floor)


def _floored(p: Floats, mask: Mask, floor: float) -> Floats:
    """Equation (2)."""
    if floor == 0:
        return p
    k = mask.sum(axis=1)
    if not 0 <= floor * k.max() <= 1:
        msg = message(
            f"floor = {floor:g}", expected=f"between 0 and 1/{int(k.max())} for {int(k.max())} actions"
        )
        raise ConfigError(msg)
    return np.asarray((1.0 - k[:, None] * floor) * p + floor * mask, dtype=np.float64)


def _checked_gamma(gamma: float | Floats, n: int) -> Floats:
    g = np.broadcast_to(np.asarray(gamma, dtype=np.float64), (n,))
    if not (g >= 0).all():
        msg = message(f"gamma = {float(g[~(g >= 0)][0]):g}", expected="a number of at least 0 (0 is uniform)")
        raise ConfigError(msg)
    return g


def gamma_theory(actions: int, decisions: float, regression_regret: float, delta: float = 0.05) -> float:
    """Equation (4)."""
    return math.sqrt(actions * decisions / (regression_regret + math.log(2 / delta)))


def gamma_schedule(decisions: float, *, scale: float = 10.0, exponent: float = 0.5) -> float:
    """Equation (5); `decisions` made so far, at least 1."""
    return float(scale * max(decisions, 1.0) ** exponent)


def gamma_falcon(
    actions: int, decisions: float, *, classes: float, delta: float = 0.05, c: float = 1 / 30
) -> float:
    """Equation (6). Raises `ConfigError` when no decision came before the epoch."""
    if not decisions > 0:
        msg = message(
            f"{decisions:g} decisions before the first epoch",
            expected="at least 1",
            hint="serve a batch first",
        )
        raise ConfigError(msg)
    return c * math.sqrt(actions * decisions / math.log(max(classes * decisions / delta, math.e)))


def gamma_from_error(actions: float, error: float, *, c: float = 0.5) -> float:
    """Equation (7). Raises `ConfigError` for an error that is not positive."""
    if not error > 0:
        msg = message(f"expected squared error {error:g}", expected="> 0", hint="floor it at 1/n")
        raise ConfigError(msg)
    return c * math.sqrt(actions / error)


def exploration_cost(
    scores: Floats, eligible: Mask | None = None, *, gamma: float | Floats, mu: float | None = None
) -> Floats:
    """(n,) predicted reward given up by exploring: sum_a p_a (f_b - f_a)."""
    f, mask = checked_scores(scores, eligible)
    best = f[np.arange(len(f)), best_action(f, mask)]
    gap = np.where(mask, best[:, None] - f, 0.0)
    return np.asarray((igw(f, mask, gamma=gamma, mu=mu) * gap).sum(axis=1), dtype=np.float64)


def gamma_for_budget(
    scores: Floats, eligible: Mask | None = None, *, budget: float | Floats, mu: float | None = None
) -> Floats:
    """Equation (8) by bisection on log gamma: one gamma (1,) for a number, one a row (n,) for budgets (n,).

    A budget above the cost of uniform choice gives the smallest gamma, 1e-6, which is uniform choice.
    Raises `ConfigError` for a budget that is not positive.
    """
    wanted = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    if not (wanted > 0).all():
        msg = message(f"budget = {float(wanted.min()):g}", expected="> 0 reward a decision")
        raise ConfigError(msg)
    each = np.ndim(budget) > 0
    low, high = (np.full(len(wanted), math.log(g)) for g in (LEAST_GAMMA, MOST_GAMMA))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        g = np.exp(middle) if each else np.full(len(scores), math.exp(middle[0]))
        cost = exploration_cost(scores, eligible, gamma=g, mu=mu)
        too_dear = (cost if each else cost.mean(keepdims=True)) > wanted
        low, high = np.where(too_dear, middle, low), np.where(too_dear, high, middle)
    return np.asarray(np.exp((low + high) / 2), dtype=np.float64)
