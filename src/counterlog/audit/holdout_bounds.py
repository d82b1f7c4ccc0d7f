"""How many adaptive questions a holdout of n rows is guaranteed to carry: certificates and transfer bounds.

Everything is in query ranges (hi - lo = 1). Two kinds of guarantee:
    certified   description length: a transcript of m questions with at most B holdout answers on a grid of L values has
                paths = sum_{k=1..B} C(m, k) L^(k-1) questions in it; a union bound over them holds for ANY analyst
    transfer    differential privacy carried to the population (Jung et al. 2020): conservative at ordinary n
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtri

from counterlog.core.errors import ConfigError, message

Floats = NDArray[np.float64]
MECHANISMS = ("thresholdout", "sparse", "direct", "pmw", "transfer", "laplace", "gaussian", "frozen", "split")
MOST = 10**15
MOST_TERMS = 20_000


def log_choose(m: float, k: Floats | float) -> Floats:
    """ln C(m, k); -inf outside 0 <= k <= m."""
    k = np.asarray(k, dtype=np.float64)
    inside = (k >= 0) & (k <= m)
    kk = np.where(inside, k, 0.0)
    # gammaln loses all digits of the difference when m is huge: there C(m, k) <= m^k / k! is as good and safe
    exact = gammaln(m + 1) - gammaln(kk + 1) - gammaln(np.maximum(m - kk + 1, 1.0)) if m < 1e8 else None
    value = kk * math.log(m) - gammaln(kk + 1) if exact is None else exact
    return np.where(inside, value, -np.inf)


def outcomes(grid: float) -> float:
    """L: how many different rounded answers one holdout answer can be, whatever its noise."""
    return math.floor(1 / grid) + 2.0


def hoeffding(n: float, log_count: float, beta: float) -> float:
    """The error that none of exp(log_count) fixed means of n values in [0, 1] exceeds, with probability 1 - beta."""
    return math.sqrt((math.log(2 / beta) + log_count) / (2 * n))


def certified_error(
    n: float, *, question: int, spent: int, log_outcomes: float, budget: int, beta: float
) -> float:
    """|h - mu| for the question that follows `spent` holdout answers, simultaneously over all questions and paths.

    With nothing spent it is a plain union bound over the questions asked; every unit spent widens it.
    """
    share = math.log(question * (question + 1.0)) + math.log(budget + 1.0)
    return hoeffding(n, share + float(log_choose(question - 1, spent)) + log_outcomes, beta)


def log_paths(m: float, budget: int, log_outcomes: float) -> float:
    """ln sum_{k=1..B} C(m, k) L^(k-1): the questions in all transcripts of m questions with at most B events."""
    last = int(min(budget, m))
    if last > MOST_TERMS:  # the terms rise to one peak: bound the sum by that term times their number
        share = math.exp(min(log_outcomes, 700.0))
        peak = np.array([min(last, 1 + m * share / (1 + share))])
        return float(log_choose(m, peak)[0] + (peak[0] - 1) * log_outcomes) + math.log(last)
    k = np.arange(1, last + 1, dtype=np.float64)
    terms = log_choose(m, k) + (k - 1) * log_outcomes
    top = float(terms.max())
    return top + math.log(float(np.exp(terms - top).sum()))


def laplace_sum_tail(t: float) -> float:
    """P(Lap(2) + Lap(4) > t), t >= 0: the comparison noise of one question in units of sigma."""
    return (4 * math.exp(-t / 4) - math.exp(-t / 2)) / 6


def noise_tail(share: float, law: str) -> float:
    """x with P(noise > x) = share, one side, in units of the noise scale; 0 without noise."""
    if law == "none":
        return 0.0
    return float(-ndtri(share)) if law == "gaussian" else max(0.0, -math.log(2 * share))


def comparison_tail(sigma: float, law: str, *, question: int, budget: int, beta: float) -> float:
    """How far beyond T a gap may be and still get the training answer: threshold noise plus comparison noise.

    The two are bounded apart, because a threshold that drew high survives longer than one that drew low.
    """
    threshold = 2 * sigma * noise_tail(beta / 2 / (2 * (budget + 1)), law)
    return threshold + 4 * sigma * noise_tail(beta / 2 / (question * (question + 1)), law)


def release_tail(sigma: float, law: str, *, question: int, beta: float) -> float:
    """How far the noise may move a holdout answer, either way."""
    return sigma * noise_tail(beta / 2 / (question * (question + 1)), law)


def rho_comparison(n: float, sigma: float, law: str) -> float:
    """zCDP cost of the comparisons. Laplace: once an epoch (eps = 1/(2 n sigma) twice); Gaussian: at every question."""
    if law == "none":
        return math.inf
    return (1 / (n * sigma)) ** 2 / (2 if law == "laplace" else 32)


def rho_release(n: float, sigma: float, law: str) -> float:
    """zCDP cost of one released mean: eps^2 / 2 for Laplace, 1/(2 n^2 sigma^2) for Gaussian noise."""
    return math.inf if law == "none" else (1 / (n * sigma)) ** 2 / 2


def transfer_error(rho: float, sample_error: Callable[[float], float], beta: float) -> float:
    """Population error of a rho-zCDP mechanism whose sample error is `sample_error(p)` except with probability p.

    alpha + (e^eps - 1) + c + 2d with probability 1 - (p/c + delta/d) (Jung et al. 2020, as remembered), eps(delta) =
    rho + 2 sqrt(rho ln(1/delta)), minimised over c and d. May exceed 1: then it says nothing.
    """
    if not math.isfinite(rho):
        return math.inf
    sizes = np.geomspace(1e-3, 0.2, 24)

    def privacy(d: float) -> float:
        epsilon = rho + 2 * math.sqrt(rho * math.log(2 / (d * beta)))
        return 2 * d + (math.expm1(epsilon) if epsilon < 50 else math.inf)

    best_sample = min(float(c) + sample_error(float(c) * beta / 2) for c in sizes)
    return best_sample + min(privacy(float(d)) for d in sizes)


def error_bound(
    n: float,
    m: float,
    *,
    beta: float = 0.05,
    mechanism: str = "thresholdout",
    budget: int | None = None,
    threshold: float | None = None,
    sigma: float | None = None,
    grid: float | None = None,
    noise: str = "laplace",
    universe: int = 2**10,
) -> float:
    """tau: with probability 1 - beta all m answers are within tau of the truth, if the budget lasts.

    `sparse`: beyond the claim's own tolerance. `frozen`: m questions fixed in advance. `split`: fresh n/m rows each.
    `pmw`: over a universe of that many cells, at its best threshold. `transfer`: Thresholdout by privacy alone.
    """
    if mechanism not in MECHANISMS:
        msg = message(f"{mechanism!r} is not a mechanism", expected=f"one of {', '.join(MECHANISMS)}")
        raise ConfigError(msg)
    if not (n >= 1 and m >= 1 and 0 < beta < 1):
        msg = message(f"n={n}, m={m}, beta={beta}", expected="n >= 1, m >= 1, 0 < beta < 1")
        raise ConfigError(msg)
    T = threshold or 4 / math.sqrt(n)
    s = sigma or T / 16
    B = budget or math.ceil(n / 50)
    g = grid or T / 8
    log_l = math.log(outcomes(g))
    if mechanism == "frozen":
        return hoeffding(n, math.log(m), beta)
    if mechanism == "split":
        return hoeffding(n / m, math.log(m), beta) if n >= m else math.inf
    if mechanism == "sparse":
        return hoeffding(n, log_paths(m, B, 0.0), beta)
    if mechanism == "pmw":
        return min(_pmw_error(n, m, float(t), beta, universe) for t in np.geomspace(0.01, 0.99, 40))
    if mechanism in ("laplace", "gaussian"):
        return min(_direct_error(n, m, float(x), beta, mechanism) for x in np.geomspace(1e-4, 1.0, 40))
    law = noise
    last = int(min(m, MOST))
    if mechanism == "transfer":
        B = int(min(B, m))
        rho = B * (rho_comparison(n, s, law) + rho_release(n, s, law))

        def answer_error(p: float) -> float:
            return T + 2 * s * noise_tail(p / 3 / (B + 1), law) + 4 * s * noise_tail(p / 3 / m, law)

        return transfer_error(rho, answer_error, beta)
    if mechanism == "direct":
        sampling = hoeffding(n, (m - 1) * log_l + math.log(m), beta / 2)
        return sampling + g / 2 + s * noise_tail(beta / 4 / m, law)
    sampling = hoeffding(n, log_paths(m, B, log_l), beta / 2)
    release = g / 2 + s * noise_tail(beta / 8 / last, law)
    gap = T + 2 * s * noise_tail(beta / 8 / (B + 1), law) + 4 * s * noise_tail(beta / 8 / last, law)
    return sampling + max(release, gap)


def _pmw_error(n: float, m: float, T: float, beta: float, universe: int) -> float:
    """Noiseless private multiplicative weights with threshold T and answers on a grid of T/4."""
    updates = math.ceil(4 * math.log(universe) / T**2) + 1
    return T + T / 8 + hoeffding(n, log_paths(m, updates, math.log(outcomes(T / 4))), beta)


def _direct_error(n: float, m: float, s: float, beta: float, law: str) -> float:
    """Every answer released with noise of scale s, by the transfer bound."""
    return transfer_error(m * rho_release(n, s, law), lambda p: s * noise_tail(p / (2 * m), law), beta)


def capacity(
    n: float, tau: float, beta: float = 0.05, mechanism: str = "thresholdout", **settings: Any
) -> int:
    """How many questions are guaranteed within tau at n rows; 0 if none, at most 10**15.

    `settings` as in `error_bound`.
    """

    def within(m: float) -> bool:
        return error_bound(n, m, beta=beta, mechanism=mechanism, **settings) <= tau

    if not within(1):
        return 0
    low, high = 1, 2
    while high < MOST and within(high):
        low, high = high, high * 2
    if high >= MOST:
        return MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def required_n(
    m: float, tau: float, beta: float = 0.05, mechanism: str = "thresholdout", **settings: Any
) -> int:
    """The fewest holdout rows that guarantee m questions within tau; the inverse of `capacity`. Raises `ConfigError`
    when no number of rows does."""

    def within(n: float) -> bool:
        return error_bound(n, m, beta=beta, mechanism=mechanism, **settings) <= tau

    low, high = 1, 2
    while not within(high):
        low, high = high, high * 2
        if high > 10**12:
            msg = message(
                f"no number of rows brings {m:g} questions within tau={tau:g} by {mechanism!r}",
                hint="raise tau, or set a threshold below it and a fixed budget",
            )
            raise ConfigError(msg)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high
