"""The audit of a decision log: every check, worst finding first, and one sentence on what the log can be trusted for.

Use when    a log is new, or an answer from it is about to be believed.
Not when    never: it reads the log a few times and takes seconds.
Data        Rounds, any roles; candidate policies when there are any
Paper       none: it runs the checks of this folder, each of which names its own.
Equation    none
Shapes      findings sorted by severity: stop, warning, note, ok
Units       n: rows
Raises      ConfigError: a policy specification that is not known
Differs     nothing to differ from: the checks' own cards say how they differ
Builds on   propensity-calibration, sample-ratio, logging-drift, reward-leakage, overlap, heavy-tails,
            propensity-values, reward-maturity, log-hygiene
Call        audit(log, policies) runs everything; DecisionLog().check(log, policies) gives the findings alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterlog.audit.heavy_tails import HeavyTails
from counterlog.audit.log_hygiene import LogHygiene
from counterlog.audit.logging_drift import LoggingDrift
from counterlog.audit.overlap import Overlap
from counterlog.audit.propensity_calibration import PropensityCalibration
from counterlog.audit.propensity_values import PropensityValues
from counterlog.audit.reward_leakage import RewardLeakage
from counterlog.audit.reward_maturity import RewardMaturity
from counterlog.audit.sample_ratio import SampleRatio
from counterlog.core.config import Config
from counterlog.core.errors import SupportError
from counterlog.core.policies import Policy, parse_policy
from counterlog.core.results import SEVERITIES, Finding, Result
from counterlog.core.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class DecisionLogConfig(Config):
    """The audit has no thresholds of its own; each check has its configuration."""


@dataclass(frozen=True, kw_only=True)
class AuditResult(Result):
    """Findings, worst first; `n` counts in `unit`. `verdict` says what the log can be trusted for."""

    verdict: str
    severity: str
    findings: tuple[Finding, ...]
    n: int
    unit: str = "rows"
    log: str = ""
    fingerprint: str = ""

    def records(self) -> list[dict[str, Any]]:
        """One record a finding, without its evidence."""
        names = ("severity", "check", "message", "remedy", "value", "unit", "n")
        return [{name: getattr(f, name) for name in names} for f in self.findings]

    def worst(self, severity: str = "warning") -> tuple[Finding, ...]:
        """The findings of at least this severity."""
        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)

    def of(self, check: str) -> tuple[Finding, ...]:
        """The findings of the check of that name, sub-checks included."""
        return tuple(f for f in self.findings if f.check.startswith(check))

    def __str__(self) -> str:
        lines = [self.verdict]
        lines += [
            f"[{f.severity}] {f.check}: {f.message}" + (f" -> {f.remedy}" if f.remedy else "")
            for f in self.findings
            if f.severity != "ok"
        ]
        return "\n".join(lines)


class DecisionLog:
    """Every check, in the order of a reader's questions."""

    def __init__(self, config: DecisionLogConfig = DecisionLogConfig()) -> None:
        self.config = config

    def check(
        self, log: Rounds, policies: Sequence[Policy | str] = (), *, rng: int = 0
    ) -> tuple[Finding, ...]:
        """All findings, worst first. A policy may be a specification such as `always:mens`."""
        found: list[Finding] = [
            *LogHygiene().check(log, rng=rng),
            *PropensityValues().check(log, rng=rng),
        ]
        candidates: list[Policy] = []
        for policy in policies:
            try:
                candidates.append(parse_policy(policy, log, rng=rng) if isinstance(policy, str) else policy)
            except SupportError as cause:
                first, _, hint = str(cause).partition("\nhint: ")
                text = f"policy {policy!r} cannot be valued: {first}"
                name = f"overlap: {policy}"
                found.append(Finding(check=name, severity="stop", message=text, remedy=hint, n=log.n))
        # weights beyond 1e150 have no finite square, and columns around 1e-300 no deviation
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found += PropensityCalibration().check(log, rng=rng)
            found += SampleRatio().check(log, rng=rng)
            found += LoggingDrift().check(log, rng=rng)
            found += RewardLeakage().check(log, rng=rng)
            found += RewardMaturity().check(log, rng=rng)
            if candidates or not policies:
                found += Overlap().check(log, candidates, rng=rng)
            found += HeavyTails().check(log, candidates, rng=rng)
        return tuple(sorted(found, key=lambda f: -SEVERITIES.index(f.severity)))


def audit(log: Rounds, policies: Sequence[Policy | str] = (), *, rng: int = 0) -> AuditResult:
    """Audit a log, with the overlap and tails of each candidate policy. Same `rng`, same result."""
    findings = DecisionLog().check(log, policies, rng=rng)
    return AuditResult(
        verdict=verdict(findings),
        severity=findings[0].severity,
        findings=findings,
        n=log.n,
        log=repr(log),
        fingerprint=log.fingerprint,
    )


TRUSTED = {
    "propensity calibration": "its propensities",
    "sample ratio": "the split of its actions",
    "reward leakage": "its context",
    "reward maturity": "its rewards",
}


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: what the log can be trusted for, except what was found."""
    named = {s: list(dict.fromkeys(topic(f) for f in findings if f.severity == s)) for s in SEVERITIES}
    candidates = [name for name in named["stop"] if name.startswith("overlap")]
    broken = [name for name in named["stop"] if name not in candidates]
    care = [name for name in named["warning"] if name not in named["stop"]]
    if broken:
        also = f"; then see to {_list(care)}" if care else ""
        return f"Do not value policies from this log before these are mended: {_list(broken)}{also}."
    if candidates:
        also = f"; take care with {_list(care)}" if care else ""
        return f"The log cannot value every candidate ({_list(candidates)}){also}."
    if care:
        state: dict[str, set[str]] = {}
        for f in findings:
            name = "reward leakage" if f.check == "column after action" else f.check
            name = name.partition(":")[0].partition(" by ")[0].partition(" over ")[0]
            state.setdefault(name, set()).add(f.severity)
        good = [phrase for check, phrase in TRUSTED.items() if state.get(check) == {"ok"}]
        trust = f"The log can be trusted for {_list(good)}, " if good else "The log can be used, "
        return f"{trust}except: {_list(care)}."
    if named["note"]:
        return f"The log can be trusted; notes on {_list(named['note'])}."
    return "The log can be trusted: every check passed."


def topic(finding: Finding) -> str:
    """The check's name as it reads within a sentence: `repeated rows`, `overlap of 'uniform'`."""
    name, _, part = finding.check.partition(": ")
    return part if name == "log hygiene" and part else (f"{name} of {part!r}" if part else name)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
