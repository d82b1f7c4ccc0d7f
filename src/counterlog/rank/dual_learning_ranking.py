"""My labels are clicks on lists that an old ranker made: what is the true order, and how large is position bias?

Use when    clicks on ranked lists with positions and item features are logged, and no randomised lists are at hand.
Not when    the old ranker was good and never moved an item: relevance and position are then one thing, low
            positions look more examined than they are, and the audit warns. With randomised lists use
            inverse-propensity-ranking.
Data        Clicks(list, position, click, features); optionally query, doc, segment, logger, label, score
Paper       Ai, Bi, Luo, Guo, Croft: Unbiased Learning to Rank with Unbiased Propensity Estimation, SIGIR 2018,
            arXiv 1804.05938, Algorithm 1. Dual learning algorithm (DLA).
Equation    w_k = P_o[1] / P_o[k] = exp(g_1 - g_k),     v_k = P_r[1] / P_r[k] = exp(s_1 - s_k)                  (1)
            L_rank = - sum_qk c_k w_k log softmax(s)_k / sum_qk c_k w_k       moves the ranker f alone         (2)
            L_exam = - sum_qk c_k v_k log softmax(g)_k / sum_qk c_k v_k       moves the model g alone          (3)
Shapes      s = f(x), c, w, v (B, K) | x (B, K, F) float32 | g (segments, K)
Units       g, s: log of a chance up to a constant | w, v: none | losses: nats a weighted click
Raises      LogError: what the log's contract refuses; a list longer than list_size; a list without position 1
            SupportError: no clicks, or too few at a position | ConvergenceError: a loss is not finite
            ConfigError: a folder of another run, or with trees | MissingExtraError: torch, or LightGBM for trees
Differs     g is a table with a step size of its own (0.5: with 0.05 it stays half way); optimisers keep their
            state (a later released code makes them anew at every step); lists without clicks stay and count
            nothing; the sigmoid loss takes c w as its label, so that it is unbiased. The reported curve is the
            minimum of (3) over the whole log, the ranker held fixed, with bootstrap intervals over lists. Trees
            take the functional gradient of (2), g moving towards the minimum of (3) after every tree.
Call        DualLearningRanking().fit(log); online(log, rng).update(more)
"""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterlog.core.clicks import Clicks, need_clicks
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.letor import Judged
from counterlog.core.ranking_metrics import mean, ndcg
from counterlog.rank.boosted_dual import BoostedConfig, boosted_dual
from counterlog.rank.click_audit import ClickAudit, IdentifiabilityWarning, audit_clicks
from counterlog.rank.click_losses import list_loss, softmax_loss
from counterlog.rank.click_training import (
    ListBatch,
    ListSampler,
    Progress,
    RankingNet,
    StepConfig,
    fingerprint,
    fitting,
    read_run,
    refuse_not_finite,
    scaling,
    write_run,
)
from counterlog.rank.examination_models import (
    MODELS,
    ExaminationNet,
    ExaminationTable,
    inverse_ratio,
    log_chance,
)
from counterlog.rank.ranking_report import (
    FittedRanking,
    RankingReport,
    TrainingPoint,
    calibration,
    examination,
    labelled,
    points,
    quality,
)
from counterlog.rank.saved_rankers import Ranker

SYSTEM = "dual-learning-ranking"


@dataclass(frozen=True, kw_only=True)
class DualLearningRankingConfig(StepConfig):
    """The dual learning algorithm."""

    ranker: str = param("network", "what scores items", choices=("network", "trees"))
    examination_lr: float = param(0.5, "step size of the examination model (Adagrad)", above=0)
    examination_model: str = param("table", "logits by position, or the released networks", choices=MODELS)
    link: str = param("softmax", "from logits to chances in (1)", choices=("softmax", "sigmoid"))
    reference: str = param(
        "first",
        "what weights are relative to: position 1, or the list's geometric mean",
        choices=("first", "mean"),
    )
    segment_pull: float = param(0.01, "pull of a segment's logits towards the shared curve", at_least=0)
    trees: int = param(100, "trees, when the ranker is trees", at_least=1)
    leaves: int = param(15, "leaves of a tree", at_least=2)
    leaf_items: int = param(50, "items that a leaf must hold", at_least=1)
    tree_lr: float = param(0.1, "step size of a tree", above=0)
    tree_rate: float = param(
        0.1, "share of the way that g moves to its minimum after a tree", above=0, at_most=1
    )
    level: float = param(0.95, "coverage of the curve's intervals", above=0, below=1)
    replicates: int = param(500, "bootstrap replicates of the curve", at_least=20)
    save_every: int = param(500, "steps between saved states, when a folder is given", at_least=1)


def examination_weights(g: Tensor, shown: Tensor, config: DualLearningRankingConfig) -> Tensor:
    """Equation (1), w: how many times less a position is examined than the reference. Without gradient."""
    return inverse_ratio(
        g.detach(), shown, link=config.link, reference=config.reference, most=config.max_weight
    )


def relevance_weights(s: Tensor, shown: Tensor, config: DualLearningRankingConfig) -> Tensor:
    """Equation (1), v: how many times less relevant an item is than the reference. Without gradient."""
    return inverse_ratio(
        s.detach(), shown, link=config.link, reference=config.reference, most=config.max_weight
    )


class DualLearner:
    """Ranker and examination model with their optimisers: what Algorithm 1 moves, one step or one log at a time."""

    def __init__(
        self, log: Clicks, config: DualLearningRankingConfig, *, rng: int, module: Any = None
    ) -> None:
        self.config, self.rng, self.steps = config, rng, 0
        dtype = torch.float32
        self.scaled = scaling(log, config.standardise, dtype)
        self.segments, self.columns = log.segments, log.columns
        self.net = RankingNet(log.features.shape[1], config, rng=rng, module=module, dtype=dtype)
        lr, clip, K = config.examination_lr, config.clip, config.list_size
        S = len(log.segments)
        self.examination: ExaminationTable | ExaminationNet
        if config.examination_model == "table" and config.loss == "softmax":
            self.examination = ExaminationTable(S, K, lr=lr, clip=clip, pull=config.segment_pull, dtype=dtype)
        else:
            kind = config.examination_model
            self.examination = ExaminationNet(
                kind, S, K, lr=lr, clip=clip, loss=config.loss, rng=rng + 1, dtype=dtype
            )

    def step(self, batch: ListBatch) -> bool:
        """Algorithm 1, one batch. False when the batch has no click and nothing moves."""
        g = self.examination.logits().detach()
        s = self.net.scores(batch.x)
        w = examination_weights(g if len(g) == 1 else g[batch.segment], batch.shown, self.config)
        v = relevance_weights(s, batch.shown, self.config)
        self.steps += 1
        if not batch.click.numpy().any():
            return False
        loss = list_loss(self.config.loss, s, batch.click, w, batch.shown, whole=batch.whole)
        self.net.descend(loss)  # by f alone: w has no gradient
        self.examination.step(batch.click * v, batch.shown, batch.segment, batch.whole)  # by g alone
        if self.steps % self.config.log_every == 0:
            refuse_not_finite(loss, self.steps)
        return True

    def update(self, log: Clicks, *, passes: int = 1) -> dict[str, float]:
        """Online mode: learn from newly logged lists, each used `passes` times in random order; metrics of the
        last batch.

        Features must be the same columns, segments the same levels as those of the first log.
        """
        if log.segments != self.segments or log.features.shape[1] != len(self.scaled[0]):
            msg = message(
                f"this log has segments {log.segments} and {log.features.shape[1]} features",
                expected=f"{self.segments} and {len(self.scaled[0])}, those of the first log",
            )
            raise LogError(msg)
        need_reference(log, self.config)
        sampler = ListSampler(log, self.config, self.scaled)
        batch = None
        for _ in range(passes):
            order = np.random.default_rng([self.rng, self.steps]).permutation(sampler.lists)
            for part in torch.from_numpy(order).split(self.config.batch):
                batch = sampler.rows(part)
                self.step(batch)
        assert batch is not None
        return asdict(self.measured(batch))

    def learnt(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(S, K) examination relative to the reference, by the model as it stands."""
        g = self.examination.logits().detach().double()
        free = self.config.link, self.config.reference
        weight = inverse_ratio(
            g, torch.ones_like(g, dtype=torch.bool), link=free[0], reference=free[1], most=None
        )
        return np.asarray(1 / weight.numpy())

    def ranker(self) -> Ranker:
        """The ranker as it stands."""
        return self.net.ranker(self.scaled, self.columns)

    def measured(self, batch: ListBatch, validation: Judged | None = None) -> TrainingPoint:
        """The training curves' point at this batch."""
        with torch.no_grad():
            g, s = self.examination.logits()[batch.segment], self.net.scores(batch.x)
            cw = batch.click * examination_weights(g, batch.shown, self.config)
            cv = batch.click * relevance_weights(s, batch.shown, self.config)
            clicks = float(batch.click.sum())
            share = log_chance(g, batch.shown, "softmax") + log_chance(s, batch.shown, "softmax")
            where = torch.log_softmax(share, dim=1).masked_fill(~batch.shown, 0.0)
            found = TrainingPoint(
                step=self.steps,
                rank_loss=float(softmax_loss(s, cw, batch.shown)),
                examination_loss=float(softmax_loss(g, cv, batch.shown)),
                effective_share=float(cw.sum() ** 2 / cw.square().sum()) / clicks if clicks else float("nan"),
                click_log_likelihood=float((batch.click * where).sum()) / clicks if clicks else float("nan"),
                last_position=float(self.learnt()[0, -1]),
                quality=float("nan") if validation is None else self._quality(validation),
            )
        return found

    def _quality(self, judged: Judged) -> float:
        return mean(ndcg(self.ranker().score(judged.features), judged.label, judged.offsets, 10))

    def state(self) -> dict[str, Tensor]:
        """Everything a later step needs."""
        return self.net.state() | self.examination.state()

    def restore(self, held: dict[str, Tensor], steps: int) -> None:
        """The inverse of `state`."""
        self.net.restore(held)
        self.examination.restore(held)
        self.steps = steps


class DualLearningRanking:
    """Ranker and position bias from one click log, each debiasing the other."""

    def __init__(self, config: DualLearningRankingConfig = DualLearningRankingConfig()) -> None:
        self.config = config

    def fit(
        self,
        log: Clicks,
        *,
        rng: int = 0,
        module: Any = None,
        validation: Judged | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> FittedRanking:
        """`module` is a torch module (B, K, F) -> (B, K) of your own; `validation` graded lists for the training
        curves.

        With `folder` the state is saved every `save_every` steps and a later call goes on from it.
        Warns `IdentifiabilityWarning` when the audit finds that the log cannot tell position from relevance.
        """
        c = fitting(self.config, log)
        if c.ranker == "trees" and folder is not None:
            msg = message("trees keep no state to go on from", hint="leave folder out, or set ranker=network")
            raise ConfigError(msg)
        need_reference(log, c)
        need_clicks(log.clicks_at(c.list_size), c.min_clicks)
        audit = audit_clicks(log, c.list_size, rng=rng)
        if not audit.identified:
            warnings.warn(audit.advice, IdentifiabilityWarning, stacklevel=2)
        if c.ranker == "trees":
            own = BoostedConfig(c.trees, c.leaves, c.leaf_items, c.tree_lr, c.tree_rate, c.on_long)
            ranker: Ranker
            ranker, learnt, training = boosted_dual(
                log, own, c.list_size, c.reference, c.max_weight, validation, rng, progress, c.log_every
            )
        else:
            learner, training = self._steps(log, c, rng, module, validation, folder, progress)
            ranker, learnt = learner.ranker(), learner.learnt()
        return finished(log, c, ranker, learnt, training, audit, rng, validation)

    def online(self, log: Clicks, *, rng: int = 0, module: Any = None) -> DualLearner:
        """A learner that takes one log after another (`update`), begun but not trained: `log` fixes features,
        their scale
        and segments."""
        need_reference(log, self.config)
        return DualLearner(log, fitting(self.config, log), rng=rng, module=module)

    def _steps(
        self,
        log: Clicks,
        c: DualLearningRankingConfig,
        rng: int,
        module: Any,
        validation: Judged | None,
        folder: Any,
        progress: Progress | None,
    ) -> tuple[DualLearner, tuple[TrainingPoint, ...]]:
        learner = DualLearner(log, c, rng=rng, module=module)
        sampler = ListSampler(log, c, learner.scaled)
        training: list[TrainingPoint] = []
        mark = "" if folder is None else fingerprint(c, log, rng)
        if folder is not None and (held := read_run(folder, mark)) is not None:
            tensors, said = held
            done = int(str(said["steps"]))
            if done > c.steps:
                raise ConfigError(
                    message(f"{folder} has gone {done} steps", expected=f"at most steps={c.steps}")
                )
            # a step makes the optimiser's slots; its effect is overwritten by what was saved
            learner.step(sampler.draw(c.batch, (rng, 0)))
            learner.restore(tensors, done)
            training = [TrainingPoint(**p) for p in said["training"]]  # type: ignore[attr-defined]
        while learner.steps < c.steps:
            batch = sampler.draw(c.batch, (rng, learner.steps))
            learner.step(batch)
            if learner.steps % c.log_every == 0 or learner.steps == c.steps:
                training.append(learner.measured(batch, validation))
                if progress is not None:
                    progress(f"step {learner.steps:,} of {c.steps:,}", learner.steps / c.steps)
            if folder is not None and (learner.steps % c.save_every == 0 or learner.steps == c.steps):
                said = {"steps": learner.steps, "training": [asdict(p) for p in training]}
                write_run(folder, mark, learner.state(), said)
        return learner, tuple(training)


def need_reference(log: Clicks, config: DualLearningRankingConfig) -> None:
    """Raise `LogError` when lists lack position 1 and weights are relative to it."""
    if config.reference != "first":
        return
    first = np.minimum.reduceat(log.position, log.offsets[:-1])
    if (without := np.flatnonzero(first != 1)).size:
        msg = message(
            f"{without.size} lists do not show position 1 ({first_rows(without).replace('row', 'list')})",
            expected="position 1 in every list: weights are relative to it",
            hint="for feeds that are scrolled set reference=mean",
        )
        raise LogError(msg)


def finished(
    log: Clicks,
    config: DualLearningRankingConfig,
    ranker: Ranker,
    learnt: Any,
    training: tuple[TrainingPoint, ...],
    audit: ClickAudit | None,
    rng: int,
    validation: Judged | None = None,
) -> FittedRanking:
    """The report of a trained ranker: the curve over the whole log with intervals, quality where labels exist."""
    c = config
    score = ranker.score(log.features)
    found, _ = examination(
        log,
        score,
        size=c.list_size,
        on_long=c.on_long,
        reference=c.reference,
        most=c.max_weight,
        level=c.level,
        replicates=c.replicates,
        rng=rng,
    )
    notes = ["intervals are over lists and hold the ranker fixed"]
    own = labelled(log)
    measured = () if own is None else quality(ranker, own, "the log's own labels")
    measured += () if validation is None else quality(ranker, validation, "validation lists")
    if training and training[-1].effective_share < 0.1:
        notes.append("the clicks' effective sample is below a tenth of their number: set max_weight")
    return FittedRanking(
        ranker=ranker,
        report=RankingReport(
            system=SYSTEM,
            n=log.lists,
            items=log.n,
            list_size=c.list_size,
            level=c.level,
            reference=c.reference,
            rng=rng,
            propensity=points(found, log, np.asarray(learnt)),
            training=training,
            quality=measured,
            calibration=calibration(log, score, found[0].value, c.list_size, c.on_long),
            audit=audit,
            notes=tuple(notes),
        ),
    )
