"""Reward models of `ad-load`, one a reward: out-of-fold predictions for every level.

    revenue with zeros    q = P(r > 0 | x, a) E[r | x, a, r > 0]        (hurdle)                         (1)
    everything else       q = E[r | x, a]                                                               (2)
    winsorised            r' = min(r, quantile of the log)              computed once, and stored        (3)

Shapes: x (n, d), rewards (n,), q (n, levels). Units: the reward's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.action_ridge import action_ridge
from counterlog.core.crossfit import action_features, make_model, splits
from counterlog.core.rounds import Rounds
from counterlog.rank.load_rules import monotone as monotone_curve

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]


def winsorised(
    rewards: Mapping[str, Floats], names: Iterable[str], quantile: float
) -> tuple[dict[str, Floats], tuple[dict[str, Any], ...]]:
    """Equation (3) for the named rewards: all rewards with those cut, and a record of limit, rows and share cut."""
    found, records = dict(rewards), []
    for name in names:
        raw = rewards[name]
        limit = float(np.quantile(raw, quantile))
        cut = np.minimum(raw, limit)
        found[name] = cut
        total = float(raw.sum())
        share = float((raw - cut).sum()) / total if total else 0.0
        records.append(
            {
                "reward": name,
                "quantile": quantile,
                "limit": limit,
                "rows": int((raw > limit).sum()),
                "share_cut": share,
            }
        )
    return found, tuple(records)


def predictions(
    log: Rounds,
    x: Floats,
    rewards: Mapping[str, Floats],
    *,
    known: Mapping[str, Mask],
    revenue: Sequence[str],
    fold: Codes,
    model: str,
    hurdle: bool,
    monotone: bool,
    rng: int,
) -> dict[str, Floats]:
    """q (n, levels) by reward; rows whose outcome is not known are predicted but not learnt from."""
    found: dict[str, Floats] = {}
    for name, r in rewards.items():
        weight = known[name].astype(np.float64) if name in known else np.ones(log.n)
        some = r > 0
        if hurdle and name in revenue and not some[weight > 0].all():
            chance = fit_model(log, x, some.astype(np.float64), weight, fold, model, rng)
            amount = fit_model(log, x, r, weight * some, fold, model, rng)
            q = np.clip(chance, 0.0, 1.0) * np.maximum(amount, 0.0)
        else:
            q = fit_model(log, x, r, weight, fold, model, rng)
        found[name] = monotone_curve(q, rising=name in revenue) if monotone else q
    return found


def fit_model(log: Rounds, x: Floats, r: Floats, weight: Floats, fold: Codes, model: str, rng: int) -> Floats:
    """Equation (2) by the named model, out of fold."""
    levels = len(log.actions)
    if model == "ridge":
        return action_ridge(x, log.action, r, levels, fold=fold, weight=weight)[0]
    binary = bool(np.isin(r, (0.0, 1.0)).all())
    interact = model != "boosting"
    q = np.empty((log.n, levels))
    for fit, rest in splits(fold):
        use = fit[weight[fit] > 0]
        if len(np.unique(r[use])) < 2:
            q[rest] = float(r[use].mean()) if len(use) else 0.0
            continue
        fitted = make_model(model, binary=binary, rng=rng)
        fitted.fit(action_features(x[use], log.action[use], levels, interact=interact), r[use])
        for a in range(levels):
            phi = action_features(x[rest], np.full(len(rest), a), levels, interact=interact)
            q[rest, a] = fitted.predict_proba(phi)[:, 1] if binary else fitted.predict(phi)
    return q
