"""REM: mixtures by hand, exact values of a chain, one head is DQN, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402
from counterlog.learn.rem import REM, REMConfig, mixed_values, mixture  # noqa: E402

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
    return REM(REMConfig(**SMALL)).fit(log, rng=1)


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
    learner = REM(REMConfig(**settings))
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
    policy = REM(REMConfig(**{**SMALL, "steps": 400, "seeds": 2})).fit(log, rng=3)
    for seed in range(2):
        assert policy.act(log.state[:50], seed=seed).mean() > 0.9
    alone = REM(REMConfig(**{**SMALL, "steps": 400})).fit(log, rng=4)
    assert np.array_equal(alone.act(log.state[:200]), policy.act(log.state[:200], seed=1))
    probs = policy.probs(log.state[:5])
    assert probs.sum(axis=1) == pytest.approx(np.ones(5))


def test_a_stopped_run_goes_on_to_the_same_policy_and_policies_are_saved(tmp_path) -> None:
    from counterlog.core.neural_policies import NeuralPolicy

    log = two_armed(80)
    make = lambda steps: REM(REMConfig(**{**SMALL, "steps": steps}))  # noqa: E731
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
        REM(REMConfig(**SMALL)).fit(continuous)
    flat = Episodes(**{**parts, "reward": np.zeros(20)}, actions=2)
    with pytest.raises(SupportError, match="every reward is 0"):
        REM(REMConfig(**SMALL)).fit(flat)


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
