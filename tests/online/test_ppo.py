"""PPO: equations by hand, stable-baselines3's loss and gradient, time limits, a stack that equals a loop, resuming."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import Actor, Head  # noqa: E402
from counterlog.core.environments import Moves  # noqa: E402
from counterlog.core.errors import ConfigError, NotFittedError, SupportError  # noqa: E402
from counterlog.core.neural_policies import NeuralPolicy  # noqa: E402
from counterlog.core.on_policy import entropy, value_error  # noqa: E402
from counterlog.core.stacked_critics import StateValue  # noqa: E402
from counterlog.core.transition_rows import Batch, Columns  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402
from counterlog.online.ppo import PPO, PPOConfig, clipped_gain, nearness  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (8, 8), "copies": 2, "horizon": 32, "batch": 16, "epochs": 2, "steps": 320}


def contract_example(frame):
    return PPO(PPOConfig(**SMALL)).improve(Pendulum, rng=1)


class Corridor:
    """One state, reward 1 a step, cut after ten steps: worth 1 / (1 - gamma) if time limits are understood."""

    name, state_size, action_size, discrete = "corridor", 1, 2, True
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    longest, reward_unit = 10, "reward"

    def __init__(self, copies: int, broken: bool = False) -> None:
        self.copies, self.steps, self.broken = copies, 0, broken

    def reset(self, rng, *, groups=1):
        self.steps = 0
        return np.zeros((self.copies, 1))

    def step(self, action):
        self.steps = (self.steps + 1) % 10
        none, state = np.zeros(self.copies, bool), np.zeros((self.copies, 1))
        reward = np.full(self.copies, np.nan if self.broken and self.steps == 5 else 1.0)
        return Moves(state, reward, none, np.full(self.copies, self.steps == 0), state)


def test_the_gain_is_cut_on_one_side_only() -> None:
    ratio, advantage = torch.tensor([[1.5, 0.5, 1.5, 0.5]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert clipped_gain(ratio, advantage, 0.2).tolist() == pytest.approx([(1.2 + 0.5 - 1.5 - 0.8) / 4])
    assert nearness(torch.tensor([[0.0, np.log(2.0)]])).tolist() == pytest.approx([(1 - np.log(2)) / 2])


def test_the_value_error_takes_the_worse_of_the_two() -> None:
    columns = Columns({"value": 0, "return_to_go": 0})
    batch = Batch(
        columns.join({"value": torch.zeros(1, 2), "return_to_go": torch.tensor([[1.0, -1.0]])}), columns
    )
    value = torch.tensor([[0.9, 0.1]])
    assert value_error(value, batch, None).tolist() == pytest.approx([(0.01 + 1.21) / 2])
    assert value_error(value, batch, 0.2).tolist() == pytest.approx([(0.64 + 1.21) / 2])


def test_entropy_of_a_normal_and_of_a_fair_choice() -> None:
    normal = Actor(2, (4,), 3, seeds=(0,), head=Head("gaussian", squash_mean=False))
    assert entropy(normal, torch.zeros(1, 1, 2)).item() == pytest.approx(3 * 0.5 * np.log(2 * np.pi * np.e))
    fair = Actor(2, (4,), 4, seeds=(0,), head=Head("categorical"), start="orthogonal", last=1e-9)
    assert entropy(fair, torch.zeros(1, 1, 2)).item() == pytest.approx(np.log(4))


@pytest.mark.rl
@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_loss_and_gradient_are_stable_baselines3s(env) -> None:
    """The same weights, the same batch: one of its optimisation steps, whose gradients are kept, against ours."""
    sb3 = pytest.importorskip("stable_baselines3")
    theirs = sb3.PPO(
        "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, clip_range=0.2, clip_range_vf=None, ent_coef=0.01,
        max_grad_norm=1e9, seed=0, device="cpu",
    )  # fmt: skip
    theirs.learn(64)  # a rollout in the buffer, and logging made
    discrete = env == "CartPole-v1"
    head = Head("categorical") if discrete else Head("gaussian", squash_mean=False)
    policy, sizes = theirs.policy, theirs.policy.observation_space.shape[0]
    width = policy.action_net.out_features
    actor = Actor(sizes, (64, 64), width, seeds=(0,), head=head, activation="tanh")
    value = StateValue(sizes, (64, 64), seeds=(0,), activation="tanh")
    layers = {
        actor: [policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2], policy.action_net],
        value: [policy.mlp_extractor.value_net[0], policy.mlp_extractor.value_net[2], policy.value_net],
    }
    with torch.no_grad():
        for net, found in layers.items():
            for i, layer in enumerate(found):
                net[f"weight{i}"][0].copy_(layer.weight.T)
                net[f"bias{i}"][0, 0].copy_(layer.bias)
        if not discrete:
            actor["log_std"][0, 0].copy_(policy.log_std)
    (data,) = copy.deepcopy(theirs.rollout_buffer).get(64)
    grads = {}
    policy.optimizer.step = lambda *a, **k: grads.update(
        {n: p.grad.clone() for n, p in policy.named_parameters()}
    )
    theirs.rollout_buffer.get = lambda size: iter([data])
    theirs.train()
    size = 0 if discrete else width
    roles = ("log_propensity", "value", "advantage", "return_to_go")
    columns = Columns({"state": sizes, "action": size, **dict.fromkeys(roles, 0)}, discrete=discrete)
    action = data.actions.flatten() if discrete else data.actions
    rows = columns.join(
        {
            "state": data.observations[None], "action": action[None], "log_propensity": data.old_log_prob[None],
            "value": data.old_values[None], "advantage": data.advantages[None], "return_to_go": data.returns[None],
        }
    )  # fmt: skip
    ours = PPO(PPOConfig(seeds=1, entropy_weight=0.01))
    ours.actor, ours.value = actor, value

    class Keep:
        def step(self, loss):
            leaves = [*actor.leaves.values(), *value.leaves.values()]
            self.found = torch.autograd.grad(loss.sum(), leaves)

    ours.descent = Keep()
    metrics = ours.update(Batch(rows, columns))
    said = theirs.logger.name_to_value
    assert -metrics["gain"].item() == pytest.approx(said["train/policy_gradient_loss"], abs=1e-6)
    assert metrics["value_error"].item() == pytest.approx(said["train/value_loss"], rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(-said["train/entropy_loss"], abs=1e-6)
    assert metrics["kl"].item() == pytest.approx(said["train/approx_kl"], abs=1e-6)
    names = [*actor.leaves, *value.leaves]
    mine = dict(
        zip(
            [("a", n) for n in actor.leaves] + [("v", n) for n in value.leaves],
            ours.descent.found,
            strict=True,
        )
    )
    assert len(names) == len(mine)
    title = {"a": ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"],
             "v": ["mlp_extractor.value_net.0", "mlp_extractor.value_net.2", "value_net"]}  # fmt: skip
    for (net, name), g in mine.items():
        if name == "log_std":
            assert torch.allclose(g[0, 0], grads["log_std"], atol=1e-6)
            continue
        kind, i = name[:-1], int(name[-1])
        want = grads[f"{title[net][i]}.{kind}"]
        have = g[0].T if kind == "weight" else g[0, 0]
        assert torch.allclose(have, want, rtol=1e-4, atol=1e-6), name


def test_a_time_limit_does_not_end_the_value() -> None:
    c = PPOConfig(
        hidden=(8,),
        copies=4,
        horizon=20,
        batch=40,
        steps=12_000,
        gamma=0.9,
        lr=3e-2,
        normalise_states=False,
        lam=0.9,
    )
    learner = PPO(c)
    with pytest.warns(UserWarning, match="all alike"):
        for step in range(1, c.steps // 80 + 1):
            if step == 1:
                learner.begin(Corridor)
            learner.advance(step)
    assert learner.value.values(torch.zeros(1, 1, 1)).item() == pytest.approx(10.0, rel=0.05)


def test_a_stack_of_seeds_equals_seeds_one_by_one() -> None:
    together = PPO(PPOConfig(seeds=3, **SMALL)).improve(Pendulum, rng=4)
    for k in range(3):
        alone = PPO(PPOConfig(**SMALL)).improve(Pendulum, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5
        assert together.take(k).scale.mean == pytest.approx(alone.take(0).scale.mean, abs=1e-9)


@pytest.mark.rl
@pytest.mark.parametrize("env", ["pendulum", "CartPole-v1", "Hopper-v5"])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, env) -> None:
    pytest.importorskip("gymnasium")
    world = Pendulum if env == "pendulum" else env

    class Dying(PPO):
        def advance(self, step):
            if step == 8:
                raise KeyboardInterrupt
            return super().advance(step)

    Dying.__name__ = "PPO"
    settings = {"seeds": 2, "normalise_rewards": True, "anneal": True, **SMALL, "steps": 640}

    def run(kind, folder=None):
        return kind(PPOConfig(**settings)).improve(world, rng=1, folder=folder, save_every=192)

    whole = run(PPO)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(PPO, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics
    assert whole.scale == resumed.scale
    with pytest.raises(ConfigError, match="another run"):
        PPO(PPOConfig(**{**settings, "clip": 0.1})).improve(world, rng=1, folder=tmp_path)


def test_a_saved_policy_carries_the_statistics_of_its_states(tmp_path) -> None:
    policy = PPO(PPOConfig(seeds=2, **SMALL)).improve(Pendulum)
    again = NeuralPolicy.load(policy.save(tmp_path / "policy.safetensors"))
    state = Pendulum(5).reset(0)
    for seed in (0, 1):
        assert np.array_equal(policy.act(state, seed=seed), again.act(state, seed=seed))
    assert not np.array_equal(policy.act(state, seed=0), policy.act(state, seed=1))
    stacked = again.act_stacked(np.stack([state, state]))
    assert stacked[1] == pytest.approx(again.act(state, seed=1), abs=1e-6)
    assert again.scale == policy.scale


@pytest.mark.rl
@pytest.mark.slow
def test_it_learns_to_balance_a_pole() -> None:
    pytest.importorskip("gymnasium")
    policy = PPO(PPOConfig(seeds=2, steps=24_576, lr=1e-3)).improve("CartPole-v1")
    assert min(policy.report.last("return")) > 150  # random play: about 22


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        PPO().policy()
    with pytest.raises(ConfigError, match="leave a batch of one row"):
        PPO(PPOConfig(**{**SMALL, "batch": 21})).improve(Pendulum)
    with pytest.raises(ConfigError, match="target_kl with 2 seeds"):
        PPO(PPOConfig(seeds=2, target_kl=0.01, **SMALL)).improve(Pendulum)

    class Endless(Pendulum):
        high = (float("inf"),)

    with pytest.raises(ConfigError, match="finite bounds"):
        PPO(PPOConfig(**SMALL)).improve(Endless)
    with pytest.raises(ConfigError, match="gamma"):
        PPOConfig(gamma=1.5)
    with pytest.raises(ConfigError, match="none negative"):
        PPO(PPOConfig(**SMALL)).improve(Pendulum, rng=-1)
    with pytest.raises(ConfigError, match="middle of an episode"):
        PPO(PPOConfig(**SMALL)).improve(Corridor, folder="never made")
    with pytest.raises(SupportError, match="reward of seed 0"):
        PPO(PPOConfig(**SMALL)).improve(lambda copies: Corridor(copies, broken=True))


def test_target_kl_stops_the_passes() -> None:
    free, held = (
        PPO(PPOConfig(**{**SMALL, "epochs": 20, "lr": 1e-2, "target_kl": kl})) for kl in (None, 1e-3)
    )
    for learner in (free, held):
        learner.begin(Pendulum)
        learner.advance(1)
    assert held.updates < free.updates == 80
