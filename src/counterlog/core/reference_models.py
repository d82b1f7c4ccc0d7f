"""Reference policies: something that gives log-probabilities and takes no gradient.

`FrozenCopy` keeps a second model; `AdapterOff` runs the same model without its adapter; `Averaged` follows the model
by an exponential moving average; `CheckpointPool` draws among earlier states; `cached_logprobs` stores the
log-probabilities of a whole log beside it, so that the reference need not be in memory at all.
"""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, message
from counterlog.core.files import write_whole
from counterlog.core.language_models import weights_fingerprint
from counterlog.core.rollouts import EncodedRollouts
from counterlog.core.token_batches import Ragged, TokenBatch, take
from counterlog.core.token_logprobs import TokenLogProbs


class Reference(Protocol):
    """What a system asks of a reference."""

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """(b, r) nats of the response tokens."""
        ...


class FrozenCopy:
    """The model as it is now; it costs its weights a second time."""

    def __init__(self, model: nn.Module) -> None:
        scorer = model if isinstance(model, TokenLogProbs) else TokenLogProbs(model)
        self.scorer = copy.deepcopy(scorer).requires_grad_(False).eval()

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """(b, r) nats of the response tokens."""
        with torch.no_grad():
            found: Tensor = self.scorer(batch, temperature)[0]
        return found


class AdapterOff:
    """The model under its peft adapter: no second model in memory."""

    def __init__(self, scorer: TokenLogProbs) -> None:
        if not hasattr(scorer.model, "disable_adapter"):
            msg = message(
                "the model has no adapter to switch off", hint="set lora_rank, or use a frozen copy"
            )
            raise ConfigError(msg)
        self.scorer = scorer

    def logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """(b, r) nats of the response tokens."""
        with torch.no_grad(), self.scorer.model.disable_adapter():
            found: Tensor = self.scorer(batch, temperature)[0]
        return found


class Averaged(FrozenCopy):
    """An exponential moving average of the model: call `follow` after every step."""

    def __init__(self, model: nn.Module, decay: float = 0.99) -> None:
        super().__init__(model)
        self.decay = decay

    def follow(self, scorer: nn.Module) -> None:
        """Move the average a step towards the model."""
        with torch.no_grad():
            for mine, theirs in zip(self.scorer.parameters(), scorer.parameters(), strict=True):
                mine.lerp_(theirs.to(mine), 1 - self.decay)


class CheckpointPool(FrozenCopy):
    """Earlier states of the model; `choose` makes one of them the reference.

    `strategy`: initial, last or random. At most `largest` states are kept: the first stays, others are thinned out.
    """

    def __init__(self, model: nn.Module, strategy: str = "random", largest: int = 16) -> None:
        super().__init__(model)
        if strategy not in ("initial", "last", "random") or largest < 2:
            msg = message(
                f"strategy={strategy!r}, largest={largest}", expected="initial, last or random; at least 2"
            )
            raise ConfigError(msg)
        self.strategy, self.largest = strategy, largest
        self.states: list[dict[str, Tensor]] = []
        self.drawn: list[int] = []
        self.add(self.scorer)

    def add(self, scorer: nn.Module) -> None:
        """Keep the model's present state."""
        if len(self.states) == self.largest:  # every second one but the first and the newest goes
            kept = [i for i in range(self.largest) if i == 0 or i % 2 == 1]
            self.states = [self.states[i] for i in kept]
            self.drawn = [self.drawn[i] for i in kept]
        self.states.append({k: v.detach().cpu().clone() for k, v in scorer.state_dict().items()})
        self.drawn.append(0)

    def choose(self, gen: np.random.Generator) -> int:
        """The number of the state that is the reference from now on."""
        k = {"initial": 0, "last": len(self.states) - 1}.get(self.strategy)
        k = int(gen.integers(len(self.states))) if k is None else k
        self.drawn[k] += 1
        self.scorer.load_state_dict(self.states[k])
        return k


def log_logprobs(
    scorer: nn.Module, log: EncodedRollouts, *, pad: int, temperature: float = 1.0, rows: int = 256
) -> Ragged:
    """Log-probabilities of every response of a log, in its order. Rows of like length go together."""
    start = log.responses[1]
    order = np.argsort(np.diff(start), kind="stable")
    flat = np.empty(int(start[-1]), np.float32)
    device = next(scorer.parameters()).device
    with torch.no_grad():
        for i in range(0, len(order), rows):
            mine = order[i : i + rows]
            batch = log.batch(mine, pad).to(device)
            logp = scorer(batch, temperature)[0]
            places = take((np.arange(len(flat)), start), mine)[0]
            flat[places] = logp[batch.response_mask.bool()].cpu().numpy()
    return flat, start


def cached_logprobs(
    scorer: TokenLogProbs,
    log: EncodedRollouts,
    folder: str | os.PathLike[str],
    *,
    pad: int,
    temperature: float = 1.0,
) -> Ragged:
    """`log_logprobs`, read from `folder` when the same weights have scored the same tokens before."""
    digest = hashlib.sha256(weights_fingerprint(scorer.model).encode())
    for part in (*log.prompts, log.which, *log.responses):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr(temperature).encode())
    file = Path(folder) / f"logprobs-{digest.hexdigest()[:32]}.safetensors"
    if file.exists():
        return load(file.read_bytes())["logprobs"], log.responses[1]
    found = log_logprobs(scorer, log, pad=pad, temperature=temperature)
    write_whole(file, save({"logprobs": found[0]}))
    return found


def reference_of(kind: str, scorer: TokenLogProbs, **settings: Any) -> Reference | None:
    """The reference that a configuration names: none, start (frozen copy, or the model under its adapter), average."""
    if kind == "none":
        return None
    if kind == "average":
        return Averaged(scorer, **settings)
    return AdapterOff(scorer) if hasattr(scorer.model, "disable_adapter") else FrozenCopy(scorer)
