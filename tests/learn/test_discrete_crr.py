"""Discrete CRR: what is cloned, by hand; exact and drawn expectations; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.learn.discrete_crr import DiscreteCRR, DiscreteCRRConfig, advantage, row_weight  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return DiscreteCRR(DiscreteCRRConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(DiscreteCRR(DiscreteCRRConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0]
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0]
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_only_actions_above_the_policys_mean_are_cloned() -> None:
    values = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    probs = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]])
    gain = advantage(values, torch.tensor([[0, 1]]), probs)
    assert gain.tolist() == [[0.75, -0.25]]
    assert row_weight(gain).tolist() == [[1.0, 0.0]]
    assert row_weight(gain, "exp", 0.5).tolist() == [pytest.approx([np.exp(1.5), np.exp(-0.5)])]
    assert row_weight(torch.tensor([[9.0]]), "exp").item() == 20.0
    assert advantage(values, torch.tensor([[0, 1]]), probs, "max").tolist() == [[0.0, -1.0]]


def test_drawn_actions_have_the_policys_frequencies() -> None:
    learner = fitted(two_armed(), 1, official=True)
    probs = torch.tensor([0.25, 0.75]).expand(1, 500, 2)
    found = learner.frequencies(probs, 40)
    assert found.sum(dim=-1).tolist()[0] == pytest.approx([1.0] * 500)
    assert found.mean(dim=1).tolist()[0] == pytest.approx([0.25, 0.75], abs=0.02)


@pytest.mark.parametrize("more", [{"official": True}, {"weights": "exp", "beta": 0.2}])
def test_its_variants_find_the_better_action_too(more) -> None:
    log = two_armed()
    policy = DiscreteCRR(DiscreteCRRConfig(**{**SMALL, "steps": 500}, **more)).fit(log)
    assert policy.act(log.state[:50]).mean() > 0.9
    assert policy.stochastic
