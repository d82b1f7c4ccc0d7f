"""DDPO: tune a diffusion model on a reward, every step of DDIM's random sampler a decision of a policy.

Use when    you need the first baseline of diffusion post-training, on DDPM or flow models.
Not when    cost counts: advantage-weighted-matching learns more from the same images and keeps no trajectories.
Data        none but prompts and a reward
Paper       Black, Janner, Du, Kostrikov, Levine, 2023, arXiv 2305.13301, sections 4.2 and 4.3, appendix on normalising.
Equation    x_s ~ N(alpha_s x0-hat + sqrt(sigma_s^2 - sd^2) eps-hat, sd^2),  sd = eta times the posterior's  (1)
            log p = mean over numbers of the Gaussian log-density of x_s;   rho = exp(log p - log p_old)             (2)
            L = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps))                                                    (3)
            A = (r - mean) / (sd + 1e-4) of the last `buffer` rewards of the prompt, of the epoch below `buffer_least`,
            clipped to adv_clip                                                                                      (4)
Shapes      states (b, steps + 1, c, h, w) float32 | log p (b, steps) | r, A (b,)
Units       r: reward | A, rho, log p (nats a number of the image): none
Raises      ConfigError: no reward | SupportError: one image a prompt, a log | LogError: rewards | ConvergenceError: the
            loss is no longer finite
Differs     (1) is written for any path, so that flow models can be compared; the step that ends at the image itself has
            no noise and is not trained; all steps of an image are in one update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_run import tune_on_images
from counterlog.core.image_samplers import Sampler
from counterlog.core.image_tuning import ADVANTAGE_EPS
from counterlog.core.image_walks import WalkLoss
from counterlog.core.noise_paths import NoisePath
from counterlog.core.tuning_result import Tuned


@dataclass(frozen=True, kw_only=True)
class DDPOConfig(ImageConfig):
    """The random sampler, the clip, and the rewards that a prompt remembers."""

    sampling_steps: int = param(50, "steps of the sampler", at_least=2)
    adv_max: float = param(5.0, "what an advantage of adv_clip becomes", above=0)
    eta: float = param(1.0, "noise of DDIM's sampler (1)", above=0, at_most=1)
    clip_range: float = param(1e-4, "how far from 1 a ratio still teaches (3)", above=0)
    buffer: int = param(
        16, "rewards that a prompt remembers (4); 0: the epoch's groups as `advantage` says", at_least=0
    )
    buffer_least: int = param(
        16, "rewards that a prompt needs before it is judged by its own (4)", at_least=1
    )


class RememberedRewards:
    """Equation (4): the last rewards of every prompt."""

    def __init__(self, size: int, least: int) -> None:
        self.size, self.least = size, least
        self.held: dict[int, list[float]] = {}

    def advantage(self, rewards: Tensor, prompt: Tensor) -> Tensor:
        """(n,) float32; the rewards are remembered first. A reward that is NaN gives 0."""
        known = torch.isfinite(rewards)
        out = torch.zeros(len(rewards), dtype=torch.float64)
        every = rewards[known].double()
        for k in prompt.unique().tolist():
            mine = (prompt == k) & known
            held = (self.held.get(k, []) + rewards[mine].tolist())[-self.size :]
            self.held[k] = held
            base = torch.tensor(held, dtype=torch.float64) if len(held) >= self.least else every
            if len(base):
                out[mine] = (rewards[mine].double() - base.mean()) / (base.std(correction=0) + ADVANTAGE_EPS)
        return out.float()


class DDPOLoss(WalkLoss):
    """Equations (1) to (4)."""

    def __init__(self, config: DDPOConfig, path: NoisePath) -> None:
        sampler = Sampler("ddim", config.sampling_steps, config.eta)
        super().__init__(config, path, sampler, clip=config.clip_range, share=1.0, beta=0.0)
        self.remembered = RememberedRewards(config.buffer, config.buffer_least) if config.buffer else None

    def advantage(self, rewards: Tensor, group: Tensor, prompt: Tensor) -> Tensor:
        """Equation (4), or the epoch's groups without a buffer."""
        if self.remembered is None:
            return super().advantage(rewards, group, prompt)
        c = self.config
        found = self.remembered.advantage(rewards, prompt)
        return found.clamp(-c.adv_clip, c.adv_clip) / c.adv_clip * c.adv_max

    def state(self) -> dict[str, Tensor]:
        """The remembered rewards."""
        held = {} if self.remembered is None else self.remembered.held
        return {f"rewards.{k}": torch.tensor(v, dtype=torch.float64) for k, v in held.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.remembered is not None:
            named = {k: v for k, v in tensors.items() if k.startswith("rewards.")}
            self.remembered.held = {int(k.removeprefix("rewards.")): v.tolist() for k, v in named.items()}


class DDPO:
    """The method as a system: `tune` a diffusion model on a reward."""

    def __init__(self, config: DDPOConfig | None = None) -> None:
        self.config = config or DDPOConfig()

    def tune(self, model: Any, log: Any = None, *, rng: int = 0, **settings: Any) -> Tuned:
        """The tuned model and the report of the run; settings as those of `AdvantageWeightedMatching.tune`."""
        return tune_on_images(
            "ddpo", lambda path: DDPOLoss(self.config, path), self.config, model, log=log, rng=rng, **settings
        )
