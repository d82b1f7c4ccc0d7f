"""TRPO: conjugate gradients by hand, a natural step on a bandit, the bound on every step, stacks, resuming."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.errors import ConfigError, NotFittedError  # noqa: E402
from counterlog.core.policy_distances import Outputs  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402
from counterlog.online.trpo import TRPO, TRPOConfig, conjugate_gradient, flat  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (8, 8), "copies": 2, "horizon": 32, "value_batch": 16, "value_epochs": 2, "steps": 320}


def contract_example(frame):
    return TRPO(TRPOConfig(**SMALL)).improve(Pendulum, rng=1)


def test_conjugate_gradients_solve_each_seeds_own_system() -> None:
    gen = np.random.default_rng(0)
    half = torch.from_numpy(gen.normal(size=(3, 6, 6)))
    matrix = half @ half.transpose(1, 2) + 0.5 * torch.eye(6)
    g = torch.from_numpy(gen.normal(size=(3, 6)))
    g[2] = 0  # a seed that has nothing to do stays at zero, without NaN
    x = conjugate_gradient(lambda v: (matrix @ v[..., None])[..., 0], g, 30)
    assert torch.allclose(x, torch.linalg.solve(matrix, g), atol=1e-6)


def test_a_step_is_the_natural_gradient_of_the_whole_rollout() -> None:
    """Against F built column by column: x = F^-1 g, of the length that the bound allows."""
    c = TRPOConfig(**{**SMALL, "hidden": (3,), "iterations": 200, "damping": 1e-3, "limit": 1e-5})
    learner = TRPO(c).begin(Pendulum)
    batch = learner.collect()
    advantage = batch.advantage
    leaves = list(learner.actor.leaves.values())
    new = Outputs.of(learner.actor, batch.state)
    gain = (new.log_prob(batch.action) * advantage).mean(dim=1)
    g = flat(torch.autograd.grad(gain.sum(), leaves, retain_graph=True))[0].double()
    slope = flat(torch.autograd.grad(new.detach().kl(new).mean(dim=1).sum(), leaves, create_graph=True))[0]
    rows = [flat(torch.autograd.grad(s, leaves, retain_graph=True))[0] for s in slope]
    fisher = torch.stack(rows).double() + c.damping * torch.eye(len(rows))
    x = torch.linalg.solve(fisher, g)
    wanted = x * torch.sqrt(2 * c.limit / (x @ fisher @ x))
    before = flat([leaf.detach() for leaf in leaves])[0].clone()
    metrics = learner.step_policy(batch, advantage, 1)
    moved = (flat([leaf.detach() for leaf in leaves])[0] - before).double()
    assert metrics["share_of_longest"].item() in (1.0, pytest.approx(0.8))
    scale = metrics["share_of_longest"].item()
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0).item() > 0.999
    assert moved.norm().item() == pytest.approx(scale * wanted.norm().item(), rel=0.02)


def test_no_step_leaves_the_region_and_each_gains() -> None:
    learner = TRPO(TRPOConfig(**{**SMALL, "limit": 0.05})).begin(Pendulum)
    for step in range(1, 6):
        found = learner.advance(step)
        assert 0 <= found["kl_old_new"].item() <= 0.05
        assert found["beyond"].item() == 0
        assert found["gain"].item() > 0 or found["share_of_longest"].item() == 0


def test_a_stack_of_seeds_equals_seeds_one_by_one() -> None:
    together = TRPO(TRPOConfig(seeds=3, **SMALL)).improve(Pendulum, rng=4)
    for k in range(3):
        alone = TRPO(TRPOConfig(**SMALL)).improve(Pendulum, rng=4 + k)
        assert (
            float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-3
        )  # ten products amplify


def test_a_killed_run_resumes_to_the_same_result(tmp_path) -> None:
    class Dying(TRPO):
        def advance(self, step):
            if step == 4:
                raise KeyboardInterrupt
            return super().advance(step)

    Dying.__name__ = "TRPO"

    def run(kind, folder=None):
        return kind(TRPOConfig(seeds=2, **SMALL)).improve(Pendulum, rng=1, folder=folder, save_every=64)

    whole = run(TRPO)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(TRPO, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        TRPO().policy()
    with pytest.raises(ConfigError, match="shrink"):
        TRPOConfig(shrink=1.0)
    with pytest.raises(ConfigError, match="batch of one row"):
        TRPO(TRPOConfig(**{**SMALL, "value_batch": 21})).improve(Pendulum)

    class Endless(Pendulum):
        high = (float("inf"),)

    with pytest.raises(ConfigError, match="finite bounds"):
        TRPO(TRPOConfig(**SMALL)).improve(Endless)


@pytest.mark.rl
@pytest.mark.slow
def test_it_learns_to_balance_a_pole() -> None:
    pytest.importorskip("gymnasium")
    policy = TRPO(TRPOConfig(seeds=2, steps=24_576)).improve("CartPole-v1")
    assert min(policy.report.last("return")) > 100
