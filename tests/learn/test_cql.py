"""CQL: the gap and its gradient by hand, weight 0 is SAC, values fall where nobody logged, stack, resume, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.temperature import Temperature  # noqa: E402
from counterlog.datasets.pendulum import pendulum_log  # noqa: E402
from counterlog.learn.cql import CQL, CQLConfig, conservative_gap, soft_actor_loss  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (16, 16), "batch": 32, "steps": 30, "gamma": 0.97, "log_every": 10, "samples": 3}


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
    return CQL(CQLConfig(**SMALL)).fit(log, rng=1)


def test_the_gaps_gradient_is_softmax_minus_one_hot() -> None:
    q = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64, requires_grad=True)
    gap = conservative_gap(q.view(1, 1, 1, 3), q[1].view(1, 1, 1), 1.0)
    assert float(gap.detach()) == pytest.approx(math.log(math.e + math.e**2 + math.e**-0.5) - 2)
    grad = torch.autograd.grad(gap.sum(), q)[0]
    assert torch.allclose(
        grad, torch.softmax(q.detach(), 0) - torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-9
    )
    cold = conservative_gap(q.detach().view(1, 1, 1, 3), q[1].detach().view(1, 1, 1), 1e-3)
    assert float(cold) == pytest.approx(0.0, abs=1e-6)  # the largest value is the logged one


def test_actor_and_temperature_losses_by_hand() -> None:
    found = soft_actor_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 1.5]]), torch.tensor([0.1]))
    assert found.tolist() == pytest.approx([(0.1 - 0.5 + 0.3 - 1.5) / 2])
    t = Temperature((0, 1), target_entropy=-2.0, start=0.5)
    assert t.alpha.tolist() == pytest.approx([0.5, 0.5])
    loss = t.loss(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    assert loss.tolist() == pytest.approx([0.0, -math.log(0.5) * 3.0], abs=1e-6)


def learner(**changes):
    made = CQL(CQLConfig(**{**SMALL, **changes}))
    return made.start(made.prepare(pendulum_log("pendulum-mix", 2000), -2, 2), rng=1)


def test_sampled_values_hold_their_importance_terms() -> None:
    made = learner()
    batch = made.draw()
    with torch.no_grad():
        for leaf in made.critic.leaves.values():
            leaf.zero_()
    values = made.sampled_values(batch).detach()
    assert values.shape == (1, 2, 32, 9)
    assert torch.allclose(values[..., :3], torch.tensor(math.log(2.0)))  # 0 - log 0.5
    assert float(values[..., 3:].std()) > 0


def test_weight_zero_is_a_soft_actor_critic() -> None:
    """One update equals SAC's written out with plain autograd."""
    made, twin = learner(weight=0.0), learner(weight=0.0)
    batch = made.draw()
    made.update(batch)
    c = twin.config
    noise = [twin.noise.normal(32, 1) for _ in range(2)]
    action, log_prob = twin.actor.sample(batch.state, noise[0])
    with torch.no_grad():
        after, _ = twin.actor.sample(batch.next_state, noise[1])
        y = (
            batch.reward
            + c.gamma
            * (1 - batch.terminated)
            * twin.critic_target.values(batch.next_state, after).min(dim=1).values
        )
    q = twin.critic.values(batch.state, batch.action)
    critic = ((q[:, 0] - y) ** 2).mean(dim=1) + ((q[:, 1] - y) ** 2).mean(dim=1)
    actor = (log_prob - twin.critic.values(batch.state, action).min(dim=1).values).mean(
        dim=1
    )  # alpha begins at 1
    twin.actor_descent.step(actor)
    twin.critic_descent.step(critic)
    assert torch.allclose(made.actor.flat, twin.actor.flat, atol=1e-6)
    assert torch.allclose(made.critic.flat, twin.critic.flat, atol=1e-6)
    assert float(made.entropy.alpha) != 1.0


def test_values_of_actions_that_nobody_logged_are_pushed_down() -> None:
    gen = np.random.default_rng(0)
    n = 600
    log = Episodes(
        offsets=np.arange(n + 1),
        state=gen.normal(size=(n, 1)),
        action=gen.uniform(-1.0, -0.6, (n, 1)),
        reward=gen.normal(size=n),
        terminated=np.ones(n),
    )
    gaps = {}
    for weight in (0.0, 5.0):
        made = CQL(CQLConfig(hidden=(32,), batch=128, steps=400, weight=weight, lr=3e-3, samples=4))
        made.fit(log, low=-1, high=1)
        s = torch.zeros(1, 50, 1)
        logged = made.critic.values(s, torch.full((1, 50, 1), -0.8)).mean()
        other = made.critic.values(s, torch.linspace(0, 1, 50).view(1, 50, 1)).mean()
        gaps[weight] = float((logged - other).detach())
    assert gaps[5.0] > gaps[0.0] + 1


def test_the_lagrange_variant_tunes_its_weight() -> None:
    for threshold, rises in ((-50.0, True), (50.0, False)):
        policy = CQL(CQLConfig(**{**SMALL, "threshold": threshold, "lr": 3e-2})).fit(
            pendulum_log("pendulum-mix", 2000), low=-2, high=2
        )
        weights = [w for _, w in policy.report.curve("weight")[0]]
        assert (weights[-1] > weights[0]) == rises


def test_stack_and_resume(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    def fit(rng, seeds, kind=CQL, folder=None):
        return kind(CQLConfig(seeds=seeds, **SMALL)).fit(
            log, low=-2, high=2, rng=rng, folder=folder, save_every=7
        )

    class Dying(CQL):
        def update(self, batch):
            if self.updates == 25:
                raise KeyboardInterrupt
            return super().update(batch)

    Dying.__name__ = "CQL"
    both = fit(3, 2)
    assert float((both.take(1).actor.flat - fit(4, 1).actor.flat).abs().max()) < 1e-5
    with pytest.raises(KeyboardInterrupt):
        fit(3, 2, Dying, tmp_path)
    resumed = fit(3, 2, folder=tmp_path)
    assert torch.equal(both.actor.flat, resumed.actor.flat)
    assert both.report.metrics == resumed.report.metrics


def test_what_is_refused() -> None:
    discrete = Episodes(
        offsets=[0, 2], state=[0, 1], action=[0, 1], reward=[0, 1], truncated=[0, 1], final_state=[0]
    )
    with pytest.raises(ConfigError, match="continuous actions"):
        CQL(CQLConfig(**SMALL)).fit(discrete)
