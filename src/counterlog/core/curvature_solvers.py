"""Inverse-curvature products without a matrix: Hessian products, the LiSSA recursion, Lanczos pairs, Woodbury.

Conjugate gradients and Gauss-Newton products stand in `newton_products`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from counterlog.core.errors import ConvergenceError, message
from counterlog.core.torch_models import RowLoss, cross_entropy_rows, flat, unflat, weights_of

Product = Callable[[Tensor], Tensor]


def hessian_product(
    model: nn.Module, x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows, *, rows: int = 1024
) -> Product:
    """v (p,) -> H v, with H the Hessian of the mean loss over these rows."""
    weights = weights_of(model)

    def product(v: Tensor) -> Tensor:
        total, parts = torch.zeros_like(v), unflat(v, weights)
        for start in range(0, len(x), rows):
            value = loss(model, x[start : start + rows], y[start : start + rows]).sum()
            first = torch.autograd.grad(value, weights, create_graph=True)
            along = sum(((g * p).sum() for g, p in zip(first, parts, strict=True)), start=v.new_zeros(()))
            second = torch.autograd.grad(along, weights, allow_unused=True)
            total += flat(
                [torch.zeros_like(w) if s is None else s for w, s in zip(weights, second, strict=True)]
            )
        return total / len(x)

    return product


def lissa(
    products: Callable[[int], Product], g: Tensor, *, damping: float, scale: float, depth: int
) -> Tensor:
    """v_{j+1} = g + (I - scale (H_j + damping)) v_j from v_0 = g; scale * v_depth estimates (H + damping)^-1 g.

    `products(j)` gives the product of step j's own batch. Raises `ConvergenceError` when the recursion grows: the
    scale must stay below 1 / (largest eigenvalue + damping).
    """
    v, bound = g.clone(), 1e6 * float(g.norm()) / max(scale * damping, 1e-6)
    for j in range(depth):
        v = g + v - scale * (products(j)(v) + damping * v)
        if j % 10 == 9 and not float(v.norm()) < bound:
            msg = message(
                f"LiSSA grows without end (step {j + 1})", hint="lower lissa_scale or raise damping"
            )
            raise ConvergenceError(msg)
    return scale * v


def lanczos(
    product: Product, size: int, *, steps: int, keep: int, like: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """The `keep` Ritz pairs of largest |value| of a symmetric matrix: values (k,), vectors (k, size).

    Every new direction is made orthogonal to all before it (twice), as Arnoldi's iteration does.
    """
    gen = torch.Generator().manual_seed(seed)
    q = torch.randn(size, generator=gen, dtype=torch.float64).to(like)
    basis = [q / q.norm()]
    table = torch.zeros(steps + 1, steps + 1, dtype=torch.float64)
    used = 0
    for j in range(min(steps, size)):
        w, stack = product(basis[j]), torch.stack(basis)
        for _ in range(2):
            along = stack @ w
            w = w - stack.T @ along
            table[: j + 1, j] += along.double().cpu()
        used = j + 1
        length = float(w.norm())
        if length < 1e-7 * max(1.0, float(table.abs().max())):
            break
        basis.append(w / length)
    square = table[:used, :used]
    values, vectors = torch.linalg.eigh(square.triu() + square.triu(1).T)
    best = values.abs().argsort(descending=True)[:keep]
    ritz = vectors[:, best].T.to(like) @ torch.stack(basis[:used])
    return values[best].to(like), ritz


def largest_eigenvalue(product: Product, size: int, *, like: Tensor, steps: int = 15, seed: int = 0) -> float:
    """The largest |eigenvalue|, from below."""
    values, _ = lanczos(product, size, steps=steps, keep=1, like=like, seed=seed)
    return float(values.abs().max())


def woodbury_scores(cross: Tensor, gram: Tensor, damping: float) -> Tensor:
    """g_q' (F + damping I)^-1 g_i, (q, n), for F = mean of g_i g_i', from inner products alone:
    (K_qt - K_qt/n (K_tt/n + damping I)^-1 K_tt) / damping, which is K_qt (K_tt/n + damping I)^-1."""
    n = len(gram)
    system = gram.double() / n
    system.diagonal().add_(damping)
    return torch.cholesky_solve(cross.double().T, torch.linalg.cholesky(system)).T
