"""One HTML file from a `DecisionReport`, or from any sections: it opens without a network, in light and dark, on a
phone and on paper.

Everything from the log goes through autoescape; figures are JSON that cannot close its element; plotly.js is inlined
once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from counterlog.report.blocks import Section
from counterlog.report.decision_report import DecisionReport
from counterlog.report.figures import legend
from counterlog.report.sections import audit_section, reward_sections, run_section

TEMPLATES = "templates"


def render(report: DecisionReport) -> str:
    """The page of a decision report as text."""
    rewards = [
        {
            "name": p.reward,
            "verdict": p.verdict,
            "sections": [ready(s, f"r{i}") for s in reward_sections(p, report)],
        }
        for i, p in enumerate(report.rewards)
    ]
    return fill(
        "page.html",
        report=report,
        rewards=rewards,
        audit=ready(audit_section(report), "all"),
        closing=[ready(run_section(report), "all")],
    )


def render_sections(
    sections: Sequence[Section], *, title: str, about: str, heading: str, verdict: Sequence[str]
) -> str:
    """A page of these sections as text, under a heading with the sentences that matter most."""
    return fill(
        "plain.html",
        title=title,
        about=about,
        heading=heading,
        verdict=tuple(verdict),
        sections=[ready(s, "all") for s in sections],
        version=version("counterlog"),
    )


def fill(template: str, **content: Any) -> str:
    """A template of the package, with style, script and plotly.js inlined."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    folder = files("counterlog.report") / TEMPLATES
    names = (template, "blocks.html", "page.css", "page.js")
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    environment = Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        css=Markup(texts["page.css"]),
        js=Markup(texts["page.js"]),
        plotly=Markup(get_plotlyjs()),
        **content,
    )


def ready(section: Section, prefix: str) -> dict[str, Any]:
    """A section with an id that is unique on the page, and its figure as JSON."""
    figure, height = None, 0
    entries: tuple[tuple[str, str], ...] = ()
    if section.figure is not None:
        drawn = json.loads(section.figure.to_json())
        entries, height = legend(drawn), int(drawn["layout"]["height"])
        for trace in drawn["data"]:
            trace.pop("meta", None)
        kept = {k: v for k, v in drawn["layout"].items() if k != "template"}
        drawn["layout"] = {**kept, "showlegend": False}  # the page's own legend wraps on a phone
        figure = inline_json(drawn)
    return {
        "id": f"{prefix}-{section.slug}",
        "figure": figure,
        "height": height,
        "legend": entries,
        "section": section,
    }


def inline_json(content: Any) -> Any:
    """JSON that is safe inside a script element: no character of it can end the element or start a comment."""
    from markupsafe import Markup

    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
