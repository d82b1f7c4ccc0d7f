"""Parameters of every system that tunes an image model on rewards: what is sampled, judged and learnt from."""

from __future__ import annotations

from dataclasses import dataclass

from counterlog.core.config import param
from counterlog.core.tuning_config import TuningConfig


@dataclass(frozen=True, kw_only=True)
class ImageConfig(TuningConfig):
    """An epoch samples `prompts` times `images` images, judges them, and takes `updates` optimiser steps on them."""

    lr: float = param(3e-4, "AdamW step size", above=0)
    lora_targets: tuple[str, ...] = param(
        ("to_q", "to_k", "to_v", "to_out.0"), "layers that get an adapter: attention projections"
    )
    prompts: int = param(48, "prompts of an epoch", at_least=1)
    images: int = param(24, "images sampled for a prompt: a group", at_least=1)
    updates: int = param(2, "optimiser steps an epoch: its images are dealt out to them", at_least=1)
    sampling_steps: int = param(14, "steps of the sampler", at_least=2)
    sampling_batch: int = param(256, "images sampled at once", at_least=1)
    guidance: float = param(1.0, "guidance, in sampling and in training alike", at_least=0)
    advantage: str = param(
        "global-std",
        "reward less its prompt's mean, over the spread of all images of an epoch or of the prompt's",
        choices=("global-std", "zscore", "mean"),
    )
    adv_clip: float = param(5.0, "largest advantage, before it is scaled", above=0)
    adv_max: float = param(1.0, "what an advantage of adv_clip becomes", above=0)
    ema_decay: float = param(
        0.99, "of the averaged weights that are saved beside the model; 0: none", at_least=0, below=1
    )
    samples: int = param(10, "images shown on the page, before and after", at_least=0)
    shown_steps: int = param(20, "steps of the sampler for the images shown", at_least=2)
