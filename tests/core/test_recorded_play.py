"""Recorded play: exact probabilities of sampled actions, atoms at the bounds included."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import Actor, Head  # noqa: E402
from counterlog.core.environments import record_episodes  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.neural_policies import NeuralPolicy  # noqa: E402
from counterlog.core.recorded_play import cut_normal, playing  # noqa: E402
from counterlog.core.scaling import ActionBounds, StateScale  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402

pytestmark = pytest.mark.torch


def policy(kind, actions=1):
    head = Head(kind, squash_mean=False)
    bounds = None if kind == "categorical" else ActionBounds((-2.0,) * actions, (2.0,) * actions)
    actor = Actor(3, (8,), actions, seeds=(0, 1), head=head).frozen()
    return NeuralPolicy(actor=actor, scale=StateScale((0.0,) * 3, (1.0,) * 3), bounds=bounds)


def test_a_cut_normal_by_hand() -> None:
    u = np.array([[-1.5], [0.2], [3.0]])
    found = cut_normal(u, np.full((3, 1), 0.1), np.full((3, 1), 0.5))
    dist = norm(0.1, 0.5)
    assert found == pytest.approx([dist.logcdf(-1), dist.logpdf(0.2), dist.logsf(1)])


@pytest.mark.parametrize("kind", ["gaussian", "tanh_gaussian"])
def test_recorded_densities_say_how_often_actions_fall_anywhere(kind) -> None:
    """E[1/p over a cell of the action space] is the cell's size: importance weights to the uniform are right."""
    one, n = policy(kind), 200_000
    state = np.tile(Pendulum(1).reset(0), (n, 1))
    action, log_p = playing(one, seed=1)(state, np.random.default_rng(0))
    inside = (action > -1.5) & (action < 1.0)
    assert (inside[:, 0] * np.exp(-log_p)).mean() == pytest.approx(2.5, rel=0.03)
    if kind == "gaussian":
        at_end = action[:, 0] == 2.0
        assert at_end.mean() == pytest.approx(np.exp(log_p[at_end][0]), abs=4e-3)
    else:
        assert log_p[:50] == pytest.approx(one.log_density(state[:50], action[:50], seed=1), abs=2e-3)


def test_recorded_choices_have_the_policys_probabilities() -> None:
    one = policy("categorical", 4)
    state = np.random.default_rng(0).normal(size=(5000, 3))
    code, log_p = playing(one)(state, np.random.default_rng(1))
    p = one.probs(state)
    assert np.exp(log_p) == pytest.approx(p[np.arange(5000), code], abs=1e-6)
    assert np.bincount(code, minlength=4) / 5000 == pytest.approx(p.mean(axis=0), abs=0.03)


def test_a_log_of_a_learnt_policy_has_propensities() -> None:
    log = record_episodes(Pendulum(3), playing(policy("gaussian")), rng=0, rounds=2)
    assert (log.n, log.rows) == (6, 1200)
    assert log.log_propensity is not None
    assert np.isfinite(log.log_propensity).all()
    assert np.abs(log.action).max() <= 2


def test_a_deterministic_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="no probabilities"):
        playing(policy("tanh"))
