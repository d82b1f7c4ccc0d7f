"""The page of an attribution: rows to check, the target rows beside the rows that made them, groups, what made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterlog.core.results import show
from counterlog.report.attribution import CUTOFF, AttributionReport, RankedRow, TargetRow
from counterlog.report.blocks import Grid, Section, grid
from counterlog.report.figures import COLOURS, figure, label
from counterlog.report.page import render_sections
from counterlog.report.wording import brief, capital, percent


def page(report: AttributionReport) -> str:
    """The page as text."""
    found = [
        check_section(report),
        outlier_section(report),
        group_section(report),
        *(target_section(report, t) for t in report.targets),
        run_section(report),
    ]
    return render_sections(
        [s for s in found if s is not None],
        title="Attribution report",
        about=f"{report.n:,} training rows, {report.m:,} target rows, scored by {report.method}.",
        heading="Which training rows made the model predict this",
        verdict=verdict(report),
    )


def verdict(report: AttributionReport) -> tuple[str, ...]:
    """The sentences that matter most."""
    first = report.harmful[0] if report.harmful else None
    lead = (
        f"Check training row {first.row} first: of all rows it harms the {report.m:,} targets most "
        f"({brief(first.score)} {_short(report.unit)} in all; its label is “{first.label}”)."
        if first
        else "No training row harms the targets taken together."
    )
    shares = [t.shares[1] for t in report.targets]
    mean = sum(shares) / len(shares) if shares else 0.0
    spread = f"On average {percent(mean)} of a target's influence lies in 5% of the training rows."
    held = "" if report.leaf_error != report.leaf_error else (
        f"The rows are those that the model was trained on: every leaf is the Newton step of its rows to within "
        f"{brief(report.leaf_error)}."
    )  # fmt: skip
    return lead, spread, held


def _short(unit: str) -> str:
    return unit.split(" (")[0]


def _ranking(title: str, rows: Sequence[RankedRow], score: tuple[str, str], label_name: str) -> Grid:
    """A table of training rows."""
    names = list(rows[0].values) if rows else []
    return grid(
        title,
        ("row", score, label_name, *names),
        [(r.row, r.score, r.label, *(r.values[c] for c in names)) for r in rows],
        note="Rows are counted from 0, in the order of the training table.",
    )


def _bars(rows: Sequence[tuple[str, float]], title: str) -> Any:
    """Named scores as bars, harm and help in two colours."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [v for _, v in rows],
            "y": [-i for i in range(len(rows))],
            "width": 0.6,
            "marker": {"color": [COLOURS[0] if v >= 0 else COLOURS[1] for _, v in rows]},
            "hovertext": [f"<b>{label(name, width=40)}</b><br>{show(v)}" for name, v in rows],
            "hoverinfo": "text",
            "showlegend": False,
        }
    ]
    return figure(
        data,
        height=76 + 22 * max(len(rows), 1),
        xaxis={"title": {"text": label(title, width=60)}, "automargin": True},
        yaxis={
            "tickvals": [-i for i in range(len(rows))],
            "ticktext": [label(name) for name, _ in rows],
            "range": [-len(rows) + 0.4, 0.6],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
        },
    )


def check_section(report: AttributionReport) -> Section:
    """The ends of the scores summed over all targets."""
    unit = _short(report.unit)
    drawn = [*report.helpful[:10], *reversed(report.harmful[:10])]
    score = ("score", f"summed over the targets, {unit}")
    return Section(
        slug="check",
        title="Which rows should be checked first?",
        text=(
            f"{capital(report.sign)}. Scores are added over all {report.m:,} target rows, so a row at the harmful end "
            "pulls many predictions away from their labels: a wrong label is the likeliest reason, a rare case the "
            "second. Look before removing.",
        ),
        figure=_bars([(f"row {r.row}", r.score) for r in drawn], f"summed score, {unit}") if drawn else None,
        alt="The most helpful and the most harmful training rows by summed score",
        grids=(
            _ranking("Most harmful rows", report.harmful, score, "label"),
            _ranking("Most helpful rows", report.helpful, score, "label"),
        ),
    )


def outlier_section(report: AttributionReport) -> Section:
    """Rows that mostly explain themselves."""
    middle = report.median_self_influence
    times = [r.score / middle if middle > 0 else float("nan") for r in report.outliers]
    drawn = [(f"row {r.row}", r.score) for r in report.outliers]
    names = list(report.outliers[0].values) if report.outliers else []
    return Section(
        slug="outliers",
        title="Which rows does the model only fit because it saw them?",
        text=(
            "Self-influence is a row's score for its own prediction: large when nothing but the row itself speaks for "
            "its label. Mislabelled and rare rows have it. The harmful end above finds wrong labels more surely when "
            "the targets are trusted; this list needs no targets.",
            f"{report.unusual:,} of {report.n:,} rows lie more than {CUTOFF} robust deviations above the median on a "
            "log scale.",
        ),
        figure=_bars(drawn, f"self-influence, {_short(report.unit)}") if drawn else None,
        alt="The rows with the largest self-influence",
        grids=(
            grid(
                "Largest self-influence",
                ("row", "self-influence", ("times the median", ""), "label", *names),
                [
                    (r.row, r.score, t, r.label, *(r.values[c] for c in names))
                    for r, t in zip(report.outliers, times, strict=True)
                ],
            ),
        ),
    )


def group_section(report: AttributionReport) -> Section | None:
    """Scores by group."""
    if not report.groups:
        return None
    unit = _short(report.unit)
    drawn = [(g.group, g.total) for g in report.groups[:20]]
    worst = min(report.groups, key=lambda g: g.total)
    lead = (
        f"Of all groups, “{worst.group}” harms the targets most: {brief(worst.total)} {unit} over {worst.rows:,} rows."
        if worst.total < 0
        else "No group harms the targets taken together."
    )
    return Section(
        slug="groups",
        title=f"What does each {report.group_column} contribute?",
        text=(
            lead,
            "To first order the effects of rows add up: a group's sum is what removing all of it would do, the less "
            "exactly the larger the group.",
        ),
        figure=_bars(drawn, f"summed score, {unit}"),
        alt="Summed score by group",
        grids=(
            grid(
                "The numbers drawn",
                (
                    report.group_column,
                    ("rows", ""),
                    ("sum", unit),
                    ("mean", f"a row, {unit}"),
                    ("self-influence", f"mean a row, {unit}"),
                ),
                [(g.group, g.rows, g.total, g.mean, g.self_influence) for g in report.groups],
                open=False,
            ),
        ),
    )


def target_section(report: AttributionReport, t: TargetRow) -> Section:
    """One target row beside the training rows that made its prediction."""
    names = list(t.values)
    beside = [
        ("target", f"row {t.target}", None, t.label, *(t.values[c] for c in names)),
        *(("helps", f"row {r.row}", r.score, r.label, *(r.values[c] for c in names)) for r in t.helpful),
        *(("harms", f"row {r.row}", r.score, r.label, *(r.values[c] for c in names)) for r in t.harmful),
    ]
    return Section(
        slug=f"target-{t.target}",
        title=f"Target row {t.target}: label “{t.label}”",
        text=(
            f"The model gives {_prediction(report, t)}; the loss is {brief(t.loss)} {_short(report.unit)}. "
            f"The top 1, 5 and 10% of training rows hold {', '.join(percent(s) for s in t.shares)} of its influence.",
        ),
        grids=(
            grid(
                f"Target row {t.target} beside the rows that moved it",
                ("", "which", ("score", _short(report.unit)), "label", *names),
                beside,
                open=t.target == 0,
            ),
        ),
    )


def _prediction(report: AttributionReport, t: TargetRow) -> str:
    if not report.classes:
        return brief(t.prediction[0])
    if len(t.prediction) == 1:
        return f"class “{report.classes[1]}” a chance of {percent(t.prediction[0])}"
    best = max(range(len(t.prediction)), key=lambda k: t.prediction[k])
    return f"class “{report.classes[best]}” a chance of {percent(t.prediction[best])}"


def run_section(report: AttributionReport) -> Section:
    """What made the page."""
    m, data = report.model, report.data
    rows = [
        ("command", report.command),
        (
            "model",
            f"{m['library']} file {m['file']}, {m['objective']}, {m['rounds']} rounds, {m['leaves']:,} leaves",
        ),
        ("step", f"learning rate {m['learning_rate']:g}, ridge {m['l2']:g}"),
        ("model, SHA-256", m["sha256"]),
        *((f"{k} table", f"{v['path']}, {v['rows']:,} rows, SHA-256 {v['sha256']}") for k, v in data.items()),
        ("settings", ", ".join(f"{k}={v}" for k, v in report.settings.items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())),
        ("processor time", f"{report.seconds:.1f} s"),
    ]
    return Section(
        slug="made",
        title="What made this page",
        text=(
            "The same command on the same files gives the same numbers. Scores are first-order and hold the shape of "
            "the trees fixed: copies of a row share the credit.",
            *(f"{capital(n)}." for n in report.notes),
        ),
        grids=(grid("Command, files and versions", ("what", "value"), rows),),
    )
