"""Behaviour cloning: its losses by hand, the best share, discrete actions, densities, resume."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import LogError  # noqa: E402
from counterlog.core.neural_policies import NeuralPolicy  # noqa: E402
from counterlog.datasets.cart_pole import balancers, roll  # noqa: E402
from counterlog.datasets.pendulum import pendulum_log  # noqa: E402
from counterlog.learn.bc import BC, BCConfig, negative_log_likelihood, squared_distance  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (16, 16), "batch": 32, "steps": 60, "log_every": 20}


def contract_example(frame):
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    x = table["x"].to_numpy()[:60]
    log = Episodes(
        offsets=[0, 20, 40, 60],
        state=np.column_stack([x, np.sin(x)]),
        action=np.tanh(x)[:, None],
        reward=table["click"].to_numpy()[:60],
        truncated=np.arange(60) % 20 == 19,
    )
    return BC(BCConfig(**SMALL)).fit(log, rng=1)


def test_the_losses_by_hand() -> None:
    action, logged = torch.tensor([[[0.5, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    assert squared_distance(action, logged).tolist() == [(0.25 + 1.0) / 4]
    assert negative_log_likelihood(torch.tensor([[-1.0, -3.0]])).tolist() == [2.0]


def test_a_linear_controller_is_copied() -> None:
    gen = np.random.default_rng(0)
    state = gen.uniform(-1, 1, (400, 2))
    log = Episodes(
        offsets=np.arange(0, 401, 20),
        state=state,
        action=0.5 * state[:, :1] - 0.3 * state[:, 1:],
        truncated=np.arange(400) % 20 == 19,
    )
    policy = BC(BCConfig(hidden=(32,), batch=128, steps=1500, lr=3e-3, seeds=2)).fit(log)
    new = gen.uniform(-0.9, 0.9, (50, 2))
    for k in range(2):
        assert policy.act(new, seed=k) == pytest.approx(0.5 * new[:, :1] - 0.3 * new[:, 1:], abs=0.02)


def test_the_best_share_copies_the_best_controller_alone() -> None:
    log = pendulum_log("pendulum-mix", 4000)
    kept = BC(BCConfig(share=0.1)).prepare(log, -2, 2)
    assert len(kept) == 400
    assert torch.equal(kept.column("state"), BC().prepare(log.take([18, 19]), -2, 2).column("state"))


def test_discrete_actions_are_copied_with_their_probabilities() -> None:
    expert = balancers(2)["pole-1"]
    log = roll(expert, 200, rng=0)
    policy = BC(BCConfig(hidden=(32,), batch=256, steps=800, lr=3e-3)).fit(log)
    states = log.state[::37]
    assert np.abs(policy.probs(states) - expert.probs(states)).mean() < 0.05
    assert set(policy.act(states).tolist()) <= {0, 1}


@pytest.mark.parametrize("head", ["gaussian", "tanh_gaussian"])
def test_a_density_learns_the_width_of_the_logged_actions(head) -> None:
    gen = np.random.default_rng(0)
    log = Episodes(
        offsets=[0, 2000],
        state=np.zeros((2000, 1)),
        action=np.tanh(0.2 + 0.3 * gen.normal(size=(2000, 1))),
        truncated=np.arange(2000) == 1999,
    )
    config = BCConfig(head=head, hidden=(8,), batch=512, steps=800, lr=1e-2, states="none")
    policy = BC(config).fit(log, low=-1, high=1)
    drawn = policy.act(np.zeros((4000, 1)), rng=0)[:, 0]
    assert drawn.mean() == pytest.approx(log.action.mean(), abs=0.03)
    assert drawn.std() == pytest.approx(log.action.std(), rel=0.1)


def test_stack_loop_resume_and_file(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)
    both = BC(BCConfig(seeds=2, **SMALL)).fit(log, low=-2, high=2, rng=5, folder=tmp_path / "a")
    alone = BC(BCConfig(**SMALL)).fit(log, low=-2, high=2, rng=6)
    assert float((both.take(1).actor.flat - alone.actor.flat).abs().max()) < 1e-5
    BC(BCConfig(seeds=2, **{**SMALL, "steps": 20})).fit(log, low=-2, high=2, rng=5, folder=tmp_path / "b")
    later = BC(BCConfig(seeds=2, **SMALL)).fit(log, low=-2, high=2, rng=5, folder=tmp_path / "b")
    assert torch.equal(later.actor.flat, both.actor.flat)
    again = NeuralPolicy.load(both.save(tmp_path / "p"))
    assert again.report == both.report
    assert again.origin == both.origin


def test_what_is_refused() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    with pytest.raises(LogError, match="no 'reward'"):
        BC(BCConfig(share=0.5)).fit(
            Episodes(offsets=[0, 2], state=np.zeros((2, 1)), action=np.zeros((2, 1)), truncated=[0, 1])
        )
    with pytest.raises(LogError, match="actions outside"):
        BC(BCConfig(**SMALL)).fit(log, low=-1, high=1)
