"""QR-DQN: its loss by hand, its gradient, the quantiles of a known distribution, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped  # noqa: E402

from counterlog.core.discrete_values import huber  # noqa: E402
from counterlog.learn.qr_dqn import QRDQN, QRDQNConfig, picked, quantile_loss  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return QRDQN(QRDQNConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(QRDQN(QRDQNConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0].unflatten(-1, (1, -1)).mean(dim=-1)
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=0.01)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0].unflatten(-1, (1, -1)).mean(dim=-1)
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def plain_loss(theta, target, official=False):
    """Equation (3) term by term."""
    k = theta.shape[-1]
    total = 0.0
    for i in range(k):
        for j in range(k):
            u = target[..., j] - theta[..., i]
            tau = (j + 1) / k if official else (i + 0.5) / k
            total = total + (tau - (u.detach() < 0).float()).abs() * huber(u) / k
    return total.mean(dim=1)


@pytest.mark.parametrize("official", [False, True])
def test_the_loss_and_its_own_gradient_are_those_of_the_sum(official) -> None:
    gen = torch.Generator().manual_seed(0)
    theta = torch.randn(2, 5, 7, generator=gen, requires_grad=True)
    target = 2 * torch.randn(2, 5, 7, generator=gen)
    ours, plain = quantile_loss(theta, target, official=official), plain_loss(theta, target, official)
    assert ours.tolist() == pytest.approx(plain.tolist(), abs=1e-5)
    mine = torch.autograd.grad((ours * torch.tensor([1.0, 3.0])).sum(), theta)[0]
    other = torch.autograd.grad((plain * torch.tensor([1.0, 3.0])).sum(), theta)[0]
    assert torch.allclose(mine, other, atol=1e-6)


def descend(official):
    """Quantiles of the atoms 0 .. 10, by Adam."""
    theta = torch.zeros(1, 1, 11, requires_grad=True)
    target = torch.arange(11.0)[None, None]
    adam = torch.optim.Adam([theta], lr=0.02)
    for _ in range(4000):
        adam.zero_grad()
        quantile_loss(theta, target, official=official).sum().backward()
        adam.step()
    return theta.detach().ravel()


def test_quantiles_of_eleven_atoms_are_spread_and_the_official_ones_collapse() -> None:
    found = descend(False)
    assert found[[0, 1, 2, 5, 10]].tolist() == pytest.approx([0.45, 1.36, 2.27, 5.0, 9.55], abs=0.03)
    assert np.diff(found.numpy()) == pytest.approx(np.full(10, 0.909), abs=0.03)
    collapsed = descend(True)
    assert collapsed.max() - collapsed.min() < 1e-3
    assert float(collapsed[0]) == pytest.approx(5.42, abs=0.05)


def test_heads_of_the_chosen_actions() -> None:
    heads = torch.arange(12.0).view(1, 2, 2, 3)
    assert picked(heads, torch.tensor([[1, 0]])).tolist() == [[[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]]
