"""Where a step's rollouts come from: a log, or the model itself as it was some steps ago.

Which prompts a step has is a function of (rng, step), so that a resumed run draws what an unbroken one would.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.generation import generate_many, seed_of
from counterlog.core.language_models import LanguageModel, texts_of
from counterlog.core.reward_functions import RewardFunction, scored
from counterlog.core.rollouts import EncodedRollouts
from counterlog.core.text_logs import encode_prompts, kind_of, need_columns, open_text_log
from counterlog.core.token_batches import Ragged, TokenBatch, take
from counterlog.core.token_losses import log_ratio


class Source(Protocol):
    """Batches by step."""

    def next(self, step: int, accelerator: Any = None) -> TokenBatch:
        """The step's rows."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """The inverse of `state`."""
        ...


def turn(n: int, size: int, step: int, rng: int) -> NDArray[np.int64]:
    """`size` of n numbers for `step`: each comes once before any comes again, in an order drawn anew every time."""
    found: list[NDArray[np.int64]] = []
    place, left = step * size, size
    while left > 0:
        epoch, at = divmod(place, n)
        part = np.random.default_rng([rng, epoch]).permutation(n)[at : at + left]
        found.append(part)
        place, left = place + len(part), left - len(part)
    return np.concatenate(found)


@dataclass
class LogSource:
    """Groups of a log, `prompts` of them a step, each with all its responses."""

    log: EncodedRollouts
    pad: int
    prompts: int
    rng: int
    mask_truncated: bool = False
    starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.order = np.argsort(self.log.group, kind="stable")
        _, first = np.unique(self.log.group[self.order], return_index=True)
        self.starts = np.append(first, len(self.order))
        newest = 0 if self.log.version is None else int(self.log.version.max())
        self.newest = newest  # the newest version counts as the model that training starts from

    def next(self, step: int, accelerator: Any = None) -> TokenBatch:
        """The step's rows; their version counts back from the start of training."""
        groups = len(self.starts) - 1
        chosen = turn(groups, min(self.prompts, groups), step, self.rng)
        rows = take((self.order, self.starts), chosen)[0]
        batch = self.log.batch(rows, self.pad, mask_truncated=self.mask_truncated)
        batch.version -= self.newest
        return batch

    def state(self) -> dict[str, Tensor]:
        """Nothing: a step's rows follow from (rng, step)."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Nothing to do."""


@dataclass
class Prompts:
    """Prompts to sample answers to: tokens, their text, and the columns that reward functions may ask for."""

    ids: Ragged
    texts: list[Any]
    columns: dict[str, list[Any]]

    @property
    def n(self) -> int:
        """Prompts."""
        return len(self.ids[1]) - 1


def read_prompts(source: Any, model: LanguageModel) -> Prompts:
    """From any source of rows with a column `prompt` (or `prompt_ids`), or a list of texts. Raises `LogError`."""
    if isinstance(source, Prompts):
        return source
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], str):
        source = pl.DataFrame({"prompt": list(source)})
    frame = open_text_log(source)
    if "prompt" not in frame.columns and "prompt_ids" in frame.columns:
        frame = frame.rename({"prompt_ids": "prompt"})
    need_columns(frame, ("prompt",), "prompts")
    ids, which = encode_prompts(model.tokenizer, frame["prompt"], kind_of(frame["prompt"]))
    rest = {c: frame[c].to_list() for c in frame.columns if c != "prompt"}
    return Prompts(take(ids, which), frame["prompt"].to_list(), rest)


def prompts_of_log(table: pl.DataFrame, model: LanguageModel) -> Prompts:
    """The distinct prompts of a log, with the first row's columns."""
    first = table.unique("group", keep="first", maintain_order=True)
    dropped = ["completion", "completion_logprobs", "reward", "group", "policy_version", "weight"]
    return read_prompts(first.drop([c for c in dropped if c in first.columns]), model)


@dataclass
class SampledSource:
    """`prompts` prompts a step with `responses` answers each, sampled by a snapshot of the model and judged.

    Every `interval` steps (0: once, before the first step) the batches of the next `interval` steps are sampled at
    once; those of a step are sampled `offset` steps earlier still. A batch is used `reuse` steps long.
    """

    model: LanguageModel
    from_prompts: Prompts
    rewards: Sequence[RewardFunction]
    prompts: int
    responses: int
    longest: int
    temperature: float
    interval: int
    offset: int
    reuse: int
    steps: int
    chunk: int
    rng: int
    reward_weights: Sequence[float] = ()
    mask_truncated: bool = False
    queue: dict[int, TokenBatch] = field(default_factory=dict)

    def next(self, step: int, accelerator: Any = None) -> TokenBatch:
        """The step's rows, sampled now where they are due."""
        k = step // self.reuse
        if step % self.reuse == 0:
            for old in [q for q in self.queue if q < k]:
                del self.queue[old]
            batches = -(-self.steps // self.reuse)
            every = self.interval or batches
            if k % every == 0:
                first = 0 if k == 0 else k + self.offset
                last = k + self.offset + every if self.interval else batches
                self._sample(first, last, step, accelerator)
        return copy.copy(self.queue[k])

    def _sample(self, first: int, last: int, step: int, accelerator: Any) -> None:
        """Batches first..last-1 by the model as it is."""
        if last <= first:
            return
        chosen = np.concatenate(
            [turn(self.from_prompts.n, self.prompts, k, self.rng) for k in range(first, last)]
        )
        asked = np.repeat(chosen, self.responses)
        whole = sample_scored(
            self.model,
            self.from_prompts,
            asked,
            self.rewards,
            weights=self.reward_weights,
            seed=seed_of(self.rng, step),
            longest=self.longest,
            temperature=self.temperature,
            chunk=self.chunk,
            accelerator=accelerator,
        )
        if self.mask_truncated and self.model.end is not None:
            ends = (whole.input_ids[:, whole.prompt_width :] == self.model.end) & (whole.response_mask > 0)
            whole.response_mask = whole.response_mask * ends.any(1, keepdim=True)
        whole.version = torch.full((len(whole),), step, dtype=torch.int64)
        size = self.prompts * self.responses
        whole.group = torch.arange(len(whole)) // self.responses  # a prompt drawn twice is two groups
        for i, k in enumerate(range(first, last)):
            self.queue[k] = whole.part(slice(i * size, (i + 1) * size))

    def state(self) -> dict[str, Tensor]:
        """The queue."""
        return {f"queue.{k}.{name}": v for k, b in self.queue.items() for name, v in b.tensors().items()}

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """The queue as it was."""
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("queue."):
                _, k, which = name.split(".")
                found.setdefault(int(k), {})[which] = value
        self.queue = {k: TokenBatch.from_tensors(v) for k, v in found.items()}


def sample_scored(
    model: LanguageModel,
    prompts: Prompts,
    asked: NDArray[np.int64],
    rewards: Sequence[RewardFunction],
    *,
    seed: int,
    longest: int,
    temperature: float = 1.0,
    chunk: int = 512,
    weights: Sequence[float] = (),
    greedy: bool = False,
    accelerator: Any = None,
) -> TokenBatch:
    """One answer to each prompt number in `asked`, judged by the reward functions where there are any."""
    batch = generate_many(
        model.model,
        take(prompts.ids, asked),
        seed=seed,
        chunk=chunk,
        pad=model.pad,
        end=model.end,
        longest=longest,
        temperature=temperature,
        greedy=greedy,
        accelerator=accelerator,
    )
    if rewards:
        width = batch.prompt_width
        inside = batch.attention_mask.bool()
        ids = {
            "prompt_ids": [
                r[m].tolist() for r, m in zip(batch.input_ids[:, :width], inside[:, :width], strict=True)
            ],
            "completion_ids": [
                r[m].tolist() for r, m in zip(batch.input_ids[:, width:], inside[:, width:], strict=True)
            ],
        }
        texts = texts_of(model, batch.input_ids[:, width:], inside[:, width:])
        columns = {name: [values[i] for i in asked] for name, values in prompts.columns.items()}
        found = scored(rewards, [prompts.texts[i] for i in asked], texts, {**columns, **ids}, weights)
        batch.rewards = torch.from_numpy(found.astype(np.float32))
    return batch


def check_sampler(logp: Tensor, batch: TokenBatch) -> float:
    """Mean |ratio - 1| of rows that the present policy has just sampled: rounding, unless something is wrong."""
    assert batch.old_logprobs is not None  # sampled rows have them
    mask = batch.response_mask
    off = (log_ratio(logp, batch.old_logprobs, mask).exp() - 1).abs() * mask
    return float(off.sum() / mask.sum())
