"""Explore in inverse proportion to the predicted gap, retrain in batches on the log, and watch the generations.

Use when    a model of the reward is retrained again and again on the log of the policy that it drives (weekly, say),
            and you want exploration that is cheap, exact propensities, and a warning when a generation gets worse.
Not when    decisions change what comes next (use a learner of episodes), or there may be no exploration at all.
Data        Rounds(action, reward, propensity, context[, available, time, delay, a generation column]), or an
            environment: a callable (policy, generation, rng) -> Batch that serves one generation
Paper       Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen (2024),
            OARS workshop at KDD 2025; SquareCB: Foster and Rakhlin (2020); FALCON: Simchi-Levi and Xu (2020);
            FastCB: Foster and Krishnamurthy (2021).
Equation    p_a = 1 / (K + gamma (f_b - f_a)) for a != b = argmax f;  p_b = 1 - sum of the others             (1)
            weights of a fit: none | 1/p cut at 20 | class balance | dr: target f_a + 1{a}(r - f_a)/p         (2)
            guard: mean_i d_i - t se > -tol, d_i = sum_a (c_a - s_a) f_a + (c_i - s_i)/p_i (r_i - f_i)        (3)
            FALCON's error: mean (f1 - f2)^2 / 4 of two models fitted on two halves, at least 1/n             (4)
Shapes      context (n, d) | scores f, probabilities c (new), s (serving), eligible (n, k) | p, r (n,)
Units       f, r, tol: reward, rescaled to [0, 1] by reward_lo, reward_hi | gamma: 1/reward | delay: generations in
            the loop, the log's own unit in a log
Raises      LogError: reward outside its range, no eligible action, scores not finite, generations out of order
            PropensityError: propensity outside (0, 1] | ConfigError: resuming with another configuration
Differs     paper: no code and few numbers, so the loop is ours; isotonic calibration is an option (it makes ties, and
            among ties (1) is uniform); (4) replaces held-out error minus f (1 - f), which is 0 for every calibrated
            model however coarse.
Builds on   igw, exploration, exploring_policy, reward_regressors, delayed_rewards, generation_report,
            generation_record, generation_store, generations_of_log
Call        improve(log), or improve(environment, generations=12, state="folder") -> a policy with its report
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.intervals import lower_bound
from counterlog.core.moments import Moments
from counterlog.core.rounds import Rounds
from counterlog.online import exploration
from counterlog.online.delayed_rewards import known_rows
from counterlog.online.exploring_policy import (
    ExplorationRule,
    First,
    RegressionOraclePolicy,
)
from counterlog.online.generation_record import record_generation
from counterlog.online.generation_report import (
    Generation,
    make_report,
)
from counterlog.online.generation_store import Batch, Rows, check_batch, load_state, save_state
from counterlog.online.igw import (
    gamma_for_budget,
    gamma_from_error,
    gamma_schedule,
)
from counterlog.online.reward_regressors import (
    Calibrated,
    Constant,
    Ensemble,
    FeatureMap,
    RewardModel,
    Shifted,
    fit_rewards,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]
MOST_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class RegressionOracleBanditConfig(Config):
    """Settings of `RegressionOracleBandit`."""

    rule: str = param(
        "igw",
        "how probabilities follow from predicted rewards",
        choices=("igw", "fastcb", "epsilon", "softmax", "greedy", "thompson", "uniform"),
    )
    gamma_rule: str = param(
        "squarecb",
        "where gamma comes from: fixed, squarecb (scale * decisions^exponent), falcon (error), budget",
        choices=("fixed", "squarecb", "falcon", "budget"),
    )
    gamma: float = param(100.0, "exploration parameter of gamma_rule fixed", unit="1/reward", above=0)
    gamma_scale: float = param(10.0, "scale of squarecb", unit="1/reward", above=0)
    gamma_exponent: float = param(0.5, "exponent of squarecb", at_least=0, at_most=1)
    falcon_c: float = param(0.5, "constant of falcon; its theory has 1/30", above=0)
    budget: float = param(0.02, "predicted reward given up a decision by exploring", unit="reward", above=0)
    floor: float = param(0.0, "least probability of an eligible action", at_least=0, below=1)
    epsilon: float = param(0.05, "share of uniform choice of rule epsilon", at_least=0, at_most=1)
    temperature: float = param(0.1, "of rule softmax", unit="reward", above=0)
    members: int = param(10, "regressors of rule thompson", at_least=2)
    regressor: str = param("boosting", "reward model", choices=("boosting", "ridge", "trees", "mlp"))
    window: int = param(4, "generations that a model is fitted on", at_least=1)
    weights: str = param("none", "row weights (2)", choices=("none", "ips", "class_balance", "dr"))
    weight_cap: float = param(20.0, "largest 1/p in a fit", at_least=1)
    calibrate: bool = param(False, "isotonic map learnt on two folds")
    delay: str = param("drop", "rows whose reward is not known yet", choices=("drop", "ipcw"))
    silence_is_failure: bool = param(
        False, "a row older than `maturity` without a reward counts as reward_lo"
    )
    maturity: float = param(1.0, "age at which silence counts", unit="generation", above=0)
    deploy: str = param("always", "or guard: only when (3) holds", choices=("always", "guard"))
    tol: float = param(0.0, "loss that the guard accepts", unit="reward", at_least=0)
    holdout: float = param(0.3, "share of the newest batch kept for the guard", above=0, below=1)
    level: float = param(0.95, "one-sided confidence of the guard and of degradation", above=0.5, below=1)
    reward_lo: float = param(0.0, "smallest possible reward", unit="reward")
    reward_hi: float = param(1.0, "largest possible reward", unit="reward")
    shift_auc: bool = param(True, "also learn to tell neighbouring generations apart (slower report)")


class Environment(Protocol):
    """Serves one generation: draws contexts, lets `policy.act(x, eligible, rng)` choose, and logs what came of it.

    May also have `actions` (their number) and `test(generation) -> (x, eligible, expected reward (n, k))`, for exact
    values.
    """

    def __call__(self, policy: RegressionOraclePolicy, generation: int, rng: np.random.Generator) -> Batch:
        """The generation's log."""
        ...


def pseudo_rows(rows: Rows, cap: float) -> tuple[Floats, Codes, Floats, Floats]:
    """Equation (2), dr: every eligible pair becomes a row with target f_a + 1{a = logged} (r - f_a) min(1/p, cap).

    -> x (m, d), action (m,), target (m,), weight (m,). f is the model that served the row, so it never saw its reward.
    """
    i, a = np.nonzero(rows.eligible)
    target = rows.scores[i, a].copy()
    hit = a == rows.action[i]
    inverse = np.minimum(1.0 / rows.propensity[i[hit]], cap)
    target[hit] += inverse * (rows.reward[i[hit]] - target[hit])
    return rows.x[i], a.astype(np.int64), target, rows.weight[i]


def balance(reward: Floats, weight: Floats) -> tuple[Floats, float]:
    """Equation (2), class_balance: weights that give success and failure equal mass, and the logit shift back."""
    share = float(np.average(reward, weights=weight))
    if not 0 < share < 1:
        return weight, 0.0
    return weight * (reward / share + (1 - reward) / (1 - share)) / 2, math.log(share / (1 - share))


def paired_difference(
    new: Floats, serving: Floats, scores: Floats, rows: Rows, level: float
) -> tuple[float, float]:
    """Equation (3): (mean, one-sided lower bound) of the value of `new` minus `serving` on rows not used in the fit."""
    i = np.arange(len(rows.action))
    change = new - serving
    error = rows.reward - scores[i, rows.action]
    d = (change * scores).sum(axis=1) + change[i, rows.action] / rows.propensity * error
    moments = Moments.from_units(a=d)
    return float(d.mean()), lower_bound(moments, 1 - level)


class RegressionOracleBandit:
    """The loop. `regressor` may be any object with fit and predict, `features` a map phi(x, action codes)."""

    def __init__(
        self,
        config: RegressionOracleBanditConfig | None = None,
        *,
        regressor: Any = None,
        features: FeatureMap | None = None,
    ) -> None:
        self.config = config or RegressionOracleBanditConfig()
        self.regressor = regressor or self.config.regressor
        self.features = features
        if not self.config.reward_lo < self.config.reward_hi:
            msg = message(
                f"reward_lo = {self.config.reward_lo:g}, reward_hi = {self.config.reward_hi:g}",
                expected="lo < hi",
            )
            raise ConfigError(msg)

    def improve(
        self,
        source: Rounds | Environment,
        *,
        generation: str | None = None,
        generations: int = 0,
        actions: int = 0,
        first: First | None = None,
        state: str | os.PathLike[str] | None = None,
        rng: int = 0,
    ) -> RegressionOraclePolicy:
        """The next policy, from a log or after serving `generations` batches of an environment.

        generation   column of the log that numbers its generations; the report then has one row each
        actions      number of actions, for an environment without that attribute
        first        probabilities (x, eligible) -> (n, k) of generation 0; uniform by default
        state        folder for resuming a killed run: it gives the same result
        """
        if isinstance(source, Rounds):
            from counterlog.online.generations_of_log import improve_from_log

            return improve_from_log(self, source, generation=generation, rng=rng)
        k = int(getattr(source, "actions", actions))
        if k < 1 or generations < 1:
            msg = message(
                f"{generations} generations of {k} actions",
                expected="at least 1 of each",
                hint="improve(environment, generations=12, actions=8)",
            )
            raise ConfigError(msg)
        return self._serve(source, generations, k, first, state, rng)

    def rule(self, gamma: float) -> ExplorationRule:
        """The configuration's rule with this gamma."""
        c = self.config
        return ExplorationRule(c.rule, gamma, c.floor, c.epsilon, c.temperature)

    # the algorithm box

    def _serve(
        self,
        environment: Environment,
        generations: int,
        k: int,
        first: First | None,
        state: str | os.PathLike[str] | None,
        rng: int,
    ) -> RegressionOraclePolicy:
        batches: list[Batch] = []
        found: list[Generation] = []
        policy = RegressionOraclePolicy(
            Constant(0.5, k),
            self.rule(math.nan),
            tuple(range(k)),
            first=first or _uniform_first,
            origin=self.config.to_dict(),
        )
        halved, fitted = 1.0, -1
        start = {"config": self.config.to_dict(), "rng": rng, "actions": k}
        if state is not None and (saved := load_state(state)) is not None:
            batches, content = saved
            if content["start"] != start:
                msg = message(
                    f"the state in {os.fspath(state)!r} is of a run with another configuration, rng or actions",
                    hint="resume with the same settings, or give an empty folder",
                )
                raise ConfigError(msg)
            found = [Generation(**{**g, "shares": tuple(g["shares"])}) for g in content["found"]]
            halved, fitted = content["halved"], content["fitted"]
            if fitted >= 0:
                model, _ = self.fit(self._known(batches, fitted), batches[fitted].n, k, [rng, fitted])
                policy = replace(policy, model=model, rule=self.rule(content["gamma"]), first=None)
        exact: dict[int, tuple[RewardModel, Floats]] = {}
        for g in range(len(batches), generations):
            batch = self._scaled(check_batch(environment(policy, g, np.random.default_rng([rng, g]))))
            mean = self._mean_known(batch)
            scores = (
                policy.model.scores(batch.x, batch.eligible) if fitted >= 0 else np.full((batch.n, k), mean)
            )
            batches.append(replace(batch, scores=scores))
            rows = self._known(batches, g)
            model, held = self.fit(rows, batch.n, k, [rng, g])
            gamma = self.gamma(model, rows, sum(b.n for b in batches), k, [rng, g]) * halved
            candidate = replace(policy, model=model, rule=self.rule(gamma), first=None)
            deployed, change = self._judge(candidate, policy, held)
            record = record_generation(
                batches,
                rows,
                policy,
                candidate,
                judged=(deployed, change),
                environment=environment,
                cache=exact,
                auc=self.config.shift_auc,
                rng=rng,
            )
            found.append(record)
            if deployed:
                policy, halved, fitted = candidate, 1.0, g
            else:
                halved *= 0.5
                policy = replace(policy, rule=self.rule(policy.gamma * 0.5))
            if state is not None:
                records = [asdict(f) for f in found]
                content = {"found": records, "halved": halved, "fitted": fitted, "gamma": policy.gamma}
                save_state(state, batches, {"start": start, **content})
        report = make_report(tuple(found), unit=self.unit("reward"), level=self.config.level)
        return replace(policy, report=report)

    def _known(self, batches: list[Batch], g: int) -> Rows:
        """The last `window` generations up to g, as known when g ends: matured rows only."""
        c, first = self.config, max(0, g + 1 - self.config.window)
        window = batches[first : g + 1]
        decision = np.concatenate([first + i + b.moment for i, b in enumerate(window)])
        joined = {k: np.concatenate([getattr(b, k) for b in window]) for k in ("delay", "reward", "action")}
        reward, weight = known_rows(
            decision,
            joined["delay"],
            joined["reward"],
            float(g + 1),
            rule=c.delay,
            maturity=c.maturity,
            silence_is_failure=c.silence_is_failure,
            group=joined["action"],
        )
        both = {
            k: np.concatenate([getattr(b, k) for b in window])
            for k in ("x", "eligible", "propensity", "scores")
        }
        return Rows(action=joined["action"], reward=reward, weight=weight, **both)

    def fit(self, rows: Rows, newest: int, k: int, seed: list[int]) -> tuple[RewardModel, Rows]:
        """(model, rows held out for the guard): f <- regressor.fit(phi(x, a), r, W); f <- calibrate(f)."""
        c, random = self.config, np.random.default_rng([*seed, 1])
        held = np.zeros(len(rows.action), bool)
        if c.deploy == "guard":
            held[-newest:] = random.random(newest) < c.holdout
        use = rows.take(~held & (rows.weight > 0))
        model = self._model(use, k, random)
        return model, rows.take(held & (rows.weight > 0))

    def _model(self, use: Rows, k: int, random: np.random.Generator) -> RewardModel:
        """One reward model with the weights (2), calibrated when asked; several for rule thompson."""
        c, seed = self.config, int(random.integers(2**31))
        if c.rule == "thompson":
            members = []
            for _ in range(c.members):
                often = random.poisson(1.0, len(use.action)).astype(np.float64)
                members.append(self._one(replace(use, weight=use.weight * often), k, seed))
            return Ensemble(tuple(members))
        model = self._one(use, k, seed)
        if not c.calibrate:
            return model
        from sklearn.isotonic import IsotonicRegression

        fold, predicted = random.integers(2, size=len(use.action)), np.empty(len(use.action))
        for side in (0, 1):
            part = self._one(use.take(fold != side), k, seed)
            rest = np.flatnonzero(fold == side)
            predicted[rest] = part.scores(use.x[rest])[np.arange(len(rest)), use.action[rest]]
        isotonic = IsotonicRegression(y_min=0, y_max=1).fit(predicted, use.reward, sample_weight=use.weight)
        return Calibrated(model, isotonic.X_thresholds_, isotonic.y_thresholds_)

    def _one(self, use: Rows, k: int, seed: int) -> RewardModel:
        c, weight, shift = self.config, use.weight, 0.0
        if c.weights == "dr":
            x, action, target, weight = pseudo_rows(use, c.weight_cap)
            return fit_rewards(self.regressor, x, action, target, weight, k, rng=seed, phi=self.features)
        if c.weights == "ips":
            weight = weight * np.minimum(1.0 / use.propensity, c.weight_cap)
            weight = weight / weight[weight > 0].mean() if (weight > 0).any() else weight
        if c.weights == "class_balance":
            weight, shift = balance(use.reward, weight)
        model = fit_rewards(
            self.regressor, use.x, use.action, use.reward, weight, k, rng=seed, phi=self.features
        )
        return Shifted(model, shift) if shift else model

    def gamma(self, model: RewardModel, rows: Rows, decisions: int, k: int, seed: list[int]) -> float:
        """gamma of the candidate, by the rule of the configuration."""
        c = self.config
        if c.rule not in ("igw", "fastcb"):
            return math.nan
        if c.gamma_rule == "squarecb":
            return gamma_schedule(decisions, scale=c.gamma_scale, exponent=c.gamma_exponent)
        if c.gamma_rule == "budget":
            scores = model.scores(rows.x, rows.eligible)
            return float(gamma_for_budget(scores, rows.eligible, budget=c.budget)[0])
        if c.gamma_rule == "falcon":
            error = self._error(rows.take(rows.weight > 0), k, np.random.default_rng([*seed, 2]))
            return gamma_from_error(float(rows.eligible.sum(axis=1).mean()), error, c=c.falcon_c)
        return c.gamma

    def _error(self, use: Rows, k: int, random: np.random.Generator) -> float:
        """Equation (4): each half-sample model has twice the variance, and their difference four times it."""
        half, seed = random.random(len(use.action)) < 0.5, int(random.integers(2**31))
        x, eligible = use.x[-MOST_ROWS:], use.eligible[-MOST_ROWS:]
        one, two = (self._one(use.take(side), k, seed).scores(x, eligible) for side in (half, ~half))
        gap = ((one - two) ** 2)[eligible]
        return max(float(gap.mean()) / 4.0, 1.0 / len(use.action))

    def _judge(
        self, candidate: RegressionOraclePolicy, serving: RegressionOraclePolicy, held: Rows
    ) -> tuple[bool, tuple[float, float]]:
        """d <- paired_DR(candidate - serving); deploy when its lower bound is above -tol."""
        c = self.config
        if c.deploy == "always" or len(held.action) < 2:
            return True, (math.nan, math.nan)
        scores = candidate.model.scores(held.x, held.eligible)
        new, old = (p.probs_of(held.x, held.eligible) for p in (candidate, serving))
        change = paired_difference(new, old, scores, held, c.level)
        return change[1] > -c.tol, change

    # plumbing

    def unit(self, name: str) -> str:
        """The unit of the report's values: the reward's, or that of the reward moved to [0, 1]."""
        c = self.config
        same = (c.reward_lo, c.reward_hi) == (0.0, 1.0)
        return name if same else f"{name}, 0 = {c.reward_lo:g} and 1 = {c.reward_hi:g}"

    def _scaled(self, batch: Batch) -> Batch:
        """Rewards moved to [0, 1]."""
        return replace(batch, reward=self.scale(batch.reward, ~np.isnan(batch.delay)))

    def scale(self, reward: Floats, known: Mask) -> Floats:
        """(reward - lo) / (hi - lo). Raises `LogError` for a known reward outside [reward_lo, reward_hi]."""
        c = self.config
        bad = np.flatnonzero(known & ~((reward >= c.reward_lo) & (reward <= c.reward_hi)))
        if bad.size:
            msg = message(
                f"the reward is outside [{c.reward_lo:g}, {c.reward_hi:g}] in {bad.size:,} of {len(reward):,} rows: "
                f"{first_rows(bad)}",
                hint="set reward_lo and reward_hi to the smallest and largest possible reward",
            )
            raise LogError(msg)
        return np.asarray((reward - c.reward_lo) / (c.reward_hi - c.reward_lo), dtype=np.float64)

    def _mean_known(self, batch: Batch) -> float:
        soon = batch.delay + batch.moment <= 1.0
        return float(batch.reward[soon].mean()) if soon.any() else 0.5


def _uniform_first(x: Floats, eligible: Mask) -> Floats:
    return exploration.uniform(eligible)
