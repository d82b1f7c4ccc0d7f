"""How far the rows are from the policy that learns from them: staleness, ratios, sample size, clipping, entropy.

Everything is a sum that adds up over parts and processes; quantiles of the ratios come from a histogram of their
logarithms, so that they do too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from counterlog.core.token_batches import TokenBatch
from counterlog.core.token_losses import log_ratio

BINS, REACH = 800, 4.0  # of log ratios; what lies beyond falls into the outer bins
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
Sums = dict[str, Tensor]


def off_policy_sums(logp: Tensor, entropy: Tensor, batch: TokenBatch) -> Sums:
    """Sums over the tokens and responses of a part; without old log-probabilities only entropy and advantages."""
    mask = batch.response_mask
    with torch.no_grad():
        out = {"tokens": mask.sum(), "entropy": (entropy * mask).sum()}
        out["responses"] = (mask.sum(1) > 0).sum()
        if batch.advantage is not None:
            mass = mask.sum(1) * batch.advantage
            out["positive_mass"], out["negative_mass"] = mass.clamp(min=0).sum(), (-mass).clamp(min=0).sum()
            out["advantage_square"] = batch.advantage.square().sum()
        if batch.old_logprobs is None:
            return out
        shift = log_ratio(logp, batch.old_logprobs, mask)
        ratio = shift.exp()
        weight = (shift.sum(1).clamp(-20, 20).exp() * (mask.sum(1) > 0)).double()
        out |= {
            "ratio": (ratio * mask).double().sum(),
            "ratio_square": (ratio * mask).double().square().sum(),
            "sequence_ratio": weight.sum(),
            "sequence_ratio_square": weight.square().sum(),
            "k1": -(shift * mask).sum(),
            "k3": ((ratio - 1 - shift) * mask).sum(),
            "histogram": torch.histc(
                shift[mask > 0].clamp(-REACH, REACH), bins=BINS, min=-REACH, max=REACH
            ).double(),
        }
    return out


def clip_sums(kept: Tensor, batch: TokenBatch) -> Sums:
    """How many tokens of each sign of advantage there are, and how many of them a mask `kept` (b, r) takes out."""
    mask = batch.response_mask
    assert batch.advantage is not None  # set by the loop before any loss
    sign = batch.advantage[:, None].sign() * mask
    gone = (1 - kept) * mask
    return {
        "positive_tokens": (sign > 0).sum(),
        "negative_tokens": (sign < 0).sum(),
        "positive_clipped": (gone * (sign > 0)).sum(),
        "negative_clipped": (gone * (sign < 0)).sum(),
    }


def off_policy_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """The step's metrics from the sums; what cannot be computed is left out.

    ess_tokens, ess_responses: (sum w)^2 / sum w^2 as a share, w the ratio of a token or of a whole response.
    kl_behaviour: nats a token, KL(sampler || policy) by the estimator that is never negative;
    kl_behaviour_k1 the plain one.
    """
    tokens, responses = sums["tokens"], sums["responses"]
    out = {"entropy": sums["entropy"] / tokens, "tokens": tokens, "length": tokens / max(responses, 1)}
    if "positive_mass" in sums:
        total = sums["positive_mass"] + sums["negative_mass"]
        if total > 0:
            out["positive_share"] = sums["positive_mass"] / total
        out["advantage_rms"] = math.sqrt(sums["advantage_square"] / max(responses, 1))
    for sign in ("positive", "negative"):
        if sums.get(f"{sign}_tokens", 0) > 0:
            out[f"clip_{sign}"] = sums[f"{sign}_clipped"] / sums[f"{sign}_tokens"]
    if "ratio" in sums:
        out["ratio_mean"] = sums["ratio"] / tokens
        out["ess_tokens"] = sums["ratio"] ** 2 / (sums["ratio_square"] * tokens)
        out["ess_responses"] = sums["sequence_ratio"] ** 2 / (sums["sequence_ratio_square"] * responses)
        out["kl_behaviour"], out["kl_behaviour_k1"] = sums["k3"] / tokens, sums["k1"] / tokens
        for q, value in zip(QUANTILES, histogram_quantiles(sums["histogram"], QUANTILES), strict=True):
            out[f"ratio_q{100 * q:02.0f}"] = value
    if "kl_reference" in sums:
        out["kl_reference"] = sums["kl_reference"] / tokens
    return out


def histogram_quantiles(counts: Any, at: tuple[float, ...]) -> list[float]:
    """Quantiles of the ratios from the histogram of their logarithms: right to half a bin, half a hundredth."""
    filled = torch.as_tensor(counts, dtype=torch.float64).cumsum(0)
    if filled[-1] == 0:
        return [math.nan] * len(at)
    places = torch.searchsorted(filled, filled[-1] * torch.tensor(at, dtype=torch.float64))
    middle = (places.clamp(max=BINS - 1).double() + 0.5) * (2 * REACH / BINS) - REACH
    middle = torch.where(middle.abs() < REACH / BINS + 1e-9, 0.0, middle)  # the two bins that meet at ratio 1
    return [math.exp(v) for v in middle.tolist()]


class Watch:
    """What a whole run adds up: how stale its rows were, and the histogram of its ratios."""

    def __init__(self) -> None:
        self.histogram = torch.zeros(BINS, dtype=torch.float64)
        self.staleness: Counter[int] = Counter()
        self.rows = 0

    def add(self, sums: Mapping[str, Any], version: Tensor, step: int) -> dict[str, float]:
        """The step's staleness in optimiser steps; the totals grow."""
        lag = (step - version).tolist()
        self.staleness.update(lag)
        self.rows += len(lag)
        if "histogram" in sums:
            self.histogram += torch.as_tensor(sums["histogram"], dtype=torch.float64)
        return {"staleness": sum(lag) / len(lag), "staleness_max": float(max(lag))}

    def state(self) -> dict[str, Tensor]:
        """As tensors."""
        pairs = torch.tensor(sorted(self.staleness.items()) or [(0, 0)], dtype=torch.int64)
        return {"watch.histogram": self.histogram, "watch.staleness": pairs}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.histogram = tensors["watch.histogram"]
        self.staleness = Counter({int(a): int(b) for a, b in tensors["watch.staleness"].tolist() if b})
        self.rows = sum(self.staleness.values())

    def report(self) -> dict[str, Any]:
        """Staleness by how many rows had it, and quantiles of all ratios."""
        out: dict[str, Any] = {
            "rows": self.rows,
            "staleness": {str(k): v for k, v in sorted(self.staleness.items())},
        }
        if self.histogram.sum() > 0:
            found = histogram_quantiles(self.histogram, QUANTILES)
            out["ratio_quantiles"] = {f"{q:g}": v for q, v in zip(QUANTILES, found, strict=True)}
        return out
