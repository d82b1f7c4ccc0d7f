"""Does position bias change? The examination curve of each window of lists beside that of a reference window.

A window's log ratio at a position differs from the reference's by a normal amount with the two windows' bootstrap
errors; the alarm holds the chance of any false one, over all windows and positions, at `false_alarm` (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.clicks import Clicks
from counterlog.core.errors import SupportError, message
from counterlog.core.results import Result
from counterlog.rank.ranking_report import examination
from counterlog.rank.saved_rankers import Ranker

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BiasWindow:
    """One window: its first and last list (in time order), its curve, the largest standardised change and where."""

    first: int
    last: int
    curve: tuple[float, ...]
    largest: float
    position: int
    alarm: bool


@dataclass(frozen=True, kw_only=True)
class BiasDrift(Result):
    """All windows; `n` counts lists. `threshold` is in standard errors."""

    n: int
    windows: tuple[BiasWindow, ...]
    threshold: float
    drifted: bool
    unit: str = "examination relative to position 1"

    def records(self) -> list[dict[str, object]]:
        """A row a window."""
        return [
            {
                "first": w.first,
                "last": w.last,
                "last position": w.curve[-1],
                "largest change": w.largest,
                "position": w.position,
                "alarm": w.alarm,
            }
            for w in self.windows
        ]


def bias_drift(
    log: Clicks,
    ranker: Ranker,
    *,
    list_size: int = 10,
    window: int = 20_000,
    false_alarm: float = 0.01,
    replicates: int = 200,
    rng: int = 0,
) -> BiasDrift:
    """Windows of `window` lists in time order (in log order without times); the first is the reference.

    Raises `SupportError` for fewer than two windows, or when a window has a position without clicks.
    """
    if log.lists < 2 * window:
        msg = message(f"{log.lists} lists", expected=f"at least two windows of {window}", hint="lower window")
        raise SupportError(msg)
    order = np.arange(log.lists) if log.time is None else np.argsort(log.time, kind="stable")
    score = ranker.score(log.features)
    logs, errors, ends = [], [], []
    for start in range(0, log.lists - window + 1, window):
        part = log.take(order[start : start + window])
        found, _ = examination(
            part, score, size=list_size, on_long="truncate", replicates=replicates, rng=rng + start
        )
        if (found[0].clicks == 0).any():
            empty = int(np.flatnonzero(found[0].clicks == 0)[0]) + 1
            msg = message(f"lists {start} to {start + window - 1} have no click at position {empty}")
            msg_0 = f"{msg}\nhint: raise window or lower list_size"
            raise SupportError(msg_0)
        logs.append(np.log(found[0].value))
        errors.append(found[0].log_se)
        ends.append((start, start + window - 1))
    tests = (len(logs) - 1) * (list_size - 1)
    threshold = float(-ndtri(false_alarm / 2 / max(tests, 1)))
    windows = []
    for (first, last), curve, error in zip(ends, logs, errors, strict=True):
        scale = np.sqrt(error**2 + errors[0] ** 2)
        z = np.abs(curve - logs[0])[1:] / np.maximum(scale[1:], 1e-12)
        at = int(z.argmax())
        windows.append(
            BiasWindow(
                first=first,
                last=last,
                curve=tuple(np.exp(curve).tolist()),
                largest=float(z[at]),
                position=at + 2,
                alarm=bool(z[at] > threshold),
            )
        )
    return BiasDrift(
        n=log.lists, windows=tuple(windows), threshold=threshold, drifted=any(w.alarm for w in windows)
    )
