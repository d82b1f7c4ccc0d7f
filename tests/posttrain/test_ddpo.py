from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra diffusion)")

from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.core.image_samplers import Sampler, ddim_moments, walk  # noqa: E402
from counterlog.core.noise_paths import NoisePath, path_of  # noqa: E402
from counterlog.datasets import digit_images  # noqa: E402
from counterlog.posttrain.ddpo import DDPO, DDPOConfig, RememberedRewards  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"prompts": 3, "images": 4, "sampling_steps": 3, "steps": 2, "samples": 0, "save_every": 1}


def model(**more):
    return digit_images.untrained_model(layers=1, heads=2, **more)


def weights(found):
    return torch.cat([p.detach().flatten() for p in found.model.net.parameters()])


def contract_example(frame):
    import narwhals as nw

    x = nw.from_native(frame, eager_only=True)["x"].to_numpy()[:3]
    found = DDPO(DDPOConfig(**SMALL))
    return found.tune(model(), reward=lambda images: images.mean((1, 2, 3)) * (1 + x[0]), rng=3)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_is_that_of_diffusers(spacing, eta):
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        timestep_spacing=spacing,
    )
    theirs.set_timesteps(8)
    path = path_of(theirs)
    grid = path.grid(8)
    gen = torch.Generator().manual_seed(0)
    x, said = torch.randn(2, 1, 4, 4, generator=gen), torch.randn(2, 1, 4, 4, generator=gen)
    assert path.model_time(grid[:8]).tolist() == theirs.timesteps.tolist()
    for i in (2, 5, 7):
        t, s = (grid[j].expand(2) for j in (i, i + 1))
        mean, std = ddim_moments(path, x, said, t, s, eta)
        zero = torch.zeros_like(x)
        expected = theirs.step(said, theirs.timesteps[i], x, eta=eta, variance_noise=zero if eta else None)
        assert torch.allclose(mean, expected.prev_sample, atol=1e-5)
        if eta:
            moved = theirs.step(said, theirs.timesteps[i], x, eta=eta, variance_noise=zero + 1).prev_sample
            assert torch.allclose((moved - mean).mean((1, 2, 3)), std, atol=1e-5)


def test_ddim_without_noise_on_a_flow_is_euler():
    path, x = NoisePath(), torch.tensor([[1.0], [2.0]])
    v, t, s = torch.tensor([[0.5], [-1.0]]), torch.tensor([0.8, 0.4]), torch.tensor([0.7, 0.1])
    assert torch.allclose(ddim_moments(path, x, v, t, s, 0.0)[0], x + v * (s - t)[:, None])


def test_the_random_sampler_keeps_the_distribution():
    gen = torch.Generator().manual_seed(0)
    said = lambda x, t: (2 * t - 1)[:, None] / ((1 - t) ** 2 + t**2)[:, None] * x  # noqa: E731
    went = walk(said, NoisePath(), torch.randn(20_000, 1, generator=gen), Sampler("ddim", 100, 1.0), gen=gen)
    assert float(went.x0.var()) == pytest.approx(1, abs=0.05)


def test_prompts_are_judged_by_their_own_rewards_once_there_are_enough():
    remembered = RememberedRewards(3, 3)
    prompt = torch.tensor([7, 7])
    first = remembered.advantage(torch.tensor([0.0, 2.0]), prompt)
    assert first.tolist() == pytest.approx([-1, 1], abs=1e-3)
    second = remembered.advantage(torch.tensor([4.0, 1.0]), prompt)  # held: 2, 4, 1
    spread = float(torch.tensor([2.0, 4, 1]).std(correction=0)) + 1e-4
    assert second.tolist() == pytest.approx([(4 - 7 / 3) / spread, (1 - 7 / 3) / spread], abs=1e-4)
    assert remembered.advantage(torch.tensor([float("nan"), 1.0]), prompt)[0] == 0


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_same_weights_give_ratios_of_one(prediction):
    found = DDPO(DDPOConfig(**SMALL)).tune(model(prediction=prediction), reward=digit_images.ink)
    assert found.report.metrics[0]["ratio"] == pytest.approx(1, abs=1e-6)


def test_resumed_it_ends_where_it_would_have_with_what_it_remembers(tmp_path):
    def go(steps, out=None):
        system = DDPO(DDPOConfig(**{**SMALL, "steps": steps}))
        return system.tune(model(), reward=digit_images.ink, rng=1, out=out)

    whole = go(5)
    go(3, tmp_path)
    assert torch.equal(weights(whole), weights(go(5, tmp_path)))


def test_groups_of_one_and_no_reward_are_refused():
    with pytest.raises(SupportError, match="images=1"):
        DDPO(DDPOConfig(images=1)).tune(model(), reward=digit_images.ink)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        DDPO().tune(model())
