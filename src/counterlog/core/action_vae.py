"""Conditional autoencoders of actions, all seeds in one stack: which actions does the log hold in this state?

    q(z | s, a) = N(mean, std^2),   a' = tanh(decoder(s, z)),   prior z ~ N(0, 1)

Deviations are bounded on the log scale. Actions are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterlog.core.stacked_nets import StackedMLP

LOW, HIGH = -4.0, 15.0  # of the log-deviation
PRIOR_BOUND = 0.5  # latents drawn without an action are cut here, as BCQ does


class ActionVAE:
    """An encoder and a decoder a seed. A learner that saves itself keeps both as attributes of its own too."""

    def __init__(
        self,
        state: int,
        action: int,
        hidden: Sequence[int],
        *,
        latent: int,
        seeds: Sequence[int],
        role: str = "vae",
    ) -> None:
        self.latent = latent
        self.encoder = StackedMLP((state + action, *hidden, 2 * latent), seeds=seeds, role=f"{role} encoder")
        self.decoder = StackedMLP((state + latent, *hidden, action), seeds=seeds, role=f"{role} decoder")

    def posterior(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of z, each (seeds, b, latent)."""
        mean, log_std = self.encoder(torch.cat([state, action], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(LOW, HIGH)

    def decode(self, state: Tensor, latent: Tensor) -> Tensor:
        """(seeds, b, k) actions of the latents (seeds, b, latent)."""
        return torch.tanh(self.decoder(torch.cat([state, latent], dim=-1)))

    def passed(self, state: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """The action sent through encoder, one draw of z, and decoder; gradients pass to the action."""
        mean, log_std = self.posterior(state, action)
        return self.decode(state, mean + log_std.exp() * noise)

    def from_prior(self, state: Tensor, noise: Tensor) -> Tensor:
        """An action of the prior, its latents cut to +-0.5."""
        return self.decode(state, noise.clamp(-PRIOR_BOUND, PRIOR_BOUND))


def kl_to_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2), N(0, 1)) of every latent, in nats."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def at_a_bound(log_std: Tensor) -> Tensor:
    """1 where a log-deviation was cut."""
    return ((log_std <= LOW) | (log_std >= HIGH)).float()
