"""The command that acts: improve a policy in an environment, and record what it does as a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli.log_options import Json, Quiet, Seed
from counterlog.cli.printing import print_json, print_line, print_table, progress


def improve(
    environment: Annotated[str, typer.Argument(help="A Gymnasium id, as Pendulum-v1.")],
    system: Annotated[str, typer.Option(help="Slug of a system that acts in an environment.")] = "mdpo",
    log: Annotated[
        Path | None, typer.Option(help="Trajectories to learn from as well (systems with a replay).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the system's parameters.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One parameter, as name=value.")] = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="File for the policies.")] = Path("policy.safetensors"),
    folder: Annotated[Path | None, typer.Option(help="Checkpoints; a stopped run goes on from here.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write episodes of the first seed, with propensities, to this .npz.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes to record.", min=1)] = 20,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Improve a policy in a simulator and save it; `--record` makes a log of it that the other commands read."""
    from counterlog.studies.running import improve_in, record_policy

    rows, saved = improve_in(
        system,
        environment,
        log=log,
        config=config,
        options=set_ or (),
        rng=rng,
        out=out,
        folder=folder,
        progress=progress(quiet),
    )
    recorded = None if record is None else record_policy(saved, environment, record, episodes, rng=rng)
    if as_json:
        content = {"environment": environment, "system": system, "policy": str(saved), "result": rows}
        print_json(content if recorded is None else {**content, "log": str(recorded)})
        return
    print_table(f"{system} in {environment}, last round of each seed", rows)
    print_line(f"policies: {saved}")
    if recorded is not None:
        print_line(f"log: {recorded}")
