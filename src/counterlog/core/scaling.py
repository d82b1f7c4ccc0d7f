"""How a log's states and actions enter a network, and how actions come out again: fitted once, kept with the policy.

States become (x - mean) / (std + eps), or one-hot rows when they are codes; actions lie in [-1, 1] between the bounds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.episodes import Episodes, EpisodeWarning
from counterlog.core.errors import ConfigError, LogError, SupportError, first_rows, message

Floats = NDArray[np.float64]
SCALES: dict[str, float | None] = {"none": None, "td3": 1e-3, "fine": 1e-6}
FARTHEST = 1e3
OUTSIDE = 1e-5


@dataclass(frozen=True)
class StateScale:
    """x -> (x - mean) / divisor, or code -> one-hot when `codes` is the number of codes.

    A learner that meets states as it goes has a mean and a divisor a seed, one tuple each; `take(seed)` picks. With
    `clip`, scaled numbers are cut there.
    """

    mean: tuple[Any, ...] = ()
    divisor: tuple[Any, ...] = ()
    codes: int = 0
    clip: float | None = None

    @classmethod
    def fit(cls, log: Episodes, scale: str = "td3") -> StateScale:
        """From all states of a log. `scale`: "none"; "td3" adds 1e-3 to the deviation, "fine" 1e-6.

        Integer states become one-hot. A constant column gives an `EpisodeWarning`.
        """
        if scale not in SCALES:
            raise ConfigError(message(f"state scale {scale!r}", expected=f"one of {', '.join(SCALES)}"))
        if log.state.ndim == 1:
            top = max(int(log.state.max()), -1 if log.final_state is None else int(log.final_state.max()))
            return cls(codes=top + 1)
        eps, size = SCALES[scale], log.state.shape[1]
        if eps is None:
            return cls((0.0,) * size, (1.0,) * size)
        mean, std = log.state.mean(axis=0, dtype=np.float64), log.state.std(axis=0, dtype=np.float64)
        if (flat := np.flatnonzero(std < 1e-9)).size:
            warnings.warn(
                f"state columns {flat.tolist()} never change in the log; a new value there would be divided by {eps:g}",
                EpisodeWarning,
                stacklevel=2,
            )
        return cls(tuple(mean.tolist()), tuple((std + eps).tolist()))

    @property
    def by_seed(self) -> bool:
        """Whether every seed has its own statistics."""
        return bool(self.mean) and isinstance(self.mean[0], (tuple, list))

    @property
    def size(self) -> int:
        """Width of a transformed state."""
        return self.codes or len(self.mean[0] if self.by_seed else self.mean)

    def take(self, seed: int) -> StateScale:
        """The scale of one seed."""
        return replace(self, mean=self.mean[seed], divisor=self.divisor[seed]) if self.by_seed else self

    def transform(self, state: ArrayLike) -> NDArray[np.float32]:
        """(..., d) states, or (...) codes -> (..., size) float32; (seeds, ..., d) where every seed has its own scale.

        Raises `LogError` for another width or a new code.
        """
        array = np.asarray(state)
        if self.codes:
            if array.dtype.kind not in "iu" or array.min(initial=0) < 0 or array.max(initial=0) >= self.codes:
                msg = message(
                    f"state codes {array.dtype} up to {array.max(initial=0)}",
                    expected=f"integers below {self.codes}, those of the log",
                )
                raise LogError(msg)
            return np.asarray(np.eye(self.codes, dtype=np.float32)[array], np.float32)
        if array.shape[-1:] != (self.size,) or (self.by_seed and array.shape[:1] != (len(self.mean),)):
            lead = f"{len(self.mean)} seeds, " if self.by_seed else ""
            msg = message(
                f"states of shape {array.shape}", expected=f"({lead}..., {self.size}) as in the log"
            )
            raise LogError(msg)
        mean, divisor = np.array(self.mean), np.array(self.divisor)
        if self.by_seed:
            gap = (len(mean), *(1,) * (array.ndim - 2), self.size)
            mean, divisor = mean.reshape(gap), divisor.reshape(gap)
        scaled = (array - mean) / divisor
        return np.asarray(scaled if self.clip is None else scaled.clip(-self.clip, self.clip), np.float32)

    def check_near(self, transformed: NDArray[np.float32]) -> None:
        """Raise `SupportError` for a state a thousand deviations from the log's, or one that is not finite."""
        flat = transformed.reshape(-1, self.size)
        bad = ~(np.abs(flat) <= FARTHEST) if not self.codes else np.zeros((1, 1), bool)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            msg = message(
                f"state column {column} of row {row} is {flat[row, column]:.3g} after scaling",
                expected=f"within {FARTHEST:g} of the log's states",
                hint="the policy has never seen such a state; a column that was constant in the log does this",
            )
            raise SupportError(msg)


@dataclass(frozen=True)
class ActionBounds:
    """low, high a dimension: u in [-1, 1] stands for low + (u + 1) (high - low) / 2."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, log: Episodes, low: ArrayLike | None = None, high: ArrayLike | None = None) -> ActionBounds:
        """The given bounds, or [-1, 1] when every action lies in it, or the smallest and largest logged action.

        Raises `LogError` for actions outside given bounds or an action column that never changes.
        """
        action = log.action
        least, most = action.min(axis=0), action.max(axis=0)
        if low is None or high is None:
            inside = bool((least >= -1 - OUTSIDE).all() and (most <= 1 + OUTSIDE).all())
            low = np.where(inside, -1.0, least) if low is None else low
            high = np.where(inside, 1.0, most) if high is None else high
        a = np.broadcast_to(np.asarray(low, np.float64), least.shape)
        b = np.broadcast_to(np.asarray(high, np.float64), least.shape)
        if not (a < b).all() or not (np.isfinite(a) & np.isfinite(b)).all():
            msg = message(
                f"action bounds {a.tolist()} to {b.tolist()}",
                expected="finite, low below high",
                hint="give low= and high= of the environment; a column that never changes has nothing to learn",
            )
            raise LogError(msg)
        slack = OUTSIDE * (b - a)
        bad = ((action < a - slack) | (action > b + slack)).any(axis=1)
        if bad.any():
            rows = np.flatnonzero(bad)
            msg = message(
                f"actions outside {a.tolist()} to {b.tolist()} in {len(rows):,} rows: {first_rows(rows)}",
                hint="give the environment's bounds, or leave out these trajectories",
            )
            raise LogError(msg)
        return cls(tuple(a.tolist()), tuple(b.tolist()))

    def inwards(self, action: Any) -> NDArray[np.float32]:
        """Environment units -> [-1, 1]."""
        a, b = np.array(self.low), np.array(self.high)
        scaled = 2 * (np.asarray(action, np.float64) - a) / (b - a) - 1
        return np.asarray(scaled.clip(-1, 1), np.float32)

    def outwards(self, action: Any) -> Floats:
        """[-1, 1] -> environment units; values beyond are cut to the bounds."""
        a, b = np.array(self.low), np.array(self.high)
        return np.asarray(a + (np.asarray(action, np.float64).clip(-1, 1) + 1) * (b - a) / 2, np.float64)

    @property
    def log_volume(self) -> float:
        """sum log((high - low) / 2): what a log-density in [-1, 1] loses in environment units."""
        return float(np.log((np.array(self.high) - np.array(self.low)) / 2).sum())
