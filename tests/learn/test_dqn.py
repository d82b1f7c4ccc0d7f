"""DQN: its equations by hand, exact values of a chain, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.discrete_values import double_target, huber, taken  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig, td_loss  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (16, 16), "batch": 32, "steps": 40, "log_every": 10, "lr": 1e-3}


def contract_example(frame):
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    x = table["x"].to_numpy()[:60]
    log = Episodes(
        offsets=[0, 20, 40, 60],
        state=np.column_stack([x, np.sin(x)]),
        action=(x > 0).astype(int),
        reward=table["click"].to_numpy()[:60],
        terminated=np.arange(60) % 20 == 19,
        actions=2,
    )
    return DQN(DQNConfig(**SMALL)).fit(log, rng=1)


def chain(end="terminated", copies=8):
    """s0 -(r = 0)-> s1 -(r = 1)-> the end, or, where the recording is cut, s1 again."""
    last = np.arange(2 * copies) % 2 == 1
    return Episodes(
        offsets=2 * np.arange(copies + 1),
        state=last.astype(int),
        action=np.zeros(2 * copies, int),
        reward=last.astype(float),
        **{end: last},
        actions=1,
        final_state=np.ones(copies, int),
    )


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    settings = {"hidden": (16, 16), "batch": 32, "lr": 1e-2, "gamma": 0.9, "target_every": 10, **more}
    learner = DQN(DQNConfig(**settings))
    learner.start(learner.prepare(log), rng=0)
    for _ in range(steps):
        learner.update(learner.draw())
    return learner


def two_armed(rows=400, rng=0):
    """One step an episode, two actions: action 1 pays 1, action 0 pays 0; the log prefers action 0."""
    gen = np.random.default_rng(rng)
    action = (gen.random(rows) < 0.45).astype(int)
    return Episodes(
        offsets=np.arange(rows + 1),
        state=gen.normal(size=(rows, 2)),
        action=action,
        reward=action.astype(float),
        terminated=np.ones(rows, bool),
        actions=2,
    )


def test_the_better_action_is_found_and_stacks_equal_loops() -> None:
    log = two_armed()
    policy = DQN(DQNConfig(**{**SMALL, "steps": 400, "seeds": 2})).fit(log, rng=3)
    for seed in range(2):
        assert policy.act(log.state[:50], seed=seed).mean() > 0.9
    alone = DQN(DQNConfig(**{**SMALL, "steps": 400})).fit(log, rng=4)
    assert np.array_equal(alone.act(log.state[:200]), policy.act(log.state[:200], seed=1))
    probs = policy.probs(log.state[:5])
    assert probs.sum(axis=1) == pytest.approx(np.ones(5))


def test_a_stopped_run_goes_on_to_the_same_policy_and_policies_are_saved(tmp_path) -> None:
    from counterlog.core.neural_policies import NeuralPolicy

    log = two_armed(80)
    make = lambda steps: DQN(DQNConfig(**{**SMALL, "steps": steps}))  # noqa: E731
    make(20).fit(log, folder=tmp_path / "run")
    again, straight = make(40).fit(log, folder=tmp_path / "run"), make(40).fit(log)
    for name, leaf in straight.actor.leaves.items():
        assert torch.equal(leaf, again.actor.leaves[name])
    loaded = NeuralPolicy.load(straight.save(tmp_path / "policy.safetensors"))
    assert np.array_equal(loaded.act(log.state), straight.act(log.state))
    assert np.array_equal(loaded.probs(log.state), straight.probs(log.state))


def test_logs_that_it_cannot_learn_from_are_refused() -> None:
    log = two_armed(20)
    parts = {k: getattr(log, k) for k in ("offsets", "state", "action", "reward", "terminated")}
    continuous = Episodes(**{**parts, "action": np.zeros((20, 1))})
    with pytest.raises(ConfigError, match="needs discrete actions"):
        DQN(DQNConfig(**SMALL)).fit(continuous)
    flat = Episodes(**{**parts, "reward": np.zeros(20)}, actions=2)
    with pytest.raises(SupportError, match="every reward is 0"):
        DQN(DQNConfig(**SMALL)).fit(flat)


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
