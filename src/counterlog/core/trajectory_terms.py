"""The equations of trajectory estimators as functions of flat arrays; numbers as in `estimate.trajectories`.

A value is a sum over steps of means over trajectories, plain (1) or divided by the mean weight of the step (2). Each
function gives per-trajectory numbers (n,) whose mean is the value and whose spread is its error, and the coefficient
(N,) of every weight in the value, which carries the error of fitted weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from counterlog.core import ragged
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.intervals import poisson_multiplicities
from counterlog.core.ragged import LARGEST_LOG, Weights
from counterlog.core.trajectory_models import Candidate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """What (1) to (6) are made of: which weight, with a value model or not, self-normalised or not."""

    weight: str
    model: bool = False
    normalised: bool = False


NEURAL = ("NFQE", "NMIS", "NDR")  # estimate/neural-marginal-weights: by networks, not by these forms
FORMS = {
    "DM": Form("none", model=True),
    "TIS": Form("whole"),
    "SNTIS": Form("whole", normalised=True),
    "PDIS": Form("step"),
    "SNPDIS": Form("step", normalised=True),
    "DR": Form("step", model=True),
    "SNDR": Form("step", model=True, normalised=True),
    "SAM-IS": Form("pair"),
    "SAM-SNIS": Form("pair", normalised=True),
    "SAM-DR": Form("pair", model=True),
    "SAM-SNDR": Form("pair", model=True, normalised=True),
    "SM-IS": Form("state"),
    "SM-SNIS": Form("state", normalised=True),
    "SM-DR": Form("state", model=True),
    "SM-SNDR": Form("state", model=True, normalised=True),
    "DRL": Form("pair", model=True),
}


def parse(name: str) -> tuple[str, int | None]:
    """("SAM-DR", 2) from "SAM-DR_2". Raises `ConfigError` for an unknown name."""
    matched = re.fullmatch(r"([A-Z-]+?)(?:_(\d+))?", name)
    if matched is None or matched[1] not in FORMS:
        msg = message(f"{name!r} is no trajectory estimator", expected=f"one of {', '.join(FORMS)}")
        raise ConfigError(msg)
    return matched[1], None if matched[2] is None else int(matched[2])


def whole_weights(cumulative: Floats, offsets: NDArray[np.int64]) -> Weights:
    """c_{T-1} on every step of its trajectory."""
    last = np.repeat(cumulative[offsets[1:] - 1], ragged.lengths(offsets))
    return Weights(np.ones(len(cumulative)), last, offsets)


def lagged_weights(
    log_ratio: Floats, marginal: Floats, offsets: NDArray[np.int64], lag: int, window: int
) -> Weights:
    """Equation (4): c_t before step `lag`, then the marginal weight `lag` steps ago times the last `window` ratios
    (window = lag for pairs, lag + 1 for states)."""
    late = np.flatnonzero(ragged.steps(offsets) >= lag)
    factor = np.ones(len(log_ratio))
    factor[late] = marginal[late - lag]
    logs = ragged.running_logs(log_ratio, offsets)
    logs[late] = ragged.window_logs(log_ratio, offsets, window)[late]
    return Weights(factor, logs, offsets)


def plain_terms(base: Floats, x: Floats, w: Weights, gain: Floats) -> tuple[Floats, Floats]:
    """Equation (1): per-trajectory numbers (n,) whose mean is the value, and the coefficient (N,) of every weight."""
    coefficient = gain * x
    return base + ragged.sums(np.where(coefficient == 0, 0.0, coefficient * w.values), w.offsets), coefficient


def normalised_terms(base: Floats, x: Floats, w: Weights, gain: Floats) -> tuple[Floats, Floats]:
    """Equation (2), linearised: influence (n,) with the value as its mean, and the coefficient (N,) of every weight.

    With D_t = E[W_t] and R_t = E[W_t x_t] / D_t, trajectory i has
    base_i + sum_t gamma^t [R_t + W_it (x_it - R_t) / D_t]; a finished one has x = 0 and its last weight.
    """
    t, size, n = ragged.steps(w.offsets), ragged.lengths(w.offsets), len(base)
    shift, mean = w.scale()
    relative = w.factor * np.exp(w.log - shift[t]) / mean[t]
    r = np.bincount(t, relative * x) / n
    running = gain * relative * (x - r[t])
    by_step = np.zeros(len(shift))
    by_step[t] = gain
    after = np.concatenate([np.cumsum((by_step * r * np.exp(-shift) / mean)[::-1])[::-1], [0.0]])
    factor, last = w.last
    kept = factor * np.exp(last) * after[size]
    influence = base + ragged.sums(running, w.offsets) - kept + float(by_step @ r)
    coefficient = gain * (x - r[t]) * np.exp(-shift[t]) / mean[t]
    coefficient[w.offsets[1:] - 1] -= after[size]
    return influence, coefficient


def drl_terms(
    w: Floats, reward: Floats, q: Floats, v: Floats, gamma: float, offsets: NDArray[np.int64]
) -> Floats:
    """Equation (5) as written: (n,) per trajectory, from w, r, q of the logged action and V, each (N,)."""
    before = np.roll(w, 1)
    before[offsets[:-1]] = 1.0
    return ragged.sums(gamma ** ragged.steps(offsets) * (w * (reward - q) + before * v), offsets)


def normalised_replicates(
    base: Floats, x: Floats, w: Weights, gain: Floats, replicates: int, rng: int
) -> Floats:
    """(replicates,) values of (2) under Poisson weights on trajectories; every ratio is formed anew."""
    n, t, size = len(base), ragged.steps(w.offsets), ragged.lengths(w.offsets)
    owner, (shift, _) = ragged.owners(w.offsets), w.scale()
    scaled = w.factor * np.exp(w.log - shift[t])
    steps = len(shift)
    top = sparse.csr_array((scaled * x, (owner, t)), shape=(n, steps))
    bottom = sparse.csr_array((scaled, (owner, t)), shape=(n, steps))
    factor, last = w.last
    ended = sparse.csr_array((factor * np.exp(last), (np.arange(n), size)), shape=(n, steps + 1))
    by_step = np.zeros(steps)
    by_step[t] = gain
    counts = poisson_multiplicities(n, replicates, rng)
    values = np.empty(replicates)
    for rows in np.array_split(np.arange(replicates), max(1, replicates * max(n, steps) // 4_000_000)):
        m = counts[rows].astype(np.float64)
        finished = np.cumsum(np.asarray(m @ ended), axis=1)[:, :-1] * np.exp(-shift)
        under = m @ bottom + finished
        if (under == 0).any():
            msg = message(
                "a bootstrap replicate draws no positive weight", hint="use interval='t', or more data"
            )
            raise SupportError(msg)
        values[rows] = m @ base / m.sum(axis=1) + ((m @ top) / under) @ by_step
    return values


def linearised(a: Floats, b: Floats, c: Floats, *, counts: bool) -> Floats:
    """(n,) influence of mean(a) + mean(b) / mean(c). When c counts rows, fitted weights scale with 1 / c and cancel it,
    so that c adds no spread."""
    ratio, middle = b.mean() / c.mean(), c.mean()
    return np.asarray(a + b / middle if counts else a + ratio + (b - ratio * c) / middle, np.float64)


def effect_of_marginals(w: Weights, coefficient: Floats, lag: int) -> Floats:
    """(N,) derivative of the value by the marginal weight of each row: that weight acts `lag` steps later."""
    n = len(w.offsets) - 1
    late = np.flatnonzero(ragged.steps(w.offsets) >= lag)
    effect = np.zeros(len(coefficient))
    np.add.at(effect, late - lag, coefficient[late] * np.exp(w.log[late]) / n)
    return effect


def pull_of_errors(w: Weights, gain: Floats, *, normalised: bool) -> Floats:
    """(N,) derivative of (1) or (2) by each x."""
    n, t = len(w.offsets) - 1, ragged.steps(w.offsets)
    if not normalised:
        return np.asarray(gain * w.values / n, np.float64)
    shift, mean = w.scale()
    return np.asarray(gain * w.factor * np.exp(w.log - shift[t]) / mean[t] / n, np.float64)


def pooled_terms(
    candidate: Candidate,
    w: Weights,
    x: Floats,
    base: Floats,
    *,
    lag: int,
    total: float,
    rows_alike: bool,
    normalised: bool,
) -> tuple[tuple[Floats, Floats, Floats], Floats, float]:
    """Equations (2') and (6): (a, b, c) a trajectory for mean(a) + mean(b) / mean(c), the coefficient (N,) of every
    weight in the value, and the effective number of trajectories."""
    log, offsets, shared = candidate.log, candidate.log.offsets, candidate.shared
    over = log.terminated.any() or (shared.truncation == "end" and np.ptp(log.lengths) > 0)
    if normalised and over:
        msg = message(
            "trajectories end at times of their own, so the mean of marginal weights is not known to normalise by",
            hint="use convention='by_step' or an estimator without self-normalisation",
        )
        raise SupportError(msg)
    gain = shared.gamma**log.steps
    if not rows_alike:
        head = np.zeros(log.rows)
        up, down = total * gain * x, gain
    else:
        early = log.steps < lag
        late = ~early & shared.design.use
        head = np.where(early, gain * x, 0.0)
        up, down = np.where(late, shared.gamma**lag * total * x, 0.0), late.astype(np.float64)
    a = base + ragged.sums(np.where(head == 0, 0.0, head * w.values), offsets)
    b = ragged.sums(np.where(up == 0, 0.0, up * w.values), offsets)
    held = ragged.sums(np.where(down == 0, 0.0, down * w.values), offsets)
    ess = float(held.sum() ** 2 / max(float((held**2).sum()), 1e-300))
    if not normalised:
        rows = ragged.sums(shared.base_rows(lag).astype(np.float64), offsets)
        return (a, b, rows), up / rows.mean(), ess
    if not held.sum() > 0:
        msg = message(
            "the fitted weights sum to 0 or less", hint="use the estimator without self-normalisation"
        )
        raise SupportError(msg)
    return (a, b, held), (up - b.mean() / held.mean() * down) / held.mean(), ess


def check_weights(w: Weights, *, normalised: bool, model: bool, pooled: bool) -> None:
    """Raise `SupportError` where no trajectory is possible, or where weights leave the range of numbers."""
    shift, mean = w.scale()
    if (mean == 0).any() and (normalised or not model) and not pooled:
        step = int(np.argmax(mean == 0))
        msg = message(
            f"from step {step} on, none of the {len(w.offsets) - 1:,} trajectories is possible under the policy",
            hint="use a marginal or model-based estimator (SAM-IS, FQE), or a candidate closer to the log",
        )
        raise SupportError(msg)
    if normalised and not pooled and (mean < 0).any():
        msg = message(
            f"the fitted weights of step {int(np.argmax(mean < 0))} sum to less than 0",
            hint="use the estimator without self-normalisation",
        )
        raise SupportError(msg)
    largest = float(shift[np.argmax(np.abs(shift))] if normalised else np.max(w.log, initial=-np.inf))
    if (abs(largest) if normalised else largest) > LARGEST_LOG:
        msg = message(
            f"the weights reach e^{largest:.0f}: products over {len(shift):,} steps leave the range of numbers",
            hint="use SAM-IS, SAM-DR, DRL or FQE, whose weights do not multiply over steps",
        )
        raise SupportError(msg)
