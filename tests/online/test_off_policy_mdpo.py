"""Off-policy MDPO: SAC as a special case, a quadratic solved in closed form, Tsallis, logs alone, stacks, resuming."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import Actor, Head, normal_log_density  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, NotFittedError  # noqa: E402
from counterlog.core.rl_evaluation import evaluate_policy  # noqa: E402
from counterlog.core.stacked_critics import Critic  # noqa: E402
from counterlog.core.stacked_nets import Descent, StackedTensors  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log  # noqa: E402
from counterlog.online import sac  # noqa: E402
from counterlog.online.off_policy_mdpo import (  # noqa: E402
    OffPolicyMDPO,
    OffPolicyMDPOConfig,
    actor_loss,
    log_densities,
    moments_penalty,
)

pytestmark = pytest.mark.torch
SMALL = {"hidden": (8, 8), "batch": 16, "warmup": 20, "steps": 60, "refresh": 7, "log_every": 10}


def contract_example(frame):
    return OffPolicyMDPO(OffPolicyMDPOConfig(**SMALL)).improve(Pendulum, rng=1)


def test_the_actor_loss_by_hand() -> None:
    new, old, value = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, 0.0]])
    assert actor_loss(new, old, value, 1.0, 0.2).tolist() == pytest.approx([(1 - 0.4 - 2 - 1 - 0.4) / 2])
    assert moments_penalty(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[0.0], [2.0]]])).tolist() == [5 + 2]


def test_with_c_at_lambda_the_actors_gradient_is_sacs_whatever_the_old_policy() -> None:
    gen = torch.Generator().manual_seed(0)
    state, noise = torch.randn(1, 64, 3, generator=gen), torch.randn(1, 64, 2, generator=gen)
    actor = Actor(3, (16,), 2, seeds=(0,), head=Head("tanh_gaussian"))
    critic = Critic(3, 2, (16,), seeds=(0,))
    leaves = list(actor.leaves.values())

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), leaves)])

    action, log_p = actor.sample(state, noise)
    wanted = gradient(sac.actor_loss(log_p, critic.least(state, action), torch.tensor([0.2])))
    for seed in (5, 6):
        old = Actor(3, (16,), 2, seeds=(seed,), head=Head("tanh_gaussian")).frozen()
        mean, log_std = actor.moments(state)
        u = mean + log_std.exp() * noise
        new, before = (log_densities(*net.moments(state), u).sum(dim=-1) for net in (actor, old))
        found = gradient(actor_loss(new, before, critic.least(state, torch.tanh(u)), 0.2, 0.2))
        assert torch.allclose(found, wanted, atol=1e-7)
        assert not torch.allclose(gradient_of(actor, old, critic, state, noise), wanted, atol=1e-3)


def gradient_of(actor, old, critic, state, noise):
    mean, log_std = actor.moments(state)
    u = mean + log_std.exp() * noise
    new, before = (log_densities(*net.moments(state), u).sum(dim=-1) for net in (actor, old))
    loss = actor_loss(new, before, critic.least(state, torch.tanh(u)), 1.0, 0.2)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), list(actor.leaves.values()))])


def test_a_quadratic_value_has_a_gaussian_optimum_in_closed_form() -> None:
    h, best, spread, c, weight = 2.0, 1.0, 0.5, 1.0, 0.2
    pull = (c - weight) / spread**2
    precision, centre = (pull + h) / c, h * best / (pull + h)
    assert (precision, centre) == (pytest.approx(5.2), pytest.approx(0.384615, abs=1e-6))
    noise = torch.randn(1, 4096, 1, generator=torch.Generator().manual_seed(1))
    noise = (noise - noise.mean()) / noise.std()
    net = StackedTensors({"mean": (1, 1), "log_std": (1, 1)}, (0,))
    descent = Descent(net, lr=0.02)
    for _ in range(800):
        u = net["mean"] + net["log_std"].exp() * noise
        new = normal_log_density(u, net["mean"], net["log_std"])
        old = normal_log_density(u, torch.zeros(1, 1, 1), torch.full((1, 1, 1), float(np.log(spread))))
        descent.step(actor_loss(new, old, -h * (u[..., 0] - best).square() / 2, c, weight))
    assert net["mean"].item() == pytest.approx(centre, abs=1e-2)
    assert np.exp(-2 * net["log_std"].item()) == pytest.approx(precision, rel=1e-2)


def test_densities_from_the_action_before_tanh_are_the_actors_and_exact_at_the_bound() -> None:
    actor = Actor(3, (16,), 2, seeds=(0,), head=Head("tanh_gaussian"))
    state, noise = torch.randn(1, 9, 3), torch.randn(1, 9, 2)
    mean, log_std = actor.moments(state)
    _, log_p = actor.sample(state, noise)
    assert torch.allclose(
        log_densities(mean, log_std, mean + log_std.exp() * noise).sum(-1), log_p, atol=1e-5
    )
    far = log_densities(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.full((1, 1, 1), 30.0))
    assert torch.isfinite(far).all()


def test_tsallis_logarithms_near_one_are_kl_and_per_dimension_ones_differ() -> None:
    parts = torch.tensor([[[0.3, -0.4], [-20.0, 1.0]]])

    def learner(**options):
        made = OffPolicyMDPO(OffPolicyMDPOConfig(**SMALL, **options))
        return made.logarithm(parts)

    kl = learner()
    assert torch.allclose(learner(divergence="tsallis", q=1.0), kl)
    assert torch.allclose(learner(divergence="tsallis", q=1.0001), kl, atol=0.03)
    joint = learner(divergence="tsallis", q=1.5)
    assert joint[0, 0].item() == pytest.approx(2 * (np.exp(0.5 * -0.1) - 1), abs=1e-6)
    each = learner(divergence="tsallis", q=1.5, per_dimension=True)
    assert each[0, 0].item() == pytest.approx(2 * (np.exp(0.15) - 1) + 2 * (np.exp(-0.2) - 1), abs=1e-6)
    assert each[0, 1].item() == pytest.approx(
        2 * (np.exp(0.5 * np.log(1e-6)) - 1) + 2 * (np.exp(0.5) - 1), abs=1e-5
    )


def test_a_large_c_freezes_the_policy_between_refreshes() -> None:
    moved = {}
    for c in (0.2, 1.0, 1e4):
        learner = OffPolicyMDPO(OffPolicyMDPOConfig(**{**SMALL, "c": c, "refresh": 1000, "lr": 1e-2})).begin(
            Pendulum
        )
        for step in range(1, 120):
            metrics = learner.advance(step)
        moved[c] = metrics["kl_new_old"].item()
    assert abs(moved[1e4]) < moved[1.0] < moved[0.2]


def test_the_old_policy_is_refreshed_when_it_is_due() -> None:
    learner = OffPolicyMDPO(OffPolicyMDPOConfig(**{**SMALL, "refresh": 30})).begin(Pendulum)
    for step in range(1, 30):
        learner.advance(step)
    assert not torch.equal(learner.old.flat, learner.actor.flat)
    stale = learner.actor.flat.clone()
    learner.advance(30)
    assert torch.equal(learner.old.flat, stale)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"divergence": "tsallis", "q": 1.5, "actor_q": "least", "regulariser": 1e-3},
        {"learn_entropy": True, "deterministic_collection": True, "copies": 2},
    ],
)
def test_a_stack_of_seeds_equals_seeds_one_by_one(options) -> None:
    settings = {**SMALL, **options}
    together = OffPolicyMDPO(OffPolicyMDPOConfig(seeds=3, **settings)).improve(Pendulum, rng=4)
    for k in range(3):
        alone = OffPolicyMDPO(OffPolicyMDPOConfig(**settings)).improve(Pendulum, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


@pytest.mark.parametrize("source", ["environment", "log"])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, source) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    class Dying(OffPolicyMDPO):
        def update(self, batch):
            if self.updates == 33:
                raise KeyboardInterrupt
            return super().update(batch)

    Dying.__name__ = "OffPolicyMDPO"

    def run(kind, folder=None):
        learner = kind(OffPolicyMDPOConfig(seeds=2, clone_steps=5, **SMALL))
        given = {"folder": folder, "save_every": 15, "rng": 1}
        if source == "log":
            return learner.improve(log, low=-2, high=2, **given)
        return learner.improve(Pendulum, **given)

    whole = run(OffPolicyMDPO)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(OffPolicyMDPO, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics


def test_from_a_log_alone_the_first_anchor_is_a_clone_of_its_policy() -> None:
    log = pendulum_log("pendulum-weak", 2000)
    settings = {**SMALL, "hidden": (32, 32), "batch": 64, "steps": 1, "refresh": 1000}
    cloned = OffPolicyMDPO(OffPolicyMDPOConfig(clone_steps=400, **settings))
    cloned.improve(log, low=-2, high=2)
    raw = OffPolicyMDPO(OffPolicyMDPOConfig(clone_steps=0, **settings))
    raw.improve(log, low=-2, high=2)
    batch = cloned.draw()
    good, bad = (x.old.log_prob(batch.state, batch.action).mean().item() for x in (cloned, raw))
    assert good > bad + 0.5


@pytest.mark.slow
def test_with_the_full_pull_it_learns_to_swing_up() -> None:
    c = {"steps": 6500, "hidden": (64, 64), "batch": 128, "warmup": 500, "lr": 1e-3, "refresh": 250, "c": 1.0}
    policy = OffPolicyMDPO(OffPolicyMDPOConfig(**c)).improve(Pendulum)
    assert evaluate_policy(policy, Pendulum, starts=10).value > -300


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        OffPolicyMDPO().policy()
    with pytest.raises(ConfigError, match="below entropy_weight"):
        OffPolicyMDPOConfig(c=0.1)
    for bad in ({"c": 0.0}, {"entropy_weight": -0.1}, {"q": 2.5}, {"q": 0.5}, {"refresh": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            OffPolicyMDPOConfig(**bad)
    with pytest.raises(LogError, match="actions outside"):
        OffPolicyMDPO(OffPolicyMDPOConfig(**SMALL)).improve(
            pendulum_log("pendulum-mix", 2000), low=-1, high=1
        )

    class Endless(Pendulum):
        low = (-float("inf"),)

    with pytest.raises(ConfigError, match="finite bounds"):
        OffPolicyMDPO(OffPolicyMDPOConfig(**SMALL)).improve(Endless)


@pytest.mark.rl
def test_discrete_actions_are_refused() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(ConfigError, match="discrete actions"):
        OffPolicyMDPO(OffPolicyMDPOConfig(**SMALL)).improve("CartPole-v1")
