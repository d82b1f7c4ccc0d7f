"""The record of one generation: what was served, what the next model was fitted on, exact values if there are any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.online import exploration
from counterlog.online.exploring_policy import RegressionOraclePolicy
from counterlog.online.generation_report import Generation, batch_facts, psi, shift_auc
from counterlog.online.generation_store import Batch, Rows
from counterlog.online.reward_regressors import RewardModel

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Cache = dict[int, tuple[RewardModel, Floats]]


def record_generation(
    batches: list[Batch],
    rows: Rows,
    serving: RegressionOraclePolicy,
    candidate: RegressionOraclePolicy,
    *,
    judged: tuple[bool, tuple[float, float]],
    environment: Any,
    cache: Cache,
    auc: bool,
    rng: int,
) -> Generation:
    """The newest of `batches`; `rows` of the fit end with it. `judged` is (deployed, (difference, lower bound))."""
    g, batch, use = len(batches) - 1, batches[-1], rows.take(rows.weight > 0)
    scores = batch.scores if batch.scores is not None else np.zeros(batch.eligible.shape)
    facts = batch_facts(
        action=batch.action,
        propensity=batch.propensity,
        eligible=batch.eligible,
        reward=rows.reward[-batch.n :],
        known=rows.weight[-batch.n :] > 0,
        scores=scores,
        probs=_served_probs(serving, batch, scores),
    )
    facts |= fit_facts(use)
    if serving.first is not None:
        facts |= dict.fromkeys(("calibration", "calibration_explored", "explored_error_ratio"), math.nan)
    if g:
        facts["psi"] = psi(batches[g - 1].x, batch.x)
        facts["auc"] = shift_auc(batches[g - 1].x, batch.x, rng=rng) if auc else math.nan
    if hasattr(environment, "test"):
        facts |= exact_values(environment.test(g), serving, candidate, cache)
    deployed, (difference, lower) = judged
    facts |= {"difference": difference, "difference_lower": lower}
    return Generation(generation=g, gamma=serving.gamma, deployed=deployed, **facts)


def _served_probs(serving: RegressionOraclePolicy, batch: Batch, scores: Floats) -> Floats:
    """(n, k) probabilities that served the batch, from the scores it already has where that is possible."""
    if serving.first is not None or serving.rule.name == "thompson":
        return serving.probs_of(batch.x, batch.eligible)
    return serving.rule.probs(scores, batch.eligible)


def fit_facts(use: Rows) -> dict[str, float]:
    """What the rows of a fit look like: mean reward, share of the least-tried action, share off the best action."""
    shares = np.bincount(use.action, minlength=use.eligible.shape[1]) / len(use.action)
    off = use.action != exploration.best_action(use.scores, use.eligible)
    return {
        "positive": float(use.reward.mean()),
        "least_share": float(shares.min()),
        "off_best": float(off.mean()),
    }


def exact_values(
    test: tuple[Floats, Mask, Floats],
    serving: RegressionOraclePolicy,
    candidate: RegressionOraclePolicy,
    cache: Cache,
) -> dict[str, float]:
    """True values on fixed contexts; the scores of a model on them are computed once."""
    x, eligible, q = test

    def scores_of(model: RewardModel) -> Floats:
        if id(model) not in cache:
            cache[id(model)] = (model, model.scores(x, eligible))
        return cache[id(model)][1]

    if serving.first is not None or serving.rule.name == "thompson":
        p = serving.probs_of(x, eligible)
    else:
        p = serving.rule.probs(scores_of(serving.model), eligible)
    greedy = exploration.best_action(scores_of(candidate.model), eligible)
    kept = (id(serving.model), id(candidate.model))
    for old in [key for key in cache if key not in kept]:
        del cache[old]
    best = float(np.where(eligible, q, -np.inf).max(axis=1).mean())
    served = float((p * q).sum(axis=1).mean())
    return {
        "served": served,
        "greedy": float(q[np.arange(len(q)), greedy].mean()),
        "uniform": float((exploration.uniform(eligible) * q).sum(axis=1).mean()),
        "best": best,
        "regret": best - served,
    }
