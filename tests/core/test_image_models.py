from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra diffusion)")

from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.image_models import Denoiser, ImageModel, open_image_model, save_image_model  # noqa: E402
from counterlog.core.image_run import png  # noqa: E402
from counterlog.core.noise_paths import NoisePath, path_of  # noqa: E402
from counterlog.datasets import digit_images  # noqa: E402

pytestmark = pytest.mark.torch


def plain_unet(**more):
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), **more,
    )  # fmt: skip


def text_unet():
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8,
        attention_head_dim=4,
    )  # fmt: skip


def sd3():
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip


def ddpm():
    return diffusers.DDPMScheduler()


def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


class Encoder:
    """Stands for a pipeline: embeddings by the length of the text."""

    def __init__(self, pooled):
        self.pooled = pooled

    def encode_prompt(self, prompt, *args, **more):
        found = torch.tensor([float(len(p)) for p in prompt])[:, None, None].expand(-1, 3, 8)
        return (found, None, found[:, 0], None) if self.pooled else (found, None)


@pytest.mark.parametrize(
    ("net", "scheduler", "pipeline", "prompts"),
    [
        (lambda: plain_unet(), ddpm, None, ["a", "b"]),
        (lambda: plain_unet(num_class_embeds=3), ddpm, None, [0, 2]),
        (text_unet, ddpm, Encoder(False), ["a", "bcd"]),
        (sd3, flow, Encoder(True), ["a", "bcd"]),
        (lambda: digit_images.untrained_model(layers=1, heads=2)[0], flow, None, [0, 9]),
    ],
    ids=["unet", "class unet", "text unet", "sd3", "dit"],
)
def test_every_kind_of_network_is_called_by_its_own_names(net, scheduler, pipeline, prompts):
    made = net()
    found = open_image_model(ImageModel(made, scheduler(), path_of(scheduler()), pipeline))
    denoiser = Denoiser(found.net, found.path)
    x, t = torch.randn(2, *found.shape), torch.tensor([0.5, 0.9])
    with torch.no_grad():
        said = denoiser(x, t, found.condition(prompts))
        one = denoiser(x[1:], t[1:], found.condition(prompts[1:]))
    assert said.shape == x.shape
    assert torch.allclose(said[1:], one, atol=1e-5)
    assert found.net is not made


def test_guidance_mixes_the_answers_with_and_without_a_prompt():
    found = open_image_model(digit_images.untrained_model(layers=1, heads=2))
    for p in found.net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.9])
    given, null = found.condition([1, 2]), found.null(2)
    with torch.no_grad():
        under, without = (Denoiser(found.net, found.path)(x, t, c) for c in (given, null))
        both = Denoiser(found.net, found.path, 3.0)(x, t, given, null)
    assert torch.allclose(both, without + 3 * (under - without), atol=1e-5)


def test_a_network_stays_in_evaluation_mode_while_it_is_trained():
    denoiser = Denoiser(digit_images.untrained_model(layers=1, heads=2)[0], NoisePath())
    assert denoiser.train().training and not denoiser.net.training


def test_saved_and_opened_it_is_the_same(tmp_path):
    found = open_image_model(digit_images.untrained_model(layers=1, heads=2))
    save_image_model(found, found.net, tmp_path)
    again = open_image_model(tmp_path)
    assert again.path.flow and again.path.shift == found.path.shift
    for a, b in zip(found.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction", "sample"])
def test_the_right_answer_gives_image_and_noise_back(prediction):
    kept = torch.empty(0) if prediction == "flow" else torch.linspace(0.99, 0.05, 1000)
    path = NoisePath(prediction, kept)
    gen = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 1, 4, 4, generator=gen), torch.randn(3, 1, 4, 4, generator=gen)
    t = torch.tensor([0.2, 0.5, 0.9])
    found = path.split(path.noised(x0, eps, t), path.target(x0, eps, t), t)
    assert torch.allclose(found[0], x0, atol=1e-4) and torch.allclose(found[1], eps, atol=1e-4)


def test_the_grid_of_a_flow_is_shifted_and_ends_at_the_image():
    grid = path_of(flow()).grid(4)
    assert grid[0] == 1 and grid[-1] == 0
    assert grid[2] == pytest.approx(3 * 0.5 / 2)


def test_what_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not an image model"):
        open_image_model(3)
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_image_model(tmp_path)
    text = open_image_model((text_unet(), ddpm()))
    with pytest.raises(ConfigError, match="no text encoder"):
        text.condition(["a"])
    with pytest.raises(ConfigError, match="guidance=1"):
        open_image_model((plain_unet(num_class_embeds=3), ddpm())).null(2)


def test_an_image_becomes_a_png():
    assert png(torch.rand(1, 8, 8)).startswith("data:image/png;base64,iVBOR")
    assert png(torch.rand(3, 8, 8)).startswith("data:image/png;base64,iVBOR")


def stable_diffusion():
    """A Stable Diffusion pipeline of a few thousand weights, drawn here."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (extra language)"
    )
    words = ["<|startoftext|>", "<|endoftext|>", "!", "a</w>", "b</w>", "c</w>", "a", "b", "c"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=8
    )
    sizes = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=transformers.CLIPTextModel(sizes), tokenizer=tokenizer, unet=text_unet(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_stable_diffusion_pipeline_is_tuned_from_its_folder_and_saved_as_one(tmp_path):
    from counterlog.posttrain.advantage_weighted_matching import (
        AdvantageWeightedMatching,
        AdvantageWeightedMatchingConfig,
    )

    stable_diffusion().save_pretrained(tmp_path / "pipeline")
    config = AdvantageWeightedMatchingConfig(
        prompts=2, images=2, sampling_steps=3, times=2, steps=2, samples=1, shown_steps=2, guidance=2.0
    )
    seen = []

    def reward(images, prompts):
        seen.append((images.shape, prompts))
        return images.mean((1, 2, 3))

    found = AdvantageWeightedMatching(config).tune(
        tmp_path / "pipeline", prompts=["a b", "c"], reward=reward, out=tmp_path / "run"
    )
    assert seen[1][0] == (4, 3, 16, 16) and set(seen[1][1]) == {"a b", "c"}
    again = open_image_model(tmp_path / "run" / "model")
    for a, b in zip(found.model.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(a, b)
    before = open_image_model(tmp_path / "pipeline")
    assert any(
        not torch.equal(a, b) for a, b in zip(before.net.parameters(), again.net.parameters(), strict=True)
    )
    log = [{"prompt": "a", "image": torch.rand(3 * 16 * 16).tolist(), "reward": float(i)} for i in range(4)]
    assert AdvantageWeightedMatching(config).tune(before, log).report.metrics[0]["ratio"] == 1
