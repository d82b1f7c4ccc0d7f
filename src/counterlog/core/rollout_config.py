"""Parameters that every tuning of a language model on rollouts has, from a log or from the model itself."""

from __future__ import annotations

from dataclasses import dataclass

from counterlog.core.config import param
from counterlog.core.kl_estimators import KINDS
from counterlog.core.token_losses import WAYS
from counterlog.core.tuning_config import TuningConfig


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(TuningConfig):
    """Where a step's responses come from, and what holds the policy near a reference."""

    prompts: int = param(96, "prompts a step", at_least=1)
    responses: int = param(8, "responses sampled to a prompt; a log's groups are taken whole", at_least=1)
    longest: int = param(256, "most tokens of a response", unit="tokens", at_least=1)
    temperature: float = param(1.0, "temperature of sampling and of all log-probabilities", above=0)
    sync_interval: int = param(
        20, "steps between refreshes of the sampler; 1: on policy; 0: never", unit="steps", at_least=0
    )
    sync_offset: int = param(0, "steps by which the sampler runs ahead", unit="steps", at_least=0)
    reuse: int = param(1, "optimiser steps on one batch", unit="steps", at_least=1)
    sampling_batch: int = param(1024, "responses sampled at once by a process", at_least=1)
    mask_truncated: bool = param(False, "leave responses out that were cut off")
    recompute_old: bool = param(
        False,
        "take the model at the start as the sampler of the log, instead of the logged log-probabilities",
    )
    aggregation: str = param("token-mean", "how token losses become one number", choices=WAYS)
    reference: str = param(
        "none", "what the KL penalty holds the policy to", choices=("none", "start", "average")
    )
    reference_decay: float = param(0.99, "decay of the average reference", at_least=0, below=1)
    kl_coef: float = param(0.0, "weight of the KL penalty", unit="reward per nat", at_least=0)
    kl_place: str = param("loss", "where the penalty acts", choices=("loss", "reward"))
    kl_kind: str = param("k3-with-k2-gradient", "estimator of the penalty in the loss", choices=KINDS)
    samples: int = param(8, "prompts whose answers before and after are shown", at_least=0)
