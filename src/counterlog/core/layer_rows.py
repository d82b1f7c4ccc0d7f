"""Gradients of rows by one layer's weights, held as what they are made of, and their products.

A row's gradient is (outputs, inputs). Shapes: b rows, t tokens, P outputs, M inputs (the bias is the last), q queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**24  # numbers of the largest block of row gradients held at a time


class LayerRows(ABC):
    """Gradients of b rows by one layer."""

    s: Tensor  # (b, t, P) gradient of the row's loss by the layer's output

    @abstractmethod
    def gradients(self) -> Tensor:
        """(b, P, M)."""

    @abstractmethod
    def squares(self) -> Tensor:
        """(P, M) squared gradients, added over rows."""

    @abstractmethod
    def by_token(self, v: Tensor) -> Tensor:
        """<v_q, gradient> of every token, (q, b, t), for v (q, P, M)."""

    @abstractmethod
    def part(self, rows: Any) -> LayerRows:
        """Some of the rows."""

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Any]) -> LayerRows:
        """Several calls of one layer for the same rows: tokens one after another."""

    def dot(self, v: Tensor) -> Tensor:
        """<v_q, gradient of row>, (q, b), for v (q, P, M)."""
        return self.by_token(v).sum(dim=2)

    def blocks(self) -> Iterator[LayerRows]:
        """The rows in pieces whose gradients fit in `BLOCK` numbers."""
        step = max(1, BLOCK // max(1, self.size_of_gradient))
        for i in range(0, len(self), step):
            yield self if step >= len(self) else self.part(slice(i, i + step))

    @property
    @abstractmethod
    def size_of_gradient(self) -> int:
        """P x M."""

    def norms(self) -> Tensor:
        """(b,) squared length of every row's gradient."""
        return torch.cat([g.flatten(1).square().sum(dim=1) for g in (p.gradients() for p in self.blocks())])

    def kernel(self, other: LayerRows) -> Tensor:
        """(b, b') inner products with the rows of another."""
        return torch.cat([other.dot(part.gradients()) for part in self.blocks()])

    def quadratic(self, weights: Tensor) -> Tensor:
        """(b,) sum of weights (P, M) times squared gradients."""
        return torch.cat([p.gradients().square().flatten(1) @ weights.flatten() for p in self.blocks()])

    def weighted(self, weights: Tensor) -> Tensor:
        """(q, P, M) sums of the rows' gradients under weights (q, b)."""
        total, at = None, 0
        for part in self.blocks():
            g = part.gradients()
            now = torch.einsum("qb,bpm->qpm", weights[:, at : at + len(part)].to(g), g)
            total, at = now if total is None else total + now, at + len(part)
        return self.s.new_zeros(0) if total is None else total

    def total(self) -> Tensor:
        """A number that is not finite when anything here is not."""
        return self.s.abs().sum()

    @property
    def bytes(self) -> int:
        """Memory held."""
        return int(sum(v.numel() * v.element_size() for v in vars(self).values() if isinstance(v, Tensor)))

    def __len__(self) -> int:
        return len(self.s)


class OuterRows(LayerRows):
    """Linear layers and convolutions: gradient = sum over tokens of s a'. `count` tokens are not masked."""

    def __init__(self, a: Tensor, s: Tensor, count: float | None = None) -> None:
        self.a, self.s = a, s
        self.count = float(a.shape[0] * a.shape[1]) if count is None else count

    def gradients(self) -> Tensor:
        """(b, P, M)."""
        if self.a.shape[1] == 1:
            return self.s.transpose(1, 2) * self.a
        return torch.bmm(self.s.transpose(1, 2), self.a)

    def squares(self) -> Tensor:
        """(P, M); for one token a row, a product of squares."""
        if self.a.shape[1] == 1:
            return self.s[:, 0].square().T @ self.a[:, 0].square()
        total = self.s.new_zeros(self.s.shape[2], self.a.shape[2])
        for part in self.blocks():
            total += part.gradients().square_().sum(dim=0)
        return total

    @property
    def size_of_gradient(self) -> int:
        """P x M."""
        return int(self.s.shape[2] * self.a.shape[2])

    def norms(self) -> Tensor:
        """(b,), by the tokens' own inner products where that is less work."""
        t, (P, M) = self.a.shape[1], (self.s.shape[2], self.a.shape[2])
        if t * (P + M) > P * M:
            return super().norms()
        return ((self.s @ self.s.mT) * (self.a @ self.a.mT)).sum(dim=(1, 2))

    def kernel(self, other: LayerRows) -> Tensor:
        """(b, b'): for one token a row, a product of two inner products."""
        if isinstance(other, OuterRows) and self.a.shape[1] == 1 and other.a.shape[1] == 1:
            return (self.s[:, 0] @ other.s[:, 0].T) * (self.a[:, 0] @ other.a[:, 0].T)
        return super().kernel(other)

    def weighted(self, weights: Tensor) -> Tensor:
        """(q, P, M)."""
        if self.a.shape[1] == 1:
            return (weights.to(self.s)[:, :, None] * self.s[:, 0]).mT @ self.a[:, 0]
        return super().weighted(weights)

    def rotated(self, left: Tensor, right: Tensor) -> OuterRows:
        """The same gradients in other bases: left' gradient right, by the tokens."""
        return OuterRows(self.a @ right, self.s @ left, self.count)

    def rotated_squares(self, left: Tensor, right: Tensor) -> Tensor:
        """(P, M) squares of left' gradient right added over rows, by tokens or by gradients, whichever is less work."""
        t, (P, M) = self.a.shape[1], (self.s.shape[2], self.a.shape[2])
        if t == 1 or t * (P * P + M * M) <= P * M * (P + M):
            return self.rotated(left, right).squares()
        total = self.s.new_zeros(P, M)
        for part in self.blocks():
            total += (left.T @ part.gradients() @ right).square_().sum(dim=0)
        return total

    def quadratic(self, weights: Tensor) -> Tensor:
        """(b,) sum of weights (P, M) times squared gradients."""
        if self.a.shape[1] == 1:
            return torch.linalg.vecdot(self.s[:, 0].square() @ weights, self.a[:, 0].square())
        return torch.cat(
            [part.gradients().square_().flatten(1) @ weights.flatten() for part in self.blocks()]
        )

    def dot(self, v: Tensor) -> Tensor:
        """(q, b): by gradients, or token by token where a single query makes that less work."""
        t, q = self.a.shape[1], len(v)
        if t > 1 and q == 1:
            return self.by_token(v).sum(dim=2)
        return torch.cat([v.flatten(1) @ p.gradients().flatten(1).T for p in self.blocks()], dim=1)

    def by_token(self, v: Tensor) -> Tensor:
        """(q, b, t): s_t' v a_t."""
        return torch.stack([torch.linalg.vecdot(self.s @ one, self.a) for one in v])

    def low_rank_by_token(self, left: Tensor, right: Tensor) -> Tensor:
        """(q, b, t) for v_q = left_q right_q', left (q, P, k), right (q, M, k)."""
        q, _, k = left.shape
        s = self.s @ left.permute(1, 0, 2).reshape(-1, q * k)
        a = self.a @ right.permute(1, 0, 2).reshape(-1, q * k)
        return (s * a).reshape(*s.shape[:2], q, k).sum(dim=3).permute(2, 0, 1)

    def part(self, rows: Any) -> OuterRows:
        """Some of the rows."""
        kept = self.a[rows]
        return OuterRows(kept, self.s[rows], self.count * len(kept) / len(self.a))

    def total(self) -> Tensor:
        """A number that is not finite when anything here is not."""
        return self.s.abs().sum() + self.a.abs().sum()

    @classmethod
    def joined(cls, parts: Sequence[OuterRows]) -> OuterRows:
        """Calls one after another."""
        a, s = torch.cat([p.a for p in parts], dim=1), torch.cat([p.s for p in parts], dim=1)
        return OuterRows(a, s, sum(p.count for p in parts))


class EmbeddingRows(LayerRows):
    """Embeddings: the gradient (P, vocabulary) has s_t in the column of token t."""

    def __init__(self, ids: Tensor, s: Tensor, size: int) -> None:
        self.ids, self.s, self.size = ids, s, size

    def _columns(self) -> tuple[Tensor, Tensor, Tensor]:
        """(row, token) pairs that occur: rows (c,), tokens (c,), gradients (c, P)."""
        b, _, P = self.s.shape
        row = torch.arange(b, device=self.ids.device)[:, None].expand_as(self.ids)
        pairs, which = (row * self.size + self.ids).flatten().unique(return_inverse=True)
        summed = self.s.new_zeros(len(pairs), P).index_add_(0, which, self.s.flatten(0, 1))
        return pairs // self.size, pairs % self.size, summed

    @property
    def size_of_gradient(self) -> int:
        """P x M."""
        return int(self.s.shape[2] * self.size)

    def gradients(self) -> Tensor:
        """(b, P, M)."""
        row, token, summed = self._columns()
        out = self.s.new_zeros(len(self.s), self.size, self.s.shape[2])
        out[row, token] = summed
        return out.transpose(1, 2)

    def squares(self) -> Tensor:
        """(P, M)."""
        _, token, summed = self._columns()
        return self.s.new_zeros(self.size, self.s.shape[2]).index_add_(0, token, summed.square()).T

    def by_token(self, v: Tensor) -> Tensor:
        """(q, b, t), by looking the tokens' columns up."""
        return torch.stack([torch.linalg.vecdot(one.T[self.ids], self.s) for one in v])

    def part(self, rows: Any) -> EmbeddingRows:
        """Some of the rows."""
        return EmbeddingRows(self.ids[rows], self.s[rows], self.size)

    @classmethod
    def joined(cls, parts: Sequence[EmbeddingRows]) -> EmbeddingRows:
        """Calls one after another."""
        ids, s = torch.cat([p.ids for p in parts], dim=1), torch.cat([p.s for p in parts], dim=1)
        return EmbeddingRows(ids, s, parts[0].size)


class NormRows(LayerRows):
    """Layer norms: the gradient (P, 1 or 2) of scale and shift; `a` (b, t, P) is the normalised input."""

    def __init__(self, a: Tensor, s: Tensor, bias: bool) -> None:
        self.a, self.s, self.bias = a, s, bias

    @property
    def size_of_gradient(self) -> int:
        """P x M."""
        return int(self.s.shape[2] * (1 + self.bias))

    def gradients(self) -> Tensor:
        """(b, P, M)."""
        scale = (self.s * self.a).sum(dim=1)
        return torch.stack([scale, self.s.sum(dim=1)] if self.bias else [scale], dim=2)

    def squares(self) -> Tensor:
        """(P, M)."""
        return self.gradients().square().sum(dim=0)

    def by_token(self, v: Tensor) -> Tensor:
        """(q, b, t)."""
        found = torch.einsum("btp,qp->qbt", self.s * self.a, v[:, :, 0])
        return found + torch.einsum("btp,qp->qbt", self.s, v[:, :, 1]) if self.bias else found

    def part(self, rows: Any) -> NormRows:
        """Some of the rows."""
        return NormRows(self.a[rows], self.s[rows], self.bias)

    @classmethod
    def joined(cls, parts: Sequence[NormRows]) -> NormRows:
        """Calls one after another."""
        a, s = torch.cat([p.a for p in parts], dim=1), torch.cat([p.s for p in parts], dim=1)
        return NormRows(a, s, parts[0].bias)
