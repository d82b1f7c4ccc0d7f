"""Distances between policies: quadrature, Tsallis' limits, stable-baselines3's densities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

torch = pytest.importorskip("torch")

from counterlog.core.actor_heads import normal_log_density, squash_correction  # noqa: E402
from counterlog.core.policy_distances import (  # noqa: E402
    categorical_kl,
    gaussian_kl,
    tsallis_divergence,
    tsallis_log,
)

pytestmark = pytest.mark.torch


def exact(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_gaussian_kl_is_its_integral() -> None:
    x = np.linspace(-30, 30, 200_001)
    p, q = norm(0.3, 0.7), norm(-0.5, 1.9)
    wanted = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
    one = [exact(v).log() if i % 2 else exact(v) for i, v in enumerate([0.3, 0.7, -0.5, 1.9])]
    assert gaussian_kl(*one).item() == pytest.approx(wanted, abs=1e-9)
    two = [torch.cat([v, v]) for v in one]
    assert gaussian_kl(*two).item() == pytest.approx(2 * wanted, abs=1e-9)


def test_categorical_kl_by_hand_and_zero_for_equals() -> None:
    p, q = exact(0.5, 0.5).log(), exact(0.25, 0.75).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert categorical_kl(p, p).item() == 0


def test_tsallis_is_kl_at_one_and_the_squared_distance_at_two() -> None:
    p, r = exact(0.2, 0.3, 0.5), exact(0.5, 0.1, 0.4)
    kl = categorical_kl(p.log(), r.log()).item()
    assert abs(tsallis_divergence(p.log(), r.log(), 1.001).item() - kl) < 3e-3
    assert tsallis_divergence(p.log(), r.log(), 1.0).item() == pytest.approx(kl)
    assert tsallis_divergence(p.log(), r.log(), 2.0).item() == pytest.approx((p - r).square().sum().item())
    assert tsallis_log(exact(np.log(0.3)), 1 + 1e-9).item() == pytest.approx(np.log(0.3), abs=1e-8)
    for q in (1.0, 1.3, 1.7, 2.0):
        assert tsallis_divergence(p.log(), p.log(), q).item() == pytest.approx(0, abs=1e-15)
        assert tsallis_divergence(p.log(), r.log(), q).item() > 0


@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_the_squashed_density_integrates_to_one_and_is_finite_far_out(std) -> None:
    u = torch.linspace(-30, 30, 400_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.full_like(u, 0.2), torch.full_like(u, float(np.log(std)))
    log_p = normal_log_density(u, mean, log_std) - squash_correction(u)
    slope = 1 - torch.tanh(u[:, 0]).square()
    assert torch.trapezoid(log_p.exp() * slope, u[:, 0]).item() == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(log_p).all()
