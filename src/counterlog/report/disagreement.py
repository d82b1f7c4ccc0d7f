"""Where estimators disagree more than chance allows, and why.

Two estimators of one policy read the same rows, so their difference is tested as a paired one; Holm's correction keeps
the chance of any false alarm over all policies and pairs at 1 - level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr

from counterlog.core.buckets import BucketTable, Cell
from counterlog.core.derive import difference, weight_summary
from counterlog.core.errors import SupportError
from counterlog.core.multiplicity import holm
from counterlog.core.results import Estimate, show
from counterlog.report.wording import rounded

FEW, HEAVY = 50, 20.0


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """First minus second estimator of one policy, paired; `p` is adjusted for all pairs that were tested.

    `ess`, `largest` and `mean_weight` describe the policy's weights: effective rows, the largest weight, and their
    mean, which is 1 but for chance when the propensities are right.
    """

    policy: str
    first: str
    second: str
    value: float
    lo: float
    hi: float
    p: float
    unit: str
    significant: bool
    ess: float
    largest: float
    mean_weight: float
    reason: str


def disagreements(
    estimates: Sequence[Estimate], table: BucketTable, *, level: float = 0.95
) -> tuple[Disagreement, ...]:
    """Every pair of estimators of every policy that both valued, the most surprising first."""
    values = {(e.policy, e.estimator): e for e in estimates if not e.segment and math.isfinite(e.value)}
    cells = [c for c in table.cells if (c.policy, c.estimator) in values]
    part = table.part()
    found = []
    for one, two in combinations(cells, 2):
        if one.policy != two.policy:
            continue
        try:
            gap, ends = difference(table, one, two, level=level)
        except SupportError:
            continue
        scale = max(values[c.policy, c.estimator].se for c in (one, two))
        if not scale > 0:
            continue
        if ends.se <= 1e-9 * scale:
            p = 1.0 if abs(gap) <= 1e-8 * scale else 0.0
        else:
            p = 2 * float(ndtr(-abs(gap) / ends.se))
        found.append((one, two, gap, ends, p))
    adjusted = holm(np.array([row[-1] for row in found]))
    made = []
    for (one, two, gap, ends, _), p in zip(found, adjusted, strict=True):
        ess, largest, mean = weight_summary(part, one.weights)
        sure = bool(p < 1 - level)
        made.append(
            Disagreement(
                policy=one.policy,
                first=one.estimator,
                second=two.estimator,
                value=gap,
                lo=ends.lo,
                hi=ends.hi,
                p=float(p),
                unit=one.unit,
                significant=sure,
                ess=ess,
                largest=largest,
                mean_weight=mean,
                reason=_reason(one, two, sure, ess, largest, mean),
            )
        )
    return tuple(sorted(made, key=lambda d: d.p))


def _reason(one: Cell, two: Cell, sure: bool, ess: float, largest: float, mean: float) -> str:
    """The likeliest reason, from what the two estimators lean on and how the weights look."""
    if ess < FEW:
        return f"only {rounded(ess)} effective rows: both are too uncertain to be compared"
    if not sure:
        return "no more than chance"
    names = {one.estimator, two.estimator}
    weights = f"; the largest weight is {show(largest)}" if largest > HEAVY else ""
    if "DM" in names:
        return f"the reward model is off where this policy acts: trust the other one{weights}"
    if any(n.startswith(("Clipped", "SubGaussian", "Switch", "DRos", "SGDR")) for n in names):
        return f"limiting the weights costs bias here{weights}"
    if abs(mean - 1) > 0.02:
        return f"the mean weight is {show(mean)} where 1 is expected: the propensities may be wrong{weights}"
    return f"the reward model and the weights tell different stories{weights}"
