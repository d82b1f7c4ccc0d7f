"""TRPO: one step a rollout along the natural gradient, as long as a bound on the KL divergence allows.

Use when    each step must keep the new policy provably near the old one, and you can pay for conjugate gradients.
Not when    a penalty will do: mdpo takes plain gradient steps and is simpler.
Data        an environment: a Gymnasium id, or a function of the number of copies
Paper       Schulman, Levine, Moritz, Jordan and Abbeel, Trust Region Policy Optimization, ICML 2015, arXiv 1502.05477.
Equation    g = grad mean(r A) at the old policy,   F v = Hessian of mean KL(old || new) times v + damping v     (1)
            x = F^-1 g by conjugate gradients,      longest step  b = sqrt(2 limit / x F x)                      (2)
            theta = theta_old + 0.8^j b x for the first j with a gain above 0 and mean KL(old || new) <= limit   (3)
Shapes      s (seeds, b, d) | a (seeds, b, k) or codes (seeds, b) | g, x (seeds, parameters) | KL (seeds,)
Units       A: deviations within the rollout | KL, limit: nats
Raises      ConfigError: infinite action bounds, a batch of one row
            SupportError: the environment gave numbers that are not finite | ConvergenceError: a loss is not finite
Differs     states are scaled by their running moments by default; the line search is each seed's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.on_policy import PolicyFirst, PolicyFirstConfig, entropy
from counterlog.core.policy_distances import Outputs
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch


@dataclass(frozen=True, kw_only=True)
class TRPOConfig(PolicyFirstConfig):
    """Parameters of TRPO."""

    limit: float = param(0.01, "largest mean KL(old || new) of a step", unit="nats", above=0)
    damping: float = param(0.1, "added to the Fisher matrix's diagonal (1)", at_least=0)
    iterations: int = param(10, "conjugate gradient iterations", at_least=1)
    shrink: float = param(0.8, "factor of the line search", above=0, below=1)
    tries: int = param(10, "steps of the line search", at_least=1)


def flat(parts: Sequence[Tensor]) -> Tensor:
    """Tensors (seeds, ...) end to end: (seeds, parameters)."""
    return torch.cat([p.reshape(p.shape[0], -1) for p in parts], dim=1)


def conjugate_gradient(product: Callable[[Tensor], Tensor], g: Tensor, iterations: int) -> Tensor:
    """x with product(x) = g, every seed its own.  (seeds, parameters)"""
    x, residual, direction = torch.zeros_like(g), g.clone(), g.clone()
    size = (residual * residual).sum(dim=1, keepdim=True)
    for _ in range(iterations):
        image = product(direction)
        length = size / (direction * image).sum(dim=1, keepdim=True).clamp(min=1e-20)
        length = torch.where(size > 1e-10, length, 0.0)
        x += length * direction
        residual -= length * image
        following = (residual * residual).sum(dim=1, keepdim=True)
        direction = residual + torch.where(size > 0, following / size.clamp(min=1e-30), 0.0) * direction
        size = following
    return x


class TRPO(PolicyFirst):
    """Trust region policy optimisation."""

    config: TRPOConfig

    def __init__(self, config: TRPOConfig | None = None) -> None:
        self.config = config or TRPOConfig()

    def step_policy(self, rollout: Batch, advantage: Tensor, step: int) -> Metrics:
        """(1) to (3)."""
        c, leaves = self.config, list(self.actor.leaves.values())
        new = Outputs.of(self.actor, rollout.state)
        old = new.detach()
        gain = ((new.log_prob(rollout.action) - rollout.log_propensity).exp() * advantage).mean(dim=1)
        g = flat(torch.autograd.grad(gain.sum(), leaves, retain_graph=True))
        slope = torch.autograd.grad(old.kl(new).mean(dim=1).sum(), leaves, create_graph=True)
        steep = flat(slope)

        def product(v: Tensor) -> Tensor:
            found = torch.autograd.grad((steep * v).sum(), leaves, retain_graph=True)
            return flat(found) + c.damping * v

        x = conjugate_gradient(product, g, c.iterations)
        curvature = (x * product(x)).sum(dim=1)
        longest = (2 * c.limit / curvature.clamp(min=1e-20)).sqrt() * (curvature > 0)
        return self._search(rollout, advantage, old, x * longest[:, None], gain.detach())

    def _search(
        self, rollout: Batch, advantage: Tensor, old: Outputs, step: Tensor, before: Tensor
    ) -> Metrics:
        """(3), each seed with its own number of tries; a seed that finds nothing stays."""
        c = self.config
        start = {name: leaf.detach().clone() for name, leaf in self.actor.leaves.items()}
        scale, found = torch.ones_like(before), torch.zeros(len(before), dtype=torch.bool)
        kl, gain = torch.zeros_like(before), before.clone()
        with torch.no_grad():
            for _ in range(c.tries):
                self._place(start, step * scale[:, None])
                new = Outputs.of(self.actor, rollout.state)
                now = ((new.log_prob(rollout.action) - rollout.log_propensity).exp() * advantage).mean(dim=1)
                far = old.kl(new).mean(dim=1)
                good = (now > before) & (far <= c.limit) & ~found
                kl, gain = torch.where(good, far, kl), torch.where(good, now, gain)
                found |= good
                if bool(found.all()):
                    break
                scale = torch.where(found, scale, scale * c.shrink)
            self._place(start, step * (scale * found)[:, None])
            new = Outputs.of(self.actor, rollout.state)
            return {
                "kl_old_new": kl,
                "kl_new_old": new.kl(old).mean(dim=1),
                "beyond": (kl > c.limit).float(),
                "gain": gain,
                "share_of_longest": scale * found,
                "entropy": entropy(self.actor, rollout.state).mean(dim=1),
            }

    def _place(self, start: dict[str, Tensor], step: Tensor) -> None:
        """The policy at `start` plus a step (seeds, parameters)."""
        at = 0
        for name, leaf in self.actor.leaves.items():
            size = start[name][0].numel()
            leaf.copy_(start[name] + step[:, at : at + size].view_as(leaf))
            at += size
