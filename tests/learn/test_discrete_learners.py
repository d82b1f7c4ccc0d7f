"""What every learner of discrete actions must do: learn, stack, go on after a stop, save, refuse."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, two_armed  # noqa: E402

from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.learn.bve import BVE, BVEConfig  # noqa: E402
from counterlog.learn.discrete_bcq import DiscreteBCQ, DiscreteBCQConfig  # noqa: E402
from counterlog.learn.discrete_cql import DiscreteCQL, DiscreteCQLConfig  # noqa: E402
from counterlog.learn.discrete_crr import DiscreteCRR, DiscreteCRRConfig  # noqa: E402
from counterlog.learn.dqn import DQN, DQNConfig  # noqa: E402
from counterlog.learn.mce import MCE, MCEConfig  # noqa: E402
from counterlog.learn.qr_dqn import QRDQN, QRDQNConfig  # noqa: E402
from counterlog.learn.rem import REM, REMConfig  # noqa: E402

pytestmark = pytest.mark.torch
KINDS = (
    (BVE, BVEConfig),
    (DiscreteBCQ, DiscreteBCQConfig),
    (DiscreteCQL, DiscreteCQLConfig),
    (DiscreteCRR, DiscreteCRRConfig),
    (DQN, DQNConfig),
    (MCE, MCEConfig),
    (QRDQN, QRDQNConfig),
    (REM, REMConfig),
)
LEARNERS = pytest.mark.parametrize(("kind", "config"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])


@LEARNERS
def test_the_better_action_is_found_and_stacks_equal_loops(kind, config) -> None:
    log = two_armed()
    policy = kind(config(**{**SMALL, "steps": 400, "seeds": 2})).fit(log, rng=3)
    for seed in range(2):
        assert policy.act(log.state[:50], seed=seed).mean() > 0.9
    alone = kind(config(**{**SMALL, "steps": 400})).fit(log, rng=4)
    assert np.array_equal(alone.act(log.state[:200]), policy.act(log.state[:200], seed=1))
    probs = policy.probs(log.state[:5])
    assert probs.sum(axis=1) == pytest.approx(np.ones(5))


@LEARNERS
def test_a_stopped_run_goes_on_to_the_same_policy_and_policies_are_saved(kind, config, tmp_path) -> None:
    from counterlog.core.neural_policies import NeuralPolicy

    log = two_armed(80)
    make = lambda steps: kind(config(**{**SMALL, "steps": steps}))  # noqa: E731
    make(20).fit(log, folder=tmp_path / "run")
    again, straight = make(40).fit(log, folder=tmp_path / "run"), make(40).fit(log)
    for name, leaf in straight.actor.leaves.items():
        assert torch.equal(leaf, again.actor.leaves[name])
    loaded = NeuralPolicy.load(straight.save(tmp_path / "policy.safetensors"))
    assert np.array_equal(loaded.act(log.state), straight.act(log.state))
    assert np.array_equal(loaded.probs(log.state), straight.probs(log.state))


@LEARNERS
def test_logs_that_it_cannot_learn_from_are_refused(kind, config) -> None:
    log = two_armed(20)
    parts = {k: getattr(log, k) for k in ("offsets", "state", "action", "reward", "terminated")}
    continuous = Episodes(**{**parts, "action": np.zeros((20, 1))})
    with pytest.raises(ConfigError, match="needs discrete actions"):
        kind(config(**SMALL)).fit(continuous)
    flat = Episodes(**{**parts, "reward": np.zeros(20)}, actions=2)
    with pytest.raises(SupportError, match="every reward is 0"):
        kind(config(**SMALL)).fit(flat)
