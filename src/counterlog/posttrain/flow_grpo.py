"""Flow-GRPO: tune a flow model on a reward by policy gradients on the steps of a stochastic sampler.

Use when    you need the baseline of flow-model post-training, or log-probabilities of the sampler's own steps.
Not when    cost counts: advantage-weighted-matching learns more from the same images and keeps no trajectories.
Data        none but prompts and a reward
Paper       Liu, Liu, Liang, Li, Liu, Wang, Wan, Zhang, Ouyang, 2025, arXiv 2505.05470, sections 4.1 and 4.2.
Equation    sd_t = a sqrt(t / (1 - t)), in 1 - t the sampler's second time where t = 1;   dt = s - t < 0           (1)
            x_s = x (1 + sd_t^2/(2t) dt) + v (1 + sd_t^2 (1 - t)/(2t)) dt + sd_t sqrt(-dt) z                         (2)
            log p = mean over numbers of the Gaussian log-density of x_s;   rho = exp(log p - log p_old)             (3)
            L = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) + beta (mean_s - mean_s,start)^2 / (2 sd^2)         (4)
            A = (r - mean of its prompt) / (spread + 1e-4), clipped to adv_clip                                      (5)
Shapes      states (b, steps + 1, c, h, w) float32 | log p (b, steps) | r, A (b,)
Units       r: reward | A, rho, log p (nats a number of the image), beta: none
Raises      ConfigError: not a flow model, no reward | SupportError: one image a prompt, a log | LogError: rewards |
            ConvergenceError: the loss is no longer finite
Differs     all steps of an image are in one update; the KL of (4) has the variance of the step, -dt included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_run import tune_on_images
from counterlog.core.image_samplers import Sampler
from counterlog.core.image_walks import WalkLoss
from counterlog.core.noise_paths import NoisePath
from counterlog.core.tuning_result import Tuned


@dataclass(frozen=True, kw_only=True)
class FlowGRPOConfig(ImageConfig):
    """The stochastic sampler, the clip, and the distance to the start."""

    sampling_steps: int = param(10, "steps of the sampler", at_least=2)
    adv_max: float = param(5.0, "what an advantage of adv_clip becomes", above=0)
    noise: float = param(0.7, "a of the sampler's noise (1)", above=0)
    clip_range: float = param(1e-3, "how far from 1 a ratio still teaches (4)", above=0)
    beta: float = param(0.04, "weight of the distance to the start (4)", at_least=0)
    step_share: float = param(
        0.99, "share of the sampler's steps that are trained, from noise", above=0, at_most=1
    )


class FlowGRPO:
    """The method as a system: `tune` a flow model on a reward."""

    def __init__(self, config: FlowGRPOConfig | None = None) -> None:
        self.config = config or FlowGRPOConfig()

    def tune(self, model: Any, log: Any = None, *, rng: int = 0, **settings: Any) -> Tuned:
        """The tuned model and the report of the run; settings as those of `AdvantageWeightedMatching.tune`."""
        return tune_on_images("flow-grpo", self.loss, self.config, model, log=log, rng=rng, **settings)

    def loss(self, path: NoisePath) -> WalkLoss:
        """Equations (1) to (5) on a path. Raises `ConfigError` where it is not a flow."""
        c = self.config
        if not path.flow:
            msg = message(
                f"the model predicts {path.prediction!r}; the sampler of flow-grpo is of flow matching",
                hint="use ddpo or advantage-weighted-matching",
            )
            raise ConfigError(msg)
        sampler = Sampler("sde", c.sampling_steps, c.noise)
        return WalkLoss(c, path, sampler, clip=c.clip_range, share=c.step_share, beta=c.beta)
