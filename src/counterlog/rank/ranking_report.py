"""What a fit on clicks gives back: ranker, examination curve with intervals, training curves, quality, audit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.clicks import Clicks
from counterlog.core.letor import Judged
from counterlog.core.ranking_metrics import average_precision, err, mean, ndcg
from counterlog.core.results import Result
from counterlog.rank.click_audit import ClickAudit
from counterlog.rank.examination_curve import Curve, ExaminationSums, inverse_relevance
from counterlog.rank.saved_rankers import Ranker

Floats = NDArray[np.float64]
UNIT = "examination relative to position 1"
PART = 200_000  # lists whose scores are held at a time


@dataclass(frozen=True, kw_only=True)
class PropensityPoint:
    """Examination of a position relative to the reference. `learnt` is the trained model's; `value` with its
    interval is
    the minimum of the examination loss over the whole log, the ranker held fixed."""

    segment: str
    position: int
    learnt: float
    value: float
    lo: float
    hi: float
    clicks: int


@dataclass(frozen=True, kw_only=True)
class TrainingPoint:
    """A point of the training curves. `effective_share`: effective sample size of the clicks' weights over their
    number.
    `click_log_likelihood`: nats a click, of where in its list it falls. `quality`: nDCG@10 on judged lists, if
    given."""

    step: int
    rank_loss: float
    examination_loss: float
    effective_share: float
    click_log_likelihood: float
    last_position: float
    quality: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One measure of the ranker on graded lists. `n` counts the lists that have a value."""

    metric: str
    value: float
    n: int
    on: str


@dataclass(frozen=True, kw_only=True)
class ClicksAt:
    """Clicks at a position: seen, and as curve and ranker together spread each list's clicks."""

    position: int
    observed: float
    predicted: float


@dataclass(frozen=True, kw_only=True)
class RankingReport(Result):
    """A fit. `n` counts lists, `items` what was shown in them."""

    system: str
    n: int
    items: int
    list_size: int
    level: float
    reference: str
    rng: int
    propensity: tuple[PropensityPoint, ...]
    training: tuple[TrainingPoint, ...]
    quality: tuple[Quality, ...]
    calibration: tuple[ClicksAt, ...]
    audit: ClickAudit | None
    unit: str = UNIT
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a segment and position."""
        return [
            {
                "segment": p.segment,
                "position": p.position,
                "learnt": p.learnt,
                "value": p.value,
                "lo": p.lo,
                "hi": p.hi,
                "clicks": p.clicks,
            }
            for p in self.propensity
        ]

    def curve(self, segment: str = "all") -> Floats:
        """(K,) examination relative to the reference, whole log."""
        return np.array([p.value for p in self.propensity if p.segment == segment])

    def plot(self) -> Any:
        """The examination curve with its intervals, as a plotly figure."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for segment in dict.fromkeys(p.segment for p in self.propensity):
            mine = [p for p in self.propensity if p.segment == segment]
            figure.add_scatter(
                x=[p.position for p in mine],
                y=[p.value for p in mine],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [p.hi - p.value for p in mine],
                    "arrayminus": [p.value - p.lo for p in mine],
                },
                mode="lines+markers",
                name=segment.replace("<", "&lt;"),
            )
        figure.update_layout(
            xaxis={"title": "position", "dtick": 1}, yaxis={"title": self.unit, "rangemode": "tozero"}
        )
        return figure


@dataclass(frozen=True, eq=False)
class FittedRanking:
    """The ranker, ready to score and save, and its report."""

    ranker: Ranker
    report: RankingReport

    @property
    def policy(self) -> Ranker:
        """The ranker, by the name that `counterlog learn` saves."""
        return self.ranker

    def score(self, X: Any) -> Floats:
        """(n, F) -> (n,); higher stands earlier."""
        return self.ranker.score(X)

    def rank(self, X: Any) -> NDArray[np.int64]:
        """Items of one query, best first; ties keep their order."""
        return np.argsort(-self.score(X), kind="stable")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ranker; `load_ranker` reads it."""
        return self.ranker.save(path)


def examination(
    log: Clicks,
    score: Floats,
    *,
    size: int,
    on_long: str = "refuse",
    reference: str = "first",
    most: float | None = None,
    level: float = 0.95,
    replicates: int = 500,
    rng: int = 0,
    sums: ExaminationSums | None = None,
) -> tuple[list[Curve], ExaminationSums]:
    """Curves of the log given a score an item, (D,). `sums` of earlier parts are added to."""
    held = ExaminationSums(len(log.segments), size, rng=rng) if sums is None else sums
    for start in range(0, log.lists, PART):
        part = log if log.lists <= PART else log.take(slice(start, start + PART))
        table = part.table(size, on_long=on_long)
        weight = inverse_relevance(score[table.doc], table.shown, reference, most)
        held.add(table.click * weight, table.click, table.shown, table.segment)
    return held.curves(reference=reference, level=level, replicates=replicates), held


def points(found: Sequence[Curve], log: Clicks, learnt: Floats) -> tuple[PropensityPoint, ...]:
    """Curves as records; `learnt` (S, K) are the trained model's ratios."""
    out = []
    for c in found:
        name = "all" if c.segment < 0 else log.segments[c.segment]
        own = (
            learnt[max(c.segment, 0)] if c.segment >= 0 or len(learnt) == 1 else np.full(len(c.value), np.nan)
        )
        out += [
            PropensityPoint(
                segment=name,
                position=k + 1,
                learnt=float(own[k]),
                value=float(c.value[k]),
                lo=float(c.lo[k]),
                hi=float(c.hi[k]),
                clicks=int(c.clicks[k]),
            )
            for k in range(len(c.value))
        ]
    return tuple(out)


def quality(ranker: Ranker, judged: Judged, on: str) -> tuple[Quality, ...]:
    """nDCG at 1, 3, 5, 10, ERR at 10 and average precision on graded lists."""
    score, label, at = ranker.score(judged.features), judged.label, judged.offsets
    found = {f"nDCG@{k}": ndcg(score, label, at, k) for k in (1, 3, 5, 10)}
    found["ERR@10"] = err(score, label, at, 10)
    relevant = min(3.0, float(label.max())) or 1.0
    found[f"MAP (grade {relevant:g} or more)"] = average_precision(score, label, at, relevant=relevant)
    return tuple(
        Quality(metric=name, value=mean(v), n=int((~np.isnan(v)).sum()), on=on) for name, v in found.items()
    )


def labelled(log: Clicks) -> Judged | None:
    """The log's own graded lists, one a query (its first), if it has labels."""
    if log.label is None:
        return None
    _, first = np.unique(log.query, return_index=True)
    part = log.take(first)
    assert part.label is not None
    return Judged(offsets=part.offsets, features=part.features[part.doc], label=part.label, query=part.query)


def calibration(log: Clicks, score: Floats, curve: Floats, size: int, on_long: str) -> tuple[ClicksAt, ...]:
    """Clicks by position: seen, and with each list's clicks spread in proportion to curve times exp(score)."""
    observed, predicted = np.zeros(size), np.zeros(size)
    for start in range(0, log.lists, PART):
        part = log if log.lists <= PART else log.take(slice(start, start + PART))
        table = part.table(size, on_long=on_long)
        logit = np.where(table.shown, score[table.doc] + np.log(np.maximum(curve, 1e-300)), -np.inf)
        share = np.exp(logit - logit.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        observed += table.click.sum(axis=0)
        predicted += (share * table.click.sum(axis=1, keepdims=True)).sum(axis=0)
    pairs = zip(observed.tolist(), predicted.tolist(), strict=True)
    return tuple(ClicksAt(position=k + 1, observed=o, predicted=p) for k, (o, p) in enumerate(pairs))
