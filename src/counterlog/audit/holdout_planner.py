"""What a setting of the reusable holdout does to attacking analysts, by simulation; and the best setting of a grid.

The theory in `holdout_bounds` holds for every analyst and is loose. Here two known attacks are played against data
without any signal, and the 1 - beta quantile of the largest error is reported: what to plan with, not a proof.
Everything is in query ranges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from counterlog.audit.holdout_bounds import Floats, error_bound
from counterlog.core.errors import ConfigError, message
from counterlog.core.results import Result

ANALYSTS = ("sign attack", "feature screening")


@dataclass(frozen=True, kw_only=True)
class Accuracy(Result):
    """What one setting of the holdout promises and does, in query ranges (multiply by hi - lo).

    `simulated` is the 1 - beta quantile of the largest error over the worse analyst; `naive` the same when the plain
    holdout mean is answered instead; `exhausted` the share of runs whose budget ran out.
    """

    n: int
    questions: int
    beta: float
    threshold: float
    sigma: float
    budget: int
    noise: str
    certified: float
    transfer: float
    simulated: float
    naive: float
    exhausted: float
    by_analyst: dict[str, float]
    unit: str = "query ranges"


@dataclass(frozen=True, kw_only=True)
class Plan(Result):
    """The best setting of a grid by simulation, and the whole grid; T, sigma and B go into the config."""

    n: int
    questions: int
    threshold: float
    sigma: float
    budget: int
    accuracy: Accuracy
    grid: tuple[dict[str, Any], ...]
    unit: str = "query ranges"

    def records(self) -> list[dict[str, Any]]:
        """The grid, one setting a row."""
        return [dict(row) for row in self.grid]


def transcripts(
    train: Floats, holdout: Floats, *, threshold: float, sigma: float, budget: int, noise: str, rng: int
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """R Thresholdouts at once: (R, m) means -> (R, m) answers (NaN once exhausted), (R,) budgets, (R,) thresholds."""
    gen = np.random.default_rng(rng)
    runs, m = train.shape

    def draw(scale: float) -> Floats:
        if noise == "none":
            return np.zeros(runs)
        law = gen.laplace if noise == "laplace" else gen.normal
        return np.asarray(law(0.0, scale, runs))

    limit: Floats = threshold + draw(2 * sigma)
    left = np.full(runs, budget, dtype=np.int64)
    answers = np.empty((runs, m))
    for j in range(m):
        a, h = train[:, j], holdout[:, j]
        over = np.abs(h - a) > limit + draw(4 * sigma)
        answer = a.copy()
        if over.any():
            answer[over] = (h + draw(sigma))[over]
            limit = np.where(over, threshold + draw(2 * sigma), limit)
        answers[:, j] = np.where(left > 0, answer, np.nan)
        left -= over & (left > 0)
    return answers, left, limit


def simulate(
    n: int,
    m: int,
    *,
    threshold: float,
    sigma: float,
    budget: int,
    analyst: str = "sign attack",
    noise: str = "laplace",
    guarded: bool = True,
    repetitions: int = 200,
    rng: int = 0,
) -> tuple[Floats, NDArray[np.bool_]]:
    """(R,) largest error and (R,) exhausted, of an analyst on data without any signal.

    m independent +-1 queries of true mean 0 (1/2 on [0, 1]) are asked; then their sum, signed by the answers (`sign
    attack`), or signed by training and kept only where both halves look alike and large (`feature screening`), is asked
    as one majority vote. Given the means, a row's signed sum is near normal, so the vote's mean is 2 Phi(.) - 1 and no
    n-by-m table is needed. `guarded=False` answers every question with the plain holdout mean.
    """
    if analyst not in ANALYSTS:
        msg = message(f"{analyst!r} is not an analyst", expected=f"one of {', '.join(ANALYSTS)}")
        raise ConfigError(msg)
    gen = np.random.default_rng(rng)
    a, h = gen.normal(0, 1 / math.sqrt(n), (2, repetitions, m))
    wobble = gen.normal(0, 1 / math.sqrt(n), (2, repetitions))
    scale = 0.5  # from the +-1 coding to [0, 1]
    left = np.full(repetitions, budget, dtype=np.int64)
    answer = h * scale
    if guarded:
        answer, left, _ = transcripts(
            a * scale, h * scale, threshold=threshold, sigma=sigma, budget=budget, noise=noise, rng=rng + 1
        )
    seen = np.nan_to_num(answer)
    if analyst == "sign attack":
        weight = np.where(seen >= 0, 1.0, -1.0)
    else:
        large = scale / math.sqrt(n)
        kept = (np.abs(a) * scale >= large) & (np.abs(seen) >= large) & (np.sign(a) == np.sign(seen))
        weight = np.where(kept, np.sign(a), 0.0)
    size = np.sqrt(np.maximum((weight != 0).sum(axis=1), 1))
    vote = [2 * ndtr((weight * x).sum(axis=1) / size) - 1 + w for x, w in ((a, wobble[0]), (h, wobble[1]))]
    worst = np.nanmax(np.abs(answer), axis=1)
    exhausted = left < 1
    last = vote[1] * scale
    if guarded:
        final, _, _ = transcripts(
            (vote[0] * scale)[:, None], last[:, None],
            threshold=threshold, sigma=sigma, budget=1, noise=noise, rng=rng + 2,
        )  # fmt: skip
        last = np.where(exhausted, 0.0, final[:, 0])
    return np.maximum(worst, np.abs(last)), exhausted


def accuracy(
    n: int,
    m: int,
    *,
    beta: float = 0.05,
    threshold: float | None = None,
    sigma: float | None = None,
    budget: int | None = None,
    noise: str = "laplace",
    repetitions: int = 200,
    rng: int = 0,
) -> Accuracy:
    """Theory and simulation of one setting side by side; m adaptive questions on n rows."""
    T = threshold or 4 / math.sqrt(n)
    s = sigma or T / 16
    B = budget or math.ceil(n / 50)
    quantiles, naive, exhausted = {}, 0.0, 0.0
    for analyst in ANALYSTS:
        common: dict[str, Any] = {"analyst": analyst, "noise": noise, "repetitions": repetitions, "rng": rng}
        error, out = simulate(n, m, threshold=T, sigma=s, budget=B, **common)
        plain, _ = simulate(n, m, threshold=T, sigma=s, budget=B, guarded=False, **common)
        quantiles[analyst] = float(np.quantile(error, 1 - beta))
        naive = max(naive, float(np.quantile(plain, 1 - beta)))
        exhausted = max(exhausted, float(out.mean()))
    settings: dict[str, Any] = {"threshold": T, "sigma": s, "budget": B, "beta": beta}
    return Accuracy(
        n=n,
        questions=m,
        noise=noise,
        certified=error_bound(n, m + 1, noise=noise, **settings),
        transfer=error_bound(n, m + 1, noise=noise, mechanism="transfer", **settings),
        simulated=max(quantiles.values()),
        naive=naive,
        exhausted=exhausted,
        by_analyst=quantiles,
        **settings,
    )


def plan(
    n: int,
    m: int,
    *,
    beta: float = 0.05,
    noise: str = "laplace",
    thresholds: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0),
    ratios: tuple[float, ...] = (4.0, 8.0, 16.0),
    budgets: tuple[float, ...] = (0.25, 1.0, 4.0),
    repetitions: int = 200,
    rng: int = 0,
) -> Plan:
    """The setting whose simulated error quantile is smallest among those exhausted in under 5% of the runs.

    The grid: T = `thresholds`/sqrt(n), sigma = T/`ratios`, B = `budgets` n/50. If every setting runs out, the one
    that runs out least is returned: its `accuracy.exhausted` says so.
    """
    rows = []
    for t in thresholds:
        for ratio in ratios:
            for b in budgets:
                T, B = t / math.sqrt(n), max(1, math.ceil(b * n / 50))
                found = accuracy(
                    n, m, beta=beta, threshold=T, sigma=T / ratio, budget=B, noise=noise,
                    repetitions=repetitions, rng=rng,
                )  # fmt: skip
                rows.append(found)
    best = min(
        rows,
        key=lambda r: (r.exhausted >= 0.05, r.exhausted if r.exhausted >= 0.05 else r.simulated, r.budget),
    )
    return Plan(
        n=n,
        questions=m,
        threshold=best.threshold,
        sigma=best.sigma,
        budget=best.budget,
        accuracy=best,
        grid=tuple(r.records()[0] for r in rows),
    )
