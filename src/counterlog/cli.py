"""The command line: every command is one call of the library. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 refused or failed, 2 bad usage.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterlog.core.errors import ConfigError, CounterlogError, message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from counterlog.core.rounds import Rounds

app = typer.Typer(
    name="counterlog",
    help="Learn, evaluate and decide from logged data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Named real data: list, get, make.", no_args_is_help=True)
app.add_typer(data_app, name="data")

LogPath = Annotated[
    str | None, typer.Argument(help="Parquet, CSV or JSONL path or glob, or database.duckdb::table.")
]
Action = Annotated[str | None, typer.Option(help="Column of the logged action.")]
Reward = Annotated[list[str] | None, typer.Option(help="Reward column; may be repeated.")]
RewardUnit = Annotated[
    list[str] | None, typer.Option(help="Unit of a reward, as spend='US dollars'; may be repeated.")
]
Propensity = Annotated[
    str | None, typer.Option(help="Column, a number, 'uniform', or 'estimate' (from the context).")
]
Context = Annotated[str | None, typer.Option(help="Columns known before the decision, separated by commas.")]
Unit = Annotated[str | None, typer.Option(help="Column of whose decisions belong together, such as a user.")]
Time = Annotated[str | None, typer.Option(help="Column of when the decision was made.")]
Segment = Annotated[str | None, typer.Option(help="Columns to split results by, separated by commas.")]
Position = Annotated[str | None, typer.Option(help="Column of the decision's slot in its page.")]
Available = Annotated[str | None, typer.Option(help="Column listing the actions that could be taken.")]
Delay = Annotated[str | None, typer.Option(help="Column of the reward's delay; empty means not yet known.")]
Example = Annotated[str | None, typer.Option(help="A bundled log instead of LOG: hillstrom or open-bandit.")]
PolicySpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        help="Candidate: logged, uniform, always:ACTION, best-fixed, column:NAME, python:module:function, "
        "file:POLICY; may be repeated.",
    ),
]
Estimators = Annotated[str | None, typer.Option(help="Names separated by commas, such as IPS,SNIPS,DR.")]
Level = Annotated[float, typer.Option(help="Coverage of the intervals.", min=0.5, max=0.999)]
Model = Annotated[str, typer.Option(help="Reward model: boosting or linear.")]
Seed = Annotated[int, typer.Option("--rng", help="The one seed of everything random.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


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

    rounds = _log(locals(), bundled=True)
    made = build(
        rounds,
        policies=policy or (),
        estimators=_split(estimators),
        level=level,
        model=model,
        rng=rng,
        command=_command_line(),
        progress=_progress(quiet),
    )
    page = made.write(out)
    if as_json:
        _print_json(made.to_json_content())
    else:
        console = _console()
        console.print(made.verdict, highlight=False, markup=False)
        console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


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
    add: Annotated[list[Path] | None, typer.Option(help="Saved result to add (yesterday's).")] = None,
    save: Annotated[Path | None, typer.Option(help="Save the result here, to be added to later.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Value candidate policies on a decision log, with intervals."""
    from counterlog.audit.decision_log import audit as run_audit
    from counterlog.core.evaluate import Evaluation, evaluate
    from counterlog.report.verdict import summary

    rounds = _log(locals(), bundled=True)
    say = _progress(quiet)
    say("estimating", 0.0)
    result = evaluate(
        rounds,
        policy or ("logged", "uniform", "best-fixed"),
        _split(estimators),
        level=level,
        interval=interval,
        bounds=_bounds(bounds),
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
        _print_json(_content(result.n, result.records(), [f.to_dict() for f in findings], verdict))
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
    _print_table(f"{result.n:,} rows, {level:.0%} intervals ({interval})", rows)
    _console().print(verdict, highlight=False, markup=False)


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

    rounds = _log(locals(), bundled=True)
    _progress(quiet)("auditing", 0.0)
    result = run_audit(rounds, policy or (), rng=rng)
    if as_json:
        _print_json(_content(rounds.n, [], [f.to_dict() for f in result.findings], result.verdict))
        return
    rows = [
        {"severity": f.severity, "check": f.check, "finding": f.message, "remedy": f.remedy}
        for f in result.findings
    ]
    _print_table(f"{rounds.n:,} rows", rows)
    _console().print(result.verdict, highlight=False, markup=False)


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

    rounds = _log(locals(), bundled=True)
    _progress(quiet)(f"learning with {system}", 0.0)
    result, saved = fit_system(system, rounds, config=config, options=set_ or (), rng=rng, out=out)
    if as_json:
        _print_json({"n": rounds.n, "system": system, "policy": str(saved), "result": result})
        return
    _print_table(f"{system} on {rounds.n:,} rows", result)
    _console().print(f"policy: {saved}", highlight=False, markup=False, soft_wrap=True)


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
        _print_json(rows)
    else:
        _print_table(f"{len(rows)} systems", rows)


@app.command()
def show(slug: str, as_json: Json = False) -> None:
    """Print one system's card and its parameters."""
    from importlib import import_module

    from counterlog import index

    card = index.card(slug)
    module = import_module(card.module)
    parameters = {name: getattr(module, name).describe() for name in card.configs}
    if as_json:
        _print_json({"slug": card.slug, "title": card.title, "card": card.fields, "parameters": parameters})
        return
    console = _console()
    console.print(f"{card.slug} ({card.question}): {card.title}", highlight=False, markup=False)
    for label, text in card.fields.items():
        console.print(f"\n{label}\n  {text}", highlight=False, markup=False)
    console.print(f"\nModule\n  {card.module}: {', '.join(card.classes)}", highlight=False, markup=False)
    for name, rows in parameters.items():
        _print_table(name, rows)


@app.command()
def study(
    slug: str,
    full: Annotated[bool, typer.Option("--full", help="Paper-sized run; saves the result.")] = False,
    rng: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a system's study; exits 0 only when every stated claim held."""
    from counterlog.studies.running import run_study

    result = run_study(slug, full=full, rng=rng)
    if as_json:
        _print_json(result.to_dict())
    else:
        for table in result.tables:
            _print_table(f"{table.title} ({table.unit})" if table.unit else table.title, list(table.rows))
        _print_table("claims", result.records())
        for note in result.notes:
            _console().print(note, highlight=False, markup=False)
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
        _print_json(rows)
    else:
        _print_table(f"{len(rows)} data sets", rows)


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
        _print_json(rows)
    else:
        _print_table("counterlog doctor", rows)
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


def _log(options: dict[str, Any], *, bundled: bool) -> Rounds:
    """The log that the options describe; the bundled one when nothing was named."""
    from counterlog.core.rounds import Rounds

    path, example = options["log"], options["example"]
    if path is None and bundled:
        return _example(example or "hillstrom", options)
    if options["action"] is None or not options["reward"]:
        msg = message("a log needs --action and --reward", hint="counterlog report LOG --action A --reward R")
        raise ConfigError(msg)
    units = dict(_pair(u) for u in options["reward_unit"] or ())
    return Rounds(path, **_roles(options), reward={r: units.get(r, r) for r in options["reward"]})


def _roles(options: dict[str, Any]) -> dict[str, Any]:
    """The roles that were named, reward apart, as `Rounds` takes them."""
    propensity = options["propensity"]
    if propensity is not None and re.fullmatch(r"[-+.\deE]+", propensity):
        propensity = float(propensity)
    roles = {
        "action": options["action"],
        "propensity": propensity,
        "context": _split(options["context"]),
        "segment": _split(options["segment"]),
        **{k: options[k] for k in ("unit", "time", "position", "available", "delay")},
    }
    return {k: v for k, v in roles.items() if v not in (None, ())}


def _example(name: str, options: dict[str, Any]) -> Rounds:
    from counterlog.datasets import examples

    roles = _roles(options)
    if options["reward"]:
        roles["reward"] = options["reward"]
    if name == "hillstrom":
        return examples.hillstrom(**roles)
    if name == "open-bandit":
        return examples.open_bandit(**roles)
    msg = message(f"there is no bundled log {name!r}", expected="hillstrom or open-bandit")
    raise ConfigError(msg)


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(t.strip() for t in text.split(",") if t.strip()) if text else ()


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        msg = message(f"{text!r} has no '='", expected="NAME=UNIT, such as spend='US dollars'")
        raise ConfigError(msg)
    return name, value


def _bounds(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        lo, hi = (float(t) for t in text.split(","))
    except ValueError as cause:
        msg = message(f"bounds {text!r} cannot be read", expected="LO,HI, such as 0,3")
        raise ConfigError(msg) from cause
    return lo, hi


def _content(n: int, policies: Sequence[Any], findings: Sequence[Any], verdict: str) -> dict[str, Any]:
    return {"n": n, "policies": policies, "audit": findings, "verdict": verdict}


def _command_line() -> str:
    import shlex

    return shlex.join(["counterlog", *sys.argv[1:]])


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _progress(quiet: bool) -> Callable[[str, float], None]:
    """A callback (what is done now, share done) that writes to stderr."""
    if quiet:
        return lambda what, share: None
    console = _console(stderr=True)
    return lambda what, share: console.print(f"[{share:4.0%}] {what}", highlight=False, markup=False)


def _print_json(content: Any) -> None:
    from counterlog.core.results import plain

    typer.echo(json.dumps(plain(content), indent=1, allow_nan=False, default=str))


def _print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Records as a table on stdout; a column that is empty in every row is left out."""
    from rich.markup import escape
    from rich.table import Table

    from counterlog.core.results import show

    names = [
        k for k in dict.fromkeys(k for r in rows for k in r) if any(r.get(k) not in (None, "") for r in rows)
    ]
    table = Table(title=escape(title), title_justify="left")
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(show(row.get(name))) for name in names))
    _console().print(table)


if __name__ == "__main__":
    main()
