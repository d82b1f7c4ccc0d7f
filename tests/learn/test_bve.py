"""BVE: its target by hand, exact values of a chain, its limit, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import SupportError  # noqa: E402
from counterlog.learn.bve import BVE, BVEConfig, sarsa_target  # noqa: E402
from counterlog.learn.mce import MCE, MCEConfig  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return BVE(BVEConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(BVE(BVEConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0]
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    cut = fitted(chain("truncated"), 2500, cut="own").critic(torch.eye(2)[None])[0]
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_the_target_takes_the_next_logged_action() -> None:
    after = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    y = sarsa_target(torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), after, torch.tensor([[0, 0]]), 0.5)
    assert y.tolist() == [[1.5, 1.0]]


def test_without_a_future_it_is_monte_carlo_without_a_future() -> None:
    log = two_armed()
    one = fitted(log, 100, gamma=0.0)
    other = MCE(MCEConfig(hidden=(16, 16), batch=32, lr=1e-2, gamma=0.0, target_every=10))
    other.start(other.prepare(log), rng=0)
    for _ in range(100):
        other.update(other.draw())
    assert torch.allclose(one.critic.flat, other.critic.flat, atol=1e-6)


def test_rows_without_a_next_action_are_left_out() -> None:
    learner = BVE(BVEConfig(**SMALL))
    assert len(learner.prepare(chain("truncated"))) == 8
    assert len(BVE(BVEConfig(**SMALL, cut="own")).prepare(chain("truncated"))) == 16
    single = chain("truncated").take([0])
    lone = Episodes(
        offsets=[0, 1, 2],
        state=[0, 1],
        action=[0, 0],
        reward=[0.0, 1.0],
        truncated=[True, True],
        final_state=[1, 1],
    )
    assert len(learner.prepare(single)) == 1
    with pytest.raises(SupportError, match="known next action"):
        learner.prepare(lone)


def test_values_on_a_small_process_are_those_of_the_logging_policy() -> None:
    from counterlog.core.tabular import TabularMDP

    move = np.array([[[0.0, 1.0], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    process = TabularMDP(move, np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([1.0, 0.0]))
    logging = np.array([[0.5, 0.5], [0.3, 0.7]])
    log = process.sample(logging, 400, 40, rng=1)
    found = fitted(log, 4000, batch=256, lr=3e-3, gamma=0.8).critic(torch.eye(2)[None])[0].detach().numpy()
    assert found == pytest.approx(process.q_values(logging, 0.8), abs=0.12)
