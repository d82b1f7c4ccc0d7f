"""DQN: its equations by hand, exact values of a chain, what it refuses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.core.discrete_values import double_target, huber, taken  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig, td_loss  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return DQN(DQNConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(DQN(DQNConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0]
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0]
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_the_equations_by_hand() -> None:
    assert huber(torch.tensor([0.5, -0.5, 1.0, 3.0, -3.0])).tolist() == [0.125, 0.125, 0.5, 2.5, 2.5]
    online = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    target = torch.tensor([[[5.0, 7.0], [9.0, 11.0]]])
    reward, over = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    y = double_target(reward, over, online, target, 0.5)
    assert y.tolist() == [
        [1 + 0.5 * 7, 1.0]
    ]  # online chooses action 1 of the first row; the second row has ended
    assert taken(online, torch.tensor([[0, 1]])).tolist() == [[1.0, 0.0]]
    loss = td_loss(online, torch.tensor([[0, 1]]), torch.tensor([[1.5, 4.0]]))
    assert loss.tolist() == pytest.approx([(0.125 + 3.5) / 2])


def test_the_target_is_copied_when_it_is_due() -> None:
    learner = fitted(two_armed(), 9, target_every=10)
    assert not torch.equal(learner.critic.flat, learner.critic_target.flat)
    learner.update(learner.draw())
    assert torch.equal(learner.critic.flat, learner.critic_target.flat)
