"""What each policy would have earned: values, agreement of estimators, lead, segments, decisions still needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from counterlog.core.results import Estimate
from counterlog.report.blocks import Grid, Section, grid
from counterlog.report.contest import Comparison
from counterlog.report.figures import forest, gaps
from counterlog.report.reward_report import RewardReport
from counterlog.report.verdict import more_needed
from counterlog.report.wording import (
    BASELINE,
    brief,
    capital,
    listed,
    per_decision,
    percent,
    policy_words,
    span,
)

ESTIMATOR_WORDS = {
    "DM": "a model of the reward alone; wrong where the model is wrong",
    "IPS": "logged rewards reweighted to the candidate's choices; no model, but wide when weights are large",
    "SNIPS": "IPS divided by the mean weight; steadier, slightly biased in small logs",
    "DR": "the model corrected by reweighted rewards; right when either is right",
    "SNDR": "DR with the correction divided by the mean weight",
    "Replay": "the mean of the rows in which the candidate agrees with the log",
}


def value_section(part: RewardReport, level: float) -> Section:
    """The forest plot and its table."""
    place = {e.policy: i for i, e in enumerate(part.ranking)}
    whole = sorted((*part.estimates, *part.beside), key=lambda e: place.get(e.policy, len(place)))
    names = list(dict.fromkeys(e.estimator for e in whole if e.estimator))
    explained = "; ".join(f"{n}: {ESTIMATOR_WORDS[n]}" for n in names if n in ESTIMATOR_WORDS)
    return Section(
        slug="values",
        title="What would each policy have earned?",
        text=(
            f"Each mark estimates what a policy would have earned, in {per_decision(part.unit)}, with its "
            f"{percent(level)} interval; the best policy is on top. A hollow mark has an interval that should not be "
            "believed; the table says why.",
            _single(part),
            _beside(part),
            f"The ways of estimating: {explained}." if explained else "",
        ),
        figure=forest(whole),
        alt=f"Estimated value of each policy by each estimator, in {per_decision(part.unit)}",
        grids=(estimates_grid(whole, part.unit),),
    )


def _beside(part: RewardReport) -> str:
    """What is known from elsewhere, in a sentence."""
    if not part.beside:
        return ""
    known = [f"{policy_words(e.policy)} {brief(e.value)} ({span(e.lo, e.hi, e.level)})" for e in part.beside]
    return (
        f"Known from elsewhere and drawn beside the estimates, in {per_decision(part.unit)}: {listed(known)}."
    )


def _single(part: RewardReport) -> str:
    """What stands behind the best single action."""
    names = [f"“{action}” ({percent(share)})" for action, share in part.best_single.items()]
    if not names:
        return ""
    if len(names) == 1:
        return (
            f"The best single action was “{next(iter(part.best_single))}” whichever part of the log chose it."
        )
    return (
        "The best single action is chosen on other rows than it is valued on, so that its value stays honest; the "
        f"parts of the log chose differently: {listed(names)} of the decisions."
    )


def estimates_grid(estimates: Sequence[Estimate], unit: str) -> Grid:
    """Every plotted number."""
    columns = (
        "policy",
        "estimator",
        ("value", per_decision(unit)),
        ("low end", "of the interval"),
        ("high end", "of the interval"),
        ("units", "independent units behind the interval"),
        ("effective rows", "how many equally weighted rows would be as informative"),
        ("remarks", ""),
    )
    rows = [
        (
            e.policy,
            e.estimator,
            e.value if math.isfinite(e.value) else None,
            e.lo if math.isfinite(e.lo) else None,
            e.hi if math.isfinite(e.hi) else None,
            e.n,
            e.ess,
            "; ".join([*([] if e.valid else [e.reason]), *e.notes]),
        )
        for e in estimates
    ]
    return grid("The numbers drawn", columns, rows, open=False)


def agreement_section(part: RewardReport, level: float) -> Section | None:
    """Where the estimators contradict each other."""
    found = part.disagreements
    if not found:
        return None
    sure = [d for d in found if d.significant]
    if sure:
        pairs = listed([f"{d.first} and {d.second} on {policy_words(d.policy)}" for d in sure], most=3)
        lead = f"They disagree by more than chance: {pairs}. {capital(sure[0].reason)}."
    else:
        lead = "They agree within chance on every policy."
    columns = (
        "policy",
        "first",
        "second",
        ("difference", f"first minus second, {per_decision(part.unit)}"),
        ("low end", f"{percent(level)} interval"),
        ("high end", ""),
        ("adjusted p", "chance of such a gap without a real one, over all pairs"),
        ("effective rows", ""),
        ("largest weight", ""),
        ("mean weight", "1 when propensities are right"),
        "likeliest reason",
    )
    rows = [
        (d.policy, d.first, d.second, d.value, d.lo, d.hi, d.p, d.ess, d.largest, d.mean_weight, d.reason)
        for d in found
    ]
    return Section(
        slug="agreement",
        title="Do the ways of estimating agree?",
        text=(
            lead,
            "Two estimators of one policy read the same rows, so their difference is tested as a paired one, "
            "with a correction for testing many pairs (Holm).",
        ),
        grids=(grid("Every pair of estimators", columns, rows, open=False),),
    )


def lead_section(part: RewardReport, level: float) -> Section:
    """Every policy against what was done."""
    found = part.against_logged
    if not found:
        return Section(
            slug="lead",
            title="How far ahead of what was done?",
            text=(
                "No candidate has an interval that can be relied on (the table of values says why), so differences, "
                "risk, tests, segments and influence are left out here.",
            ),
        )
    return Section(
        slug="lead",
        title="How far ahead of what was done?",
        text=(
            f"Each mark is a policy's gain over what was done, in {per_decision(part.unit)}. The intervals hold for "
            "all policies together, so the best-looking one may be picked from this picture. A filled mark is a clear "
            "difference; a hollow one cannot be told from none (the dashed line).",
            "Policies that the log itself chose (the best single action, the learnt policy) have intervals a quarter "
            "wider, because the rows that chose them and the rows that value them take turns.",
        ),
        figure=gaps(
            [c.first for c in found],
            [c.value for c in found],
            [c.lo for c in found],
            [c.hi for c in found],
            per_decision(part.unit),
        ),
        alt="Gain of each policy over what was done, with simultaneous intervals",
        grids=(
            grid(
                "The numbers drawn",
                (
                    "policy",
                    ("gain", per_decision(part.unit)),
                    ("low end", f"{percent(level)}, all together"),
                    ("high end", ""),
                    ("standard error", ""),
                    "clear",
                ),
                [(c.first, c.value, c.lo, c.hi, c.se, "the same" if c.same else c.told_apart) for c in found],
                open=False,
            ),
        ),
    )


def segment_section(part: RewardReport, level: float) -> Section | None:
    """The leader's gain by segment, and every policy's value there."""
    if not part.by_segment:
        return None
    unit = per_decision(part.unit)
    found = part.by_segment
    losing = [f"{g.column}: {g.level}" for g in found if g.hi < 0]
    lead = (
        f"{capital(policy_words(found[0].first))} is clearly worse than what was done in {listed(losing)}."
        if losing
        else f"In no segment is {policy_words(found[0].first)} clearly worse than what was done."
    )
    values = [
        (e.segment, e.policy, e.value, e.lo, e.hi, e.n, "" if e.valid else e.reason)
        for e in part.segments
        if math.isfinite(e.value)
    ]
    return Section(
        slug="segments",
        title="For whom?",
        text=(
            lead,
            f"Each mark is the gain of {policy_words(found[0].first)} over what was done within a segment, in {unit}. "
            f"Each interval stands alone: among 20 segments without a difference, one will look like it has one.",
        ),
        figure=gaps(
            [f"{g.column}: {g.level}" for g in found],
            [g.value for g in found],
            [g.lo for g in found],
            [g.hi for g in found],
            unit,
        ),
        alt="Gain over what was done by segment",
        grids=(
            grid(
                "The numbers drawn",
                (
                    "segment",
                    "level",
                    ("rows", ""),
                    ("gain", unit),
                    ("low end", percent(level)),
                    ("high end", ""),
                ),
                [(g.column, g.level, g.rows, g.value, g.lo, g.hi) for g in found],
                open=False,
            ),
            grid(
                "Every policy's value by segment",
                (
                    "segment",
                    "policy",
                    ("value", unit),
                    ("low end", percent(level)),
                    ("high end", ""),
                    ("units", "independent"),
                    "remarks",
                ),
                values,
                open=False,
            ),
        ),
    )


def _state(c: Comparison, part: RewardReport) -> str:
    """Whether a difference is settled."""
    if c in part.rough:
        return "rough"
    return "the same" if c.same else ("clear" if c.told_apart else "open")


def rounds_section(part: RewardReport, level: float) -> Section | None:
    """How many more decisions settle what is open."""
    sure = [*part.against_logged, *(c for c in part.best_against if c.second != BASELINE and not c.same)]
    found = [*sure, *part.rough]
    if not found:
        return None
    unit = per_decision(part.unit)
    open_ = [c for c in found if c in part.rough or not (c.told_apart or c.same)]
    least = [c for c in open_ if c.more >= 0]
    if not open_:
        lead = "Nothing is open: every difference below is clear at the present size of the log."
    elif not least:
        lead = "What is open is a difference of nothing, which no number of decisions settles."
    else:
        first = min(least, key=lambda c: c.more)
        lead = (
            f"{len(open_)} of {len(found)} differences are open. The first to be settled would be "
            f"{policy_words(first.first)} against {policy_words(first.second)}: {more_needed(first)}."
        )
    rows = [
        (
            c.first,
            c.second,
            c.value,
            c.lo,
            c.hi,
            _state(c, part),
            c.needed if c.needed >= 0 else None,
            c.more if c.more >= 0 else None,
            c.visible,
        )
        for c in found
    ]
    return Section(
        slug="rounds",
        title="How many more decisions would settle it?",
        text=(
            lead,
            "Power is the chance of seeing a difference that is there; 80% is the usual wish. The numbers assume that "
            "the difference is as large as estimated, that decisions are logged as they were, and a test of that one "
            f"difference at the {percent(level)} level.",
            "Rough: the policy's interval cannot be relied on, so these numbers are a guide for planning only."
            if part.rough
            else "",
        ),
        grids=(
            grid(
                "Differences and the decisions they need",
                (
                    "policy",
                    "against",
                    ("difference", unit),
                    ("low end", f"{percent(level)}, all together"),
                    ("high end", ""),
                    "state",
                    ("decisions in all", "for 80% power"),
                    ("still to log", "decisions"),
                    ("smallest visible", f"difference at today's size, {unit}"),
                ),
                rows,
                open=True,
            ),
        ),
    )
