"""What every way to score the training rows of a network shares: rows, layers, streamed scores, the result.

A method says how a block of training rows is scored for the queries; everything else (all pairs, the ends of the
ranking without all pairs, sums over queries, the result) is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.config import Config, param
from counterlog.core.errors import LogError, message
from counterlog.core.factor_store import batches
from counterlog.core.layer_rows import LayerRows
from counterlog.core.layer_traces import KINDS, trace, tracked_layers
from counterlog.core.results import Result
from counterlog.core.row_tasks import Task, refuse_mean
from counterlog.core.torch_models import RowLoss, as_rows, frozen_layers
from counterlog.trace import same_leaf

Floats = NDArray[np.float64]
SIGN = "positive: the row helps the query; removing it raises what is measured of the query"
Rows = dict[str, LayerRows]
Pieces = Iterator[tuple[slice, slice, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Config):
    """Which layers are traced, and how much is held at a time."""

    include: tuple[str, ...] = param((), "patterns of layer names to trace, as '*mlp*'; none: all")
    exclude: tuple[str, ...] = param((), "patterns of layer names to leave out")
    kinds: tuple[str, ...] = param(("linear", "conv"), "kinds of layers traced", choices=KINDS)
    shared: bool = param(False, "layers may run several times in a pass; their calls are added up")
    batch: int = param(256, "training rows a pass", at_least=1)
    memory_mb: float = param(1024.0, "working memory beside the data, the model and the answer", above=0)


@dataclass(frozen=True, kw_only=True)
class QueryScores:
    """One query: what is measured of it, the ends of the ranking, how concentrated it is, which layers carry it."""

    query: int
    measured: float
    helpful_rows: tuple[int, ...]
    helpful: tuple[float, ...]
    harmful_rows: tuple[int, ...]
    harmful: tuple[float, ...]
    layer_share: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InfluenceScores(Result):
    """The most helpful and most harmful training rows of every query. `n` counts training rows.

    `layer_share` of a query is the share of each of `layers` in the sum of |score| over the rows named.
    """

    method: str
    unit: str
    sign: str
    n: int
    layers: tuple[str, ...]
    queries: tuple[QueryScores, ...]
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a query, end and rank."""
        rows = []
        for q in self.queries:
            for end, numbers, values in (
                ("helpful", q.helpful_rows, q.helpful),
                ("harmful", q.harmful_rows, q.harmful),
            ):
                for rank, (row, value) in enumerate(zip(numbers, values, strict=True), start=1):
                    rows.append({"query": q.query, "end": end, "rank": rank, "row": row, "score": value})
        return rows

    def plot(self) -> Any:
        """Scores of the named rows against rank, a line a query, as a plotly figure."""
        return ranking_figure(
            [(f"query {q.query}", q.helpful, q.harmful) for q in self.queries], self.unit, "query"
        )


def ranking_figure(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], unit: str, what: str
) -> Any:
    """Helpful scores to the right, harmful ones to the left, by rank."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, up, down in lines:
        ranks = [-i for i in range(len(down), 0, -1)] + list(range(1, len(up) + 1))
        figure.add_trace(
            go.Scatter(x=ranks, y=[*reversed(down), *up], mode="lines+markers", name=name, hovertext=what)
        )
    figure.update_layout(
        xaxis={"title": "rank (left of 0: most harmful)"}, yaxis={"title": unit}, template="simple_white"
    )
    return figure


class NetworkInfluence(ABC):
    """Scores of training rows for queries of one trained network, by the gradients at its layers."""

    method = ""
    removal = True  # whether score / n is the rise of the measurement when the row is removed
    config: Any

    def __init__(
        self, model: nn.Module, x: Any, y: Any, *, task: Task | None = None, config: Any = None, rng: int = 0
    ) -> None:
        """`x` (n, ...) and `y` (n, ...) are the training rows, arrays or tensors."""
        self.model, self.task, self.rng = model, task or Task(), rng
        self.config = config
        self.x, self.y = as_rows(x, y, model)
        self.trained_rows = len(self.x)  # of the training, also where only some of them are scored
        self.layers = tracked_layers(model, config.include, config.exclude, config.kinds)
        with frozen_layers(model):
            refuse_mean(self.task, model, self.x[:2], self.y[:2])

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.x)

    @property
    def unit(self) -> str:
        """What a score of the result is measured in."""
        if self.removal:
            return f"{self.task.unit} (first-order rise of the query's measurement when the row is removed)"
        return "none (only the order and the sign mean something)"

    def explain(self, x_query: Any, y_query: Any) -> Floats:
        """(n, q) raw scores, not divided by n. Memory: the answer plus `memory_mb`."""
        x, y = self._queries(x_query, y_query)
        out = np.empty((self.n, len(x)))
        for at, cols, scores in self._pieces(x, y):
            out[at, cols] = scores.T.double().cpu().numpy()
        return out

    def topk(
        self, x_query: Any, y_query: Any, k: int
    ) -> tuple[tuple[NDArray[np.int64], Floats], tuple[NDArray[np.int64], Floats]]:
        """(rows (q, k), raw scores (q, k)) of the most helpful rows, and of the most harmful; (n, q) is never held."""
        x, y = self._queries(x_query, y_query)
        pieces = ((at, cols, s.T.double().cpu().numpy()) for at, cols, s in self._pieces(x, y))
        return same_leaf.largest(pieces, self.n, len(x), k)

    def aggregate(self, x_query: Any, y_query: Any) -> Floats:
        """(n,) raw scores added over all queries."""
        x, y = self._queries(x_query, y_query)
        out = np.zeros(self.n)
        for at, _, scores in self._pieces(x, y):
            out[at] += scores.sum(dim=0).double().cpu().numpy()
        return out

    def self_influence(self) -> Floats:
        """(n,) each row's raw score for itself by its training loss; a mislabelled row tends to have a large one."""
        out = np.empty(self.n)
        for part in batches(0, self.n, self.config.batch):
            asked = self.task.loss, self.x[part], self.y[part]
            for at, cols, scores in self._pieces(*asked[1:], rows=asked[0], only=part):
                i = np.arange(max(at.start, part.start + cols.start), min(at.stop, part.start + cols.stop))
                found = scores.cpu()
                out[i] = found[i - part.start - cols.start, i - at.start].double().numpy()
        return out

    def score(self, x_query: Any, y_query: Any, *, k: int = 10) -> InfluenceScores:
        """The k (at most n) most helpful and most harmful rows of every query."""
        x, y = self._queries(x_query, y_query)
        (up, gains), (down, harms) = self.topk(x, y, min(k, self.n))
        scale = 1 / self.trained_rows if self.removal else 1.0
        with torch.no_grad(), frozen_layers(self.model):
            measured = self.task.measured(self.model, x, y).double().cpu()
        shares = self._layer_shares(x, y, np.concatenate([up, down], axis=1))
        return InfluenceScores(
            method=self.method,
            unit=self.unit,
            sign=SIGN,
            n=self.n,
            layers=tuple(layer.name for layer in self.layers),
            notes=self._notes(),
            queries=tuple(
                QueryScores(
                    query=j,
                    measured=float(measured[j]),
                    helpful_rows=tuple(up[j].tolist()),
                    helpful=tuple((gains[j] * scale).tolist()),
                    harmful_rows=tuple(down[j].tolist()),
                    harmful=tuple((harms[j] * scale).tolist()),
                    layer_share=shares[j],
                )
                for j in range(len(x))
            ),
        )

    # ----------------------------------------------------------------------------------------- for the methods

    @abstractmethod
    def _pieces(self, x: Tensor, y: Tensor, rows: RowLoss | None = None, only: slice | None = None) -> Pieces:
        """(training rows, queries, scores (q', b)) block by block; `rows` replaces the measurement, `only` limits
        the training rows."""

    def _layer_shares(self, x: Tensor, y: Tensor, rows: NDArray[np.int64]) -> list[tuple[float, ...]]:
        """By query: the share of each layer, for methods that add over layers."""
        return [()] * len(x)

    def _notes(self) -> tuple[str, ...]:
        return ()

    def _queries(self, x: Any, y: Any) -> tuple[Tensor, Tensor]:
        if len(x) == 0:
            raise LogError(message("there is no query", expected="at least one row in x_query"))
        return as_rows(x, y, self.model)

    def _trace(
        self, rows: RowLoss, x: Tensor, y: Tensor, at: int = 0, model: nn.Module | None = None
    ) -> Rows:
        """Traces of a batch of rows."""
        mask = self.task.token_mask(x, y)
        traced, layers = model or self.model, self.layers
        if model is not None:
            layers = tracked_layers(model, self.config.include, self.config.exclude, self.config.kinds)
        return trace(traced, layers, rows, x, y, mask=mask, shared=self.config.shared, at=at)

    def _training(
        self, only: slice | None = None, model: nn.Module | None = None
    ) -> Iterator[tuple[slice, Rows]]:
        """The training rows' traces, a batch at a time."""
        part = only or slice(0, self.n)
        for at in batches(part.start, part.stop, self.config.batch):
            yield at, self._trace(self.task.loss, self.x[at], self.y[at], at.start, model)

    @property
    def _bytes(self) -> float:
        return float(self.config.memory_mb * 2**20)
