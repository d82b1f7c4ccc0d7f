"""How an image becomes noise, for flow matching and for DDPM, under one clock: t = 0 is the image, t = 1 is noise.

    x_t = alpha_t x_0 + sigma_t eps      flow: alpha = 1 - t, sigma = t     DDPM: alpha^2 = cumulative product of step k
A DDPM step k of T stands at t = (k + 1) / T. A network predicts the noise, the image, or one of the two velocities;
`split` turns any of them into image and noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterlog.core.errors import ConfigError, message

PREDICTIONS = ("flow", "epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoisePath:
    """A path and what the network predicts on it. `cumulative` (T,) is empty for flow matching."""

    prediction: str = "flow"
    cumulative: Tensor = field(default_factory=lambda: torch.empty(0))
    times: int = 1000  # the network is told t * times (flow), or the step k (DDPM)
    shift: float = 1.0
    spacing: str = "trailing"
    offset: int = 0
    clean_end: bool = True

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            msg = message(
                f"the model predicts {self.prediction!r}", expected=f"one of {', '.join(PREDICTIONS)}"
            )
            raise ConfigError(msg)
        if self.flow != (self.prediction == "flow"):
            msg = message(
                f"prediction {self.prediction!r} with a {'flow' if self.flow else 'DDPM'} schedule",
                expected="the velocity eps - x_0 with flow matching; epsilon, v_prediction or sample with DDPM",
                hint="give the scheduler that the model was trained with",
            )
            raise ConfigError(msg)

    @property
    def flow(self) -> bool:
        """Whether this is the straight path of flow matching."""
        return bool(self.cumulative.numel() == 0)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t, in the shape of t."""
        if self.flow:
            return 1 - t, t
        step = (t * self.times).round().long() - 1
        kept = self.cumulative.to(t.device)[step.clamp(min=0)]
        kept = torch.where(step < 0, 1.0, kept)
        return kept.sqrt(), (1 - kept).sqrt()

    def model_time(self, t: Tensor) -> Tensor:
        """What the network is told."""
        return t * self.times if self.flow else (t * self.times).round().long() - 1

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t. t (n,) for x0, eps (n, ...)."""
        alpha, sigma = (broad(v, x0) for v in self.scales(t))
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should say at x_t."""
        if self.prediction == "flow":
            return eps - x0
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "sample":
            return x0
        alpha, sigma = (broad(v, x0) for v in self.scales(t))
        return alpha * eps - sigma * x0

    def split(self, x_t: Tensor, output: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the noise that the network's output means."""
        alpha, sigma = (broad(v, x_t) for v in self.scales(t))
        if self.prediction == "flow":
            return x_t - sigma * output, x_t + alpha * output
        if self.prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        if self.prediction == "sample":
            return output, (x_t - alpha * output) / sigma
        return alpha * x_t - sigma * output, sigma * x_t + alpha * output

    def grid(self, steps: int) -> Tensor:
        """(steps + 1,) the times of a sampler, noise first. Raises `ConfigError` for more steps than there are."""
        if self.flow:
            return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), self.shift).float()
        if steps > self.times:
            msg = message(f"{steps} sampling steps of a schedule of {self.times}")
            raise ConfigError(msg)
        if self.spacing == "leading":
            k = torch.arange(steps - 1, -1, -1) * (self.times // steps) + self.offset
        elif self.spacing == "linspace":
            k = torch.linspace(self.times - 1, 0, steps, dtype=torch.float64).round().long()
        else:
            k = (
                self.times - torch.arange(steps, dtype=torch.float64) * self.times / steps
            ).round().long() - 1
        end = 0.0 if self.clean_end else 1 / self.times
        return torch.cat([(k.clamp(max=self.times - 1) + 1) / self.times, torch.tensor([end])]).float()


def broad(value: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, ...) to go with `like`."""
    return value.reshape(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise: s t / (1 + (s - 1) t)."""
    return shift * t / (1 + (shift - 1) * t)


def path_of(scheduler: Any) -> NoisePath:
    """The path of a diffusers scheduler. Raises `ConfigError` for one that is neither DDPM's nor flow matching's."""
    name, config = type(scheduler).__name__, scheduler.config
    times = int(config.get("num_train_timesteps", 1000))
    if name.startswith("FlowMatch"):
        return NoisePath("flow", times=times, shift=float(config.get("shift", 1.0) or 1.0))
    if not hasattr(scheduler, "alphas_cumprod"):
        msg = message(
            f"scheduler {name} has no alphas_cumprod",
            expected="one of diffusers' DDPM family, or FlowMatchEulerDiscreteScheduler",
        )
        raise ConfigError(msg)
    return NoisePath(
        str(config.get("prediction_type", "epsilon")),
        scheduler.alphas_cumprod.float().clone(),
        times,
        spacing=str(config.get("timestep_spacing", "leading")),
        offset=int(config.get("steps_offset", 0) or 0),
        clean_end=bool(config.get("set_alpha_to_one", True)),
    )
