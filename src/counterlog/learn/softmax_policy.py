"""Softmax policy learning: the policy of a chosen shape that the log itself values most.

Use when    the log was drawn with known probabilities and you want a policy that can be saved, inspected and deployed.
Not when    every decision was drawn with probability 1 (nothing is known of any other), or rewards depend on earlier
            decisions of the same session (learn from trajectories instead).
Data        Rounds(action, reward, propensity, context); unit and available are used when given
Paper       Swaminathan and Joachims (2015), counterfactual risk minimisation and self-normalisation; Joachims,
            Swaminathan and de Rijke (2018), BanditNet; Dudik, Langford and Li (2011), doubly robust learning.
Equation    pi(a|x) = softmax_a f(x)_a over the available actions;  w = min(pi(a_i|x_i) / p_i, cap)
            ips        psi_i = w_i R_i                                                                      (1)
            banditnet  psi_i = w_i (R_i - shift)                                                            (2)
            snips      psi_i = w_i (R_i - S) / mean(w),  S = sum w R / sum w   (S, mean(w) held fixed)       (3)
            dr         psi_i = sum_k pi(k|x_i) q(x_i, k) + w_i (R_i - q(x_i, a_i))                          (4)
            maximise   mean psi - kl mean KL(pi || reference) - variance sqrt(Var(psi) / n) + entropy mean H(pi)  (5)
            d w_i R_i / d f_k = w_i R_i (1{a_i = k} - pi_k), and 0 where the cap holds                       (6)
Shapes      x (n, d) encoded context | action (n,) codes | reward, propensity (n,) | q, available (n, actions)
Units       R: standard deviations of the logged reward, from its mean, unless `centre` is off | w, psi: as R
Raises      SupportError: every propensity is 1, or the log has one action | LogError: no context or reward values
            to learn from | ConfigError: a setting outside its bounds
Differs     minibatches drawn with replacement and the mean of the last third of the iterates (the papers use
            full-batch quasi-Newton); (3) is biased in small batches, so batches have at least 256 rows; the spread in
            (5) is that of the batch, and for (3) that of the linearised ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.action_ridge import action_ridge
from counterlog.core.config import Config, param
from counterlog.core.crossfit import folds_of, reward_model, splits
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.features import Encoder
from counterlog.core.numpy_nets import Adam, Layers, as_layers, backward, forward, scores, start
from counterlog.core.policies import Policy, Table, checked_probs
from counterlog.core.propensity import estimate_propensity
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]
UNLOGGED = -1e6  # bias of an action without a logged row: taken only where nothing else is available
HELD_OUT = 5  # one unit in five is held out when settings are compared
SMALLEST = 1e-300


@dataclass(frozen=True, kw_only=True)
class SoftmaxLearnerConfig(Config):
    """Settings of `SoftmaxLearner`. Where a list may be given, held-out value picks one of its entries."""

    objective: str = param("dr", "what is maximised: (1) to (4)", choices=("ips", "banditnet", "snips", "dr"))
    cap: tuple[float, ...] = param(
        (20.0,), "largest weight while learning, or a list to choose from", above=0
    )
    kl: tuple[float, ...] = param(
        (0.0,),
        "penalty on straying from the reference policy (5), or a list",
        unit="sd of reward",
        at_least=0,
    )
    shift: tuple[float, ...] = param(
        (-1.0, -0.5, 0.0, 0.5, 1.0), "shifts tried by banditnet (2)", unit="sd of reward"
    )
    variance: float = param(0.0, "penalty on the standard error of the value (5)", at_least=0)
    entropy: float = param(0.0, "bonus for entropy (5)", unit="sd of reward a nat", at_least=0)
    hidden: tuple[int, ...] = param((), "widths of hidden tanh layers; none is a linear policy", at_least=1)
    ordinal: bool = param(False, "scores quadratic in the action's rank: for actions that are levels")
    model: str = param("ridge", "reward model of (4)", choices=("ridge", "linear", "boosting"))
    folds: int = param(3, "folds of the reward model", at_least=2)
    learning_rate: float = param(0.02, "Adam step size", above=0)
    batch: int = param(1024, "rows a step", at_least=256)
    steps: int = param(1500, "gradient steps", at_least=1)
    average: float = param(1 / 3, "share of the last iterates that is averaged", above=0, at_most=1)
    centre: bool = param(True, "learn on (reward - mean) / sd; off learns on the reward as it is")
    explore: float = param(0.0, "share of uniform draws mixed into the saved policy", at_least=0, at_most=1)


@dataclass(frozen=True)
class Lesson:
    """What learning reads: arrays of n rows. `q` is needed by (4), `reference` by a KL penalty."""

    x: Floats
    action: Codes
    propensity: Floats
    reward: Floats
    actions: int
    q: Floats | None = None
    available: Mask | None = None
    reference: Floats | None = None

    def take(self, rows: Codes) -> Lesson:
        """The given rows."""
        return Lesson(
            self.x.take(rows, axis=0),
            self.action.take(rows),
            self.propensity.take(rows),
            self.reward.take(rows),
            self.actions,
            None if self.q is None else self.q.take(rows, axis=0),
            None if self.available is None else self.available.take(rows, axis=0),
            None if self.reference is None else self.reference.take(rows, axis=0),
        )


@dataclass(frozen=True)
class Settings:
    """One choice among the lists of a configuration."""

    cap: float
    kl: float
    shift: float


# the equations


def masked_softmax(scores: Floats, available: Mask | None) -> Floats:
    """pi (b, actions): softmax over the available actions."""
    f = scores if available is None else np.where(available, scores, -np.inf)
    p = np.exp(f - f.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(p, dtype=np.float64)


def weighted_terms(
    p: Floats, action: Codes, propensity: Floats, reward: Floats, cap: float, shift: float = 0.0
) -> tuple[Floats, Floats]:
    """Equations (1), (2) and (6): psi (b,) and d psi / d f (b, actions)."""
    rows = np.arange(len(action))
    ratio = p[rows, action] / propensity
    psi = np.minimum(ratio, cap) * (reward - shift)
    slope = np.where(ratio < cap, psi, 0.0)
    gradient = -slope[:, None] * p
    gradient[rows, action] += slope
    return psi, gradient


def ratio_terms(
    p: Floats, action: Codes, propensity: Floats, reward: Floats, cap: float
) -> tuple[Floats, Floats]:
    """Equation (3): psi (b,) around 0, whose mean gradient is the gradient of the ratio where no cap holds."""
    w = np.minimum(p[np.arange(len(action)), action] / propensity, cap)
    mass = max(float(w.mean()), SMALLEST)
    value = float((w * reward).mean()) / mass
    psi, gradient = weighted_terms(p, action, propensity, reward, cap, value)
    return psi / mass, gradient / mass


def doubly_robust_terms(
    p: Floats, action: Codes, propensity: Floats, reward: Floats, q: Floats, cap: float
) -> tuple[Floats, Floats]:
    """Equation (4): psi (b,) and d psi / d f (b, actions)."""
    rows = np.arange(len(action))
    ratio = p[rows, action] / propensity
    correction = np.minimum(ratio, cap) * (reward - q[rows, action])
    value = np.einsum("ij,ij->i", p, q)
    slope = np.where(ratio < cap, correction, 0.0)
    gradient = p * (q - (value + slope)[:, None])
    gradient[rows, action] += slope
    return value + correction, gradient


def divergence_terms(p: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """KL(pi || reference) (b,) in nats and its gradient (b, actions)."""
    log_ratio = np.log(np.maximum(p, SMALLEST)) - np.log(np.maximum(reference, SMALLEST))
    kl = (p * log_ratio).sum(axis=1)
    return kl, p * (log_ratio - kl[:, None])


def entropy_terms(p: Floats) -> tuple[Floats, Floats]:
    """H(pi) (b,) in nats and its gradient (b, actions)."""
    log_p = np.log(np.maximum(p, SMALLEST))
    h = -(p * log_p).sum(axis=1)
    return h, -p * (log_p + h[:, None])


def objective_terms(
    p: Floats, lesson: Lesson, config: SoftmaxLearnerConfig, chosen: Settings, n: int
) -> tuple[Floats, Floats]:
    """Equation (5): psi (b,) before penalties, and the gradient (b, actions) whose mean over rows is that of (5).

    `n` is the number of rows behind the standard error of the variance penalty.
    """
    arrays = (p, lesson.action, lesson.propensity, lesson.reward)
    if config.objective == "dr" and lesson.q is not None:
        psi, gradient = doubly_robust_terms(*arrays, lesson.q, chosen.cap)
    elif config.objective == "snips":
        psi, gradient = ratio_terms(*arrays, chosen.cap)
    else:
        psi, gradient = weighted_terms(*arrays, chosen.cap, chosen.shift)
    if config.variance > 0:  # d sqrt(Var/n) = mean((psi - mean) d psi) / (sd sqrt(n))
        spread = max(float(psi.std()), 1e-12)
        row = 1.0 - config.variance * (psi - psi.mean()) / (spread * np.sqrt(n))
        gradient *= row[:, None]
    if chosen.kl > 0 and lesson.reference is not None:
        gradient -= chosen.kl * divergence_terms(p, lesson.reference)[1]
    if config.entropy > 0:
        gradient += config.entropy * entropy_terms(p)[1]
    return psi, gradient


# the learner


def ordinal_basis(actions: int) -> Floats:
    """(2, actions): rank in [-1, 1] and its square, so that two outputs score every level."""
    rank = np.linspace(-1.0, 1.0, max(actions, 2))[:actions]
    return np.stack([rank, rank**2])


def train(lesson: Lesson, config: SoftmaxLearnerConfig, chosen: Settings, *, rng: int) -> Layers:
    """Layers of the learnt scores: Adam on (5) over minibatches, the last iterates averaged."""
    gen = np.random.default_rng(rng)
    basis = ordinal_basis(lesson.actions) if config.ordinal else None
    widths = [lesson.x.shape[1], *config.hidden, lesson.actions if basis is None else len(basis)]
    theta = start(widths, gen)
    adam = Adam(theta, config.learning_rate)
    mean = [np.zeros_like(t) for t in theta]
    n, first, kept = len(lesson.x), int(config.steps * (1 - config.average)), 0
    for step in range(config.steps):
        rows = gen.integers(n, size=min(config.batch, max(n, 256)))
        batch = lesson.take(rows)
        inputs, score = forward(batch.x, theta, basis)
        p = masked_softmax(score, batch.available)
        gradient = objective_terms(p, batch, config, chosen, n)[1] / len(rows)
        adam.ascend(theta, backward(gradient, inputs, theta, basis))
        if step >= first:
            kept += 1
            for total, now in zip(mean, theta, strict=True):
                total += (now - total) / kept
    return as_layers(mean, basis)


def choices(config: SoftmaxLearnerConfig) -> Iterator[Settings]:
    """Every combination of the lists; shifts belong to banditnet alone."""
    shifts = config.shift if config.objective == "banditnet" else (0.0,)
    for cap, kl, shift in product(config.cap, config.kl, shifts):
        yield Settings(cap, kl, shift)


def choose(
    lesson: Lesson, config: SoftmaxLearnerConfig, held_out: Mask, *, rng: int
) -> tuple[Settings, list[dict[str, float]]]:
    """The settings with the best held-out value, (4) when there is a q and (3)'s ratio otherwise, and all values tried.

    No row is held out when there is nothing to choose.
    """
    candidates = list(choices(config))
    if not candidates:
        msg = message("a list of settings is empty", expected="at least one cap, kl and shift")
        raise ConfigError(msg)
    if len(candidates) == 1:
        return candidates[0], []
    fit, rest = lesson.take(np.flatnonzero(~held_out)), lesson.take(np.flatnonzero(held_out))
    tried, rows = [], np.arange(len(rest.action))
    for settings in candidates:
        p = masked_softmax(scores(rest.x, train(fit, config, settings, rng=rng)), rest.available)
        w = p[rows, rest.action] / rest.propensity
        if rest.q is not None:
            value = float(((p * rest.q).sum(axis=1) + w * (rest.reward - rest.q[rows, rest.action])).mean())
        else:
            value = float((w * rest.reward).sum() / max(w.sum(), SMALLEST))
        tried.append({**vars(settings), "held_out": value})
    best = max(range(len(tried)), key=lambda i: tried[i]["held_out"])
    return candidates[best], tried


def without_unlogged(layers: Layers, lesson: Lesson) -> Layers:
    """The layers with actions that no row holds pushed out of reach: they are taken only where nothing else can be."""
    unlogged = np.bincount(lesson.action, minlength=lesson.actions) == 0
    weights, bias = layers[-1]
    return (*layers[:-1], (np.where(unlogged, 0.0, weights), np.where(unlogged, UNLOGGED, bias)))


class SoftmaxLearner:
    """Learns a `SoftmaxPolicy` from the primary reward of a log."""

    def __init__(self, config: SoftmaxLearnerConfig | None = None) -> None:
        self.config = config or SoftmaxLearnerConfig()

    def fit(
        self,
        log: Rounds,
        *,
        rng: int = 0,
        q: Floats | None = None,
        reference: Policy | None = None,
        reward: Floats | None = None,
        name: str = "learnt",
    ) -> SoftmaxPolicy:
        """The learnt policy.

        q            (n, actions) predictions of the reward, out of fold; made by `config.model` otherwise
        reference    policy of the KL penalty; the (estimated) logging policy otherwise
        reward       (n,) values to learn from in place of the primary reward, such as a weighted sum of several
        """
        c = self.config
        encoder = Encoder.fit(log.context)
        lesson = make_lesson(log, encoder, reward, c, q=q, reference=reference, rng=rng)
        chosen, tried = choose(lesson, c, folds_of(log, HELD_OUT, rng=rng) == 0, rng=rng)
        layers = without_unlogged(train(lesson, c, chosen, rng=rng), lesson)
        origin: dict[str, Any] = {
            "system": "softmax-policy",
            "reward": log.reward_name if reward is None else "combined",
            "rows": log.n,
            "rng": rng,
            "config": c.to_dict(),
            "chosen": vars(chosen),
            "tried": tried,
        }
        return SoftmaxPolicy(
            name=name, actions=log.actions, encoder=encoder, layers=layers, explore=c.explore, origin=origin
        )


def make_lesson(
    log: Rounds,
    encoder: Encoder,
    reward: Floats | None,
    config: SoftmaxLearnerConfig,
    *,
    q: Floats | None = None,
    reference: Policy | None = None,
    rng: int = 0,
) -> Lesson:
    """The arrays of a log. Raises `SupportError` when its decisions left nothing to chance."""
    log.check_estimable()
    if (log.propensity >= 1.0).all():
        msg = message(
            "every propensity is 1, so the log shows one action a context and nothing of the others",
            hint="explore: draw a small share of decisions at random among the available actions, and log its chance",
        )
        raise SupportError(msg)
    raw = log.reward if reward is None else np.asarray(reward, dtype=np.float64)
    x, actions = encoder.transform(log.context), len(log.actions)
    if config.objective == "dr" and q is None:
        if config.model == "ridge":
            q = action_ridge(x, log.action, raw, actions, fold=folds_of(log, config.folds, rng=rng))[0]
        elif reward is not None:
            msg = message(
                f"model={config.model!r} predicts a reward of the log, and `reward` was given",
                hint="pass its out-of-fold predictions as `q`, or use model='ridge'",
            )
            raise ConfigError(msg)
        else:
            q = reward_model(log, model=config.model, folds=config.folds, rng=rng)
    mean, sd = (float(raw.mean()), float(raw.std()) or 1.0) if config.centre else (0.0, 1.0)
    against = None
    if max(config.kl) > 0:
        against = (
            checked_probs(reference, log)
            if reference is not None
            else estimate_propensity(log, rng=rng).matrix
        )
    return Lesson(
        x=x,
        action=log.action,
        propensity=log.propensity,
        reward=(raw - mean) / sd,
        actions=actions,
        q=None if q is None else (q - mean) / sd,
        available=log.available,
        reference=against,
    )


def crossfit_policy(
    log: Rounds, config: SoftmaxLearnerConfig | None = None, folds: int = 3, rng: int = 0
) -> tuple[Table, SoftmaxPolicy]:
    """The learnt policy valued honestly: probabilities (n, actions) for every row from a policy, and a reward model,
    that never saw the row's unit; and the policy refitted on all rows.

    Evaluate the first, deploy the second. Raises what `SoftmaxLearner.fit` raises.
    """
    learner = SoftmaxLearner(config)
    matrix = np.zeros((log.n, len(log.actions)))
    for fit, rest in splits(folds_of(log, folds, rng=rng)):
        policy = learner.fit(log.take(fit), rng=rng)
        matrix[rest] = policy.probs(log.take(rest))
    whole = learner.fit(log, rng=rng)
    return Table(whole.name, matrix), replace(
        whole, origin={**whole.origin, "folds": folds, "log": log.fingerprint}
    )
