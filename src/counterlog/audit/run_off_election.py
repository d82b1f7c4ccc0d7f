"""Run-off election: how many training records could an attacker add, remove or change without flipping this prediction?

Use when    a model learns from records that others can write (reviews, uploads, scraped pages, logged decisions), and
            each prediction needs a proof of how much poison it survives.
Not when    the attacker changes the input at prediction time, or trains the model himself: that is another threat. Or
            parts would hold too few records to learn from: every base model sees one part in `parts`.
Data        features X, labels y and new inputs as arrays; or only the scores of base models that were trained on
            disjoint parts; or Rounds and candidate policies (`certified_choice`)
Paper       Rezaei, Banihashem, Chegini, Feizi: Run-Off Election: Improved Provable Defense against Data Poisoning
            Attacks (ICML 2023). Levine, Feizi: Deep Partition Aggregation (ICLR 2021). Wang, Levine, Feizi: Improved
            Certified Defenses against Data Poisoning with (Deterministic) Finite Aggregation (ICML 2022).
Equation    gap(c, c') = N_c - N_c' + 1[c' > c],   N_c = models whose first choice is c                             (1)
            DPA: radius = min_c ceil(gap(p, c) / 2) - 1                                                             (2)
            final: the two classes of most votes; p wins when 2 W_pc - m + 1[c > p] > 0,  W_pc models prefer p to c (3)
            R1 = min_{a,b} V2(gap(p, a), gap(p, b)),   V2(i, j) = max(ceil(i/2), ceil(j/2), ceil((i + j)/3))        (4)
            R2 = min_c max(ceil(gap(s, c)/2), ceil((2 W_pc - m + 1[c > p])/2)),   first term 0 for c = s            (5)
            DPA+ROE: radius = min(R1, R2) - 1;   FA, FA+ROE: each ceil becomes V1(need, power), the fewest buckets
            whose largest powers sum to the need                                                                    (6)
Shapes      scores (n, m, C) of m = parts * spread base models | prediction, radius (n,) int64 | N, W (n, C)
            p prediction, s the other finalist, m models, C classes
Units       radius: training records added or removed in all (units, when parts are made from units)
Raises      LogError: scores that are not (n, m, C) finite numbers, labels out of range, unequal lengths
            ConfigError: m is no multiple of the spread, equal offsets, a hash or a base learner that breaks the proof
Differs     paper: a table of V2 that ends at gaps of 1,209 and a loop over predictions; here the closed form.
            Ties in scores go to the smaller class in both rounds; the official code leaves first choices with equal
            scores to an unstable sort. Radii of wrong predictions are kept. Base models may be any learner; a class
            that a part lacks gets a model's mean score.
Builds on   partition_ensemble
Call        RunOffElection(config).check(X, y, new_X, labels, base=estimator); certify(scores, "dpa+roe")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.audit.certified_predictions import Certificates, as_certificates
from counterlog.audit.election_scores import boost, checked_finite, checked_scores, checked_shifts, from_votes
from counterlog.audit.partition_ensemble import PartitionEnsemble
from counterlog.core.config import Config, param
from counterlog.core.errors import LogError, message

__all__ = [
    "Certified",
    "RunOffElection",
    "RunOffElectionConfig",
    "boost",
    "certified_accuracy",
    "certify",
    "from_votes",
]
Ints = NDArray[np.int64]
OUTVOTED, KEPT_OUT, LOST_FINAL = "outvoted", "kept out of the final", "loses the final"
CHUNK = 4_000_000


@dataclass(frozen=True)
class Certified:
    """What `certify` returns, one entry a prediction.

    `radius` (n,): the prediction stands for every change of at most so many training records. `runner_up` (n,): the
    class it won against. `binding` (n,): how the cheapest attack counted would go about it. `rivals` (n, 2): the class,
    or the pair of classes, of that attack (-1 where there is only one). `votes` (n, C): first choices.
    """

    method: str
    prediction: Ints
    radius: Ints
    runner_up: Ints
    binding: NDArray[np.str_]
    rivals: Ints
    votes: Ints


def first_choice(scores: NDArray[Any]) -> Ints:
    """(n, m, C) -> (n, m): each model's class of the highest score, the smaller class on ties."""
    return np.asarray(np.argmax(scores, axis=2), dtype=np.int64)


def count_votes(choice: Ints, classes: int) -> Ints:
    """N of (1): (n, m) -> (n, C)."""
    n = len(choice)
    flat = np.bincount((choice + classes * np.arange(n)[:, None]).ravel(), minlength=n * classes)
    return flat.reshape(n, classes).astype(np.int64)


def lead(votes: Ints, c: Ints) -> Ints:
    """Equation (1): gap(c, c') for one class c a row against all: (n, C), (n,) -> (n, C). c beats c' iff it is > 0."""
    own = np.take_along_axis(votes, c[:, None], axis=1)
    return np.asarray(own - votes + (np.arange(votes.shape[1]) > c[:, None]))


def finalists(votes: Ints) -> tuple[Ints, Ints]:
    """The two classes of most votes, the smaller class first on ties: (n, C) -> (n,), (n,)."""
    order = np.argsort(-votes, axis=1, kind="stable")
    return order[:, 0], order[:, 1]


def preferring(scores: NDArray[Any], c: Ints) -> Ints:
    """W: how many models prefer class c to each other class, (n, m, C), (n,) -> (n, C); equal scores: the smaller."""
    own = np.take_along_axis(scores, c[:, None, None], axis=2)
    above = np.count_nonzero(scores > own, axis=1)
    equal = np.count_nonzero(scores == own, axis=1)
    return np.asarray(scores.shape[1] - above - equal * (np.arange(scores.shape[2]) < c[:, None]))


def duel(preferred: Ints, c: Ints, models: int) -> Ints:
    """Equation (3): how far class c is ahead of each other class in a final, (n, C); it wins iff > 0."""
    return np.asarray(2 * preferred - models + (np.arange(preferred.shape[1]) > c[:, None]))


def final(scores: NDArray[Any], a: Ints, b: Ints) -> Ints:
    """Equation (3) for one pair a row: (n,) by how much a is ahead of b in their final; a wins iff > 0."""
    one, two = (np.take_along_axis(scores, c[:, None, None], axis=2)[:, :, 0] for c in (a, b))
    won = np.count_nonzero(one > two, axis=1) + (a < b) * np.count_nonzero(one == two, axis=1)
    return np.asarray(2 * won - scores.shape[1] + (b > a))


def half(need: Ints) -> Ints:
    """Fewest models that close a gap when each closes 2 of it: ceil(need / 2), 0 for need <= 0."""
    return np.asarray((np.maximum(need, 0) + 1) // 2)


def two_rivals(i: Ints, j: Ints) -> Ints:
    """V2 of (4): fewest models that close gaps i and j when each closes 2 of one and 1 of the other."""
    i, j = np.maximum(i, 0), np.maximum(j, 0)
    return np.asarray(np.maximum(np.maximum(half(i), half(j)), (i + j + 2) // 3))


def fewest(power: NDArray[Any], need: Ints) -> Ints:
    """V1 of (6): fewest entries of power (..., m) whose sum reaches need (...); 0 for need <= 0, m + 1 if none do."""
    reach = np.cumsum(np.sort(power, axis=-1)[..., ::-1], axis=-1, dtype=np.int64)
    return np.asarray(np.where(need <= 0, 0, np.count_nonzero(reach < need[..., None], axis=-1) + 1))


def touched(x: NDArray[Any], shifts: Sequence[int]) -> NDArray[np.int16]:
    """Sums over the models that a bucket trains: bucket b, models (b + shift) mod m; (..., m) -> (..., m)."""
    total = np.zeros(x.shape, dtype=np.int16)
    for shift in shifts:
        total += np.roll(x, -shift, axis=-1)
    return total


def dpa_rivals(votes: Ints, p: Ints) -> Ints:
    """Equation (2): records with which each class overtakes p, (n, C)."""
    return half(lead(votes, p))


def fa_rivals(votes: Ints, p: Ints, counts: NDArray[np.int16], d: int) -> Ints:
    """Equation (2) by (6): a model that chose p closes 2, one that chose c none, any other 1. (n, C)."""
    own = np.take_along_axis(counts, p[:, None, None], axis=1)
    return fewest(d + own - counts, lead(votes, p))


def dpa_kept_out(votes: Ints, p: Ints, never: int) -> tuple[Ints, Ints]:
    """R1 of (4) and its pair: V2 grows in both gaps, so the two smallest decide. (n,), (n, 2)."""
    if votes.shape[1] == 2:
        return np.full(len(p), never), np.full((len(p), 2), -1)
    gaps = lead(votes, p)
    np.put_along_axis(gaps, p[:, None], np.iinfo(np.int64).max, axis=1)
    pair = np.argsort(gaps, axis=1, kind="stable")[:, :2]
    i, j = np.take_along_axis(gaps, pair, axis=1).T
    return two_rivals(i, j), pair


def fa_kept_out(
    votes: Ints, p: Ints, counts: NDArray[np.int16], d: int, best: Ints, never: int
) -> tuple[Ints, Ints]:
    """R1 of (4) by (6), and its pair; a row stops once no pair can undercut `best` (n,), so R1 is exact only below it.

    A pair costs at least what its dearer class costs alone; pairs are tried in that order.
    """
    n, classes = votes.shape
    found, pair = np.full(n, never), np.full((n, 2), -1)
    alone = fa_rivals(votes, p, counts, d)
    np.put_along_axis(alone, p[:, None], never, axis=1)
    order, gaps = np.argsort(alone, axis=1, kind="stable"), lead(votes, p)
    for j in range(1, classes - 1):
        for i in range(j):
            b = order[:, j]
            rows = np.flatnonzero(alone[np.arange(n), b] < np.minimum(found, best))
            if not rows.size:
                break
            a, b, own = order[rows, i], b[rows], counts[rows, p[rows]]
            power = d + 2 * own - counts[rows, a] - counts[rows, b]
            both = fewest(power, gaps[rows, a] + gaps[rows, b])
            cost = np.maximum(both, alone[rows, b])
            better = cost < found[rows]
            found[rows[better]] = cost[better]
            pair[rows[better]] = np.stack([a, b], axis=1)[better]
    return found, pair


def dpa_lost_final(votes: Ints, preferred: Ints, p: Ints, s: Ints, models: int) -> Ints:
    """The terms of R2 of (5), (n, C): class c must overtake s and then win its duel with p."""
    reach = half(lead(votes, s))
    np.put_along_axis(reach, s[:, None], 0, axis=1)
    return np.maximum(reach, half(duel(preferred, p, models)))


def fa_lost_final(
    scores: NDArray[Any], votes: Ints, preferred: Ints, p: Ints, s: Ints, counts: NDArray[np.int16],
    shifts: Sequence[int],
) -> Ints:  # fmt: skip
    """The terms of R2 of (5) by (6), (n, C)."""
    reach = fa_rivals(votes, s, counts, len(shifts))
    np.put_along_axis(reach, s[:, None], 0, axis=1)
    own = np.take_along_axis(scores, p[:, None, None], axis=2)
    smaller = np.arange(scores.shape[2]) < p[:, None, None]
    prefer = (own > scores) | ((own == scores) & ~smaller)
    power = 2 * touched(prefer.transpose(0, 2, 1), shifts)
    return np.maximum(reach, fewest(power, duel(preferred, p, scores.shape[1])))


def _by_votes(scores: NDArray[Any], shifts: tuple[int, ...] | None) -> tuple[Any, ...]:
    """One chunk by plurality."""
    choice, classes = first_choice(scores), scores.shape[2]
    votes = count_votes(choice, classes)
    p, s = finalists(votes)
    if shifts is None:
        cost = dpa_rivals(votes, p)
    else:
        cost = fa_rivals(votes, p, _counts(choice, classes, shifts), len(shifts))
    np.put_along_axis(cost, p[:, None], np.iinfo(np.int64).max, axis=1)
    rival = np.argmin(cost, axis=1)
    radius = np.take_along_axis(cost, rival[:, None], axis=1)[:, 0] - 1
    rivals = np.stack([rival, np.full_like(rival, -1)], axis=1)
    return p, radius, s, np.full(len(p), OUTVOTED), rivals, votes


def _by_run_off(scores: NDArray[Any], shifts: tuple[int, ...] | None) -> tuple[Any, ...]:
    """One chunk by run-off election."""
    n, models, classes = scores.shape
    never = models + 1
    choice = first_choice(scores)
    votes = count_votes(choice, classes)
    first, second = finalists(votes)
    ahead = final(scores, first, second)
    p, s = np.where(ahead > 0, first, second), np.where(ahead > 0, second, first)
    preferred = preferring(scores, p)
    if shifts is None:
        lost = dpa_lost_final(votes, preferred, p, s, models)
    else:
        counts = _counts(choice, classes, shifts)
        lost = fa_lost_final(scores, votes, preferred, p, s, counts, shifts)
    np.put_along_axis(lost, p[:, None], never, axis=1)
    rival = np.argmin(lost, axis=1)
    second_round = lost[np.arange(n), rival]
    if shifts is None:
        first_round, pair = dpa_kept_out(votes, p, never)
    else:
        first_round, pair = fa_kept_out(votes, p, counts, len(shifts), second_round, never)
    out = first_round < second_round
    single = np.stack([rival, np.full_like(rival, -1)], axis=1)
    return (
        p,
        np.minimum(first_round, second_round) - 1,
        s,
        np.where(out, KEPT_OUT, LOST_FINAL),
        np.where(out[:, None], pair, single),
        votes,
    )


def _counts(choice: Ints, classes: int, shifts: Sequence[int]) -> NDArray[np.int16]:
    """(n, C, m): of the models that bucket b trains, how many chose class c."""
    return touched(choice[:, None, :] == np.arange(classes)[:, None], shifts)


def certify(scores: ArrayLike, method: str = "dpa+roe", *, shifts: Sequence[int] | None = None) -> Certified:
    """Predictions and radii from the scores (n, m, C) of base models; nothing else is needed.

    `shifts` are the d offsets of finite aggregation: a record in bucket b trains the models (b + shift) mod m. Rows are
    taken in chunks, so that memory stays at the scores and a little. Raises `LogError`, `ConfigError`.
    """
    values = checked_scores(scores)
    offsets = checked_shifts(method, shifts, values.shape[1])
    rule = _by_run_off if method.endswith("+roe") else _by_votes
    size = max(1, CHUNK // (values.shape[1] * values.shape[2]))
    parts = []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        checked_finite(part, start)
        parts.append(rule(part, offsets))
    p, radius, s, binding, rivals, votes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Certified(
        method=method, prediction=p, radius=radius, runner_up=s, binding=binding, rivals=rivals, votes=votes
    )


def certified_accuracy(
    radius: ArrayLike, prediction: ArrayLike, labels: ArrayLike, budgets: ArrayLike
) -> Any:
    """(budgets,) share of inputs that are predicted right and whose radius is at least the budget."""
    r, p, y = np.asarray(radius), np.asarray(prediction), np.asarray(labels)
    if not len(r) == len(p) == len(y) or not len(r):
        msg = message(f"{len(r)} radii, {len(p)} predictions, {len(y)} labels", expected="one each an input")
        raise LogError(msg)
    kept = np.where(p == y, r, -1)
    return (kept[:, None] >= np.maximum(np.atleast_1d(budgets), 0)).mean(axis=0)


@dataclass(frozen=True, kw_only=True)
class RunOffElectionConfig(Config):
    """How the training set is split, how many models are trained and how they vote."""

    parts: int = param(
        20, "k: disjoint parts of the training set; more parts, larger radii, weaker models", at_least=2
    )
    spread: int = param(1, "d: models that a record trains; 1 is DPA, more is finite aggregation", at_least=1)
    vote: str = param(
        "run-off", "how the models' scores become a prediction", choices=("plurality", "run-off")
    )
    versions: int = param(1, "differently seeded models a part, their scores summed (DPA*)", at_least=1)
    hash: str = param(
        "sha256", "what assigns a record to its part: a digest, or the sum of whole-number features",
        choices=("sha256", "sum"),
    )  # fmt: skip
    salt: int = param(0, "another salt, another split (for `sha256`)", at_least=0)
    jobs: int = param(1, "models trained at the same time; -1: one a processor", at_least=-1)


class RunOffElection:
    """Train base models on disjoint parts, let them vote, and certify each prediction."""

    def __init__(self, config: RunOffElectionConfig = RunOffElectionConfig()) -> None:
        self.config = config
        self.ensemble: PartitionEnsemble | None = None

    def check(
        self,
        X: ArrayLike,
        y: ArrayLike,
        new_X: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        base: Any = None,
        units: ArrayLike | None = None,
        classes: Sequence[Any] | None = None,
        rng: int = 0,
    ) -> Certificates:
        """Certificates of the predictions for `new_X` (n, features), with accuracy where their `labels` are given.

        `base` is a scikit-learn classifier or a function seed -> classifier (None: logistic regression). With `units`
        (rows,) all records of a unit are in one part, and radii count units. `classes` fixes the label set beforehand.
        """
        c = self.config
        self.ensemble = PartitionEnsemble(
            c.parts,
            spread=c.spread,
            base=base,
            hash=c.hash,
            salt=c.salt,
            versions=c.versions,
            jobs=c.jobs,
            rng=rng,
        ).fit(X, y, units=units, classes=classes)
        roe = "+roe" if c.vote == "run-off" else ""
        shifts = self.ensemble.shifts if c.spread > 1 else None
        found = certify(self.ensemble.scores(new_X), ("fa" if shifts else "dpa") + roe, shifts=shifts)
        return as_certificates(
            found,
            classes=self.ensemble.classes,
            labels=labels,
            parts=c.parts,
            spread=c.spread,
            unit="training records" if units is None else "training units",
            notes=self.ensemble.notes,
        )
