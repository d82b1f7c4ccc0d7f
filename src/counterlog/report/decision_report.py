"""`build` turns a decision log into one result: the verdict, what each candidate would have earned, and the reasons.

Everything that the page draws is in the `DecisionReport`, as plain values; `write` makes the folder that people open.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from counterlog.audit.decision_log import audit
from counterlog.core.errors import CounterlogError
from counterlog.core.estimators import Estimator
from counterlog.core.evaluate import evaluate, make_estimator
from counterlog.core.policies import Policy
from counterlog.core.results import Estimate, Finding, Result
from counterlog.core.rounds import Rounds
from counterlog.core.row_sample import row_sample
from counterlog.core.study import Clock, versions
from counterlog.report.reward_report import RewardReport, RewardSettings, reward_report
from counterlog.report.segments import with_segments
from counterlog.report.wording import ALWAYS, BASELINE, BEST_FIXED

Progress = Callable[[str, float], None]
MOST_ACTIONS = 12
PACKAGES = ("numpy", "scipy", "scikit-learn", "polars", "plotly")


@dataclass(frozen=True, kw_only=True)
class LogCard:
    """What was read: roles, sizes and the fingerprint of the content."""

    rows: int
    actions: tuple[str, ...]
    action_column: str
    rewards: dict[str, str]
    propensity: str
    context: tuple[str, ...]
    segments: tuple[str, ...]
    unit_column: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class DecisionReport(Result):
    """Everything on the page. `n` counts the log's rows; `policies` are the estimates on the whole log, all rewards."""

    n: int
    unit: str
    level: float
    rng: int
    verdict: str
    policies: tuple[Estimate, ...]
    audit: tuple[Finding, ...]
    audit_verdict: str
    rewards: tuple[RewardReport, ...]
    log: LogCard
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record an estimate."""
        return [record for e in self.policies for record in e.records()]

    def to_json_content(self) -> dict[str, Any]:
        """The same content for machines: `n`, `policies`, `audit`, `verdict` and everything else by its name."""
        return self.to_dict()

    def html(self) -> str:
        """The page, one file that opens without a network."""
        from counterlog.report.page import render

        return render(self)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the report's folder and return the path of the page."""
        from counterlog.report.files import write_folder

        return write_folder(self, Path(folder))


def build(
    log: Rounds,
    *,
    policies: Sequence[Policy | str] = (),
    estimators: Sequence[Estimator | str] = (),
    rewards: Sequence[str] = (),
    beside: Sequence[Estimate] = (),
    level: float = 0.95,
    model: Any = "boosting",
    rng: int = 0,
    command: str = "",
    progress: Progress | None = None,
) -> DecisionReport:
    """The report of a decision log.

    policies     candidates besides what was done, the best single action and the learnt policy; by default drawing at
                 random (unless the log was) and every single action (up to 12)
    estimators   DM, IPS, SNIPS and DR by default; without context IPS and SNIPS
    rewards      names of the log's rewards, all by default
    beside       values known from elsewhere (a test, a policy's own log), drawn and listed beside the estimates
    progress     called with what is being done and the share that is done

    A log of more rows than memory should hold is read as a sample of whole units; values over all rows, of policies
    that an engine's scan can express, then stand beside the sample's.

    Raises `SupportError` when the log cannot answer at all, `LogError` and `PropensityError` for what is wrong in it.
    """
    log.check_estimable()
    clock, say = Clock(), progress or (lambda _text, _share: None)
    names = tuple(rewards) or tuple(log.rewards)
    log, beside, read = _readable(log, policies, beside, level=level, rng=rng, say=say)
    log = with_segments(log)
    candidates, notes = candidate_policies(log, policies)
    chosen = [make_estimator(e) for e in estimators or default_estimators(log)]
    say("auditing the log", 0.0)
    found = audit(log, candidates, rng=rng)
    settings = RewardSettings(
        candidates=tuple(candidates),
        estimators=tuple(chosen),
        frozen=not policies,
        beside=tuple(beside),
        trust=found.verdict,
        level=level,
        model=model,
        rng=rng,
    )
    parts = []
    for i, name in enumerate(names):

        def step(text: str, share: float, i: int = i, name: str = name) -> None:
            say(f"{name}: {text}", 0.05 + 0.95 * (i + share) / len(names))

        parts.append(reward_report(log.with_reward(name), settings, index=i, say=step))
    say("done", 1.0)
    spoken = [" ".join(p.verdict) for p in parts]
    return DecisionReport(
        n=log.n,
        unit="rows",
        level=level,
        rng=rng,
        verdict="\n".join(
            f"{p.reward}: {s}" if len(parts) > 1 else s for p, s in zip(parts, spoken, strict=True)
        ),
        policies=tuple(e for p in parts for e in (*p.estimates, *p.beside)),
        audit=found.findings,
        audit_verdict=found.verdict,
        rewards=tuple(parts),
        log=log_card(log, names),
        command=command or "counterlog.report.decision_report.build(...)",
        settings={
            "policies": [p if isinstance(p, str) else p.name for p in candidates],
            "estimators": [e.label for e in chosen],
            "rewards": list(names),
            "level": level,
            "model": str(model),
            "rng": rng,
        },
        versions={**versions(*PACKAGES), "counterlog": _own_version(), "platform": sys.platform},
        seconds=clock.seconds(),
        notes=(*read, *notes),
    )


def _readable(
    log: Rounds,
    policies: Sequence[Policy | str],
    beside: Sequence[Estimate],
    *,
    level: float,
    rng: int,
    say: Progress,
) -> tuple[Rounds, tuple[Estimate, ...], tuple[str, ...]]:
    """The rows the page is made from, the values that stand beside them, and what to say about both."""
    small = row_sample(log)
    if small is log:
        return log, tuple(beside), ()
    say("summing all rows", 0.0)
    given = [p for p in policies if p not in (BASELINE, BEST_FIXED)] or ["uniform"]
    note = f"The page is made from a sample of {small.n:,} of {log.n:,} rows, drawn by unit."
    try:
        whole = evaluate(log, [BASELINE, *given], ["SNIPS"], segments=False, level=level, rng=rng)
    except CounterlogError as cause:
        return small, tuple(beside), (f"{note} No value over all rows: {str(cause).splitlines()[0]}.",)
    named = [replace(e, policy=f"{e.policy} (all rows)") for e in whole.estimates]
    return small, (*beside, *named), (f"{note} Values named '(all rows)' are sums over all of them.",)


def candidate_policies(
    log: Rounds, given: Sequence[Policy | str]
) -> tuple[list[Policy | str], tuple[str, ...]]:
    """The candidates in the order of the page, and what to say about their choice."""
    if given:
        kept = [p for p in given if p not in (BASELINE, BEST_FIXED)]
        return [BASELINE, BEST_FIXED, *kept], ()
    first: list[Policy | str] = [BASELINE] if _drawn_uniformly(log) else [BASELINE, "uniform"]
    if len(log.actions) > MOST_ACTIONS:
        note = (
            f"The log has {len(log.actions)} actions. Single actions are left out of the comparison above "
            f"{MOST_ACTIONS}; the best of them, chosen on other rows than those it is valued on, stands for them all."
        )
        return [*first, BEST_FIXED], (note,)
    return [*first, BEST_FIXED, *(f"{ALWAYS}{a}" for a in log.actions)], ()


def _drawn_uniformly(log: Rounds) -> bool:
    """Whether drawing at random is what was done."""
    k = len(log.actions) if log.available is None else log.available.sum(axis=1)
    return log.propensity_role is not None and bool(np.allclose(log.propensity * k, 1.0, rtol=1e-4, atol=0.0))


def default_estimators(log: Rounds) -> list[Estimator | str]:
    """A model alone, weights alone, and both together, so that they can contradict each other."""
    return ["DM", "IPS", "SNIPS", "DR"] if log.context_columns else ["IPS", "SNIPS"]


def log_card(log: Rounds, rewards: Sequence[str]) -> LogCard:
    """What was read."""
    return LogCard(
        rows=log.n,
        actions=tuple(str(a) for a in log.actions),
        action_column=log.action_column,
        rewards={r: log.rewards[r] for r in rewards},
        propensity=log.propensity_label,
        context=log.context_columns,
        segments=log.segment_columns,
        unit_column=log.unit_column or "",
        fingerprint=log.fingerprint,
    )


def _own_version() -> str:
    from counterlog import __version__

    return __version__
