"""The run of a system that tunes an image model: opened, sampled before and after, trained, saved, told."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterlog.core.errors import ConfigError, SupportError, message, need_extra
from counterlog.core.image_batches import ImageBatch
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_logs import read_image_log
from counterlog.core.image_models import (
    Denoiser,
    ImageModel,
    open_image_model,
    save_image_model,
    with_image_lora,
)
from counterlog.core.image_samplers import Sampler
from counterlog.core.image_tuning import ImageLoss, ImageTrainee, Judge
from counterlog.core.language_models import weights_fingerprint
from counterlog.core.noise_paths import NoisePath
from counterlog.core.reward_functions import load_reward
from counterlog.core.run_folder import MODEL, RESULT, RunFolder
from counterlog.core.study import versions
from counterlog.core.text_logs import need_columns, open_text_log
from counterlog.core.tuning_loop import Progress, make_accelerator, run_loop
from counterlog.core.tuning_result import Tuned, TuningReport, side_by_side

AVERAGED = "averaged"


def tune_on_images(
    slug: str,
    make: Callable[[NoisePath], ImageLoss],
    config: ImageConfig,
    model: Any,
    *,
    log: Any = None,
    prompts: Any = None,
    reward: Any = None,
    reward_weights: Sequence[float] = (),
    rng: int = 0,
    out: str | os.PathLike[str] | None = None,
    in_place: bool = False,
    command: str = "",
    trackers: Sequence[str] = (),
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> Tuned:
    """What `tune` of a system's class calls. Prompts default to every class of a class-conditional model.

    With `log` its images are learnt from and nothing is sampled, except for the page. Raises `ConfigError`,
    `SupportError` and `LogError` before any training.
    """
    listed = [] if reward is None else list(reward) if isinstance(reward, (list, tuple)) else [reward]
    functions = [load_reward(r) if isinstance(r, str) else r for r in listed]
    found = open_image_model(model, in_place=in_place)
    policy = make(found.path)
    if log is None and not functions:
        msg = message(
            "there is nothing to learn from", expected="a reward function, or a log of judged images"
        )
        raise ConfigError(msg)
    if log is None and config.images < 2:
        msg = message(
            "images=1: an advantage is relative to the other images of its prompt", expected="at least 2"
        )
        raise SupportError(msg)
    if config.checkpointing:
        found.net.enable_gradient_checkpointing()
    start = weights_fingerprint(found.net)
    data: dict[str, Any] = {"reward": [getattr(f, "__name__", str(f)) for f in functions]}
    rows: ImageBatch | None = None
    asked: list[Any] = []
    columns: dict[str, list[Any]] = {}
    if log is not None:
        rows, asked, mark = _logged(found, log, policy)
        data |= {"log": mark, "rows": len(rows)}
    else:
        asked, columns = read_image_prompts(prompts, found)
        data |= {"prompts": len(asked)}
    if config.lora_rank:
        found.net = with_image_lora(
            found.net, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets, rng=rng
        )
    folder = None if out is None else RunFolder(out)
    accelerator = make_accelerator(config, trackers, folder)
    denoiser = Denoiser(found.net, found.path, config.guidance).to(accelerator.device)
    if found.pipeline is not None:
        found.pipeline.to(accelerator.device)
    trainee = ImageTrainee(
        denoiser, found, Judge(asked, columns, functions, reward_weights), policy, config, rng, rows
    )
    if folder is not None:
        folder.writes = accelerator.is_main_process
        said = str(model) if isinstance(model, (str, os.PathLike)) else ""
        folder.begin(
            {
                "slug": slug,
                "command": command,
                "config": config.to_dict(),
                "rng": rng,
                "model": {"from": said, "weights": start},
                "data": data,
                "processes": accelerator.num_processes,
                "versions": versions("counterlog", "torch", "diffusers", "accelerate"),
            }
        )
    before = _shown(trainee)
    metrics = run_loop(
        trainee, config, accelerator=accelerator, folder=folder, project=slug, trackers=trackers,
        callbacks=callbacks, progress=progress,
    )  # fmt: skip
    report = TuningReport(
        slug=slug,
        unit="reward",
        n=trainee.watch.rows,
        rng=rng,
        metrics=tuple(metrics),
        samples=side_by_side(before, _shown(trainee), "image"),
        off_policy=trainee.watch.report(),
        notes=tuple(_notes(config, trainee)),
    )
    if folder is not None and accelerator.is_main_process:
        save_image_model(found, found.net, folder.path / MODEL)
        if trainee.saved is not None:
            with trainee.saved.inside(denoiser):
                save_image_model(found, found.net, folder.path / AVERAGED)
        report.save(folder.path / RESULT)
    accelerator.wait_for_everyone()
    return Tuned(found, report, None, None if folder is None else Path(folder.path))


def read_image_prompts(source: Any, model: ImageModel) -> tuple[list[Any], dict[str, list[Any]]]:
    """Prompts and the columns that rewards may ask for; None is every class. Raises `ConfigError` and `LogError`."""
    if source is None:
        if not model.classes:
            msg = message("the model takes texts", expected="prompts: texts, or rows with a column `prompt`")
            raise ConfigError(msg)
        return list(range(model.classes)), {}
    if isinstance(source, (list, tuple)) and source and not isinstance(source[0], dict):
        return list(source), {}
    frame = open_text_log(source)
    need_columns(frame, ("prompt",), "prompts")
    return frame["prompt"].to_list(), {c: frame[c].to_list() for c in frame.columns if c != "prompt"}


def _logged(found: ImageModel, log: Any, policy: ImageLoss) -> tuple[ImageBatch, list[Any], str]:
    """The log as rows with advantages, its prompts, its fingerprint."""
    if policy.keeps_walk:
        msg = message(
            "a log holds images, and this method learns from the steps of its own sampler",
            hint="use advantage-weighted-matching, which needs the images alone",
        )
        raise SupportError(msg)
    vae = getattr(found.pipeline, "vae", None)
    c, high, wide = found.shape
    factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    table = read_image_log(log, (c if vae is None else 3, high * factor, wide * factor))
    sizes = torch.bincount(table.group)
    if int(sizes.max()) < 2:
        msg = message(
            f"every one of the {len(sizes)} groups holds one image: an advantage needs at least 2",
            hint="log several images of a prompt, and give them one `group`",
        )
        raise SupportError(msg)
    asked = list(dict.fromkeys(table.prompts))
    place = {p: i for i, p in enumerate(asked)}
    prompt = torch.tensor([place[p] for p in table.prompts])
    x0 = torch.cat([found.samples(table.images[i : i + 64]) for i in range(0, len(prompt), 64)])
    advantage = policy.advantage(table.reward, table.group, prompt)
    rows = ImageBatch(
        x0, prompt, table.reward, table.group, advantage, table.weight, torch.zeros_like(prompt)
    )
    return rows, asked, table.fingerprint


def _shown(trainee: ImageTrainee) -> list[dict[str, Any]]:
    """One image of each of the first prompts, from the same noise whenever it is asked."""
    n = min(trainee.config.samples, len(trainee.judge.prompts))
    if n == 0:
        return []
    found = trainee.sample(torch.arange(n), Sampler("ode", trainee.config.shown_steps), trainee.rng)
    images = trainee.model.images(found.x0)
    return [
        {"prompt": str(p), "image": png(i), "reward": r if np.isfinite(r) else None}
        for p, i, r in zip(trainee.judge.prompts[:n], images, found.reward.tolist(), strict=True)
    ]


def png(image: Tensor) -> str:
    """An image (c, h, w) in [0, 1] as the address of a PNG."""
    pillow = need_extra("PIL.Image", "diffusion")
    values = (image * 255).round().to(torch.uint8).numpy()
    picture = pillow.fromarray(values[0] if len(values) == 1 else values[:3].transpose(1, 2, 0))
    held = io.BytesIO()
    picture.save(held, format="PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _notes(config: ImageConfig, trainee: ImageTrainee) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    if trainee.log is not None:
        notes.append("learnt from a log whose sampler is not known: every ratio is taken as 1")
    elif config.updates == 1:
        notes.append("one update an epoch: every ratio is 1, so nothing can be clipped")
    if trainee.saved is not None:
        notes.append(f"the averaged weights (decay {config.ema_decay:g}) are in the folder {AVERAGED!r}")
    return notes
