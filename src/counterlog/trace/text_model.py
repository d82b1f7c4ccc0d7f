"""Trace a causal language model's answers to its training texts: files in, ranked texts, tokens and layers out.

The model is a folder that `save_pretrained` wrote; texts are JSON lines. Texts that share no rare word with a query are
left out by BM25 where there are many; factors are stored, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.bm25 import BM25
from counterlog.core.config import param
from counterlog.core.language_rows import (
    TEXT_TASK,
    TextRow,
    default_layers,
    load_text_model,
    read_texts,
    text_loss_rows,
    token_rows,
    token_texts,
)
from counterlog.core.results import Result
from counterlog.core.torch_models import frozen_layers
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig
from counterlog.trace.network_scores import SIGN, ranking_figure

Progress = Callable[[str, int, int], None]
UNIT = "nats (first-order rise of the query's loss when the text is removed)"


@dataclass(frozen=True, kw_only=True)
class TextTraceConfig(EKFACInfluenceConfig):
    """How texts are cut, filtered, traced and listed."""

    batch: int = param(16, "texts a pass", at_least=1)
    query_rank: int = param(32, "rank of a held query gradient; 0 holds it whole", at_least=0)
    max_tokens: int = param(512, "tokens after which a text is cut", at_least=2)
    top: int = param(10, "texts listed at each end of a query's ranking", at_least=1)
    candidates: int = param(10_000, "texts a query that BM25 lets through", at_least=1)
    recall_rows: int = param(200, "unfiltered texts that the filter's recall is measured on", at_least=20)
    self_influence: bool = param(True, "score every training text for itself")


@dataclass(frozen=True, kw_only=True)
class TextPair:
    """One training text for one query; tokens' scores add up to `score`, and so do layers'."""

    row: int
    score: float
    text: str
    tokens: tuple[str, ...]
    token_scores: tuple[float, ...]
    layer_scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TextQuery:
    """One query, its loss in nats, the ends of its ranking."""

    query: int
    prompt: str
    completion: str
    loss: float
    helpful: tuple[TextPair, ...]
    harmful: tuple[TextPair, ...]
    layer_share: tuple[float, ...]
    share_top_1_percent: float
    candidates: int


@dataclass(frozen=True, kw_only=True)
class TextScores(Result):
    """Training texts behind a language model's answers. `n` counts training texts; `self_influence` is in their order.

    `filter_recall` is the share of influential texts of an unfiltered sample that BM25 let through (nan: no filter).
    """

    method: str
    model: str
    unit: str
    sign: str
    n: int
    layers: tuple[str, ...]
    queries: tuple[TextQuery, ...]
    self_influence: tuple[float, ...]
    filter_recall: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a query, end and rank."""
        rows = []
        for q in self.queries:
            for end, pairs in (("helpful", q.helpful), ("harmful", q.harmful)):
                for rank, p in enumerate(pairs, start=1):
                    said = {"query": q.query, "end": end, "rank": rank, "row": p.row}
                    rows.append({**said, "score": p.score, "text": p.text})
        return rows

    def plot(self) -> Any:
        """Scores by rank, a line a query."""
        lines = [
            (f"query {q.query}", [p.score for p in q.helpful], [p.score for p in q.harmful])
            for q in self.queries
        ]
        return ranking_figure(lines, self.unit, "text")


def trace_text_model(
    folder: str | os.PathLike[str],
    train_jsonl: str | os.PathLike[str],
    test_jsonl: str | os.PathLike[str],
    *,
    config: TextTraceConfig | None = None,
    store: str | os.PathLike[str] | None = None,
    rng: int = 0,
    progress: Progress | None = None,
) -> TextScores:
    """Which texts of `train_jsonl` made the model answer as in `test_jsonl`? `store` keeps factors on disk.

    Raises `MissingExtraError` without the extra `language`, `LogError` for files that cannot be read.
    """
    model, tokenizer = load_text_model(folder)
    train, test = read_texts(train_jsonl), read_texts(test_jsonl)
    return trace_texts(
        model, tokenizer, train, test, config=config, store=store, rng=rng, progress=progress, name=Path(folder).name
    )  # fmt: skip


def trace_texts(
    model: nn.Module,
    tokenizer: Any,
    train: Sequence[TextRow],
    test: Sequence[TextRow],
    *,
    config: TextTraceConfig | None = None,
    store: str | os.PathLike[str] | None = None,
    rng: int = 0,
    progress: Progress | None = None,
    name: str = "model",
) -> TextScores:
    """The same from a model and texts in memory."""
    c = config or TextTraceConfig()
    if not c.include:
        c = replace(c, include=default_layers(model))
    x, y = token_rows(train, tokenizer, c.max_tokens)
    x_query, y_query = token_rows(test, tokenizer, c.max_tokens)
    whole = EKFACInfluence(model, x, y, task=TEXT_TASK, config=c, rng=rng, folder=store, progress=progress)
    kept, recall = np.arange(len(train)), float("nan")
    if len(train) > c.candidates:
        kept = BM25.fit([t.text for t in train]).candidates([t.text for t in test], c.candidates)
        recall = filter_recall(whole, kept, x_query, y_query, c.recall_rows, rng)
    some, n = whole.over(kept), len(train)
    scores = some.explain(x_query, y_query).T / n
    k = min(c.top, len(kept))
    up, down = (
        np.argsort(-scores, axis=1, kind="stable")[:, :k],
        np.argsort(scores, axis=1, kind="stable")[:, :k],
    )
    with torch.no_grad(), frozen_layers(model):
        device = next(model.parameters()).device
        losses = text_loss_rows(model, x_query.to(device), y_query.to(device)).tolist()
    queries = []
    details = some.pair_details(x_query, y_query, np.concatenate([up, down], axis=1))
    for j, found in enumerate(details):
        pairs = _pairs(np.concatenate([up[j], down[j]]), found, kept, train, x, y, tokenizer, n)
        layer = np.abs(np.array([p.layer_scores for p in pairs])).sum(axis=0)
        queries.append(
            TextQuery(
                query=j,
                prompt=test[j].prompt,
                completion=test[j].completion,
                loss=losses[j],
                helpful=pairs[:k],
                harmful=pairs[k:],
                layer_share=tuple((layer / max(layer.sum(), 1e-300)).tolist()),
                share_top_1_percent=top_share(scores[j], 0.01),
                candidates=len(kept),
            )
        )
    own = tuple((whole.self_influence() / n).tolist()) if c.self_influence else ()
    return TextScores(
        method=c.strategy,
        model=name,
        unit=UNIT,
        sign=SIGN,
        n=n,
        layers=tuple(layer.name for layer in whole.layers),
        queries=tuple(queries),
        self_influence=own,
        filter_recall=recall,
        notes=whole._notes(),
    )


def _pairs(
    order: NDArray[np.int64],
    found: dict[str, NDArray[np.float64]],
    kept: NDArray[np.int64],
    train: Sequence[TextRow],
    x: Tensor,
    y: Tensor,
    tokenizer: Any,
    n: int,
) -> tuple[TextPair, ...]:
    """The rows' texts with their scores by token and layer; padding is left out."""
    by_layer = np.stack(list(found.values())) / n  # (layers, k, t)
    out = []
    for i, place in enumerate(order):
        row = int(kept[place])
        real = int(y[row, 1].sum())
        tokens = by_layer[:, i].sum(axis=0)
        out.append(
            TextPair(
                row=row,
                score=float(by_layer[:, i].sum()),
                text=train[row].text,
                tokens=token_texts(tokenizer, x[row, :real]),
                token_scores=tuple(tokens[:real].tolist()),
                layer_scores=tuple(by_layer[:, i].sum(axis=1).tolist()),
            )
        )
    return tuple(out)


def top_share(scores: NDArray[np.float64], share: float) -> float:
    """Share of the sum of |score| that the largest `share` of the rows hold."""
    size = np.sort(np.abs(scores))[::-1]
    return float(size[: max(1, round(share * len(size)))].sum() / max(size.sum(), 1e-300))


def filter_recall(
    influence: EKFACInfluence, kept: NDArray[np.int64], x: Tensor, y: Tensor, rows: int, rng: int
) -> float:
    """Of the tenth with the largest |score| in an unfiltered sample, the share that the filter lets through. Compare
    it with the share of all texts that pass."""
    drawn = np.random.default_rng(rng).permutation(influence.n)[:rows]
    scores = np.abs(influence.over(drawn).explain(x, y))
    best = np.argsort(-scores, axis=0)[: max(1, len(drawn) // 10)]
    return float(np.isin(drawn[best], kept).mean())
