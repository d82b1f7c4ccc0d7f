"""SAC: equations by hand, one update that equals stable-baselines3's, a stack that equals a loop, resuming, logs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.environments import record_episodes  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, NotFittedError, SupportError  # noqa: E402
from counterlog.core.rl_evaluation import evaluate_policy  # noqa: E402
from counterlog.core.transition_rows import Batch, Columns  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log, uniform_torque  # noqa: E402
from counterlog.online.sac import SAC, SACConfig, actor_loss, critic_loss, soft_target  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (8, 8), "batch": 16, "warmup": 20, "steps": 60, "log_every": 10}


def contract_example(frame):
    return SAC(SACConfig(**SMALL)).improve(Pendulum, rng=1)


def test_target_and_losses_by_hand() -> None:
    alpha = torch.tensor([0.5])
    y = soft_target(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0, 4.0]]),
                    torch.tensor([[2.0, 2.0]]), alpha, 0.9)  # fmt: skip
    assert y.tolist() == [pytest.approx([1 + 0.9 * 3, 1.0])]
    values = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    assert critic_loss(values, torch.tensor([[0.0, 1.0]])).tolist() == pytest.approx([0.5 * (1 + 5)])
    weight = torch.tensor([[2.0, 0.0]])
    assert critic_loss(values, torch.tensor([[0.0, 1.0]]), weight).tolist() == pytest.approx([0.5 * (1 + 9)])
    assert actor_loss(
        torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 3.0]]), alpha
    ).tolist() == pytest.approx([-0.5])


@pytest.mark.rl
def test_one_update_is_stable_baselines3s(monkeypatch) -> None:
    """Copied weights, one batch, the same noise: critics, actor and temperature after one step."""
    sb3 = pytest.importorskip("stable_baselines3")
    theirs = sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16, 16]}, seed=0, batch_size=32)
    theirs.learn(0)  # makes the logger
    ours = SAC(SACConfig(hidden=(16, 16), alpha=1.0)).begin(Pendulum)
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for i, layer in enumerate([theirs.actor.latent_pi[0], theirs.actor.latent_pi[2]]):
            ours.actor[f"weight{i}"][0].copy_(layer.weight.T)
            ours.actor[f"bias{i}"][0, 0].copy_(layer.bias)
        heads = (theirs.actor.mu, theirs.actor.log_std)
        ours.actor["weight2"][0].copy_(torch.cat([h.weight.T for h in heads], dim=1))
        ours.actor["bias2"][0, 0].copy_(torch.cat([h.bias for h in heads]))
        for mine, nets in ((ours.critic, theirs.critic), (ours.critic_target, theirs.critic_target)):
            for j, net in enumerate(nets.q_networks):
                for i, layer in enumerate([net[0], net[2], net[4]]):
                    mine[f"weight{i}"][0, j].copy_(layer.weight.T)
                    mine[f"bias{i}"][0, j, 0].copy_(layer.bias)
    state, following = torch.randn(2, 32, 3, generator=gen)
    action = 2 * torch.rand(32, 1, generator=gen) - 1
    reward, over = torch.randn(32, generator=gen), (torch.rand(32, generator=gen) < 0.2).float()
    noise = list(torch.randn(2, 32, 1, generator=gen))

    def batch(size, env=None):
        from stable_baselines3.common.type_aliases import ReplayBufferSamples

        return ReplayBufferSamples(state, action, following, over[:, None], reward[:, None], None)

    drawn = iter([n.clone() for n in noise])

    def rsample(self, shape=()):
        return self.mean + self.stddev * next(drawn)

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)
    monkeypatch.setattr(theirs.replay_buffer, "sample", batch)
    theirs.train(1, 32)

    class Given:
        def __init__(self):
            self.left = iter(noise)

        def normal(self, *shape):
            return next(self.left)[None]

    ours.noise = Given()
    columns = Columns({"state": 3, "action": 1, "reward": 0, "next_state": 3, "terminated": 0})
    rows = columns.join(
        {"state": state[None], "action": action[None], "reward": reward[None], "next_state": following[None],
         "terminated": over[None]}
    )  # fmt: skip
    found = ours.update(Batch(rows, columns))
    said = theirs.logger.name_to_value
    assert found["critic_loss"].item() == pytest.approx(said["train/critic_loss"], rel=1e-5)
    assert found["actor_loss"].item() == pytest.approx(said["train/actor_loss"], rel=1e-4)
    assert ours.temperature["log_alpha"].item() == pytest.approx(theirs.log_ent_coef.item(), abs=1e-6)
    for j, net in enumerate(theirs.critic.q_networks):
        assert torch.allclose(ours.critic["weight1"][0, j], net[2].weight.T, atol=1e-5)
        target = theirs.critic_target.q_networks[j]
        assert torch.allclose(ours.critic_target["weight1"][0, j], target[2].weight.T, atol=1e-5)
    assert torch.allclose(ours.actor["weight1"][0], theirs.actor.latent_pi[2].weight.T, atol=1e-5)
    assert torch.allclose(ours.actor["weight2"][0, :, :1], theirs.actor.mu.weight.T, atol=1e-5)


def test_a_subset_of_critics_makes_the_target() -> None:
    learner = SAC(SACConfig(critics=5, target_critics=2, **SMALL)).begin(Pendulum)
    values = torch.arange(5.0)[None, :, None].expand(1, 5, 3)
    drawn = torch.stack([learner._drawn(values)[0, :, 0] for _ in range(400)])
    assert drawn.shape == (400, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.2)


def test_weights_of_rows_reach_the_losses() -> None:
    """A row of weight 0 may hold anything."""
    found = []
    for junk in (0.0, 50.0):
        learner = SAC(SACConfig(**SMALL)).begin(Pendulum, rng=3)
        columns = Columns(
            {"state": 3, "action": 1, "reward": 0, "next_state": 3, "terminated": 0, "weight": 0}
        )
        rows = torch.randn(1, 8, columns.total, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        rows[..., columns.slices["terminated"]] = 0
        rows[..., columns.slices["weight"]] = 1
        rows[0, 3, columns.slices["reward"]] = junk
        rows[0, 3, columns.slices["weight"]] = 0
        learner.update(Batch(rows, columns))
        found.append((learner.critic.flat.clone(), learner.actor.flat.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "options",
    [{}, {"learn_alpha": False, "alpha": 0.0}, {"critics": 4, "target_critics": 2, "layer_norm": True, "updates": 2,
      "actor_value": "mean", "backup_entropy": False, "copies": 2}],
)  # fmt: skip
def test_a_stack_of_seeds_equals_seeds_one_by_one(options) -> None:
    settings = {**SMALL, **options}
    together = SAC(SACConfig(seeds=3, **settings)).improve(Pendulum, rng=4)
    for k in range(3):
        alone = SAC(SACConfig(**settings)).improve(Pendulum, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


def test_a_killed_run_resumes_to_the_same_result(tmp_path) -> None:
    class Dying(SAC):
        def advance(self, step):
            if step == 47:
                raise KeyboardInterrupt
            return super().advance(step)

    Dying.__name__ = "SAC"

    def run(kind, folder=None):
        return kind(SACConfig(seeds=2, capacity=40, **SMALL)).improve(
            Pendulum, rng=1, folder=folder, save_every=15
        )

    whole = run(SAC)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(SAC, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics


def test_a_run_without_a_schedule_can_be_made_longer(tmp_path) -> None:
    SAC(SACConfig(**SMALL)).improve(Pendulum, folder=tmp_path)
    longer = SACConfig(**{**SMALL, "steps": 90})
    assert torch.equal(
        SAC(longer).improve(Pendulum, folder=tmp_path).actor.flat, SAC(longer).improve(Pendulum).actor.flat
    )


def test_rows_of_a_log_enter_the_replay_first() -> None:
    log = record_episodes(Pendulum(2), uniform_torque, rng=0)
    learner = SAC(SACConfig(**SMALL))
    learner.improve(Pendulum, log=log)
    assert len(learner.replay) == log.rows + SMALL["steps"]
    assert learner.replay.rows[0, 3].item() == pytest.approx(log.action[0, 0] / 2, abs=1e-6)


def test_a_run_does_not_go_on_with_another_log(tmp_path) -> None:
    logs = [record_episodes(Pendulum(1), uniform_torque, rng=r) for r in (0, 1)]
    SAC(SACConfig(**SMALL)).improve(Pendulum, log=logs[0], folder=tmp_path)
    with pytest.raises(ConfigError, match="another run"):
        SAC(SACConfig(**SMALL)).improve(Pendulum, log=logs[1], folder=tmp_path)


def test_a_log_alone_is_learnt_from() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    policy = SAC(SACConfig(**SMALL)).improve(log, low=-2, high=2)
    assert policy.origin["environment"] == f"log {log.fingerprint}"
    policy.check_log(log.fingerprint)
    assert policy.act(log.state[:4]).shape == (4, 1)


@pytest.mark.slow
def test_it_learns_to_swing_up() -> None:
    c = SACConfig(steps=5000, hidden=(64, 64), batch=128, warmup=500, lr=1e-3, alpha=0.2, learn_alpha=False)
    assert evaluate_policy(SAC(c).improve(Pendulum), Pendulum, starts=10).value > -400


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        SAC().policy()
    with pytest.raises(ConfigError, match="3 target critics of 2"):
        SAC(SACConfig(target_critics=3))
    with pytest.raises(ConfigError, match="alpha 0 cannot be learnt"):
        SAC(SACConfig(alpha=0.0))
    learner = SAC(SACConfig(**SMALL)).begin(Pendulum)
    with pytest.raises(SupportError, match="replay is empty"):
        learner.draw()
    other = Episodes(
        offsets=[0, 3], state=np.eye(3)[:, :2], action=[[0.1], [0.2], [0.3]], reward=[0, 1, 2], truncated=[0, 0, 1],
        final_state=np.zeros((1, 2)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="2 state and 1 action columns"):
        SAC(SACConfig(**SMALL)).improve(Pendulum, log=other)
    with pytest.raises(LogError, match="actions outside"):
        SAC(SACConfig(**SMALL)).improve(pendulum_log("pendulum-mix", 2000), low=-1, high=1)


@pytest.mark.rl
def test_discrete_actions_are_refused() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(ConfigError, match="discrete actions"):
        SAC(SACConfig(**SMALL)).improve("CartPole-v1")
