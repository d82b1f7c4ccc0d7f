"""Responses sampled from a causal language model, with the log-probability of every token as it was drawn.

`transformers`' own `generate` does the work. A processor that it calls before each draw divides by the temperature and
keeps one step of log-probabilities, so that memory does not grow with the length of the response. Prompts are sampled
in chunks; each chunk has its own seed, so that the responses do not depend on how many processes share the chunks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.errors import need_extra
from counterlog.core.token_batches import Ragged, TokenBatch, join, padded, take


class _Recorder:
    """Called with the tokens so far and the logits of the next: divides by the temperature and remembers."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.last: Tensor | None = None
        self.found: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.close(input_ids)
        scores = scores.float() / self.temperature
        self.last = scores - scores.logsumexp(-1, keepdim=True)
        return scores

    def close(self, input_ids: Tensor) -> None:
        """Look the newest token up in the log-probabilities that it was drawn from."""
        if self.last is not None:
            self.found.append(self.last.gather(-1, input_ids[:, -1:]))
        self.last = None


def generate(
    model: nn.Module,
    prompts: Ragged,
    *,
    pad: int,
    end: int | None,
    longest: int,
    temperature: float = 1.0,
    seed: int = 0,
    greedy: bool = False,
) -> TokenBatch:
    """One response to each prompt. Dropout is off while sampling; the model's own sampling settings are not used.

    Responses end with `end`, or after `longest` tokens. The old log-probabilities are at this temperature and of the
    full softmax.
    """
    transformers = need_extra("transformers", "language")
    left, inside = padded(prompts, pad, left=True, least=1)
    device = next(model.parameters()).device
    ids, mask = torch.from_numpy(left).to(device), torch.from_numpy(inside.astype(np.int64)).to(device)
    recorder = _Recorder(temperature)
    settings = transformers.GenerationConfig(
        do_sample=not greedy,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=longest,
        pad_token_id=pad,
        eos_token_id=end,
        use_cache=True,
    )
    processors = transformers.LogitsProcessorList([recorder])
    was = model.training
    model.eval()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            whole: Tensor = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors
            )
    finally:
        model.train(was)
    recorder.close(whole)
    answer = whole[:, ids.shape[1] :]
    logp = torch.cat(recorder.found, dim=1)
    counts = torch.ones_like(answer)
    if end is not None:  # up to and with the first end-of-text token
        counts[:, 1:] = (answer[:, :-1] == end).long().cumsum(1) == 0
    n = len(whole)
    return TokenBatch(
        input_ids=torch.cat([ids, torch.where(counts > 0, answer, pad)], dim=1).cpu(),
        attention_mask=torch.cat([mask, counts], dim=1).cpu(),
        response_mask=counts.float().cpu(),
        rewards=torch.full((n,), float("nan")),
        group=torch.arange(n),
        version=torch.zeros(n, dtype=torch.int64),
        weights=torch.ones(n),
        old_logprobs=(logp * counts).cpu(),
    )


def seed_of(*parts: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def generate_many(
    model: nn.Module,
    prompts: Ragged,
    *,
    seed: int,
    chunk: int,
    pad: int,
    accelerator: Any = None,
    **settings: Any,
) -> TokenBatch:
    """`generate` for any number of prompts, `chunk` at a time; with an accelerator every process samples a share of
    the chunks and all get all of them."""
    n = len(prompts[1]) - 1
    chunks = [np.arange(i, min(i + chunk, n)) for i in range(0, n, chunk)]
    processes, mine = (
        (1, 0) if accelerator is None else (accelerator.num_processes, accelerator.process_index)
    )
    found = [
        (k, generate(model, take(prompts, rows), pad=pad, seed=seed_of(seed, k), **settings))
        for k, rows in enumerate(chunks)
        if k % processes == mine
    ]
    if processes > 1:
        gather = need_extra("accelerate", "language").utils.gather_object
        packed = gather([(k, {a: v.numpy() for a, v in b.tensors().items()}) for k, b in found])
        found = [
            (k, TokenBatch.from_tensors({a: torch.from_numpy(v) for a, v in b.items()})) for k, b in packed
        ]
    batch = join([b for _, b in sorted(found, key=lambda item: item[0])], pad)
    batch.group = torch.arange(n)
    return batch


def repeated(prompts: Ragged, times: int) -> Ragged:
    """Every prompt `times` times, one after the other."""
    return take(prompts, np.repeat(np.arange(len(prompts[1]) - 1), times))
