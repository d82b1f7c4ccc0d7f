"""The command line: every command is one call of the library. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 refused or failed, 2 bad usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli_log import (
    Action,
    Available,
    Context,
    Delay,
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
    split,
)
from counterlog.cli_print import command_line, content, print_json, print_line, print_table, progress
from counterlog.core.errors import CounterlogError

app = typer.Typer(
    name="counterlog",
    help="Learn, evaluate and decide from logged data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Named real data: list, get, make.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command()
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
    policy: PolicySpecs = None,
    estimators: Estimators = None,
    level: Level = 0.95,
    model: Model = "boosting",
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page and its data.")] = Path("counterlog-report"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a decision log into one page: a verdict with intervals, a better policy, and the reasons."""
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


@app.command()
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
        on_error="record" if policy is None else "raise",
        rng=rng,
    )
    for earlier in add or ():
        result = result + Evaluation.load(earlier, level=level, interval=interval, rng=rng)
    if save is not None:
        result.save(save)
    verdict = summary(result)
    if as_json:
        findings = run_audit(rounds, policy or (), rng=rng).findings
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


@app.command()
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
    policy: PolicySpecs = None,
    rng: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a decision log can support: every finding with its severity and remedy."""
    from counterlog.audit.decision_log import audit as run_audit

    rounds = read_log(locals())
    progress(quiet)("auditing", 0.0)
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


@app.command()
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
    config: Annotated[Path | None, typer.Option(help="TOML file with the system's parameters.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One parameter, as name=value.")] = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="File for the learnt policy.")] = Path("policy.safetensors"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn a policy from a log and save it; `estimate --policy file:POLICY` values it on another log."""
    from counterlog.studies.running import fit_system

    rounds = read_log(locals())
    progress(quiet)(f"learning with {system}", 0.0)
    result, saved = fit_system(system, rounds, config=config, options=set_ or (), rng=rng, out=out)
    if as_json:
        print_json({"n": rounds.n, "system": system, "policy": str(saved), "result": result})
        return
    print_table(f"{system} on {rounds.n:,} rows", result)
    print_line(f"policy: {saved}")


@app.command()
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


@app.command()
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


@app.command()
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


@data_app.command("list")
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


@data_app.command("get")
def data_get(name: str) -> None:
    """Find or download a data set's files and print their paths."""
    from counterlog.datasets.registry import dataset, get

    for source in dataset(name).sources:
        typer.echo(get(name, source.file))


@data_app.command("make")
def data_make(
    name: str,
    out: Annotated[Path, typer.Option(help="File to write (Parquet).")],
    rows: Annotated[int, typer.Option(help="Rows to draw.", min=1)] = 20_000,
    rng: Seed = 0,
) -> None:
    """Draw a simulated log with known truth and write it."""
    from counterlog.datasets.simulated import make

    typer.echo(make(name, out, rows=rows, rng=rng))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and where data is looked for."""
    from counterlog.doctor import examine

    rows = examine()
    if as_json:
        print_json(rows)
    else:
        print_table("counterlog doctor", rows)
    raise typer.Exit(0 if all(r["state"] != "broken" for r in rows) else 1)


@app.command()
def version() -> None:
    """Print the version."""
    from counterlog import __version__

    typer.echo(__version__)


def main() -> None:
    """Entry point: refusals become one message on stderr and exit code 1."""
    try:
        app()
    except CounterlogError as refusal:
        typer.echo(f"error: {refusal}", err=True)
        sys.exit(1)
    except OSError as cause:
        typer.echo(f"error: the output cannot be written ({cause.strerror or cause})", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
