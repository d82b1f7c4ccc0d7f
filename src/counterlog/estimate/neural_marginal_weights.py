"""Neural marginal weights: how much more often a policy is in a state and action than the log, in learnt features.

Use when    trajectories are long, actions continuous or states vectors, and a value learnt by networks wants a check
            and a correction that does not rest on them alone.
Not when    the policy goes where the log never was: no weight on logged rows can stand for those.
Data        Episodes(state, action, reward; propensity not needed)
Paper       Uehara, Huang and Jiang (2020), arXiv 1910.12809 (MWL, and doubly robust); Yang and others (2020), arXiv
            2007.03438 (the DICE family as one regularised Lagrangian); Kallus and Uehara (2020), arXiv 1908.08526
Equation    w(s, a) = (discounted visits of the policy) / (share of the log's rows);  value = mean over rows of w r  (1)
            features: w = max(phi beta, 0), phi the last hidden layer of the policy's fitted Q network and 1,
                      M^T beta = f0,  M = mean over rows of phi_i (phi_i - gamma alive_i phi_pi(s'_i))^T,
                      f0 = mean of phi_pi(s_0)  (2)
            dice:     max_{w >= 0} min_{Q, lam} (1-gamma) E[Q(s_0, pi)] + lam
                      + E[w (alpha_r r + gamma alive Q(s', pi) - Q - lam)] + alpha_q E[Q^2] - alpha_w E[(w - 1)^2]  (3)
            nothing terminates: w is divided so that mean w = 1 / (1 - gamma)  (4)
            doubly robust:  psi_j = V(s_0j) + (n / N) sum_{i in j} w_i (r_i + gamma alive_i V(s'_i) - q_i),
                      value = mean_j psi_j, V, q, w from members that never saw trajectory j  (5)
Shapes      phi (N, m + 1), discrete actions a block each | w (P, M, N) | psi (P, n)
Units       value: discounted reward units a trajectory | w: steps (1 / (1 - gamma) on average), none for gamma = 0
Raises      LogError: no reward | ConfigError: dice with gamma = 1, gendice or bestdice with terminations
            SupportError: fewer than 4 trajectories | ConvergenceError: no solution, a loss that is not finite
Differs     papers train w and Q against each other by stochastic gradients: (3) does, and needs tuning for every log.
            (2) takes both sides from the span of one learnt layer, where the saddle point is a linear system, solved by
            each member on its own half of the trajectories. (5) crosses the halves; its error adds the spread between
            the estimates of single pairs of halves.
Builds on   estimate/neural-fitted-q, estimate/marginal-weights
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from counterlog.core import ragged
from counterlog.core.bellman import solve
from counterlog.core.config import param
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message
from counterlog.core.policy_rows import LOGGED, Halves
from counterlog.core.results import Estimate
from counterlog.core.stacked_nets import ACTIVATIONS, Descent, StackedMLP, StackedTensors
from counterlog.core.training_loop import Metrics, run_training
from counterlog.core.trajectory_terms import NEURAL
from counterlog.estimate.marginal_weights import DICE
from counterlog.estimate.neural_fitted_q import (
    FittedValues,
    NeuralFQE,
    NeuralFQEConfig,
    alike,
    pair_variance,
    value_estimates,
    welch,
)

Floats = NDArray[np.float64]
FEWEST = 10  # effective trajectories below which weights are not believed
BLOCK = 20_000
SHIFT = math.log(math.expm1(1.0))  # softplus(SHIFT) = 1: weights begin at 1


@dataclass(frozen=True, kw_only=True)
class NeuralMarginalWeightsConfig(NeuralFQEConfig):
    """Settings of `NeuralMarginalWeights`; those of the networks are fitted Q evaluation's."""

    learner: str = param("features", "how the weights are found (2, 3)", choices=("features", *DICE))
    ridge: float = param(1e-3, "ridge of (2), features scaled to mean square 1", at_least=0)
    dice_lr: float = param(1e-3, "Adam step size of (3)", above=0)


# the linear saddle point in learnt features


def last_layer(net: StackedMLP, x: Tensor) -> Tensor:
    """(P, M, b, inputs) -> (P, M, b, m + 1): the last hidden layer, and 1."""
    h = x.flatten(0, 1)
    for i in range(net.layers - 1):
        h = torch.baddbmm(net.leaves[f"bias{i}"].flatten(0, 1), h, net.leaves[f"weight{i}"].flatten(0, 1))
        h = ACTIVATIONS[net.activation](h)
    wide = torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)
    return wide.unflatten(0, x.shape[:2])


def feature_weights(squares: Floats, crossed: Floats, start: Floats, gamma: float, ridge: float) -> Floats:
    """Equation (2): beta (m,) from the means of phi_i phi_i^T and phi_i alive_i phi_pi(s'_i)^T (m, m), and f0 (m,).

    Features are scaled to mean square 1, so that one ridge serves all. Raises `ConvergenceError`.
    """
    size = np.sqrt(np.diag(squares))
    used = size > 1e-8
    scale = np.where(used, size, 1.0)
    matrix = (squares - gamma * crossed) / np.outer(scale, scale)
    matrix[~used] = matrix[:, ~used] = 0.0
    matrix[~used, ~used] = 1.0
    return np.where(used, solve(matrix.T, np.where(used, start / scale, 0.0), ridge), 0.0) / scale


def fitted_weights(fitted: FittedValues, ridge: float) -> Floats:
    """(P, M, N) weights by (2), each member's from its own half; before (4)."""
    r = fitted.rows
    log, gamma = r.log, fitted.config.gamma
    out = np.zeros_like(fitted.q)
    for p in range(len(r.names)):
        for m in range(fitted.config.members):
            alone, inside = _one(fitted.net, p, m), fitted.inside[m]
            mine = r.use[inside[log.owners[r.use]]]
            parts = [_moments(fitted, alone, p, torch.from_numpy(rows)) for rows in _blocks(mine)]
            squares, crossed = (sum(x) / len(mine) for x in zip(*parts, strict=True))
            start = _under(fitted, alone, p, r.first[inside]).mean(axis=0)
            beta = feature_weights(squares, crossed, start, gamma, ridge)
            for rows in _blocks(r.use):
                out[p, m, rows] = np.maximum(_at(fitted, alone, torch.from_numpy(rows)) @ beta, 0.0)
    return out


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, len(rows) // BLOCK))


def _moments(fitted: FittedValues, alone: StackedMLP, p: int, rows: Tensor) -> tuple[Floats, Floats]:
    """Sums of phi phi^T and phi alive phi_pi(s')^T over some rows, (m, m) each."""
    r = fitted.rows
    here = _at(fitted, alone, rows)
    ahead = _under(fitted, alone, p, r.follow[rows]) * r.alive[rows].double().numpy()[:, None]
    return here.T @ here, here.T @ ahead


def _at(fitted: FittedValues, alone: StackedMLP, rows: Tensor) -> Floats:
    """(b, m) phi of logged steps; a block an action when these are discrete."""
    r = fitted.rows
    if not r.discrete:
        return _layer(alone, torch.cat([r.state[rows], r.action[rows]], dim=-1))
    one_hot = np.eye(r.outputs)[r.action[rows].numpy()]
    return _by_action(_layer(alone, r.state[rows]), one_hot)


def _under(fitted: FittedValues, alone: StackedMLP, p: int, places: Tensor) -> Floats:
    """(b, m) phi_pi of stacked states."""
    r = fitted.rows
    x = r.state[places]
    if r.discrete:
        return _by_action(_layer(alone, x), r.chosen[p, places].double().numpy())
    draws = [_layer(alone, torch.cat([x, r.chosen[p, places, j]], dim=-1)) for j in range(r.draws)]
    return np.asarray(np.mean(draws, axis=0), np.float64)


def _layer(alone: StackedMLP, x: Tensor) -> Floats:
    with torch.no_grad():
        return np.asarray(last_layer(alone, x[None, None])[0, 0].double().numpy(), np.float64)


def _by_action(psi: Floats, share: Floats) -> Floats:
    """(b, m), (b, A) -> (b, A m)."""
    return np.asarray((share[:, :, None] * psi[:, None, :]).reshape(len(psi), -1), np.float64)


def _one(net: StackedMLP, p: int, m: int) -> StackedMLP:
    """One member of one policy as a stack of its own."""
    alone = net.take(p)
    alone.leaves = {k: v[:, m : m + 1] for k, v in alone.leaves.items()}
    alone.members = 1
    return alone


# the saddle point by descent and ascent


class _Dice:
    """Equation (3) by Adam on both sides; w is read from an average of its networks."""

    def __init__(self, fitted: FittedValues, c: NeuralMarginalWeightsConfig, rng: int) -> None:
        self.rows, self.c = fitted.rows, c
        self.alpha_q, self.alpha_w, self.alpha_r, self.normalised = DICE[c.learner]
        seeds = range(rng, rng + len(fitted.names))
        sizes = (self.rows.inputs, *c.hidden, self.rows.outputs)
        self.q = alike(StackedMLP(sizes, seeds=seeds, members=c.members, role="dice q"))
        self.w = alike(StackedMLP(sizes, seeds=seeds, members=c.members, role="dice w", last=0.01))
        self.lam = StackedTensors({"lam": (c.members, 1)}, seeds)
        self.average = self.w.frozen()
        self.down = Descent(self.q, self.lam, lr=c.dice_lr, betas=(0.5, 0.999))
        self.up = Descent(self.w, lr=c.dice_lr, betas=(0.5, 0.999))
        self.halves = Halves(self.rows, c.members, rng)
        reward = np.asarray(self.rows.log.reward)
        self.mean, self.spread = float(reward.mean()), float(reward.std()) or 1.0

    def advance(self, step: int) -> Metrics:
        """One step of both sides on the same rows."""
        c, r, gamma = self.c, self.rows, self.c.gamma
        at, first = self.halves.draw_rows(c.batch), self.halves.draw_starts(c.batch)
        pick = self.halves.pick(r.draws, c.batch)
        q, w = r.logged(self.q, at), functional.softplus(r.logged(self.w, at) + SHIFT)
        ahead = gamma * r.alive[at] * r.expected(self.q, r.follow[at], pick)
        lam = self.lam["lam"] if self.normalised else torch.zeros(1)
        gap = self.alpha_r * (r.reward[at] - self.mean) / self.spread + ahead - q - lam
        begun = (1 - gamma) * r.expected(self.q, r.first[first], pick).mean(dim=2)
        member = begun + lam[..., 0] + (w * gap).mean(dim=2)
        member = member + self.alpha_q * q.square().mean(dim=2) - self.alpha_w * (w - 1).square().mean(dim=2)
        loss = member.sum(dim=1)
        nets = [*self.q.leaves.values(), *self.lam.leaves.values()]
        descent = torch.autograd.grad(loss.sum(), nets, retain_graph=True, allow_unused=True)
        ascent = torch.autograd.grad(-loss.sum(), list(self.w.leaves.values()))
        lr = c.dice_lr * min(1.0, 2 * (1 - (step - 1) / c.steps))
        self.down.apply(descent, lr=lr)
        self.up.apply(ascent, lr=lr)
        self.average.follow(self.w, 0.01)
        return {"lagrangian": loss.detach() / c.members}

    def weights(self) -> Floats:
        """(P, M, N) in the unit of (1)."""
        raw = self.rows.over_all(self.average, self.c.members, of="logged")
        return np.asarray(np.logaddexp(0.0, raw + SHIFT) / (1 - self.c.gamma), np.float64)


# what the weights are used for


def normalised(weights: Floats, fitted: FittedValues) -> Floats:
    """Equation (4) within each member's own half; weights stay as they are where tasks terminate or gamma is 1, and
    where a member found none above 0."""
    c, log = fitted.config, fitted.rows.log
    if log.terminated.any() or c.gamma == 1 or c.truncation == "end":
        return weights
    mine = fitted.inside[:, log.owners[fitted.rows.use]]
    means = (weights[:, :, fitted.rows.use] * mine).sum(axis=2) / mine.sum(axis=1)
    return np.asarray(weights / np.where(means > 0, means * (1 - c.gamma), 1.0)[..., None], np.float64)


def weighted_by_member(weights: Floats, fitted: FittedValues) -> Floats:
    """(P, M) equation (1) on each member's own half."""
    log, use = fitted.rows.log, fitted.rows.use
    mine = fitted.inside[:, log.owners[use]]
    earned = weights[:, :, use] * np.asarray(log.reward)[use]
    return np.asarray((earned * mine).sum(axis=2) / mine.sum(axis=1), np.float64)


def member_units(weights: Floats, fitted: FittedValues) -> Floats:
    """(P, M, n) the terms of (5) by every member, for the trajectories that it saw too."""
    log, use = fitted.rows.log, fitted.rows.use
    pull = weights * fitted.errors
    moved = ragged.sums(pull.reshape(-1, log.rows).T, log.offsets).T.reshape(*pull.shape[:2], log.n)
    return np.asarray(fitted.starts + moved * (log.n / len(use)), np.float64)


def doubly_robust_units(weights: Floats, fitted: FittedValues) -> Floats:
    """Equation (5): psi (P, n)."""
    return fitted.outside(member_units(weights, fitted))


def pair_moves(weights: Floats, fitted: FittedValues) -> Floats:
    """(P, M / 2) numbers whose mean square is the variance of (5) that comes from having fitted on these halves and no
    others: the estimates of single pairs, each of which values all trajectories, from their mean, over sqrt(pairs - 1).
    0 for one pair."""
    by_member = member_units(weights, fitted) * ~fitted.inside
    pairs = by_member.reshape(len(by_member), -1, 2, by_member.shape[2]).sum(axis=2).mean(axis=2)
    return np.asarray(
        (pairs - pairs.mean(axis=1, keepdims=True)) / math.sqrt(max(pairs.shape[1] - 1, 1)), np.float64
    )


def effective_trajectories(weights: Floats, fitted: FittedValues) -> Floats:
    """(P,) (sum_j h_j)^2 / sum_j h_j^2, h_j the weight that trajectory j holds by members that never saw it."""
    held = np.stack([ragged.sums(line, fitted.rows.log.offsets) for line in fitted.outside(weights)])
    return np.asarray(held.sum(axis=1) ** 2 / np.maximum((held**2).sum(axis=1), 1e-300), np.float64)


@dataclass(frozen=True, eq=False)
class NeuralPieces:
    """Fitted values, weights (P, M, N) and what follows: psi (P, n), `pair_moves` (P, M / 2), effective trajectories
    (P,)."""

    fitted: FittedValues
    weights: Floats
    units: Floats
    moves: Floats
    ess: Floats


class NeuralMarginalWeights:
    """Equations (1) to (5)."""

    name = "NMIS"

    def __init__(self, config: NeuralMarginalWeightsConfig | None = None) -> None:
        self.config = config or NeuralMarginalWeightsConfig()

    def fit(
        self, log: Episodes, policies: Mapping[str, Any], *, rng: int = 0, **options: Any
    ) -> NeuralPieces:
        """Networks and weights of all policies; `options` as for `NeuralFQE.fit`."""
        c = self.config
        if c.learner != "features":
            self._check_dice(log)
        fitted = NeuralFQE(c).fit(log, policies, rng=rng, **options)
        if c.learner == "features":
            raw = fitted_weights(fitted, c.ridge)
        else:
            dice = _Dice(fitted, c, rng)
            run_training(
                dice.advance,
                steps=c.steps,
                seeds=tuple(range(len(fitted.names))),
                stateful={},
                log_every=c.steps,
            )
            raw = dice.weights()
        weights = normalised(raw, fitted)
        units = doubly_robust_units(weights, fitted)
        moves, ess = pair_moves(weights, fitted), effective_trajectories(weights, fitted)
        return NeuralPieces(fitted, weights, units, moves, ess)

    def _check_dice(self, log: Episodes) -> None:
        c = self.config
        if c.gamma == 1:
            raise ConfigError(
                message(f"{c.learner} with gamma = 1", hint="use learner='features' or gamma below 1")
            )
        if DICE[c.learner][3] and log.terminated.any():
            msg = message(
                f"{c.learner} needs the policy's discounted time, unknown when trajectories terminate",
                hint="use features, dualdice or algaedice",
            )
            raise ConfigError(msg)

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0, **options: Any) -> Estimate:
        """Equation (1); its error from the pairs of halves."""
        name = str(getattr(policy, "name", "")) if policy is not None else LOGGED
        return neural_estimates(self.fit(log, {name: policy}, rng=rng, **options), ("NMIS",))[0]


class NeuralDR(NeuralMarginalWeights):
    """Equation (5): the networks' values, corrected by weighted Bellman errors."""

    name = "NDR"

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0, **options: Any) -> Estimate:
        """Equation (5); its error over trajectories and between pairs."""
        name = str(getattr(policy, "name", "")) if policy is not None else LOGGED
        return neural_estimates(self.fit(log, {name: policy}, rng=rng, **options), ("NDR",))[0]


def neural_estimates(pieces: NeuralPieces, estimators: Sequence[str] = NEURAL) -> tuple[Estimate, ...]:
    """Estimates by NFQE, NMIS and NDR from one fit, policies outermost."""
    fitted = pieces.fitted
    c, log = fitted.config, fitted.rows.log
    plain = value_estimates(fitted)
    by_member = weighted_by_member(pieces.weights, fitted)
    found = []
    for i, policy in enumerate(fitted.names):
        ess = float(pieces.ess[i])
        enough = ess >= FEWEST
        lack = "" if enough else f"the weights rest on {ess:.1f} trajectories, below {FEWEST}"
        shared: dict[str, Any] = {
            "unit": plain[i].unit,
            "n": log.n,
            "level": c.level,
            "policy": policy,
            "ess": ess,
            "valid": enough and plain[i].valid,
            "reason": lack or plain[i].reason,
        }
        for name in estimators:
            if name == "NFQE":
                found.append(plain[i])
            elif name == "NMIS":
                se, wide = welch(pair_variance(by_member[i])[None], np.array([c.members / 2]), c.level)
                value = float(by_member[i].mean())
                note = "each half takes its weights as given; the spread over halves is the error"
                found.append(
                    Estimate(
                        value=value, lo=value - wide, hi=value + wide, se=se, estimator=name, interval="halves, t",
                        notes=(note,), **shared,
                    )
                )  # fmt: skip
            elif name == "NDR":
                value = float(pieces.units[i].mean())
                parts = [float(pieces.units[i].var(ddof=1)) / log.n, float(np.square(pieces.moves[i]).mean())]
                se, wide = welch(np.array(parts), np.array([log.n - 1.0, max(c.members / 2 - 1, 1)]), c.level)
                found.append(
                    Estimate(
                        value=value, lo=value - wide, hi=value + wide, se=se, estimator=name,
                        interval="trajectories and pairs, t",
                        notes=("values and weights of a trajectory come from networks that never saw it",), **shared,
                    )
                )  # fmt: skip
            else:
                raise ConfigError(message(f"{name!r} is no neural estimator", expected=", ".join(NEURAL)))
    return tuple(found)


def estimates_by_networks(
    log: Episodes, policies: Mapping[str, Any], names: Sequence[str], settings: Any, *, rng: int = 0
) -> dict[tuple[str, str], Estimate]:
    """By (policy, name), at the discount, truncation, time and level of `settings` (a `TrajectoriesConfig`)."""
    c = NeuralMarginalWeightsConfig(
        gamma=settings.gamma, truncation=settings.truncation, time=settings.time, level=settings.level
    )
    found = neural_estimates(NeuralMarginalWeights(c).fit(log, policies, rng=rng), names)
    return {(e.policy, e.estimator): e for e in found}
