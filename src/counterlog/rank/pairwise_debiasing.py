"""Clicked above not clicked, pair by pair, each pair weighted by how little its two positions can be trusted.

Use when    a pairwise ranker is wanted, or not-clicked items are to carry a bias of their own.
Not when    examination ratios are the question: t+ and t- are not the examination curve.
Data        Clicks(list, position, click, features)
Paper       Hu, Wang, Peng, Li: Unbiased LambdaMART: An Unbiased Pairwise Learning-to-Rank Algorithm, WWW 2019,
            arXiv 1809.05818, equations 26 to 32.
Equation    L = sum_{k clicked, j not} l_kj / (t+_k t-_j),     l_kj = log(1 + exp(s_j - s_k))
            (1) t+_k <- (P_k / P_1)^(1/(p+1)),  P_k = sum_{pairs with k clicked} l_kj / t-_j
                (2) t-_j <- (M_j / M_1)^(1/(p+1)),  M_j = sum_{pairs with j not clicked} l_kj / t+_k
                        (3)
Shapes      s, c (B, K) | l (B, K, K) | t+, t- (K,)
Units       l: nats a pair | t+, t-: relative to position 1
Raises      LogError: what the log's contract refuses | SupportError: no clicks, or too few at a position
            ConvergenceError: a loss is not finite
Differs     paper: LambdaMART, pair losses weighted by the change of nDCG; here a network and plain logistic pair
            losses, with t+ and t- moved a share of the way at every batch.
Builds on   dual-learning-ranking
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
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

LEAST = 1e-4


@dataclass(frozen=True, kw_only=True)
class PairwiseDebiasingConfig(StepConfig):
    """How the two biases move."""

    rate: float = param(0.05, "share of the way that t+ and t- move at a batch", above=0, at_most=1)
    power: float = param(0.0, "p of (2) and (3): larger keeps the biases nearer to 1", at_least=0)


def pair_losses(s: Tensor, click: Tensor, shown: Tensor) -> Tensor:
    """l_kj of every clicked k and shown, not clicked j; 0 for other pairs. (B, K, K)."""
    pair = click[:, :, None] * ((1 - click) * shown)[:, None, :]
    return functional.softplus(s[:, None, :] - s[:, :, None]) * pair


def biases(losses: Tensor, plus: Tensor, minus: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """Equations (2) and (3). A batch without pairs at position 1 leaves the biases."""
    clicked = (losses / minus).sum(dim=(0, 2))
    missed = (losses / plus[:, None]).sum(dim=(0, 1))
    out = []
    for total, old in ((clicked, plus), (missed, minus)):
        new = (total / total[0]) ** (1 / (power + 1)) if float(total[0]) > 0 else old
        out.append(new.clamp_min(LEAST))
    return out[0], out[1]


class PairwiseDebiasing:
    """Pairwise losses with both positions' biases learnt along."""

    def __init__(self, config: PairwiseDebiasingConfig = PairwiseDebiasingConfig()) -> None:
        self.config = config

    def fit(
        self, log: Clicks, *, rng: int = 0, validation: Judged | None = None, progress: Progress | None = None
    ) -> FittedRanking:
        """Ranker; the report's `learnt` is t+, its `value` the examination curve that the ranker implies."""
        c = fitting(self.config, log)
        need_clicks(log.clicks_at(c.list_size), c.min_clicks)
        scaled = scaling(log, c.standardise)
        net = RankingNet(log.features.shape[1], c, rng=rng)
        sampler = ListSampler(log, c, scaled)
        plus = minus = torch.ones(c.list_size)
        for step in range(c.steps):
            batch = sampler.draw(c.batch, (rng, step))
            losses = pair_losses(net.scores(batch.x), batch.click, batch.shown)
            held = losses.detach()
            if not bool(held.any()):
                continue
            weight = (batch.click[:, :, None] * ((1 - batch.click) * batch.shown)[:, None, :]) / (
                plus[:, None] * minus
            )
            loss = (losses / (plus[:, None] * minus)).sum() / weight.sum()
            net.descend(loss)  # equation (1)
            new = biases(held, plus, minus, c.power)
            plus, minus = (old + c.rate * (to - old) for old, to in zip((plus, minus), new, strict=True))
            if (step + 1) % c.log_every == 0:
                refuse_not_finite(loss, step)
                if progress is not None:
                    progress(f"step {step + 1:,} of {c.steps:,}", (step + 1) / c.steps)
        shared = {k: v for k, v in c.to_dict().items() if k not in ("rate", "power")}
        as_dual = DualLearningRankingConfig.from_dict(shared)
        learnt = plus.double().numpy()[None]
        fitted = finished(log, as_dual, net.ranker(scaled, log.columns), learnt, (), None, rng, validation)
        said = ", ".join(f"{v:.3f}" for v in minus.tolist())
        notes = ("learnt is t+, the bias of clicked items", f"t-, of items not clicked: {said}")
        return FittedRanking(fitted.ranker, replace(fitted.report, system="pairwise-debiasing", notes=notes))
