"""The plan of a scoring pass."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")

from counterlog.core.layer_traces import tracked_layers  # noqa: E402
from counterlog.core.score_plan import plan_scores  # noqa: E402
from counterlog.core.torch_models import mlp  # noqa: E402

pytestmark = pytest.mark.torch


def plan(**settings):  # type: ignore[no-untyped-def]
    layers = tracked_layers(mlp((9, 20, 5), rng=0))
    given = {"queries": 8, "rows": 100, "tokens": 4, "batch": 10, "rank": 0, "memory": 1e9, **settings}
    return plan_scores(layers, **given)


def test_costs_by_hand() -> None:
    # layers 20 x 10 and 5 x 21 with the bias: 305 weights; gradients cost 2 (t + q) P M a row
    found = plan()
    assert found.flops == 100 * 2 * (4 + 8) * 305
    assert found.peak_bytes == 8 * 4 * 305 + 4 * 10 * 4 * (30 + 26) + 4 * (500 + 466 + 305)
    assert (found.queries_at_a_time, found.passes) == (8, 1)
    assert {layer.product for layer in plan(queries=1).layers} == {"tokens"}


def test_little_memory_takes_more_passes_and_low_rank_fewer() -> None:
    small = plan(memory=2 * 3 * 4 * 305)
    assert (small.queries_at_a_time, small.passes) == (3, 3)
    low = plan(memory=2 * 3 * 4 * 305, rank=2)
    assert low.passes < small.passes
    assert [layer.product for layer in low.layers] == ["low rank", "low rank"]
    assert plan(memory=1).queries_at_a_time == 1
