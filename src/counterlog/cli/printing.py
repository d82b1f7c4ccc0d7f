"""What the command line prints: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_WORD = 24


def content(n: int, policies: Sequence[Any], findings: Sequence[Any], verdict: str) -> dict[str, Any]:
    """The JSON of report, estimate and audit."""
    return {"n": n, "policies": policies, "audit": findings, "verdict": verdict}


def command_line() -> str:
    """The command as it was typed, quoted for a shell."""
    import shlex

    return shlex.join(["counterlog", *sys.argv[1:]])


def console(*, stderr: bool = False) -> Console:
    """A rich console; `NO_COLOR` is respected by rich itself."""
    from rich.console import Console

    return Console(stderr=stderr)


def progress(quiet: bool) -> Callable[[str, float], None]:
    """A callback (what is done now, share done) that writes to stderr."""
    if quiet:
        return lambda what, share: None
    shown = console(stderr=True)
    return lambda what, share: shown.print(f"[{share:4.0%}] {what}", highlight=False, markup=False)


def print_line(text: str) -> None:
    """Text to stdout as it is, wrapped at the window's width."""
    console().print(text, highlight=False, markup=False)


def print_json(content: Any) -> None:
    """JSON to stdout; numbers that are not finite become strings."""
    from counterlog.core.results import plain

    typer.echo(json.dumps(plain(content), indent=1, allow_nan=False, default=str))


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Records as a table on stdout; a column that is empty in every row is left out.

    Numbers and single words are never broken: a table that needs more room than the window has is printed
    wider than it.
    """
    from rich.markup import escape
    from rich.table import Table

    from counterlog.core.results import show

    names = [
        k for k in dict.fromkeys(k for r in rows for k in r) if any(r.get(k) not in (None, "") for r in rows)
    ]
    cells = [[escape(show(row.get(name))) for name in names] for row in rows]
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(names):
        words = [word for line in [*cells, [""] * i + [name]] for word in line[i].split()]
        table.add_column(escape(name), min_width=min(max(map(len, words), default=1), LONGEST_WORD))
    for line in cells:
        table.add_row(*line)
    shown = console()
    shown.width = max(shown.width, shown.measure(table).minimum)
    shown.print(table)
