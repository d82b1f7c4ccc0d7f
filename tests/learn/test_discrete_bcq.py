"""Discrete BCQ: what it allows, its limit, its policy as one network, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.core.actor_heads import allowed_values  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.learn.discrete_bcq import DiscreteBCQ, DiscreteBCQConfig, imitation_loss  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return DiscreteBCQ(DiscreteBCQConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(DiscreteBCQ(DiscreteBCQConfig(**{**STEPPED, **more})), log, steps)


def test_allowed_actions_and_imitation_by_hand() -> None:
    f = torch.log(torch.tensor([[[0.6, 0.3, 0.1]]]))
    q = torch.tensor([[[1.0, 2.0, 9.0]]])
    assert allowed_values(q, f, 0.3).tolist() == [[[1.0, 2.0, -float("inf")]]]
    assert allowed_values(q, f, 0.6).argmax().item() == 0
    assert allowed_values(q, f, 0.0).tolist() == q.tolist()
    loss = imitation_loss(torch.zeros(1, 2, 4) + 2.0, torch.tensor([[0, 3]]), 0.01)
    assert loss.tolist() == pytest.approx([np.log(4) + 0.01 * 4])


def test_with_threshold_zero_the_values_are_dqns() -> None:
    log = two_armed()
    learner = fitted(log, 100, threshold=0.0)
    other = DQN(DQNConfig(hidden=(16, 16), batch=32, lr=1e-2, gamma=0.9, target_every=10))
    other.start(other.prepare(log), rng=0)
    for _ in range(100):
        other.update(other.draw())
    for name, leaf in other.critic.leaves.items():
        assert torch.allclose(learner.critic[name][:, 0], leaf, atol=1e-5)


def test_an_action_that_was_never_logged_is_never_taken() -> None:
    log = two_armed()
    # all logged values are below zero, where the value of an untrained action stays
    three = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=log.action,
        reward=np.asarray(log.reward) - 5,
        terminated=log.terminated,
        actions=3,
    )
    policy = DiscreteBCQ(DiscreteBCQConfig(**{**SMALL, "steps": 600})).fit(three)
    taken = policy.act(three.state)
    assert 2 not in taken and taken.mean() > 0.9
    assert policy.probs(three.state)[:, 2].max() == 0


def test_the_policy_in_one_network_is_both_networks() -> None:
    learner = fitted(two_armed(), 50)
    state = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(0))
    values, f = learner.critic(state).unbind(dim=1)
    assert torch.allclose(learner.acting().scores(state), allowed_values(values, f, 0.3), atol=1e-5)


def test_the_chain_has_its_exact_values() -> None:
    found = fitted(chain()).critic(torch.eye(2)[None], 0)
    assert found.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=2e-3)
