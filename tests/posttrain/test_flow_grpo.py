from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", reason="diffusers is not installed (extra diffusion)")

from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.core.image_samplers import Sampler, flow_sde_moments, gaussian_logp, walk  # noqa: E402
from counterlog.core.noise_paths import NoisePath  # noqa: E402
from counterlog.datasets import digit_images  # noqa: E402
from counterlog.posttrain.flow_grpo import FlowGRPO, FlowGRPOConfig  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"prompts": 3, "images": 4, "sampling_steps": 3, "steps": 2, "samples": 0, "save_every": 1}


def model(**more):
    return digit_images.untrained_model(layers=1, heads=2, **more)


def weights(found):
    return torch.cat([p.detach().flatten() for p in found.model.net.parameters()])


def contract_example(frame):
    import narwhals as nw

    x = nw.from_native(frame, eager_only=True)["x"].to_numpy()[:3]
    found = FlowGRPO(FlowGRPOConfig(**SMALL))
    return found.tune(model(), reward=lambda images: images.mean((1, 2, 3)) * (1 + x[0]), rng=3)


def test_the_step_by_hand():
    x, v = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    t, s = torch.tensor([0.5]), torch.tensor([0.25])
    mean, std = flow_sde_moments(x, v, t, s, 0.7, 0.9)
    level2, step = 0.49 * 1.0, -0.25
    assert float(mean) == pytest.approx(2 * (1 + level2 / 1.0 * step) - (1 + level2 * 0.5 / 1.0) * step)
    assert float(std) == pytest.approx(0.7 * 0.25**0.5)
    _, first = flow_sde_moments(x, v, torch.tensor([1.0]), torch.tensor([0.9]), 0.7, 0.9)
    assert float(first) == pytest.approx(0.7 * (1 / 0.1) ** 0.5 * 0.1**0.5)


def test_without_noise_it_is_euler():
    gen = torch.Generator().manual_seed(0)
    start = torch.randn(5, 1, 4, 4, generator=gen)
    said = lambda x, t: 0.3 * x - t[:, None, None, None]  # noqa: E731
    a, b = (walk(said, NoisePath(), start, Sampler(k, 7, 0.0), gen=gen).x0 for k in ("sde", "ode"))
    assert (a - b).abs().max() < 1e-6


def test_the_log_density_is_normal_and_a_mean():
    gen = torch.Generator().manual_seed(0)
    x, mean, std = (
        torch.randn(3, 1, 2, 2, generator=gen),
        torch.randn(3, 1, 2, 2, generator=gen),
        torch.tensor([0.5, 1, 2]),
    )
    expected = torch.distributions.Normal(mean, std[:, None, None, None]).log_prob(x).flatten(1).mean(1)
    assert torch.allclose(gaussian_logp(x, mean, std), expected, atol=1e-6)
    assert gaussian_logp(x, mean, torch.zeros(3)).tolist() == [0, 0, 0]


def test_the_marginals_of_the_stochastic_sampler_are_the_flows():
    # x_0 ~ N(0, 1): the velocity is linear and every marginal has variance (1-t)^2 + t^2
    gen = torch.Generator().manual_seed(0)
    said = lambda x, t: (2 * t - 1)[:, None] / ((1 - t) ** 2 + t**2)[:, None] * x  # noqa: E731
    went = walk(said, NoisePath(), torch.randn(20_000, 1, generator=gen), Sampler("sde", 100, 0.7), gen=gen)
    assert float(went.x0.var()) == pytest.approx(1, abs=0.05)


def test_the_same_weights_give_ratios_of_one_and_the_first_step_starts_there():
    first, second = FlowGRPO(FlowGRPOConfig(**SMALL)).tune(model(), reward=digit_images.ink).report.metrics
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["distance_reference"] == 0 and second["distance_reference"] > 0


def test_same_rng_same_weights_and_resumed_it_ends_where_it_would_have(tmp_path):
    def go(steps, out=None):
        system = FlowGRPO(FlowGRPOConfig(**{**SMALL, "steps": steps}))
        return system.tune(model(), reward=digit_images.ink, rng=1, out=out)

    whole = go(3)
    go(1, tmp_path)
    assert torch.equal(weights(whole), weights(go(3, tmp_path)))


def test_it_learns_what_is_paid_for():
    c = FlowGRPOConfig(
        **{**SMALL, "steps": 20, "updates": 1, "lr": 3e-3, "prompts": 10, "images": 8, "clip_range": 0.2}
    )
    rewards = FlowGRPO(c).tune(model(), reward=digit_images.ink).report.column("reward")
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.01


def test_a_ddpm_model_and_a_log_are_refused():
    with pytest.raises(ConfigError, match="of flow matching"):
        FlowGRPO().tune(model(prediction="epsilon"), reward=digit_images.ink)
    with pytest.raises(SupportError, match="steps of its own sampler"):
        FlowGRPO().tune(model(), [{"prompt": 0, "image": [0.0] * 64, "reward": 1.0}])
