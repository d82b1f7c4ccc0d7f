"""All answers for one reward: learn, value, compare, and ask what the answer hangs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.crossfit import FoldModel, reward_model
from counterlog.core.errors import CounterlogError, SupportError
from counterlog.core.estimators import Estimator
from counterlog.core.evaluate import Evaluation, evaluate
from counterlog.core.policies import Policy, Table, parse_policy
from counterlog.core.results import Estimate
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy
from counterlog.report.contest import Comparison, Contest, contest, rough_gaps
from counterlog.report.deployment import AtK, RiskPoint, at_k, risk_points
from counterlog.report.disagreement import Disagreement, disagreements
from counterlog.report.holdout import HoldoutPart, holdout_part
from counterlog.report.learnt import Learnt, describe, learn
from counterlog.report.model_sway import ModelSway, model_sway
from counterlog.report.segments import REST, SegmentGap, segment_codes, segment_gaps
from counterlog.report.sway import Sway, own_influence, sway, terms
from counterlog.report.verdict import next_test, sentences
from counterlog.report.wording import BASELINE, BEST_FIXED

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """What is the same for every reward. `frozen`: the candidates were fixed before any answer was seen."""

    candidates: tuple[Policy | str, ...]
    estimators: tuple[Estimator, ...]
    frozen: bool
    beside: tuple[Estimate, ...]
    trust: str
    level: float
    model: Any
    rng: int


@dataclass(frozen=True, kw_only=True)
class RewardReport:
    """All answers for one reward.

    `estimates` are those on the whole log, `beside` what is known from elsewhere, `segments` the main estimates by
    segment, `ranking` the main estimates of the policies that could be compared, best first; `rough` has those that
    could not, as a guide for planning only.
    `against_logged` (each minus what was done) and `best_against` (the best minus each other) have intervals that hold
    together. `best_single` holds the actions that stand for the best single action, by share of the decisions. Parts
    that the log cannot answer are empty or None.
    """

    reward: str
    unit: str
    verdict: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    beside: tuple[Estimate, ...]
    segments: tuple[Estimate, ...]
    ranking: tuple[Estimate, ...]
    against_logged: tuple[Comparison, ...]
    best_against: tuple[Comparison, ...]
    rough: tuple[Comparison, ...]
    disagreements: tuple[Disagreement, ...]
    risk: tuple[RiskPoint, ...]
    at_k: tuple[AtK, ...]
    learnt: Learnt | None
    by_segment: tuple[SegmentGap, ...]
    sway: Sway | None
    model_sway: ModelSway | None
    holdout: HoldoutPart | None
    best_single: dict[str, float]
    notes: tuple[str, ...] = ()


def reward_report(
    log: Rounds, settings: RewardSettings, *, index: int, say: Callable[[str, float], None]
) -> RewardReport:
    """The answers for the log's primary reward; `say` is told what is being done."""
    c = settings
    say("learning a policy", 0.0)
    learnt, notes = _learn(log, c)
    made = [_parsed(p, log, c.rng) for p in c.candidates]
    policies = [*made, *([learnt[0]] if learnt else [])]
    say("fitting the reward model", 0.25)
    q = None
    models: list[FoldModel] = []
    if any(e.needs_model for e in c.estimators):
        q = reward_model(log, model=c.model, rng=c.rng, kept=models)
    say("valuing policies", 0.6)
    valued = _evaluated(log, policies, c, q)
    held = _contest(valued, c)
    say("asking what the answer hangs on", 0.8)
    leader = _leader(held)
    points = risk_points(held) if held else ()
    swayed = _sway(log, policies, held, leader, q, models, c) if held and leader else (None, None)
    rough = rough_gaps(valued.estimates, valued.table, level=c.level)
    return RewardReport(
        reward=log.reward_name,
        unit=log.reward_unit,
        verdict=sentences(
            held, valued.estimates, rough, trust=c.trust, next_test=next_test(held, points) if held else ""
        ),
        estimates=tuple(e for e in valued.estimates if not e.segment),
        beside=tuple(e for e in c.beside if e.reward in ("", log.reward_name)),
        segments=_segments(log, valued.estimates, held),
        ranking=held.estimates if held else (),
        against_logged=_against_logged(held),
        best_against=tuple(held.compare(held.names[0], p) for p in held.names[1:]) if held else (),
        rough=rough,
        disagreements=disagreements(valued.estimates, valued.table, level=c.level),
        risk=points,
        at_k=at_k(held, level=c.level) if held else (),
        learnt=describe(log, *learnt, held, valued.table, index=index, level=c.level) if learnt else None,
        by_segment=segment_gaps(log, held, valued.table, leader, BASELINE, level=c.level)
        if held and leader
        else (),
        sway=swayed[0],
        model_sway=swayed[1],
        holdout=holdout_part(log, _reliable(policies, held), frozen=c.frozen, level=c.level, rng=c.rng),
        best_single=_chosen(log, made),
        notes=notes,
    )


def _chosen(log: Rounds, policies: Sequence[Policy | str]) -> dict[str, float]:
    """Which single action was best on the other folds: shares of the decisions, largest first."""
    for policy in policies:
        if isinstance(policy, Table) and policy.name == BEST_FIXED:
            share = policy.matrix.mean(axis=0)
            return {str(log.actions[a]): float(share[a]) for a in np.argsort(-share) if share[a] > 0}
    return {}


def _learn(log: Rounds, c: RewardSettings) -> tuple[tuple[Table, SoftmaxPolicy] | None, tuple[str, ...]]:
    """The learnt policy, or why there is none."""
    if not log.context_columns:
        return None, ("No policy was learnt: the log names no context columns to decide by.",)
    try:
        return learn(log, rng=c.rng), ()
    except CounterlogError as cause:
        return None, (f"No policy was learnt: {str(cause).splitlines()[0]}.",)


def _parsed(policy: Policy | str, log: Rounds, rng: int) -> Policy | str:
    """The policy itself; a specification that the log cannot support stays text, to be recorded with its reason."""
    if not isinstance(policy, str):
        return policy
    try:
        return parse_policy(policy, log, rng=rng)
    except SupportError:
        return policy


def _evaluated(
    log: Rounds, policies: Sequence[Policy | str], c: RewardSettings, q: Floats | None
) -> Evaluation:
    return evaluate(
        log,
        policies,
        c.estimators,
        rewards=(log.reward_name,),
        level=c.level,
        q=None if q is None else {log.reward_name: q},
        on_error="record",
        rng=c.rng,
    )


def _contest(valued: Evaluation, c: RewardSettings) -> Contest | None:
    """The contest, or None when no policy has a value."""
    try:
        return contest(valued.estimates, valued.table, level=c.level, rng=c.rng)
    except SupportError:
        return None


def _reliable(policies: Sequence[Policy | str], held: Contest | None) -> list[Policy | str]:
    """The policies with a valid value: half of the log says nothing of the others."""
    names = set(held.names) if held else set()
    return [p for p in policies if not isinstance(p, str) and p.name in names]


def _leader(held: Contest | None) -> str:
    """The best candidate besides what was done, or "" when there is none to compare."""
    if held is None or BASELINE not in held.names:
        return ""
    return next((name for name in held.names if name != BASELINE), "")


def _against_logged(held: Contest | None) -> tuple[Comparison, ...]:
    """Every policy minus what was done, best first."""
    if held is None or BASELINE not in held.names:
        return ()
    return tuple(held.compare(name, BASELINE) for name in held.names if name != BASELINE)


def _segments(log: Rounds, estimates: Sequence[Estimate], held: Contest | None) -> tuple[Estimate, ...]:
    """The main estimates within frequent segments."""
    main = {(c.policy, c.estimator) for c in held.cells} if held else set()
    shown = {
        f"{column}={name}"
        for column in log.segment_columns
        for name in segment_codes(log, column)[1]
        if name != REST
    }
    return tuple(e for e in estimates if e.segment in shown and (e.policy, e.estimator) in main)


def _sway(
    log: Rounds,
    policies: Sequence[Policy | str],
    held: Contest,
    leader: str,
    q: Floats | None,
    models: Sequence[FoldModel],
    c: RewardSettings,
) -> tuple[Sway, ModelSway | None]:
    """What sways the leader's difference to what was done, by the rows' own terms and through the reward model."""
    by_name = {p.name: p for p in policies if not isinstance(p, str)}
    by_label = {e.label: e for e in c.estimators}
    found = []
    for name in (leader, BASELINE):
        estimator = by_label[held.cell(name).estimator]
        found.append((name, terms(log, by_name[name], estimator, q, rng=c.rng)))
    by, unit = held.cell(leader).estimator, log.reward_unit
    own = own_influence(found[0][1], found[1][1])
    pair = by_name[leader], by_name[BASELINE]
    through = model_sway(log, *pair, models, own, estimator=by, unit=unit) if models else None
    return sway(log, *found, estimator=by, unit=unit), through
