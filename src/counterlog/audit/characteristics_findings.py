"""What a log's profile means in words: findings with remedies, and one verdict on which learners the log is fit for.

The rule of the verdict is the paper's finding: cloning follows TQ, values without constraint need SACo, constrained
values do with either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from counterlog.core.results import Finding, show

FEW_EPISODES = 100
SINGLES, TOO_FINE = 0.95, 0.5
PIXELS = 32
BEYOND = 1.0
DRIFTED, LEAST_NEW = 2.0, 30


def findings_of(p: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Everything that deserves care in the numbers of a profile."""
    found = [*_cells(p), *_episodes(p), *_drift(p)]
    if (advice := p["recommendation"]) is not None and not advice.inside:
        text = "the log lies outside the range of logs that the recommendation was calibrated on"
        remedy = "take the recommendation as a guess"
        found.append(_finding(p, "recommendation", "warning", text, remedy))
    if not found:
        found.append(_finding(p, "dataset characteristics", "ok", "quality and coverage could be measured"))
    return tuple(found)


def _finding(
    p: Mapping[str, Any], check: str, severity: str, text: str, remedy: str = "", value: float = float("nan")
) -> Finding:
    return Finding(check=check, severity=severity, message=text, remedy=remedy, n=p["n"], value=value)


def _cells(p: Mapping[str, Any]) -> list[Finding]:
    grid, found = p["grid"], []
    if grid.constant:
        text = f"state columns {list(grid.constant)} never change"
        found.append(_finding(p, "cells", "note", text, "leave them out of the states"))
    freq = dict(p["pair_frequencies"])
    if freq:
        single = freq.get(1, 0) / sum(freq.values())
        once = freq.get(1, 0) / p["rows"]
        if single > SINGLES:
            text = f"{single:.1%} of the pairs occur once: the number of pairs is the number of steps"
            pixels = grid.state_columns > PIXELS or grid.directions > 0
            remedy = (
                "round the pixels or embed the images first"
                if pixels
                else "use fewer bins, or round states that carry noise"
            )
            found.append(_finding(p, "cells", "warning", text, remedy, single))
        elif once > TOO_FINE:
            text = (
                f"{once:.0%} of the steps show a pair for the only time: the cells are too fine for this log"
            )
            found.append(_finding(p, "cells", "warning", text, "use fewer bins", once))
    if p["pairs"].method == "hll":
        text = f"pairs are estimated by a sketch, {p['pairs'].high / p['pairs'].value - 1:.1%} either way"
        found.append(_finding(p, "counting", "note", text, "compare with sketches only"))
    return found


def _episodes(p: Mapping[str, Any]) -> list[Finding]:
    found = []
    if p["tq"] is not None and p["finished"] < FEW_EPISODES:
        text = f"TQ rests on {p['finished']} finished episodes"
        remedy = f"log at least {FEW_EPISODES}"
        found.append(_finding(p, "quality", "warning", text, remedy, float(p["finished"])))
    if (left := p["n"] - p["finished"]) > 0:
        text = f"{left:,} of {p['n']:,} episodes are not finished and do not count for TQ"
        found.append(_finding(p, "quality", "note", text, "", float(left)))
    counts = np.array(p["action_counts"])
    if len(counts) and (unused := np.flatnonzero(counts == 0)).size:
        text = f"{unused.size} of {len(counts)} actions were never logged"
        found.append(_finding(p, "actions", "warning", text, "no learner can value them from this log"))
    if p["tq"] is not None and p["tq"] > BEYOND:
        text = f"the log is better than the reference policy (TQ {p['tq']:.2f})"
        found.append(_finding(p, "quality", "note", text, "take a stronger reference if there is one"))
    return found


def _drift(p: Mapping[str, Any]) -> list[Finding]:
    rows = p["drift"]
    if len(rows) < 3:
        return []
    usual = float(np.median([r["a_step"] for r in rows[:-1]]))
    last = rows[-1]
    if last["only_here"] < LEAST_NEW or last["a_step"] <= DRIFTED * usual:
        return []
    text = (
        f"the last part of the log holds {last['a_step']:.3f} pairs a step that no other part has, "
        f"the others {usual:.3f}"
    )
    remedy = "the behaviour or the environment has changed; profile the recent part alone"
    return [_finding(p, "drift", "warning", text, remedy, last["a_step"])]


def verdict_of(p: Mapping[str, Any], high_tq: float, high_saco: float) -> str:
    """One or two sentences: how good, how varied, and for which family of learners."""
    tq, saco = p["tq"], p["saco"]
    counted = f"{p['pairs'].value:,.0f} distinct state-action pairs in {p['rows']:,} steps"
    if tq is None and saco is None:
        if p["coverage"] is None:
            return f"{counted}. Give a reference log, a random and a best return for quality and coverage."
        return (
            f"{counted}; one more step shows a known pair with chance {p['coverage']:.0%}. Give a reference log, a "
            "random and a best return to say which learners the log is fit for."
        )
    said = []
    if tq is not None:
        said.append(f"TQ {tq:.2f} [{p['tq_low']:.2f}, {p['tq_high']:.2f}]")
    if saco is not None:
        said.append(f"SACo {saco:.2f}")
    facts = f"{', '.join(said)} ({counted})"
    if tq is None or saco is None:
        lacking = "a random and a best return" if tq is None else "a reference log"
        return f"{facts}. Give {lacking} too to say which learners the log is fit for."
    good, varied = tq >= high_tq, saco >= high_saco
    if good and varied:
        text = "Good episodes and varied ones: any family is fit, cloning included"
    elif good:
        text = (
            "Good episodes, narrow coverage: clone them or use constrained values (discrete BCQ, CQL, CRR); "
            "unconstrained values would trust actions that nobody logged"
        )
    elif varied:
        text = (
            "Varied but mostly poor: learn values, constrained ones first (discrete BCQ, CQL, CRR); "
            "cloning would copy the poor episodes"
        )
    else:
        text = (
            "Neither good nor varied: expect little from any learner; log better or more varied episodes, "
            "and keep to constrained values until then"
        )
    advice = p["recommendation"]
    if advice is None:
        return f"{facts}. {text}."
    where = "" if advice.inside else ", outside the calibrated range"
    return (
        f"{facts}. {text}. On logs like it {advice.learner} is the safest: {show(advice.predicted)} "
        f"[{show(advice.low)}, {show(advice.high)}] % of the way, {advice.level:.0%} interval{where}."
    )
