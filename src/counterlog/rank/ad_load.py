"""Ad load: how many ads each feed fetch gets, so that revenue and satisfaction both rise, learnt from a log.

Use when    a log holds fetches with some randomised ad loads, and both what they earned and how visitors took it.
Not when    every load was chosen with certainty, or loads change later fetches (see `carry_over`: then value sessions).
Data        Rounds(action as whole numbers, reward several, propensity, context); unit, segment, position, time,
            available and delay are used when given; session and inventory-limit columns are named in the config
Paper       Sagtani, Jhawar, Mehrotra and Jeunen (WSDM 2024), Ad-load Balancing via Off-policy Learning in a Content
            Marketplace. The paper's equations could not be read; those below are the standard ones it names.
Equation    G_s = sum_j c_j r_j over satisfaction rewards, G_r over revenue rewards (winsorised)              (1)
            R = a_s G_s / sd(G_s) + a_r G_r / sd(G_r)   (sd = 1 with scale raw)                               (2)
            pi = argmax over softmax policies of J(R) by DR, SNIPS, IPS or BanditNet (`learn.softmax_policy`)   (3)
            front: (3) for a_r / a_s on a logarithmic grid; all values recombined from J of each r_j
            floor: the most revenue among policies with  LCB[J_s(pi) - J_s(log)] >= floor |J_s(log)|          (4)
Shapes      action, rewards, propensity (n,) | q, policies (n, levels)
Units       values: of each reward as logged, per fetch | weights (2): per standard deviation, or raw
Raises      LogError: negative revenue, repeated fetches, loads above the limit, segments that depend on the load,
            satisfaction that never varies | PropensityError: levels whose 1/p does not average to 1 | SupportError:
            a deterministic log | ConfigError: a reward that is not in the log or stands in both groups
Builds on   softmax-policy, carry-over
Differs     paper: production traffic and unpublished settings. Ours: values are cross-fitted, with the policy and the
            reward models learnt on other users; static, segment and model-greedy baselines are valued beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from counterlog.core.config import param
from counterlog.core.crossfit import folds_of, splits
from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.features import Encoder
from counterlog.core.numpy_nets import scores
from counterlog.core.policies import Policy, Table, checked_probs
from counterlog.core.propensity import estimate_propensity
from counterlog.core.results import Finding
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy, softmax
from counterlog.learn.softmax_policy import (
    HELD_OUT,
    Lesson,
    SoftmaxLearnerConfig,
    choose,
    train,
    without_unlogged,
)
from counterlog.rank import load_rules
from counterlog.rank.ad_load_checks import check_log, matured, sudden_drop, with_limits
from counterlog.rank.ad_load_models import predictions, winsorised
from counterlog.rank.ad_load_report import (
    LEARNT,
    NONE,
    AdLoadReport,
    LearntLoad,
    heavy_tail,
    plan_test,
)
from counterlog.rank.carry_over import CarryOver
from counterlog.rank.pareto_front import front, keeps
from counterlog.rank.value_components import Components, Terms

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
ESTIMATORS = ("DR", "SNIPS", "IPS", "DM")
LOGGED, SEGMENT, GREEDY = "logged", "segment rule", "model greedy"


@dataclass(frozen=True, kw_only=True)
class AdLoadConfig(SoftmaxLearnerConfig):
    """Settings of `AdLoad`; those of the learner (3) included."""

    satisfaction: tuple[str, ...] = param(
        (), "satisfaction rewards, as name or name:coefficient (1); all others when empty"
    )
    revenue: tuple[str, ...] = param(("revenue",), "revenue rewards, as name or name:coefficient (1)")
    satisfaction_weight: float = param(1.0, "a_s in (2)", at_least=0)
    revenue_weight: float = param(1.0, "a_r in (2)", at_least=0)
    scale: str = param("sd", "weights per standard deviation, or of the raw sums (2)", choices=("sd", "raw"))
    floor: float | None = param(
        None, "choose from the front by (4): -0.002 lets satisfaction fall by 0.2%", unit="share of logged"
    )
    alpha: float = param(0.05, "chance that the bound of (4) is wrong", above=0, below=1)
    front: int = param(8, "trade-offs on the front; 0 learns one policy", at_least=0)
    spread: float = param(10.0, "the front's weights run from 1/spread to spread times a_r / a_s", above=1)
    winsor: float = param(0.999, "quantile at which revenue is cut for learning", above=0, at_most=1)
    hurdle: bool = param(True, "model revenue as P(any) x E[amount | any] where some rows have none")
    monotone: bool = param(False, "models: satisfaction never rises with the load, revenue never falls")
    session: str = param("", "column of the session, for carry-over and repeated fetches")
    eligible_max: str = param("", "column of the highest load that the inventory allowed")
    delayed: tuple[str, ...] = param((), "rewards known only once the delay column is filled")
    crossfit: int = param(
        2, "folds of users: policies are valued on users they were not learnt from", at_least=2
    )
    level: float = param(0.95, "coverage of every interval", above=0, below=1)
    power: float = param(0.8, "power of the planned A/B test", above=0, below=1)
    explore: float = param(0.02, "share of uniform draws in the deployed policy", at_least=0, at_most=1)


# the equations


def coefficients(items: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """`name` or `name:coefficient` by name, for (1). Raises `ConfigError` for a name that is no reward of the log."""
    found: dict[str, float] = {}
    for item in items:
        name, colon, text = item.rpartition(":") if item not in known else (item, "", "")
        try:
            value = float(text) if colon else 1.0
        except ValueError:
            name, value = item, 1.0
        if name not in known:
            msg = message(f"the log has no reward {name or item!r}", expected=f"one of {', '.join(known)}")
            raise ConfigError(msg)
        found[name] = value
    return found


def group(rewards: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Equation (1): (n,)."""
    return np.asarray(sum(c * rewards[name] for name, c in weights.items()), dtype=np.float64)


def trade_offs(config: AdLoadConfig) -> dict[str, tuple[float, float]]:
    """(a_s, a_r) by policy name: the one asked for, then the grid of the front."""
    found = {LEARNT: (config.satisfaction_weight, config.revenue_weight)}
    if config.front:
        centre = config.revenue_weight / config.satisfaction_weight if min(found[LEARNT]) > 0 else 1.0
        edge = math.log10(config.spread)
        for ratio in centre * np.logspace(-edge, edge, config.front):
            found[f"weight {ratio:.3g}"] = (1.0, float(ratio))
    return found


# the system


class AdLoad:
    """Learns and values ad-load policies: `AdLoad(config).fit(log)`."""

    def __init__(self, config: AdLoadConfig | None = None) -> None:
        self.config = config or AdLoadConfig()

    def fit(self, log: Rounds, *, rng: int = 0, reference: Policy | None = None) -> LearntLoad:
        """Audit, learn, value, choose. `reference` is the policy of the KL penalty (else the estimated logging one)."""
        work = _Work(log, self.config, rng, reference)
        chances = work.candidates()
        overall: list[Components] = []
        parts: list[Components] = []
        for estimator in ESTIMATORS:
            terms = Terms.of(estimator=estimator, **work.arguments(chances))
            overall.append(terms.components(level=self.config.level))
            if estimator == ESTIMATORS[0]:
                parts = [
                    terms.components(rows, segment=f"{column}={value}", level=self.config.level)
                    for column in log.segment_columns
                    for value, rows in segment_rows(log, column)
                ]
        chosen = work.choose(overall[0], [n for n in work.weights if chances[n] is not None])
        policy = None if chosen == NONE else work.deployed(chosen)
        honest = None if chosen == NONE else Table(chosen, np.asarray(chances[chosen]))
        return LearntLoad(work.report(overall, parts, chosen, chances), policy, honest)


class _Work:
    """One fit: the arrays it needs, made once."""

    def __init__(self, log: Rounds, config: AdLoadConfig, rng: int, reference: Policy | None) -> None:
        c = self.config = config
        self.revenue = coefficients(c.revenue, tuple(log.rewards))
        rest = [r for r in log.rewards if r not in self.revenue]
        self.satisfaction = coefficients(c.satisfaction or rest, tuple(log.rewards))
        if not self.satisfaction or not self.revenue or set(self.satisfaction) & set(self.revenue):
            msg = message(
                f"satisfaction {sorted(self.satisfaction)} and revenue {sorted(self.revenue)}",
                expected="at least one reward in each group, and none in both",
                hint="Rounds(reward=[...]) holds several; name the groups with `satisfaction` and `revenue`",
            )
            raise ConfigError(msg)
        log = self.log = with_limits(log, c.eligible_max)
        check_log(
            log,
            revenue=tuple(self.revenue),
            satisfaction=tuple(self.satisfaction),
            session=c.session,
            eligible_max=c.eligible_max,
        )
        self.rng, self.levels = rng, len(log.actions)
        self.names = (*self.satisfaction, *self.revenue)
        self.raw = {name: log.reward_of(name) for name in self.names}
        self.known = matured(log, c.delayed)
        self.learn_rows = np.logical_and.reduce([np.ones(log.n, bool), *self.known.values()])
        self.cut, self.winsor = winsorised(self.raw, self.revenue, c.winsor)
        self.encoder = Encoder.fit(log.context)
        self.x = self.encoder.transform(log.context)
        self.fold = folds_of(log, c.crossfit, rng=rng)
        self.q = self._predict(np.arange(log.n), self.fold)
        sums = {n: group(self.cut, w)[self.learn_rows] for n, w in self._groups().items()}
        self.sd = {n: (float(s.std()) or 1.0) if c.scale == "sd" else 1.0 for n, s in sums.items()}
        self.weights = trade_offs(c)
        self.reference: Floats | None = None
        if max(c.kl) > 0:
            self.reference = (
                checked_probs(reference, self.log)
                if reference
                else estimate_propensity(self.log, rng=rng).matrix
            )

    def _groups(self) -> dict[str, dict[str, float]]:
        return {"satisfaction": self.satisfaction, "revenue": self.revenue}

    def scalar(self, name: str) -> dict[str, float]:
        """Equation (2) as coefficients of the rewards."""
        a_s, a_r = self.weights[name]
        first = {r: a_s * c / self.sd["satisfaction"] for r, c in self.satisfaction.items()}
        return first | {r: a_r * c / self.sd["revenue"] for r, c in self.revenue.items()}

    def _predict(self, rows: NDArray[np.int64], fold: NDArray[np.int64]) -> dict[str, Floats]:
        return predictions(
            self.log.take(rows),
            self.x[rows],
            {n: r[rows] for n, r in self.cut.items()},
            known={n: m[rows] for n, m in self.known.items()},
            revenue=tuple(self.revenue),
            fold=fold,
            model=self.config.model,
            hurdle=self.config.hurdle,
            monotone=self.config.monotone,
            rng=self.rng,
        )

    def _lesson(self, name: str, rows: NDArray[np.int64], q: Mapping[str, Floats]) -> Lesson:
        """What (3) learns from for one trade-off; `q` has a row for each of `rows`."""
        weights = self.scalar(name)
        kept = self.learn_rows[rows]
        used = rows[kept]
        reward = group({n: r[used] for n, r in self.cut.items()}, weights)
        mean, sd = (float(reward.mean()), float(reward.std()) or 1.0) if self.config.centre else (0.0, 1.0)
        log = self.log
        return Lesson(
            x=self.x[used],
            action=log.action[used],
            propensity=log.propensity[used],
            reward=(reward - mean) / sd,
            actions=self.levels,
            q=(group({n: v[kept] for n, v in q.items()}, weights) - mean) / sd,
            available=None if log.available is None else log.available[used],
            reference=None if self.reference is None else self.reference[used],
        )

    def candidates(self) -> dict[str, Floats | None]:
        """(n, levels) of every policy by name, learnt ones out of fold; None is the log itself."""
        log, n, levels = self.log, self.log.n, self.levels
        found: dict[str, Floats | None] = {LOGGED: None}
        found |= {
            f"static {a}": load_rules.static(k, n, levels, log.available) for k, a in enumerate(log.actions)
        }
        target = group(self.cut, self.scalar(LEARNT))
        greedy = load_rules.best(group(self.q, self.scalar(LEARNT)), log.available)
        learnt = {name: np.zeros((n, levels)) for name in self.weights}
        rule = np.zeros((n, levels))
        code, many = segment_codes(log)
        z = float(ndtri(1 - self.config.alpha))
        for fit, rest in splits(self.fold):
            use = fit[self.learn_rows[fit]]
            table = load_rules.segment_levels(
                code[use], log.action[use], log.propensity[use], target[use], many, levels, z=z
            )
            available = None if log.available is None else log.available[rest]
            rule[rest] = load_rules.best(table[code[rest]], available)
            inner = folds_of(log, self.config.folds, rng=self.rng + 1)[fit]
            q = self._predict(fit, inner)
            settings = self._settings(fit, q)
            for name in self.weights:
                learnt[name][rest] = self._chances(self._layers(name, fit, q, settings), rest)
        if log.segment_columns:
            found[SEGMENT] = rule
        return found | {GREEDY: greedy} | learnt

    def _settings(self, rows: NDArray[np.int64], q: Mapping[str, Floats]) -> Any:
        held_out = (folds_of(self.log, HELD_OUT, rng=self.rng) == 0)[rows][self.learn_rows[rows]]
        return choose(self._lesson(LEARNT, rows, q), self.config, held_out, rng=self.rng)[0]

    def _layers(self, name: str, rows: NDArray[np.int64], q: Mapping[str, Floats], settings: Any) -> Any:
        lesson = self._lesson(name, rows, q)
        return without_unlogged(train(lesson, self.config, settings, rng=self.rng), lesson)

    def _chances(self, layers: Any, rows: NDArray[np.int64]) -> Floats:
        shape = (len(rows), self.levels)
        allowed = np.ones(shape, bool) if self.log.available is None else self.log.available[rows]
        return softmax(scores(self.x[rows], layers), allowed, temperature=1.0, explore=self.config.explore)

    def deployed(self, name: str) -> SoftmaxPolicy:
        """The chosen trade-off learnt again from all rows."""
        rows = np.arange(self.log.n)
        settings = self._settings(rows, self.q)
        origin = {
            "system": "ad-load",
            "trade_off": name,
            "weights": self.scalar(name),
            "winsor": list(self.winsor),
            "rows": self.log.n,
            "rng": self.rng,
            "config": self.config.to_dict(),
            "chosen": vars(settings),
        }
        layers = self._layers(name, rows, self.q, settings)
        return SoftmaxPolicy(
            name=LEARNT,
            actions=self.log.actions,
            encoder=self.encoder,
            layers=layers,
            explore=self.config.explore,
            origin=origin,
        )

    def arguments(self, chances: Mapping[str, Floats | None]) -> dict[str, Any]:
        """What `Terms` needs: rewards as logged, and as they were cut where that differs."""
        rewards, q, known = dict(self.raw), dict(self.q), dict(self.known)
        units = {n: self.log.rewards[n] for n in self.names}
        for record in self.winsor:
            if record["rows"]:
                name, new = record["reward"], f"{record['reward']} winsorised"
                rewards[new], q[new], units[new] = self.cut[name], self.q[name], units[name]
                if name in known:
                    known[new] = known[name]
        given = {"rewards": rewards, "q": q, "known": known, "units": units}
        return {"log": self.log, "policies": chances, **given}

    def choose(self, found: Components, names: Sequence[str]) -> str:
        """The policy to test: the weights asked for, or (4)."""
        c = self.config
        if c.floor is None:
            return LEARNT
        kept = keeps(found, names, self.satisfaction, baseline=LOGGED, floor=c.floor, alpha=c.alpha)
        return max(kept, key=lambda p: found.estimate(p, self.revenue).value) if kept else NONE

    def report(
        self,
        overall: Sequence[Components],
        parts: Sequence[Components],
        chosen: str,
        chances: Mapping[str, Floats | None],
    ) -> AdLoadReport:
        """Values, differences, front, findings and plan from the components."""
        c, main = self.config, overall[0]
        sums = {**self._groups(), "total": self.scalar(LEARNT)}
        single = {r: {r: 1.0} for r in main.rewards}
        values = tuple(
            found.estimate(p, w, reward=name)
            for found in (*overall, *parts)
            for p in found.policies
            for name, w in {**single, **sums}.items()
        )
        statics = [p for p in main.policies if p.startswith("static ")]
        best_static = max(statics, key=lambda p: main.estimate(p, sums["total"]).value)
        differences = tuple(
            main.difference(chosen, baseline, w, reward=name)
            for baseline in (LOGGED, best_static)
            for name, w in sums.items()
            if chosen != NONE
        )
        curve = front(main, self.satisfaction, self.revenue, rng=self.rng)
        notes = tuple(
            f"{w['reward']} was cut at {w['limit']:.4g} for learning ({w['rows']} rows, {w['share_cut']:.1%} of it); "
            "its values are of the amounts as logged, and `winsorised` those of the cut ones"
            for w in self.winsor
            if w["rows"]
        )
        return AdLoadReport(
            chosen=chosen,
            best_static=best_static,
            values=values,
            differences=differences,
            front=curve,
            components=(*overall, *parts),
            winsor=self.winsor,
            plan=plan_test(
                differences[: len(sums)],
                {n: group(self.raw, w) for n, w in sums.items()},
                self.log.unit,
                level=c.level,
                power=c.power,
            ),
            findings=tuple(self.findings(chosen, chances[chosen] if chosen != NONE else None)),
            unit="per fetch",
            n=main.n,
            level=c.level,
            notes=notes,
        )

    def findings(self, chosen: str, probs: Floats | None) -> list[Finding]:
        """Warnings about outcomes that have not matured, heavy tails and carry-over."""
        found = sudden_drop(self.log, self.names, self.known)
        if probs is not None:
            w = probs[np.arange(self.log.n), self.log.action] / self.log.propensity
            found += [heavy_tail(name, w * self.raw[name]) for name in self.revenue]
        for name in self.names if self.config.session else ():
            log, checks = self.log.with_reward(name), CarryOver()
            try:
                found.append(checks.check(log, self.config.session))
            except LogError as cause:
                found.append(Finding(check="carry-over", severity="note", message=str(cause), n=self.log.n))
            if probs is not None:
                found.append(checks.compare(log, Table(chosen, probs), self.config.session))
        return found


def segment_codes(log: Rounds) -> tuple[NDArray[np.int64], int]:
    """Code of every row's combination of segments, and how many there are."""
    if not log.segment_columns:
        return np.zeros(log.n, dtype=np.int64), 1
    keys = pl.concat_str([pl.col(c).cast(pl.String) for c in log.segment_columns], separator="\x1f")
    code = log.segments.select(keys.rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    return code, int(code.max()) + 1


def segment_rows(log: Rounds, column: str) -> list[tuple[str, NDArray[np.int64]]]:
    """(value, rows) of a segment column; values with fewer than 2 rows are left out."""
    values, code = np.unique(log.table[column].cast(pl.String).to_numpy(), return_inverse=True)
    return [(str(v), rows) for k, v in enumerate(values) if len(rows := np.flatnonzero(code == k)) > 1]
