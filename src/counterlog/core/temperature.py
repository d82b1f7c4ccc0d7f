"""The weight of the entropy in soft actor-critics, learnt so that the policy keeps a given entropy, one a seed.

loss = - log alpha (log pi(a|s) + target entropy),     target entropy = - (size of the action) by custom
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterlog.core.stacked_nets import StackedTensors


class Temperature(StackedTensors):
    """alpha = exp(log alpha) of every seed, beginning at `start`."""

    def __init__(self, seeds: Sequence[int], *, target_entropy: float, start: float = 1.0) -> None:
        super().__init__({"log_alpha": ()}, seeds)
        self.fill(log_alpha=float(torch.tensor(start).log()))
        self.target_entropy = target_entropy

    @property
    def alpha(self) -> Tensor:
        """(seeds,), without gradient."""
        return self["log_alpha"].detach().exp()

    def loss(self, log_prob: Tensor) -> Tensor:
        """(seeds, b) log-densities of sampled actions -> (seeds,)."""
        return -(self["log_alpha"] * (log_prob.detach() + self.target_entropy).mean(dim=1))
