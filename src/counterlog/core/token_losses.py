"""From losses a token to one number: every denominator is that of the whole optimiser batch.

A part of a batch divides by the sums of the whole (`TokenBatch.tokens`, `rows`), so that any split into parts, over
time or over machines, adds up to the same gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

WAYS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def aggregate(
    loss: Tensor, mask: Tensor, way: str = "token-mean", *, tokens: float, rows: float, longest: int = 1
) -> Tensor:
    """Losses a token (b, r) as (): the mean over tokens; or over responses of their mean, sum, or sum / `longest`.

    `tokens` and `rows` are the sums over the whole batch, of which these may be a part.
    """
    kept = loss * mask
    if way == "token-mean":
        return kept.sum() / tokens
    each = kept.sum(1)
    if way == "seq-mean-token-mean":
        each = each / mask.sum(1).clamp(min=1)
    elif way == "seq-mean-token-sum-norm":
        each = each / longest
    return each.sum() / rows


def log_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """log pi / pi_old a token, zero where masked, held inside [-20, 20] so that its exponential is finite."""
    return ((logp - old) * mask).clamp(-20.0, 20.0)


def sequence_log_ratio(ratio: Tensor, mask: Tensor) -> Tensor:
    """Mean over a response's tokens of its log-ratio, (b, r) -> (b, 1)."""
    return (ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def masked_quantiles(values: Tensor, mask: Tensor, at: tuple[float, ...]) -> Tensor:
    """Quantiles of the values that count; NaN when none does."""
    kept = values.detach()[mask > 0].float()
    if kept.numel() == 0:
        return torch.full((len(at),), float("nan"))
    ordered = kept.sort().values
    place = torch.tensor(at) * (len(ordered) - 1)
    low = place.floor().long()
    high = place.ceil().long()
    share = (place - low).to(ordered)
    return ordered[low] * (1 - share) + ordered[high] * share
