"""The verdict on policies learnt from trajectories: what the log shows, or that it cannot tell them apart, and why.

A claim needs four things together: the interval of the difference leaves out 0 beside all other pairs; no estimator has
the other sign; the networks repeat what the log itself earned; the policy's decisions are known to the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from counterlog.core.results import Estimate
from counterlog.report.trajectory_report import MOST_AWAY, LearntPolicy
from counterlog.report.trajectory_values import Lead, SelfCheck, Valued
from counterlog.report.wording import BASELINE, brief, listed, percent, rounded


def speak(
    valued: Valued,
    estimates: Sequence[Estimate],
    leads: Sequence[Lead],
    check: SelfCheck,
    policies: Sequence[LearntPolicy],
    level: float,
) -> tuple[str, bool]:
    """The verdict, and whether it claims that some policy is better than what was done."""
    if not check.passed:
        return _untrusted(check), False
    main = {e.policy: e for e in reversed(estimates)}
    barred = barred_policies(main, policies)
    open_ = [p.name for p in policies if p.name not in barred]
    said = [f"{words(name)} cannot be judged: {why}." for name, why in barred.items()]
    claims = claimed(leads, barred)
    ahead = [x for x in claims if x.second == BASELINE]
    behind = [x for x in claims if x.first == BASELINE]
    if not open_:
        return _join(["The log cannot judge any of the policies learnt from it.", *said]), False
    best = max(open_, key=lambda name: main[name].value)
    if ahead:
        top = max(ahead, key=lambda x: main[x.first].value)
        said.insert(0, _gain(top, level))
        rivals = [n for n in open_ if n != top.first]
        beaten = {x.second for x in claims if x.first == top.first}
        if tied := [n for n in rivals if n not in beaten]:
            said.insert(1, f"The log cannot tell it apart from {listed([words(n) for n in tied])}.")
        elif rivals:
            said.insert(1, f"It is ahead of {listed([words(n) for n in rivals])} too.")
    else:
        lead = next(x for x in leads if {x.first, x.second} == {best, BASELINE})
        lost = lead in behind
        said.insert(0, _loss(lead, level) if lost else _undecided(lead, level, nothing=not claims))
        behind = [x for x in behind if not lost or x is not lead]
    if behind:
        said.append(
            f"{listed([words(x.second) for x in behind])} would earn less than what was done.".capitalize()
        )
    return _join(said), bool(ahead)


def barred_policies(main: dict[str, Estimate], policies: Sequence[LearntPolicy]) -> dict[str, str]:
    """Policies of which nothing is claimed, with the reason."""
    out = {}
    for p in policies:
        if p.away > MOST_AWAY:
            out[p.name] = f"{percent(p.away)} of its decisions are unlike any that the log holds"
        elif not main[p.name].valid:
            out[p.name] = main[p.name].reason
    return out


def claimed(leads: Sequence[Lead], barred: dict[str, str]) -> list[Lead]:
    """The differences that the report stands for."""
    return [x for x in leads if x.told_apart and not {x.first, x.second} & set(barred)]


def words(name: str) -> str:
    """A policy within a sentence."""
    return "what was done" if name == BASELINE else f"“{name}”"


def _gain(lead: Lead, level: float) -> str:
    return (
        f"{words(lead.first)} would earn {brief(lead.value)} more than what was done "
        f"({percent(level)} interval for all comparisons together: {brief(lead.lo)} to {brief(lead.hi)} {lead.unit})."
    )


def _loss(lead: Lead, level: float) -> str:
    return (
        f"None of the learnt policies that can be judged is better than what was done. The best-looking one, "
        f"{words(lead.second)}, would earn {brief(lead.value)} less ({percent(level)} interval {brief(lead.lo)} to "
        f"{brief(lead.hi)} {lead.unit})."
    )


def _undecided(lead: Lead, level: float, *, nothing: bool) -> str:
    best = lead.first if lead.second == BASELINE else lead.second
    gain, lo, hi = (
        (lead.value, lead.lo, lead.hi) if lead.second == BASELINE else (-lead.value, -lead.hi, -lead.lo)
    )
    first = (
        "The log cannot tell the learnt policies apart, neither from each other nor from what was done."
        if nothing
        else "The log shows no learnt policy to be better than what was done."
    )
    text = (
        f"{first} The best-looking one that can be judged, {words(best)}, is "
        f"{brief(abs(gain))} {'ahead' if gain >= 0 else 'behind'} ({percent(level)} interval {brief(lo)} to "
        f"{brief(hi)} {lead.unit}). "
    )
    if not lead.agree:
        text += "The estimators disagree about its sign. "
    text += f"This log shows differences of {brief(lead.visible)} and more"
    if lead.needed > lead.n:
        text += f"; a difference of the estimated size would take about {rounded(lead.needed)} trajectories"
    return text + "."


def _untrusted(check: SelfCheck) -> str:
    return (
        "The values cannot be trusted on this log. Of the log's own actions the networks say "
        f"{brief(abs(check.value))} {'more' if check.value > 0 else 'less'} than they earned "
        f"(standard error {brief(check.se)}), so nothing is claimed of other policies. More steps, or more "
        "trajectories, may mend it."
    )


def _join(sentences: Sequence[str]) -> str:
    return " ".join(s for s in sentences if s)
