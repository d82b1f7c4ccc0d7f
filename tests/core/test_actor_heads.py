"""Heads: densities integrate to one, stay finite at the ends, and samples agree with them."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import Actor, Head, normal_log_density, squash_correction  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.torch


def constant(head, outputs, actions=1):
    """An actor whose raw outputs are these numbers whatever the state."""
    actor = Actor(2, (), actions, seeds=(0,), head=head)
    with torch.no_grad():
        actor["weight0"].zero_()
        actor["bias0"].copy_(torch.tensor(outputs).view(1, 1, -1))
    return actor.frozen()


@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_the_tanh_gaussian_density_integrates_to_one(std) -> None:
    actor = constant(Head("tanh_gaussian"), [0.3, math.log(std)])
    edges = torch.tanh(torch.linspace(-9, 9, 400_001, dtype=torch.float64))  # dense at the ends
    middle = ((edges[1:] + edges[:-1]) / 2).float().clamp(-1 + 1e-6, 1 - 1e-6)
    density = actor.log_prob(torch.zeros(1, len(middle), 2), middle[None, :, None])[0].exp().detach().double()
    assert float((density * (edges[1:] - edges[:-1])).sum()) == pytest.approx(1.0, abs=2e-4)


def test_the_squash_correction_is_log_one_minus_tanh_squared_and_finite_far_out() -> None:
    u = torch.linspace(-4, 4, 33, dtype=torch.float64)[:, None]
    assert torch.allclose(squash_correction(u), torch.log1p(-(torch.tanh(u[:, 0]) ** 2)), atol=1e-12)
    far = squash_correction(torch.tensor([[30.0], [-30.0]]))
    assert far.tolist() == pytest.approx([2 * (math.log(2) - 30)] * 2)


def test_a_sample_has_the_log_density_that_log_prob_gives() -> None:
    for head in (Head("tanh_gaussian", scale=1.0, shift=-1.0), Head("gaussian")):
        actor = Actor(3, (8,), 2, seeds=(0, 1), head=head)
        state, noise = torch.randn(2, 50, 3), torch.randn(2, 50, 2)
        action, log_p = actor.sample(state, noise)
        assert torch.allclose(log_p, actor.log_prob(state, action), atol=2e-3)
        mean, log_std = actor.moments(state)
        u = mean + log_std.exp() * noise
        expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(dim=-1)
        assert torch.allclose(normal_log_density(u, mean, log_std), expected, atol=1e-5)


def test_categorical_samples_follow_their_probabilities() -> None:
    actor = constant(Head("categorical"), [0.0, 1.0, 2.0], actions=3)
    state = torch.zeros(1, 30_000, 2)
    code, log_p = actor.sample(state, torch.rand(1, 30_000, generator=torch.Generator().manual_seed(0)))
    p = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert np.bincount(code[0].numpy()) / 30_000 == pytest.approx(p, abs=0.01)
    assert torch.allclose(log_p[0].exp(), torch.tensor(p, dtype=torch.float32)[code[0]], atol=1e-6)
    assert int(actor.mode(state)[0, 0]) == 2
    ends, _ = actor.sample(state[:, :2], torch.tensor([[0.0, 1.0]]))
    assert ends.tolist() == [[0, 2]]
    assert torch.allclose(actor.probs(state)[0, 0], torch.tensor(p, dtype=torch.float32))


def test_log_std_is_held_in_its_bounds_and_modes_ignore_it() -> None:
    actor = constant(Head("tanh_gaussian", low=-5, high=2), [0.5, 99.0])
    assert float(actor.moments(torch.zeros(1, 1, 2))[1]) == 2.0
    assert float(actor.mode(torch.zeros(1, 1, 2))) == pytest.approx(math.tanh(0.5))
    raw = constant(Head("gaussian", squash_mean=False), [3.0])
    assert float(raw.mode(torch.zeros(1, 1, 2))) == pytest.approx(3.0)
    assert float(constant(Head("tanh"), [0.5]).mode(torch.zeros(1, 1, 2))) == pytest.approx(math.tanh(0.5))


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="head 'beta'"):
        Head("beta")
    with pytest.raises(ConfigError, match="no Gaussian"):
        Actor(2, (4,), 1, seeds=(0,)).log_prob(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1))


def test_a_greedy_head_takes_the_largest_output_and_is_sure() -> None:
    actor = constant(Head("greedy"), [1.0, 3.0, 2.0], actions=3)
    state = torch.zeros(1, 2, 2)
    assert actor.mode(state).tolist() == [[1, 1]]
    assert actor.probs(state).tolist() == [[[0.0, 1.0, 0.0]] * 2]
    code, log_p = actor.sample(state, torch.rand(1, 2))
    assert code.tolist() == [[1, 1]] and log_p.tolist() == [[0.0, 0.0]]
    assert actor.log_prob(state, torch.tensor([[1, 0]])).tolist() == [[0.0, -math.inf]]


def test_an_allowed_head_looks_only_at_likely_actions() -> None:
    logits = [math.log(0.6), math.log(0.3), math.log(0.1)]
    state = torch.zeros(1, 1, 2)
    for threshold, best in ((0.0, 2), (0.3, 1), (0.6, 0)):
        actor = constant(Head("allowed", threshold=threshold), [1.0, 2.0, 3.0, *logits], actions=3)
        assert actor.mode(state).tolist() == [[best]]
        assert actor.probs(state)[0, 0].argmax().item() == best
