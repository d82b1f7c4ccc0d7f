"""Advantage-weighted matching: tune a diffusion or flow model on a reward with its own pre-training loss.

Use when    images can be judged by a function, or a log holds judged images, and training should cost what pre-training
            costs: any sampler, no trajectories, no log-probabilities of its steps.
Not when    you have preferences between two images, or liked images only; or every prompt has one image.
Data        none but prompts and a reward; or rows of (prompt, image, reward, [group], [propensity])
Paper       Xue, Ge, Zhang, Li, Ma, 2025, arXiv 2509.25050, sections 3 and 4. Ratio and clip: PPO, arXiv 1707.06347.
Equation    x_t = alpha_t x_0 + sigma_t eps;   l = mean over numbers of (f(x_t, t) - target)^2                      (1)
            log p = - g(l, t):  l;  t l;  t^2 l;  t (sqrt(l + 1e-10) - 1e-5);  t ((l + c)^p - c^p) / p, c = 1e-10   (2)
            A = (r - mean of its prompt) / (spread + 1e-4), clipped to adv_clip and scaled to adv_max               (3)
            rho = exp(log p - log p_old), the same t and eps under both; one a time, or one a sample                (4)
            L_pg = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps));   where rho = 1:  grad = mean A grad g         (5)
            L = L_pg + beta mean w_t (f - f_start)^2 + ema_beta mean (f - f_ema)^2;  w_t: 1, or 1 / (2 sd_t^2)      (6)
            f_ema: weights <- d weights + (1 - d) present, d = min(ema_most, ema_rate step), after each epoch       (7)
            noisy target: eps-hat = sigma_t n / b with x_t = (alpha_t/alpha_s) x_s + b n: what DDPO regresses on    (8)
Shapes      x_0, eps (b, m, c, h, w) float32 | t, l, log p (b, m) | r, A (b,) | prompts: classes or texts
Units       r: reward | A, rho, w: none | l: squared units of the prediction | beta, ema_beta: per such unit
Raises      ConfigError: no reward and no log, a schedule that does not fit the prediction | LogError: rewards, images,
            classes | SupportError: one image a prompt | ConvergenceError: the loss is no longer finite
Differs     times are drawn for every image, not shared by a micro-batch, so that its size changes nothing; rows of the
            second update keep the noise with which the sampler's weights judged them; clip_range is 0.2 where the
            released 1.0 leaves the lower side open (1 warns); beta or ema_beta 0 skips that network's pass; spread has
            no correction for degrees of freedom; DDPM networks take the same loss in their own prediction.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.image_batches import ImageBatch
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_run import tune_on_images
from counterlog.core.image_samplers import Sampler
from counterlog.core.image_tuning import Forward, scaled_advantage
from counterlog.core.image_walks import clipped_steps
from counterlog.core.noise_paths import NoisePath, broad, shifted
from counterlog.core.tuning_result import Tuned

TINY = 1e-10


@dataclass(frozen=True, kw_only=True)
class AdvantageWeightedMatchingConfig(ImageConfig):
    """Which times, which weighting, and what holds the model near its start and near its last epoch."""

    times: int = param(6, "times drawn for an image in a step (m)", at_least=1)
    time_choice: str = param(
        "discrete",
        "strata of the sampler's own times without its first, with its first; uniform; or logit-normal",
        choices=("discrete", "discrete-with-first", "uniform", "logit-normal"),
    )
    time_share: float = param(0.9, "share of the sampler's times, from the noisy end", above=0, at_most=1)
    time_shift: float = param(3.0, "moves uniform and logit-normal times towards noise", above=0)
    weighting: str = param(
        "ghuber", "g of the loss (2)", choices=("uniform", "t", "t-square", "huber", "ghuber")
    )
    ghuber_power: float = param(0.25, "p of ghuber (2)", above=0, at_most=1)
    ratio: str = param(
        "each-time",
        "one ratio a time, one a sample, or none (4)",
        choices=("each-time", "each-sample", "none"),
    )
    clip_range: float = param(0.2, "how far from 1 a ratio still teaches (5)", above=0)
    rows: str = param(
        "all", "which images teach: all, or those above their prompt's mean", choices=("all", "positive")
    )
    beta: float = param(0.001, "weight of the distance to the start (6)", at_least=0)
    distance_weight: str = param("uniform", "w of that distance (6)", choices=("uniform", "elbo"))
    ema_beta: float = param(1.0, "weight of the distance to the average of the epochs (6)", at_least=0)
    ema_most: float = param(0.3, "largest share that the average keeps (7)", at_least=0, below=1)
    ema_rate: float = param(0.001, "growth of that share a step (7)", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_range >= 1 and self.ratio != "none":
            msg = f"clip_range={self.clip_range:g} is inactive below: a ratio is never under 0"
            warnings.warn(msg, stacklevel=3)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """Named settings, with these on top. Raises `ConfigError` listing the names."""
        if name not in PRESETS:
            msg = message(f"there is no preset {name!r}", expected=f"one of {', '.join(PRESETS)}")
            raise ConfigError(msg)
        return cls.from_dict({**PRESETS[name], **settings})


SMALL: dict[str, Any] = {
    "prompts": 10, "images": 16, "sampling_steps": 10, "lr": 1e-4, "time_share": 1.0, "time_shift": 1.0,
    "weighting": "uniform", "beta": 0.01, "ema_beta": 0.1,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small": SMALL,
    "rwr": {"rows": "positive", "ratio": "none", "beta": 0.0, "ema_beta": 0.0, "weighting": "uniform"},
}


def weighted(error: Tensor, t: Tensor, weighting: str, power: float = 0.25) -> Tensor:
    """Equation (2): g(l, t). Error and t (b, m) -> (b, m)."""
    if weighting == "uniform":
        return error
    if weighting == "t":
        return t * error
    if weighting == "t-square":
        return t.square() * error
    if weighting == "huber":
        return t * ((error + TINY).sqrt() - TINY**0.5)
    return t * ((error + TINY) ** power - TINY**power) / power


def stratified_times(
    c: AdvantageWeightedMatchingConfig, grid: Tensor, rows: int, gen: torch.Generator
) -> Tensor:
    """(rows, m): one time in each of m strata, in (0, 1]. `grid` holds the sampler's times, noise first."""
    m = c.times
    if c.time_choice.startswith("discrete"):
        first = 0 if c.time_choice == "discrete-with-first" else 1
        steps = len(grid) - 1
        last = min(max(int(steps * c.time_share), first), steps - 1)  # the last time of the grid is the image
        edge = first + (last + 1 - first) * torch.arange(m) / m
        width = (last + 1 - first) / m
        place = (edge + width * torch.rand(rows, m, generator=gen)).floor().long()
        return grid[place.clamp(first, last)]
    u = (torch.arange(m) + torch.rand(rows, m, generator=gen)) / m
    if c.time_choice == "uniform":
        return shifted(0.2 + 0.8 * u, c.time_shift).clamp(min=1e-3)
    normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    return shifted(torch.sigmoid(normal), c.time_shift).clamp(min=1e-3)


def elbo_weight(t: Tensor) -> Tensor:
    """The w_t of (6) that the likelihood bound gives: 1 / (2 sd_t^2), sd_t = 0.7 sqrt(t / (1 - min(t, .99)))."""
    return (1 - t.clamp(max=0.99)) / (2 * 0.49 * t)


def noisy_target(path: NoisePath, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Equation (8): the noise that one step's own sample x_s stands for. Same mean given x_t as eps, more variance."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.scales(t), path.scales(s)
    kept = alpha_t / alpha_s
    b2 = sigma_t.square() - (kept * sigma_s).square()
    return broad(sigma_t / b2, x_t) * (x_t - broad(kept, x_t) * x_s)


class MatchingLoss:
    """Equations (1) to (7) on the rows of a step."""

    keeps_walk = False

    def __init__(self, config: AdvantageWeightedMatchingConfig, path: NoisePath) -> None:
        self.config, self.path = config, path
        self.sampler = Sampler("ode", config.sampling_steps)
        self.reference, self.follows = config.beta > 0, config.ema_beta > 0
        self.grid = path.grid(config.sampling_steps)

    def advantage(self, rewards: Tensor, group: Tensor, prompt: Tensor) -> Tensor:
        """Equation (3); negative ones become 0 where only the positive rows teach."""
        found = scaled_advantage(rewards, group, self.config)
        return found.clamp(min=0) if self.config.rows == "positive" else found

    def drawn(self, batch: ImageBatch, gen: torch.Generator) -> ImageBatch:
        """Times and noise: m of each for every row."""
        batch.times = stratified_times(self.config, self.grid, len(batch), gen)
        batch.eps = torch.randn(len(batch), self.config.times, *batch.x0.shape[1:], generator=gen)
        batch.total = batch.total or len(batch)
        return batch

    def matched(
        self, now: Forward, batch: ImageBatch
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Equations (1), (2): log p (b, m), what the network said, and what it was asked."""
        assert batch.times is not None  # `drawn` gave them
        assert batch.eps is not None
        b, m = batch.times.shape
        t, eps = batch.times.reshape(-1), batch.eps.flatten(0, 1)
        x0 = batch.x0.repeat_interleave(m, 0)
        asked = (self.path.noised(x0, eps, t), t, batch.prompt.repeat_interleave(m))
        said = now(*asked)
        said = said.to(torch.promote_types(said.dtype, torch.float32))  # half precision ends here
        error = (said - self.path.target(x0, eps, t)).square().flatten(1).mean(1).reshape(b, m)
        c = self.config
        return -weighted(error, batch.times, c.weighting, c.ghuber_power), said, asked

    def old(self, now: Forward, batch: ImageBatch) -> Tensor | None:
        """log p_old of (4); None where no ratio is asked for."""
        return None if self.config.ratio == "none" else self.matched(now, batch)[0]

    def loss(
        self, now: Forward, batch: ImageBatch, start: Forward, average: Forward
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Equations (4) to (6), a part of the step's mean over images and times."""
        c = self.config
        logp, said, asked = self.matched(now, batch)
        old = logp.detach() if batch.old is None else torch.where(batch.old.isnan(), logp.detach(), batch.old)
        if c.ratio == "each-sample":
            logp, old = logp.mean(1, keepdim=True), old.mean(1, keepdim=True)
        loss, ratio, clipped = clipped_steps(logp, old, batch.advantage, c.clip_range)
        value = (batch.weight * loss.mean(1)).sum() / batch.total
        share, terms = len(batch) / batch.total, torch.tensor(float(len(batch)))
        sums = {
            "ratio": ratio.mean(1).sum(),
            "clipped": clipped.mean(1).sum(),
            "terms": terms.to(said.device),
        }
        if self.reference:
            apart = (said - start(*asked)).square().flatten(1).mean(1)
            sums["distance_reference"] = apart.detach().mean() * len(batch)
            weight = elbo_weight(asked[1]) if c.distance_weight == "elbo" else torch.ones_like(apart)
            value = value + c.beta * share * (weight * apart).mean()
        if self.follows:
            apart = (said - average(*asked)).square().flatten(1).mean(1)
            sums["distance_average"] = apart.detach().mean() * len(batch)
            value = value + c.ema_beta * share * apart.mean()
        return value, sums

    def after(self, step: int) -> float | None:
        """Equation (7), at the end of an epoch."""
        if (step + 1) % self.config.updates:
            return None
        return min(self.config.ema_most, self.config.ema_rate * (step + 1))

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to do."""


class AdvantageWeightedMatching:
    """The method as a system: `tune` a model on a reward, or on a log of judged images."""

    def __init__(self, config: AdvantageWeightedMatchingConfig | None = None) -> None:
        self.config = config or AdvantageWeightedMatchingConfig()

    def tune(self, model: Any, log: Any = None, *, rng: int = 0, **settings: Any) -> Tuned:
        """The tuned model and the report of the run.

        `model`: a folder, a name, a diffusers pipeline, or (network, scheduler), copied unless `in_place=True`. `log`:
        rows of prompt, image, reward; or give `reward`, a function f(images, prompts, **columns) or "module:function",
        and `prompts` (default: every class). Further: `out` (the run's folder; a run goes on where it was),
        `reward_weights`, `trackers`, `callbacks`, `progress`, `command`.
        """
        return tune_on_images(
            "advantage-weighted-matching",
            self.loss,
            self.config, model, log=log, rng=rng, **settings,
        )  # fmt: skip

    def loss(self, path: NoisePath) -> MatchingLoss:
        """Equations (1) to (7) on a path."""
        return MatchingLoss(self.config, path)
