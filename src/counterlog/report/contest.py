"""Which policy is ahead of which: all pairs compared on the same rows, with intervals that hold together.

The value of a policy here is that of its main estimator, the first of `PREFERRED` that valued it. Differences are
paired (what two policies share cancels), and one Poisson bootstrap of the hash buckets serves all of them. The
intervals are simultaneous over all pairs (max-t), so that the best-looking pair may be picked afterwards.

Policies that the log itself chose (the best single action, the learnt policy) are valued fold by fold, and folds that
are valued by each other's choices go together: where no action is better than another, the spread of the value over
3 folds is up to 1.24 times what its rows show (1.17 with 2 actions, 1.24 with 10). Their differences are widened by
`CHOSEN`, unless the choice came to a fixed policy that is in the contest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.buckets import BucketTable, Cell, column_matrix
from counterlog.core.derive import difference
from counterlog.core.errors import SupportError
from counterlog.core.intervals import poisson_multiplicities, replicate_values, rounds_for, simultaneous
from counterlog.core.results import Estimate
from counterlog.report.wording import BASELINE, BEST_FIXED, LEARNT

Floats = NDArray[np.float64]
PREFERRED = ("DR", "SNDR", "MRDR", "SNIPS", "Replay", "IPS", "DM")
REPLICATES = 1000
POWER = 0.8
CHOSEN = 1.25
ALIKE = 0.02  # share of a value's own standard error below which a difference is nobody's concern


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """First minus second, in `unit` per decision, with an interval that holds for all pairs together.

    `same` says that both come to the same: the difference, its error included, is a trifle beside their own errors.
    `n` counts the log's decisions; `needed` is how many in all would show a difference of this size with 80% power
    (with as many a unit as now, when decisions come in units), `more` how many of them are still to be logged; both
    are -1 when no number helps (a difference of 0). `visible` is the smallest difference that a log of this size shows
    with 80% power.
    """

    first: str
    second: str
    value: float
    lo: float
    hi: float
    se: float
    unit: str
    n: int
    level: float
    same: bool = False
    needed: int = -1
    more: int = -1
    visible: float = float("nan")

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.same and (self.lo > 0 or self.hi < 0)


@dataclass(frozen=True)
class Contest:
    """Main estimates by policy, best first; `replicates` (B, P) their bootstrap values in the same order."""

    estimates: tuple[Estimate, ...]
    cells: tuple[Cell, ...]
    replicates: Floats
    comparisons: dict[tuple[str, str], Comparison]

    @property
    def names(self) -> tuple[str, ...]:
        """Policies, best first."""
        return tuple(e.policy for e in self.estimates)

    def of(self, policy: str) -> Estimate:
        """The main estimate of a policy in the contest."""
        return self.estimates[self.names.index(policy)]

    def cell(self, policy: str) -> Cell:
        """The cell of a policy's main estimate."""
        return self.cells[self.names.index(policy)]

    def compare(self, first: str, second: str) -> Comparison:
        """First minus second."""
        if (first, second) in self.comparisons:
            return self.comparisons[first, second]
        c = self.comparisons[second, first]
        turned = {"value": -c.value, "lo": -c.hi, "hi": -c.lo}
        return Comparison(
            **{**vars(c), **turned, "first": first, "second": second},
        )


def main_estimates(estimates: Sequence[Estimate], table: BucketTable) -> list[tuple[Estimate, Cell]]:
    """The main estimate of every policy that has one, in the order of the log's candidates."""
    cells = {(c.policy, c.estimator): c for c in table.cells}
    whole = [e for e in estimates if not e.segment and (e.policy, e.estimator) in cells]
    chosen: dict[str, Estimate] = {}
    for e in whole:
        if math.isfinite(e.value) and (e.policy not in chosen or _rank(e) < _rank(chosen[e.policy])):
            chosen[e.policy] = e
    return [(e, cells[e.policy, e.estimator]) for e in chosen.values()]


def _rank(e: Estimate) -> int:
    return PREFERRED.index(e.estimator) if e.estimator in PREFERRED else len(PREFERRED)


def contest(
    estimates: Sequence[Estimate], table: BucketTable, *, level: float = 0.95, rng: int = 0
) -> Contest:
    """The contest among all policies whose main estimate is valid; the logging policy always takes part.

    Raises `SupportError` when no policy has a value.
    """
    found = [(e, c) for e, c in main_estimates(estimates, table) if e.valid or e.policy == BASELINE]
    if not found:
        raise SupportError("; ".join(e.reason for e in estimates if e.reason) or "no policy has a value")
    found.sort(key=lambda pair: (-pair[0].value, pair[0].policy == BEST_FIXED))
    found, replicates = _replicates(found, table, rng)
    made = tuple(e for e, _ in found)
    rows = int(table.part()["n"].sum())
    return Contest(made, tuple(c for _, c in found), replicates, _compared(made, replicates, rows, level))


def rough_gaps(
    estimates: Sequence[Estimate], table: BucketTable, *, level: float = 0.95
) -> tuple[Comparison, ...]:
    """Candidates that are not valid, against what was done: no interval to rely on, but a guide for planning."""
    found = {e.policy: (e, c) for e, c in main_estimates(estimates, table)}
    if BASELINE not in found:
        return ()
    rows, made = int(table.part()["n"].sum()), []
    for e, cell in found.values():
        if e.valid or e.policy == BASELINE:
            continue
        gap, ends = difference(table, cell, found[BASELINE][1], level=level)
        needed = rounds_for(ends.se, rows, gap, POWER, level) if gap and ends.se > 0 else -1
        made.append(
            Comparison(
                first=e.policy,
                second=BASELINE,
                value=gap,
                lo=ends.lo,
                hi=ends.hi,
                se=ends.se,
                unit=e.unit,
                n=rows,
                level=level,
                needed=needed,
                more=max(0, needed - rows) if needed >= 0 else -1,
                visible=float(ndtri(0.5 + level / 2) + ndtri(POWER)) * ends.se,
            )
        )
    return tuple(made)


def _replicates(
    found: list[tuple[Estimate, Cell]], table: BucketTable, rng: int
) -> tuple[list[tuple[Estimate, Cell]], Floats]:
    """(B, P) bootstrap values; a policy that some replicate does not support at all leaves the contest."""
    part = table.part()
    counts = part["n"].to_numpy()
    draws = poisson_multiplicities(len(counts), REPLICATES, rng)
    sums = [column_matrix(part, c) for _, c in found]
    try:
        return found, replicate_values(np.stack(sums, axis=1), counts, draws)
    except SupportError:
        kept, columns = [], []
        for pair, own in zip(found, sums, strict=True):
            with suppress(SupportError):
                columns.append(replicate_values(own, counts, draws))
                kept.append(pair)
        if not kept:
            raise
        return kept, np.stack(columns, axis=1)


def _compared(
    made: tuple[Estimate, ...], replicates: Floats, rows: int, level: float
) -> dict[tuple[str, str], Comparison]:
    """Every pair, the better one first."""
    if len(made) < 2:
        return {}
    first, second = np.array(list(combinations(range(len(made)), 2))).T
    values = np.array([e.value for e in made])
    gaps = values[first] - values[second]
    moves = replicates[:, first] - replicates[:, second] - gaps
    own = np.array([max(made[i].se, made[j].se) for i, j in zip(first, second, strict=True)])
    alike = np.abs(gaps) + 2 * moves.std(axis=0, ddof=1) <= ALIKE * own
    fixed = [e.policy not in (BEST_FIXED, LEARNT) for e in made]
    settled = {
        k for i, j, a in zip(first, second, alike, strict=True) if a for k in (i, j) if fixed[i] or fixed[j]
    }
    loose = np.array([not f and k not in settled for k, f in enumerate(fixed)])
    moves = moves * np.where((loose[first] | loose[second]) & ~alike, CHOSEN, 1.0)
    spans = simultaneous(gaps, gaps + moves, level)
    compared = {}
    for i, j, gap, ends, same in zip(first, second, gaps, spans, alike.tolist(), strict=True):
        one, two = made[i], made[j]
        needed = -1 if same or gap == 0 else rounds_for(ends.se, rows, float(gap), POWER, level)
        compared[one.policy, two.policy] = Comparison(
            first=one.policy,
            second=two.policy,
            value=float(gap),
            lo=ends.lo,
            hi=ends.hi,
            se=ends.se,
            unit=one.unit,
            n=rows,
            level=level,
            same=same,
            needed=needed,
            more=max(0, needed - rows) if needed >= 0 else -1,
            visible=float(ndtri(0.5 + level / 2) + ndtri(POWER)) * ends.se,
        )
    return compared
