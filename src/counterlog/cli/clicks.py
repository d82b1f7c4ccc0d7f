"""The command that reads a click log: rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from counterlog.cli.log_options import Json, Quiet, Seed, split
from counterlog.cli.printing import command_line, print_json, print_line, print_table, progress

ClickLog = Annotated[
    str, typer.Argument(help="Parquet, CSV or JSONL of items shown, or LETOR text of clicks.")
]
System = Annotated[str, typer.Option(help="Slug of a system that learns a ranker from clicks.")]
ListName = Annotated[str, typer.Option("--list", help="Column of the page view that an item was shown in.")]
Position = Annotated[str, typer.Option(help="Column of the position, 1 at the top.")]
Click = Annotated[str, typer.Option(help="Column of the click, 0 or 1.")]
Features = Annotated[
    str | None, typer.Option(help="Feature columns separated by commas, or one list column.")
]
Column = Annotated[str | None, typer.Option(help="Column of this role, if the log has it.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter as name=value; may be repeated.")
]
Truncate = Annotated[bool, typer.Option(help="Leave lists of one item out.")]


def rank(
    log: ClickLog,
    system: System = "dual-learning-ranking",
    list_: ListName = "list",
    position: Position = "position",
    click: Click = "click",
    features: Features = None,
    query: Column = None,
    doc: Column = None,
    segment: Column = None,
    logger: Column = None,
    label: Column = None,
    score: Column = None,
    drop_single: Truncate = False,
    judged: Annotated[
        Path | None, typer.Option(help="Graded lists in LETOR form, to measure the order on.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the system's parameters.")] = None,
    set_: Setting = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the ranker, the result and the page.")] = Path(
        "ranking"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a ranker and the position bias from logged clicks; writes the ranker, the result and a page."""
    import inspect

    from counterlog.core.clicks import Clicks
    from counterlog.core.errors import ConfigError, message
    from counterlog.core.files import write_whole
    from counterlog.core.letor import read_letor, read_letor_clicks
    from counterlog.core.study import versions
    from counterlog.report.ranking_page import ranking_page
    from counterlog.studies.running import click_learner

    learner = click_learner(system, config=config, options=set_ or ())
    if features is None:
        clicks = read_letor_clicks(log)
    else:
        names = split(features)
        roles = {
            "query": query,
            "doc": doc,
            "segment": segment,
            "logger": logger,
            "label": label,
            "score": score,
        }
        clicks = Clicks.read(
            log,
            list=list_,
            position=position,
            click=click,
            features=names[0] if len(names) == 1 else names,
            on_single="drop" if drop_single else "refuse",
            **roles,
        )
    options: dict[str, Any] = {"rng": rng, "progress": progress(quiet)}
    if judged is not None:
        options["validation"] = read_letor(judged, features=clicks.features.shape[1])
    taken = inspect.signature(learner.fit).parameters
    if missing := [k for k in options if k not in taken]:
        raise ConfigError(message(f"{system!r} takes no {missing[0]}"))
    fitted = learner.fit(clicks, **options)
    trees = not hasattr(fitted.ranker, "layers")
    saved = fitted.save(out / ("ranker.txt" if trees else "ranker.safetensors"))
    fitted.report.save(out / "result.json")
    made = versions("counterlog", "numpy", *(("lightgbm",) if trees else ("torch",)))
    page = write_whole(
        out / "report.html", ranking_page(fitted.report, command=command_line(), versions=made)
    )
    if as_json:
        print_json(
            {"n": clicks.lists, "ranker": str(saved), "page": str(page), "result": fitted.report.to_dict()}
        )
        return
    print_table(f"{system} on {clicks.lists:,} lists: {fitted.report.unit}", fitted.report.records())
    if fitted.report.quality:
        print_table(
            "quality", [{"on": q.on, "metric": q.metric, "value": q.value} for q in fitted.report.quality]
        )
    if fitted.report.audit is not None:
        print_line(fitted.report.audit.advice)
    print_line(f"ranker: {saved}")
    print_line(f"page: {page}")
