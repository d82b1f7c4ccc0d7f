"""MDPO: several plain gradient steps a rollout, kept near the last policy by a KL penalty whose weight has a meaning.

Use when    you may act in a simulator and want a trust region without line search or clipping, actions of either kind.
Not when    steps are few: at its few gradient steps PPO is ahead early; with a replay of old steps use off-policy-mdpo.
Data        an environment: a Gymnasium id, or a function of the number of copies
Paper       Tomar, Shani, Efroni and Ghavamzadeh, Mirror Descent Policy Optimization, ICLR 2022, arXiv 2005.09814,
            sections 3 and 4.1.
Equation    pi_{k+1} = argmax_p  <A_k, p> - D(p, pi_k) / t_k:   for KL  pi_k exp(t_k A_k) / Z          (1)
            t_k = t max(1 - k / K, 1 / K),   k = 0 .. K - 1                                           (2)
            r = exp(log pi(a|s) - log pi_k(a|s))
            loss = - mean(r A) + mean_s D(pi, pi_k) / t_k,   m steps on the whole rollout             (3)
            D    = KL(pi || pi_k), in closed form (TRPO's is KL(pi_k || pi))                          (4)
            D_q  = Tsallis' divergence; with densities  mean r (ln_q pi - q ln_q pi_k)                (5)
Shapes      s (seeds, b, d) | a (seeds, b, k) or codes (seeds, b) | A, r, D (seeds, b) | loss, t (seeds,) or one number
Units       A: deviations within the rollout | D: nats | t: step size, none
Raises      ConfigError: infinite action bounds, a batch of one row, q outside [1, 2]
            SupportError: the environment gave numbers that are not finite | ConvergenceError: a loss is not finite
Differs     the first rollout is played by the policy that is then improved (authors' code: by another random network);
            step sizes never exceed t; a time limit keeps its bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.on_policy import PolicyFirst, PolicyFirstConfig, entropy
from counterlog.core.policy_distances import Outputs, tsallis_divergence, tsallis_log
from counterlog.core.stacked_nets import Descent, gradient_norm
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class MDPOConfig(PolicyFirstConfig):
    """Parameters of on-policy MDPO. `MDPOConfig.minimal()` is the paper's version without code-level additions."""

    m: int = param(10, "gradient steps of the policy on a rollout", at_least=1)
    t: float = param(1.0, "first step size: the penalty weighs 1 / t", above=0)
    schedule: str = param("linear", "linear: t falls to t / rounds (2)", choices=("linear", "constant"))
    direction: str = param(
        "new_old", "KL(new || old), or KL(old || new) as in TRPO", choices=("new_old", "old_new")
    )
    divergence: str = param("kl", "the penalty", choices=("kl", "tsallis"))
    q: float = param(1.0, "Tsallis index: 1 is KL, 2 the squared distance", at_least=1, at_most=2)
    batch: int | None = param(None, "rows of a policy step; none: the whole rollout, m times", at_least=2)
    limit: float = param(0.01, "KL(old || new) above which a round counts as beyond TRPO's region", above=0)

    @classmethod
    def minimal(cls, **settings: Any) -> Self:
        """No normalisers, no bound on the value's move, uniform starting weights, lambda 1."""
        plain: dict[str, Any] = {
            "normalise_states": False,
            "normalise_rewards": False,
            "clip_value": None,
            "orthogonal": False,
            "lam": 1.0,
        }
        return cls(**{**plain, **settings})


def step_size(k: int, rounds: int, t: float, schedule: str) -> float:
    """Equation (2) of round k = 0 .. rounds - 1."""
    return t if schedule == "constant" else t * max(1 - k / rounds, 1 / rounds)


def mirror_step(prior: Tensor, advantage: Tensor, t: float) -> Tensor:
    """Equation (1) for KL, exactly.  (..., actions) probabilities and advantages -> probabilities"""
    return torch.softmax(prior.log() + t * advantage, dim=-1)


def projected_step(prior: Tensor, advantage: Tensor, t: float) -> Tensor:
    """Equation (1) for Tsallis' q = 2: the nearest distribution to prior + t A / 2.  (..., actions)"""
    y = prior + t * advantage / 2
    falling = y.sort(dim=-1, descending=True).values
    excess = (falling.cumsum(dim=-1) - 1) / torch.arange(1, y.shape[-1] + 1, dtype=y.dtype)
    last = (falling > excess).sum(dim=-1, keepdim=True) - 1
    return (y - excess.gather(-1, last)).clamp(min=0)


def mdpo_loss(ratio: Tensor, advantage: Tensor, penalty: Tensor, t: float) -> Tensor:
    """Equation (3).  (seeds, b) each -> (seeds,)"""
    return penalty.mean(dim=1) / t - (ratio * advantage).mean(dim=1)


def tsallis_penalty(new: Outputs, old: Outputs, log_new: Tensor, log_old: Tensor, q: float) -> Tensor:
    """(5): exact where actions are codes; else over the old policy's actions, with the ratio.  (seeds, b)"""
    if new.log_std is None:
        return tsallis_divergence(new.mean, old.mean, q)
    return (log_new - log_old).exp() * (tsallis_log(log_new, q) - q * tsallis_log(log_old, q))


class MDPO(PolicyFirst):
    """On-policy mirror descent policy optimisation."""

    config: MDPOConfig

    def __init__(self, config: MDPOConfig | None = None) -> None:
        self.config = config or MDPOConfig()
        self.annealed = self.config.schedule == "linear"

    def build_descents(self) -> None:
        """The policy's descent beside the value's."""
        super().build_descents()
        c = self.config
        self.descent = Descent(self.actor, lr=c.lr, eps=1e-5, clip=c.longest_gradient)

    def step_policy(self, rollout: Batch, advantage: Tensor, step: int) -> Metrics:
        """m steps down (3), with the policy of the rollout as pi_k."""
        c = self.config
        t = step_size(step - 1, self.rounds, c.t, c.schedule)
        whole = rollout.with_(advantage=advantage)
        prior = self.actor.frozen()
        old = Outputs.of(prior, whole.state)
        norm = torch.zeros(len(self.seeds))
        if c.batch is None:
            for _ in range(c.m):
                norm = self.step_down(whole, old, t)
        else:
            for part in self.minibatches(whole, c.batch, c.m):
                norm = self.step_down(part, Outputs.of(prior, part.state), t)
        with torch.no_grad():
            new = Outputs.of(self.actor, whole.state)
            log_ratio = new.log_prob(whole.action) - whole.log_propensity
            back = old.kl(new).mean(dim=1)
            return {
                "step_size": torch.full_like(back, t),
                "kl_new_old": new.kl(old).mean(dim=1),
                "kl_old_new": back,
                "beyond": (back > c.limit).float(),
                "gain": (log_ratio.exp() * whole.advantage).mean(dim=1),
                "largest_ratio": log_ratio.amax(dim=1).clamp(max=80).exp(),
                "gradient": norm,
                "entropy": entropy(self.actor, whole.state).mean(dim=1),
            }

    def step_down(self, batch: Batch, old: Outputs, t: float) -> Tensor:
        """One step down (3); the gradient's norm (seeds,)."""
        c = self.config
        new = Outputs.of(self.actor, batch.state)
        log_new, log_old = new.log_prob(batch.action), batch.log_propensity
        if c.divergence == "tsallis":
            penalty = tsallis_penalty(new, old, log_new, log_old, c.q)
        else:
            penalty = new.kl(old) if c.direction == "new_old" else old.kl(new)
        loss = mdpo_loss((log_new - log_old).exp(), batch.advantage, penalty, t)
        gradients = torch.autograd.grad(loss.sum(), list(self.actor.leaves.values()))
        self.descent.apply(gradients)
        return gradient_norm(gradients)
