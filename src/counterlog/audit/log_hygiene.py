"""Log hygiene: repeated rows, time going backwards, odd columns, rewards and actions that never vary.

Use when    always: these are the mistakes that a join, a retry or an export makes.
Not when    never.
Data        Rounds, all roles
Paper       none: plain counts. For repeated rows the expected number of accidental repeats is subtracted:
Equation    pairs (i, j) of rows that agree in all but action, reward and propensity: D agree there too        (1)
            by chance at most sum p_i of them do, so z = (D - sum p) / sqrt(sum p (1 - p))                     (2)
Shapes      any
Units       rows
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     one finding per kind of trouble; a clean log gets one `ok`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from counterlog.core.config import Config, param
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, Rounds
from counterlog.core.time_windows import time_values

CHECK = "log hygiene"


@dataclass(frozen=True, kw_only=True)
class LogHygieneConfig(Config):
    """Thresholds of the hygiene checks."""

    z: float = param(5.0, "standard errors by which repeats must exceed chance", above=0)
    least: int = param(3, "fewest repeats that are reported", at_least=1)
    warn_share: float = param(0.001, "share of repeated rows from which it is a `warning`", above=0, below=1)
    rare: int = param(30, "an action or category with fewer rows is rare", unit="rows", at_least=1)
    gaps: float = param(0.2, "share of gaps in a context column from which it is noted", above=0, below=1)


class LogHygiene:
    """The check. One finding per trouble found."""

    def __init__(self, config: LogHygieneConfig = LogHygieneConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """Every trouble of the log's rows, actions, rewards and columns. `rng` orders rows that share a key."""
        found = [
            *self._rewards(log),
            *self._actions(log),
            *self._repeats(log, rng),
            *self._time(log),
            *self._columns(log),
        ]
        if not found:
            text = "no repeated rows, time in order, actions, rewards and columns vary"
            found = [Finding(check=CHECK, severity="ok", message=text, n=log.n)]
        return tuple(found)

    def _rewards(self, log: Rounds) -> list[Finding]:
        found = []
        for i, name in enumerate(log.rewards):
            r = log.reward_of(name)
            if r.min() == r.max():
                text = f"the reward {name!r} is {r[0]:g} in every row, so every policy has the same value"
                remedy = "check the join that brought the reward, and its column"
                severity = "stop" if i == 0 else "warning"
                found.append(_finding(log, "constant reward", severity, text, remedy, "reward", float(r[0])))
        return found

    def _actions(self, log: Rounds) -> list[Finding]:
        if len(log.actions) < 2:
            text = f"every row has the same action ({log.actions[0]!r}), so nothing is known of any other"
            return [
                _finding(
                    log, "one action", "stop", text, "log some decisions drawn at random", "actions", 1.0
                )
            ]
        counts = np.bincount(log.action, minlength=len(log.actions))
        found, never, rare = (
            [],
            np.flatnonzero(counts == 0),
            np.flatnonzero((counts > 0) & (counts < self.config.rare)),
        )
        if never.size:
            text = (
                f"{never.size:,} of {len(log.actions):,} actions are listed as available but never logged: "
                f"{_some(log, never)}"
            )
            remedy = (
                "no candidate may use them: restrict it, or take them out of the list if they cannot happen"
            )
            found.append(
                _finding(
                    log, "unlogged actions", "warning", text, remedy, "actions", never.size,
                    _counted(log, never, counts),
                )
            )  # fmt: skip
        if rare.size:
            text = (
                f"{rare.size:,} of {len(log.actions):,} actions have fewer than {self.config.rare} rows: "
                f"{_some(log, rare)}"
            )
            remedy = "their values will have wide intervals; merge rare actions or log them more often"
            found.append(
                _finding(
                    log, "rare actions", "note", text, remedy, "actions", rare.size,
                    _counted(log, rare, counts),
                )
            )  # fmt: skip
        return found

    def _repeats(self, log: Rounds, rng: int) -> list[Finding]:
        c = self.config
        repeats, expected, spread = repeated_rows(log, rng)
        excess = repeats - expected
        if repeats < c.least or excess < c.z * max(spread, 1.0):
            return []
        text = (
            f"about {excess:,.0f} rows repeat another row in every column ({repeats:,} do, {expected:,.0f} may by "
            "chance): a repeat counts one decision twice and makes intervals too short"
        )
        remedy = (
            "drop repeats by the decision's id before loading, and look for retries or a join on a key that is "
            "not unique"
        )
        severity = "warning" if excess / log.n >= c.warn_share else "note"
        return [_finding(log, "repeated rows", severity, text, remedy, "rows", excess)]

    def _time(self, log: Rounds) -> list[Finding]:
        if log.time_column is None:
            return []
        step = np.diff(time_values(log))
        back = np.flatnonzero(step < 0)
        if back.size == 0:
            return []
        share = back.size / max(log.n - 1, 1)
        text = f"time goes backwards at {back.size:,} of {log.n - 1:,} steps, first at row {int(back[0]) + 1}"
        remedy = (
            "nothing to do if the rows were stored in another order: the checks sort them by time"
            if share > 0.05
            else "look for a clock that was set back or files joined out of order; sort the log by time"
        )
        return [_finding(log, "time order", "note", text, remedy, "share of steps", share)]

    def _columns(self, log: Rounds) -> list[Finding]:
        constant: list[dict[str, Any]] = []
        gappy: list[dict[str, Any]] = []
        unique: list[dict[str, Any]] = []
        rare: list[dict[str, Any]] = []
        order = None if log.time_column is None else np.argsort(time_values(log), kind="stable")
        fresh: list[dict[str, Any]] = []
        for name in log.context_columns:
            column = log.table[name]
            if column.dtype in (pl.List, pl.Struct, pl.Array):
                continue
            if column.dtype.is_float():
                column = column.fill_nan(None)
            levels, gaps = column.n_unique(), column.null_count() / log.n
            if levels == 1:
                constant.append({"column": name, "share": 1.0})
            if gaps >= self.config.gaps and levels > 1:
                gappy.append({"column": name, "share": gaps})
            if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
                continue
            if levels > max(log.n / 2, 50):
                unique.append({"column": name, "share": levels / log.n})
                continue
            text = column.cast(pl.String)
            counts = text.drop_nulls().alias("level").value_counts()
            few = counts.filter(pl.col("count") < self.config.rare)
            if few.height:
                rare.append({"column": name, "levels": few.height, "share": int(few["count"].sum()) / log.n})
            if order is not None:
                cut = log.n - max(log.n // 10, 1)
                early, late = text[order[:cut]].unique(), text[order[cut:]]
                new = int((~late.is_in(early.implode()) & late.is_not_null()).sum()) / len(late)
                if new > 0.01:
                    fresh.append({"column": name, "share": new})
        told = (
            (constant, "constant columns", "the same value in every row", "leave it out of the context"),
            (
                gappy, "gaps", f"empty in at least {self.config.gaps:.0%} of the rows",
                "find out why it is empty: a gap that comes after the action is a leak",
            ),
            (
                unique, "identifiers", "a different text in most rows, like an identifier",
                "leave it out of the context, or make it the unit",
            ),
            (
                [r for r in rare if r["share"] >= 0.01], "rare categories",
                f"categories with fewer than {self.config.rare} rows, in at least 1% of the rows",
                "merge rare categories before a model uses them",
            ),
            (
                fresh, "new categories", "categories in the last tenth of the log that were not seen before",
                "a model fitted on the earlier rows knows nothing of them",
            ),
        )  # fmt: skip
        return [
            _finding(
                log, what, "note", f"{', '.join(repr(e['column']) for e in rows[:5])}"
                f"{' and others' if len(rows) > 5 else ''}: {saying}", remedy, "columns", len(rows), tuple(rows),
            )
            for rows, what, saying, remedy in told
            if rows
        ]  # fmt: skip


def repeated_rows(log: Rounds, rng: int = 0) -> tuple[int, float, float]:
    """Equations (1) and (2): neighbouring pairs (in random order within a key) that agree in everything, the most that
    chance explains, and its standard deviation."""
    outcome = {log.action_column, *log.rewards, log.propensity_column, log.available_column}
    plain = [n for n in log.columns if n not in outcome]
    p = log.propensity if log.propensity_role not in (None, ESTIMATED) else None
    if p is None:
        share = np.bincount(log.action) / log.n
        p = np.full(log.n, float((share**2).sum()))
    if not plain:
        return 0, 0.0, 0.0
    shuffled = np.random.default_rng(rng).permutation(log.n)
    key = log.table.select(plain).hash_rows(seed=1).to_numpy()[shuffled]
    order = shuffled[np.argsort(key, kind="stable")]
    key = np.sort(key, kind="stable")
    first, second = order[:-1], order[1:]
    pair = key[:-1] == key[1:]
    first, second = first[pair], second[pair]
    same = log.action[first] == log.action[second]
    for name in log.rewards:
        r = log.reward_of(name)
        same &= r[first] == r[second]
    same &= np.isclose(p[first], p[second], rtol=1e-12)
    chance = p[first]
    return int(same.sum()), float(chance.sum()), float(np.sqrt((chance * (1 - chance)).sum()))


def _finding(
    log: Rounds,
    what: str,
    severity: str,
    text: str,
    remedy: str,
    unit: str,
    value: float,
    evidence: tuple[dict[str, Any], ...] = (),
) -> Finding:
    return Finding(
        check=f"{CHECK}: {what}",
        severity=severity,
        message=text,
        remedy=remedy,
        unit=unit,
        n=log.n,
        value=float(value),
        evidence=evidence,
    )


def _some(log: Rounds, codes: Any) -> str:
    names = [str(log.actions[int(k)]) for k in codes[:5]]
    return ", ".join(names) + (", ..." if len(codes) > 5 else "")


def _counted(log: Rounds, codes: Any, counts: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"action": str(log.actions[int(k)]), "rows": int(counts[k])} for k in codes[:200])
