"""Examination and relevance as hidden causes of each click: expectation-maximisation with a regression for relevance.

Use when    chances are wanted, not only ratios: examination of each position and relevance of each item, both in
            (0, 1).
Not when    the order alone matters: dual-learning-ranking ranks better on the same clicks.
Data        Clicks(list, position, click, features)
Paper       Wang, Golbandi, Bendersky, Metzler, Najork: Position Bias Estimation for Unbiased Learning to Rank in
            Personal Search, WSDM 2018, section 4.2.
Equation    P(click) = theta_k gamma(x);   without a click
            p(o=1) = theta (1 - gamma) / (1 - theta gamma),   p(r=1) = (1 - theta) gamma / (1 - theta gamma)
             (1)
            theta_k <- (1 - alpha) theta_k + alpha mean_k [c + (1 - c) p(o=1)]
             (2)
            gamma = sigmoid(f): one cross-entropy step on r ~ Bernoulli(c + (1 - c) p(r=1))
             (3)
Shapes      c, gamma (B, K) | theta (K,)
Units       theta, gamma: chances | loss: nats an item
Raises      LogError: what the log's contract refuses | SupportError: no clicks, or too few at a position
            ConvergenceError: a loss is not finite
Differs     paper: gradient-boosted trees for (3); here the network of dual-learning-ranking, so that the two are
            compared.
Builds on   dual-learning-ranking
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from counterlog.core.clicks import Clicks, need_clicks
from counterlog.core.config import param
from counterlog.core.letor import Judged
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
LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class RegressionEMConfig(StepConfig):
    """How fast the curve moves, and where it begins."""

    alpha: float = param(0.05, "step of theta towards its batch mean", above=0, at_most=1)
    theta: float = param(0.9, "examination of every position to begin with", above=0, below=1)


def hidden_causes(theta: Tensor, gamma: Tensor, click: Tensor) -> tuple[Tensor, Tensor]:
    """Equation (1): chance that the item was examined, and that it is relevant, given the click; 1 where clicked."""
    none = 1 - theta * gamma
    return click + (1 - click) * theta * (1 - gamma) / none, click + (1 - click) * (1 - theta) * gamma / none


def moved_theta(theta: Tensor, examined: Tensor, shown: Tensor, alpha: float) -> Tensor:
    """Equation (2); a position that the batch does not show stays."""
    count = shown.sum(dim=0)
    mean = (examined * shown).sum(dim=0) / count.clamp_min(1)
    return torch.where(count > 0, (1 - alpha) * theta + alpha * mean, theta).clamp(LEAST, 1 - LEAST)


def click_log_likelihood(theta: Tensor, gamma: Tensor, click: Tensor) -> float:
    """Mean log-likelihood of the clicks, nats an item."""
    chance = theta * gamma
    return float((click * chance.log() + (1 - click) * (1 - chance).log()).mean())


class RegressionEM:
    """Stochastic EM over batches of lists."""

    def __init__(self, config: RegressionEMConfig = RegressionEMConfig()) -> None:
        self.config = config

    def fit(
        self, log: Clicks, *, rng: int = 0, validation: Judged | None = None, progress: Progress | None = None
    ) -> FittedRanking:
        """Ranker and curve (as ratios to position 1; the report's note has theta_1)."""
        c = fitting(self.config, log)
        need_clicks(log.clicks_at(c.list_size), c.min_clicks)
        scaled = scaling(log, c.standardise)
        net = RankingNet(log.features.shape[1], c, rng=rng)
        sampler = ListSampler(log, c, scaled)
        theta = torch.full((c.list_size,), c.theta)
        for step in range(c.steps):
            batch = sampler.draw(c.batch, (rng, step))
            f = net.scores(batch.x)
            gamma = f.detach().sigmoid().clamp(LEAST, 1 - LEAST)
            examined, relevant = hidden_causes(theta, gamma, batch.click)
            theta = moved_theta(theta, examined, batch.shown, c.alpha)
            drawn = np.random.default_rng([rng, step, 1]).random(relevant.shape, dtype=np.float32)
            label = (torch.from_numpy(drawn) < relevant).float()
            row = functional.binary_cross_entropy_with_logits(f, label, reduction="none")
            loss = (row * batch.shown).sum() / batch.shown.sum()
            net.descend(loss)  # equation (3)
            if (step + 1) % c.log_every == 0:
                refuse_not_finite(loss, step)
                if progress is not None:
                    progress(f"step {step + 1:,} of {c.steps:,}", (step + 1) / c.steps)
        shared = {k: v for k, v in c.to_dict().items() if k not in ("alpha", "theta")}
        as_dual = DualLearningRankingConfig.from_dict(shared)
        ratio = (theta / theta[0]).double().numpy()[None]
        fitted = finished(log, as_dual, net.ranker(scaled, log.columns), ratio, (), None, rng, validation)
        notes = (
            f"examination of position 1 by EM: {float(theta[0]):.3f}",
            "value and interval are of the softmax curve",
        )
        return FittedRanking(fitted.ranker, replace(fitted.report, system="regression-em", notes=notes))
