"""The command that reads units instead of decisions: effect, what a treatment does.

Named `effect` because that is what it prints; `estimate` values policies on a log of decisions with propensities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli.log_options import Json, Level, Quiet, Seed, split
from counterlog.cli.printing import command_line, print_json, print_line, print_table, progress


def effect(
    data: Annotated[
        str, typer.Argument(help="Parquet, CSV or JSONL path or glob, or database.duckdb::table.")
    ],
    outcome: Annotated[str, typer.Option(help="Column of what came of it, a number.")],
    treatment: Annotated[str, typer.Option(help="Column of what was done: 0/1 or a number.")],
    instrument: Annotated[str, typer.Option(help="Column of the encouragement or eligibility, 0/1.")],
    covariates: Annotated[
        str, typer.Option(help="Columns known before the instrument, separated by commas.")
    ],
    weights: Annotated[str | None, typer.Option(help="Column of sampling weights.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column of what belongs together, such as a firm.")
    ] = None,
    level: Level = 0.95,
    config: Annotated[Path | None, typer.Option(help="TOML file with parameters of invalid-iv-ate.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One parameter, as name=value; may be repeated.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for finished folds: a stopped run goes on from it.")
    ] = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page and its data.")] = Path("counterlog-effect"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate what a treatment does, with an instrument that may act on the outcome directly; write a page."""
    from counterlog.core.units import Units
    from counterlog.estimate.invalid_iv_ate import InvalidIV, InvalidIVConfig
    from counterlog.report.effect_report import verdict, write

    units = Units(
        data,
        outcome=outcome,
        treatment=treatment,
        instrument=instrument,
        covariates=split(covariates),
        weights=weights,
        cluster=cluster,
    )
    given = InvalidIVConfig.from_toml(config.read_text()) if config is not None else InvalidIVConfig()
    named = {o.partition("=")[0].strip().replace("-", "_") for o in set_ or ()}
    changed = InvalidIVConfig.from_options(set_ or ())
    settings = {
        **given.to_dict(),
        "level": level,
        **{k: v for k, v in changed.to_dict().items() if k in named},
    }
    say = progress(quiet)
    say("fitting the learners", 0.0)
    found = InvalidIV(InvalidIVConfig.from_dict(settings)).estimate(units, rng=rng, state=state, progress=say)
    page = write(found, units, out, command_line(), rng)
    if as_json:
        print_json(found.to_dict())
        return
    print_table(f"{units.n:,} rows, {found.level:.0%} intervals", found.rows())
    for sentence in verdict(found):
        print_line(sentence)
    for note in found.notes:
        print_line(f"note: {note}")
    print_line(f"page: {page}")
