"""Losses of one list of clicks with a weight an item: softmax, sigmoid, pairwise. What every ranker here descends.

Shapes: logits, click, weight (B, K) | shown (B, K) bool | a loss is one number, a mean by total weight.
Positions where nothing was shown have logit minus infinity and no weight.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LOSSES = ("softmax", "sigmoid", "pairwise")


def masked(logits: Tensor, shown: Tensor) -> Tensor:
    """`logits` with minus infinity where nothing was shown."""
    return logits.masked_fill(~shown, float("-inf"))


def softmax_loss(logits: Tensor, weighted_click: Tensor, shown: Tensor | None) -> Tensor:
    """- sum c w log softmax(logits) / sum c w: cross-entropy of the list's weighted clicks. `shown` None: all are."""
    if shown is None:
        log_share = functional.log_softmax(logits, dim=1)
    else:
        log_share = functional.log_softmax(masked(logits, shown), dim=1).masked_fill(~shown, 0.0)
    return -(weighted_click * log_share).sum() / weighted_click.sum()


def softmax_gradient(logits: Tensor, weighted_click: Tensor, shown: Tensor) -> Tensor:
    """Derivative of `softmax_loss` by the logits: (share_k sum_j c_j w_j - c_k w_k) / sum over the batch."""
    share = functional.softmax(masked(logits, shown), dim=1)
    return (share * weighted_click.sum(dim=1, keepdim=True) - weighted_click) / weighted_click.sum()


def sigmoid_loss(logits: Tensor, click: Tensor, weight: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy of an unbiased label: c w may exceed 1, so the term of 'not clicked' is (1 - c w)."""
    label = click * weight
    row = functional.softplus(logits) - label * logits
    return row.masked_fill(~shown, 0.0).sum() / shown.sum()


def pairwise_loss(logits: Tensor, weighted_click: Tensor, click: Tensor, shown: Tensor) -> Tensor:
    """sum over clicked k, not clicked j of c_k w_k log(1 + exp(s_j - s_k)), by the pairs' total weight."""
    pair = weighted_click[:, :, None] * ((1 - click) * shown)[:, None, :]
    apart = functional.softplus(logits[:, None, :] - logits[:, :, None])
    return (pair * apart).sum() / pair.sum().clamp_min(torch.finfo(logits.dtype).tiny)


def list_loss(
    kind: str, logits: Tensor, click: Tensor, weight: Tensor, shown: Tensor, *, whole: bool = False
) -> Tensor:
    """The loss named `kind`. `whole`: every position is shown in every list."""
    if kind == "softmax":
        return softmax_loss(logits, click * weight, None if whole else shown)
    if kind == "sigmoid":
        return sigmoid_loss(logits, click, weight, shown)
    return pairwise_loss(logits, click * weight, click, shown)
