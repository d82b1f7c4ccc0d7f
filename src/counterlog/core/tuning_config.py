"""Parameters of every post-training run: how it steps, what it adapts, how often it saves."""

from __future__ import annotations

from dataclasses import dataclass

from counterlog.core.config import Config, param


@dataclass(frozen=True, kw_only=True)
class TuningConfig(Config):
    """What the training loop needs, whatever is tuned."""

    steps: int = param(100, "optimiser steps", at_least=1)
    lr: float = param(1e-6, "AdamW step size", above=0)
    weight_decay: float = param(0.0, "pull of the weights towards zero", at_least=0)
    warmup: int = param(0, "steps over which the step size grows to lr", at_least=0)
    schedule: str = param("constant", "step size after the warm-up", choices=("constant", "linear", "cosine"))
    grad_clip: float = param(1.0, "largest norm of a step's gradient", above=0)
    micro_batch: int = param(
        128, "rows a process holds in memory at once; any value gives the same step", at_least=1
    )
    save_every: int = param(50, "steps between saved states; 0: only the end is saved", at_least=0)
    precision: str = param("no", "mixed precision of the forward pass", choices=("no", "bf16", "fp16"))
    checkpointing: bool = param(False, "recompute activations in the backward pass: less memory, more time")
    lora_rank: int = param(
        0, "rank of a LoRA adapter that is trained instead of the model; 0: none", at_least=0
    )
    lora_alpha: float = param(32.0, "scale of the adapter", above=0)
    lora_targets: tuple[str, ...] = param(("all-linear",), "layers that get an adapter")
