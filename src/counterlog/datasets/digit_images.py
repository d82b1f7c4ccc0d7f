"""Handwritten digits of 8 by 8 pixels: class-conditional base models that train in a minute, rewards, and a judge.

The images are scikit-learn's 1,797 digits, scaled to [-1, 1]. The base models are small diffusion transformers
(296,900 parameters) for flow matching or for DDPM, trained here on first use and kept. Rewards: ink (mean pixel),
compressibility, and the log-probability that the judge, a classifier trained on the same digits, gives to the class.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import need_extra
from counterlog.datasets.registry import cache_folder

CLASSES, SIDE = 10, 8
Numbers = NDArray[np.float64]


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(1797, 1, 8, 8) images in [-1, 1] and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[:, None] / 8 - 1).astype(np.float32), found.target.astype(np.int64)


def _array(images: Any) -> Numbers:
    return np.asarray(images, dtype=np.float64)


def ink(images: Any, **_: Any) -> list[float]:
    """Mean pixel of each image, in [0, 1]."""
    found = _array(images)
    means: list[float] = found.reshape(len(found), -1).mean(1).tolist()
    return means


def compressibility(images: Any, **_: Any) -> list[float]:
    """Minus the bytes of each image at 16 grey levels, compressed."""
    grey = np.round(_array(images) * 15).astype(np.uint8)
    return [-float(len(zlib.compress(g.tobytes(), 9))) for g in grey]


def confidence(images: Any, prompts: Sequence[int], **_: Any) -> list[float]:
    """The judge's log-probability of the class asked for, at least -10."""
    found: list[float] = _log_class(_array(images), np.asarray(prompts)).tolist()
    return found


def class_accuracy(images: Any, prompts: Sequence[int]) -> float:
    """Share of the images that the judge takes for what they should be."""
    found = _array(images)
    return float((judge().predict(found.reshape(len(found), -1)) == np.asarray(prompts)).mean())


def diversity(images: Any, prompts: Sequence[int]) -> float:
    """Standard deviation of a pixel among the images of a class, mean over pixels and classes."""
    found, asked = _array(images), np.asarray(prompts)
    return float(np.mean([found[asked == k].std(0).mean() for k in np.unique(asked)]))


def _log_class(images: Numbers, asked: NDArray[np.int64]) -> Numbers:
    found: Numbers = judge().predict_log_proba(images.reshape(len(images), -1))
    return np.maximum(found[np.arange(len(asked)), asked], -10.0)


@lru_cache(maxsize=1)
def judge() -> Any:
    """A classifier of digits in [0, 1] that the base models never see."""
    from sklearn.neural_network import MLPClassifier

    images, classes = digits()
    flat = ((images + 1) / 2).reshape(len(images), -1).astype(np.float64)
    found = MLPClassifier(
        (64,), max_iter=60, learning_rate_init=3e-3, tol=0.0, n_iter_no_change=60, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 passes are what is wanted
        return found.fit(flat, classes)


def untrained_model(
    rng: int = 0, *, prediction: str = "flow", layers: int = 3, heads: int = 4
) -> tuple[Any, Any]:
    """A diffusion transformer with weights drawn from `rng`, and its scheduler: (network, scheduler)."""
    import torch

    diffusers = need_extra("diffusers", "diffusion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng)
        net = diffusers.DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=16,
            in_channels=1,
            out_channels=1,
            num_layers=layers,
            sample_size=SIDE,
            patch_size=2,
            num_embeds_ada_norm=CLASSES,
            norm_num_groups=1,
        )
    if prediction == "flow":
        return net, diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type=prediction
    )
    return net, scheduler


def pretrain(model: tuple[Any, Any], *, steps: int = 1000, rng: int = 0, batch: int = 128) -> tuple[Any, Any]:
    """The model after training on the digits, in place; its average over the last steps takes its place.

    AdamW 2e-3 with warm-up and half a cosine; one label in ten is left out, for guidance.
    """
    import torch

    from counterlog.core.noise_paths import path_of

    net, scheduler = model
    path = path_of(scheduler)
    images, classes = digits()
    x, y = torch.from_numpy(images), torch.from_numpy(classes)
    gen = torch.Generator().manual_seed(rng)
    adam = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    average = [p.detach().clone() for p in net.parameters()]
    net.eval()  # labels are left out here, not by the network
    for step in range(steps):
        rate = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in adam.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(x), (batch,), generator=gen)
        label = torch.where(torch.rand(batch, generator=gen) < 0.1, CLASSES, y[rows])
        eps = torch.randn(batch, 1, SIDE, SIDE, generator=gen)
        t = torch.rand(batch, generator=gen).clamp(min=1e-3)
        said = net(
            path.noised(x[rows], eps, t), timestep=path.model_time(t), class_labels=label, return_dict=False
        )[0]
        loss = (said - path.target(x[rows], eps, t)).square().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        decay = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1 - decay)
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), average, strict=True):
            mine.copy_(theirs)
    return model


def base_model_folder(*, prediction: str = "flow", steps: int = 1000, rng: int = 0) -> Path:
    """The folder of a base model, trained on first use: about 90 processor seconds for 1,000 steps.

    Kept under COUNTERLOG_DATA where that can be written, else under the library's cache folder.
    """
    said = json.dumps({"prediction": prediction, "steps": steps, "rng": rng, "form": 1})
    name = f"digit-images-base-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    places = [Path(d) for d in (os.environ.get("COUNTERLOG_DATA"),) if d] + [cache_folder()]
    for place in places:
        if (place / name / "transformer" / "diffusion_pytorch_model.safetensors").exists():
            return place / name
    target = next((p for p in places if _writable(p)), places[-1])
    target.mkdir(parents=True, exist_ok=True)
    net, scheduler = pretrain(untrained_model(rng, prediction=prediction), steps=steps, rng=rng)
    with tempfile.TemporaryDirectory(dir=target) as beside:
        net.save_pretrained(Path(beside) / "transformer", safe_serialization=True)
        scheduler.save_pretrained(Path(beside) / "scheduler")
        shutil.copytree(beside, target / name, dirs_exist_ok=True)
    return target / name


def _writable(folder: Path) -> bool:
    """Whether the folder is there and meant to be written: a read-only mode counts for the administrator too."""
    return folder.is_dir() and os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)
