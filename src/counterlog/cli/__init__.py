"""The command line: every command is one call of the library. Data goes to stdout, everything else to stderr.

A module here holds the commands of one kind of input; this file names them all. Exit codes: 0 done, 1 refused or
failed, 2 bad usage.
"""

from __future__ import annotations

import sys

import typer

from counterlog.cli import (
    attribution,
    catalogue,
    clicks,
    decisions,
    effects,
    generative,
    interaction,
    networks,
)
from counterlog.core.errors import CounterlogError, message

app = typer.Typer(
    name="counterlog",
    help="Learn, evaluate and decide from logged data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    decisions.report,
    decisions.estimate,
    decisions.audit,
    decisions.learn,
    interaction.improve,
    attribution.trace,
    attribution.unlearn,
    attribution.certify,
    effects.effect,
    networks.spread,
    clicks.rank,
    generative.posttrain,
    catalogue.systems,
    catalogue.show,
    catalogue.study,
    catalogue.doctor,
    catalogue.version,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(catalogue.data, name="data")


def main() -> None:
    """Entry point: refusals become one message on stderr and exit code 1."""
    try:
        app()
    except CounterlogError as refusal:
        typer.echo(f"error: {refusal}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as cause:
        from counterlog.doctor import extra_with

        if not (extra := extra_with(cause.name or "")):
            raise
        text = message(f"this needs {cause.name!r}", hint=f"pip install 'counterlog[{extra}]'")
        typer.echo(f"error: {text}", err=True)
        sys.exit(1)
    except OSError as cause:
        typer.echo(f"error: the output cannot be written ({cause.strerror or cause})", err=True)
        sys.exit(1)
