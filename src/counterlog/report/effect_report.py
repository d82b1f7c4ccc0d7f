"""The page of an effect: a verdict, the estimators side by side, relevance, selection, sensitivity, swaying rows.

Made of the same blocks as the decision report's page: one file that opens offline, every number drawn also in a table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from counterlog.core.files import write_parquet, write_whole
from counterlog.core.results import show
from counterlog.core.units import Units
from counterlog.estimate.invalid_iv_result import InvalidIVEstimate
from counterlog.report.blocks import Section, grid
from counterlog.report.page import render_sections

PAGE = "report.html"
MOST_TRIPLES = 64


def verdict(found: InvalidIVEstimate) -> tuple[str, ...]:
    """What the page says first."""
    sure = "The interval leaves out zero." if found.lo > 0 or found.hi < 0 else "The interval holds zero."
    first = (
        f"The average effect is {show(found.value)} {found.unit}, {found.level:.0%} interval {show(found.lo)} to "
        f"{show(found.hi)}. {sure}"
    )
    gamma = (
        f"A hidden correlation that differs by {found.sensitivity.flips:.3f} between the arms would be enough to turn "
        "its sign."
    )
    return tuple(s for s in (first, found.reason, gamma) if s)


def sections(found: InvalidIVEstimate, units: Units, command: str, versions: dict[str, str]) -> list[Section]:
    """The page's parts in order."""
    r, s = found.relevance, found.sensitivity
    rows = found.rows()
    names = list(rows[0])
    triple = list(found.selection[0])
    return [
        Section(
            "estimates",
            "The effect by different estimators",
            (
                "OLS and PLR-DML are right when nothing is hidden; 2SLS and LATE-DML when the instrument acts through "
                "the treatment alone; GENIUS when the effect is the same for all. The first estimate needs none of "
                "these, but that the hidden confounding is alike in both arms of the instrument.",
            ),
            found.plot(),
            "Estimates with their intervals",
            (grid("Estimates", names, [[row[c] for c in names] for row in rows]),),
        ),
        Section(
            "relevance",
            "Does the instrument change the variance of the treatment?",
            (
                f"Concentration {show(r.strength)} (weak below 20). The instrument changes the mean of the "
                f"treatment by {show(r.mean_shift)} and its variance by {show(r.mean)} on average.",
            ),
            found.plot_relevance(),
            "Histogram of D(X)",
            (
                grid(
                    "D(X)",
                    ("what", "value"),
                    [
                        ("mean", r.mean),
                        ("standard deviation", r.sd),
                        ("share below 0", r.negative),
                        ("share at the floor", r.at_floor),
                        ("share with the chance of Z at its floor", r.outside),
                        ("effective rows of the weights 1 / D^2", r.effective),
                    ],
                ),
                grid(
                    "Histogram",
                    ("from", "share of rows"),
                    list(zip(r.edges, r.shares, strict=False)),
                    open=False,
                ),
            ),
        ),
        Section(
            "selection",
            "Which learners, and how steady the estimate is",
            (
                f"Chosen: {', '.join(found.chosen)}. A triple is steady when replacing one of its learners "
                "hardly moves the estimate.",
            ),
            grids=(
                grid("Triples", triple, [[row[c] for c in triple] for row in found.selection[:MOST_TRIPLES]]),
                grid(
                    "Learners",
                    list(found.nuisances[0]),
                    [list(row.values()) for row in found.nuisances],
                    open=False,
                ),
            ),
        ),
        Section(
            "sensitivity",
            "How wrong may the assumption be?",
            (
                "Gamma is the difference, between the arms of the instrument, of the hidden correlation of treatment "
                f"and outcome. The sign turns at {s.flips:.3f}; the interval reaches zero at {s.loses:.3f}.",
                f"Confidence set that holds under weak identification ({found.robust_form}): "
                + ("; ".join(f"{show(low)} to {show(high)}" for low, high in found.robust) or "none")
                + f". {found.robust_meaning.capitalize()}.",
            ),
            found.plot_sensitivity(),
            "Interval by Gamma",
            (
                grid(
                    "Interval by Gamma",
                    ("Gamma", "low", "high", "low with error", "high with error"),
                    list(zip(s.gamma, s.low, s.high, s.low_ci, s.high_ci, strict=True)),
                ),
                grid(
                    "Traces of the assumption",
                    ("check", "coefficient", "z", "meaning"),
                    [(c.name, c.coefficient, c.z, c.meaning) for c in found.checks],
                    open=False,
                ),
            ),
        ),
        Section(
            "sway",
            "Rows that move the estimate most",
            ("What leaving a row out takes from the estimate, learners held. Rows are counted from 0.",),
            grids=(
                grid(
                    "Rows by sway",
                    ("row", "takes", "estimate without it"),
                    [tuple(row.values()) for row in found.sway],
                ),
                grid(
                    "Without the strongest rows",
                    ("rows removed", "estimate"),
                    [tuple(row.values()) for row in found.without],
                ),
            ),
        ),
        Section(
            "run",
            "What made this page",
            tuple(f"{note[0].upper()}{note[1:]}." for note in found.notes),
            grids=(
                grid(
                    "Run",
                    ("what", "value"),
                    [("command", command), ("data, SHA-256", units.fingerprint), *versions.items()],
                ),
            ),
        ),
    ]


def write(found: InvalidIVEstimate, units: Units, folder: Path, command: str, rng: int) -> Path:
    """The folder of a run: run.json, result.json, the estimates as Parquet, and the page, which is written last."""
    from counterlog.core.study import versions

    made_by = versions("counterlog", "numpy", "scikit-learn")
    about = f"{units.n:,} rows: {', '.join(f'{role} {c}' for role, c in units.roles.items() if c)}"
    run: dict[str, Any] = {"command": command, "rng": rng, "versions": made_by, "roles": units.roles}
    run["data"] = {"rows": units.n, "sha256": units.fingerprint}
    write_whole(folder / "run.json", json.dumps(run, indent=1))
    found.save(folder / "result.json")
    write_parquet(folder / "result.parquet", found.summary_frame())
    parts = sections(found, units, command, made_by)
    page = render_sections(
        parts, title="Effect report", about=about, heading="Verdict", verdict=verdict(found)
    )
    return write_whole(folder / PAGE, page)
