"""Certified choice between policies: how many users could have written false records before another policy looked best?

The log's units (users) are hashed to disjoint parts, every part values every policy by itself (self-normalised weights,
from its own records alone), and the parts vote as base models do in `run_off_election`. One user reaches one part, so
the radius counts users whose records may be removed, added or rewritten, all of them, in any way that keeps the user's
id. Policies must not have been learnt from this log, and propensities must be logged: both would carry one record to
every part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.run_off_election import certify
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.hashing import scatter, unit_keys
from counterlog.core.policies import Policy, checked_logged_probs, parse_policy
from counterlog.core.results import Result
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CertifiedChoice(Result):
    """The policy that the parts elect, and the users that an attacker would need. `values` are over the whole log;
    `votes` counts the parts where the policy was best."""

    choice: str
    runner_up: str
    radius: int
    unit: str
    n: int
    parts: int
    method: str
    policies: tuple[str, ...]
    votes: tuple[int, ...]
    values: tuple[float, ...]
    share: float
    notes: tuple[str, ...] = ()

    def table(self) -> list[dict[str, Any]]:
        """One record a policy: its value over the whole log, and how many parts preferred it."""
        rows = zip(self.policies, self.values, self.votes, strict=True)
        return [{"policy": p, "value": v, "parts": c} for p, v, c in rows]


def part_values(weight: Floats, reward: Floats, part: NDArray[np.int64], parts: int) -> Floats:
    """(parts, policies) sum w r / sum w of every part; NaN where a part has no weight. `weight` is (n, policies)."""
    found = np.empty((parts, weight.shape[1]))
    for j in range(weight.shape[1]):
        total = np.bincount(part, weight[:, j], parts)
        earned = np.bincount(part, weight[:, j] * reward, parts)
        found[:, j] = np.divide(earned, total, out=np.full(parts, np.nan), where=total > 0)
    return found


def ranks(values: Floats) -> Floats:
    """Each row's values as how many others of its own row they exceed; NaN, which is last, gets -1."""
    above = (values[:, :, None] > values[:, None, :]).sum(axis=2) + np.isnan(values).sum(axis=1)[:, None]
    return np.where(np.isnan(values), -1.0, above)


def certified_choice(
    log: Rounds,
    policies: Sequence[str | Policy],
    *,
    parts: int = 51,
    run_off: bool = True,
    salt: int = 0,
) -> CertifiedChoice:
    """The policy that most parts of the log prefer, and its radius in units.

    Parts should hold enough decisions to tell the policies apart. Raises `LogError` without units, `SupportError` for
    estimated propensities, `ConfigError` for fewer than two policies or parts, and for a policy learnt from the log.
    """
    if log.unit_column is None:
        hint = "name the column whose values do not change when records are added: Rounds(..., unit=...)"
        raise LogError(message("the log has no units, and a row number is no lasting name", hint=hint))
    if log.propensity_label == "estimated":
        hint = "log the probabilities, or certify a log of a known experiment"
        raise SupportError(message("estimated propensities carry every record to every part", hint=hint))
    if len(policies) < 2 or parts < 2:
        raise ConfigError(
            message(f"{len(policies)} policies in {parts} parts", expected="two or more of each")
        )
    if "best-fixed" in policies:
        hint = "name actions instead, as in always:ACTION"
        raise ConfigError(
            message("best-fixed is learnt from this log: one record reaches every part", hint=hint)
        )
    given = [parse_policy(p, log) if isinstance(p, str) else p for p in policies]
    weight = np.stack([checked_logged_probs(p, log) / log.propensity for p in given], axis=1)
    column = log.table[log.unit_column]
    part = scatter(unit_keys(column), parts, salt=salt)
    method = "dpa+roe" if run_off else "dpa"
    found = certify(ranks(part_values(weight, log.reward, part, parts))[None], method)
    whole = part_values(weight, log.reward, np.zeros(log.n, dtype=np.int64), 1)[0]
    names, units = [p.name for p in given], int(column.n_unique())
    empty = parts - len(np.unique(part))
    return CertifiedChoice(
        choice=names[int(found.prediction[0])],
        runner_up=names[int(found.runner_up[0])],
        radius=int(found.radius[0]),
        unit=f"units ({log.unit_column})",
        n=units,
        parts=parts,
        method=method,
        policies=tuple(names),
        votes=tuple(found.votes[0].tolist()),
        values=tuple(float(v) for v in whole),
        share=float(found.radius[0]) / units,
        notes=(f"{empty} of {parts} parts hold no record and vote for the first policy",) if empty else (),
    )
