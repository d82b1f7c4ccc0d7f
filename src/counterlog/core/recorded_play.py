"""A learnt policy at play, with the exact log-probability of every action: a log that others can reason from.

An action that was cut to a bound has the probability of everything beyond it (an atom), dimension by dimension:

    a = clip(u, low, high),  u ~ N(m, s):   log p(a) = log N(a; m, s)  inside,  log P(u <= low),  log P(u >= high)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from counterlog.core.environments import Act
from counterlog.core.errors import ConfigError, message
from counterlog.core.neural_policies import NeuralPolicy

Floats = NDArray[np.float64]


def cut_normal(u: Floats, mean: Floats, std: Floats) -> Floats:
    """(n,) log-probability of clip(u, -1, 1) for u ~ N(mean, std): densities inside, atoms at the ends."""
    inside = norm.logpdf(u, mean, std)
    found = np.where(u <= -1, norm.logcdf(-1, mean, std), np.where(u >= 1, norm.logsf(1, mean, std), inside))
    return np.asarray(found.sum(axis=-1))


def playing(policy: NeuralPolicy, seed: int = 0) -> Act:
    """`act(states, generator) -> (actions, log_propensity)` of one seed, for `record_episodes`.

    Densities are per environment unit. Raises `ConfigError` for a deterministic policy: it has no probabilities.
    """
    if not policy.stochastic:
        msg = message("a deterministic policy has no probabilities to record")
        raise ConfigError(
            message(msg, hint="record it with act = lambda states, gen: (policy.act(states), None)")
        )
    one = policy.take(seed)
    actor, kind = one.actor, one.actor.head.kind

    def act(states: Any, gen: np.random.Generator) -> tuple[Any, Floats]:
        scaled = torch.from_numpy(one.scale.transform(states))[None]
        with torch.no_grad():
            if kind == "categorical":
                p = actor.probs(scaled)[0].numpy().astype(np.float64)
                p /= p.sum(axis=1, keepdims=True)
                code = (gen.random(len(p))[:, None] >= p.cumsum(axis=1)).sum(axis=1).clip(max=p.shape[1] - 1)
                return code, np.log(p[np.arange(len(p)), code])
            mean, log_std = (x[0].numpy().astype(np.float64) for x in actor.moments(scaled))
        u = mean + np.exp(log_std) * gen.normal(size=mean.shape)
        if kind == "tanh_gaussian":
            correction = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))
            action, log_p = np.tanh(u), (norm.logpdf(u, mean, np.exp(log_std)) - correction).sum(axis=-1)
            inner = np.ones_like(u, bool)
        else:
            action, log_p = u.clip(-1, 1), cut_normal(u, mean, np.exp(log_std))
            inner = np.abs(u) < 1
        if one.bounds is None:
            return action, log_p
        width = np.log((np.array(one.bounds.high) - np.array(one.bounds.low)) / 2)
        return one.bounds.outwards(action), log_p - (inner * width).sum(axis=-1)

    return act
