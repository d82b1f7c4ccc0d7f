"""The page as text: nothing of the log becomes markup, every drawn number stands in a table, nothing is fetched."""

import json
import re

import pytest

from counterlog.report.decision_report import build
from counterlog.report.figures import forest, label
from counterlog.report.page import inline_json
from counterlog.report.sections import reward_sections

HOSTILE = ("<script>alert(1)</script>", "\"quoted\" 'name' & <b>bold</b>", '=HYPERLINK("http://x")')


@pytest.fixture(scope="module")
def html(report):
    return report.html()


def test_the_page_holds_verdict_audit_and_what_made_it(html, report):
    for words in (
        "Verdict on reward",
        "Can this log be trusted?",
        "What made this page",
        report.log.fingerprint,
    ):
        assert words in html
    assert "counterlog report log.parquet" in html


def test_nothing_is_fetched(html):
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?(?!data:|#)[a-z/]""", own)
    assert "@import" not in own and "url(" not in own


def test_plotly_is_inlined_once(html):
    assert html.count("Plotly.newPlot=") <= 1 and html.count("plotly.js v") == 1


def test_hostile_names_stay_text(simulated):
    made = build(simulated(600, names=HOSTILE))
    page = made.html()
    own = page.split("plotly.js v")[0]
    assert "<script>alert" not in own and "<b>bold" not in own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in own
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', own, flags=re.S):
        content = json.loads(text)
        assert "<script" not in json.dumps(content["layout"]) and "<script" not in json.dumps(content["data"])


def test_every_drawn_number_stands_in_a_table(report):
    seen = 0
    for part in report.rewards:
        for section in reward_sections(part, report):
            if section.figure is None:
                continue
            cells = [v for g in section.grids for row in g.rows for v in row if isinstance(v, (int, float))]
            for trace in json.loads(section.figure.to_json())["data"]:
                if trace.get("hoverinfo") == "skip":
                    continue
                for axis in ("x", "y"):
                    if (
                        trace["type"] == "scatter"
                        and axis == "y"
                        and "hovertext" in trace
                        and "error_x" in trace
                    ):
                        continue  # rows of a forest plot are places, not numbers
                    if trace["type"] == "bar" and axis == "y":
                        continue
                    for value in trace[axis]:
                        assert any(value == pytest.approx(c, rel=1e-9, abs=1e-12) for c in cells), (
                            section.slug
                        )
                        seen += 1
    assert seen > 100


def test_the_sections_come_in_their_order(html):
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    wanted = [
        "Can this log be trusted?",
        "What would each policy have earned?",
        "Do the ways of estimating agree?",
        "How far ahead of what was done?",
        "What is at risk?",
        "How many policies to test next?",
        "A better policy to download",
        "For whom?",
        "What does the answer hang on?",
        "Which rows sway it through the reward model?",
        "How many more decisions would settle it?",
        "Does the winner hold on rows that did not choose it?",
    ]
    assert titles[: len(wanted)] == wanted and titles[-1] == "What made this page"


def test_json_cannot_end_its_element():
    assert inline_json({"a": "</script><!--&"}) == '{"a": "\\u003c/script\\u003e\\u003c!--\\u0026"}'


def test_labels_are_escaped_wrapped_and_cut():
    assert label("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert label("always:Womens E-Mail") == "always:Womens E-Mail"
    assert label("one two", width=4) == "one<br>two"
    assert label("x" * 100, width=10).endswith("…") and label("") == " "


def test_a_forest_of_nothing_can_be_drawn_and_estimates_plot_themselves(report):
    assert len(forest([]).data) == 0
    assert report.policies[0].plot().data[0].x[0] == report.policies[0].value
