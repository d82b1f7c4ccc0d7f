"""Policy gradients on the steps of a sampler: every step a decision, its Gaussian log-density the policy's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from counterlog.core.image_batches import ImageBatch
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_samplers import Sampler, gaussian_logp
from counterlog.core.image_tuning import Forward, scaled_advantage
from counterlog.core.noise_paths import NoisePath, broad


def clipped_steps(logp: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor, Tensor]:
    """max(-A rho, -A clip(rho, 1 - clip, 1 + clip)), rho, and 1 where the clip holds; (b, k)."""
    ratio = (logp - old).exp()
    plain = -advantage[:, None] * ratio
    held = -advantage[:, None] * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, held), ratio.detach(), (held > plain).float()


class WalkLoss:
    """PPO's clipped loss over the random steps of recorded walks, and a distance of the steps' means to the start's."""

    keeps_walk, follows = True, False

    def __init__(
        self,
        config: ImageConfig,
        path: NoisePath,
        sampler: Sampler,
        *,
        clip: float,
        share: float,
        beta: float,
    ) -> None:
        self.config, self.path, self.sampler = config, path, sampler
        self.clip, self.beta, self.reference = clip, beta, beta > 0
        self.grid = path.grid(sampler.steps)
        last = sampler.steps - 1 if float(self.grid[-1]) == 0 and sampler.kind == "ddim" else sampler.steps
        self.trained = max(
            1, min(int(sampler.steps * share), last)
        )  # DDIM's last step to the image is not random

    def advantage(self, rewards: Tensor, group: Tensor, prompt: Tensor) -> Tensor:
        """(n,) relative to the prompt's other images."""
        return scaled_advantage(rewards, group, self.config)

    def drawn(self, batch: ImageBatch, gen: torch.Generator) -> ImageBatch:
        """Nothing is drawn: the walk holds it all."""
        batch.total = batch.total or len(batch)
        return batch

    def old(self, now: Forward, batch: ImageBatch) -> Tensor | None:
        """Nothing to compute: the sampler has recorded its log-densities."""
        return None

    def steps(self, now: Forward, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Log-densities (b, k) of the recorded steps; means (b k, ...), deviations, and what the network was asked."""
        assert batch.states is not None  # the sampler kept them
        b, k = len(batch), self.trained
        x, after = batch.states[:, :k].flatten(0, 1), batch.states[:, 1 : k + 1].flatten(0, 1)
        grid = self.grid.to(x.device)
        t, s = grid[:k].repeat(b), grid[1 : k + 1].repeat(b)
        asked = (x, t, batch.prompt.repeat_interleave(k))
        mean, std = self.sampler.moments(self.path, x, now(*asked).float(), t, s, float(self.grid[1]))
        return gaussian_logp(after, mean, std).reshape(b, k), mean, std, (*asked, s)

    def loss(
        self, now: Forward, batch: ImageBatch, start: Forward, average: Forward
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A part of the step's mean over images and sampler steps."""
        assert batch.logp is not None  # the sampler recorded them
        logp, mean, std, (x, t, prompt, s) = self.steps(now, batch)
        loss, ratio, clipped = clipped_steps(logp, batch.logp[:, : self.trained], batch.advantage, self.clip)
        value = (batch.weight * loss.mean(1)).sum() / batch.total
        terms = torch.tensor(float(len(batch)), device=value.device)
        sums = {"ratio": ratio.mean(1).sum(), "clipped": clipped.mean(1).sum(), "terms": terms}
        if self.reference:
            said = start(x, t, prompt).float()
            anchor = self.sampler.moments(self.path, x, said, t, s, float(self.grid[1]))[0]
            apart = ((mean - anchor).square() / (2 * broad(std, mean).square())).flatten(1).mean(1)
            sums["distance_reference"] = apart.detach().mean() * len(batch)
            value = value + self.beta * len(batch) / batch.total * apart.mean()
        return value, sums

    def after(self, step: int) -> float | None:
        """No average follows."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to do."""
