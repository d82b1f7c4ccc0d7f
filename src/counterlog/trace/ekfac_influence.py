"""Which training rows, tokens and layers pushed my network or language model to this output?

Use when    the model is a network of Linear, Conv2d, Conv1D (and optionally Embedding, LayerNorm) layers, from a small
            classifier to a causal language model, its training rows are at hand, and training again is too dear.
Not when    the model is a tree ensemble (use tree-influence), or rows are so few that training again is cheap.
Data        a torch module, x (n, ...), y (n, ...) it was trained on; queries x (q, ...), y (q, ...); a Task for any
            loss, measurement, label draw and token mask
Paper       Grosse, Bae, Anil, Elhage et al.: Studying Large Language Model Generalization with Influence Functions,
            2023, arXiv 2308.03296. EK-FAC: George et al., 2018, arXiv 1806.03884. PBRF: Bae et al., 2022.
Equation    score(q, i) = grad m_q' (G + damping I)^-1 grad l_i,     G = mean over rows of J' H_out J               (1)
            by layer: G = (Q_S x Q_A) diag(Lambda) (Q_S x Q_A)',  A = mean_tokens a a', S = mean_tokens s s'         (2)
            Lambda[p,m] = mean_rows ((Q_S' DW_i Q_A)[p,m])^2,     DW_i = sum_tokens s_t a_t'                         (3)
            (G + damping I)^-1 V = Q_S [(Q_S' V Q_A) / (Lambda + damping)] Q_A'                                     (4)
            V_q ~ left_q right_q' of rank k: score = sum_t (s_t' left)(right' a_t)                                   (5)
Shapes      raw scores (n, q) | a (b, t, M) with 1 as bias | s (b, t, P) | DW, Lambda (P, M) | per token (q, n, t)
Units       raw score: product of gradients over curvature; score / n: nats, the first-order rise of the query's
            measurement when the row is removed. Positive: the row helps, removing it raises the loss
Raises      ConfigError: a loss that averages, no traced layer, a layer tied, frozen, quantised, never or twice called,
            a folder fitted on another model, no label draw | LogError: no query, a mask that cannot be read
            ConvergenceError: a gradient that is not finite
Differs     groups of a convolution are tokens of their own (reference: patches averaged over groups), so the gradient
            stays exact; damping defaults to the paper's tenth of the mean eigenvalue (reference library: 1e-8).
            Embedding and LayerNorm get a diagonal.
Call        EKFACInfluence(model, x, y).score(x_query, y_query); explain, by_layer, by_token, topk, self_influence
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.config import param
from counterlog.core.curvature_fit import FactorPass, fit_factors
from counterlog.core.factor_store import Progress, batches
from counterlog.core.kronecker_factors import STRATEGIES, LayerFactors
from counterlog.core.layer_rows import OuterRows
from counterlog.core.query_products import DenseQueries, Queries, low_rank
from counterlog.core.row_tasks import Task
from counterlog.core.score_plan import ScorePlan, plan_scores
from counterlog.core.torch_models import RowLoss, as_rows
from counterlog.trace.network_scores import Floats, LayerConfig, NetworkInfluence, Pieces, Rows

ENERGY = 0.9


@dataclass(frozen=True, kw_only=True)
class EKFACInfluenceConfig(LayerConfig):
    """Which curvature, how it is damped and fitted, and how queries are held."""

    strategy: str = param("ekfac", "curvature of a layer", choices=STRATEGIES)
    fisher: str = param(
        "true", "labels of the factors: drawn from the model, or the data's", choices=("true", "empirical")
    )
    draws: int = param(1, "labels drawn a row for the true Fisher matrix", at_least=1)
    damping: float | None = param(None, "added to Lambda; none: a tenth of the layer's mean", at_least=0)
    factor_rows: int = param(20_000, "training rows that the factors are fitted on", at_least=1)
    query_rank: int = param(0, "rank of a held query gradient (paper: 32); 0 holds it whole", at_least=0)
    jobs: int = param(1, "processes that share the factor passes", at_least=-1)


class EKFACInfluence(NetworkInfluence):
    """Influence with eigenvalue-corrected Kronecker factors, or plain K-FAC, a diagonal, or none."""

    method = "ekfac"

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any,
        *,
        task: Task | None = None,
        config: EKFACInfluenceConfig | None = None,
        rng: int = 0,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """With `folder` the factors live on disk and a killed fit resumes there; `progress(stage, done, of)`."""
        c = config or EKFACInfluenceConfig()
        super().__init__(model, x, y, task=task, config=c, rng=rng)
        self.folder, self.progress, self.method = folder, progress, c.strategy
        self.removal = c.strategy != "identity"
        self._factors: dict[str, LayerFactors] | None = None
        self.energy = 1.0

    @property
    def factors(self) -> Mapping[str, LayerFactors]:
        """The factors by layer, fitted at the first use."""
        if self._factors is None:
            c = self.config
            chosen = self._factor_rows()
            rows = FactorPass(
                self.model, self.layers, self.task, self.x[chosen], self.y[chosen], c.batch, c.fisher, c.shared,
                self.rng, c.draws,
            )  # fmt: skip
            self._factors = fit_factors(
                rows,
                c.strategy,
                c.damping,
                folder=self.folder,
                jobs=c.jobs,
                keep_bytes=self._bytes / 2,
                progress=self.progress,
            )
        return self._factors

    def _factor_rows(self) -> Tensor | slice:
        if self.n <= self.config.factor_rows:
            return slice(None)
        drawn = np.random.default_rng(self.rng).permutation(self.n)[: self.config.factor_rows]
        return torch.from_numpy(np.sort(drawn)).to(self.x.device)

    def using(self, **settings: Any) -> EKFACInfluence:
        """The same model and rows under another configuration; factors are kept when only queries change."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.config = replace(self.config, **settings)
        other.method, other.removal = other.config.strategy, other.config.strategy != "identity"
        if set(settings) - {"query_rank", "batch", "memory_mb"}:
            other._factors = None
        return other

    def plan(self, queries: int, tokens: int = 1) -> ScorePlan:
        """What scoring so many queries takes: products by layer, queries held at a time, passes, memory, flops."""
        c = self.config
        return plan_scores(
            self.layers,
            queries=queries,
            rows=self.n,
            tokens=tokens,
            batch=c.batch,
            rank=c.query_rank,
            memory=self._bytes,
        )

    # ------------------------------------------------------------------------------------------------ scores

    def by_layer(self, x_query: Any, y_query: Any) -> dict[str, Floats]:
        """Layer -> (n, q) raw scores; they add up to `explain`."""
        x, y = self._queries(x_query, y_query)
        out = {layer.name: np.empty((self.n, len(x))) for layer in self.layers}
        for cols, queries in self._prepared(x, y):
            for at, rows in self._training():
                for name, q in queries.items():
                    out[name][at, cols] = q.dot(rows[name]).T.double().cpu().numpy()
        return out

    def by_token(self, x_query: Any, y_query: Any, rows: Any = None) -> Floats:
        """(q, n, t) raw scores of every token of the training rows (of those numbered in `rows`); they add up to the
        row's score. Layers must see the same tokens."""
        x, y = self._queries(x_query, y_query)
        chosen = torch.arange(self.n) if rows is None else torch.as_tensor(np.asarray(rows))
        blocks = []
        for _, queries in self._prepared(x, y):
            found = []
            for i in chosen.split(self.config.batch):
                traced = self._trace(self.task.loss, self.x[i], self.y[i])
                found.append(sum(q.by_token(traced[name]) for name, q in queries.items()))
            blocks.append(torch.cat(found, dim=1))
        return np.asarray(torch.cat(blocks).double().cpu().numpy())

    def aggregate(self, x_query: Any, y_query: Any) -> Floats:
        """(n,) raw scores added over all queries, at the price of one: the gradients are added first."""
        x, y = self._queries(x_query, y_query)
        total: dict[str, Tensor] = {}
        for part in batches(0, len(x), self.config.batch):
            for name, rows in self._trace(self.task.measured, x[part], y[part]).items():
                now = rows.weighted(torch.ones(1, len(rows), device=rows.s.device))
                total[name] = total[name] + now if name in total else now
        queries = {name: DenseQueries(self.factors[name].solve(v)) for name, v in total.items()}
        out = np.empty(self.n)
        for at, block in self._training():
            out[at] = _added(queries, block)[0].double().cpu().numpy()
        return out

    def self_influence(self) -> Floats:
        """(n,) g_i' (G + damping I)^-1 g_i of the training losses."""
        out = np.zeros(self.n)
        for at, rows in self._training():
            for name, part in rows.items():
                f = self.factors[name]
                if f.curvature.numel() == 0:
                    found = part.norms()
                elif f.left.numel() and isinstance(part, OuterRows):
                    found = part.rotated(f.left, f.right).quadratic(1 / (f.curvature + f.damping))
                else:
                    found = part.quadratic(1 / (f.curvature + f.damping))
                out[at] += found.double().cpu().numpy()
        return out

    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        for cols, queries in self._prepared(x, y, rows):
            for at, traced in self._training(only):
                yield at, cols, _added(queries, traced)
                if self.progress is not None:
                    self.progress("scores", at.stop, self.n)

    def _prepared(
        self, x: Tensor, y: Tensor, rows: RowLoss | None = None
    ) -> Iterator[tuple[slice, dict[str, Queries]]]:
        """Preconditioned gradients of some queries at a time, so many that they fit in half the memory."""
        rank, rows, factors = self.config.query_rank, rows or self.task.measured, self.factors
        width = self.plan(len(x)).queries_at_a_time
        step = int(min(width, max(1, self._bytes / 4 // (4 * sum(m.weights for m in self.layers)))))
        for part in batches(0, len(x), width):
            found: dict[str, list[Queries]] = {m.name: [] for m in self.layers}
            energies = []
            for few in batches(part.start, part.stop, step):
                for name, traced in self._trace(rows, x[few], y[few]).items():
                    v = factors[name].solve(traced.gradients())
                    if 0 < rank < min(v.shape[1:]):
                        kept, energy = low_rank(v, rank, self.rng)
                        energies.append(float(energy.min()))
                        found[name].append(kept)
                    else:
                        found[name].append(DenseQueries(v))
            self._warn(min(energies, default=1.0))
            yield part, {name: _joined(parts) for name, parts in found.items()}

    def _warn(self, energy: float) -> None:
        self.energy = min(self.energy, energy)
        if energy < ENERGY:
            warnings.warn(
                f"a rank of {self.config.query_rank} keeps {energy:.0%} of a query gradient's squared length "
                f"(at least {ENERGY:.0%} is safe): raise query_rank",
                UserWarning,
                stacklevel=4,
            )

    def pair_details(
        self, x_query: Any, y_query: Any, rows: NDArray[np.int64]
    ) -> Iterator[dict[str, NDArray[np.float64]]]:
        """For every query and its own `rows` (q, k): layer -> (k, t) raw scores by token; all add up to the score."""
        x, y = self._queries(x_query, y_query)
        for cols, queries in self._prepared(x, y):
            for j in range(cols.start, cols.stop):
                i = torch.from_numpy(rows[j]).to(self.x.device)
                traced = self._trace(self.task.loss, self.x[i], self.y[i])
                yield {
                    name: q.by_token_of(j - cols.start, traced[name]).double().cpu().numpy()
                    for name, q in queries.items()
                }

    def over(self, rows: NDArray[np.int64]) -> EKFACInfluence:
        """The same factors, scoring only these training rows (numbered from 0 in their order)."""
        _ = self.factors
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        chosen = torch.from_numpy(rows).to(self.x.device)
        other.x, other.y = self.x[chosen], self.y[chosen]
        return other

    def others(self, x: Any, y: Any) -> EKFACInfluence:
        """The same factors, scoring these rows: what would they do, had they been in the training?"""
        other = self.over(np.zeros(1, dtype=np.int64))
        other.x, other.y = as_rows(x, y, self.model)
        return other

    def _layer_shares(self, x: Tensor, y: Tensor, rows: NDArray[np.int64]) -> list[tuple[float, ...]]:
        """By query: the share of each layer in the sum of |score| over some rows."""
        out: list[tuple[float, ...]] = []
        for found in self.pair_details(x, y, rows):
            sums = [float(np.abs(part.sum(axis=1)).sum()) for part in found.values()]
            out.append(tuple(s / max(sum(sums), 1e-300) for s in sums))
        return out

    def _notes(self) -> tuple[str, ...]:
        c = self.config
        said = f"{c.strategy}, {c.fisher} Fisher, damping "
        said += "a tenth of the mean eigenvalue by layer" if c.damping is None else f"{c.damping:g}"
        return (said, *((f"query rank {c.query_rank}, energy {self.energy:.3f}",) if c.query_rank else ()))


def _added(queries: Mapping[str, Queries], rows: Rows) -> Tensor:
    """(q, b) over all layers."""
    total: Tensor = sum(q.dot(rows[name]) for name, q in queries.items())
    return total


def _joined(parts: list[Any]) -> Any:
    """Query blocks one after another."""
    if len(parts) == 1:
        return parts[0]
    kind = type(parts[0])
    fields = list(parts[0].__dataclass_fields__)
    return kind(*(torch.cat([getattr(p, f) for p in parts]) for f in fields))
