"""PPO: several passes over fresh rollouts, with the gain of an action cut where its probability moved too far.

Use when    you may act in a simulator as much as you like, actions are continuous or discrete: the known baseline.
Not when    steps are dear (use sac, off-policy-mdpo), or only a log is at hand (use td3-bc, iql).
Data        an environment: a Gymnasium id, or a function of the number of copies
Paper       Schulman, Wolski, Dhariwal, Radford and Klimov, Proximal Policy Optimization Algorithms, 2017,
            arXiv 1707.06347.
Equation    r = exp(log pi(a|s) - log pi_old(a|s))
            policy: - mean min(r A, clip(r, 1 +- clip) A)                                             (1)
            value:  mean max((v - R)^2, (v_old + clip(v - v_old, +-clip_value) - R)^2)                (2)
            loss:   (1) - entropy_weight H + value_weight (2)                                         (3)
            near:   mean (r - 1 - log r), an estimate of KL(old || new)                               (4)
Shapes      s (seeds, b, d) | a (seeds, b, k) or codes (seeds, b) | A, R, v, r (seeds, b) | losses (seeds,)
Units       A: deviations within the batch | R, v: reward units (scaled where rewards are) | losses: none
Raises      ConfigError: infinite action bounds, a batch of one row, target_kl with several seeds
            SupportError: the environment gave numbers that are not finite | ConvergenceError: a loss is not finite
Differs     a time limit keeps its bootstrap (core.advantages); states are scaled by their running moments by default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.advantages import standardised
from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.on_policy import OnPolicyConfig, OnPolicyLearner, entropy, value_error
from counterlog.core.stacked_nets import Descent
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Parameters of PPO."""

    batch: int = param(64, "rows a step and seed", at_least=2)
    epochs: int = param(10, "passes over a rollout", at_least=1)
    clip: float = param(0.2, "how far a probability may move from 1 and still gain", above=0)
    clip_value: float | None = param(None, "how far a value may move from its old one (2)", above=0)
    value_weight: float = param(0.5, "weight of (2)", at_least=0)
    entropy_weight: float = param(0.0, "weight of the entropy (3)", at_least=0)
    longest_gradient: float = param(0.5, "bound of the gradient's norm", above=0)
    target_kl: float | None = param(None, "stop the passes when (4) exceeds 1.5 times this", above=0)
    anneal: bool = param(False, "lower the step size to 0 along the run")


def clipped_gain(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Minus (1): (seeds, b) each -> (seeds,)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean(dim=1)


def nearness(log_ratio: Tensor) -> Tensor:
    """Equation (4), never negative.  (seeds, b) -> (seeds,) nats"""
    return (log_ratio.exp() - 1 - log_ratio).mean(dim=1)


class PPO(OnPolicyLearner):
    """Proximal policy optimisation."""

    config: PPOConfig

    def __init__(self, config: PPOConfig | None = None) -> None:
        self.config = config or PPOConfig()
        self.annealed = self.config.anneal

    def build_descents(self) -> None:
        """One Adam over policy and value, with one bound of the gradient's norm."""
        c = self.config
        if c.target_kl is not None and c.seeds > 1:
            msg = message(
                f"target_kl with {c.seeds} seeds", hint="seeds would stop at different steps: use seeds=1"
            )
            raise ConfigError(msg)
        self.descent = Descent(self.actor, self.value, lr=c.lr, eps=1e-5, clip=c.longest_gradient)

    def learn(self, rollout: Batch, step: int) -> Metrics:
        """`epochs` passes of minibatches."""
        c = self.config
        if c.anneal:
            self.descent.lr = c.lr * (1 - (step - 1) / self.rounds)
        found: list[Metrics] = []
        for batch in self.minibatches(rollout, c.batch, c.epochs):
            found.append(self.update(batch))
            if c.target_kl is not None and float(found[-1]["kl"]) > 1.5 * c.target_kl:
                break
        return {name: torch.stack([m[name] for m in found]).mean(dim=0) for name in found[0]}

    def update(self, batch: Batch) -> Metrics:
        """One step down (3); none when `target_kl` is exceeded."""
        c = self.config
        advantage = standardised(batch.advantage)
        log_ratio = self.actor.log_prob(batch.state, batch.action) - batch.log_propensity
        ratio = log_ratio.exp()
        gain = clipped_gain(ratio, advantage, c.clip)
        error = value_error(self.value.values(batch.state), batch, c.clip_value)
        spread = entropy(self.actor, batch.state).mean(dim=1)
        kl = nearness(log_ratio.detach())
        if c.target_kl is None or float(kl) <= 1.5 * c.target_kl:
            self.updates += 1
            self.descent.step(-gain - c.entropy_weight * spread + c.value_weight * error)
        return {
            "gain": gain.detach(),
            "value_error": error.detach(),
            "entropy": spread.detach(),
            "kl": kl,
            "clipped": ((ratio.detach() - 1).abs() > c.clip).float().mean(dim=1),
        }
