"""What the learnt policies of a trajectory log are worth: estimates over both folds, differences, and their errors.

A policy's value is the mean over all trajectories of its doubly robust units (NDR), each from the policy that was
learnt on the other fold. A difference of two policies is paired by trajectory. Its error has two parts, taken as
independent: the spread of the paired units over trajectories, and between the estimates of single pairs of halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.episodes import Episodes
from counterlog.core.intervals import poisson_multiplicities, rounds_for
from counterlog.core.results import Estimate, Result
from counterlog.estimate.neural_fitted_q import claim_minus_return, value_parts, welch
from counterlog.estimate.neural_marginal_weights import FEWEST, NeuralPieces, weighted_by_member
from counterlog.estimate.portfolio_advice import portfolio_points, shrunken_gains
from counterlog.estimate.selection_results import AdvicePoint
from counterlog.estimate.sharpe_ratio_at_k import SharpeRatioAtKConfig, ranking
from counterlog.report.wording import BASELINE

Floats = NDArray[np.float64]
MAIN, ON_POLICY = "NDR", "Monte Carlo"
SECOND = ("NFQE", "NMIS")
TABLES, RATIOS = "DM", "SNPDIS"  # for state codes; for discrete actions with propensities
UNSETTLED = "the networks had not settled"
CORRECTED = 2.0  # drift that the weights are trusted to correct
POWER = 0.8
TAIL = 0.05  # share of the discounted time after the cut above which the log's own returns are no measure


@dataclass(frozen=True, kw_only=True)
class Lead(Result):
    """First minus second in `unit`, with an interval that holds for all pairs together; `n` counts trajectories.

    `value` is doubly robust, the interval spans those of all estimators, `se` is the largest of theirs. `agree` says
    that all estimators have the same sign. `needed` is how many trajectories in all would show a difference of this
    size with 80% power, -1 when no number helps; `visible` the smallest difference that this log shows with that power.
    `true` is the simulator's answer where there is one.
    """

    first: str
    second: str
    value: float
    lo: float
    hi: float
    se: float
    unit: str
    n: int
    agree: bool
    needed: int
    visible: float
    true: float = math.nan

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 0 and no estimator contradicts."""
        return self.agree and (self.lo > 0 or self.hi < 0)


@dataclass(frozen=True, kw_only=True)
class SelfCheck(Result):
    """What the networks say of the log's own actions, minus what the log earned; paired by trajectory, in `unit`.

    `passed`: the difference is within three standard errors, or a trifle beside the spread of the returns.
    """

    value: float
    se: float
    spread: float
    unit: str
    n: int
    passed: bool


class Valued:
    """All policies on all trajectories, from the pieces of each fold; `logged` comes first."""

    def __init__(
        self,
        log: Episodes,
        fold: NDArray[np.int64],
        pieces: Sequence[NeuralPieces],
        groups: Sequence[tuple[str, list[int]]],
    ) -> None:
        """`groups` are the policies with the positions of their seeds in each fold's pieces."""
        self.log, self.fold, self.pieces, self.groups = log, fold, pieces, groups
        self.c = pieces[0].fitted.config
        self.names = tuple(name for name, _ in groups)
        self.share = np.bincount(fold) / log.n
        self.unit = f"{log.reward_unit} per trajectory, discounted by {self.c.gamma:g} a step"

    def _by_policy(self, values: Floats) -> Floats:
        """(stacked policies, ...) -> (policies, ...), mean over seeds."""
        return np.stack([values[places].mean(axis=0) for _, places in self.groups])

    @property
    def units(self) -> Floats:
        """(P, n) doubly robust units; of the log itself its returns, unless cuts leave out too much of them."""
        out = np.empty((len(self.names), self.log.n))
        for k, piece in enumerate(self.pieces):
            out[:, self.fold == k] = self._by_policy(piece.units)
        if self.tail <= TAIL:
            out[0] = self.log.returns(self.c.gamma)
        return out

    @property
    def tail(self) -> float:
        """Share of the discounted time that lies after the cuts, over all trajectories."""
        if self.c.truncation == "end" or self.c.gamma == 1:
            return 0.0
        cut = self.log.truncated[self.log.last]
        return float((self.c.gamma**self.log.lengths * cut).mean())

    def moves(self, k: int) -> Floats:
        """(P, M / 2) `pair_moves` of the doubly robust value of fold k; 0 for the log's own returns."""
        out = self._by_policy(self.pieces[k].moves)
        if self.tail <= TAIL:
            out[0] = 0.0
        return out

    def _fit_halves(self, k: int) -> Floats:
        """(P, M) fitted values of fold k from all its starts, by member: what differs is the fit alone."""
        return self._by_policy(self.pieces[k].fitted.starts.mean(axis=2))

    def fit_pairs(self, k: int) -> Floats:
        """(P, M / 2) half the difference within each pair of opposite halves."""
        both = self._fit_halves(k)
        return np.asarray((both[:, ::2] - both[:, 1::2]) / 2, np.float64)

    def estimates(self, level: float) -> list[Estimate]:
        """Every policy by every estimator, policies outermost."""
        made = []
        units, freedom = self.units, self.c.members / 2
        for i, name in enumerate(self.names):
            ess = sum(float(np.mean([p.ess[j] for j in self.groups[i][1]])) for p in self.pieces)
            drift = max(self._drift(i, k) for k in range(len(self.pieces)))
            enough = ess >= FEWEST
            reason = "" if drift <= 1 else UNSETTLED
            lack = "" if enough else f"the weights rest on {ess:.1f} trajectories, below {FEWEST}"
            lack = lack or ("" if drift <= CORRECTED else UNSETTLED)
            own = name == BASELINE and self.tail <= TAIL
            value = float(units[i].mean())
            fits = [s**2 * float(np.square(self.moves(k)[i]).mean()) for k, s in enumerate(self.share)]
            parts = np.array([float(units[i].var(ddof=1)) / self.log.n, *fits])
            se, wide = welch(parts, np.array([self.log.n - 1.0, *[freedom - 1] * len(fits)]), level)
            main = Estimate(
                value=value, lo=value - wide, hi=value + wide, se=se, level=level, unit=self.unit, n=self.log.n,
                interval="trajectories, t" if own else "trajectories and pairs, t", policy=name,
                estimator=ON_POLICY if own else MAIN, ess=math.nan if own else ess, valid=own or not lack,
                reason="" if own else lack,
            )  # fmt: skip
            made.append(main)
            fitted = [value_parts(p.fitted)[0] for p in self.pieces]
            starts = [self._by_policy(p.fitted.starts.mean(axis=1))[i] for p in self.pieces]
            spread = sum(s**2 * x.var(ddof=1) / len(x) for s, x in zip(self.share, starts, strict=True))
            fits = [s**2 * float((self.fit_pairs(k)[i] ** 2).mean()) for k, s in enumerate(self.share)]
            se, wide = welch(
                np.array([spread, *fits]), np.array([self.log.n - 1.0, *[freedom] * len(fits)]), level
            )
            value = float(sum(s * self._by_policy(v)[i] for s, v in zip(self.share, fitted, strict=True)))
            made.append(self.estimate_of(name, "NFQE", value, se, wide, level, not reason, reason, math.nan))
            members = [self._by_policy(weighted_by_member(p.weights, p.fitted))[i] for p in self.pieces]
            value = float(sum(s * m.mean() for s, m in zip(self.share, members, strict=True)))
            halves = [
                s**2 * float((((m[::2] - m[1::2]) / 2) ** 2).mean())
                for s, m in zip(self.share, members, strict=True)
            ]
            se, wide = welch(np.array(halves), np.full(len(halves), freedom), level)
            made.append(self.estimate_of(name, "NMIS", value, se, wide, level, not lack, lack, ess))
        return made

    def estimate_of(
        self, policy: str, estimator: str, value: float, se: float, wide: float, level: float, valid: bool, reason: str,
        ess: float,
    ) -> Estimate:  # fmt: skip
        """An estimate in the unit of this log."""
        return Estimate(
            value=value, lo=value - wide, hi=value + wide, se=se, level=level, interval="halves, t", unit=self.unit,
            n=self.log.n, policy=policy, estimator=estimator, ess=ess, valid=valid, reason=reason,
        )  # fmt: skip

    def _drift(self, i: int, k: int) -> float:
        """What the values of a policy moved in the last quarter of the steps, beside their error or half a percent."""
        piece = self.pieces[k].fitted
        moved = self._by_policy(piece.moved[:, None])[i, 0]
        starts = self._by_policy(piece.starts.mean(axis=1))[i]
        return float(
            abs(moved) / max(starts.std() / math.sqrt(len(starts)), 0.005 * abs(starts.mean()), 1e-12)
        )

    def leads(self, level: float) -> list[Lead]:
        """Every pair, the better one first, with simultaneous intervals (Bonferroni) that hold those of all estimators.

        Each estimator fails in its own way where the log is thin, and its own interval does not know.
        """
        pairs = list(combinations(range(len(self.names)), 2))
        narrow = 1 - (1 - level) / len(pairs)
        made = []
        for i, j in pairs:
            if self.units[i].mean() < self.units[j].mean():
                i, j = j, i
            gaps = [self._gap_by_weights(i, j), self._gap_by_fit(i, j), self._gap_doubly_robust(i, j)]
            ends = [(value, *welch(parts, freedom, narrow)) for value, parts, freedom in gaps]
            value, se = ends[-1][0], max(e[1] for e in ends)
            made.append(
                Lead(
                    first=self.names[i], second=self.names[j], value=value, se=se, unit=self.unit, n=self.log.n,
                    lo=min(v - wide for v, _, wide in ends), hi=max(v + wide for v, _, wide in ends),
                    agree=all(v > 0 for v, _, _ in ends[:-1]),
                    needed=rounds_for(se, self.log.n, value, POWER, level) if value and se > 0 else -1,
                    visible=float(ndtri(0.5 + level / 2) + ndtri(POWER)) * se,
                )
            )  # fmt: skip
        return made

    def _gap_doubly_robust(self, i: int, j: int) -> tuple[float, Floats, Floats]:
        """Policy i minus policy j by the doubly robust units: value, variances, their degrees of freedom."""
        gap, pairs = self.units[i] - self.units[j], self.c.members / 2
        fits = [s**2 * float(np.square(self.moves(k)[i] - self.moves(k)[j]).mean()) for k, s in self._folds]
        parts = np.array([float(gap.var(ddof=1)) / self.log.n, *fits])
        return float(gap.mean()), parts, np.array([self.log.n - 1.0, *[max(pairs - 1, 1.0)] * len(fits)])

    def _gap_by_fit(self, i: int, j: int) -> tuple[float, Floats, Floats]:
        """The same by the fitted values of the starts."""
        value, parts = 0.0, []
        for k, s in self._folds:
            starts = self._by_policy(self.pieces[k].fitted.starts.mean(axis=1))
            gap, pairs = starts[i] - starts[j], self.fit_pairs(k)
            value += s * float(gap.mean())
            parts += [
                s**2 * float(gap.var(ddof=1)) / len(gap),
                s**2 * float(np.square(pairs[i] - pairs[j]).mean()),
            ]
        freedom = [self.log.n - 1.0, self.c.members / 2] * len(self.pieces)
        return value, np.array(parts), np.array(freedom)

    def _gap_by_weights(self, i: int, j: int) -> tuple[float, Floats, Floats]:
        """The same by the marginal weights."""
        value, parts = 0.0, []
        for k, s in self._folds:
            members = self._by_policy(weighted_by_member(self.pieces[k].weights, self.pieces[k].fitted))
            gap = members[i] - members[j]
            value += s * float(gap.mean())
            parts.append(s**2 * float(np.square((gap[::2] - gap[1::2]) / 2).mean()))
        return value, np.array(parts), np.full(len(parts), self.c.members / 2)

    @property
    def _folds(self) -> list[tuple[int, float]]:
        """Each fold with its share of the trajectories."""
        return [(k, float(s)) for k, s in enumerate(self.share)]

    def self_check(self) -> SelfCheck:
        """The networks' answer about the log's own actions beside the log's."""
        gaps = [claim_minus_return(p.fitted) for p in self.pieces]
        value = float(sum(s * g for s, (g, _) in zip(self.share, gaps, strict=True)))
        se = math.sqrt(sum(s**2 * e**2 for s, (_, e) in zip(self.share, gaps, strict=True)))
        spread = float(self.log.returns(self.c.gamma).std())
        passed = self.tail > TAIL or abs(value) <= max(3 * se, 0.05 * spread)
        return SelfCheck(value=value, se=se, spread=spread, unit=self.unit, n=self.log.n, passed=passed)

    def advice(
        self, config: SharpeRatioAtKConfig, rng: int, *, left_out: Sequence[str] = ()
    ) -> tuple[AdvicePoint, ...]:
        """SharpeRatio@k and the risks of testing the k best-looking policies, under the log's own uncertainty; nothing
        for fewer than two."""
        gains, drawn = self.gains(config.replicates, rng)
        kept = [i for i, name in enumerate(self.names[1:]) if name not in left_out]
        names = [self.names[1 + i] for i in kept]
        if len(names) < 2:
            return ()
        gains, drawn = gains[kept], drawn[:, kept]
        true = drawn if config.prior == "flat" else shrunken_gains(gains, drawn, rng=rng)
        return portfolio_points(config, gains, true, drawn, ranking(gains, names), names)

    def gains(self, replicates: int, rng: int) -> tuple[Floats, Floats]:
        """(m,) gains over the log, and (B, m) of logs and fits that might have been: Poisson weights on trajectories,
        and normal draws with the covariance of the pairs of halves."""
        units = self.units
        gap = units[1:] - units[0]
        counts = poisson_multiplicities(self.log.n, replicates, rng).astype(np.float64)
        drawn = counts @ gap.T / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        gen = np.random.default_rng([rng, 3])
        for k, s in enumerate(self.share):
            moves = self.moves(k)[1:] - self.moves(k)[0]
            z = gen.standard_normal((replicates, moves.shape[1])) / math.sqrt(moves.shape[1])
            drawn = drawn + s * z @ moves.T
        return np.asarray(gap.mean(axis=1), np.float64), np.asarray(drawn, np.float64)


def with_others(
    estimates: Sequence[Estimate], valued: Valued, players: Sequence[Mapping[str, Any]], level: float
) -> list[Estimate]:
    """The estimates, and after those of each policy what estimators without networks say of it: exact tables for state
    codes (DM), products of probability ratios where propensities are known. `players` are the policies of each fold, in
    order, one a learner (its first seed)."""
    from counterlog.estimate.trajectories import evaluate_trajectories

    log, c = valued.log, valued.c
    names = [TABLES] if log.state.ndim == 1 else []
    names += [RATIOS] if log.log_propensity is not None else []
    if not names:
        return list(estimates)
    by_fold = [
        evaluate_trajectories(
            log.take(valued.fold == k), dict(zip(valued.names[1:], own.values(), strict=True)), names, gamma=c.gamma,
            level=level,
        )
        for k, own in enumerate(players)
    ]  # fmt: skip
    found = [e for e in estimates if e.policy == valued.names[0]]
    for name in valued.names[1:]:
        found += [e for e in estimates if e.policy == name]
        for estimator in names:
            parts = [next(e for e in f if (e.policy, e.estimator) == (name, estimator)) for f in by_fold]
            found.append(_over_folds(valued, parts, level))
    return found


def _over_folds(valued: Valued, parts: Sequence[Estimate], level: float) -> Estimate:
    """The mean of one estimate a fold, weighted by their trajectories."""
    value = float(sum(s * e.value for s, e in zip(valued.share, parts, strict=True)))
    variances = np.array([(s * e.se) ** 2 for s, e in zip(valued.share, parts, strict=True)])
    if math.isfinite(value) and np.isfinite(variances).all():
        se, wide = welch(variances, np.array([max(e.n - 1.0, 1.0) for e in parts]), level)
    else:
        value, se, wide = (math.nan,) * 3
    bad = [e.reason for e in parts if not e.valid]
    one = parts[0]
    ess = float(np.sum([e.ess for e in parts]))
    made = valued.estimate_of(
        one.policy, one.estimator, value, se, wide, level, not bad, bad[0] if bad else "", ess
    )
    return replace(made, interval="folds, t")
