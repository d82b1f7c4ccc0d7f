"""How much of what a policy would do in a log's states was ever done there: a trust number for one candidate.

    support = mean over logged states s of  sum_a pi(a|s) 1[(cell of s, cell of a) occurs in the log]      (1)

1: the log shows every action that the policy would take; values of the rest are guesses whatever the learner. It looks
at the states that were logged, and says nothing about states that only the new policy would reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.audit.visit_cells import CHUNK, CellGrid
from counterlog.audit.visit_counts import Counting, fit_grid
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message
from counterlog.core.state_policies import action_probs


def policy_support(log: Episodes, policy: Any, *, grid: CellGrid | None = None, bins: int = 0) -> float:
    """Equation (1) of a policy with `probs(states)` (discrete) or `act(states)` (continuous).

    `grid` or `bins` say how states are cut, as in `DatasetCharacteristics`. Raises `ConfigError` for a policy that has
    neither, `LogError` for probabilities that are none.
    """
    chosen = grid or fit_grid(log, bins)
    counter = Counting("exact").counter()
    Counting("exact").count(log, chosen, counter)
    seen, _ = counter.counts()
    if not log.discrete and not hasattr(policy, "act"):
        raise ConfigError(
            message("the policy cannot act", hint="continuous actions need a policy with act(states)")
        )
    total = 0.0
    for start in range(0, log.rows, CHUNK):
        state = log.state[start : start + CHUNK]
        if log.discrete:
            probs = action_probs(policy, state, len(log.actions))
            for a in range(probs.shape[1]):
                _, pairs = chosen.keys(state, np.full(len(state), a))
                total += float(probs[_among(pairs, seen), a].sum())
        else:
            action = np.asarray(policy.act(state), np.float64).reshape(len(state), -1)
            total += float(_among(chosen.keys(state, action)[1], seen).sum())
    return total / log.rows


def _among(keys: Any, seen: Any) -> Any:
    """Which keys are in the sorted list."""
    at = np.minimum(np.searchsorted(seen, keys), len(seen) - 1)
    return seen[at] == keys
