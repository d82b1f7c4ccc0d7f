"""A study: the experiment that shows a paper's claim, its tables against the baselines, and whether it held.

A module `counterlog.studies.<slug>` has one function `run(*, full, rng) -> Study`. `counterlog study SLUG`
prints the tables and exits 0 only when every check passed; `--full` saves the result as
`studies/results/SLUG.json`.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from counterlog.core.results import Result


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim: what was measured against which bar. A claim that did not hold stays in the list as it
    is."""

    claim: str
    measured: float
    bar: str
    passed: bool
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Records under a title; `unit` says what the numbers are."""

    title: str
    rows: tuple[dict[str, Any], ...]
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Study(Result):
    """Tables, checks and what made them. `n` counts the repetitions (seeds, replications) behind a cell."""

    slug: str
    mode: str
    rng: int
    unit: str
    n: int
    tables: tuple[Table, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    versions: dict[str, str] | None = None

    @property
    def passed(self) -> bool:
        """Whether every stated acceptance check held."""
        return all(check.passed for check in self.checks)

    def records(self) -> list[dict[str, Any]]:
        """The checks, one a row."""
        return [
            {"claim": c.claim, "measured": c.measured, "bar": c.bar, "passed": c.passed, "note": c.note}
            for c in self.checks
        ]


def versions(*packages: str) -> dict[str, str]:
    """Python's and the named packages' versions, for the record."""
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


class Clock:
    """Processor seconds of this process since it was made, over all its threads; joblib workers are not counted."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def seconds(self) -> float:
        """Processor seconds so far, to a hundredth."""
        return round(time.process_time() - self._start, 2)
