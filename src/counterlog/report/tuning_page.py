"""The page of a post-training run, from its folder: curves over the steps, off-policyness, answers before and after.

Text models and image models share it. What a model or a log said is escaped; an image must be a PNG address.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from counterlog.core.errors import CounterlogError, message
from counterlog.core.files import write_whole
from counterlog.core.run_folder import RESULT, RUN
from counterlog.core.tuning_result import TuningReport, curves
from counterlog.report.blocks import Section, grid
from counterlog.report.files import PAGE
from counterlog.report.page import fill, ready

PNG = re.compile(r"^data:image/png;base64,[A-Za-z0-9+/=]+$")
GROUPS = (
    (
        "reward",
        "Reward",
        "The mean reward of the responses that each step trained on.",
        (("reward", "mean reward"), ("groups_alike", "share of groups whose rewards are all alike")),
    ),
    (
        "distance",
        "How far the policy moved",
        "KL from the policy that sampled the rows, and to the reference where there is one; entropy that falls to "
        "zero means that the policy says one thing only.",
        (
            ("kl_behaviour", "KL(sampler || policy), nats a token"),
            ("kl_reference", "KL(policy || reference), nats a token"),
            ("entropy", "entropy, nats a token"),
        ),
    ),
    (
        "offpolicy",
        "How off-policy the rows were",
        "Staleness counts optimiser steps since the rows were sampled. The effective sample size is the share of the "
        "tokens that importance weights would leave. Clipped tokens give no gradient.",
        (
            ("staleness", "staleness, optimiser steps"),
            ("ess_tokens", "effective sample size, share of the tokens"),
            ("ratio_q99", "99 % quantile of the ratios"),
            ("ratio_q01", "1 % quantile of the ratios"),
            ("clip_positive", "clipped share of tokens with positive advantage"),
            ("clip_negative", "clipped share of tokens with negative advantage"),
        ),
    ),
    ("steps", "The optimiser", "", (("loss", "loss"), ("grad_norm", "norm of the gradient before clipping"))),
)


def write_page(folder: str | os.PathLike[str]) -> Path:
    """Write report.html of a finished run. Raises `CounterlogError` when the folder holds none."""
    place = Path(folder)
    if not (place / RUN).exists() or not (place / RESULT).exists():
        msg = message(f"{place} holds no finished run", expected=f"{RUN} and {RESULT}")
        raise CounterlogError(msg)
    run = json.loads((place / RUN).read_text())
    return write_whole(place / PAGE, render_tuning(TuningReport.load(place / RESULT), run))


def render_tuning(report: TuningReport, run: dict[str, Any]) -> str:
    """The page as text."""
    sections = [*curve_sections(report), *watch_sections(report)]
    return fill(
        "tuning.html",
        report=report,
        run=run,
        verdict=verdict(report),
        sections=[ready(s, "run") for s in sections],
        samples=[_sample(s) for s in report.samples],
        closing=ready(made_section(report, run), "run"),
    )


def verdict(report: TuningReport) -> list[str]:
    """What happened, in sentences."""
    out = []
    if rewards := report.column("reward"):
        tenth = max(1, len(rewards) // 10)
        first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
        out.append(
            f"The mean reward of the rows trained on was {first:.3g} in the first {tenth} steps and {last:.3g} in the "
            f"last {tenth} of {len(report.metrics)}."
        )
    judged = [
        s for s in report.samples if s.get("reward_before") is not None and s.get("reward_after") is not None
    ]
    if judged:
        before, after = (sum(s[k] for s in judged) / len(judged) for k in ("reward_before", "reward_after"))
        out.append(f"On the {len(judged)} prompts shown below it went from {before:.3g} to {after:.3g}.")
    return [*out, *(f"{n[:1].upper()}{n[1:]}." for n in report.notes)]


def curve_sections(report: TuningReport) -> list[Section]:
    """One section a group of metrics, with the numbers as a table; groups that the run did not measure are left out."""
    found = []
    for slug, title, text, wanted in GROUPS:
        mine = [w for w in wanted if report.column(w[0])]
        if not mine:
            continue
        every = max(1, len(report.metrics) // 50)
        rows = [[m.get("step"), *(m.get(n) for n, _ in mine)] for m in report.metrics[::every]]
        table = grid(title, [("step", ""), *((n, words) for n, words in mine)], rows, open=False)
        alt = f"{', '.join(words for _, words in mine)} over the optimiser steps"
        found.append(
            Section(slug, title, (text,), figure=curves(report.metrics, mine), alt=alt, grids=(table,))
        )
    return found


def watch_sections(report: TuningReport) -> list[Section]:
    """What the whole run added up: staleness by rows, quantiles of all ratios."""
    grids = []
    if lags := report.off_policy.get("staleness"):
        total = sum(lags.values())
        rows = [(int(k), v, v / total) for k, v in sorted(lags.items(), key=lambda kv: int(kv[0]))]
        grids.append(
            grid("Rows by staleness", ("steps since sampling", "rows", "share"), rows, open=len(rows) < 12)
        )
    if quantiles := report.off_policy.get("ratio_quantiles"):
        points = [(float(q), v) for q, v in quantiles.items()]
        grids.append(grid("Ratios of policy to sampler, all tokens", ("quantile", "ratio"), points))
    if not grids:
        return []
    return [
        Section(
            "watch",
            "The run as a whole",
            ("How stale the rows were, and how far ratios went.",),
            grids=tuple(grids),
        )
    ]


def made_section(report: TuningReport, run: dict[str, Any]) -> Section:
    """What made this page."""
    said = [
        ("command", run.get("command") or "from Python"),
        ("system", report.slug),
        ("model", str(run.get("model", {}).get("from") or "a loaded model")),
        ("model weights, SHA-256", str(run.get("model", {}).get("weights", ""))),
        *((f"data: {k}", str(v)) for k, v in run.get("data", {}).items()),
        ("rng", str(run.get("rng"))),
        ("processes", str(run.get("processes", 1))),
        ("settings", ", ".join(f"{k}={v}" for k, v in run.get("config", {}).items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in run.get("versions", {}).items())),
    ]
    return Section(
        "made",
        "What made this page",
        ("The same command on the same data and model gives the same numbers.",),
        grids=(grid("Command, data and versions", ("what", "value"), said),),
    )


def _sample(said: dict[str, Any]) -> dict[str, Any]:
    """One prompt with both answers; an answer that is a PNG address is shown as an image."""
    out: dict[str, Any] = {"prompt": str(said.get("prompt", ""))}
    for side in ("before", "after"):
        value = str(said.get(side, ""))
        out[side] = {
            "text": value,
            "image": bool(PNG.match(value)),
            "reward": said.get(f"reward_{side}"),
        }
    return out
