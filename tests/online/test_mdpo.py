"""MDPO: closed forms on bandits, policy gradient and natural gradient as limits, Tsallis, options, stacks, resuming."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import normal_log_density  # noqa: E402
from counterlog.core.errors import ConfigError, NotFittedError  # noqa: E402
from counterlog.core.policy_distances import Outputs, categorical_kl, gaussian_kl, tsallis_divergence  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402
from counterlog.online.mdpo import (  # noqa: E402
    MDPO,
    MDPOConfig,
    mdpo_loss,
    mirror_step,
    projected_step,
    step_size,
    tsallis_penalty,
)

pytestmark = pytest.mark.torch
SMALL = {
    "hidden": (8, 8),
    "copies": 2,
    "horizon": 32,
    "value_batch": 16,
    "value_epochs": 2,
    "m": 3,
    "steps": 320,
}
PRIOR, GAIN = [0.2, 0.3, 0.5], [1.0, 0.0, -1.0]


def contract_example(frame):
    return MDPO(MDPOConfig(**SMALL)).improve(Pendulum, rng=1)


def exact(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def solved(penalty, t, prior, gain, steps=5000, lr=0.5):
    """A bandit's softmax policy by full gradients of <-p, A> + D / t."""
    logits = prior.log().clone().requires_grad_(True)
    for _ in range(steps):
        log_p = torch.log_softmax(logits, dim=-1)
        loss = penalty(log_p, prior.log()) / t - (log_p.exp() * gain).sum()
        (g,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= lr * min(1.0, t) * g
    return torch.softmax(logits, dim=-1).detach()


def test_gradient_steps_on_a_bandit_reach_the_closed_form() -> None:
    closed = mirror_step(exact(*PRIOR), exact(*GAIN), 1.0)
    assert closed.tolist() == pytest.approx([0.529056, 0.291944, 0.179000], abs=1e-6)
    found = solved(categorical_kl, 1.0, exact(*PRIOR), exact(*GAIN))
    assert (found - closed).abs().sum().item() / 2 < 1e-4


def test_q_two_projects_on_the_simplex_and_gives_sparse_policies() -> None:
    third = exact(1, 1, 1) / 3
    assert projected_step(third, exact(*GAIN), 1.0).tolist() == pytest.approx([0.75, 0.25, 0.0])
    gen = np.random.default_rng(0)
    for _ in range(20):  # the projection is the nearest: no other distribution does better on the objective
        prior, gain = torch.from_numpy(gen.dirichlet(np.ones(4))), torch.from_numpy(gen.normal(size=4))
        best = projected_step(prior, gain, 0.7)
        assert best.sum().item() == pytest.approx(1)
        others = torch.from_numpy(gen.dirichlet(np.ones(4), 200))

        def worth(p, prior=prior, gain=gain):
            return (p * gain).sum(-1) - (p - prior).square().sum(-1) / 0.7

        assert (worth(others) <= worth(best) + 1e-12).all()


def test_tsallis_q_two_gradients_go_towards_the_projection() -> None:
    third = exact(1, 1, 1) / 3
    found = solved(lambda p, r: tsallis_divergence(p, r, 2.0), 1.0, third, exact(*GAIN), lr=2.0)
    assert found.tolist() == pytest.approx(
        [0.75, 0.25, 0.0], abs=5e-3
    )  # softmax reaches a zero only in the limit


def test_the_first_step_is_the_policy_gradient_whatever_t() -> None:
    gen = torch.Generator().manual_seed(0)
    advantage = torch.randn(1, 50, generator=gen, dtype=torch.float64)
    mean = torch.randn(1, 50, 2, generator=gen, dtype=torch.float64).requires_grad_(True)
    log_std = (0.1 * torch.randn(1, 1, 2, generator=gen, dtype=torch.float64)).requires_grad_(True)
    action = mean.detach() + torch.randn(1, 50, 2, generator=gen, dtype=torch.float64)
    logits = torch.randn(1, 50, 3, generator=gen, dtype=torch.float64).requires_grad_(True)
    codes = torch.randint(3, (1, 50), generator=gen)
    for t in (0.01, 1.0, 7.0):
        log_p = normal_log_density(action, mean, log_std.expand_as(mean))
        kl = gaussian_kl(mean, log_std, mean.detach(), log_std.detach())
        loss = mdpo_loss((log_p - log_p.detach()).exp(), advantage, kl, t)
        plain = -(advantage * log_p).mean()
        for x in (mean, log_std):
            a, b = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (loss.sum(), plain))
            assert torch.allclose(a, b, atol=1e-10, rtol=0)
        log_all = torch.log_softmax(logits, dim=-1)
        chosen = log_all.gather(-1, codes[..., None])[..., 0]
        loss = mdpo_loss(
            (chosen - chosen.detach()).exp(), advantage, categorical_kl(log_all, log_all.detach()), t
        )
        a, b = (
            torch.autograd.grad(y, logits, retain_graph=True)[0]
            for y in (loss.sum(), -(advantage * chosen).mean())
        )
        assert torch.allclose(a, b, atol=1e-10, rtol=0)


def test_small_steps_are_the_natural_gradient() -> None:
    prior, gain, t = exact(*PRIOR), exact(0.4, -1.0, 0.3), 1e-3
    found = (solved(categorical_kl, t, prior, gain, steps=20_000) - prior) / t
    assert found.tolist() == pytest.approx((prior * (gain - (prior * gain).sum())).tolist(), abs=1e-3)


def test_step_sizes_fall_to_one_over_the_number_of_rounds() -> None:
    assert [step_size(k, 4, 1.0, "linear") for k in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert step_size(7, 8, 2.0, "linear") == pytest.approx(0.25)
    assert step_size(3, 4, 2.0, "constant") == 2.0


def test_the_sampled_tsallis_penalty_is_kl_for_q_one_on_average() -> None:
    gen = torch.Generator().manual_seed(0)
    old = Outputs(torch.zeros(1, 400_000, 1), torch.zeros(1, 400_000, 1))
    new = Outputs(torch.full((1, 400_000, 1), 0.3), torch.full((1, 400_000, 1), -0.1))
    action = torch.randn(1, 400_000, 1, generator=gen)
    found = tsallis_penalty(new, old, new.log_prob(action), old.log_prob(action), 1.0).mean()
    assert found.item() == pytest.approx(new.kl(old).mean().item(), abs=4e-3)


def test_the_two_directions_differ_and_the_small_step_limit_does_not() -> None:
    def run(**options):
        learner = MDPO(MDPOConfig(**{**SMALL, "lr": 1e-2, **options})).begin(Pendulum)
        found = learner.advance(1)
        return learner.actor.flat.clone(), found

    (a, _), (b, _) = run(direction="new_old"), run(direction="old_new")
    assert not torch.equal(a, b)
    (a, _), (b, _) = run(direction="new_old", m=1), run(direction="old_new", m=1)
    assert torch.allclose(a, b, atol=1e-7)


def test_a_heavier_penalty_keeps_the_policy_nearer() -> None:
    moved = [
        MDPO(MDPOConfig(**{**SMALL, "m": 40, "lr": 1e-2, "t": t}))
        .begin(Pendulum)
        .advance(1)["kl_new_old"]
        .item()
        for t in (1e-3, 1e-1, 10.0)
    ]
    assert moved[0] < moved[1] < moved[2]
    assert moved[0] < 1e-4


def test_constant_rewards_leave_the_policy_alone_with_a_warning() -> None:
    class Flat(Pendulum):
        def step(self, action):
            moved = super().step(action)
            return type(moved)(
                moved.next_state, 0 * moved.reward, moved.terminated, moved.truncated, moved.state
            )

    learner = MDPO(MDPOConfig(**{**SMALL, "normalise_rewards": False, "orthogonal": True})).begin(Flat)
    with torch.no_grad():  # a value of exactly 0 leaves no advantages at all
        learner.value.flat.zero_()
    before = learner.actor.flat.clone()
    with pytest.warns(UserWarning, match="all alike"):
        metrics = learner.advance(1)
    assert torch.equal(learner.actor.flat, before)
    assert all(torch.isfinite(v).all() for v in metrics.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 16, "direction": "old_new", "schedule": "constant"},
        {"divergence": "tsallis", "q": 1.5},
        {
            "normalise_states": False,
            "normalise_rewards": False,
            "clip_value": None,
            "orthogonal": False,
            "lam": 1.0,
        },
    ],
)
def test_a_stack_of_seeds_equals_seeds_one_by_one(options) -> None:
    settings = {**SMALL, **options}
    together = MDPO(MDPOConfig(seeds=3, **settings)).improve(Pendulum, rng=4)
    for k in range(3):
        alone = MDPO(MDPOConfig(**settings)).improve(Pendulum, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


@pytest.mark.rl
@pytest.mark.parametrize("env", ["pendulum", "CartPole-v1"])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, env) -> None:
    pytest.importorskip("gymnasium")
    world = Pendulum if env == "pendulum" else env

    class Dying(MDPO):
        def advance(self, step):
            if step == 4:
                raise KeyboardInterrupt
            return super().advance(step)

    Dying.__name__ = "MDPO"

    def run(kind, folder=None):
        return kind(MDPOConfig(seeds=2, **SMALL)).improve(world, rng=1, folder=folder, save_every=64)

    whole = run(MDPO)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(MDPO, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics
    with pytest.raises(ConfigError, match="another run"):  # t depends on the number of rounds
        MDPO(MDPOConfig(seeds=2, **{**SMALL, "steps": 640})).improve(world, rng=1, folder=tmp_path)


def test_the_minimal_preset_and_what_is_refused() -> None:
    plain = MDPOConfig.minimal(m=5)
    assert (plain.m, plain.lam, plain.normalise_states, plain.clip_value) == (5, 1.0, False, None)
    for bad in ({"t": 0.0}, {"m": 0}, {"q": 0.9}, {"q": 2.1}, {"direction": "both"}, {"divergence": "js"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            MDPOConfig(**bad)
    with pytest.raises(NotFittedError):
        MDPO().policy()
    with pytest.raises(ConfigError, match="batch of one row"):
        MDPO(MDPOConfig(**{**SMALL, "batch": 21})).improve(Pendulum)


@pytest.mark.rl
@pytest.mark.slow
def test_ten_steps_a_rollout_learn_more_than_one() -> None:
    pytest.importorskip("gymnasium")
    best = {
        m: np.mean(MDPO(MDPOConfig(m=m, seeds=2, steps=24_576)).improve("CartPole-v1").report.last("return"))
        for m in (1, 10)
    }
    assert best[10] > 2 * best[1]
