"""Run a study, or fit a system, by its slug: what the commands `study` and `learn` call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from counterlog.core.config import Config
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message
from counterlog.core.results import Result
from counterlog.core.rounds import Rounds
from counterlog.core.study import Study
from counterlog.index import ROOT, Card, card

RESULTS = ROOT / "studies" / "results"


def studies() -> tuple[str, ...]:
    """Slugs that have a study."""
    own = {"__init__", "running"}
    files = sorted(p.stem for p in (ROOT / "studies").glob("*.py") if p.stem not in own)
    return tuple(name.replace("_", "-") for name in files)


def run_study(slug: str, *, full: bool = False, rng: int = 0) -> Study:
    """Run it; a full run's result is saved beside the committed ones. Raises `ConfigError` for an unknown slug."""
    if slug.replace("_", "-") not in studies():
        msg = message(f"there is no study {slug!r}", expected=f"one of {', '.join(studies())}")
        raise ConfigError(msg)
    name = slug.replace("-", "_")
    result: Study = import_module(f"counterlog.studies.{name}").run(full=full, rng=rng)
    if full:
        result.save(RESULTS / f"{name.replace('_', '-')}.json")
    return result


def fit_system(
    slug: str, log: Rounds, *, config: Path | None, options: Sequence[str], rng: int, out: Path
) -> tuple[list[dict[str, Any]], Path]:
    """Fit a system that learns a policy; save the policy to `out`, and its report, if it has one, beside it as JSON.

    Returns the report's records (else the policy's name and the rows) and the path of the policy.

    Raises `ConfigError` when the system has no policy to save.
    """
    found = card(slug)
    if found.question not in ("learn", "rank", "online"):
        msg = message(
            f"{slug!r} answers {found.question!r} and learns no policy",
            hint="counterlog systems --question learn",
        )
        raise ConfigError(msg)
    learner = _configured(found, config, options)
    result = getattr(learner, found.verb)(log, rng=rng)
    policy = getattr(result, "policy", result)
    if not hasattr(policy, "save"):
        msg = message(f"the policy of {slug!r} cannot be saved as a file", hint="use it from Python")
        raise ConfigError(msg)
    saved: Path = policy.save(out)
    report = getattr(result, "report", None)
    if not isinstance(report, Result):
        return [{"policy": policy.name, "rows": log.n}], saved
    report.save(out.with_suffix(".json"))
    return report.records(), saved


def fit_episodes(
    slug: str,
    log: Episodes,
    *,
    bounds: tuple[float, float] | None,
    config: Path | None,
    options: Sequence[str],
    rng: int,
    out: Path,
    folder: Path | None,
    progress: Callable[[str, float], None] | None,
) -> tuple[list[dict[str, Any]], Path]:
    """Fit a system that learns from trajectories; save its policies to `out` and its report beside them as JSON.

    `bounds` are those of continuous actions; `folder` keeps checkpoints, from which a stopped run goes on. Returns the
    last record of each seed and the path of the policies.
    """
    found = card(slug)
    learner = _configured(found, config, options)
    low, high = bounds or (None, None)
    fit = getattr(learner, found.verb)  # learners that act as well improve from a log alone
    policy = fit(log, rng=rng, low=low, high=high, folder=folder, progress=progress)
    saved: Path = policy.save(out)
    policy.report.save(out.with_suffix(".json"))
    last: dict[Any, dict[str, Any]] = {row.get("seed"): row for row in policy.report.records()}
    return list(last.values()), saved


def improve_in(
    slug: str,
    environment: str,
    *,
    log: Path | None,
    config: Path | None,
    options: Sequence[str],
    rng: int,
    out: Path,
    folder: Path | None,
    progress: Callable[[str, float], None] | None,
) -> tuple[list[dict[str, Any]], Path]:
    """Improve a policy in a Gymnasium environment; save the policies to `out` and the report beside them as JSON.

    Returns the last record of each seed and the path. Raises `ConfigError` for a system that does not act.
    """
    found = card(slug)
    if found.question != "online" or "environment" not in found.fields["Data"]:
        msg = message(f"{slug!r} does not act in an environment", hint="counterlog systems --question online")
        raise ConfigError(msg)
    learner = _configured(found, config, options)
    more: dict[str, Any] = {}
    if log is not None:
        if "Episodes" not in found.data:
            raise ConfigError(message(f"{slug!r} keeps no replay, so it reads no log", hint="use sac"))
        from counterlog.core.episode_files import read_episodes

        more["log"] = read_episodes(log)
    policy = learner.improve(environment, rng=rng, folder=folder, progress=progress, **more)
    saved: Path = policy.save(out)
    policy.report.save(out.with_suffix(".json"))
    last: dict[Any, dict[str, Any]] = {row.get("seed"): row for row in policy.report.records()}
    return list(last.values()), saved


def record_policy(saved: Path, environment: str, out: Path, episodes: int, *, rng: int) -> Path:
    """Play the first seed of saved policies for `episodes` episodes and write them, with propensities, to a .npz."""
    from counterlog.core.environments import GymnasiumEnvironment, record_episodes
    from counterlog.core.neural_policies import NeuralPolicy
    from counterlog.core.recorded_play import playing

    copies = min(episodes, 10)
    rounds = -(-episodes // copies)
    log = record_episodes(
        GymnasiumEnvironment(environment, copies), playing(NeuralPolicy.load(saved)), rng=rng, rounds=rounds
    )
    return log.take(list(range(episodes))).to_npz(out)


def click_learner(slug: str, *, config: Path | None, options: Sequence[str]) -> Any:
    """A system that learns a ranker from `Clicks`, configured. Raises `ConfigError` when it reads something else."""
    found = card(slug)
    if found.question != "rank" or "Clicks" not in found.data:
        msg = message(f"{slug!r} learns no ranker from clicks", hint="counterlog systems --data Clicks")
        raise ConfigError(msg)
    return _configured(found, config, options)


def _configured(found: Card, config: Path | None, options: Sequence[str]) -> Any:
    """The system of a card, with parameters from a TOML file and, over them, from options."""
    kind = class_with_verb(found)
    settings = _settings(found, kind.__name__, config, options)
    return kind(settings) if settings is not None else kind()


def class_with_verb(found: Card) -> Any:
    """The class of the file that has the question's verb."""
    module = import_module(found.module)
    for name in found.classes:
        if hasattr(getattr(module, name), found.verb):
            return getattr(module, name)
    msg = message(f"{found.slug!r} has no class with {found.verb}()")
    raise ConfigError(msg)


def _settings(found: Card, name: str, config: Path | None, options: Sequence[str]) -> Config | None:
    module = import_module(found.module)
    kind: type[Config] | None = getattr(module, f"{name}Config", None)
    if kind is None:
        if options or config:
            msg = message(f"{found.slug!r} has no parameters")
            raise ConfigError(msg)
        return None
    from_file = kind.from_toml(config.read_text()).to_dict() if config else {}
    given = kind.from_options(options).to_dict() if options else {}
    named = {o.partition("=")[0].strip().replace("-", "_") for o in options}
    return kind.from_dict({**from_file, **{k: v for k, v in given.items() if k in named}})
