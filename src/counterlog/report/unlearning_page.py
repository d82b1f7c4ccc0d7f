"""The page of an unlearning run: what went, what it cost, how close it is to retraining, and what that is worth."""

from __future__ import annotations

import math
from typing import Any

from counterlog.core.results import show
from counterlog.report.blocks import Section, grid
from counterlog.report.figures import COLOURS, figure
from counterlog.report.page import render_sections
from counterlog.report.unlearning import SHOWN, UnlearningReport
from counterlog.report.wording import brief, capital, percent

WORDS = {
    "forget_accuracy": ("accuracy on forgotten rows", "share; should be that of rows never seen"),
    "kept_accuracy": ("accuracy on kept rows", "share; should stay"),
    "test_accuracy": ("accuracy on test rows", "share; should stay"),
    "forget_loss": ("loss on forgotten rows", "mean, nats"),
    "kept_loss": ("loss on kept rows", "mean, nats"),
    "test_loss": ("loss on test rows", "mean, nats"),
    "attack_confidence": ("forgotten rows taken for never seen", "share, by an attack on confidence"),
    "attack_loss_auc": ("attack by loss", "area under the curve; 0.5 tells nothing"),
}


def page(report: UnlearningReport) -> str:
    """The page as text."""
    return render_sections(
        [result_section(report), worth_section(report), rows_section(report), run_section(report)],
        title="Unlearning report",
        about=f"{report.forgotten:,} of {report.n:,} rows forgotten by {report.method}, from a {report.kind}.",
        heading="What forgetting did",
        verdict=verdict(report),
    )


def verdict(report: UnlearningReport) -> tuple[str, ...]:
    """The sentences that matter most."""
    if report.exact:
        lead = (
            f"The new model was trained without the {report.forgotten:,} rows: it is what it would have been had they "
            "never been there."
        )
    else:
        lead = (
            f"The {report.forgotten:,} rows were forgotten approximately: nothing here proves that no trace of them is "
            "left. Where deletion must be certain, retrain."
        )
    key = "forget_accuracy" if "forget_accuracy" in report.before else "forget_loss"
    change = f"{capital(WORDS[key][0])} went from {_say(key, report.before[key])} to {_say(key, report.after[key])}"
    if (test := key.replace("forget", "test")) in report.before:
        change += (
            f", {WORDS[test][0]} from {_say(test, report.before[test])} to {_say(test, report.after[test])}"
        )
    gap = ""
    if report.retrained and not math.isnan(report.average_gap):
        gap = (
            f"Against a model trained again without the rows the average gap is {percent(report.average_gap)}; "
            f"forgetting took {brief(report.forget_seconds)} processor seconds, training again "
            f"{brief(report.retrain_seconds)}."
        )
    return lead, f"{change}.", gap


def _say(key: str, value: float) -> str:
    return percent(value) if key.endswith("accuracy") else brief(value)


def result_section(report: UnlearningReport) -> Section:
    """The measures before, after, and of the retrained model."""
    drawn = [k for k in report.before if k.endswith("accuracy") or k.startswith("attack")]
    columns: list[Any] = ["measure", ("before", ""), ("after", "")]
    if report.retrained:
        columns += [("trained again", "without the rows"), ("gap", "after minus trained again")]
    rows = []
    for key, value in report.before.items():
        name, meaning = WORDS[key]
        row: list[Any] = [f"{name} ({meaning})", value, report.after[key]]
        if report.retrained:
            row += [report.retrained[key], report.after[key] - report.retrained[key]]
        rows.append(row)
    return Section(
        slug="measures",
        title="What changed?",
        text=(
            "Forgetting worked as far as the new model treats the forgotten rows like rows that it never saw, while "
            "it stays as good on the others. More loss on the forgotten rows than a retrained model has is not "
            "better: it marks them too.",
        ),
        figure=_dots(report, drawn) if drawn else None,
        alt="Accuracies and attacks before, after, and of a retrained model",
        grids=(grid("The numbers", columns, rows),),
    )


def _dots(report: UnlearningReport, keys: list[str]) -> Any:
    """One row a measure, one mark a model."""
    series = [("before", report.before), ("after", report.after)]
    if report.retrained:
        series.append(("trained again", report.retrained))
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "meta": name,
            "x": [values[k] for k in keys],
            "y": [-i for i in range(len(keys))],
            "marker": {"size": 11, "color": COLOURS[j], "symbol": ("circle-open", "circle", "diamond")[j]},
            "hovertext": [f"<b>{WORDS[k][0]}</b>, {name}<br>{show(values[k])}" for k in keys],
            "hoverinfo": "text",
        }
        for j, (name, values) in enumerate(series)
    ]
    return figure(
        data,
        height=90 + 40 * len(keys),
        xaxis={"range": [-0.02, 1.02], "automargin": True, "title": {"text": "share"}},
        yaxis={
            "tickvals": [-i for i in range(len(keys))],
            "ticktext": [WORDS[k][0].replace(" rows", "<br>rows", 1) for k in keys],
            "range": [-len(keys) + 0.4, 0.6],
            "automargin": True,
            "zeroline": False,
            "fixedrange": True,
        },
    )


def worth_section(report: UnlearningReport) -> Section:
    """What the run is worth, in words."""
    text = []
    if not report.exact and not report.retrained:
        text.append(
            "No model was trained again to compare with, so the distance to retraining is not known. "
            "`--compare` trains one."
        )
    if not report.tested:
        text.append("No test rows were given, so no attack could be run. `--test` names them.")
    auc = report.after.get("attack_loss_auc")
    if auc is not None:
        text.append(
            f"An attacker who calls a row forgotten when its loss is below that of an unseen row is right with area "
            f"{brief(auc)} under the curve (before: {brief(report.before['attack_loss_auc'])}; 0.5 is guessing). "
            "Stronger attacks than the ones here exist."
        )
    if not report.exact:
        text.append(
            f"The weights moved by {brief(report.moved)} in {brief(report.passes)} passes over the rows."
            if math.isfinite(report.moved)
            else ""
        )
    return Section(slug="worth", title="What is this worth?", text=tuple(text))


def rows_section(report: UnlearningReport) -> Section:
    """Which rows went."""
    more = f" The first {SHOWN} are listed." if report.forgotten > SHOWN else ""
    return Section(
        slug="rows",
        title="Which rows went?",
        text=(
            f"{report.forgotten:,} of {report.n:,} rows; {report.kept:,} were kept.{more} The set has the digest "
            f"{report.digest}: two models with the same digest forgot the same rows.",
        ),
        grids=(grid("Forgotten rows", ("row",), [(str(r),) for r in report.rows], open=False),),
    )


def run_section(report: UnlearningReport) -> Section:
    """What made the page."""
    rows = [
        ("command", report.command),
        ("new model", report.file),
        *((f"old model, {k}", str(v)) for k, v in report.model.items()),
        *((k, f"{v['path']}, {v['rows']:,} rows, SHA-256 {v['sha256']}") for k, v in report.data.items()),
        *((f"setting {k}", str(v)) for k, v in report.settings.items()),
        ("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())),
        ("forgetting", f"{show(report.forget_seconds)} processor seconds"),
        ("processor time", f"{report.seconds:.1f} s"),
    ]
    return Section(
        slug="made",
        title="What made this page",
        text=(
            "The same command on the same files gives the same model.",
            *(f"{capital(n)}." for n in report.notes),
        ),
        grids=(grid("Command, files and versions", ("what", "value"), rows),),
    )
