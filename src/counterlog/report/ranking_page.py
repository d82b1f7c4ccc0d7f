"""The page of a fit on clicks: examination by position, quality where labels exist, audit, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterlog.rank.ranking_report import RankingReport
from counterlog.report.blocks import Section, grid
from counterlog.report.figures import COLOURS, figure, label
from counterlog.report.page import render_sections


def ranking_page(report: RankingReport, *, command: str = "", versions: dict[str, str] | None = None) -> str:
    """The page as text."""
    whole = [p for p in report.propensity if p.segment == "all"]
    last = whole[-1]
    verdict = [
        f"Position {last.position} is examined {last.value:.2f} times as often as position 1 "
        f"({report.level:.0%} interval {last.lo:.2f} to {last.hi:.2f}).",
    ]
    if report.audit is not None:
        verdict.append(report.audit.advice[:1].upper() + report.audit.advice[1:] + ".")
    made = [("command", command), ("seed", str(report.rng)), *(versions or {}).items()]
    sections = [_curve(report), *_quality(report), *_audit(report), *_training(report)]
    sections.append(Section("run", "How this was made", grids=(grid("Run", ("what", "value"), made),)))
    return render_sections(
        sections,
        title=f"Ranking from clicks: {report.system}",
        about=f"{report.n:,} lists, {report.items:,} items shown, positions 1 to {report.list_size}.",
        heading="How much position decides",
        verdict=verdict,
    )


def _lines(named: Sequence[tuple[str, Sequence[float], Sequence[float]]], x: str, y: str) -> Any:
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label(name),
            "meta": name,
            "x": list(xs),
            "y": [v if v == v else None for v in ys],
            "marker": {"color": COLOURS[i % len(COLOURS)]},
            "line": {"color": COLOURS[i % len(COLOURS)]},
        }
        for i, (name, xs, ys) in enumerate(named)
    ]
    return figure(traces, height=300, xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}})


def _curve(report: RankingReport) -> Section:
    traces = []
    for i, segment in enumerate(dict.fromkeys(p.segment for p in report.propensity)):
        mine = [p for p in report.propensity if p.segment == segment]
        colour = COLOURS[i % len(COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(segment),
                "meta": segment,
                "x": [p.position for p in mine],
                "y": [p.value for p in mine],
                "marker": {"color": colour},
                "line": {"color": colour},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [p.hi - p.value for p in mine],
                    "arrayminus": [p.value - p.lo for p in mine],
                    "color": colour,
                },
            }
        )
    drawn = figure(
        traces, height=340, xaxis={"title": {"text": "position"}}, yaxis={"title": {"text": report.unit}}
    )
    columns = ("segment", "position", ("learnt", "as trained"), ("value", "whole log"), "lo", "hi", "clicks")
    rows = [(p.segment, p.position, p.learnt, p.value, p.lo, p.hi, p.clicks) for p in report.propensity]
    seen = [(c.position, c.observed, c.predicted) for c in report.calibration]
    return Section(
        "curve",
        "Examination by position",
        text=report.notes,
        figure=drawn,
        alt="examination relative to position 1, with intervals",
        grids=(
            grid("Examination by position", columns, rows),
            grid("Clicks by position", ("position", "seen", "predicted"), seen, open=False),
        ),
    )


def _quality(report: RankingReport) -> list[Section]:
    if not report.quality:
        return []
    rows = [(q.on, q.metric, q.value, q.n) for q in report.quality]
    table = grid("Quality on graded lists", ("on", "metric", "value", "lists"), rows)
    return [Section("quality", "Quality of the order", grids=(table,))]


def _audit(report: RankingReport) -> list[Section]:
    a = report.audit
    if a is None:
        return []
    rows = [
        ("query-item pairs", a.pairs),
        ("share seen at two positions or more", a.repeat_share),
        ("entropy of a pair's position (bits)", a.position_entropy),
        ("logging score and click, inside a position", a.score_click),
        ("logging order and what features say of clicks", a.agreement),
        (
            "condition number of the positions' information",
            a.condition if a.condition < 1e300 else "infinite",
        ),
    ]
    kind, word = ("ok", "Fine") if a.identified else ("warning", "Careful")
    card = (kind, word, "position and relevance", a.advice, "")
    table = grid("What the log can tell", ("what", "value"), rows)
    return [Section("audit", "Can this log tell position from relevance?", cards=(card,), grids=(table,))]


def _training(report: RankingReport) -> list[Section]:
    if not report.training:
        return []
    t = report.training
    steps = [p.step for p in t]
    named = [
        ("ranking loss", steps, [p.rank_loss for p in t]),
        ("examination loss", steps, [p.examination_loss for p in t]),
        ("effective share of the clicks", steps, [p.effective_share for p in t]),
        ("examination of the last position", steps, [p.last_position for p in t]),
    ]
    columns = (
        "step",
        "ranking loss",
        "examination loss",
        "effective share",
        "log-likelihood",
        "last position",
        "nDCG@10",
    )
    rows = [
        (
            p.step,
            p.rank_loss,
            p.examination_loss,
            p.effective_share,
            p.click_log_likelihood,
            p.last_position,
            p.quality if p.quality == p.quality else "",
        )
        for p in t
    ]
    return [
        Section(
            "training",
            "Training",
            figure=_lines(named, "step", "nats a click, shares"),
            alt="losses by step",
            grids=(grid("Training curves", columns, rows, open=False),),
        )
    ]
