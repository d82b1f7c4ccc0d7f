"""What `report` does with a log of trajectories: its own options, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from counterlog.cli.log_options import read_bounds, split
from counterlog.cli.printing import command_line, print_json, print_line, progress
from counterlog.cli.trajectories import read_reference, read_return, read_trajectories
from counterlog.core.errors import ConfigError, message

Gamma = Annotated[float | None, typer.Option(help="Trajectories: discount a step.", min=0.0, max=1.0)]
Bounds = Annotated[str | None, typer.Option(help="Trajectories: LO,HI of continuous actions.")]
Learners = Annotated[str | None, typer.Option(help="Trajectories: learners, such as bc,bc-best,td3-bc,iql.")]
Steps = Annotated[int | None, typer.Option(help="Trajectories: descent steps of every network.", min=1)]
Seeds = Annotated[int | None, typer.Option(help="Trajectories: policies a learner and fold.", min=1)]
Quick = Annotated[bool, typer.Option("--quick", help="Trajectories: a first look in a fraction of the time.")]
Truth = Annotated[
    str | None,
    typer.Option(
        help="Trajectories: name of a generated log, whose simulator then plays every policy, or a JSON file of "
        "values by policy ('logged' is what was done)."
    ),
]


def report_trajectories(options: dict[str, Any]) -> None:
    """Learn, value, compare, and write the page."""
    from counterlog.core.files import write_whole
    from counterlog.report.files import PAGE, csv_text
    from counterlog.report.trajectory_report import TrajectoryReportConfig, build_trajectories, default_gamma

    out, say, rng = Path(options["out"]), progress(options["quiet"]), options["rng"]
    if options["trajectory"] is None and (options["action"] or options["reward"] or options["propensity"]):
        msg = message(
            f"{options['log']} names its own actions and rewards", hint="leave out --action and --reward"
        )
        raise ConfigError(msg)
    say("reading the log", 0.0)
    log = read_trajectories(options)
    named = {"gamma": options["gamma"], "steps": options["steps"], "seeds": options["seeds"]}
    config = TrajectoryReportConfig(
        **{k: v for k, v in named.items() if v is not None},
        learners=split(options["learners"]),
        level=options["level"],
    )
    config = config.quick() if options["quick"] else config
    gamma = default_gamma(log) if config.gamma is None else config.gamma
    low, high = read_bounds(options["bounds"]) or (None, None)
    simulator, truth = None, None
    if options["truth"] is not None:
        simulator, truth, ends = _truth(options["truth"], gamma, rng)
        low, high = (low, high) if low is not None or log.discrete else ends
    folder, page = (out.with_suffix(""), out) if out.suffix == ".html" else (out, out / PAGE)
    made = build_trajectories(
        log,
        replace(config, gamma=gamma),
        low=low,
        high=high,
        simulator=simulator,
        truth=truth,
        reference=read_reference(options["reference"]),
        random=read_return(options["random_return"]),
        best=read_return(options["best_return"]),
        rng=rng,
        folder=folder,
        command=command_line(),
        progress=say,
    )
    run = {"command": made.command, "config": made.settings, "rng": rng, "versions": made.versions}
    write_whole(folder / "run.json", json.dumps(run, indent=1, default=list))
    made.save(folder / "result.json")
    records = made.records()
    columns = [c for c in records[0] if c not in ("reward", "segment", "notes")]
    write_whole(folder / "policies.csv", csv_text(columns, [[r.get(c) for c in columns] for r in records]))
    write_whole(page, made.html())
    if options["as_json"]:
        print_json(made.to_dict())
    else:
        print_line(made.verdict)
        print_line(f"page: {page}")


def _truth(name: str, gamma: float, rng: int) -> tuple[Any, dict[str, float], tuple[Any, Any]]:
    """The simulator, the values known, and the bounds of actions."""
    from counterlog.datasets.episode_logs import EPISODE_LOGS, known_truth
    from counterlog.report.wording import BASELINE

    if name.endswith(".json"):
        try:
            values = {str(k): float(v) for k, v in json.loads(Path(name).read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError) as cause:
            msg = message(f"{name!r} holds no values ({cause})", expected='{"logged": 1.0, "bc": 2.0}')
            raise ConfigError(msg) from cause
        return None, values, (None, None)
    simulator, logged = known_truth(name, gamma, rng=10_007 + rng)
    found = EPISODE_LOGS[name]
    return simulator, {BASELINE: logged}, (found.low, found.high)
