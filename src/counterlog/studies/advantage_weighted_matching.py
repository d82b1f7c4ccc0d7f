"""Study of image rewards: what do advantage-weighted matching and policy gradients on a sampler's steps gain from
equally many images, and what does it cost?

The base model is trained here on scikit-learn's digits (see `datasets/digit_images.py`): flow matching, 296,900
parameters. An epoch samples 10 classes times 16 images by 10 steps and takes 2 updates; step size 1e-4. Judged on 200
images by 20 Euler steps from the same noise: reward, class accuracy by an independent classifier, and diversity.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets import digit_images

SLUG = "advantage-weighted-matching"
EPOCH, UPDATES, EVERY = 160, 2, 5
AWM, GHUBER, RWR, FLOW, DDPO_ = "AWM", "AWM ghuber", "RWR", "Flow-GRPO", "DDPO"
WAYS = (AWM, GHUBER, RWR, FLOW, DDPO_)
REWARDS = {
    "ink": digit_images.ink,
    "confidence": digit_images.confidence,
    "compressibility": digit_images.compressibility,
}
BATCHES, GROUP = 64, 2
Cell = tuple[str, str, int, int]  # way, reward, seed, epochs


def system(way: str, steps: int, **more: Any) -> Any:
    """A method at the size of this study."""
    from counterlog.posttrain.advantage_weighted_matching import (
        AdvantageWeightedMatching,
        AdvantageWeightedMatchingConfig,
    )
    from counterlog.posttrain.ddpo import DDPO, DDPOConfig
    from counterlog.posttrain.flow_grpo import FlowGRPO, FlowGRPOConfig

    said: dict[str, Any] = {
        "prompts": 10, "images": 16, "sampling_steps": 10, "lr": 1e-4, "steps": steps, "updates": UPDATES,
        "samples": 0, "ema_decay": 0.0, "save_every": 0,
    } | more  # fmt: skip
    if way == FLOW:
        return FlowGRPO(FlowGRPOConfig(**said))
    if way == DDPO_:
        return DDPO(DDPOConfig(**said))
    if way == RWR:
        return AdvantageWeightedMatching(
            AdvantageWeightedMatchingConfig.preset("rwr", **said, time_share=1.0, time_shift=1.0)
        )
    weighting = "ghuber" if way == GHUBER else "uniform"
    return AdvantageWeightedMatching(
        AdvantageWeightedMatchingConfig.preset("small", **said, weighting=weighting)
    )


def judged(denoiser: Any, reward: Any, rng: int) -> dict[str, float]:
    """Reward, class accuracy and diversity of 200 images, always from the same noise."""
    import torch

    from counterlog.core.image_samplers import Sampler, walk

    asked = torch.arange(200) % digit_images.CLASSES
    gen = torch.Generator().manual_seed(rng + 71)
    noise = torch.randn(200, 1, digit_images.SIDE, digit_images.SIDE, generator=gen)
    went = walk(
        lambda x, t: denoiser(x, t, {"class_labels": asked}),
        denoiser.path,
        noise,
        Sampler("ode", 20),
        gen=gen,
    )
    images = ((went.x0 + 1) / 2).clamp(0, 1).numpy()
    classes = asked.numpy()
    return {
        "reward": float(np.mean(reward(images=images, prompts=classes))),
        "class accuracy": digit_images.class_accuracy(images, classes),
        "diversity": digit_images.diversity(images, classes),
    }


class Watch:
    """Judges the model every so many epochs, and keeps the processor seconds of the training between."""

    def __init__(self, reward: Any, rng: int) -> None:
        self.reward, self.rng = reward, rng
        self.rows: list[dict[str, float]] = []
        self.used = 0.0

    def on_train_begin(self, *, model: Any, **_: Any) -> None:
        """Start the clock."""
        self.since = time.process_time()

    def on_step_end(self, *, step: int, model: Any, **_: Any) -> None:
        """Judge where it is due."""
        epoch, rest = divmod(step + 1, UPDATES)
        if rest or epoch % EVERY:
            return
        self.used += time.process_time() - self.since
        self.rows.append(
            {"images": epoch * EPOCH, **judged(model, self.reward, self.rng), "cpu seconds": self.used}
        )
        self.since = time.process_time()


def one_run(folder: Path, rng: int, cell: Cell) -> list[dict[str, Any]]:
    """A method, a reward, a seed: what was judged on the way."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    way, name, seed, epochs = cell
    watch = Watch(REWARDS[name], rng)
    system(way, epochs * UPDATES).tune(folder, reward=REWARDS[name], rng=rng + seed, callbacks=(watch,))
    return [{"method": way, "reward name": name, "seed": seed, **row} for row in watch.rows]


def gradient_noise(folder: Path, rng: int, way: str) -> dict[str, Any]:
    """Variance of the gradient at the base model over its squared mean, each batch freshly sampled and judged.

    The mean's own variance is taken out of its square.
    """
    import torch

    from counterlog.core.image_models import Denoiser, open_image_model
    from counterlog.core.image_tuning import ImageTrainee, Judge

    torch.set_num_threads(1)
    made = system(way, BATCHES, images=GROUP, updates=1)
    found = open_image_model(folder)
    policy = made.loss(found.path)
    trainee = ImageTrainee(
        Denoiser(found.net, found.path), found, Judge(list(range(10)), {}, [digit_images.ink]), policy,
        made.config, rng,
    )  # fmt: skip
    weights = list(trainee.module.parameters())
    rows = []
    for step in range(BATCHES):
        value, _ = trainee.loss(trainee.module, trainee.batch(step, None), step)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)]))
    every = torch.stack(rows)
    variance = float(every.var(0).sum())
    signal = float(every.mean(0).square().sum()) - variance / BATCHES
    noise = variance / signal if signal > 0 else float("inf")
    return {"method": way, "variance over squared mean": noise, "signal share": signal / (signal + variance)}


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and number of images: means over seeds, with the seeds' spread of the reward."""
    rows = []
    for way, images in dict.fromkeys((f["method"], f["images"]) for f in found):
        mine = [f for f in found if (f["method"], f["images"]) == (way, images)]
        row: dict[str, Any] = {"method": way, "images": images}
        for name in ("reward", "class accuracy", "diversity", "cpu seconds"):
            row[name] = float(np.mean([f[name] for f in mine]))
        spread = [f["reward"] for f in mine]
        row["reward low"], row["reward high"] = float(min(spread)), float(max(spread))
        rows.append(row)
    return rows


def run(*, full: bool = False, rng: int = 0, jobs: int = 2) -> Study:
    """The study. Quick: matching and Flow-GRPO on ink, 800 images, one seed."""
    from joblib import Parallel, delayed

    clock = Clock()
    folder = digit_images.base_model_folder()
    seeds = 2 if full else 1
    cells: list[Cell] = [(way, "ink", 0, EVERY) for way in (AWM, FLOW)]
    if full:
        cells = [(way, "ink", seed, 3 * EVERY) for way in WAYS for seed in range(seeds)]
        cells += [(way, name, 0, EVERY) for name in list(REWARDS)[1:] for way in (AWM, FLOW)]
    work = partial(one_run, folder, rng)
    each = Parallel(n_jobs=jobs)(delayed(work)(c) for c in cells) if full else [work(c) for c in cells]
    found = [row for rows in each for row in rows]
    base = base_rows(folder, rng)
    ink = summary([f for f in found if f["reward name"] == "ink"])
    tables = [
        Table(title="The base model", rows=tuple(base), unit="reward of 200 images"),
        Table(
            title="Ink by images",
            rows=tuple(ink),
            unit="mean pixel, mean over seeds; lowest and highest seed",
        ),
    ]
    others = [f for f in found if f["reward name"] != "ink"]
    noise: list[dict[str, Any]] = []
    if full:
        noise = Parallel(n_jobs=jobs)(delayed(partial(gradient_noise, folder, rng))(w) for w in (AWM, FLOW))
        tables += [
            Table(title="Other rewards", rows=tuple(others), unit="reward of 200 images, one seed"),
            Table(
                title="Noise of the gradient at the base model",
                rows=tuple(noise),
                unit=f"{BATCHES} batches of {10 * GROUP} images",
            ),
        ]
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="mean pixel of 200 images",
        n=seeds,
        tables=tuple(tables),
        checks=tuple(checks(base, ink, others, noise)),
        notes=(
            "More ink than a digit has destroys it: read the reward beside the class accuracy.",
            "DDPO's sampler is DDIM written for the flow, so that all methods start from one model.",
            "Processor seconds are of training alone, on a machine that others used too.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "torch", "diffusers", "accelerate"),
    )


def base_rows(folder: Path, rng: int) -> list[dict[str, Any]]:
    """The base model by every reward."""
    from counterlog.core.image_models import Denoiser, open_image_model

    found = open_image_model(folder)
    denoiser = Denoiser(found.net, found.path)
    return [{"reward name": name, **judged(denoiser, f, rng)} for name, f in REWARDS.items()]


def checks(
    base: list[dict[str, Any]],
    ink: list[dict[str, Any]],
    others: list[dict[str, Any]],
    noise: list[dict[str, Any]],
) -> list[Check]:
    """The claims against their bars."""
    start = {str(b["reward name"]): float(b["reward"]) for b in base}
    at = {(r["method"], r["images"]): r for r in ink}
    few, many = EVERY * EPOCH, 3 * EVERY * EPOCH

    def gain(way: str, images: int) -> float:
        return float(at[way, images]["reward"]) - start["ink"]

    out = [
        _least(f"{few} images: gain of AWM over that of Flow-GRPO", gain(AWM, few) / gain(FLOW, few), 2.0),
        _least(f"{few} images: class accuracy of AWM", at[AWM, few]["class accuracy"], 0.95),
    ]
    if (AWM, many) not in at:
        return out
    reached = min(
        (i for (way, i), r in at.items() if way == AWM and r["reward"] >= at[FLOW, many]["reward"]),
        default=10 * many,
    )
    out += [
        _least("images of Flow-GRPO over images of AWM to Flow-GRPO's last reward", many / reached, 2.5),
        _least(f"{many} images: gain of AWM over that of DDPO", gain(AWM, many) / gain(DDPO_, many), 1.0),
        _least(f"{many} images: gain of AWM over that of RWR", gain(AWM, many) / gain(RWR, many), 1.0),
    ]
    for name in sorted({o["reward name"] for o in others}):
        best = {o["method"]: o["reward"] - start[name] for o in others if o["reward name"] == name}
        out.append(_least(f"{name}: gain of AWM less that of Flow-GRPO", best[AWM] - best[FLOW], 0.0))
    level = {n["method"]: n["variance over squared mean"] for n in noise}
    out.append(_least("noise of the gradient, Flow-GRPO over AWM", level[FLOW] / level[AWM], 2.0))
    return out


def _least(claim: str, measured: float, bar: float) -> Check:
    return Check(claim=claim, measured=float(measured), bar=f">= {bar:.2f}", passed=bool(measured >= bar))
