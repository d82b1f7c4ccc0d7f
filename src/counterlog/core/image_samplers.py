"""Images sampled step by step, with the log-probability of every step where the sampler is random.

One step moves from time t to s < t. `ode` is Euler on flow matching and DDIM without noise on DDPM: the same formula.
`ddim` draws from the posterior of the path given the predicted image, scaled by eta; `sde` is the stochastic Euler step
of a flow. Log-densities are means over the image's numbers, so that they do not grow with its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.noise_paths import NoisePath, broad

Predict = Callable[[Tensor, Tensor], Tensor]  # x_t (n, ...), t (n,) -> what the network says


@dataclass(frozen=True)
class Sampler:
    """Which step, how many, and how much noise."""

    kind: str = "ode"  # ode, ddim, sde
    steps: int = 10
    noise: float = 0.0

    def moments(
        self, path: NoisePath, x: Tensor, output: Tensor, t: Tensor, s: Tensor, second: float
    ) -> tuple[Tensor, Tensor]:
        """Mean (n, ...) and standard deviation (n,) of the step; `second` is the sampler's second time."""
        if self.kind == "sde":
            return flow_sde_moments(x, output, t, s, self.noise, second)
        return ddim_moments(path, x, output, t, s, self.noise if self.kind == "ddim" else 0.0)


@dataclass
class Walk:
    """What a sampler leaves: the images, and if asked for every state on the way with its log-density."""

    x0: Tensor
    grid: Tensor  # (steps + 1,)
    states: Tensor | None = None  # (n, steps + 1, ...)
    logp: Tensor | None = None  # (n, steps), 0 where the step is not random


def posterior_std(path: NoisePath, t: Tensor, s: Tensor) -> Tensor:
    """(n,) the standard deviation of x_s given x_t and x_0 on the path."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.scales(t), path.scales(s)
    forward = (sigma_t.square() - (alpha_t / alpha_s * sigma_s).square()).clamp(min=0)
    return sigma_s * forward.sqrt() / sigma_t


def ddim_moments(
    path: NoisePath, x: Tensor, output: Tensor, t: Tensor, s: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of DDIM's x_s, for any path. t, s (n,)."""
    x0, eps = path.split(x, output, t)
    alpha, sigma = path.scales(s)
    if eta == 0:
        return broad(alpha, x) * x0 + broad(sigma, x) * eps, torch.zeros_like(t)
    std = eta * posterior_std(path, t, s)
    rest = (sigma.square() - std.square()).clamp(min=0).sqrt()
    return broad(alpha, x) * x0 + broad(rest, x) * eps, std


def flow_sde_moments(
    x: Tensor, velocity: Tensor, t: Tensor, s: Tensor, noise: float, second: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the stochastic Euler step whose marginals are the flow's. t, s (n,)."""
    before = torch.where(t >= 1, second, t)  # 1 / (1 - t) has no value at t = 1
    level = noise * (t / (1 - before)).sqrt()
    step, half = s - t, level.square() / (2 * t)
    mean = x * broad(1 + half * step, x) + velocity * broad(step * (1 + half * (1 - t)), x)
    return mean, level * (-step).sqrt()


def gaussian_logp(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(n,) mean over the numbers of an image of the Gaussian log-density; 0 where std is 0."""
    held = torch.where(std > 0, std, 1.0).to(mean.dtype)
    square = (x - mean).square().flatten(1).mean(1)
    out = -square / (2 * held.square()) - held.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(std > 0, out, torch.zeros_like(out))


def walk(
    predict: Predict,
    path: NoisePath,
    start: Tensor,
    sampler: Sampler,
    *,
    gen: torch.Generator,
    keep: bool = False,
) -> Walk:
    """From noise `start` (n, ...) to images. `keep` keeps states and log-densities, else only x is held."""
    grid = path.grid(sampler.steps)
    second = float(grid[1])
    x, states, found = start, [start], []
    with torch.no_grad():
        for i in range(sampler.steps):
            t, s = (grid[j].to(x.device).expand(len(x)) for j in (i, i + 1))
            mean, std = sampler.moments(path, x, predict(x, t), t, s, second)
            if float(std[0]) > 0:
                z = torch.randn(x.shape, generator=gen, dtype=torch.float32).to(x.device)
                x = mean + broad(std, mean) * z
            else:
                x = mean
            if keep:
                states.append(x)
                found.append(gaussian_logp(x, mean, std))
    if not keep:
        return Walk(x, grid)
    return Walk(x, grid, torch.stack(states, 1), torch.stack(found, 1))
