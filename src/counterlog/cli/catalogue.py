"""The commands about the library itself: systems, show, study, data, doctor, version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli.log_options import Json, Quiet, Seed
from counterlog.cli.printing import print_json, print_line, print_table, progress

data = typer.Typer(help="Named real data: list, get, make.", no_args_is_help=True)


def systems(
    question: Annotated[str, typer.Option(help="Only the systems of one question, such as estimate.")] = "",
    data: Annotated[str, typer.Option(help="Only systems that read this contract, such as Rounds.")] = "",
    search: Annotated[str, typer.Option(help="Only cards that hold every word.")] = "",
    as_json: Json = False,
) -> None:
    """List the systems, by the question they answer."""
    from counterlog import index

    found = index.search(question=question, data=data, text=search)
    rows = [
        {"question": c.question, "slug": c.slug, "data": ", ".join(c.data), "what": c.title} for c in found
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(f"{len(rows)} systems", rows)


def show(slug: str, as_json: Json = False) -> None:
    """Print one system's card and its parameters."""
    from importlib import import_module

    from counterlog import index

    card = index.card(slug)
    module = import_module(card.module)
    parameters = {name: getattr(module, name).describe() for name in card.configs}
    if as_json:
        print_json({"slug": card.slug, "title": card.title, "card": card.fields, "parameters": parameters})
        return
    print_line(f"{card.slug} ({card.question}): {card.title}")
    for label, text in card.fields.items():
        print_line(f"\n{label}\n  {text}")
    print_line(f"\nModule\n  {card.module}: {', '.join(card.classes)}")
    for name, rows in parameters.items():
        print_table(name, rows)


def study(
    slug: str,
    full: Annotated[bool, typer.Option("--full", help="Paper-sized run; saves the result.")] = False,
    rng: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a system's study; exits 0 only when every stated claim held."""
    from counterlog.studies.running import run_study

    progress(quiet)(f"running {slug} ({'full: minutes' if full else 'quick: seconds'})", 0.0)
    result = run_study(slug, full=full, rng=rng)
    if as_json:
        print_json(result.to_dict())
    else:
        for table in result.tables:
            print_table(f"{table.title} ({table.unit})" if table.unit else table.title, list(table.rows))
        print_table("claims", result.records())
        for note in result.notes:
            print_line(note)
    raise typer.Exit(0 if result.passed else 1)


@data.command("list")
def data_list(as_json: Json = False) -> None:
    """The data sets by name, with licence and source."""
    from counterlog.datasets.registry import DATASETS

    rows = [
        {"name": d.name, "about": d.about, "licence": d.licence, "bundled": "yes" if d.bundled else ""}
        for d in DATASETS.values()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(f"{len(rows)} data sets", rows)


@data.command("get")
def data_get(name: str) -> None:
    """Find or download a data set's files and print their paths; minari:ID fetches a published Minari data set."""
    from counterlog.datasets.registry import dataset, get

    if name.startswith("minari:"):
        from counterlog.datasets.episode_logs import get_minari

        typer.echo(get_minari(name.removeprefix("minari:")))
        return
    for source in dataset(name).sources:
        typer.echo(get(name, source.file))


@data.command("make")
def data_make(
    name: str,
    out: Annotated[Path, typer.Option(help="Parquet file; for trajectories a new Minari folder or .npz.")],
    rows: Annotated[int, typer.Option(help="Rows to draw.", min=1)] = 20_000,
    rng: Seed = 0,
) -> None:
    """Draw a simulated log of decisions, or generate a log of trajectories, and write it."""
    from counterlog.datasets.simulated import make

    typer.echo(make(name, out, rows=rows, rng=rng))


def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and where data is looked for."""
    from counterlog.doctor import examine

    rows = examine()
    if as_json:
        print_json(rows)
    else:
        print_table("counterlog doctor", rows)
    raise typer.Exit(0 if all(r["state"] != "broken" for r in rows) else 1)


def version() -> None:
    """Print the version."""
    from counterlog import __version__

    typer.echo(__version__)
