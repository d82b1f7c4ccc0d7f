"""What is added up over the parts of a log besides its cells: returns, lengths, zero rewards, actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.trajectory_quality import finished
from counterlog.core.episodes import Episodes


class EpisodeTotals:
    """Totals of the parts given to `add`. Without rewards, `returns` and `zeros` stay empty."""

    def __init__(self, gamma: float, limit: int | None) -> None:
        self.gamma, self.limit = gamma, limit
        self.n = self.finished = 0
        self._returns: list[NDArray[np.float64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._zeros: list[NDArray[np.float64]] = []
        self.sizes: list[int] = []
        self.actions = np.zeros(0, np.int64)

    def add(self, log: Episodes) -> None:
        """Add one part."""
        done = finished(log, self.limit)
        self.n += log.n
        self.finished += int(done.sum())
        self.sizes.append(log.rows)
        self._lengths.append(log.lengths)
        if log.reward is not None:
            self._returns.append(log.returns(self.gamma)[done])
            self._zeros.append(np.add.reduceat((log.reward == 0).astype(np.int64), log.first) / log.lengths)
        if log.discrete:
            counts = np.bincount(log.action, minlength=max(len(log.actions), len(self.actions)))
            counts[: len(self.actions)] += self.actions
            self.actions = counts

    @property
    def returns(self) -> NDArray[np.float64]:
        """Of the finished episodes."""
        return np.concatenate(self._returns) if self._returns else np.zeros(0)

    def summary(self) -> dict[str, Any]:
        """The numbers of a profile that come from here."""
        lengths, returns = np.concatenate(self._lengths), self.returns
        return {
            "n": self.n,
            "finished": self.finished,
            "length_mean": float(lengths.mean()),
            "length_sd": float(lengths.std()),
            "sparsity": float(np.concatenate(self._zeros).mean()) if self._zeros else None,
            "mean_return": float(returns.mean()) if len(returns) else None,
            "action_counts": tuple(self.actions.tolist()),
        }
