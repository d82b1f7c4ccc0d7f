"""Classical influence functions: the inverse Hessian of the whole network, solved rather than factored.

Use when    the network is small, or a reference is needed for faster methods: explicit up to 5,000 weights, conjugate
            gradients, the stochastic recursion LiSSA, or the leading eigenvectors (Arnoldi).
Not when    the network is large or queries are many: every query costs many passes over the rows; use ekfac-influence.
Data        a torch module, x (n, ...), y (n, ...) it was trained on; queries x (q, ...), y (q, ...)
Paper       Koh and Liang: Understanding Black-box Predictions via Influence Functions, ICML 2017, arXiv 1703.04730.
            LiSSA: Agarwal, Bullins, Hazan, 2017, arXiv 1602.03943. Arnoldi: Schioppa et al., 2022, arXiv 2112.03052.
Equation    score(q, i) = grad m_q' (H + damping I)^-1 grad l_i                                                    (1)
            LiSSA: v <- g + (I - scale (H_batch + damping I)) v;   scale v_end, averaged over repeats                (2)
            Arnoldi: sum over the r leading pairs (u'g_q)(u'g_i) / (value + damping)                                 (3)
Shapes      scores (n, q) | H (p, p) of all p trainable weights | g, v, u (p,)
Units       score / n: nats, rise of the query's measurement when the row is removed. Positive: the row helps
Raises      ConfigError: too many weights for `explicit`, Gauss-Newton without cross-entropy | LogError: no query
            ConvergenceError: curvature that is not positive, LiSSA that grows
Differs     `gauss_newton`, the default, is positive at any weights; `hessian` is the paper's and needs an optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.curvature_solvers import hessian_product, lanczos, largest_eigenvalue, lissa
from counterlog.core.errors import ConfigError, ConvergenceError, message
from counterlog.core.factor_store import batches
from counterlog.core.newton_products import (
    MOST_WEIGHTS,
    conjugate_gradient,
    explicit_hessian,
    gauss_newton_product,
    row_gradients,
)
from counterlog.core.row_tasks import Task
from counterlog.core.torch_models import RowLoss, cross_entropy_rows, frozen_layers, weights_of
from counterlog.trace.network_scores import LayerConfig, NetworkInfluence, Pieces


@dataclass(frozen=True, kw_only=True)
class HessianInfluenceConfig(LayerConfig):
    """Which curvature, and how it is inverted."""

    solver: str = param(
        "cg", "how (H + damping I) is inverted", choices=("explicit", "cg", "lissa", "arnoldi")
    )
    curvature: str = param("gauss_newton", "which H", choices=("gauss_newton", "hessian"))
    damping: float = param(1e-3, "added to the diagonal of H", at_least=0)
    cg_steps: int = param(100, "most conjugate-gradient steps", at_least=1)
    cg_tolerance: float = param(1e-5, "residual over right-hand side at which it stops", above=0)
    lissa_depth: int = param(5_000, "steps of the recursion", at_least=1)
    lissa_repeats: int = param(1, "recursions that are averaged", at_least=1)
    lissa_batch: int = param(64, "rows of a step", at_least=1)
    lissa_scale: float = param(0.0, "scale of (2); 0: half of 1 / (largest eigenvalue + damping)", at_least=0)
    arnoldi_steps: int = param(100, "size of the Krylov basis", at_least=1)
    arnoldi_keep: int = param(50, "leading pairs that are used", at_least=1)


class HessianInfluence(NetworkInfluence):
    """Influence functions over all trainable weights by one of four solvers."""

    method = "hessian"

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        task: Task | None = None,
        config: HessianInfluenceConfig | None = None,
        rng: int = 0,
    ) -> None:
        c = config or HessianInfluenceConfig()
        super().__init__(model, x, y, task=task, config=c, rng=rng)
        if c.curvature == "gauss_newton" and self.task.loss is not cross_entropy_rows:
            msg = message("curvature='gauss_newton' knows cross-entropy only", hint="use curvature='hessian'")
            raise ConfigError(msg)
        self._solver: Callable[[Tensor], Tensor] | None = None

    def product(self, rows: slice | Tensor = slice(None)) -> Callable[[Tensor], Tensor]:
        """v (p,) -> H v over some rows."""
        x, y = self.x[rows], self.y[rows]
        if self.config.curvature == "gauss_newton":
            return gauss_newton_product(self.model, x, y)
        return hessian_product(self.model, x, y, self.task.loss)

    def solve(self, g: Tensor) -> Tensor:
        """(H + damping I)^-1 of every row of g (q, p)."""
        with frozen_layers(self.model):
            if self._solver is None:
                self._solver = getattr(self, f"_{self.config.solver}")()
            return self._solver(g)

    def _explicit(self) -> Callable[[Tensor], Tensor]:
        p, c = sum(w.numel() for w in weights_of(self.model)), self.config
        if c.curvature == "hessian":
            matrix = explicit_hessian(self.model, self.x, self.y, self.task.loss, l2=c.damping)
        elif p > MOST_WEIGHTS:
            msg = message(
                f"the model has {p:,} weights", expected=f"at most {MOST_WEIGHTS:,} for a dense matrix"
            )
            raise ConfigError(message(msg, hint="use solver='cg'"))
        else:
            product, like = self.product(), weights_of(self.model)[0]
            eye = torch.eye(p, dtype=like.dtype, device=like.device)
            matrix = torch.stack([product(e) for e in eye]).double()
            matrix.diagonal().add_(c.damping)
        factors = torch.linalg.lu_factor((matrix + matrix.T) / 2)
        return lambda g: torch.linalg.lu_solve(*factors, g.double().T).T.to(g)

    def _cg(self) -> Callable[[Tensor], Tensor]:
        c, product = self.config, self.product()

        def each(g: Tensor) -> Tensor:
            found = conjugate_gradient(
                product, g, damping=c.damping, steps=c.cg_steps, tolerance=c.cg_tolerance
            )
            return found[0]

        return lambda g: torch.stack([each(row) for row in g])

    def _lissa(self) -> Callable[[Tensor], Tensor]:
        c, like = self.config, weights_of(self.model)[0].detach()
        p = sum(w.numel() for w in weights_of(self.model))
        scale = c.lissa_scale or 0.5 / (largest_eigenvalue(self.product(), p, like=like) + c.damping)

        def each(g: Tensor) -> Tensor:
            runs = []
            for r in range(c.lissa_repeats):
                gen = np.random.default_rng([self.rng, r])

                def step(_: int, gen: np.random.Generator = gen) -> Callable[[Tensor], Tensor]:
                    rows = gen.integers(self.n, size=min(c.lissa_batch, self.n))
                    return self.product(torch.from_numpy(rows).to(self.x.device))

                runs.append(lissa(step, g, damping=c.damping, scale=scale, depth=c.lissa_depth))
            return torch.stack(runs).mean(dim=0)

        return lambda g: torch.stack([each(row) for row in g])

    def _arnoldi(self) -> Callable[[Tensor], Tensor]:
        c, like = self.config, weights_of(self.model)[0].detach()
        p = sum(w.numel() for w in weights_of(self.model))
        values, vectors = lanczos(
            self.product(), p, steps=c.arnoldi_steps, keep=c.arnoldi_keep, like=like, seed=self.rng
        )
        if float((values + c.damping).abs().min()) < 1e-12:
            msg = message("a leading eigenvalue is zero", hint="raise damping or lower arnoldi_keep")
            raise ConvergenceError(msg)
        return lambda g: (g @ vectors.T / (values + c.damping)) @ vectors

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        asked = rows or self.task.measured
        v = self.solve(row_gradients(self.model, x, y, asked)(0, len(x)).detach())
        train = row_gradients(self.model, self.x, self.y, self.task.loss)
        part = only or slice(0, self.n)
        for at in batches(part.start, part.stop, self.config.batch):
            yield at, slice(0, len(x)), v @ train(at.start, at.stop).detach().T
