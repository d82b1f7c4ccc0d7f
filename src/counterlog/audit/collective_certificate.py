"""Collective certificate: how many of these predictions could one attacker flip with one budget of training records?

A radius speaks for one prediction; an attacker who must choose which models to corrupt cannot flip all predictions of
small radius at once. For the plurality vote the worst choice is an integer programme: z_b says that bucket b is
poisoned, y_ic that input i goes over to class c,

    maximise sum y   with  sum_b power_ibc z_b >= gap_ic y_ic,   sum_c y_ic <= 1,   sum_b z_b <= budget.

With one model a record (DPA) its value is what the attacker can reach; with a spread it is an upper bound, as is the
bound that the solver has proved when its time is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, vstack

from counterlog.audit.election_scores import checked_finite, checked_scores, checked_shifts
from counterlog.audit.run_off_election import count_votes, fewest, finalists, first_choice, lead, touched
from counterlog.core.errors import ConfigError, message
from counterlog.core.results import Result


@dataclass(frozen=True, kw_only=True)
class CollectiveCertificate(Result):
    """At most `flipped` of the n predictions change under any `budget` records; `alone` counts those whose own radius
    is smaller than the budget. `exact`: the programme was solved to the end."""

    flipped: int
    alone: int
    budget: int
    n: int
    unit: str
    exact: bool


def collective_certificate(
    scores: ArrayLike, budget: int, *, shifts: Sequence[int] | None = None, seconds: float = 30.0
) -> CollectiveCertificate:
    """The worst that `budget` records can do to all predictions by plurality, from scores (n, m, C) of base models.

    `shifts`: the offsets of finite aggregation. Raises `LogError`, `ConfigError`.
    """
    values = checked_scores(scores)
    checked_finite(values, 0)
    n, m, classes = values.shape
    offsets = checked_shifts("dpa" if shifts is None else "fa", shifts, m) or (0,)
    if budget < 0 or seconds <= 0:
        msg = message(f"budget = {budget}, seconds = {seconds}", expected="budget >= 0, seconds > 0")
        raise ConfigError(msg)
    choice = first_choice(values)
    votes = count_votes(choice, classes)
    p, _ = finalists(votes)
    counts = touched(choice[:, None, :] == np.arange(classes)[:, None], offsets)
    power = len(offsets) + np.take_along_axis(counts, p[:, None, None], axis=1) - counts
    need = lead(votes, p)
    can = (fewest(power, need) <= budget) & (np.arange(classes) != p[:, None])
    alone = int(can.any(axis=1).sum())
    input_of, rival = np.nonzero(can)
    if not alone:
        return CollectiveCertificate(flipped=0, alone=0, budget=budget, n=n, unit="predictions", exact=True)
    k = len(input_of)
    row, bucket = np.divmod(np.arange(k * m), m)
    reach = coo_array((power[input_of, rival].ravel().astype(np.float64), (row, bucket)), shape=(k, m + k))
    wanted = coo_array(
        (-need[input_of, rival].astype(np.float64), (np.arange(k), m + np.arange(k))), shape=(k, m + k)
    )
    once = coo_array((np.ones(k), (input_of, m + np.arange(k))), shape=(n, m + k))
    spent = coo_array((np.ones(m), (np.zeros(m, dtype=np.int64), np.arange(m))), shape=(1, m + k))
    low = np.r_[np.zeros(k), np.full(n + 1, -np.inf)]
    high = np.r_[np.full(k, np.inf), np.ones(n), float(budget)]
    solved = milp(
        np.r_[np.zeros(m), -np.ones(k)],
        integrality=np.ones(m + k),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(vstack([reach + wanted, once, spent]).tocsr(), low, high),
        options={"time_limit": seconds},
    )
    proved = solved.mip_dual_bound
    flipped = alone if proved is None else min(alone, int(np.floor(-proved + 1e-6)))
    return CollectiveCertificate(
        flipped=flipped, alone=alone, budget=budget, n=n, unit="predictions", exact=solved.status == 0
    )
