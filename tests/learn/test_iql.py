"""IQL: equations by hand, exact values of a small chain, in-sample maximum, stack, resume, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.datasets.pendulum import pendulum_log  # noqa: E402
from counterlog.learn.iql import IQL, IQLConfig, cloning_weight, cosine_lr, expectile_loss  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (16, 16), "batch": 32, "steps": 40, "gamma": 0.97, "log_every": 10}


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
    return IQL(IQLConfig(**SMALL)).fit(log, rng=1)


def test_equations_by_hand() -> None:
    u = torch.tensor([[2.0, -1.0]])
    assert expectile_loss(u, 0.5).tolist() == pytest.approx([(4 + 1) / 4])
    assert expectile_loss(u, 0.9).tolist() == pytest.approx([(0.9 * 4 + 0.1) / 2])
    assert cloning_weight(u, 3.0, 100.0)[0].tolist() == pytest.approx([100.0, math.exp(-3)], rel=1e-5)
    assert cosine_lr(1.0, 1, 10) == 1.0
    assert cosine_lr(1.0, 6, 10) == pytest.approx(0.5)


# Two states, two actions: a < 0 stays, a > 0 moves to the other state; rewards by (state, action).
REWARD = np.array([[0.0, 1.0], [2.0, 0.0]])
GAMMA = 0.9


def chain():
    """Every (state, action) once, as trajectories of one step that were cut."""
    state, move = np.repeat([0, 1], 2), np.tile([0, 1], 2)
    return Episodes(
        offsets=np.arange(5),
        state=state,
        action=np.where(move == 1, 1.0, -1.0)[:, None],
        reward=REWARD[state, move],
        truncated=np.ones(4),
        final_state=np.where(move == 1, 1 - state, state),
    )


def values(best):
    """Q of the chain by iteration, with V the mean or the maximum over the two logged actions."""
    q = np.zeros((2, 2))
    for _ in range(600):
        v = q.max(axis=1) if best else q.mean(axis=1)
        q = REWARD + GAMMA * np.array([[v[0], v[1]], [v[1], v[0]]])
    return q


@pytest.mark.slow
@pytest.mark.parametrize(("expectile", "best", "tolerance"), [(0.5, False, 1e-3), (0.999, True, 2e-2)])
def test_the_values_of_a_small_chain_are_exact(expectile, best, tolerance) -> None:
    config = IQLConfig(expectile=expectile, hidden=(32,), batch=4, steps=1, gamma=GAMMA, tau=0.2, lr=3e-3)
    learner = IQL(config)
    learner.start(learner.prepare(chain()))
    batch = learner.data.batch(torch.arange(4)[None])
    for step in range(4000):
        learner.update(batch)
        if step == 3000:
            learner.critic_descent.lr = learner.value_descent.lr = 3e-4
    found = learner.critic.values(batch.state, batch.action).detach()[0].mean(dim=0).view(2, 2)
    exact = values(best)
    assert found.numpy() == pytest.approx(exact, abs=tolerance * exact.max())


def test_beta_zero_is_plain_cloning() -> None:
    learner = IQL(IQLConfig(beta=0.0, cosine=False, head="tanh", **SMALL))
    learner.start(learner.prepare(pendulum_log("pendulum-mix", 2000), -2, 2), rng=2)
    from counterlog.core.actor_heads import Actor
    from counterlog.core.stacked_nets import Descent

    clone = Actor(3, (16, 16), 1, seeds=(2,))
    descent = Descent(clone, lr=learner.config.lr)
    for _ in range(20):
        batch = learner.draw()
        learner.update(batch)
        descent.step((clone.mode(batch.state) - batch.action).square().sum(dim=2).mean(dim=1))
    assert torch.allclose(learner.actor.flat, clone.flat, atol=1e-7)


def test_stack_and_resume(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    def fit(rng, seeds, folder=None, steps=40):
        return IQL(IQLConfig(seeds=seeds, **{**SMALL, "steps": steps})).fit(
            log, low=-2, high=2, rng=rng, folder=folder, save_every=7
        )

    both = fit(3, 2)
    assert float((both.take(1).actor.flat - fit(4, 1).actor.flat).abs().max()) < 1e-5

    class Dying(IQL):
        def update(self, batch):
            if self.updates == 25:
                raise KeyboardInterrupt
            return super().update(batch)

    Dying.__name__ = "IQL"
    with pytest.raises(KeyboardInterrupt):
        Dying(IQLConfig(seeds=2, **SMALL)).fit(log, low=-2, high=2, rng=3, folder=tmp_path, save_every=7)
    resumed = fit(3, 2, tmp_path)
    assert torch.equal(both.actor.flat, resumed.actor.flat)
    assert both.report.metrics == resumed.report.metrics


@pytest.mark.slow
def test_better_actions_are_preferred() -> None:
    """One state; the reward is the action; cloning gives its mean, a large beta the upper end."""
    gen = np.random.default_rng(0)
    action = gen.uniform(-0.9, 0.9, (2000, 1))
    log = Episodes(
        offsets=np.arange(2001),
        state=np.zeros((2000, 1)),
        action=action,
        reward=action[:, 0],
        terminated=np.ones(2000),
    )
    found = {}
    for beta in (0.0, 10.0):
        learner = IQL(IQLConfig(beta=beta, hidden=(32,), steps=2000, lr=1e-3, states="none"))
        found[beta] = float(learner.fit(log, low=-1, high=1).act([[0.0]])[0, 0])
    assert abs(found[0.0]) < 0.1
    assert found[10.0] > 0.6


def test_what_is_refused() -> None:
    discrete = Episodes(
        offsets=[0, 2], state=[0, 1], action=[0, 1], reward=[0, 1], truncated=[0, 1], final_state=[0]
    )
    with pytest.raises(ConfigError, match="continuous actions"):
        IQL(IQLConfig(**SMALL)).fit(discrete)
    flat = chain()
    same = Episodes(
        offsets=flat.offsets, state=flat.state, action=flat.action, reward=np.zeros(4), terminated=np.ones(4)
    )
    with pytest.raises(SupportError, match="every reward"):
        IQL(IQLConfig(**SMALL)).fit(same)
