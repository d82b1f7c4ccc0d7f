"""The commands about generative models: posttrain. Every class that has `tune()` is run the same way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from counterlog.cli.log_options import Json, Quiet, Seed
from counterlog.cli.printing import command_line, print_json, print_table, progress
from counterlog.core.errors import ConfigError, message

if TYPE_CHECKING:
    from counterlog.core.config import Config

SHOWN = (
    "step",
    "reward",
    "loss",
    "entropy",
    "kl_behaviour",
    "ess_tokens",
    "clip_positive",
    "clip_negative",
    "staleness",
)


def posttrain(
    slug: Annotated[
        str, typer.Argument(help="A system that tunes: counterlog systems --question posttrain.")
    ],
    model: Annotated[str, typer.Option(help="Model folder (save_pretrained) or Hugging Face name.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on where it stopped.")],
    log: Annotated[
        str | None, typer.Option(help="Log to learn from: JSONL, Parquet, a glob, a saved dataset.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts to sample from: rows with a column `prompt`.")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Reward function, module:function or file.py:function; may be repeated."),
    ] = None,
    preset: Annotated[str, typer.Option(help="A named setting of the system.")] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter as name=value; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Parameters as TOML.")] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb or mlflow; may be repeated.")
    ] = None,
    rng: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a generative model on a log, or on what it samples and a reward; write model, metrics and a page.

    Also under `accelerate launch -m counterlog posttrain ...`, on several processes or machines.
    """
    from counterlog.report.tuning_page import write_page
    from counterlog.studies.running import class_with_verb

    found = _system(slug)
    kind = class_with_verb(found)
    chosen = settings_of(found, kind.__name__, preset, config, settings or [])
    extra: dict[str, Any] = {"prompts": prompts, "reward": reward or None}
    tuned = kind(chosen).tune(
        model,
        log,
        rng=rng,
        out=out,
        command=command_line(),
        trackers=tracker or (),
        progress=progress(quiet),
        **{k: v for k, v in extra.items() if v is not None},
    )
    if not _is_main():
        return
    page = write_page(out)
    if as_json:
        print_json({"report": tuned.report.to_dict(), "page": str(page), "model": str(out / "model")})
        return
    every = max(1, len(tuned.report.metrics) // 12)
    rows = [{k: m.get(k) for k in SHOWN} for m in tuned.report.metrics]
    print_table(
        f"{slug}: {len(rows)} steps", rows[::every] + ([] if (len(rows) - 1) % every == 0 else rows[-1:])
    )
    typer.echo(page)


def _is_main() -> bool:
    """Whether this process writes: the first of `accelerate launch`'s, or the only one."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _system(slug: str) -> Any:
    from counterlog import index

    found = index.card(slug)
    if found.question != "posttrain":
        msg = message(
            f"{slug!r} answers {found.question!r} and tunes no model",
            hint="counterlog systems --question posttrain",
        )
        raise ConfigError(msg)
    return found


def settings_of(found: Any, name: str, preset: str, file: Path | None, options: list[str]) -> Config:
    """The configuration: a preset, over it the file, over that the options. Raises `ConfigError`."""
    from importlib import import_module

    kind: Any = getattr(import_module(found.module), f"{name}Config")
    if preset and not hasattr(kind, "preset"):
        msg = message(f"{found.slug!r} has no presets")
        raise ConfigError(msg)
    values = kind.preset(preset).to_dict() if preset else {}
    if file is not None:
        import tomllib

        named = set(tomllib.loads(file.read_text()))
        values |= {k: v for k, v in kind.from_toml(file.read_text()).to_dict().items() if k in named}
    if options:
        given = {o.partition("=")[0].strip().replace("-", "_") for o in options}
        values |= {k: v for k, v in kind.from_options(options).to_dict().items() if k in given}
    made: Config = kind.from_dict(values)
    return made
