"""The page of certified predictions: how much accuracy survives how much poison, and which predictions are weakest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from counterlog.report.blocks import Section, grid
from counterlog.report.figures import COLOURS, figure
from counterlog.report.page import render_sections
from counterlog.report.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from counterlog.audit.certified_predictions import Certificates

RULES = {
    "dpa": "plurality of models on disjoint parts (DPA)",
    "fa": "plurality with every record in several models (FA)",
    "dpa+roe": "run-off election on disjoint parts (DPA+ROE)",
    "fa+roe": "run-off election with every record in several models (FA+ROE)",
}
WEAKEST = 50


def page(found: Certificates, made: Sequence[tuple[str, str]] = ()) -> str:
    """The page as text; `made` are (what, value) of the command, files and versions behind it."""
    sections = [curve_section(found), weakest_section(found), attack_section(found)]
    if made:
        sections.append(
            Section(
                slug="made",
                title="What made this page",
                text=("The same command on the same files gives the same certificates.",),
                grids=(grid("Command, files and versions", ("what", "value"), list(made)),),
            )
        )
    return render_sections(
        sections,
        title="Certificates",
        about=f"{found.n:,} predictions by {found.parts:,} parts, {RULES.get(found.method, found.method)}.",
        heading="How much poison do these predictions survive?",
        verdict=verdict(found),
    )


def verdict(found: Certificates) -> tuple[str, ...]:
    """The sentences that matter most."""
    radii = sorted(found.radius)
    middle = radii[(len(radii) - 1) // 2]
    half = (
        f"Half of the predictions stand whatever {middle:,} {found.unit} an attacker adds or removes"
        if middle > 0
        else f"Half of the predictions may be flipped by adding or removing a single one of the {found.unit}"
    )
    right = ""
    if found.correct:
        one, some = found.certified_accuracy((1, max(middle, 1)))
        right = (
            f"{percent(found.accuracy)} of the predictions are right; {percent(one)} withstand one change as well, "
            f"{percent(some)} withstand {max(middle, 1):,}."
        )
    return f"{half}.", right, (
        "This is a proof, not an estimate: it holds for any records the attacker may choose. It speaks of each "
        "prediction alone, and a record changed in place counts as one removed and one added."
    )  # fmt: skip


def curve_section(found: Certificates) -> Section:
    """Certified accuracy by budget."""
    points = found.curve()
    name = "certified_accuracy" if found.correct else "certified_share"
    words = "right and certified" if found.correct else "certified"
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "color": COLOURS[0], "width": 2},
            "x": [p["budget"] for p in points],
            "y": [100 * p[name] for p in points],
            "hovertext": [f"{p['budget']} {found.unit}: {percent(p[name])} {words}" for p in points],
            "hoverinfo": "text",
            "showlegend": False,
        }
    ]
    return Section(
        slug="curve",
        title="How many predictions stand, by the attacker's budget?",
        text=(
            f"Read it from below: with a budget of b {found.unit} added or removed, at least so many of the "
            f"predictions are {words}, whatever the attacker does.",
        ),
        figure=figure(
            data,
            height=320,
            xaxis={"title": {"text": f"budget, {found.unit}"}, "rangemode": "tozero", "automargin": True},
            yaxis={"title": {"text": f"% {words}"}, "range": [0, 101], "automargin": True},
        ),
        alt=f"Share {words} against the budget",
        grids=(
            grid(
                "The numbers drawn",
                (("budget", found.unit), (words, "% of predictions")),
                [(p["budget"], 100 * p[name]) for p in points],
                open=False,
            ),
        ),
    )


def weakest_section(found: Certificates) -> Section:
    """The predictions that fall first."""
    rows = sorted(enumerate(found.records()), key=lambda r: (r[1]["radius"], r[0]))[:WEAKEST]
    bare = sum(r == 0 for r in found.radius)
    return Section(
        slug="weakest",
        title="Which predictions are weakest?",
        text=(
            f"{bare:,} of {found.n:,} predictions have no certificate for even one change. The rival is the class that "
            "the cheapest counted attack would put in its place.",
        ),
        grids=(
            grid(
                "Smallest radii first",
                ("row", "prediction", ("radius", found.unit), "runner-up", "cheapest attack", "rival", "right"),
                [
                    (str(i), str(r["prediction"]), r["radius"], str(r["runner_up"]), r["binding"], r["rivals"],
                     "" if r["correct"] is None else ("yes" if r["correct"] else "no"))
                    for i, r in rows
                ],
                note="Rows are counted from 0, in the order of the test table.",
                open=False,
            ),
        ),
    )  # fmt: skip


def attack_section(found: Certificates) -> Section:
    """How the cheapest attacks go about it."""
    kinds = sorted(set(found.binding))
    rows = []
    for kind in kinds:
        radii = [r for r, b in zip(found.radius, found.binding, strict=True) if b == kind]
        rows.append((kind, len(radii), 100 * len(radii) / found.n, sum(radii) / len(radii)))
    return Section(
        slug="attacks",
        title="How would the cheapest attack go about it?",
        text=(
            "“Outvoted”: another class gets more votes. “Kept out of the final”: two classes overtake the winner "
            "before the run-off. “Loses the final”: a class reaches the run-off and wins it.",
            *(f"{n[:1].upper()}{n[1:]}." for n in found.notes),
        ),
        grids=(
            grid(
                "By kind of attack",
                ("attack", ("predictions", ""), ("share", "%"), ("mean radius", found.unit)),
                rows,
            ),
        ),
    )
