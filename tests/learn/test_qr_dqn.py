"""QR-DQN: its loss by hand, its gradient, the quantiles of a known distribution, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.discrete_values import huber  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.learn.qr_dqn import QRDQN, QRDQNConfig, picked, quantile_loss  # noqa: E402

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
    return QRDQN(QRDQNConfig(**SMALL)).fit(log, rng=1)


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
    learner = QRDQN(QRDQNConfig(**settings))
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
    policy = QRDQN(QRDQNConfig(**{**SMALL, "steps": 400, "seeds": 2})).fit(log, rng=3)
    for seed in range(2):
        assert policy.act(log.state[:50], seed=seed).mean() > 0.9
    alone = QRDQN(QRDQNConfig(**{**SMALL, "steps": 400})).fit(log, rng=4)
    assert np.array_equal(alone.act(log.state[:200]), policy.act(log.state[:200], seed=1))
    probs = policy.probs(log.state[:5])
    assert probs.sum(axis=1) == pytest.approx(np.ones(5))


def test_a_stopped_run_goes_on_to_the_same_policy_and_policies_are_saved(tmp_path) -> None:
    from counterlog.core.neural_policies import NeuralPolicy

    log = two_armed(80)
    make = lambda steps: QRDQN(QRDQNConfig(**{**SMALL, "steps": steps}))  # noqa: E731
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
        QRDQN(QRDQNConfig(**SMALL)).fit(continuous)
    flat = Episodes(**{**parts, "reward": np.zeros(20)}, actions=2)
    with pytest.raises(SupportError, match="every reward is 0"):
        QRDQN(QRDQNConfig(**SMALL)).fit(flat)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0].unflatten(-1, (1, -1)).mean(dim=-1)
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=0.01)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0].unflatten(-1, (1, -1)).mean(dim=-1)
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def plain_loss(theta, target, official=False):
    """Equation (3) term by term."""
    k = theta.shape[-1]
    total = 0.0
    for i in range(k):
        for j in range(k):
            u = target[..., j] - theta[..., i]
            tau = (j + 1) / k if official else (i + 0.5) / k
            total = total + (tau - (u.detach() < 0).float()).abs() * huber(u) / k
    return total.mean(dim=1)


@pytest.mark.parametrize("official", [False, True])
def test_the_loss_and_its_own_gradient_are_those_of_the_sum(official) -> None:
    gen = torch.Generator().manual_seed(0)
    theta = torch.randn(2, 5, 7, generator=gen, requires_grad=True)
    target = 2 * torch.randn(2, 5, 7, generator=gen)
    ours, plain = quantile_loss(theta, target, official=official), plain_loss(theta, target, official)
    assert ours.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    mine = torch.autograd.grad((ours * torch.tensor([1.0, 3.0])).sum(), theta)[0]
    other = torch.autograd.grad((plain * torch.tensor([1.0, 3.0])).sum(), theta)[0]
    assert torch.allclose(mine, other, atol=1e-6)


def descend(official):
    """Quantiles of the atoms 0 .. 10, by Adam."""
    theta = torch.zeros(1, 1, 11, requires_grad=True)
    target = torch.arange(11.0)[None, None]
    adam = torch.optim.Adam([theta], lr=0.02)
    for _ in range(4000):
        adam.zero_grad()
        quantile_loss(theta, target, official=official).sum().backward()
        adam.step()
    return theta.detach().ravel()


def test_quantiles_of_eleven_atoms_are_spread_and_the_official_ones_collapse() -> None:
    found = descend(False)
    assert found[[0, 1, 2, 5, 10]].tolist() == pytest.approx([0.45, 1.36, 2.27, 5.0, 9.55], abs=0.03)
    assert np.diff(found.numpy()) == pytest.approx(np.full(10, 0.909), abs=0.03)
    collapsed = descend(True)
    assert collapsed.max() - collapsed.min() < 1e-3
    assert float(collapsed[0]) == pytest.approx(5.42, abs=0.05)


def test_heads_of_the_chosen_actions() -> None:
    heads = torch.arange(12.0).view(1, 2, 2, 3)
    assert picked(heads, torch.tensor([[1, 0]])).tolist() == [[[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]]
