"""Logs of generated images: prompt, image, reward, and optionally a group and the propensity of the row."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.errors import LogError, first_rows, message, need_extra
from counterlog.core.text_logs import need_columns, open_text_log


@dataclass(frozen=True)
class ImageLog:
    """Images (n, c, h, w) in [0, 1] with what was asked, what it earned, and weights of mean 1."""

    images: Tensor
    prompts: list[Any]
    reward: Tensor
    group: Tensor
    weight: Tensor
    fingerprint: str


def read_image_log(source: Any, pixels: tuple[int, int, int]) -> ImageLog:
    """From any source of rows. `image`: the path of a picture, or its numbers in [0, 1], channels first.

    `propensity` makes self-normalised weights, 1 / p over their mean. Raises `LogError` naming column and row.
    """
    frame = open_text_log(source)
    need_columns(frame, ("prompt", "image", "reward"), "ImageLog")
    images = np.stack([_image(v, i, pixels) for i, v in enumerate(frame["image"].to_list())])
    reward = _numbers(frame, "reward")
    prompts = frame["prompt"].to_list()
    if None in prompts:
        msg = message(f"column 'prompt' is empty in row {prompts.index(None)}", hint="drop these rows")
        raise LogError(msg)
    key = frame["group"].to_list() if "group" in frame.columns else prompts
    place = {k: i for i, k in enumerate(dict.fromkeys(key))}
    weight = np.ones(len(prompts))
    if "propensity" in frame.columns:
        p = _numbers(frame, "propensity")
        if (bad := np.flatnonzero(~((p > 0) & (p <= 1)))).size:
            msg = message(
                f"column 'propensity' is {p[bad[0]]:g}: {first_rows(bad.tolist())}", expected="in (0, 1]"
            )
            raise LogError(msg)
        weight = (1 / p) / (1 / p).mean()
    digest = hashlib.sha256(images.tobytes() + reward.tobytes() + repr(prompts).encode()).hexdigest()
    return ImageLog(
        torch.from_numpy(images),
        prompts,
        torch.from_numpy(reward.astype(np.float32)),
        torch.tensor([place[k] for k in key]),
        torch.from_numpy(weight.astype(np.float32)),
        digest,
    )


def _numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    try:
        found: NDArray[np.float64] = frame[name].cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as cause:
        msg = message(f"column {name!r} is of type {frame[name].dtype}", expected="numbers")
        raise LogError(msg) from cause
    if (bad := np.flatnonzero(~np.isfinite(found))).size:
        msg = message(f"column {name!r} is not finite: {first_rows(bad.tolist())}", hint="drop these rows")
        raise LogError(msg)
    return found


def _image(value: Any, row: int, pixels: tuple[int, int, int]) -> NDArray[np.float32]:
    """One image, (c, h, w) in [0, 1]."""
    if isinstance(value, str):
        image = need_extra("PIL.Image", "diffusion")
        if not Path(value).exists():
            msg = message(f"column 'image', row {row}: there is no file {value}")
            raise LogError(msg)
        picture = image.open(value).convert("L" if pixels[0] == 1 else "RGB").resize((pixels[2], pixels[1]))
        shown = np.asarray(picture) / 255
        return (shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)).astype(np.float32)
    found: NDArray[np.float32] = np.asarray(value, dtype=np.float32)
    if found.size != np.prod(pixels) or not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        msg = message(
            f"column 'image', row {row}: {found.size} numbers from {found.min():g} to {found.max():g}",
            expected=f"{pixels[0]} x {pixels[1]} x {pixels[2]} numbers in [0, 1], or the path of a picture",
        )
        raise LogError(msg)
    return found.reshape(pixels)
