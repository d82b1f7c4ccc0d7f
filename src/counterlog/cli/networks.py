"""The commands that read a network: spread."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from counterlog.cli.log_options import Json, Quiet, Seed
from counterlog.cli.printing import command_line, print_json, print_line, print_table, progress

SHOWN = 20


def spread(
    graph: Annotated[
        Path, typer.Argument(help="Edge list: text (.gz), CSV, Parquet or NumPy, one link a row.")
    ],
    starters: Annotated[
        Path,
        typer.Option(
            help="File with the starters, separated by blanks, commas or lines; LABEL:K gives one its own capacity."
        ),
    ],
    capacity: Annotated[int, typer.Option(help="Friends that a starter may invite.")] = 10,
    probability: Annotated[
        str, typer.Option(help="wc (1 / links in), tri, a number, or column:NUMBER of the file.")
    ] = "wc",
    undirected: Annotated[bool, typer.Option("--undirected", help="Every row is a link both ways.")] = False,
    parallel: Annotated[str, typer.Option(help="Rows that repeat a link: merge or keep.")] = "merge",
    skip: Annotated[int, typer.Option(help="Lines to pass over, such as a header.", min=0)] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as eps=0.05 or model=lt; may be repeated.")
    ] = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page and the plan.")] = Path("counterlog-spread"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose which friends each starter should invite, with a bound on the best, and write the page."""
    from counterlog.core.files import sha256
    from counterlog.core.network_files import read_network
    from counterlog.report.network_page import build
    from counterlog.spread.capacity_constrained_im import CapacityConstrainedIM, CapacityConstrainedIMConfig

    say = progress(quiet)
    say("reading the network", 0.0)
    network = read_network(
        graph, _probability(probability), skip=skip, undirected=undirected, parallel=parallel, rng=rng
    )
    names, each = read_starters(starters, capacity)
    made = build(
        network,
        names,
        CapacityConstrainedIM(CapacityConstrainedIMConfig.from_options(set_ or ())),
        capacity=each,
        rng=rng,
        command=command_line(),
        source=graph.name,
        fingerprint=sha256(graph),
        progress=say,
    )
    page = made.write(out)
    if as_json:
        print_json({"verdict": made.verdict, "plan": made.plan.to_dict(), "page": str(page)})
        return
    rows = made.plan.records()
    print_table(f"{len(rows):,} invitations, the first {min(SHOWN, len(rows))}", rows[:SHOWN])
    for sentence in made.verdict:
        print_line(sentence)
    print_line(f"page: {page}")


def read_starters(path: Path, capacity: int) -> tuple[list[str], int | list[int]]:
    """Labels, and one capacity for all or one each where the file names some."""
    from counterlog.core.errors import ConfigError, LogError, message

    if not path.exists():
        raise LogError(message(f"there is no file {path}", hint="one starter a line"))
    words = path.read_text(encoding="utf-8-sig").replace(",", " ").split()
    if not any(":" in w for w in words):
        return words, capacity
    pairs = [w.rpartition(":") if ":" in w else (w, ":", str(capacity)) for w in words]
    if bad := [k for _, _, k in pairs if not k.isdigit()]:
        raise ConfigError(
            message(f"capacity {bad[0]!r} of a starter", expected="a whole number, as in LABEL:3")
        )
    return [name for name, _, _ in pairs], [int(k) for _, _, k in pairs]


def _probability(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
