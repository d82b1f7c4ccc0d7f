"""`TokenBatch`: prompts and responses as padded tensors, with what the sampler did and what came of it.

Prompts are padded on the left, responses on the right, so that the responses of a batch start in one column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.errors import LogError, first_rows, message

Ragged = tuple[NDArray[Any], NDArray[np.int64]]  # values end to end, and (n + 1,) where each row starts


@dataclass
class TokenBatch:
    """b responses. Tensors have the row first; what is None is not known.

    input_ids, attention_mask (b, p + r) int64 | response_mask (b, r) float32: 1 for tokens that count, the end-of-text
    token among them | rewards (b,) float32, NaN where nobody judged | group (b,) int64: which prompt | version (b,)
    int64: which iterate sampled the row | weights (b,) float32 | old_logprobs, ref_logprobs (b, r) float32: nats |
    advantage (b,) float32 | is_expert (b,) bool. `tokens` and `rows` are the sums over the whole optimiser batch,
    which any part of it divides by.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    rewards: Tensor
    group: Tensor
    version: Tensor
    weights: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    advantage: Tensor | None = None
    is_expert: Tensor | None = None
    tokens: float = 0.0
    rows: float = 0.0

    @property
    def prompt_width(self) -> int:
        """Columns before the first response token."""
        return int(self.input_ids.shape[1] - self.response_mask.shape[1])

    def __len__(self) -> int:
        return len(self.input_ids)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by field name."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in found.items() if isinstance(v, Tensor)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(**tensors)

    def to(self, device: Any) -> Self:
        """On another device."""
        return dataclasses.replace(self, **{k: v.to(device) for k, v in self.tensors().items()})

    def part(self, rows: Any) -> Self:
        """Some rows, without the columns that are padding in all of them; the sums of the whole batch are kept."""
        chosen = {k: v[rows] for k, v in self.tensors().items()}
        width = self.prompt_width
        left = int((chosen["attention_mask"][:, :width].sum(0) == 0).long().cumprod(0).sum())
        left = min(left, width - 1)
        used = chosen["attention_mask"][:, width:].sum(0) > 0
        right = max(int(used.sum()), 1)
        for name in ("input_ids", "attention_mask"):
            chosen[name] = chosen[name][:, left : width + right]
        for name in ("response_mask", "old_logprobs", "ref_logprobs"):
            if name in chosen:
                chosen[name] = chosen[name][:, :right]
        return dataclasses.replace(self, **chosen)

    def counted(self) -> Self:
        """With the sums over its own rows as the sums of the whole batch. Raises `LogError` when all is masked."""
        tokens = float(self.response_mask.sum())
        if tokens == 0:
            msg = message("every token of the batch is masked", hint="no response has a token that counts")
            raise LogError(msg)
        return dataclasses.replace(self, tokens=tokens, rows=float((self.response_mask.sum(1) > 0).sum()))


def padded(
    values: Ragged, fill: Any, *, left: bool, least: int = 0
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows of unequal length as a rectangle, and where it is not padding: (n, longest) each."""
    flat, start = values
    length = np.diff(start)
    width = max(int(length.max(initial=0)), least)
    inside = np.arange(width) < length[:, None]
    if left:
        inside = inside[:, ::-1]
    out = np.full(inside.shape, fill, dtype=flat.dtype)
    out[inside] = flat
    return out, inside


def ragged(rows: Sequence[Sequence[Any]], dtype: Any) -> Ragged:
    """Lists end to end and where each starts."""
    start = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    flat = np.fromiter((v for r in rows for v in r), dtype, count=int(start[-1]))
    return flat, start


def take(values: Ragged, rows: NDArray[np.int64]) -> Ragged:
    """Some rows of a ragged array."""
    flat, start = values
    length = np.diff(start)[rows]
    begins = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    index = np.arange(begins[-1]) - np.repeat(begins[:-1], length) + np.repeat(start[rows], length)
    return flat[index], begins


def token_batch(
    prompts: Ragged,
    responses: Ragged,
    *,
    pad: int,
    rewards: NDArray[Any] | None = None,
    group: NDArray[Any] | None = None,
    version: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
    old_logprobs: Ragged | None = None,
    counts: NDArray[np.bool_] | None = None,
) -> TokenBatch:
    """A batch from ragged rows; `counts` is False for responses whose tokens are all masked. Raises `LogError`."""
    n = len(prompts[1]) - 1
    if (bad := np.flatnonzero(np.diff(prompts[1]) == 0)).size:
        msg = message(f"prompts without a token: {first_rows(bad)}", hint="start every prompt with a token")
        raise LogError(msg)
    left, left_in = padded(prompts, pad, left=True, least=1)
    right, right_in = padded(responses, pad, left=False, least=1)
    mask = right_in if counts is None else right_in & counts[:, None]
    old = None
    if old_logprobs is not None:
        old = torch.from_numpy(padded(old_logprobs, 0.0, left=False, least=1)[0].astype(np.float32))

    def column(values: NDArray[Any] | None, fill: float, dtype: Any) -> Tensor:
        return torch.from_numpy(
            np.full(n, fill, dtype) if values is None else np.asarray(values).astype(dtype)
        )

    return TokenBatch(
        input_ids=torch.from_numpy(np.concatenate([left, right], axis=1).astype(np.int64)),
        attention_mask=torch.from_numpy(np.concatenate([left_in, right_in], axis=1).astype(np.int64)),
        response_mask=torch.from_numpy(mask.astype(np.float32)),
        rewards=column(rewards, np.nan, np.float32),
        group=column(group, 0, np.int64),
        version=column(version, 0, np.int64),
        weights=column(weights, 1, np.float32),
        old_logprobs=old,
    )


def join(batches: Sequence[TokenBatch], pad: int) -> TokenBatch:
    """Batches under one another, padded to the widest."""
    left = max(b.prompt_width for b in batches)
    right = max(b.response_mask.shape[1] for b in batches)
    parts: dict[str, list[Tensor]] = {}
    for b in batches:
        for name, value in b.tensors().items():
            before = left - b.prompt_width if name in ("input_ids", "attention_mask") else 0
            after = right - b.response_mask.shape[1] if value.dim() == 2 else 0
            fill = pad if name == "input_ids" else 0
            grown = torch.nn.functional.pad(value, (before, after), value=fill) if before or after else value
            parts.setdefault(name, []).append(grown)
    return TokenBatch.from_tensors({k: torch.cat(v) for k, v in parts.items() if len(v) == len(batches)})
