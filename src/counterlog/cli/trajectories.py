"""What commands do with a log of trajectories: recognise it, read it, audit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterlog.cli.log_options import split
from counterlog.cli.printing import content, print_json, print_line, print_table, progress
from counterlog.core.errors import ConfigError, message

if TYPE_CHECKING:
    from counterlog.audit.log_plane import LogPlane
    from counterlog.core.episodes import Episodes

Trajectory = Annotated[
    str | None, typer.Option(help="Column of the trajectory, for a table of trajectories.")
]
Step = Annotated[str | None, typer.Option("--t", help="Column of the step within the trajectory.")]
State = Annotated[str | None, typer.Option(help="State columns, separated by commas (trajectories only).")]
Terminated = Annotated[str | None, typer.Option(help="Column of ends of the task (trajectories only).")]
Truncated = Annotated[str | None, typer.Option(help="Column of cuts of the recording (trajectories only).")]
Reference = Annotated[
    Path | None, typer.Option(help="Log, or saved reference (.json), that coverage is compared with.")
]
RandomReturn = Annotated[
    str | None, typer.Option(help="Mean return of the uniform policy, or a log of it (trajectories only).")
]
BestReturn = Annotated[
    str | None, typer.Option(help="Mean return of the reference policy, or a log of it (trajectories only).")
]
SaveReference = Annotated[
    Path | None, typer.Option(help="Write this log's reference here, for audits of other logs.")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="One parameter, as name=value (trajectories only).")
]
ONLY_HERE = (
    "t",
    "state",
    "terminated",
    "truncated",
    "reference",
    "random_return",
    "best_return",
    "save_reference",
    "set_",
    "gamma",
    "bounds",
    "learners",
    "steps",
    "seeds",
    "quick",
    "truth",
)
FOR_DECISIONS = (
    "context",
    "unit",
    "time",
    "segment",
    "position",
    "available",
    "delay",
    "engine",
    "policy",
    "estimators",
)


def has_trajectories(options: dict[str, Any]) -> bool:
    """Whether a command's log is one of trajectories: by its file, or because a trajectory column was named.

    Raises `ConfigError` when options of the two kinds are mixed.
    """
    from counterlog.core.episode_files import holds_trajectories

    path = options["log"]
    found = options["trajectory"] is not None or (path is not None and holds_trajectories(path))
    wrong = [k for k in (FOR_DECISIONS if found else ONLY_HERE) if options.get(k)]
    if wrong:
        kind = "trajectories" if found else "decisions"
        name = f"--{wrong[0].strip('_').replace('_', '-')}"
        hint = "leave it out" if found else "name --trajectory, or give a .npz, .hdf5 or Minari log"
        raise ConfigError(message(f"{name} does not apply to a log of {kind}", hint=hint))
    return found


def read_trajectories(options: dict[str, Any]) -> Episodes:
    """The log that the options describe."""
    from counterlog.core.episode_files import read_episodes
    from counterlog.core.episodes import Episodes

    path = options["log"]
    if path is None:
        raise ConfigError(message("no log was named", hint="counterlog data make four-rooms-replay"))
    if options["trajectory"] is None:
        return read_episodes(path)
    if missing := [k for k in ("t", "state", "action") if options[k] is None]:
        hint = "--trajectory, --t, --state and --action describe a table of trajectories"
        raise ConfigError(message(f"--{missing[0]} is missing", hint=hint))
    if len(rewards := options["reward"] or ()) > 1:
        raise ConfigError(
            message(f"{len(rewards)} rewards were named", expected="at most one for trajectories")
        )
    states, actions = split(options["state"]), split(options["action"])
    return Episodes.from_table(
        path,
        trajectory=options["trajectory"],
        t=options["t"],
        state=states[0] if len(states) == 1 else states,
        action=actions[0] if len(actions) == 1 else actions,
        reward=rewards[0] if rewards else None,
        propensity=options["propensity"],
        terminated=options["terminated"],
        truncated=options["truncated"],
        reward_unit=next((u.partition("=")[2] for u in options.get("reward_unit") or ()), "reward"),
    )


def audit_trajectories(options: dict[str, Any]) -> None:
    """The characteristics of a log of trajectories, printed."""
    from counterlog.audit.dataset_characteristics import DatasetCharacteristics, DatasetCharacteristicsConfig

    say = progress(options["quiet"])
    log = read_trajectories(options)
    reference = read_reference(options["reference"])
    system = DatasetCharacteristics(DatasetCharacteristicsConfig.from_options(options["set_"] or ()))
    found = system.check(
        log,
        reference=reference,
        random=read_return(options["random_return"]),
        best=read_return(options["best_return"]),
        plane=calibrated_plane() if log.discrete else None,
        rng=options["rng"],
        progress=say,
    )
    if (target := options["save_reference"]) is not None:
        found.as_reference().save(target)
    if options["as_json"]:
        findings = [f.to_dict() for f in found.findings]
        print_json({**content(log.n, [], findings, found.verdict), "profile": found.to_dict()})
        return
    print_table(f"{log.n:,} trajectories, {log.rows:,} steps", found.table())
    if advice := found.recommendation:
        print_table(f"learners on logs like it, {advice.level:.0%} intervals of P in %", list(advice.table))
    rows = [
        {"severity": f.severity, "check": f.check, "finding": f.message, "remedy": f.remedy}
        for f in found.findings
    ]
    print_table("findings", rows)
    print_line(found.verdict)


def read_reference(path: Path | None) -> Any:
    """The log, or the saved reference, at a path."""
    from counterlog.audit.dataset_characteristics import CellReference
    from counterlog.core.episode_files import read_episodes

    if path is None:
        return None
    return CellReference.load(path) if path.suffix == ".json" else read_episodes(path)


def read_return(text: str | None) -> Any:
    """A number, or the log at a path."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        from counterlog.core.episode_files import read_episodes

        return read_episodes(text)


def calibrated_plane() -> LogPlane | None:
    """The plane of the committed study."""
    from counterlog.studies.dataset_characteristics import plane

    return plane()
