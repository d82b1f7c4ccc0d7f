"""Preconditioned query gradients of a layer, dense or of low rank, and their products with the rows' gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.layer_rows import LayerRows, OuterRows

SVD_WHOLE = 512  # up to this many inputs and outputs every singular value is computed


@dataclass(frozen=True)
class DenseQueries:
    """(q, P, M) as it is."""

    v: Tensor

    def dot(self, rows: LayerRows) -> Tensor:
        """(q, b)."""
        return rows.dot(self.v)

    def by_token(self, rows: LayerRows) -> Tensor:
        """(q, b, t)."""
        return rows.by_token(self.v)

    def by_token_of(self, query: int, rows: LayerRows) -> Tensor:
        """(b, t) of one query."""
        return rows.by_token(self.v[query : query + 1])[0]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return int(self.v.numel() * self.v.element_size())


@dataclass(frozen=True)
class LowRankQueries:
    """v_q = left_q right_q' with left (q, P, k) and right (q, M, k)."""

    left: Tensor
    right: Tensor

    def dot(self, rows: LayerRows) -> Tensor:
        """(q, b)."""
        return self.by_token(rows).sum(dim=2)

    def by_token(self, rows: LayerRows) -> Tensor:
        """(q, b, t)."""
        if isinstance(rows, OuterRows):
            return rows.low_rank_by_token(self.left, self.right)
        return rows.by_token(self.left @ self.right.mT)

    def by_token_of(self, query: int, rows: LayerRows) -> Tensor:
        """(b, t) of one query."""
        one = slice(query, query + 1)
        return LowRankQueries(self.left[one], self.right[one]).by_token(rows)[0]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return int((self.left.numel() + self.right.numel()) * self.left.element_size())


Queries = DenseQueries | LowRankQueries


def low_rank(v: Tensor, rank: int, seed: int) -> tuple[LowRankQueries, Tensor]:
    """The best rank-`rank` form of every v_q (P, M), and the share of its squared length that is kept, (q,).

    Singular vectors of large matrices come from a seeded random range with two power steps and 8 spare directions.
    """
    whole = v.flatten(1).square().sum(dim=1).clamp_min(1e-30)
    if max(v.shape[1:]) <= SVD_WHOLE:
        u, s, vt = torch.linalg.svd(v, full_matrices=False)
        right = vt.mT
    else:
        u, s, right = _random_svd(v, rank + 8, seed)
    u, s, right = u[..., :rank], s[..., :rank], right[..., :rank]
    return LowRankQueries(u * s[:, None], right.contiguous()), s.square().sum(dim=1) / whole


def _random_svd(v: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(q, P, k), (q, k), (q, M, k)."""
    width = min(width, *v.shape[1:])
    gen = torch.Generator().manual_seed(seed)
    start = torch.randn(v.shape[2], width, generator=gen, dtype=v.dtype).to(v.device)
    basis = torch.linalg.qr(v @ start)[0]
    for _ in range(2):
        basis = torch.linalg.qr(v.mT @ basis)[0]
        basis = torch.linalg.qr(v @ basis)[0]
    small, s, vt = torch.linalg.svd(basis.mT @ v, full_matrices=False)
    return basis @ small, s, vt.mT
