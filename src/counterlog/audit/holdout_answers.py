"""What a reusable holdout gives back: answers and verdicts with intervals that hold together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from counterlog.audit.thresholdout import HOLDOUT, TRAIN
from counterlog.core.results import Result


@dataclass(frozen=True, kw_only=True)
class Answer(Result):
    """One guarded answer. [lo, hi] holds the truth, together with all other answers, with probability `level`.

    `train_value` is public and may be reported beside it; the holdout's own mean is not here, on purpose.
    """

    name: str
    value: float
    lo: float
    hi: float
    source: str
    train_value: float
    budget_left: int
    unit: str
    n: int
    level: float
    clip_bias: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """(lo, hi)."""
        return self.lo, self.hi


@dataclass(frozen=True, kw_only=True)
class Verdict(Result):
    """Whether a claimed value was accepted; if so the truth is within `margin` of it, simultaneously at `level`."""

    name: str
    accepted: bool
    claimed: float
    margin: float
    budget_left: int
    unit: str
    n: int
    level: float


def ratio(top: Answer, below: Answer, name: str) -> Answer:
    """The answer to numerator/denominator; its interval covers every quotient of the two intervals."""
    positive = below.lo > 0
    ends = [t / b for t in top.interval for b in below.interval] if positive else [-math.inf, math.inf]
    note = () if positive else ("the denominator's interval reaches 0, so the ratio has no finite interval",)
    return Answer(
        name=name,
        value=top.value / below.value if below.value else math.nan,
        lo=min(ends),
        hi=max(ends),
        source=HOLDOUT if HOLDOUT in (top.source, below.source) else TRAIN,
        train_value=top.train_value / below.train_value if below.train_value else math.nan,
        budget_left=below.budget_left,
        unit=top.unit,
        n=top.n,
        level=top.level,
        notes=(*top.notes, *below.notes, *note),
    )
