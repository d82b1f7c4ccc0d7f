"""Second-order pieces of a mean loss: the dense Hessian, Gauss-Newton products, conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, ConvergenceError, message
from counterlog.core.torch_models import RowLoss, cross_entropy_rows, flat, unflat, weights_of

MOST_WEIGHTS = 5_000


def explicit_hessian(
    model: nn.Module, x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows, *, l2: float = 0.0
) -> Tensor:
    """(p, p) float64 Hessian of the mean loss plus l2/2 |theta|^2.

    Raises `ConfigError` above `MOST_WEIGHTS` weights.
    """
    weights = weights_of(model)
    p = sum(w.numel() for w in weights)
    if p > MOST_WEIGHTS:
        msg = message(
            f"the model has {p:,} weights", expected=f"at most {MOST_WEIGHTS:,} for a dense Hessian"
        )
        raise ConfigError(message(msg, hint="use curvature='cg'"))
    found = torch.autograd.grad(loss(model, x, y).mean(), weights, create_graph=True)
    gradient = torch.cat([g.reshape(-1) for g in found])
    eye = torch.eye(p, dtype=gradient.dtype, device=gradient.device)
    rows = [
        torch.cat(
            [
                torch.zeros_like(w).reshape(-1) if r is None else r.reshape(-1)
                for w, r in zip(
                    weights,
                    torch.autograd.grad(gradient, weights, e, retain_graph=True, allow_unused=True),
                    strict=True,
                )
            ]
        )
        for e in eye
    ]
    return torch.stack(rows).double() + l2 * torch.eye(p, dtype=torch.float64, device=gradient.device)


def gauss_newton_product(
    model: nn.Module, x: Tensor, y: Tensor, *, rows: int = 1024
) -> Callable[[Tensor], Tensor]:
    """v (p,) -> G v, with G the mean Gauss-Newton matrix of cross-entropy, positive semi-definite at any weights."""
    weights = weights_of(model)

    def product(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for start in range(0, len(x), rows):
            out = model(x[start : start + rows])
            seed = torch.zeros_like(out, requires_grad=True)
            back = torch.autograd.grad(out, weights, seed, create_graph=True)
            pushed = torch.autograd.grad(back, seed, unflat(v, weights), retain_graph=True)[0]
            probs = out.detach().softmax(dim=-1)
            curved = probs * pushed - probs * (probs * pushed).sum(dim=-1, keepdim=True)
            total += flat(torch.autograd.grad(out, weights, curved))
        return total / len(x)

    return product


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, *, damping: float, steps: int, tolerance: float = 1e-8
) -> tuple[Tensor, float]:
    """Solve (A + damping I) v = b for symmetric positive A; the solution and |residual| / |b| where it ended.

    Raises `ConvergenceError` for a product that is not positive or not finite.
    """
    v, r = torch.zeros_like(b), b.clone()
    p, square, start = r.clone(), r.dot(r), b.norm()
    if float(start) == 0:
        return v, 0.0
    for _ in range(steps):
        a = product(p) + damping * p
        curve = p.dot(a)
        if not float(curve) > 0:
            msg = message(f"the curvature along a direction is {float(curve):.3g}", hint="raise damping")
            raise ConvergenceError(msg)
        step = square / curve
        v, r = v + step * p, r - step * a
        new = r.dot(r)
        if float(new.sqrt()) <= tolerance * float(start):
            break
        p, square = r + (new / square) * p, new
    return v, float(r.norm() / start)


def row_gradients(
    model: nn.Module, x: Tensor, y: Tensor, loss: RowLoss = cross_entropy_rows
) -> Callable[[int, int], Tensor]:
    """(start, stop) -> (rows, p): the gradient of every row's loss, by one vectorised pass."""
    weights: Sequence[str] = [n for n, w in model.named_parameters() if w.requires_grad]
    values = {n: w.detach() for n, w in model.named_parameters() if w.requires_grad}
    rest = {n: w.detach() for n, w in model.named_parameters() if not w.requires_grad}
    rest |= dict(model.named_buffers())

    def one(state: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        def call(rows: Tensor) -> Tensor:
            return torch.func.functional_call(model, {**rest, **state}, (rows,))

        wrapped: Callable[..., Tensor] = loss
        return wrapped(call, row[None], label[None])[0]

    every = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))

    def block(start: int, stop: int) -> Tensor:
        found = every(values, x[start:stop], y[start:stop])
        return torch.cat([found[n].reshape(stop - start, -1) for n in weights], dim=1)

    return block
