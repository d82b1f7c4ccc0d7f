"""The options that describe a log on the command line, and the log they describe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterlog.core.errors import ConfigError, message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from counterlog.core.column_predictions import ColumnPredictions
    from counterlog.core.estimators import Estimator
    from counterlog.core.policies import Policy
    from counterlog.core.results import Estimate
    from counterlog.core.rounds import Rounds

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
Engine = Annotated[
    str | None,
    typer.Option(
        help="Who scans the log: polars, duckdb, dask, spark, or spark://HOST:PORT (Parquet files)."
    ),
]
Estimators = Annotated[str | None, typer.Option(help="Names separated by commas, such as IPS,SNIPS,DR.")]
Level = Annotated[float, typer.Option(help="Coverage of the intervals.", min=0.5, max=0.999)]
Model = Annotated[str, typer.Option(help="Reward model: boosting or linear.")]
Seed = Annotated[int, typer.Option("--rng", help="The one seed of everything random.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


def read_log(options: dict[str, Any]) -> Rounds:
    """The log that the options describe; the bundled one when nothing was named."""
    from counterlog.core.rounds import Rounds

    path, example = options["log"], options["example"]
    if path is None:
        return _example(example or "hillstrom", options)
    if options["action"] is None or not options["reward"]:
        msg = message("a log needs --action and --reward", hint="counterlog report LOG --action A --reward R")
        raise ConfigError(msg)
    units = dict(_pair(u) for u in options["reward_unit"] or ())
    rewards = {r: units.get(r, r) for r in options["reward"]}
    return Rounds(path, **_roles(options), reward=rewards, engine=options.get("engine"))


def read_sample(log: Rounds, say: Callable[[str, float], None]) -> Rounds:
    """The log itself, or a sample of its units when it has more rows than memory should hold."""
    from counterlog.core.row_sample import row_sample

    small = row_sample(log)
    if small is not log:
        say(f"reading a sample: {small.n:,} of {log.n:,} rows, whole units", 0.0)
    return small


def _roles(options: dict[str, Any]) -> dict[str, Any]:
    """The roles that were named, reward apart, as `Rounds` takes them."""
    propensity = options["propensity"]
    if propensity is not None and re.fullmatch(r"[-+.\deE]+", propensity):
        propensity = float(propensity)
    roles = {
        "action": options["action"],
        "propensity": propensity,
        "context": split(options["context"]),
        "segment": split(options["segment"]),
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


def example_candidates(
    path: str | None, example: str | None, named: Sequence[str], level: float
) -> tuple[list[str | Policy], list[Estimate]]:
    """The candidates of a report, and values known from elsewhere: what the Thompson policy earned in its own log."""
    if path is not None or example != "open-bandit" or named:
        return list(named), []
    from counterlog.datasets.examples import Thompson

    thompson = Thompson()
    return [thompson, "uniform"], [thompson.earned(level=level)]


def split(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(t.strip() for t in text.split(",") if t.strip()) if text else ()


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        msg = message(f"{text!r} has no '='", expected="NAME=UNIT, such as spend='US dollars'")
        raise ConfigError(msg)
    return name, value


def read_bounds(text: str | None) -> tuple[float, float] | None:
    """LO,HI as numbers. Raises `ConfigError`."""
    if text is None:
        return None
    try:
        lo, hi = (float(t) for t in text.split(","))
    except ValueError as cause:
        msg = message(f"bounds {text!r} cannot be read", expected="LO,HI, such as 0,3")
        raise ConfigError(msg) from cause
    return lo, hi


def read_predictions(
    logged: str | None, values: Sequence[str], rewards: Sequence[str]
) -> dict[str, ColumnPredictions] | None:
    """The columns that hold predictions, of the log's one reward. Raises `ConfigError`."""
    from counterlog.core.column_predictions import ColumnPredictions

    if logged is None:
        if values:
            msg = message("--v was given without --q", hint="--q names the prediction of the logged action")
            raise ConfigError(msg)
        return None
    if len(rewards) > 1:
        msg = message(f"--q predicts one reward, and the log has {len(rewards)}", hint="name one --reward")
        raise ConfigError(msg)
    named = {}
    for text in values:
        policy, sign, name = text.rpartition("=")
        if not sign:
            msg = message(f"--v {text!r} has no '='", expected="POLICY=COLUMN, such as column:new=v_new")
            raise ConfigError(msg)
        named[policy] = name
    return {rewards[0]: ColumnPredictions(logged, named)}


def read_estimators(names: str | None, settings: Sequence[str]) -> list[Estimator]:
    """Estimators by name, each with its settings `NAME.parameter=value`. Raises `ConfigError` for a name not
    asked for."""
    from counterlog.core.evaluate import make_estimator

    wanted = split(names)
    own: dict[str, list[str]] = {name: [] for name in wanted}
    for setting in settings:
        name, dot, rest = setting.partition(".")
        if not dot or name not in own:
            msg = message(
                f"setting {setting!r} names no estimator of --estimators", expected="NAME.parameter=value"
            )
            raise ConfigError(msg)
        own[name].append(rest)
    return [make_estimator(name, options) for name, options in own.items()]
