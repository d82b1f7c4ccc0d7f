"""The policy that the report learns itself: what it does by segment, what it gains, and the file to take away.

It is learnt on folds and valued on the rows it has not seen, so its value is honest; the file holds the policy refitted
on all rows.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from counterlog.core.buckets import BucketTable
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy
from counterlog.learn.softmax_policy import SoftmaxLearnerConfig, crossfit_policy
from counterlog.report.contest import Comparison, Contest
from counterlog.report.segments import SegmentGap, segment_codes, segment_gaps
from counterlog.report.wording import BEST_FIXED, LEARNT

Floats = NDArray[np.float64]
MOST_SHOWN = 8
OTHERS = "(all other actions)"


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often an action is chosen in a segment: by the learnt policy, and in the log. Shares of decisions."""

    column: str
    level: str
    rows: int
    action: str
    learnt: float
    logged: float


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """The learnt policy of one reward. `against_best` is None when one of the two has no valid value.

    `file` is the saved policy (safetensors) in base64, for `file:PATH` and `load_policy`.
    """

    reward: str
    shares: tuple[Share, ...]
    against_best: Comparison | None
    by_segment: tuple[SegmentGap, ...]
    file_name: str
    file: str
    description: str

    def file_bytes(self) -> bytes:
        """The saved policy."""
        return base64.b64decode(self.file)


def learn(log: Rounds, *, rng: int = 0) -> tuple[Table, SoftmaxPolicy]:
    """The policy as cross-fitted probabilities, and refitted on all rows. Raises what `crossfit_policy` raises."""
    with threadpool_limits(1):  # many small products: threads would only wait for each other
        table, whole = crossfit_policy(log, SoftmaxLearnerConfig(), rng=rng)
    return Table(LEARNT, table.matrix), whole


def describe(
    log: Rounds,
    table: Table,
    whole: SoftmaxPolicy,
    held: Contest | None,
    buckets: BucketTable,
    *,
    index: int = 0,
    level: float = 0.95,
) -> Learnt:
    """Everything the page says about the learnt policy."""
    known = held is not None and {LEARNT, BEST_FIXED} <= set(held.names)
    return Learnt(
        reward=log.reward_name,
        shares=tuple(s for c in ("", *log.segment_columns) for s in _shares(log, table.matrix, c)),
        against_best=held.compare(LEARNT, BEST_FIXED) if held is not None and known else None,
        by_segment=segment_gaps(log, held, buckets, LEARNT, BEST_FIXED, level=level)
        if held is not None and known
        else (),
        file_name="-".join(filter(None, ("learnt-policy", str(index + 1), _slug(log.reward_name))))
        + ".safetensors",
        file=base64.b64encode(whole.to_bytes()).decode(),
        description=(
            f"a linear softmax policy over {len(whole.actions)} actions and {len(log.context_columns)} context "
            f"columns, learnt from {log.n:,} rows"
        ),
    )


def _shares(log: Rounds, matrix: Floats, column: str) -> list[Share]:
    """Mean probability of each action by level of a column ("" is the whole log); rare actions together."""
    codes, names = (
        (np.zeros(log.n, np.int64), ["all decisions"]) if not column else segment_codes(log, column)
    )
    overall = matrix.mean(axis=0)
    order = np.argsort(-overall, kind="stable")
    top = [int(a) for a in order[:MOST_SHOWN]]
    made = []
    for code, name in enumerate(names):
        here = codes == code
        if not here.any():
            continue
        mean = matrix[here].mean(axis=0)
        was = np.bincount(log.action[here], minlength=matrix.shape[1]) / here.sum()
        made += [_share(column, name, here, str(log.actions[a]), mean[a], was[a]) for a in top]
        if len(overall) > len(top):
            rest = np.delete(np.arange(len(overall)), top)
            made.append(_share(column, name, here, OTHERS, mean[rest].sum(), was[rest].sum()))
    return made


def _share(
    column: str, level: str, here: NDArray[np.bool_], action: str, learnt: float, logged: float
) -> Share:
    return Share(
        column=column,
        level=level,
        rows=int(here.sum()),
        action=action,
        learnt=float(learnt),
        logged=float(logged),
    )


def _slug(name: str) -> str:
    """The part of a name that every file system takes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
