"""What to do next and what the answer hangs on: risk, tests, the learnt policy, sway, holdout."""

from __future__ import annotations

import math

from counterlog.report.blocks import Section, grid
from counterlog.report.figures import ratio_curve, risk, shares, without
from counterlog.report.holdout import HoldoutPart
from counterlog.report.reward_report import RewardReport
from counterlog.report.verdict import loss_words, more_needed
from counterlog.report.wording import amount, brief, capital, per_decision, percent, policy_words, span


def risk_section(part: RewardReport) -> Section | None:
    """Value against risk, point by point."""
    if not part.risk:
        return None
    unit = per_decision(part.unit)
    safe = [p for p in part.risk if p.gain > 0]
    best = max(part.risk, key=lambda p: p.gain)
    lead = (
        f"{capital(policy_words(best.policy))} has the largest estimated gain, {brief(best.gain)} {unit}; "
        f"{loss_words(best)}."
        if safe
        else "No candidate has an estimated gain over what was done."
    )
    rows = [(p.policy, p.gain, p.se, 100 * p.loss_chance, p.worst) for p in part.risk]
    return Section(
        slug="risk",
        title="What is at risk?",
        text=(
            lead,
            "Up is a larger gain, right is less certain. The redrawn logs (a bootstrap) stand in for other logs that "
            "might have been collected, because the true values are unknown.",
        ),
        figure=risk(part.risk),
        alt="Gain over what was done against its standard error",
        grids=(
            grid(
                "The numbers drawn",
                (
                    "policy",
                    ("gain", unit),
                    ("standard error", unit),
                    ("chance of a loss", "% of redrawn logs"),
                    ("bad case", f"mean gain in the worst 5% of them, {unit}"),
                ),
                rows,
                open=False,
            ),
        ),
    )


def test_section(part: RewardReport) -> Section | None:
    """How many policies to test next."""
    points = [p for p in part.at_k if math.isfinite(p.ratio)]
    if not points:
        return None
    unit = per_decision(part.unit)
    top = max(points, key=lambda p: p.ratio)
    one = part.at_k[0]
    rows = [(p.k, p.best, p.worst, p.spread, p.ratio, p.lo, p.hi, p.regret, 100 * p.below) for p in part.at_k]
    return Section(
        slug="test",
        title="How many policies to test next?",
        text=(
            f"Testing only the best-looking policy earns {brief(one.best)} {unit} on average over redrawn logs, "
            f"{brief(one.regret)} short of the best candidate. Testing the {top.k} best-looking ones gives the best "
            f"return for its risk (SharpeRatio {brief(top.ratio)}); the worst of them earns {brief(top.worst)}.",
            "SharpeRatio@k is the gain of the best of k tested policies over what was done, divided by the spread "
            "among the k: high when a test finds a good policy without exposing people to bad ones. One policy has "
            "no spread, so the curve starts at 2.",
        ),
        figure=ratio_curve(part.at_k),
        alt="SharpeRatio at k against k",
        grids=(
            grid(
                "The numbers drawn",
                (
                    ("k", "policies tested"),
                    ("best", unit),
                    ("worst", unit),
                    ("spread", unit),
                    ("SharpeRatio", "none without spread"),
                    ("low end", "of redrawn logs"),
                    ("high end", ""),
                    ("missed", f"below the best candidate, {unit}"),
                    ("below what was done", "% of those tested"),
                ),
                [
                    tuple(None if isinstance(v, float) and not math.isfinite(v) else v for v in r)
                    for r in rows
                ],
                open=False,
            ),
        ),
    )


def learnt_section(part: RewardReport, level: float) -> Section:
    """The learnt policy, its gain over the best single action, and the file."""
    made = part.learnt
    if made is None:
        return Section(
            slug="learnt", title="A better policy to download", text=part.notes or ("None was learnt.",)
        )
    unit = per_decision(part.unit)
    c = made.against_best
    if c is None:
        lead = "The learnt policy or the best single action has no reliable value here, so the two are not compared."
    elif c.same:
        lead = "It does the same as the best single action."
    else:
        clear = (
            f"{'a clear gain' if c.value > 0 else 'a clear loss'}"
            if c.told_apart
            else f"not told apart; {more_needed(c)}"
        )
        lead = (
            f"Against the best single action it would change “{part.reward}” by {brief(c.value)} {unit} "
            f"({span(c.lo, c.hi, c.level)}): {clear}."
        )
    share_rows = [
        (s.column or "all", s.level, s.rows, s.action, 100 * s.learnt, 100 * s.logged) for s in made.shares
    ]
    grids = [
        grid(
            "The numbers drawn",
            (
                "segment",
                "level",
                ("rows", ""),
                "action",
                ("learnt policy", "% of decisions"),
                ("in the log", "% of decisions"),
            ),
            share_rows,
            open=False,
        )
    ]
    if made.by_segment:
        grids.append(
            grid(
                "Gain over the best single action by segment",
                (
                    "segment",
                    "level",
                    ("rows", ""),
                    ("gain", unit),
                    ("low end", f"{percent(level)}, each alone"),
                    ("high end", ""),
                ),
                [(g.column, g.level, g.rows, g.value, g.lo, g.hi) for g in made.by_segment],
                open=False,
            )
        )
    return Section(
        slug="learnt",
        title="A better policy to download",
        text=(
            f"The report learnt a policy that decides by context: {made.description}. It was valued only on rows that "
            "it had not seen (cross-fitting), so its value is honest; the file holds the policy refitted on all rows.",
            lead,
            "The bars show how often it takes each action in each segment.",
        ),
        figure=shares(made.shares),
        alt="How often the learnt policy takes each action, by segment",
        grids=tuple(grids),
        download=(
            made.file_name,
            f"data:application/octet-stream;base64,{made.file}",
            f"Download {made.file_name}",
        ),
    )


def sway_section(part: RewardReport) -> Section | None:
    """What the answer hangs on."""
    made = part.sway
    if made is None:
        return None
    unit = per_decision(part.unit)
    answer = f"{policy_words(made.first)} minus {policy_words(made.second)}, {brief(made.answer)} {unit}"
    if made.flip < 0:
        flip = "Even without the half of the rows that speak most for it, the answer keeps its sign."
    else:
        flip = (
            f"Someone who may pick which rows to remove needs {made.flip:,} of {made.n:,} "
            f"({percent(made.flip / made.n)}) to turn its sign."
        )
    groups = [*made.segments, *made.units]
    finite = [s for s in groups if math.isfinite(s.without)]
    columns = (
        "kind",
        "which",
        ("rows", ""),
        ("share", "% of rows"),
        ("answer without", unit),
        ("change", f"of the answer, {unit}"),
    )
    row_columns = (
        "row",
        "what it holds",
        ("influence", f"first-order, {unit}"),
        ("answer without", unit),
    )
    return Section(
        slug="sway",
        title="What does the answer hang on?",
        text=(
            f"The answer is {answer}. {flip}",
            "Influence is how much the answer moves when a row is added. The rows and groups with the most influence "
            "were left out in turn and the answer was computed again; the bars start at the full answer.",
        ),
        figure=without(
            [_group_name(s.kind, s.name) for s in finite], [s.without for s in finite], made.answer, unit
        )
        if finite
        else None,
        alt="The answer without each segment and unit",
        grids=(
            *(
                [
                    grid(
                        "The numbers drawn",
                        columns,
                        [
                            (s.kind, s.name, s.rows, 100 * s.share, s.without, s.without - made.answer)
                            for s in finite
                        ],
                        open=False,
                    )
                ]
                if finite
                else []
            ),
            grid(
                "The rows that sway it most",
                row_columns,
                [(s.name, s.detail, s.influence, s.without) for s in made.rows],
                open=False,
                note="Rows are counted from 0, in the order of the log.",
            ),
        ),
    )


def _group_name(kind: str, name: str) -> str:
    return f"{kind}: {name}"


def _vacuous(made: HoldoutPart) -> bool:
    """Whether the interval is so wide that the candidates differ by far less."""
    values = [a.training for a in made.asked if math.isfinite(a.training)]
    return made.hi - made.lo > 4 * (max(values) - min(values))


def holdout_section(part: RewardReport) -> Section:
    """The winner quoted on rows that did not choose it."""
    made = part.holdout
    title = "Does the winner hold on rows that did not choose it?"
    if made is None:
        return Section(
            slug="holdout",
            title=title,
            text=("The log is too small to be split, or holds fewer than two candidates that can be asked.",),
        )
    unit = per_decision(part.unit)
    spent = (
        f"None of the budget of {made.budget:,} answers was used."
        if made.road == "frozen"
        else f"{made.questions:,} questions were asked; {made.used:,} of the budget of {made.budget:,} answers were "
        f"used, {made.left:,} are left."
    )
    rows = [(a.policy, a.training, a.value, a.lo, a.hi, a.source) for a in made.asked]
    return Section(
        slug="holdout",
        title=title,
        text=(
            "Comparing many candidates on the same rows flatters the winner. So the log was split into halves: one "
            "half ranked the candidates that can be relied on and learnt a policy anew; the other was asked. The "
            f"winner was {policy_words(made.winner)}, and the asked half puts it at {amount(made.value, made.unit)} "
            f"({span(made.lo, made.hi, made.level)})."
            + (
                " An interval this wide says little: the log is small for this check."
                if _vacuous(made)
                else ""
            ),
            f"{made.looks} candidates were compared. {spent} {capital(made.reason)}.",
            *(f"{capital(note)}." for note in made.notes),
        ),
        grids=(
            grid(
                "What the asked half answered",
                (
                    "policy",
                    ("ranking half", unit),
                    ("asked half", unit),
                    ("low end", f"{percent(made.level)}, all together"),
                    ("high end", ""),
                    ("answered from", ""),
                ),
                [
                    tuple(None if isinstance(v, float) and not math.isfinite(v) else v for v in r)
                    for r in rows
                ],
                open=False,
            ),
        ),
    )
