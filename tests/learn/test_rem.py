"""REM: mixtures by hand, exact values of a chain, one head is DQN, what it refuses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402
from counterlog.learn.rem import REM, REMConfig, mixed_values, mixture  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return REM(REMConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(REM(REMConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = (
        fitted(chain(), 3000, mixed=10, lr=2e-3)
        .critic(torch.eye(2)[None])[0]
        .unflatten(-1, (1, -1))
        .mean(dim=-1)
    )
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=5e-3)
    cut = (
        fitted(chain("truncated"), 2500, mixed=10)
        .critic(torch.eye(2)[None])[0]
        .unflatten(-1, (1, -1))
        .mean(dim=-1)
    )
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_mixtures_by_hand() -> None:
    alpha = mixture(torch.tensor([[1.0, 3.0]]))
    assert alpha.tolist() == [[0.25, 0.75]]
    heads = torch.tensor([[[[4.0, 0.0], [0.0, 4.0]]]])
    assert mixed_values(heads, alpha).tolist() == [[[1.0, 3.0]]]


def test_one_head_is_dqn_to_the_last_bits() -> None:
    log = two_armed()
    one = fitted(log, 100, mixed=1)
    other = DQN(DQNConfig(hidden=(16, 16), batch=32, lr=1e-2, gamma=0.9, target_every=10))
    other.start(other.prepare(log), rng=0)
    for _ in range(100):
        other.update(other.draw())
    assert torch.allclose(one.critic.flat, other.critic.flat, atol=1e-6)
    assert torch.allclose(one.acting().flat, other.acting().flat, atol=1e-6)


def test_the_policy_is_that_of_the_mean_of_heads() -> None:
    learner = fitted(two_armed(), 50, mixed=8)
    state = torch.from_numpy(learner.data.scale.transform(two_armed().state[:20]))[None]
    mean = learner.critic(state).unflatten(-1, (2, 8)).mean(dim=-1)
    assert torch.allclose(learner.acting().scores(state), mean, atol=1e-5)


def test_official_mixtures_differ_between_forwards() -> None:
    shared, official = fitted(two_armed(), 20), fitted(two_armed(), 20, official=True)
    assert not torch.allclose(shared.critic.flat, official.critic.flat)
