"""`build_trajectories` turns a log of trajectories into one result: what the log can support, policies learnt from it,
what each would earn and how sure that is, and a verdict that says so when the log cannot tell them apart.

Nothing is sent anywhere. A run has a folder; repeated after a kill with the same log and settings it goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import CounterlogError
from counterlog.core.results import Estimate, Finding, Result
from counterlog.core.study import Clock, versions
from counterlog.estimate.selection_results import AdvicePoint
from counterlog.estimate.sharpe_ratio_at_k import SharpeRatioAtKConfig
from counterlog.report.trajectory_values import Lead, SelfCheck, Valued, with_others
from counterlog.report.wording import BASELINE

if TYPE_CHECKING:
    from counterlog.core.environments import MakeEnvironment
    from counterlog.core.neural_policies import NeuralPolicy
    from counterlog.report.trajectory_policies import Learnt

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]
PACKAGES = ("numpy", "scipy", "torch", "plotly")
LONGEST_GAMMA, AFTER_CUT = 0.99, 0.01
MOST_AWAY = 0.25


@dataclass(frozen=True, kw_only=True)
class TrajectoryReportConfig(Config):
    """What a report of a trajectory log may spend and assume."""

    learners: tuple[str, ...] = param((), "learners by name; empty: those that fit the log's actions")
    gamma: float | None = param(
        None, "discount a step; none: 0.99, or less where 1% of the discounted time would lie after the cuts",
        above=0, at_most=1,
    )  # fmt: skip
    steps: int = param(2000, "descent steps of each learner, and of fitted Q evaluation", at_least=1)
    seeds: int = param(1, "policies a learner and fold; the value is their mean", at_least=1)
    members: int = param(8, "networks a policy in fitted Q evaluation, an even number", at_least=4)
    hidden: tuple[int, ...] = param((64, 64), "hidden units a layer of every network", at_least=1)
    batch: int = param(128, "rows a step of every network", at_least=1)
    lr: float = param(1e-3, "Adam step size of the learners", above=0)
    level: float = param(0.95, "coverage of the intervals", above=0, below=1)
    starts: int = param(1000, "episodes played for a true value, where a simulator is given", at_least=1)

    def quick(self) -> TrajectoryReportConfig:
        """A first look in a fraction of the time: fewer steps and networks."""
        return replace(self, steps=min(self.steps, 800), members=min(self.members, 4))


@dataclass(frozen=True, kw_only=True)
class TrajectoryCard:
    """What was read."""

    trajectories: int
    rows: int
    shortest: int
    longest: int
    states: int
    actions: str
    propensity: bool
    terminated: int
    truncated: int
    mean_return: float
    best_return: float
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class LearntPolicy:
    """A policy of the report. `claim` is what its learner's own critic says it earns (NaN without a critic), `away` the
    share of its decisions that the log does not know, `files` where it was saved."""

    name: str
    about: str
    claim: float
    away: float
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrajectoryReport(Result):
    """Everything on the page. `n` counts trajectories; values are in `unit`. `truth` is by policy, where known."""

    n: int
    unit: str
    level: float
    rng: int
    gamma: float
    verdict: str
    told_apart: bool
    log: TrajectoryCard
    audit: tuple[Finding, ...]
    audit_verdict: str
    profile: tuple[dict[str, Any], ...]
    policies: tuple[LearntPolicy, ...]
    estimates: tuple[Estimate, ...]
    leads: tuple[Lead, ...]
    check: SelfCheck
    advice: tuple[AdvicePoint, ...]
    truth: dict[str, float]
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record an estimate, with the truth beside it where it is known."""
        return [
            {**record, **({"truth": self.truth[e.policy]} if e.policy in self.truth else {})}
            for e in self.estimates
            for record in e.records()
        ]

    def main(self, policy: str) -> Estimate:
        """The estimate that the verdict rests on."""
        return next(e for e in self.estimates if e.policy == policy)

    def html(self) -> str:
        """The page, one file that opens without a network."""
        from counterlog.report.trajectory_page import render_trajectories

        return render_trajectories(self)

    def plot(self) -> Any:
        """The estimates with their intervals, the truth beside them, as a plotly figure."""
        from counterlog.report.trajectory_page import value_figure

        return value_figure(self)


def default_gamma(log: Episodes) -> float:
    """0.99, or so that 1% of the discounted time of the longest trajectory lies after its cut."""
    if not log.truncated.any():
        return LONGEST_GAMMA
    return min(LONGEST_GAMMA, round(float(AFTER_CUT ** (1 / int(log.lengths.max()))), 3))


def build_trajectories(
    log: Episodes,
    config: TrajectoryReportConfig | None = None,
    *,
    low: Any = None,
    high: Any = None,
    simulator: MakeEnvironment | None = None,
    truth: Mapping[str, float] | None = None,
    reference: Episodes | None = None,
    random: float | None = None,
    best: float | None = None,
    rng: int = 0,
    folder: str | os.PathLike[str] | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> TrajectoryReport:
    """The report of a log of trajectories.

    low, high   bounds of continuous actions; [-1, 1], or the logged range, when not given
    simulator   `make(copies)` of the true environment: every learnt policy is played and its true value stands beside
    truth       values known otherwise, by policy (`logged` is the log's own)
    reference   a varied log of the same task, for the coverage SACo; `random`, `best` are mean returns for TQ
    folder      where states, policies and the result go; a stopped run goes on from there

    Raises `SupportError` when the log is too short to learn and judge, `LogError` for what is wrong in it.
    """
    from counterlog.report.trajectory_policies import (
        FOLDS,
        LEARNERS,
        away_from_log,
        chosen_learners,
        deployed,
        folds_of,
    )
    from counterlog.report.trajectory_verdict import barred_policies, speak

    c, clock, say = config or TrajectoryReportConfig(), Clock(), progress or (lambda _text, _share: None)
    log.need("reward")
    names, fold = chosen_learners(log, c.learners), folds_of(log, rng)
    gamma = default_gamma(log) if c.gamma is None else c.gamma
    place = None if folder is None else Path(folder)
    state = _state_folder(place, c, gamma, log, names, rng, low, high)
    say("auditing the log", 0.0)
    profile, findings, audit_verdict = audited(log, rng, reference=reference, random=random, best=best)
    learnt, pieces, played, away = [], [], [], np.zeros((FOLDS, len(names)))
    for k in range(FOLDS):
        made = _learn(log, fold, k, names, c, gamma, low, high, rng, state, say)
        learnt.append(made)
        players = {f"{name} {s}": deployed(made.policies[name], s) for name in names for s in range(c.seeds)}
        pieces.append(_value(log.take(fold == k), players, c, gamma, low, high, rng, state, k, say))
        played.append(players)
        for i, name in enumerate(names):
            away[k, i] = away_from_log(log, players[f"{name} 0"], low=low, high=high, rng=rng)
    groups = [(BASELINE, [0])] + [
        (name, list(range(1 + i * c.seeds, 1 + (i + 1) * c.seeds))) for i, name in enumerate(names)
    ]
    say("comparing the policies", 0.95)
    valued = Valued(log, fold, pieces, groups)
    estimates, leads, check = valued.estimates(c.level), valued.leads(c.level), valued.self_check()
    if log.discrete:
        estimates = with_others(
            estimates, valued, [dict(list(p.items())[:: c.seeds]) for p in played], c.level
        )
    known = dict(truth or {})
    if simulator is not None:
        say("playing the policies in the simulator", 0.96)
        known |= {n: _played(learnt, n, valued.share, simulator, gamma, c.starts, rng) for n in names}
    leads = [
        replace(x, true=known[x.first] - known[x.second]) if {x.first, x.second} <= set(known) else x
        for x in leads
    ]
    files = _save_policies(place, learnt)
    policies = tuple(
        LearntPolicy(
            name=name,
            about=LEARNERS[name].about,
            claim=float(sum(s * made.claims[name] for s, made in zip(valued.share, learnt, strict=True))),
            away=float(valued.share @ away[:, i]),
            files=files.get(name, ()),
        )
        for i, name in enumerate(names)
    )
    verdict, told = speak(valued, estimates, leads, check, policies, c.level)
    left_out = barred_policies({e.policy: e for e in reversed(estimates)}, policies)
    advice = valued.advice(SharpeRatioAtKConfig(level=c.level), rng, left_out=tuple(left_out))
    say("done", 1.0)
    return TrajectoryReport(
        n=log.n, unit=valued.unit, level=c.level, rng=rng, gamma=gamma, verdict=verdict, told_apart=told,
        log=card_of(log), audit=findings, audit_verdict=audit_verdict, profile=profile, policies=policies,
        estimates=tuple(estimates), leads=tuple(leads), check=check, advice=advice,
        truth={k: float(v) for k, v in known.items()},
        command=command or "counterlog.report.trajectory_report.build_trajectories(...)",
        settings={**c.to_dict(), "gamma": gamma, "learners": list(names), "rng": rng},
        versions={**versions(*PACKAGES), "counterlog": versions("counterlog")["counterlog"], "platform": sys.platform},
        seconds=clock.seconds(), notes=_notes(valued, c),
    )  # fmt: skip


def _learn(
    log: Episodes, fold: NDArray[np.int64], k: int, names: Sequence[str], c: TrajectoryReportConfig, gamma: float,
    low: Any, high: Any, rng: int, state: Path | None, say: Progress,
) -> Learnt:  # fmt: skip
    from counterlog.report.trajectory_policies import FOLDS, learn_outside

    shared = {
        "hidden": c.hidden,
        "batch": c.batch,
        "steps": c.steps,
        "lr": c.lr,
        "gamma": gamma,
        "seeds": c.seeds,
    }
    span = 0.9 / FOLDS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*never change in the log.*")
        return learn_outside(
            log, fold, k, names, shared=shared, low=low, high=high, rng=rng, folder=state,
            progress=lambda text, share: say(text, 0.03 + span * (k + 0.4 * share)),
        )  # fmt: skip


def _value(
    test: Episodes, players: Mapping[str, Any], c: TrajectoryReportConfig, gamma: float, low: Any, high: Any, rng: int,
    state: Path | None, k: int, say: Progress,
) -> Any:  # fmt: skip
    from counterlog.estimate.neural_marginal_weights import NeuralMarginalWeights, NeuralMarginalWeightsConfig
    from counterlog.report.trajectory_policies import FOLDS

    settings = NeuralMarginalWeightsConfig(
        gamma=gamma, hidden=c.hidden, members=c.members, steps=c.steps, batch=c.batch, level=c.level
    )
    span = 0.9 / FOLDS
    return NeuralMarginalWeights(settings).fit(
        test, {BASELINE: None, **players}, low=low, high=high, rng=rng,
        folder=None if state is None else state / f"fold-{k}" / "values",
        progress=lambda text, share: say(f"fold {k + 1} of {FOLDS}, {text}", 0.03 + span * (k + 0.4 + 0.6 * share)),
    )  # fmt: skip


def _played(
    learnt: Sequence[Learnt],
    name: str,
    share: Floats,
    simulator: MakeEnvironment,
    gamma: float,
    starts: int,
    rng: int,
) -> float:
    """The true value: both folds' policies, all seeds, from the same starts, discounted."""
    from counterlog.core.rl_evaluation import stacked_returns

    total = 0.0
    for made, weight in zip(learnt, share, strict=True):
        policy: NeuralPolicy = made.policies[name]
        each = max(1, starts // len(policy.seeds))
        _, discounted = stacked_returns(policy, simulator, starts=each, gamma=gamma, rng=50_021 + rng)
        total += float(weight) * float(discounted.mean())
    return total


def audited(
    log: Episodes, rng: int, **references: Any
) -> tuple[tuple[dict[str, Any], ...], tuple[Finding, ...], str]:
    """The profile of the log as rows, its findings and its verdict; what it cannot say is said."""
    from counterlog.audit.dataset_characteristics import DatasetCharacteristics

    try:
        found = DatasetCharacteristics().check(log, rng=rng, **references)
    except CounterlogError as refusal:
        return (), (), f"The audit refused: {str(refusal).splitlines()[0]}."
    return tuple(dict(row) for row in found.table()), tuple(found.findings), found.verdict


def card_of(log: Episodes) -> TrajectoryCard:
    """What was read."""
    returns = log.returns()
    return TrajectoryCard(
        trajectories=log.n,
        rows=log.rows,
        shortest=int(log.lengths.min()),
        longest=int(log.lengths.max()),
        states=0 if log.state.ndim == 1 else int(log.state.shape[1]),
        actions=f"{len(log.actions)} actions" if log.discrete else f"{log.action.shape[1]} continuous",
        propensity=log.log_propensity is not None,
        terminated=int(log.terminated.sum()),
        truncated=int(log.truncated.sum()),
        mean_return=float(returns.mean()),
        best_return=float(returns.max()),
        fingerprint=log.fingerprint,
    )


def _state_folder(
    place: Path | None,
    c: TrajectoryReportConfig,
    gamma: float,
    log: Episodes,
    names: Sequence[str],
    rng: int,
    low: Any,
    high: Any,
) -> Path | None:
    """The folder of this run's checkpoints: another log or other settings have another."""
    if place is None:
        return None
    said = json.dumps([c.to_dict(), gamma, log.fingerprint, list(names), rng, repr(low), repr(high)])
    found = place / "state" / hashlib.sha256(said.encode()).hexdigest()[:16]
    for other in (place / "state").glob("*"):
        if other != found and other.is_dir() and len(other.name) == 16:
            shutil.rmtree(other, ignore_errors=True)
    return found


def _save_policies(place: Path | None, learnt: Sequence[Learnt]) -> dict[str, tuple[str, ...]]:
    """The learnt policies as files; both of a learner make its policy."""
    if place is None:
        return {}
    files: dict[str, tuple[str, ...]] = {}
    for made in learnt:
        for name, policy in made.policies.items():
            path = policy.save(place / "policies" / f"{name}-{made.fold + 1}.safetensors")
            files[name] = (*files.get(name, ()), str(path.relative_to(place)))
    return files


def _notes(valued: Valued, c: TrajectoryReportConfig) -> tuple[str, ...]:
    notes = [
        "Each learner made one policy from each half of the trajectories; each was valued on the other half. The "
        "policy that the numbers speak of tosses a coin for one of the two before every trajectory.",
        "Intervals hold the error of the trajectories and of the fits. They do not hold what the networks believe "
        "about actions that the log never shows.",
    ]
    if not math.isclose(valued.tail, 0.0, abs_tol=0.02):
        notes.append(
            f"{valued.tail:.0%} of the discounted time lies after the cuts, where only the networks' values speak."
        )
    if c.seeds == 1:
        notes.append(
            "One seed a learner: another seed makes another policy, whose value is not in the interval."
        )
    return tuple(notes)
