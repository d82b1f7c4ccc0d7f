"""Autoencoders of actions: the KL by hand, bounds, and what passes through."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from counterlog.core.action_vae import HIGH, LOW, ActionVAE, at_a_bound, kl_to_prior  # noqa: E402

pytestmark = pytest.mark.torch


def made(seeds=(0, 1)):
    return ActionVAE(3, 2, (8, 8), latent=4, seeds=seeds)


def test_the_kl_by_hand_and_against_torch() -> None:
    mean, log_std = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 0.0, math.log(0.5)])
    wanted = [0.0, 0.5, 0.5 * (0.25 + 4 - 1) + math.log(2)]
    assert kl_to_prior(mean, log_std).tolist() == pytest.approx(wanted)
    normal = torch.distributions.Normal
    other = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(0.0, 1.0))
    assert torch.allclose(kl_to_prior(mean, log_std), other)


def test_log_deviations_are_cut_and_counted() -> None:
    vae = made()
    state, action = torch.randn(2, 5, 3), torch.rand(2, 5, 2)
    with torch.no_grad():
        vae.encoder["bias2"][..., 4:6] = -100.0
        vae.encoder["bias2"][..., 6:8] = 100.0
    _, log_std = vae.posterior(state, action)
    assert log_std[..., :2].unique().tolist() == [LOW]
    assert log_std[..., 2:].unique().tolist() == [HIGH]
    assert at_a_bound(log_std).mean() == 1
    assert at_a_bound(torch.tensor([0.0, LOW])).tolist() == [0.0, 1.0]


def test_actions_lie_within_bounds_and_latents_of_the_prior_are_cut() -> None:
    vae = made()
    state = torch.randn(2, 7, 3)
    far = vae.from_prior(state, torch.full((2, 7, 4), 50.0))
    assert torch.equal(far, vae.decode(state, torch.full((2, 7, 4), 0.5)))
    assert far.abs().max() <= 1


def test_what_passes_through_is_the_mean_plus_noise_decoded_and_carries_a_gradient() -> None:
    vae = made()
    state, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    action = torch.rand(2, 5, 2, requires_grad=True)
    out = vae.passed(state, action, noise)
    mean, log_std = vae.posterior(state, action)
    assert torch.equal(out, vae.decode(state, mean + log_std.exp() * noise))
    (slope,) = torch.autograd.grad(out.sum(), action)
    assert float(slope.abs().min()) > 0


def test_seeds_do_not_depend_on_each_other() -> None:
    state, action, noise = torch.randn(1, 5, 3), torch.rand(1, 5, 2), torch.randn(1, 5, 4)
    alone = made((1,)).passed(state, action, noise)
    both = made().passed(state.repeat(2, 1, 1), action.repeat(2, 1, 1), noise.repeat(2, 1, 1))
    assert torch.allclose(alone[0], both[1], atol=1e-6)
