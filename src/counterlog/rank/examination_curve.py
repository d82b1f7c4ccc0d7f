"""The examination curve of a whole log given a ranker, with intervals over lists: what L_exam's minimum is, exactly.

With the scores held fixed, L_exam depends on the log only through S[p, k], the sum of inverse-relevance-weighted
clicks at position k over the lists that show the positions p. Its minimum is a fixed point that rises at every round:
theta_k <- sum_p S[p, k] / sum_{p with k} N_p / Z_p,  N_p = sum_k S[p, k],  Z_p = sum_{k in p} theta_k, one round
when all lists show the same positions. Sums by hash bucket of the lists serve every bootstrap replicate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.bootstrap import poisson_multiplicities
from counterlog.core.hashing import scatter

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Bits = NDArray[np.bool_]
BUCKETS = 512
ROUNDS = 500
TOLERANCE = 1e-12
SMALLEST = 1e-300  # examination of a position without a click
EMPTY = -300.0  # logarithms below are of such positions


def inverse_relevance(score: Floats, shown: Bits, reference: str, most: float | None) -> Floats:
    """(L, K) v: exp(score of the reference minus score), the reference being position 1 or the list's mean."""
    held = np.where(shown, score, 0.0)
    at = (
        held[:, :1]
        if reference == "first"
        else held.sum(axis=1, keepdims=True) / shown.sum(axis=1, keepdims=True)
    )
    with np.errstate(over="ignore"):
        weight = np.exp(np.minimum(at - held, 600.0))
    return np.where(shown, weight if most is None else np.minimum(weight, most), 0.0)


def fixed_point(sums: Floats, patterns: Bits) -> Floats:
    """(R, K) theta up to scale, theta_1-free: shares that sum to 1. `sums` (R, P, K) by shown positions (P, K)."""
    total = sums.sum(axis=1)
    share = total / total.sum(axis=1, keepdims=True)
    if len(patterns) == 1:
        return np.asarray(share)
    clicks = sums.sum(axis=2)
    held = patterns.astype(np.float64)
    for _ in range(ROUNDS):
        reach = clicks / np.maximum(share @ held.T, 1e-300)
        new = total / np.maximum(reach @ held, 1e-300)
        new /= new.sum(axis=1, keepdims=True)
        done = float(np.abs(new - share).max()) < TOLERANCE
        share = new
        if done:
            break
    return np.asarray(share)


@dataclass(frozen=True)
class Curve:
    """theta_k / theta_reference of one segment: value, interval, and the logarithm's standard error, each (K,)."""

    segment: int
    value: Floats
    lo: Floats
    hi: Floats
    log_se: Floats
    clicks: Floats
    lists: int


class ExaminationSums:
    """S by segment, shown positions and hash bucket of the lists, added up over parts of a log in fixed memory."""

    def __init__(self, segments: int, size: int, *, rng: int = 0) -> None:
        self.segments, self.size, self.rng, self.lists = segments, size, rng, 0
        self.tables: dict[tuple[int, bytes], Floats] = {}
        self.clicks = np.zeros((segments, size))
        self.seen = np.zeros(segments, np.int64)

    def add(self, weighted_click: Floats, click: NDArray[np.uint8], shown: Bits, segment: Codes) -> None:
        """Some more lists, (l, K) each; their numbers in the log go on from the last part's."""
        patterns, pattern = shown_sets(shown)
        numbers = np.arange(self.lists, self.lists + len(click), dtype=np.uint64)
        bucket = scatter(numbers, BUCKETS, salt=self.rng)
        self.lists += len(click)
        shape = (self.segments * len(patterns), BUCKETS)
        key = (segment * len(patterns) + pattern) * BUCKETS + bucket
        sums = np.stack(
            [np.bincount(key, column, minlength=shape[0] * BUCKETS) for column in weighted_click.T], axis=-1
        ).reshape(*shape, self.size)
        for s in range(self.segments):
            mine = segment == s
            self.clicks[s] += click[mine].sum(axis=0)
            self.seen[s] += int(mine.sum())
            for p, positions in enumerate(patterns):
                part = sums[s * len(patterns) + p]
                if part.any():
                    where = (s, positions.tobytes())
                    self.tables[where] = self.tables[where] + part if where in self.tables else part

    def curves(self, *, reference: str, level: float, replicates: int) -> list[Curve]:
        """The whole log's curve first (segment -1); with several segments each one's, shrunk towards it."""
        counts = poisson_multiplicities(BUCKETS, replicates, self.rng).astype(np.float64)
        found = []
        for s in [-1, *range(self.segments)] if self.segments > 1 else [-1]:
            mine = {k: v for k, v in self.tables.items() if s in (-1, k[0])}
            patterns = sorted({k[1] for k in mine})
            held = np.stack([np.frombuffer(p, np.bool_) for p in patterns])
            table = np.zeros((BUCKETS, len(patterns), self.size))
            for (_, p), part in mine.items():
                table[:, patterns.index(p)] += part
            flat = table.reshape(BUCKETS, -1)
            sums = np.concatenate([flat.sum(axis=0)[None], counts @ flat]).reshape(-1, *held.shape)
            logs = np.log(np.maximum(fixed_point(sums, held), SMALLEST))
            logs -= logs[:, :1] if reference == "first" else logs.mean(axis=1, keepdims=True)
            chosen = slice(None) if s < 0 else slice(s, s + 1)
            found.append((s, logs, self.clicks[chosen].sum(axis=0), int(self.seen[chosen].sum())))
        if self.segments > 1:
            found = [found[0], *_shrunk(found)]
        tail = 100 * (1 - level) / 2
        out = []
        for s, logs, clicks, lists in found:
            lo, hi = np.percentile(logs[1:], [tail, 100 - tail], axis=0)
            se = logs[1:].std(axis=0, ddof=1)
            out.append(Curve(s, np.exp(logs[0]), np.exp(lo), np.exp(hi), se, clicks, lists))
        return out


def shown_sets(shown: Bits) -> tuple[Bits, Codes]:
    """The distinct sets of shown positions, and which one each list has."""
    if shown.all():
        return shown[:1], np.zeros(len(shown), np.int64)
    packed = np.packbits(shown, axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, code = np.unique(keys, return_index=True, return_inverse=True)
    return shown[first], code.astype(np.int64)


def _shrunk(found: list[tuple[int, Floats, Floats, int]]) -> list[tuple[int, Floats, Floats, int]]:
    """Segments pulled towards the whole log's curve by the method of moments: noisy segments more than rich ones.

    At every position the spread between segments, less what sampling explains, is the prior variance.
    """
    whole, own = found[0][1], found[1:]
    known = np.stack([(logs > EMPTY).all(axis=0) for _, logs, _, _ in own])
    gap = np.where(known, np.stack([logs[0] - whole[0] for _, logs, _, _ in own]), 0.0)
    noise = np.where(known, np.stack([logs[1:].var(axis=0) for _, logs, _, _ in own]), 0.0)
    between = np.maximum((gap**2 - noise).sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.0)
    total = between + noise
    keep = np.where(known & (total > 0), between / np.where(total > 0, total, 1.0), 0.0)
    return [(s, whole + k * (logs - whole), *rest) for (s, logs, *rest), k in zip(own, keep, strict=True)]
