"""TD3+BC: equations by hand, cloning as a limit, a stack that equals a loop, a run that resumes, a better policy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, NotFittedError, SupportError  # noqa: E402
from counterlog.core.rl_evaluation import evaluate_policy  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log  # noqa: E402
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig, actor_loss, smoothed_action, value_weight  # noqa: E402

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
    return TD3BC(TD3BCConfig(**SMALL)).fit(log, rng=1)


def test_the_actor_loss_by_hand() -> None:
    q = torch.tensor([[1.0, -3.0]])
    action, logged = torch.tensor([[[0.5], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    assert value_weight(q, 2.5).tolist() == pytest.approx([1.25])
    value, pull = actor_loss(q, action, logged, 2.5)
    assert value.tolist() == pytest.approx([1.25])  # -1.25 * mean(1, -3)
    assert pull.tolist() == pytest.approx([(0.25 + 1.0) / 2])


def test_rewards_and_critics_times_c_leave_the_actors_gradient() -> None:
    q = torch.tensor([[1.0, -3.0, 0.5]])
    action = torch.tensor([[[0.5], [0.0], [0.1]]], requires_grad=True)
    grads = []
    for c in (1.0, 37.0):
        value, pull = actor_loss(c * (q + action[..., 0] ** 2), action, torch.zeros(1, 3, 1), 2.5)
        grads.append(torch.autograd.grad((value + pull).sum(), action)[0])
    assert torch.allclose(*grads, atol=1e-6)


def test_target_actions_have_clipped_noise_and_stay_in_bounds() -> None:
    learner = TD3BC(TD3BCConfig(**SMALL))
    learner.start(learner.prepare(pendulum_log("pendulum-mix", 2000), -2, 2))
    state = torch.zeros(1, 4, 3)
    noise = torch.tensor([[[0.0], [1.0], [100.0], [-100.0]]])
    found = smoothed_action(learner.actor_target, state, noise, 0.2, 0.5)[0, :, 0]
    centre = found[0]
    assert (found - centre).tolist() == pytest.approx([0, 0.2, 0.5, -0.5], abs=1e-6)
    assert float(smoothed_action(learner.actor_target, state, 100 + noise, 50.0, 50.0).max()) == 1.0


def test_alpha_zero_is_plain_cloning() -> None:
    """The actor then takes the same steps as one that never sees a critic."""
    learner = TD3BC(TD3BCConfig(alpha=0.0, **SMALL))
    learner.start(learner.prepare(pendulum_log("pendulum-mix", 2000), -2, 2), rng=3)
    from counterlog.core.actor_heads import Actor
    from counterlog.core.stacked_nets import Descent

    clone = Actor(3, (16, 16), 1, seeds=(3,))
    descent = Descent(clone, lr=learner.config.lr)
    for step in range(20):
        batch = learner.draw()
        learner.update(batch)
        if step % 2:
            descent.step((clone.mode(batch.state) - batch.action).square().mean(dim=(1, 2)))
    assert torch.allclose(learner.actor.flat, clone.flat, atol=1e-7)


def test_a_stack_of_seeds_equals_seeds_one_by_one() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    settings = {**SMALL, "hidden": (8, 8), "steps": 200}
    together = TD3BC(TD3BCConfig(seeds=5, **settings)).fit(log, low=-2, high=2, rng=4)
    for k in range(5):
        alone = TD3BC(TD3BCConfig(**settings)).fit(log, low=-2, high=2, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


def test_a_killed_run_resumes_to_the_same_result(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    class Dying(TD3BC):
        def update(self, batch):
            if self.updates == 27:
                raise KeyboardInterrupt
            return super().update(batch)

    def run(kind, folder=None):
        return kind(TD3BCConfig(seeds=2, **SMALL)).fit(
            log, low=-2, high=2, rng=1, folder=folder, save_every=10
        )

    Dying.__name__ = "TD3BC"
    whole = run(TD3BC)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(TD3BC, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics
    with pytest.raises(ConfigError, match="another run"):
        TD3BC(TD3BCConfig(seeds=2, alpha=1.0, **SMALL)).fit(log, low=-2, high=2, rng=1, folder=tmp_path)


def test_the_same_rng_gives_the_same_policy_and_another_gives_another() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    a, b, c = (TD3BC(TD3BCConfig(**SMALL)).fit(log, low=-2, high=2, rng=r).actor.flat for r in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.slow
def test_without_a_termination_a_constant_reward_is_worth_its_discounted_sum() -> None:
    """One state, reward near 1, cut at every step: the value is 1 / (1 - gamma), and 1 when it terminates."""
    for ends, worth in (("truncated", 5.0), ("terminated", 1.0)):
        n = 64
        log = Episodes(
            offsets=np.arange(n + 1),
            state=np.zeros((n, 1)),
            action=np.linspace(-1, 1, n)[:, None],
            reward=1 + 1e-6 * np.arange(n),
            final_state=np.zeros((n, 1)),
            **{ends: np.ones(n)},
        )
        c = TD3BCConfig(hidden=(16,), batch=64, steps=800, gamma=0.8, lr=5e-3, tau=0.05, states="none")
        learner = TD3BC(c)
        learner.fit(log)
        q = learner.critic.values(torch.zeros(1, 5, 1), torch.linspace(-1, 1, 5).view(1, 5, 1)).detach()
        assert q.numpy() == pytest.approx(worth, rel=0.05)


@pytest.mark.slow
def test_on_mixed_logs_a_weaker_pull_earns_more_than_cloning() -> None:
    log = pendulum_log("pendulum-mix")
    settings = {"hidden": (64, 64), "batch": 128, "steps": 6000, "gamma": 0.97, "seeds": 2}
    score = {
        alpha: evaluate_policy(
            TD3BC(TD3BCConfig(alpha=alpha, **settings)).fit(log, low=-2, high=2), Pendulum, gamma=0.97
        ).value
        for alpha in (0.0, 20.0)
    }
    assert score[20.0] > score[0.0] + 150


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        TD3BC().policy()
    discrete = Episodes(
        offsets=[0, 2], state=[0, 1], action=[0, 1], reward=[0, 1], truncated=[0, 1], final_state=[0]
    )
    with pytest.raises(ConfigError, match="continuous actions"):
        TD3BC(TD3BCConfig(**SMALL)).fit(discrete)
    log = pendulum_log("pendulum-mix", 2000)
    with pytest.raises(LogError, match="actions outside"):
        TD3BC(TD3BCConfig(**SMALL)).fit(log, low=-1, high=1)
    same = Episodes(
        offsets=[0, 3], state=np.eye(3), action=[[0.1], [0.2], [0.3]], reward=np.ones(3), truncated=[0, 0, 1]
    )
    with pytest.warns(UserWarning), pytest.raises(SupportError, match="every reward"):
        TD3BC(TD3BCConfig(**SMALL)).fit(same)
