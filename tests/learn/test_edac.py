"""EDAC: likeness by hand and by loops, SAC-N as a limit, gradients that spread, stack, resume, refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.datasets.pendulum import pendulum_log  # noqa: E402
from counterlog.learn.edac import EDAC, EDACConfig, likeness  # noqa: E402

SMALL = {"hidden": (16, 16), "batch": 32, "steps": 30, "gamma": 0.97, "log_every": 10, "critics": 4}

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
    return EDAC(EDACConfig(**SMALL)).fit(log, rng=1)


def test_stack_and_resume(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    def fit(rng, seeds, kind=EDAC, folder=None):
        return kind(EDACConfig(seeds=seeds, **SMALL)).fit(
            log, low=-2, high=2, rng=rng, folder=folder, save_every=7
        )

    class Dying(EDAC):
        def update(self, batch):
            if self.updates == 25:
                raise KeyboardInterrupt
            return super().update(batch)

    Dying.__name__ = "EDAC"
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
        EDAC(EDACConfig(**SMALL)).fit(discrete)


def test_likeness_by_hand_and_by_loops() -> None:
    same = torch.tensor([[[[3.0, 4.0]], [[6.0, 8.0]]]])
    assert likeness(same).tolist() == pytest.approx([2.0])
    assert likeness(torch.tensor([[[[1.0, 0.0]], [[-5.0, 0.0]]]])).tolist() == pytest.approx([-2.0])
    g = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    unit = g / g.norm(dim=3, keepdim=True)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    dots = [
        [sum(float(unit[s, i, b] @ unit[s, j, b]) for i, j in pairs) / 4 for b in range(7)] for s in range(2)
    ]
    expected = np.mean(dots, axis=1).tolist()
    assert likeness(g).tolist() == pytest.approx(expected, abs=1e-5)


def learner(**changes):
    made = EDAC(EDACConfig(**{**SMALL, **changes}))
    return made.start(made.prepare(pendulum_log("pendulum-mix", 2000), -2, 2), rng=1)


def test_eta_zero_is_sac_n() -> None:
    """The loss without diversity, and that of a vanishing eta through the second derivatives, take one step."""
    plain, tiny = learner(eta=0.0), learner(eta=1e-12)
    for _ in range(5):
        batch = plain.draw()
        plain.update(batch)
        tiny.update(batch)
    assert torch.allclose(plain.critic.flat, tiny.critic.flat, atol=1e-6)
    assert torch.allclose(plain.actor.flat, tiny.actor.flat, atol=1e-6)


def test_the_diversity_term_spreads_the_critics_gradients() -> None:
    gen = np.random.default_rng(0)
    log = Episodes(
        offsets=np.arange(0, 501, 50),
        state=gen.normal(size=(500, 2)),
        action=gen.uniform(-1, 1, (500, 3)),
        reward=gen.normal(size=500),
        truncated=np.arange(500) % 50 == 49,
    )
    ends = {}
    for eta in (0.001, 10.0):
        made = EDAC(EDACConfig(**{**SMALL, "eta": eta, "lr": 3e-3}))
        made.start(made.prepare(log))
        for _ in range(80):
            metrics = made.update(made.draw())
        ends[eta] = float(metrics["likeness"][0])
    assert ends[10.0] < ends[0.001] - 0.3


def test_one_critic_cannot_differ() -> None:
    with pytest.raises(ConfigError, match="nothing to differ from"):
        learner(critics=1)
    assert learner(critics=1, eta=0.0).draw().shape == (1, 32)
