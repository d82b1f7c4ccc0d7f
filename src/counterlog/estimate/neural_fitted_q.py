"""Neural fitted Q evaluation: value policies by networks that learn the fixed point of their Bellman equation.

Use when    states are vectors whose values no few features describe, or actions are continuous; propensities may be
            unknown.
Not when    the policy acts where the log never did: the network then extrapolates, and no interval here knows it.
Data        Episodes(state, action, reward; propensity not needed)
Paper       Le, Voloshin and Yue (2019), arXiv 1903.08738; the error by refits on resampled trajectories: Hao and others
            (2021), arXiv 2102.03607; Q minus Monte Carlo: Fu and others (2021), arXiv 2103.16596
Equation    y_i = r_i + gamma alive_i mean over a' ~ pi(.|s'_i) of q_target(s'_i, a')  (1)
            theta <- descent on mean (q(s_i, a_i) - y_i)^2,  theta_target <- (1 - tau) theta_target + tau theta  (2)
            value = mean over members and trajectories of V(s_0),  V(s) = mean over a ~ pi of q_target(s, a)  (3)
            se^2 = Var[V(s_0)] / n  +  mean over pairs (a, b) of ((value_a - value_b) / 2)^2  (4)
            claim - return: mean over trajectories of V(s_0) of the log's own actions - sum_t gamma^t r_t  (5)
Shapes      q, y (P, M, b) for P policies and M members | V(s_0) (P, M, n)
Units       value: discounted reward units a trajectory | inside, q is centred and scaled by the log's returns
Raises      LogError: no reward | SupportError: fewer than 4 trajectories, no known transition | ConfigError: an odd
            number of members | ConvergenceError: a loss that is not finite
Differs     each member is trained on a random half of the trajectories, its twin on the other half: the spread within
            pairs is the sampling error of the fit and of its start, and every trajectory has members that never saw it.
            Targets move a little every step instead of every 100. All policies start from one network and see one
            sequence of rows, so that differences between them are sharper than their values. y is kept within what the
            logged rewards could sum to. (4) leaves out what all members share: features, and actions never logged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from torch import Tensor

from counterlog.core.config import Config, param
from counterlog.core.episodes import Episodes
from counterlog.core.policy_rows import LOGGED, Halves, PolicyRows, policy_rows
from counterlog.core.results import Estimate
from counterlog.core.stacked_nets import Descent, StackedMLP
from counterlog.core.training_loop import Metrics, Progress, run_training
from counterlog.core.transitions import returns_to_go

Floats = NDArray[np.float64]
SETTLED = 0.005  # share of the value that the last quarter of the steps may move


@dataclass(frozen=True, kw_only=True)
class NeuralFQEConfig(Config):
    """Settings of `NeuralFQE`."""

    gamma: float = param(0.99, "discount a step", at_least=0, at_most=1)
    hidden: tuple[int, ...] = param((64, 64), "hidden units a layer", at_least=1)
    members: int = param(
        8, "networks a policy, an even number: pairs on halves of the trajectories", at_least=2
    )
    steps: int = param(3000, "descent steps", at_least=1)
    batch: int = param(128, "rows a step and network", at_least=1)
    lr: float = param(3e-3, "Adam step size at first; it falls to 0 by a cosine", above=0)
    tau: float = param(
        0.1, "share of the network that its target takes over in a step (2)", above=0, at_most=1
    )
    samples: int = param(4, "actions drawn a state from a policy with a density (1)", at_least=1)
    truncation: str = param(
        "bootstrap", "a cut trajectory goes on in its value, or counts as over", choices=("bootstrap", "end")
    )
    time: bool = param(False, "networks know the step as well as the state (for a finite horizon)")
    level: float = param(0.95, "coverage of the interval", above=0, below=1)


def bellman_target(reward: Tensor, alive: Tensor, ahead: Tensor, gamma: float) -> Tensor:
    """Equation (1).  (M, b), (M, b), (P, M, b) -> (P, M, b)"""
    return reward + gamma * alive * ahead


def pair_variance(by_member: Floats) -> Floats:
    """Second part of (4): (..., M) estimates, members 2j and 2j + 1 from opposite halves -> (...)."""
    return np.asarray((((by_member[..., ::2] - by_member[..., 1::2]) / 2) ** 2).mean(axis=-1), np.float64)


def welch(parts: Floats, freedom: Floats, level: float) -> tuple[float, float]:
    """(se, half-width) of a sum of independent variances (k,) with their degrees of freedom (k,)."""
    total = float(parts.sum())
    if total <= 0:
        return 0.0, 0.0
    degrees = total**2 / float((parts**2 / freedom).sum())
    return math.sqrt(total), float(stdtrit(degrees, 0.5 + level / 2)) * math.sqrt(total)


@dataclass(frozen=True, eq=False)
class FittedValues:
    """Action values of P policies by M members everywhere in a log.

    q     (P, M, N) of the logged steps;  v (P, M, T) of the stacked states, mean over each policy's actions
    moved (P,) what the value moved in the last quarter of the steps
    net   the target networks (P seeds, M members), on centred and scaled values: q = centre + scale net
    """

    rows: PolicyRows
    inside: NDArray[np.bool_]
    q: Floats
    v: Floats
    moved: Floats
    net: StackedMLP
    config: NeuralFQEConfig

    @property
    def names(self) -> tuple[str, ...]:
        """Policies in order."""
        return self.rows.names

    @property
    def starts(self) -> Floats:
        """(P, M, n) V(s_0)."""
        return self.v[:, :, self.rows.log.first]

    @property
    def errors(self) -> Floats:
        """(P, M, N) Bellman errors r + gamma V(s') - q; 0 where the successor is unknown."""
        r = self.rows
        target = np.asarray(r.log.reward) + r.gamma * r.alive.numpy() * self.v[:, :, r.follow.numpy()]
        out = np.zeros_like(self.q)
        out[:, :, r.use] = (target - self.q)[:, :, r.use]
        return out

    def outside(self, values: Floats) -> Floats:
        """(P, N) or (P, n) mean of (P, M, ...) over the members that never saw the trajectory."""
        seen = self.inside if values.shape[2] == self.rows.log.n else self.inside[:, self.rows.log.owners]
        return np.asarray((values * ~seen).sum(axis=1) / (~seen).sum(axis=0), np.float64)


class NeuralFQE:
    """Equations (1) to (4)."""

    name = "NFQE"

    def __init__(self, config: NeuralFQEConfig | None = None) -> None:
        self.config = config or NeuralFQEConfig()

    def fit(
        self,
        log: Episodes,
        policies: Mapping[str, Any],
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        rng: int = 0,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> FittedValues:
        """Train the networks of all policies. The name `logged` with None stands for the log's own actions.

        low, high   bounds of continuous actions; folder: checkpoints, from which a stopped run goes on
        """
        c = self.config
        truncation: Any = c.truncation
        rows = policy_rows(
            log,
            policies,
            gamma=c.gamma,
            truncation=truncation,
            time=c.time,
            samples=c.samples,
            low=low,
            high=high,
            rng=rng,
        )
        halves = Halves(rows, c.members, rng)
        training = _Training(rows, halves, c, rng)
        mark = json.dumps(
            [c.to_dict(), log.fingerprint, rng, hashlib.sha256(rows.chosen.numpy().tobytes()).hexdigest()]
        )
        run_training(
            training.advance,
            steps=c.steps,
            seeds=tuple(range(len(rows.names))),
            stateful=training.stateful(),
            log_every=max(1, c.steps // 4),
            folder=folder,
            save_every=max(1, c.steps // 4),
            mark=hashlib.sha256(f"NeuralFQE|{mark}".encode()).hexdigest(),
            progress=progress,
            what="fitted Q evaluation",
        )
        return training.values()

    def estimate(self, log: Episodes, policy: Any, *, rng: int = 0, **options: Any) -> Estimate:
        """The policy's value (3), (4); `options` as for `fit`."""
        name = str(getattr(policy, "name", "")) if policy is not None else LOGGED
        (found,) = self.evaluate(log, {name: policy}, rng=rng, **options)
        return found

    def evaluate(
        self, log: Episodes, policies: Mapping[str, Any], *, rng: int = 0, **options: Any
    ) -> tuple[Estimate, ...]:
        """All policies in one pass."""
        return value_estimates(self.fit(log, policies, rng=rng, **options))


def value_parts(fitted: FittedValues) -> tuple[Floats, Floats, Floats]:
    """(P,) values (3), and the two parts of (4): (P,) of the starts, (P,) of the fit."""
    starts = fitted.starts
    n = starts.shape[2]
    spread = starts.mean(axis=1).var(axis=1, ddof=1) / n
    return starts.mean(axis=(1, 2)), spread, pair_variance(starts.mean(axis=2))


def value_estimates(fitted: FittedValues) -> tuple[Estimate, ...]:
    """Equations (3) and (4), an estimate a policy."""
    c, log = fitted.config, fitted.rows.log
    values, starts, fits = value_parts(fitted)
    freedom = np.array([log.n - 1.0, c.members / 2])
    return tuple(
        _estimate(fitted, i, float(values[i]), *welch(np.array([starts[i], fits[i]]), freedom, c.level))
        for i in range(len(values))
    )


def _estimate(fitted: FittedValues, i: int, value: float, se: float, wide: float) -> Estimate:
    c, log = fitted.config, fitted.rows.log
    moved = float(fitted.moved[i])
    settled = abs(moved) <= max(se, SETTLED * abs(value))
    notes = [
        "the interval holds the error of the start states and of fitting on these trajectories; not that of actions "
        "the log never shows"
    ]
    if not settled:
        notes.append(f"the value moved by {moved:.3g} in the last quarter of the steps: raise steps")
    return Estimate(
        value=value,
        lo=value - wide,
        hi=value + wide,
        se=se,
        unit=f"{log.reward_unit} per trajectory, discounted by {c.gamma:g} a step",
        n=log.n,
        level=c.level,
        interval="starts and halves, t",
        policy=fitted.names[i],
        estimator=NeuralFQE.name,
        valid=settled,
        reason="" if settled else "the networks had not settled",
        notes=tuple(notes),
    )


def claim_minus_return(fitted: FittedValues) -> tuple[float, float]:
    """Equation (5) for the policy `logged`: the mean difference and its standard error, paired by trajectory.

    Members that never saw a trajectory value its start, so a network that repeats what it was fed gains nothing.
    """
    gap = fitted.outside(fitted.starts)[fitted.names.index(LOGGED)] - fitted.rows.log.returns(
        fitted.config.gamma
    )
    return float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap)))


def centre_and_scale(log: Episodes, gamma: float, truncation: str) -> tuple[float, float]:
    """Where networks begin and their unit: the log's own value and the spread of its returns to go."""
    (reward,) = log.need("reward")
    ahead = returns_to_go(np.asarray(reward), log.offsets, gamma)
    endless = truncation == "bootstrap" and gamma < 1 and not log.terminated.any()
    centre = float(reward.mean()) / (1 - gamma) if endless else float(ahead.mean())
    return centre, max(float(ahead.std()), float(reward.std())) or 1.0


class _Training:
    """Networks of all policies and members, stepped together; (1) and (2)."""

    def __init__(self, rows: PolicyRows, halves: Halves, c: NeuralFQEConfig, rng: int) -> None:
        self.rows, self.halves, self.c = rows, halves, c
        log = rows.log
        self.centre, self.scale = centre_and_scale(log, c.gamma, c.truncation)
        self.least, self.most = _range_of_values(log, c.gamma)
        sizes = (rows.inputs, *c.hidden, rows.outputs)
        self.net = alike(
            StackedMLP(sizes, seeds=range(rng, rng + len(rows.names)), members=c.members, role="fitted q")
        )
        self.target = self.net.frozen()
        self.descent = Descent(self.net, lr=c.lr)
        self.checks = StackedChecks(len(rows.names))

    def stateful(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "net": self.net,
            "target": self.target,
            "descent": self.descent,
            "draws": self.halves,
            "checks": self.checks,
        }

    def advance(self, step: int) -> Metrics:
        """One step of (1) and (2) for every network."""
        c, r = self.c, self.rows
        at = self.halves.draw_rows(c.batch)
        pick = self.halves.pick(r.draws, c.batch)
        with torch.no_grad():
            alive = r.alive[at]
            reward = (r.reward[at] - self.centre * (1 - c.gamma * alive)) / self.scale
            y = bellman_target(reward, alive, r.expected(self.target, r.follow[at], pick), c.gamma)
            y = y.clamp((self.least - self.centre) / self.scale, (self.most - self.centre) / self.scale)
        loss = (r.logged(self.net, at) - y).square().mean(dim=2).sum(dim=1)
        self.descent.step(loss, lr=c.lr * (1 + math.cos(math.pi * (step - 1) / c.steps)) / 2)
        self.target.follow(self.net, c.tau)
        if step == max(1, c.steps * 3 // 4):
            self.checks.early = torch.from_numpy(self._value())
        return {"loss": loss.detach() / c.members}

    def _value(self) -> Floats:
        """(P,) equation (3)."""
        r = self.rows
        with torch.no_grad():
            found = r.expected(self.target, r.first.expand(self.c.members, -1)).double().mean(dim=(1, 2))
        return np.asarray(self.centre + self.scale * found.numpy(), np.float64)

    def values(self) -> FittedValues:
        """The trained networks everywhere."""
        r, m = self.rows, self.c.members
        q = self.centre + self.scale * r.over_all(self.target, m, of="logged")
        v = self.centre + self.scale * r.over_all(self.target, m, of="expected")
        moved = self._value() - self.checks.early.numpy()
        return FittedValues(r, self.halves.inside, q, v, np.asarray(moved, np.float64), self.target, self.c)


class StackedChecks:
    """The values at three quarters of the steps, kept through a restart."""

    def __init__(self, policies: int) -> None:
        self.early = torch.zeros(policies, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """The values."""
        return {"early": self.early}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.early = state["early"].clone()


def alike(net: StackedMLP) -> StackedMLP:
    """The same starting network for every policy; members differ."""
    with torch.no_grad():
        for leaf in net.leaves.values():
            leaf.copy_(leaf[:1].expand_as(leaf).clone())
    return net


def _range_of_values(log: Episodes, gamma: float) -> tuple[float, float]:
    """What the logged rewards could sum to: no policy can earn more or less than the best or worst step for ever."""
    (reward,) = log.need("reward")
    total = 1 / (1 - gamma) if gamma < 1 else float(log.lengths.max())
    low, high = float(reward.min()), float(reward.max())
    ends = log.terminated.any() or gamma == 1
    return (min(low, low * total) if ends else low * total), (
        max(high, high * total) if ends else high * total
    )
