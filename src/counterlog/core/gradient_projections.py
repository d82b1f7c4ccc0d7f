"""Random projections of gradients: seeded blocks that are drawn, used and forgotten."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from counterlog.core.layer_rows import LayerRows

CHUNK = 2**22  # numbers of the projection held at a time


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def random_matrix(rows: int, columns: int, kind: str, *seed: object, like: Tensor) -> Tensor:
    """(rows, columns) of mean 0 and variance 1 / columns: signs (`rademacher`) or normal numbers."""
    gen = torch.Generator().manual_seed(_seed(*seed))
    if kind == "normal":
        found = torch.randn(rows, columns, generator=gen)
    else:
        found = torch.randint(0, 2, (rows, columns), generator=gen, dtype=torch.int8).float().mul_(2).sub_(1)
    return (found / columns**0.5).to(like)


def projected(rows: LayerRows, name: str, k: int, kind: str, seed: int) -> Tensor:
    """(b, k) R' gradient of one layer, R (P M, k) drawn by chunks from the seed and the layer's name."""
    step = max(1, CHUNK // k)
    parts = []
    for part in rows.blocks():
        g = part.gradients().flatten(1)
        total = g.new_zeros(len(g), k)
        for i in range(0, g.shape[1], step):
            piece = g[:, i : i + step]
            total += piece @ random_matrix(piece.shape[1], k, kind, seed, name, i, like=g)
        parts.append(total)
    return torch.cat(parts)
