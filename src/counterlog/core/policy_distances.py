"""How far one policy is from another, state by state: KL divergences in closed form, and Tsallis' generalisation.

    KL(p || q) of diagonal Gaussians = sum log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2  (1)
    ln_q x = (x^(q - 1) - 1) / (q - 1),   ln x for q = 1                                               (2)
    D_q(p, r) = E_p[ln_q p] - q E_p[ln_q r] + (q - 1) E_r[ln_q r]                                      (3)

(3) is the Bregman divergence of E_p[ln_q p]: KL for q = 1, the squared distance for q = 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.actor_heads import Actor, normal_log_density


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """Equation (1), KL(first || second).  (..., k) -> (...) nats"""
    gap = ((2 * log_std).exp() + (mean - other_mean).square()) * (-2 * other_log_std).exp() / 2
    return (other_log_std - log_std + gap - 0.5).sum(dim=-1)


def categorical_kl(log_p: Tensor, other_log_p: Tensor) -> Tensor:
    """KL(first || second) of log-probabilities.  (..., actions) -> (...) nats"""
    return (log_p.exp() * (log_p - other_log_p)).sum(dim=-1)


def tsallis_log(log_x: Tensor, q: float) -> Tensor:
    """Equation (2) from log x."""
    return log_x if q == 1 else torch.expm1((q - 1) * log_x) / (q - 1)


def tsallis_divergence(log_p: Tensor, other_log_p: Tensor, q: float) -> Tensor:
    """Equation (3) of log-probabilities.  (..., actions) -> (...)"""
    p, r = log_p.exp(), other_log_p.exp()
    own, across = tsallis_log(log_p, q), tsallis_log(other_log_p, q)
    return (p * own - q * p * across + (q - 1) * r * across).sum(dim=-1)


@dataclass(frozen=True)
class Outputs:
    """What a stack of policies says at some states: moments (seeds, b, k), or log-probabilities (seeds, b, actions)."""

    mean: Tensor
    log_std: Tensor | None

    @classmethod
    def of(cls, actor: Actor, state: Tensor) -> Outputs:
        """One forward pass of a gaussian or categorical actor."""
        if actor.head.kind == "categorical":
            return cls(torch.log_softmax(actor(state), dim=-1), None)
        return cls(*actor.moments(state))

    def detach(self) -> Outputs:
        """Without gradient."""
        return Outputs(self.mean.detach(), None if self.log_std is None else self.log_std.detach())

    def kl(self, other: Outputs) -> Tensor:
        """(seeds, b) KL(self || other)."""
        if self.log_std is None or other.log_std is None:
            return categorical_kl(self.mean, other.mean)
        return gaussian_kl(self.mean, self.log_std, other.mean, other.log_std)

    def log_prob(self, action: Tensor) -> Tensor:
        """(seeds, b) log-density or log-probability of actions."""
        if self.log_std is None:
            return self.mean.gather(-1, action[..., None])[..., 0]
        return normal_log_density(action, self.mean, self.log_std)
