"""Dataset characteristics: how good and how varied is a log of trajectories, and which learners is it fit for?

Use when    you have a log of trajectories and are about to choose a learner, or to trust one that was chosen.
Not when    you have neither a random policy's return nor a reference: TQ and SACo need them (the rest does not). Two
            values of SACo compare only with the same reference, bins and number of rows.
Data        Episodes(state, action), and reward for TQ; any number of parts
Paper       Schweighofer, Dinu, Radler, Hofmarcher, Patil, Bitto-Nemling, Eghbal-zadeh, Hochreiter: A Dataset
            Perspective on Offline Reinforcement Learning (CoLLAs 2022), arXiv 2111.04714.
Equation    TQ    = (gbar(log) - gbar(random)) / (gbar(best) - gbar(random))                          (1)
            SACo  = u(log) / u(reference),  u: distinct (state, action) cells, same number of rows    (2)
            lSACo = ln u(log) / ln u(reference)                                                       (3)
            rows that differ: u of the longer log is its expectation at the shorter's rows            (4)
Shapes      state (N,) codes or (N, d) | action (N,) codes or (N, k) | reward (N,)
Units       TQ, SACo: none, not clipped | returns: reward units per episode | entropies: nats
Raises      SupportError: no episode is finished; the random return is not below the reference's; a sketch of another
            size | LogError: another grid or other columns than the reference, no reward for TQ
            ConfigError: a parameter out of bounds, sketches that differ
Differs     Out-of-range values are cells of their own (official=True gives the authors' cells). Sizes may differ, by
            (4). The grid always comes from the reference. Added: what one more step would show, drift, recommendation.
Call        DatasetCharacteristics(config).check(log, reference=replay, random=-200.0, best=-110.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from counterlog.audit.characteristics_findings import findings_of, verdict_of
from counterlog.audit.coverage_ratio import SIZES, Ratio, Side, coverage_ratio
from counterlog.audit.distinct_pairs import MOST, PRECISION, Counter, Frequencies, frequencies
from counterlog.audit.episode_totals import EpisodeTotals
from counterlog.audit.log_plane import LogPlane
from counterlog.audit.log_profile import CellReference, LogProfile
from counterlog.audit.logged_behaviour import behaviour_entropy
from counterlog.audit.trajectory_quality import Quality, finished, finished_returns, quality
from counterlog.audit.visit_cells import CellGrid
from counterlog.audit.visit_counts import Counting, best_quarter, drift, fit_grid, sensitivity, shape, tenths
from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.results import SEVERITIES

__all__ = [
    "CellReference",
    "DatasetCharacteristics",
    "DatasetCharacteristicsConfig",
    "LogPlane",
    "LogProfile",
]
Log = Episodes | Iterable[Episodes]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class DatasetCharacteristicsConfig(Config):
    """Parameters of the profile."""

    gamma: float = param(1.0, "discount of the returns behind TQ", above=0, at_most=1)
    bins: int = param(0, "cells a binned column; 0: up to 100, by coverage", at_least=0)
    official: bool = param(False, "cut columns as the authors do")
    counting: str = param(
        "auto",
        "auto: exactly up to `most` pairs, then by sketch; exact; hll: by sketch",
        choices=("auto", "exact", "hll"),
    )
    most: int = param(MOST, "distinct pairs that are still counted exactly", unit="pairs", at_least=1)
    precision: int = param(PRECISION, "a sketch has 2^precision registers", at_least=11, at_most=18)
    hash_seed: int = param(0, "seed of the 64-bit hash", at_least=0)
    sizes: str = param(
        "rarefy", "a reference of other size: rarefy (4), subsample rows, or refuse", choices=SIZES
    )
    limit: int | None = param(None, "time limit: shorter episodes that were cut are not finished", at_least=1)
    level: float = param(0.95, "coverage of TQ's interval", above=0, below=1)
    joint: bool = param(False, "TQ's interval redraws the episodes of the random and the best log too")
    high_tq: float = param(0.75, "TQ from which the verdict calls episodes good", above=0)
    high_saco: float = param(0.75, "SACo from which the verdict calls a log varied", above=0)


class DatasetCharacteristics:
    """Profiles of logs of trajectories."""

    def __init__(self, config: DatasetCharacteristicsConfig = DatasetCharacteristicsConfig()) -> None:
        self.config = config
        c = config
        self.counting = Counting(c.counting, c.most, c.precision, c.hash_seed)

    def check(
        self,
        log: Log,
        *,
        reference: Episodes | CellReference | None = None,
        random: float | Episodes | None = None,
        best: float | Episodes | None = None,
        grid: CellGrid | None = None,
        possible: int | None = None,
        plane: LogPlane | None = None,
        rng: int = 0,
        progress: Progress | None = None,
    ) -> LogProfile:
        """The profile of a log, or of its parts (an iterable of logs, read once, one in memory at a time).

        reference   the log that SACo compares with (the paper: everything an online learner saw), or a kept one
        random      mean return of the uniform policy, or a log of it;   best   that of the reference policy
        grid        cells to use where there is no reference; the log's own by default (the first part's)
        possible    how many (state, action) pairs exist, where that is known
        plane       logs with known outcomes, for a recommendation

        Of a log in parts, the behaviour's entropy and the sensitivity to the grid are those of the first part.
        """
        c, say = self.config, progress or (lambda what, share: None)
        whole = log if isinstance(log, Episodes) else None
        if (random is None) != (best is None):
            missing = "best" if best is None else "random"
            msg = message(f"TQ needs two references and {missing} is missing", hint=f"give {missing}=...")
            raise ConfigError(msg)
        first, parts = opened(log)
        say("cutting states into cells", 0.0)
        kept = self._kept(reference, grid)
        chosen = kept.grid if kept else (grid or fit_grid(first, c.bins, official=c.official))
        totals = EpisodeTotals(c.gamma, c.limit)
        states, pairs, sizes = self.counting.counter(), self.counting.counter(), []
        for k, part in enumerate(parts):
            chosen.check(part)
            say(f"counting pairs, part {k + 1}", 0.2)
            for piece in tenths(part) if whole is not None else (slice(0, part.rows),):
                self.counting.count(part, chosen, pairs, states, piece)
                sizes.append(piece.stop - piece.start)
            totals.add(part)
        say("quality", 0.7)
        tq = self._quality(totals, random, best, rng)
        alone, freq = pairs.only_here(), _frequencies(pairs)
        ratio = Ratio()
        if kept is not None:
            given = reference if isinstance(reference, Episodes) else None
            own, other = Side(pairs.value(), freq, whole), Side(kept.pairs, kept.pair_frequencies, given)
            ratio = coverage_ratio(own, other, chosen, self.counting, sizes=c.sizes, rng=rng)
        say("behaviour", 0.8)
        behaviour, method = behaviour_entropy(first, chosen, rng=rng)
        advice = None
        if plane is not None and tq is not None and ratio.saco is not None:
            advice = plane.recommend(tq.value, ratio.saco)
        numbers: dict[str, Any] = {
            **totals.summary(),
            "unit": f"{first.reward_unit} per episode",
            "rows": pairs.rows,
            **_fields(tq),
            "states": states.value(),
            "pairs": pairs.value(),
            **asdict(ratio),
            **shape(freq, pairs.rows),
            "possible_share": pairs.value().value / possible if possible else None,
            "good_coverage": self._good(whole, chosen, pairs),
            "behaviour_entropy": behaviour,
            "behaviour_method": method,
            "grid": chosen,
            "pair_frequencies": freq,
            "sensitivity": sensitivity(first, chosen) if chosen.cut else (),
            "drift": drift(sizes, alone),
            "recommendation": advice,
            "fingerprint": whole.fingerprint if whole is not None else "",
        }
        found = findings_of(numbers)
        severity = max((f.severity for f in found), key=SEVERITIES.index, default="ok")
        verdict = verdict_of(numbers, c.high_tq, c.high_saco)
        return LogProfile(verdict=verdict, severity=severity, findings=found, **numbers)

    def reference(self, log: Episodes, *, grid: CellGrid | None = None) -> CellReference:
        """What is kept of a reference log; save it, and give it to `check` of many logs."""
        c = self.config
        chosen = grid or fit_grid(log, c.bins, official=c.official)
        states, pairs = self.counting.counter(), self.counting.counter()
        self.counting.count(log, chosen, pairs, states)
        known = log.reward is not None and finished(log, c.limit).any()
        return CellReference(
            n=log.n,
            rows=log.rows,
            unit=f"{log.reward_unit} per episode",
            grid=chosen,
            pairs=pairs.value(),
            states=states.value(),
            pair_frequencies=_frequencies(pairs),
            mean_return=float(finished_returns(log, c.gamma, c.limit).mean()) if known else None,
            fingerprint=log.fingerprint,
        )

    def _kept(
        self, reference: Episodes | CellReference | None, grid: CellGrid | None
    ) -> CellReference | None:
        if reference is None:
            return None
        kept = self.reference(reference) if isinstance(reference, Episodes) else reference
        if grid is not None and grid != kept.grid:
            msg = message(
                "the grid given is not the reference's",
                expected="the same limits and bins for both logs",
                hint="leave out grid=: the reference's own is used",
            )
            raise LogError(msg)
        if self.config.bins and kept.grid.cut and self.config.bins != kept.grid.bins:
            msg = message(f"bins={self.config.bins}", expected=f"{kept.grid.bins}, those of the reference")
            raise LogError(msg)
        return kept

    def _quality(
        self,
        totals: EpisodeTotals,
        random: float | Episodes | None,
        best: float | Episodes | None,
        rng: int,
    ) -> Quality | None:
        c = self.config
        if random is None or best is None:
            return None
        if not totals.finished:
            msg = message(f"none of {totals.n:,} episodes is finished, so returns are not known")
            raise SupportError(message(msg, hint="check limit=, or log whole episodes"))
        if not len(totals.returns):
            hint = "leave out random= and best="
            raise LogError(message("the log has no 'reward', so it has no TQ", hint=hint))
        ends = [
            finished_returns(x, c.gamma, c.limit) if isinstance(x, Episodes) else float(x)
            for x in (random, best)
        ]
        return quality(totals.returns, ends[0], ends[1], level=c.level, joint=c.joint, rng=rng)

    def _good(self, log: Episodes | None, grid: CellGrid, pairs: Counter) -> float | None:
        """Share of the pairs that the best quarter of episodes visits; None when only one of the counts is exact."""
        if log is None or log.reward is None:
            return None
        counter = self.counting.counter()
        self.counting.count(best_quarter(log, self.config.gamma), grid, counter)
        part, all_ = counter.value(), pairs.value()
        return part.value / all_.value if part.method == all_.method else None


def opened(log: Log) -> tuple[Episodes, Iterable[Episodes]]:
    """The first part of a log, and all parts. Raises `LogError` when there is none."""
    if isinstance(log, Episodes):
        return log, (log,)
    parts = iter(log)
    first = next(parts, None)
    if first is None:
        raise LogError(message("the log has no parts", hint="give at least one log of trajectories"))
    return first, chain((first,), parts)


def _frequencies(pairs: Counter) -> Frequencies:
    return frequencies(pairs.counts()[1]) if pairs.exact else ()


def _fields(tq: Quality | None) -> dict[str, Any]:
    """TQ as the fields of a profile."""
    return {
        "tq": tq.value if tq else None,
        "tq_low": tq.low if tq else None,
        "tq_high": tq.high if tq else None,
        "tq_quantiles": tq.quantiles if tq else (),
        "random_return": tq.random_return if tq else None,
        "best_return": tq.best_return if tq else None,
    }
