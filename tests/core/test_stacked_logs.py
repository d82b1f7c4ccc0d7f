"""One stack over several logs: each seed learns from its own log alone."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.stacked_logs import fit_logs  # noqa: E402
from counterlog.datasets.pendulum import joined  # noqa: E402
from counterlog.learn.bc import BC, BCConfig  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402

pytestmark = pytest.mark.torch


def one_action(action: int, rows: int = 60) -> Episodes:
    """Everybody took this action, which paid its own number."""
    return Episodes(
        offsets=np.arange(rows + 1),
        state=np.random.default_rng(action).normal(size=(rows, 2)),
        action=np.full(rows, action),
        reward=np.full(rows, 1.0 + action),
        terminated=np.ones(rows, bool),
        final_state=np.zeros((rows, 2)),
        actions=3,
    )


def test_every_seed_clones_its_own_log() -> None:
    logs = [one_action(0, 30), one_action(1, 90), one_action(2, 60)]
    owner = np.repeat(np.arange(3), [log.n for log in logs])
    learner = BC(BCConfig(seeds=3, hidden=(16,), batch=32, steps=200, lr=1e-2))
    seen = []
    history = fit_logs(
        learner,
        joined(*logs),
        owner,
        evaluate=lambda policy: {"first": policy.act_stacked(np.zeros((3, 1, 2)))[:, 0].astype(float)},
        evaluate_every=100,
        progress=lambda what, share: seen.append(share),
    )
    policy = learner.policy()
    for k in range(3):
        assert set(policy.act(logs[k].state, seed=k).tolist()) == {k}
    assert [r["step"] for r in history.evaluations] == [100] * 3 + [200] * 3
    values = DQN(DQNConfig(seeds=3, hidden=(16,), batch=32, steps=1500, lr=1e-2))
    fit_logs(values, joined(*logs), owner)
    found = values.critic(torch.zeros(3, 1, 2))[:, 0].detach()
    assert [float(found[k, k]) for k in range(3)] == pytest.approx([1.0, 2.0, 3.0], abs=0.1)


def test_seeds_and_logs_must_match() -> None:
    log = joined(one_action(0), one_action(1))
    learner = BC(BCConfig(seeds=3, hidden=(16,), batch=32, steps=2))
    with pytest.raises(ConfigError, match="2 logs of 120 trajectories for 3 seeds"):
        fit_logs(learner, log, np.repeat([0, 1], 60))
    with pytest.raises(ConfigError, match="side by side"):
        fit_logs(BC(BCConfig(seeds=2, hidden=(8,))), log, np.tile([0, 1], 60))
    with pytest.raises(ConfigError, match="log 1 has no step"):
        fit_logs(learner, log, np.repeat([0, 2], 60))
