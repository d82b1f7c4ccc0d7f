"""One flat buffer for all seeds and members: it computes what separate networks compute, and steps as Adam does."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.seed_streams import SeedStreams  # noqa: E402
from counterlog.core.stacked_critics import Critic, bootstrap_target, squared_errors  # noqa: E402
from counterlog.core.stacked_nets import Descent, StackedMLP, StackedTensors  # noqa: E402

pytestmark = pytest.mark.torch
SEEDS = (3, 7)


def plain_copy(net, seed, member):
    """The same perceptron as torch modules."""
    layers = []
    place = (seed,) if net.members is None else (seed, member)
    for i in range(net.layers):
        weight = net[f"weight{i}"][place].detach()
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            linear.bias.copy_(net[f"bias{i}"][place].detach()[0])
        layers.append(linear)
        if i < net.layers - 1:
            if net.layer_norm:
                layers.append(torch.nn.LayerNorm(weight.shape[1]))
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_stack_computes_what_separate_networks_compute_and_so_do_its_gradients(layer_norm) -> None:
    net = StackedMLP((4, 8, 8, 3), seeds=SEEDS, role="x", members=3, layer_norm=layer_norm)
    x = torch.randn(2, 5, 4)
    out = net(x)
    grads = torch.autograd.grad(out.square().sum(), list(net.leaves.values()))
    by_name = dict(zip(net.leaves, grads, strict=True))
    for k in range(2):
        for j in range(3):
            twin = plain_copy(net, k, j)
            found = twin(x[k])
            assert torch.allclose(out[k, j], found, atol=1e-6)
            found.square().sum().backward()
            assert torch.allclose(by_name["weight0"][k, j], twin[0].weight.grad.T, atol=1e-5)
            assert torch.allclose(by_name["bias0"][k, j, 0], twin[0].bias.grad, atol=1e-5)
    assert torch.equal(net(x, member=1), torch.stack([net(x)[k, 1] for k in range(2)]))


def test_every_seed_and_role_begins_with_its_own_values_whatever_stands_beside_it() -> None:
    both = StackedMLP((4, 8, 2), seeds=SEEDS, role="actor", members=2)
    alone = StackedMLP((4, 8, 2), seeds=(7,), role="actor", members=2)
    other = StackedMLP((4, 8, 2), seeds=(7,), role="critic", members=2)
    assert torch.equal(both.take(1).flat, alone.flat)
    assert not torch.equal(alone.flat, other.flat)
    weight = both["weight0"].detach()
    assert float(weight.abs().max()) <= 4**-0.5
    assert not torch.equal(weight[0, 0], weight[0, 1])


def test_starting_rules() -> None:
    orthogonal = StackedMLP((6, 6, 6), seeds=(0,), role="o", start="orthogonal", last=0.01)
    first, last = (orthogonal[f"weight{i}"].detach()[0] for i in (0, 1))
    assert torch.allclose(first @ first.T, 2 * torch.eye(6), atol=1e-5)
    assert torch.allclose(last @ last.T, 1e-4 * torch.eye(6), atol=1e-8)
    cut = StackedMLP((100, 400, 1), seeds=(0,), role="t", start="truncated")["weight0"].detach()
    assert float(cut.abs().max()) <= 2 / 20
    assert float(cut.std()) == pytest.approx(
        0.88 / 20, rel=0.02
    )  # a normal cut at 2 deviations has 0.88 of its own
    edac = StackedMLP((4, 9, 2), seeds=(0,), role="e", last=3e-3, hidden_bias=0.1)
    assert torch.equal(edac["bias0"].detach(), torch.full((1, 1, 9), 0.1))
    assert float(edac["weight1"].detach().abs().max()) <= 3e-3


def test_a_step_is_adams_and_seeds_do_not_mix() -> None:
    net = StackedMLP((3, 5, 1), seeds=SEEDS, role="x")
    twins = [plain_copy(net, k, None) for k in range(2)]
    descent = Descent(net, lr=0.01)
    adams = [torch.optim.Adam(t.parameters(), lr=0.01) for t in twins]
    for _ in range(5):
        x = torch.randn(2, 16, 3)
        descent.step(net(x)[..., 0].square().mean(dim=1))
        for k, (twin, adam) in enumerate(zip(twins, adams, strict=True)):
            adam.zero_grad()
            twin(x[k])[..., 0].square().mean().backward()
            adam.step()
    for k, twin in enumerate(twins):
        assert torch.allclose(net["weight0"][k], twin[0].weight.T, atol=1e-6)


def test_the_gradient_norm_is_bounded_seed_by_seed() -> None:
    a, b = StackedTensors({"w": (4,)}, SEEDS), StackedTensors({"v": ()}, SEEDS)
    descent = Descent(a, b, lr=0.1, clip=1.0)
    scale = torch.tensor([10.0, 0.1])
    descent.step(scale * (a["w"].sum(dim=1) + b["v"]))
    grads = {
        k: v / 0.1 for k, v in descent.state().items() if k.endswith("mean")
    }  # after one step (1 - beta1) g
    norm = (grads["0.mean"].view(2, 4).square().sum(dim=1) + grads["1.mean"].square()).sqrt()
    assert norm.tolist() == pytest.approx([1.0, 0.1 * math.sqrt(5)], rel=1e-5)


def test_a_loss_that_is_not_one_number_a_seed_is_refused() -> None:
    net = StackedTensors({"w": (4,)}, SEEDS)
    with pytest.raises(ConfigError, match="one number a seed"):
        Descent(net, lr=0.1).step(net["w"].sum())


def test_unused_parameters_get_a_gradient_of_zero() -> None:
    a, b = StackedTensors({"w": (1,)}, SEEDS), StackedTensors({"v": (1,)}, SEEDS)
    Descent(a, b, lr=0.1).step(a["w"].sum(dim=1))
    assert float(b.flat.abs().max()) == 0
    assert a.flat.tolist() == pytest.approx([-0.1, -0.1])


def test_a_target_follows_by_its_share_and_takes_no_gradient() -> None:
    net = StackedTensors({"w": (2,)}, SEEDS).fill(w=1.0)
    target = net.frozen()
    net.fill(w=3.0)
    target.follow(net, 0.25)
    assert target["w"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
    assert not target["w"].requires_grad
    target.follow(net, 1.0)
    assert torch.equal(target.flat, net.flat)


def test_a_descent_goes_on_exactly_from_its_state() -> None:
    def made():
        net = StackedMLP((3, 5, 1), seeds=SEEDS, role="x")
        return net, Descent(net, lr=0.01)

    def step(net, descent, i):
        x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(i))
        descent.step(net(x)[..., 0].square().mean(dim=1), lr=0.01 / (1 + i))

    net, descent = made()
    for i in range(6):
        step(net, descent, i)
        if i == 2:
            kept = (
                {k: v.clone() for k, v in net.state().items()},
                {k: v.clone() for k, v in descent.state().items()},
            )
    again, late = made()
    again.restore(kept[0])
    late.restore(kept[1])
    for i in range(3, 6):
        step(again, late, i)
    assert torch.equal(net.flat, again.flat)
    with pytest.raises(ConfigError, match="another network"):
        StackedTensors({"w": (1,)}, SEEDS).restore(kept[0])


def test_streams_of_a_seed_do_not_depend_on_their_neighbours_and_go_on_from_their_state() -> None:
    both, alone = SeedStreams((3, 7), "rows"), SeedStreams((7,), "rows")
    assert torch.equal(both.index(1000, 64)[1], alone.index(1000, 64)[0])
    assert torch.equal(both.normal(40, 3)[1], alone.normal(40, 3)[0])
    state = both.state()
    first = both.uniform(9)
    both.restore(state)
    assert torch.equal(both.uniform(9), first)
    assert not torch.equal(SeedStreams((7,), "other").normal(5), SeedStreams((7,), "rows").normal(5))
    for bad in ((), (-1,), (2, 2)):
        with pytest.raises(ConfigError, match="seeds"):
            SeedStreams(bad)


def test_a_time_limit_keeps_its_bootstrap_and_a_termination_does_not() -> None:
    found = bootstrap_target(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.full((1, 2), 10.0), 0.9
    )
    assert found.tolist() == [[10.0, 1.0]]


def test_critic_losses_by_hand() -> None:
    values = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    target = torch.tensor([[1.0, 0.0]])
    assert squared_errors(values, target).tolist() == [(0 + 4) / 2 + (1 + 16) / 2]
    critic = Critic(2, 1, (8,), seeds=SEEDS, members=4)
    s, a = torch.randn(2, 6, 2), torch.randn(2, 6, 1)
    assert torch.allclose(critic.first(s, a, 2), critic.values(s, a)[:, 2], atol=1e-6)
    assert torch.equal(critic.least(s, a), critic.values(s, a).min(dim=1).values)


def test_inputs_of_another_shape_are_refused() -> None:
    net = StackedMLP((3, 5, 1), seeds=SEEDS, role="x")
    with pytest.raises(ConfigError, match="input of shape"):
        net(torch.zeros(1, 4, 3))
    with pytest.raises(ConfigError, match="positive widths"):
        StackedMLP((3,), seeds=SEEDS, role="x")
    with pytest.raises(ConfigError, match="activation"):
        StackedMLP((3, 1), seeds=SEEDS, role="x", activation="sine")
    assert np.isfinite(net.flat.numpy()).all()
