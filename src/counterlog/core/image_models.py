"""Denoisers of diffusers behind one call: UNet2DModel, UNet2DConditionModel, DiT, SD3; with or without a pipeline.

An `ImageModel` knows the network, its noise path, how a prompt (a class number or a text) becomes the network's
condition, and how a sample becomes an image in [0, 1]. Opened from a pipeline's folder or name, from a folder with
`unet/` or `transformer/` and `scheduler/`, or from loaded objects. Weights are safetensors only.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, LogError, first_rows, message, need_extra
from counterlog.core.noise_paths import NoisePath, path_of

Condition = dict[str, Tensor]
KNOWN = {"timestep", "class_labels", "encoder_hidden_states", "pooled_projections"}


class Denoiser(nn.Module):  # type: ignore[misc]
    """A network with its path: what it says about x_t at t under a condition, guided where guidance is not 1."""

    def __init__(self, net: Any, path: NoisePath, guidance: float = 1.0) -> None:
        super().__init__()
        self.net, self.path, self.guidance = net, path, guidance
        self.train()

    def train(self, mode: bool = True) -> Denoiser:
        """The network stays in evaluation mode: what is trained must be what is sampled from."""
        self.training = mode
        self.net.eval()
        return self

    def forward(self, x: Tensor, t: Tensor, condition: Condition, null: Condition | None = None) -> Tensor:
        """(n, c, h, w), (n,), a tensor of n rows for each input of the network -> (n, c, h, w)."""
        if self.guidance == 1.0 or null is None:
            return self._said(x, t, condition)
        both = {k: torch.cat([null[k], v]) for k, v in condition.items()}
        without, under = self._said(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return without + self.guidance * (under - without)

    def _said(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        output = self.net(x, timestep=self.path.model_time(t), return_dict=False, **condition)[0]
        return output[:, : x.shape[1]]  # a learned variance comes after the prediction


@dataclass
class ImageModel:
    """A denoiser, and with it what a pipeline knows: prompts to conditions, samples to images."""

    net: Any
    scheduler: Any
    path: NoisePath
    pipeline: Any = None

    @property
    def classes(self) -> int:
        """How many classes the network knows; 0: it takes texts, or nothing."""
        config = self.net.config
        if self.texts:
            return 0
        return int(config.get("num_embeds_ada_norm") or config.get("num_class_embeds") or 0)

    @property
    def texts(self) -> bool:
        """Whether prompts are texts."""
        return "encoder_hidden_states" in inspect.signature(self.net.forward).parameters

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of a sample."""
        c = self.net.config
        size = c.get("sample_size")
        if size is None:
            msg = message("the network's configuration has no sample_size", hint="set it on the network")
            raise ConfigError(msg)
        high, wide = (size, size) if isinstance(size, int) else size
        return int(c["in_channels"]), int(high), int(wide)

    @property
    def device(self) -> Any:
        """Where the network is."""
        return next(self.net.parameters()).device

    def condition(self, prompts: Sequence[Any]) -> Condition:
        """The network's inputs for prompts: classes or texts. Raises `LogError` for a class that does not exist."""
        if self.texts:
            return self._embedded([str(p) for p in prompts])
        if not self.classes:
            return {}
        wrong = [
            i
            for i, p in enumerate(prompts)
            if isinstance(p, (bool, str)) or int(p) != p or not 0 <= p < self.classes
        ]
        if wrong:
            msg = message(
                f"prompt {prompts[wrong[0]]!r}: {first_rows(wrong)}",
                expected=f"a class from 0 to {self.classes - 1}",
            )
            raise LogError(msg)
        return {"class_labels": torch.tensor([int(p) for p in prompts], device=self.device)}

    def null(self, n: int) -> Condition:
        """The condition without a prompt, for guidance. Raises `ConfigError` where the network has none."""
        if self.texts:
            return self._embedded([""] * n)
        if not type(self.net).__name__.startswith("DiT"):
            msg = message(
                "guidance needs a network that was trained without labels too", hint="set guidance=1"
            )
            raise ConfigError(msg)
        return {"class_labels": torch.full((n,), self.classes, device=self.device)}

    def _embedded(self, texts: list[str]) -> Condition:
        if self.pipeline is None or not hasattr(self.pipeline, "encode_prompt"):
            msg = message(
                f"{type(self.net).__name__} takes texts, and there is no text encoder",
                hint="give the pipeline or its folder instead of the network",
            )
            raise ConfigError(msg)
        distinct = list(dict.fromkeys(texts))
        with torch.no_grad():
            if "pooled_projections" in inspect.signature(self.net.forward).parameters:
                found = self.pipeline.encode_prompt(
                    distinct, None, None, device=self.device, do_classifier_free_guidance=False
                )
                named = {"encoder_hidden_states": found[0], "pooled_projections": found[2]}
            else:
                found = self.pipeline.encode_prompt(distinct, self.device, 1, False)
                named = {"encoder_hidden_states": found[0]}
        place = torch.tensor([distinct.index(t) for t in texts], device=self.device)
        return {k: v[place] for k, v in named.items()}

    def images(self, x0: Tensor) -> Tensor:
        """(n, c, h, w) samples as images in [0, 1], float32, on the processor."""
        vae = getattr(self.pipeline, "vae", None)
        if vae is not None:
            with torch.no_grad():
                scale = vae.config.scaling_factor
                shift = getattr(vae.config, "shift_factor", None) or 0.0
                x0 = vae.decode((x0 / scale + shift).to(vae.dtype), return_dict=False)[0]
        return ((x0.float() + 1) / 2).clamp(0, 1).cpu()

    def samples(self, images: Tensor) -> Tensor:
        """The inverse of `images`: what the network would have to sample."""
        x = 2 * images - 1
        vae = getattr(self.pipeline, "vae", None)
        if vae is not None:
            with torch.no_grad():
                x = vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mode()
                shift = getattr(vae.config, "shift_factor", None) or 0.0
                x = (x - shift) * vae.config.scaling_factor
        return x.float().cpu()


def open_image_model(model: Any, *, in_place: bool = False) -> ImageModel:
    """A folder, a name, a loaded pipeline, or (network, scheduler); the network is copied unless `in_place`.

    Raises `ConfigError` when it cannot be opened or when its network takes inputs that are not known here.
    """
    diffusers = need_extra("diffusers", "diffusion")
    if isinstance(model, (str, os.PathLike)):
        found = _from_folder(diffusers, os.fspath(model))
    elif isinstance(model, ImageModel):
        net = model.net if in_place else copy.deepcopy(model.net)
        found = ImageModel(net, model.scheduler, model.path, model.pipeline)
    elif isinstance(model, tuple) and len(model) == 2:
        net = model[0] if in_place else copy.deepcopy(model[0])
        found = ImageModel(net, model[1], path_of(model[1]))
    elif isinstance(model, diffusers.DiffusionPipeline):
        found = _from_pipeline(model, in_place=in_place)
    else:
        msg = message(
            f"{type(model).__name__} is not an image model",
            expected="a folder, a name, a diffusers pipeline, or (network, scheduler)",
        )
        raise ConfigError(msg)
    _check(found)
    for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if (frozen := getattr(found.pipeline, name, None)) is not None:
            frozen.requires_grad_(False)
    found.net.eval()
    return found


def _from_folder(diffusers: Any, name: str) -> ImageModel:
    place = Path(name)
    if (
        part := next((p for p in ("unet", "transformer") if (place / p / "config.json").exists()), "")
    ) and not (place / "model_index.json").exists():
        config = json.loads((place / part / "config.json").read_text())
        kind = getattr(diffusers, str(config.get("_class_name")), None)
        said = json.loads((place / "scheduler" / "scheduler_config.json").read_text())
        schedule = getattr(diffusers, str(said.get("_class_name")), None)
        if kind is None or schedule is None:
            msg = message(f"{name!r} names a network or scheduler that diffusers does not have")
            raise ConfigError(msg)
        net = kind.from_pretrained(place / part, use_safetensors=True)
        scheduler = schedule.from_config(said)
        return ImageModel(net, scheduler, path_of(scheduler))
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as cause:
        first = str(cause).strip().splitlines()[0]
        msg = message(
            f"{name!r} cannot be opened as an image model ({first})",
            expected="a pipeline's folder or name, or a folder with unet/ or transformer/, and scheduler/",
        )
        raise ConfigError(msg) from cause
    return _from_pipeline(pipeline, in_place=True)


def _from_pipeline(pipeline: Any, *, in_place: bool) -> ImageModel:
    net = getattr(pipeline, "unet", None)
    name = "unet" if net is not None else "transformer"
    net = getattr(pipeline, name, None)
    if net is None:
        msg = message(f"{type(pipeline).__name__} has neither a unet nor a transformer")
        raise ConfigError(msg)
    if not in_place:
        pipeline, net = copy.copy(pipeline), copy.deepcopy(net)
        setattr(pipeline, name, net)
    return ImageModel(net, pipeline.scheduler, path_of(pipeline.scheduler), pipeline)


def _check(found: ImageModel) -> None:
    """Refuse networks whose call is not known: guessing a condition would train on noise."""
    wanted = inspect.signature(found.net.forward).parameters
    needed = {n for n, p in wanted.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    rest = needed - KNOWN - {next(iter(wanted))}
    config = found.net.config
    packed = "img_ids" in wanted or config.get("addition_embed_type") is not None
    if rest or packed:
        msg = message(
            f"{type(found.net).__name__} takes inputs that are not known here",
            expected="UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel or SD3Transformer2DModel",
        )
        raise ConfigError(msg)


def with_image_lora(net: Any, *, rank: int, alpha: float, targets: Sequence[str], rng: int = 0) -> Any:
    """The network under a fresh adapter, whose start is the network itself; only the adapter is trained."""
    peft = need_extra("peft", "language")
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng)
        return peft.get_peft_model(net, settings)


@contextlib.contextmanager
def adapter_off(denoiser: Denoiser) -> Iterator[None]:
    """The network without its adapter, if it has one."""
    if hasattr(denoiser.net, "disable_adapter"):
        with denoiser.net.disable_adapter():
            yield
    else:
        yield


def save_image_model(found: ImageModel, net: Any, folder: str | os.PathLike[str]) -> Path:
    """The pipeline, or network and scheduler, as `open_image_model` reads them; an adapter alone as peft writes it."""
    target = Path(folder)
    if hasattr(net, "disable_adapter"):
        net.save_pretrained(target / "adapter", safe_serialization=True)
        return target
    if found.pipeline is not None:
        found.pipeline.save_pretrained(target, safe_serialization=True)
        return target
    part = "unet" if type(net).__name__.startswith("UNet") else "transformer"
    net.save_pretrained(target / part, safe_serialization=True)
    found.scheduler.save_pretrained(target / "scheduler")
    return target
