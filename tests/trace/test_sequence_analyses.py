"""The tail of a ranking, its layers by rank, the effect of word order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from counterlog.core.errors import SupportError
from counterlog.core.torch_models import mlp
from counterlog.trace.ekfac_influence import EKFACInfluence
from counterlog.trace.sequence_analyses import layers_by_rank, order_effect, positive_tail

pytestmark = pytest.mark.torch


def test_a_pareto_tail_is_recovered() -> None:
    scores = np.random.default_rng(0).pareto(2.0, size=100_000) + 1  # exponent 2: slope 1/2
    found = positive_tail(np.concatenate([scores, -scores]))
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.share[-1] == pytest.approx(1)
    assert found.share[0] == pytest.approx(scores.max() / scores.sum())
    with pytest.raises(SupportError, match="at least 20"):
        positive_tail(np.ones(5))


def test_layers_and_word_order() -> None:
    gen = np.random.default_rng(0)
    x, y = torch.from_numpy(gen.normal(size=(30, 4))), torch.from_numpy(gen.integers(3, size=30))
    way = EKFACInfluence(mlp((4, 6, 3), rng=0, dtype=torch.float64), x, y)
    shares = layers_by_rank(way, x[:1], y[:1], np.array([3, 1, 2]))
    assert shares.shape == (2, 3)
    assert shares.sum(axis=0) == pytest.approx(np.ones(3))
    same = order_effect(way, x[:4], y[:4], (x[:4], y[:4]), (x[:4], y[:4]))
    assert same == pytest.approx(np.zeros(4), abs=1e-12)
    other = order_effect(way, x[:4], y[:4], (x[:4], y[:4]), (x[:4], (y[:4] + 1) % 3))
    assert (other > 0).all()
