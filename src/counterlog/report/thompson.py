"""The Thompson sampler of the Open Bandit log as a candidate, and what it really earned in its own log.

Its item frequencies by position, over the whole period, are taken from its own log; the mixture of its decisions over
time is then a policy that the uniform log can value, and the mean of its own log is the answer to compare with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from counterlog.core.intervals import mean_ratio_interval
from counterlog.core.policies import Function
from counterlog.core.results import Estimate
from counterlog.datasets.examples import open_bandit

NAME = "thompson"
OWN_LOG = "its own log"


def thompson(campaign: str = "men", *, level: float = 0.95) -> tuple[Function, Estimate]:
    """The policy, for `build(policies=[...])`, and its mean clicks in its own log, for `build(beside=[...])`."""
    log = open_bandit(campaign, "bts")
    counts = log.table.group_by("position", "item_id").len()
    totals = dict(log.table.group_by("position").len().iter_rows())
    share = {(p, item): n / totals[p] for p, item, n in counts.iter_rows()}

    def probabilities(context: pl.DataFrame, actions: tuple[Any, ...]) -> Any:
        positions = context["position"].to_numpy()
        out = np.zeros((len(positions), len(actions)))
        for p in np.unique(positions):
            out[positions == p] = [share.get((int(p), a), 0.0) for a in actions]
        return out / out.sum(axis=1, keepdims=True)

    value, ends = mean_ratio_interval(log.reward, level=level)
    earned = Estimate(
        value=value,
        lo=ends.lo,
        hi=ends.hi,
        se=ends.se,
        unit=log.reward_unit,
        n=log.n,
        level=level,
        policy=NAME,
        estimator=OWN_LOG,
        reward=log.reward_name,
        ess=float(log.n),
        notes=("measured, not estimated: the mean of the log that this policy made",),
    )
    return Function(probabilities, name=NAME), earned
