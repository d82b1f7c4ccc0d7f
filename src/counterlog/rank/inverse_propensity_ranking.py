"""Position bias is known or can be measured: learn from clicks weighted by how rarely their position is looked at.

Use when    examination chances are known, lists were shuffled at random, or several rankers showed items at
            several positions.
Not when    nothing of that holds: use dual-learning-ranking, which needs no experiment.
Data        Clicks(list, position, click, features); query and doc for all-pairs; a randomised Clicks for randomised
Paper       Joachims, Swaminathan, Schnabel: Unbiased Learning-to-Rank with Biased Feedback, WSDM 2017, arXiv
            1608.04468; Agarwal, Zaitsev, Wang, Li, Najork, Joachims: Estimating Position Bias without Intrusive
            Interventions, WSDM 2019, arXiv 1806.03555, section 5 (AllPairs)
Equation    L_rank = - sum_qk c_k w_k log softmax(s)_k / sum_qk c_k w_k,   w_k = theta_1 / theta_k               (1)
            randomised: theta_k / theta_1 = clicks at k / clicks at 1 over shuffled lists                      (2)
            all-pairs: maximise sum_{k != k'} C[k,k'] log(p_k r_kk') + D[k,k'] log(1 - p_k r_kk'),             (3)
            C and D the summed click and no-click rates at k of the query-item pairs that were shown at both
            k and k', and r_kk' = r_k'k
Shapes      s, c, w (B, K) | theta, p (K,) | C, D, r (K, K)
Units       theta, p: examination relative to position 1 | loss: nats a weighted click
Raises      LogError: what the log's contract refuses; a curve shorter than list_size, or not above 0
            SupportError: a position without clicks; no pair was shown at two positions
            ConfigError: a way that lacks its input
Differs     paper: SVM-rank and a hinge bound; here the softmax loss of dual-learning-ranking, so that weights
            alone differ. The randomised curve divides smoothed counts (+1e-5). All-pairs takes rates from observed
            displays, not known rankers.
Call        InversePropensityRanking(config).fit(log, propensity=..., randomised=...)
Builds on   dual-learning-ranking
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from counterlog.core.clicks import Clicks, need_clicks
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.letor import Judged
from counterlog.rank.click_audit import displays
from counterlog.rank.click_losses import list_loss
from counterlog.rank.click_training import (
    ListSampler,
    Progress,
    RankingNet,
    StepConfig,
    fitting,
    refuse_not_finite,
    scaling,
)
from counterlog.rank.dual_learning_ranking import DualLearningRankingConfig, finished
from counterlog.rank.ranking_report import FittedRanking

Floats = NDArray[np.float64]
WAYS = ("naive", "given", "randomised", "all-pairs")
SMOOTHING = 1e-5


@dataclass(frozen=True, kw_only=True)
class InversePropensityRankingConfig(StepConfig):
    """Where the examination curve comes from."""

    way: str = param(
        "all-pairs", "naive (all 1), given, randomised lists, or all-pairs of this log", choices=WAYS
    )


def randomised_curve(log: Clicks, size: int) -> Floats:
    """Equation (2): (K,) ratios of clicks, of lists in random order. Raises `SupportError`."""
    kept = log.position <= size
    clicks = log.clicks_at(size)
    shown = np.bincount(log.position[kept], minlength=size + 1)[1:]
    need_clicks(clicks, 1)
    rate = (clicks + SMOOTHING) / shown
    return np.asarray(rate / rate[0])


def pair_counts(log: Clicks, size: int) -> tuple[Floats, Floats]:
    """C and D of (3), (K, K): row k is the position of the rate, column k' the other position."""
    shown, clicked = displays(log, size)
    moved = (shown > 0).sum(axis=1) > 1
    if not moved.any():
        msg = message(
            "no query-item pair was shown at two positions",
            hint="use dual-learning-ranking, or swap neighbouring items in a share of the lists",
        )
        raise SupportError(msg)
    seen = shown[moved] > 0
    rate = np.where(seen, clicked[moved] / np.maximum(shown[moved], 1), 0.0)
    off = 1 - np.eye(size)
    return (rate.T @ seen) * off, ((seen - rate).T @ seen) * off


def all_pairs_curve(clicks: Floats, misses: Floats) -> Floats:
    """The maximum of (3): (K,) p / p_1. Raises `SupportError` when a position shares no pair with another one."""
    size = len(clicks)
    if (alone := np.flatnonzero((clicks + misses).sum(axis=1) == 0)).size:
        msg = message(f"position {int(alone[0]) + 1} shares no query-item pair with another position")
        raise SupportError(msg)
    upper = np.triu_indices(size, 1)

    def negative(at: Floats) -> tuple[float, Floats]:
        place, worth = expit(at[:size]), np.zeros((size, size))
        worth[upper] = expit(at[size:])
        worth += worth.T
        chance = np.clip(place[:, None] * worth, 1e-12, 1 - 1e-12)
        value = -(clicks * np.log(chance) + misses * np.log1p(-chance)).sum()
        slope = -clicks / chance + misses / (1 - chance)
        by_place = (slope * worth).sum(axis=1) * place * (1 - place)
        both = slope * place[:, None]
        by_worth = (both + both.T)[upper] * (worth * (1 - worth))[upper]
        return float(value), np.concatenate([by_place, by_worth])

    rate = clicks.sum(axis=1) / np.maximum((clicks + misses).sum(axis=1), 1e-12)
    begin = np.concatenate(
        [logit(np.clip(rate / max(rate.max(), 1e-9) * 0.9, 0.01, 0.95)), np.zeros(len(upper[0]))]
    )
    found = minimize(
        negative, begin, jac=True, method="L-BFGS-B", options={"maxiter": 2_000, "maxfun": 4_000}
    )
    place = expit(found.x[:size])
    return np.asarray(place / place[0])


class InversePropensityRanking:
    """The ranker of (1), with weights that are given, measured, or all 1."""

    def __init__(self, config: InversePropensityRankingConfig = InversePropensityRankingConfig()) -> None:
        self.config = config

    def curve(self, log: Clicks, propensity: Any = None, randomised: Clicks | None = None) -> Floats:
        """(K,) examination relative to position 1, by the configured way."""
        c = fitting(self.config, log)
        if c.way == "naive":
            return np.ones(c.list_size)
        if c.way == "all-pairs":
            return all_pairs_curve(*pair_counts(log, c.list_size))
        if c.way == "randomised":
            if randomised is None:
                raise ConfigError(
                    message("way='randomised' without shuffled lists", hint="fit(log, randomised=...)")
                )
            return randomised_curve(randomised, c.list_size)
        if propensity is None:
            raise ConfigError(message("way='given' without a curve", hint="fit(log, propensity=...)"))
        found = np.asarray(propensity, np.float64)[: c.list_size]
        if found.shape != (c.list_size,) or not (np.isfinite(found) & (found > 0)).all():
            msg = message(
                f"the curve has shape {found.shape}, smallest value {np.append(found, np.inf).min():g}",
                expected=f"list_size={c.list_size} numbers above 0",
            )
            raise LogError(msg)
        return np.asarray(found / found[0])

    def fit(
        self,
        log: Clicks,
        *,
        rng: int = 0,
        propensity: Any = None,
        randomised: Clicks | None = None,
        validation: Judged | None = None,
        progress: Progress | None = None,
    ) -> FittedRanking:
        """`propensity` (list_size,) for way 'given'; `randomised` lists in random order for way 'randomised'."""
        c = fitting(self.config, log)
        curve = self.curve(log, propensity, randomised)
        weight = torch.from_numpy(1 / curve).float()
        if c.max_weight is not None:
            weight = weight.clamp(max=c.max_weight)
        scaled = scaling(log, c.standardise)
        net = RankingNet(log.features.shape[1], c, rng=rng)
        sampler = ListSampler(log, c, scaled)
        for step in range(c.steps):
            batch = sampler.draw(c.batch, (rng, step))
            if batch.click.numpy().any():
                s = net.scores(batch.x)
                loss = list_loss(c.loss, s, batch.click, weight.expand_as(s), batch.shown, whole=batch.whole)
                net.descend(loss)  # equation (1)
            if (step + 1) % c.log_every == 0:
                refuse_not_finite(loss, step)
                if progress is not None:
                    progress(f"step {step + 1:,} of {c.steps:,}", (step + 1) / c.steps)
        shared = {k: v for k, v in c.to_dict().items() if k != "way"}
        as_dual = DualLearningRankingConfig.from_dict(shared)
        fitted = finished(
            log, as_dual, net.ranker(scaled, log.columns), curve[None], (), None, rng, validation
        )
        report = replace(fitted.report, system=f"inverse-propensity-ranking ({c.way})")
        return FittedRanking(fitted.ranker, report)
