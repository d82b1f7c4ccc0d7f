"""Discrete CQL: its penalty and gradient, its limit, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.learn.discrete_cql import DiscreteCQL, DiscreteCQLConfig, conservative_gap  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return DiscreteCQL(DiscreteCQLConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(DiscreteCQL(DiscreteCQLConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0]
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0]
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_the_gradient_of_the_penalty_is_softmax_minus_onehot() -> None:
    values = torch.tensor([[[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]], requires_grad=True)
    action = torch.tensor([[0, 2]])
    gap = conservative_gap(values, action)
    gradient = torch.autograd.grad(0.1 * gap.sum(), values)[0]
    onehot = torch.nn.functional.one_hot(action, 3).float()
    assert torch.allclose(gradient, 0.1 * (torch.softmax(values, dim=-1) - onehot) / 2, atol=1e-6)
    rows = [np.log(np.exp([1, 2, 0.5]).sum()) - 1, np.log(np.exp([0, -1, 3]).sum()) - 3]
    assert gap.item() == pytest.approx(np.mean(rows))


def test_without_the_penalty_it_is_dqn() -> None:
    log = two_armed()
    one = fitted(log, 100, alpha=0.0)
    other = DQN(DQNConfig(hidden=(16, 16), batch=32, lr=1e-2, gamma=0.9, target_every=10))
    other.start(other.prepare(log), rng=0)
    for _ in range(100):
        other.update(other.draw())
    assert torch.allclose(one.critic.flat, other.critic.flat, atol=1e-6)


def test_an_action_that_was_never_logged_falls_below_the_others() -> None:
    log = two_armed()
    three = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=log.action,
        reward=log.reward,
        terminated=log.terminated,
        actions=3,
    )
    learner = fitted(three, 600)
    values = learner.critic(torch.from_numpy(learner.data.scale.transform(log.state))[None])[0]
    assert (values[:, 2] < values[:, 0]).all()
