"""ReBRAC: distances by hand, TD3+BC as a limit, the penalty in the target, stack, resume, refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.datasets.pendulum import pendulum_log  # noqa: E402
from counterlog.learn.rebrac import ReBRAC, ReBRACConfig, distance  # noqa: E402
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig  # noqa: E402

SMALL = {"hidden": (16, 16), "batch": 32, "steps": 40, "gamma": 0.97, "log_every": 10}

pytestmark = pytest.mark.torch


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
    return ReBRAC(ReBRACConfig(**SMALL)).fit(log, rng=1)


def test_stack_and_resume(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    def fit(rng, seeds, kind=ReBRAC, folder=None):
        return kind(ReBRACConfig(seeds=seeds, **SMALL)).fit(
            log, low=-2, high=2, rng=rng, folder=folder, save_every=7
        )

    class Dying(ReBRAC):
        def update(self, batch):
            if self.updates == 25:
                raise KeyboardInterrupt
            return super().update(batch)

    Dying.__name__ = "ReBRAC"
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
        ReBRAC(ReBRACConfig(**SMALL)).fit(discrete)


def test_distances_are_summed_over_dimensions() -> None:
    a, b = torch.tensor([[[0.5, 1.0]]]), torch.tensor([[[0.0, -1.0]]])
    assert distance(a, b).tolist() == [[4.25]]


def test_without_its_additions_it_is_td3_bc() -> None:
    """No critic pull, the first critic, no normalisation; with one action dimension a sum is a mean."""
    log = pendulum_log("pendulum-mix", 2000)
    base = TD3BC(TD3BCConfig(alpha=1.0, seeds=2, **SMALL))
    base.start(base.prepare(log, -2, 2), rng=1)
    plain = {"critic_pull": 0.0, "actor_pull": 1.0, "actor_q": "first", "layer_norm": False, "states": "td3"}
    ours = ReBRAC(ReBRACConfig(seeds=2, lr=base.config.lr, **plain, **SMALL))
    ours.start(ours.prepare(log, -2, 2), rng=1)
    ours.noise = type(base.smoothing)(base.seeds, "target noise")
    for _ in range(20):
        batch = base.draw()
        base.update(batch)
        ours.update(batch)
    assert torch.allclose(base.critic.flat, ours.critic.flat, atol=1e-6)
    assert torch.allclose(base.actor.flat, ours.actor.flat, atol=1e-6)


def test_the_penalty_lowers_the_target_by_the_distance() -> None:
    """Terminated rows carry no penalty; others carry gamma times it."""
    log = pendulum_log("pendulum-mix", 2000)
    losses = {}
    for pull in (0.0, 1e4):
        made = ReBRAC(ReBRACConfig(critic_pull=pull, **SMALL))
        made.start(made.prepare(log, -2, 2))
        batch = made.draw()
        losses[pull] = float(made.update(batch)["critic_loss"][0])
        ended = made.start(made.data, rng=0).update(batch.with_(terminated=torch.ones(1, 32)))
        losses[pull, "ended"] = float(ended["critic_loss"][0])
    assert losses[1e4] > 100 * losses[0.0]
    assert losses[1e4, "ended"] == pytest.approx(losses[0.0, "ended"], rel=1e-6)
