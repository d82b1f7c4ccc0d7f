"""Scores: D4RL's references, the interquartile mean, intervals over seeds, policies that are saved and act."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import Actor, Head  # noqa: E402
from counterlog.core.errors import ConfigError, CounterlogError, LogError, SupportError  # noqa: E402
from counterlog.core.neural_policies import NeuralPolicy  # noqa: E402
from counterlog.core.rl_evaluation import (  # noqa: E402
    PolicyScore,
    evaluate_policy,
    interquartile_mean,
    iqm_interval,
    normalised_score,
    reference_of,
    score_callback,
)
from counterlog.core.scaling import ActionBounds, StateScale  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402

pytestmark = pytest.mark.torch


def policy(head="tanh", seeds=(0, 1, 2), actions=1):
    actor = Actor(3, (8,), actions, seeds=seeds, head=Head(head)).frozen()
    bounds = None if head == "categorical" else ActionBounds((-2.0,), (2.0,))
    return NeuralPolicy(actor, StateScale((0.0, 0.0, 0.5), (1.0, 1.0, 4.0)), bounds, origin={"log": "abc"})


def test_normalised_scores_are_d4rls() -> None:
    assert normalised_score([-20.272305, 3234.3], "hopper-medium-v2").tolist() == pytest.approx([0, 100])
    assert reference_of("maze2d-umaze-v1") == (23.85, 161.86)
    assert reference_of("maze2d-umaze-dense-v1") == (68.537689, 193.66285642)
    assert reference_of("antmaze-large-diverse-v2") == (0, 1)
    assert normalised_score(5, (0, 10)) == 50
    for unknown in ("Hopper-v5", "chess", "hopperish"):
        with pytest.raises(SupportError, match="no reference returns"):
            reference_of(unknown)
    with pytest.raises(ConfigError, match="worst below best"):
        normalised_score(1, (2, 2))


def test_the_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert interquartile_mean([0, 1, 2, 3, 100, -50, 4, 5]) == pytest.approx((1 + 2 + 3 + 4) / 4)
    value, low, high = iqm_interval([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]], rng=1)
    assert value == pytest.approx(np.mean([3, 4, 10, 20]))
    assert low < value < high
    assert iqm_interval([5.0, 5.0]) == (5.0, 5.0, 5.0)
    with pytest.raises(SupportError, match="one seed"):
        iqm_interval([1.0])
    with pytest.raises(LogError, match="finite"):
        iqm_interval([1.0, math.nan])


def test_the_interval_covers_the_mean_of_a_symmetric_law() -> None:
    gen = np.random.default_rng(0)
    ends = [iqm_interval(gen.normal(size=12), replicates=300, rng=i) for i in range(200)]
    assert np.mean([low <= 0 <= high for _, low, high in ends]) > 0.85


def test_all_seeds_play_the_same_starts_and_a_seed_alone_scores_the_same() -> None:
    p = policy()
    score = evaluate_policy(p, Pendulum, starts=4, gamma=0.97, references=(-1600, 0))
    assert score.n == 12
    for k in range(3):
        alone = evaluate_policy(p.take(k), Pendulum, starts=4, gamma=0.97)
        assert alone.returns[0] == pytest.approx(score.returns[k], rel=1e-3)
    assert score.low <= score.value <= score.high
    assert score.normalised[0] == pytest.approx((score.returns[0] + 1600) / 16)
    assert score_callback(Pendulum, starts=4)(p)["mean_return"].tolist() == pytest.approx(list(score.returns))
    claimed = evaluate_policy(p, Pendulum, starts=4, gamma=0.97, value_at=lambda s: np.zeros((3, len(s))))
    assert claimed.overestimate == pytest.approx([-d for d in claimed.discounted])


def test_a_score_saves(tmp_path) -> None:
    score = evaluate_policy(policy(), Pendulum, starts=2)
    assert PolicyScore.load(score.save(tmp_path / "s.json")) == score
    assert score.to_frame().height == 3


@pytest.mark.parametrize(
    ("head", "actions"), [("tanh", 1), ("tanh_gaussian", 1), ("gaussian", 1), ("categorical", 4)]
)
def test_a_policy_acts_the_same_after_it_was_saved(head, actions, tmp_path) -> None:
    p = policy(head, actions=actions)
    again = NeuralPolicy.load(p.save(tmp_path / "p.safetensors"))
    states = np.random.default_rng(0).normal(size=(7, 3))
    assert np.array_equal(p.act(states, seed=1), again.act(states, seed=1))
    assert np.array_equal(p.act(states, rng=4), again.act(states, rng=4))
    assert again.seeds == p.seeds
    assert again.scale == p.scale
    stacked = p.act_stacked(np.tile(states, (3, 1, 1)))
    assert np.allclose(stacked[1], p.act(states, seed=1), atol=1e-5)


def test_a_density_in_the_environments_units_integrates_to_one() -> None:
    p = policy("tanh_gaussian")
    torque = np.linspace(-2 + 1e-5, 2 - 1e-5, 40_001)[:, None]
    density = np.exp(p.log_density(np.zeros((40_001, 3)), torque, seed=2))
    assert float(density.sum() * 4 / 40_001) == pytest.approx(1.0, abs=0.02)
    probs = policy("categorical", actions=3).probs(np.zeros((2, 3)))
    assert probs.sum(axis=1) == pytest.approx([1, 1])


def test_what_a_policy_refuses(tmp_path) -> None:
    with pytest.raises(SupportError, match="state column 2 of row 0"):
        policy().act([[0.0, 0.0, 1e6]])
    with pytest.raises(ConfigError, match="no density"):
        policy().log_density(np.zeros((1, 3)), np.zeros((1, 1)))
    with pytest.raises(ConfigError, match="no probabilities"):
        policy().probs(np.zeros((1, 3)))
    with pytest.raises(LogError, match="states of shape"):
        policy().act(np.zeros((1, 4)))
    with pytest.raises(SupportError, match="learnt from log abc"):
        policy().check_log("def")
    (tmp_path / "x").write_bytes(b"not a policy")
    with pytest.raises(CounterlogError, match="not a saved neural policy"):
        NeuralPolicy.load(tmp_path / "x")
