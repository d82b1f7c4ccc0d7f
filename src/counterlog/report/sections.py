"""The sections of the page, in its order; each explains its words once and stands on the numbers of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterlog.core.results import Finding
from counterlog.report.blocks import Grid, Section, grid
from counterlog.report.decision_report import DecisionReport
from counterlog.report.model_sway_section import model_sway_section
from counterlog.report.reward_report import RewardReport
from counterlog.report.risk_sections import (
    holdout_section,
    learnt_section,
    risk_section,
    sway_section,
    test_section,
)
from counterlog.report.value_sections import (
    agreement_section,
    lead_section,
    rounds_section,
    segment_section,
    value_section,
)
from counterlog.report.wording import capital

MOST_EVIDENCE = 30
SEVERITY_WORDS = {
    "stop": "Stop",
    "warning": "Warning",
    "note": "Note",
    "ok": "Fine",
}


def audit_section(report: DecisionReport) -> Section:
    """What the audit found, worst first."""
    cards = tuple(
        (f.severity, SEVERITY_WORDS.get(f.severity, f.severity), f.check, capital(f.message), f.remedy)
        for f in report.audit
        if f.severity != "ok"
    )
    return Section(
        slug="audit",
        title="Can this log be trusted?",
        text=(report.audit_verdict,),
        cards=cards,
        grids=(_findings(report.audit), *_evidence(report.audit)),
    )


def _findings(findings: Sequence[Finding]) -> Grid:
    rows = [(SEVERITY_WORDS.get(f.severity, f.severity), f.check, f.message, f.remedy) for f in findings]
    return grid("Every check", ("result", "check", "finding", "what to do"), rows, open=False)


def _evidence(findings: Sequence[Finding]) -> list[Grid]:
    """The evidence of what is not fine, a table each."""
    found = []
    for f in findings:
        if f.severity == "ok" or not f.evidence:
            continue
        names = list(dict.fromkeys(name for row in f.evidence for name in row))
        rows = [[_plain(row.get(name)) for name in names] for row in f.evidence[:MOST_EVIDENCE]]
        more = f"The first {MOST_EVIDENCE} of {len(f.evidence)}." if len(f.evidence) > MOST_EVIDENCE else ""
        found.append(grid(f"Evidence: {f.check}", names, rows, note=more, open=False))
    return found


def _plain(value: Any) -> Any:
    """A cell of evidence: lists and the like as text."""
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def run_section(report: DecisionReport) -> Section:
    """What made this page."""
    rows = [
        ("command", report.command),
        ("rows", f"{report.n:,}"),
        ("actions", f"{len(report.log.actions)} in column {report.log.action_column!r}"),
        ("rewards", ", ".join(f"{r} ({u})" for r, u in report.log.rewards.items())),
        ("propensities", report.log.propensity),
        ("context", ", ".join(report.log.context) or "none"),
        ("segments", ", ".join(report.log.segments) or "none"),
        ("independent unit", report.log.unit_column or "the row"),
        ("data, SHA-256", report.log.fingerprint),
        ("settings", ", ".join(f"{k}={v}" for k, v in report.settings.items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())),
        ("processor time", f"{report.seconds:.1f} s"),
    ]
    return Section(
        slug="made",
        title="What made this page",
        text=("The same command on the same data gives the same numbers.", *report.notes),
        grids=(grid("Command, data and versions", ("what", "value"), rows),),
    )


def reward_sections(part: RewardReport, report: DecisionReport) -> list[Section]:
    """The sections of one reward, in the order of the page."""
    found = [
        value_section(part, report.level),
        agreement_section(part, report.level),
        lead_section(part, report.level),
        risk_section(part),
        test_section(part),
        learnt_section(part, report.level),
        segment_section(part, report.level),
        sway_section(part),
        model_sway_section(part),
        rounds_section(part, report.level),
        holdout_section(part),
    ]
    return [s for s in found if s is not None]
