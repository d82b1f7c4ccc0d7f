"""The commands that read a decision log: report, estimate, audit, learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli.log_options import (
    Action,
    Available,
    Context,
    Delay,
    Engine,
    Estimators,
    Example,
    Json,
    Level,
    LogPath,
    Model,
    PolicySpecs,
    Position,
    Propensity,
    Quiet,
    Reward,
    RewardUnit,
    Seed,
    Segment,
    Time,
    Unit,
    example_candidates,
    read_bounds,
    read_estimators,
    read_log,
    read_predictions,
    read_sample,
    split,
)
from counterlog.cli.printing import command_line, content, print_json, print_line, print_table, progress
from counterlog.cli.trajectories import (
    BestReturn,
    RandomReturn,
    Reference,
    SaveReference,
    Setting,
    State,
    Step,
    Terminated,
    Trajectory,
    Truncated,
    audit_trajectories,
    has_trajectories,
)
from counterlog.cli.trajectory_report import (
    Bounds,
    Gamma,
    Learners,
    Quick,
    Seeds,
    Steps,
    Truth,
    report_trajectories,
)
from counterlog.core.errors import ConfigError, message


def report(
    log: LogPath = None,
    action: Action = None,
    reward: Reward = None,
    reward_unit: RewardUnit = None,
    propensity: Propensity = None,
    context: Context = None,
    unit: Unit = None,
    time: Time = None,
    segment: Segment = None,
    position: Position = None,
    available: Available = None,
    delay: Delay = None,
    example: Example = None,
    engine: Engine = None,
    policy: PolicySpecs = None,
    estimators: Estimators = None,
    level: Level = 0.95,
    model: Model = "boosting",
    rng: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the page and its data; a page's name for trajectories.")
    ] = Path("counterlog-report"),
    trajectory: Trajectory = None,
    t: Step = None,
    state: State = None,
    terminated: Terminated = None,
    truncated: Truncated = None,
    gamma: Gamma = None,
    bounds: Bounds = None,
    learners: Learners = None,
    steps: Steps = None,
    seeds: Seeds = None,
    quick: Quick = False,
    truth: Truth = None,
    reference: Reference = None,
    random_return: RandomReturn = None,
    best_return: BestReturn = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a log into one page: a verdict with intervals, a better policy, and the reasons.

    LOG is a decision log, or trajectories: a Minari or LeRobot folder, a .npz, .hdf5 or .parquet file of them, or a
    table with --trajectory, --t, --state and --action. From trajectories, policies are learnt and valued.
    """
    if has_trajectories(options := dict(locals())):
        report_trajectories(options)
        return
    from counterlog.report.decision_report import build

    rounds = read_log(locals())
    candidates, beside = example_candidates(log, example, policy or (), level)
    made = build(
        rounds,
        policies=candidates,
        beside=beside,
        estimators=split(estimators),
        level=level,
        model=model,
        rng=rng,
        command=command_line(),
        progress=progress(quiet),
    )
    page = made.write(out)
    if as_json:
        print_json(made.to_json_content())
    else:
        print_line(made.verdict)
        print_line(f"page: {page}")


def estimate(
    log: LogPath = None,
    action: Action = None,
    reward: Reward = None,
    reward_unit: RewardUnit = None,
    propensity: Propensity = None,
    context: Context = None,
    unit: Unit = None,
    time: Time = None,
    segment: Segment = None,
    position: Position = None,
    available: Available = None,
    delay: Delay = None,
    example: Example = None,
    engine: Engine = None,
    policy: PolicySpecs = None,
    estimators: Estimators = None,
    level: Level = 0.95,
    interval: Annotated[
        str, typer.Option(help="t, bootstrap, bca, hoeffding, bernstein, asymptotic-cs.")
    ] = "t",
    bounds: Annotated[
        str | None, typer.Option(help="LO,HI of weight times reward, for exact intervals.")
    ] = None,
    model: Model = "boosting",
    rng: Seed = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of an estimator, as ClippedIPS.cap=5; may be repeated."),
    ] = None,
    q: Annotated[
        str | None, typer.Option("--q", help="Column with the predicted reward of the logged action.")
    ] = None,
    v: Annotated[
        list[str] | None,
        typer.Option(
            "--v", help="Column with a policy's predicted reward, as POLICY=COLUMN; may be repeated."
        ),
    ] = None,
    sums_only: Annotated[
        bool, typer.Option("--sums-only", help="Values and t intervals alone: less than half the time.")
    ] = False,
    add: Annotated[list[Path] | None, typer.Option(help="Saved result to add (yesterday's).")] = None,
    save: Annotated[Path | None, typer.Option(help="Save the result here, to be added to later.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Value candidate policies on a decision log, with intervals."""
    from counterlog.audit.decision_log import audit as run_audit
    from counterlog.core.evaluate import Evaluation, evaluate
    from counterlog.report.verdict import summary

    rounds = read_log(locals())
    say = progress(quiet)
    say("estimating", 0.0)
    result = evaluate(
        rounds,
        policy or ("logged", "uniform", "best-fixed"),
        read_estimators(estimators, set_ or ()),
        level=level,
        interval=interval,
        bounds=read_bounds(bounds),
        model=model,
        q=read_predictions(q, v or (), tuple(rounds.rewards)),
        sums_only=sums_only,
        on_error="record" if policy is None else "raise",
        rng=rng,
        progress=say,
    )
    for earlier in add or ():
        result = result + Evaluation.load(earlier, level=level, interval=interval, rng=rng)
    if save is not None:
        result.save(save)
    verdict = summary(result)
    if as_json:
        findings = run_audit(read_sample(rounds, say), policy or (), rng=rng).findings
        print_json(content(result.n, result.records(), [f.to_dict() for f in findings], verdict))
        return
    rows = [
        {
            "policy": e.policy,
            "estimator": e.estimator,
            "reward": e.reward,
            "segment": e.segment,
            "value": e.value,
            "lo": e.lo,
            "hi": e.hi,
            "unit": e.unit,
            "effective rows": e.ess,
            "valid": "yes" if e.valid else e.reason,
        }
        for e in result.estimates
    ]
    print_table(f"{result.n:,} rows, {level:.0%} intervals ({interval})", rows)
    print_line(verdict)


def audit(
    log: LogPath = None,
    action: Action = None,
    reward: Reward = None,
    reward_unit: RewardUnit = None,
    propensity: Propensity = None,
    context: Context = None,
    unit: Unit = None,
    time: Time = None,
    segment: Segment = None,
    position: Position = None,
    available: Available = None,
    delay: Delay = None,
    example: Example = None,
    engine: Engine = None,
    policy: PolicySpecs = None,
    trajectory: Trajectory = None,
    t: Step = None,
    state: State = None,
    terminated: Terminated = None,
    truncated: Truncated = None,
    reference: Reference = None,
    random_return: RandomReturn = None,
    best_return: BestReturn = None,
    save_reference: SaveReference = None,
    set_: Setting = None,
    rng: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a log can support: every finding with its severity and remedy.

    LOG is a decision log, or trajectories: a Minari or LeRobot folder, a .npz or .hdf5 file, or a table with
    --trajectory. Of trajectories, the quality (TQ) and coverage (SACo) say which learners they are fit for.
    """
    if has_trajectories(options := locals()):
        audit_trajectories(options)
        return
    from counterlog.audit.decision_log import audit as run_audit

    say = progress(quiet)
    rounds = read_sample(read_log(options), say)
    say("auditing", 0.0)
    result = run_audit(rounds, policy or (), rng=rng)
    if as_json:
        print_json(content(rounds.n, [], [f.to_dict() for f in result.findings], result.verdict))
        return
    rows = [
        {"severity": f.severity, "check": f.check, "finding": f.message, "remedy": f.remedy}
        for f in result.findings
    ]
    print_table(f"{rounds.n:,} rows", rows)
    print_line(result.verdict)


def learn(
    log: LogPath = None,
    system: Annotated[str, typer.Option(help="Slug of a system that learns a policy.")] = "softmax-policy",
    action: Action = None,
    reward: Reward = None,
    reward_unit: RewardUnit = None,
    propensity: Propensity = None,
    context: Context = None,
    unit: Unit = None,
    time: Time = None,
    segment: Segment = None,
    position: Position = None,
    available: Available = None,
    delay: Delay = None,
    example: Example = None,
    engine: Engine = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the system's parameters.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One parameter, as name=value.")] = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="File for the learnt policy.")] = Path("policy.safetensors"),
    bounds: Annotated[
        str | None, typer.Option(help="LO,HI of continuous actions (trajectories only).")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Checkpoints; a stopped run goes on from here (trajectories only).")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a policy from a log and save it; `estimate --policy file:POLICY` values it on another log.

    LOG is a decision log, or, for a system that reads trajectories (td3-bc, iql, ...), a Minari or LeRobot folder or a
    .npz, .hdf5 or .parquet file of them.
    """
    from counterlog.index import card
    from counterlog.studies.running import fit_episodes, fit_system

    say = progress(quiet)
    if card(system).data == ("Episodes",):
        if log is None:
            raise ConfigError(message(f"{system} needs a log of trajectories", hint="counterlog data make"))
        from counterlog.core.episode_files import read_episodes

        episodes = read_episodes(log)
        rows, saved = fit_episodes(
            system,
            episodes,
            bounds=read_bounds(bounds),
            config=config,
            options=set_ or (),
            rng=rng,
            out=out,
            folder=folder,
            progress=say,
        )
        if as_json:
            print_json({"n": episodes.n, "system": system, "policy": str(saved), "result": rows})
        else:
            print_table(f"{system} on {episodes.n:,} trajectories, last step of each seed", rows)
            print_line(f"policies: {saved}")
        return
    rounds = read_sample(read_log(locals()), say)
    say(f"learning with {system}", 0.0)
    result, saved = fit_system(system, rounds, config=config, options=set_ or (), rng=rng, out=out)
    if as_json:
        print_json({"n": rounds.n, "system": system, "policy": str(saved), "result": result})
        return
    print_table(f"{system} on {rounds.n:,} rows", result)
    print_line(f"policy: {saved}")
