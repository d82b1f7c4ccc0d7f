"""How to score with the memory there is: which product a layer takes, how many queries and rows at a time.

Flops a layer, for q queries, b rows of t tokens, P outputs and M inputs: row gradients cost 2 b t P M and 2 q b P M;
token by token 2 q b t P M; rank k costs 2 q k b t (P + M). All passes over the rows cost what the model costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from counterlog.core.layer_traces import Layer


@dataclass(frozen=True)
class LayerPlan:
    """One layer: the product it takes (`gradients`, `tokens`, `low rank`), its flops a row, its query's bytes."""

    name: str
    product: str
    flops: float
    query_bytes: int


@dataclass(frozen=True)
class ScorePlan:
    """A plan for all layers: queries held at a time, passes over the rows, bytes at the peak beside model and data."""

    layers: tuple[LayerPlan, ...]
    queries_at_a_time: int
    passes: int
    peak_bytes: int
    flops: float


def plan_scores(
    layers: Sequence[Layer], *, queries: int, rows: int, tokens: int, batch: int, rank: int, memory: float
) -> ScorePlan:
    """The plan for this memory in bytes. One query at least is held, whatever it takes."""
    plans = [_layer(layer, queries, tokens, rank) for layer in layers]
    each = sum(p.query_bytes for p in plans)
    traces = 4 * batch * tokens * sum(m.inputs + m.outputs for m in layers)
    factors = 4 * sum(m.inputs**2 + m.outputs**2 + m.weights for m in layers)
    width = int(min(queries, max(1, memory / 2 // each)))
    peak = width * each + traces + factors
    passes = -(-queries // width)
    return ScorePlan(tuple(plans), width, passes, int(peak), rows * sum(p.flops for p in plans))


def _layer(layer: Layer, queries: int, tokens: int, rank: int) -> LayerPlan:
    P, M = layer.outputs, layer.inputs
    if 0 < rank < min(P, M):
        return LayerPlan(layer.name, "low rank", 2.0 * queries * rank * tokens * (P + M), 4 * rank * (P + M))
    by_token, by_gradient = 2.0 * queries * tokens * P * M, 2.0 * (tokens + queries) * P * M
    if tokens > 1 and queries == 1:
        return LayerPlan(layer.name, "tokens", by_token, 4 * P * M)
    return LayerPlan(layer.name, "gradients", by_gradient, 4 * P * M)
