"""Cost of advantage-weighted matching on a small flow model, side by side with our own Flow-GRPO and with pre-training.

Run:  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/posttrain/advantage_weighted_matching.py
      (writes benchmarks/results/advantage-weighted-matching.json)
The published trainers (yifan123/flow_grpo, kvablack/ddpo-pytorch) are not run: each
is one main() written around the Stable Diffusion pipeline whose weights and text encoders it loads first (gigabytes,
sampled at 512 pixels), logs to wandb, and takes no other network: none runs on a small network without being edited.
The peer is Flow-GRPO as written here, on the same sampler loop and network. Processor seconds of one thread, medians
over epochs, the sides in turns. Memory is the peak resident size of fresh processes over what they had before the step,
at equally many noised images at once. The reward bar is read from the study's result.
"""

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from counterlog.core.study import versions
from counterlog.datasets import digit_images
from counterlog.posttrain.advantage_weighted_matching import (
    AdvantageWeightedMatching,
    AdvantageWeightedMatchingConfig,
)
from counterlog.posttrain.flow_grpo import FlowGRPO, FlowGRPOConfig

EPOCHS, ROUNDS = 2, 2
SIZE = {
    "prompts": 10,
    "images": 16,
    "sampling_steps": 10,
    "lr": 1e-4,
    "samples": 0,
    "ema_decay": 0.0,
    "save_every": 0,
}
RESULTS = Path(__file__).parents[1] / "results"
STUDY = Path(__file__).parents[2] / "src/counterlog/studies/results/advantage-weighted-matching.json"
STEP = """
import resource, sys, torch
torch.set_num_threads(1)
from counterlog.core.image_models import Denoiser, open_image_model
from counterlog.core.image_tuning import ImageTrainee, Judge
from counterlog.datasets import digit_images as d
from counterlog.posttrain.advantage_weighted_matching import *
found = open_image_model(d.untrained_model(0))
net = Denoiser(found.net, found.path)
gen = torch.Generator().manual_seed(0)
def pretrain(n):
    x, eps = (torch.randn(n, 1, 8, 8, generator=gen) for _ in range(2))
    t = torch.rand(n, generator=gen)
    said = net(found.path.noised(x, eps, t), t, {"class_labels": torch.zeros(n).long()})
    (said - found.path.target(x, eps, t)).square().mean().backward()
def match(n):
    c = AdvantageWeightedMatchingConfig.preset("small", prompts=n // 12, images=2, updates=1, beta=0.0, ema_beta=0.0,
        ema_decay=0.0, sampling_batch=n)
    trainee = ImageTrainee(net, found, Judge(list(range(10)), {}, [d.ink]), MatchingLoss(c, found.path), c, 0)
    trainee.loss(net, trainee.batch(0, None), 0)[0].backward()
work = {"pretrain": pretrain, "match": match}[sys.argv[1]]
torch.optim.AdamW(net.parameters())
work(12)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work(1536)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


class Clock:
    """Processor seconds of every epoch."""

    def __init__(self, updates):
        self.updates, self.at = updates, [time.process_time()]

    def on_step_end(self, *, step, **_):
        if (step + 1) % self.updates == 0:
            self.at.append(time.process_time())

    def epochs(self):
        return np.diff(self.at)[1:].tolist()


def timed(kind, updates, **more):
    clock = Clock(updates)
    said = {**SIZE, "updates": updates, "steps": updates * (EPOCHS + 1)}
    if kind == "flow":
        system = FlowGRPO(FlowGRPOConfig(**said, **more))
    else:
        system = AdvantageWeightedMatching(AdvantageWeightedMatchingConfig.preset("small", **said, **more))
    system.tune(digit_images.untrained_model(), reward=digit_images.ink, callbacks=(clock,))
    return clock.epochs()


def in_turns(ours, theirs):
    a, b = [], []
    for _ in range(ROUNDS):
        a += timed("awm", *ours[:1], **ours[1])
        b += timed("flow", *theirs[:1], **theirs[1])
    return statistics.median(a), statistics.median(b)


def memory():
    return {
        kind: float(
            subprocess.run(
                [sys.executable, "-c", STEP, kind], capture_output=True, text=True, check=True
            ).stdout
        )
        for kind in ("pretrain", "match")
    }


def images_needed():
    """Images of AWM to Flow-GRPO's last reward, as a share of Flow-GRPO's, from the committed study."""
    table = next(t for t in json.loads(STUDY.read_text())["tables"] if t["title"] == "Ink by images")
    last = max((r for r in table["rows"] if r["method"] == "Flow-GRPO"), key=lambda r: r["images"])
    ours = [r["images"] for r in table["rows"] if r["method"] == "AWM" and r["reward"] >= last["reward"]]
    return min(ours, default=10 * last["images"]) / last["images"]


def main():
    torch.set_num_threads(1)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    bare = in_turns((1, {"beta": 0.0, "ema_beta": 0.0}), (1, {"beta": 0.0}))
    whole = in_turns((2, {}), (2, {}))
    mb = memory()
    per = 1000 / (SIZE["prompts"] * SIZE["images"])
    rows = [
        (
            "an image, no distances, one update an epoch: processor seconds, ours / Flow-GRPO with its KL off",
            bare[0] / bare[1],
            0.8,
            "ratio",
        ),
        (
            "an image, distances to start and average, two updates: processor seconds, ours / Flow-GRPO with its KL",
            whole[0] / whole[1],
            1.15,
            "ratio",
        ),
        (
            "images to Flow-GRPO's last ink, ours / Flow-GRPO (from the study)",
            images_needed(),
            1 / 2.5,
            "ratio",
        ),
        (
            "peak memory of an update at 1,536 noised images, ours / a pre-training step",
            mb["match"] / mb["pretrain"],
            1.1,
            "ratio",
        ),
    ]
    result = {
        "bars": [
            {"what": name, "measured": value, "bar": limit, "unit": unit, "held": value <= limit}
            for name, value, limit, unit in rows
        ],
        "milliseconds an image": {
            "ours, no distances, one update": bare[0] * per,
            "Flow-GRPO, no KL, one update": bare[1] * per,
            "ours, two updates": whole[0] * per,
            "Flow-GRPO, two updates": whole[1] * per,
        },
        "megabytes": mb,
        "versions": versions("counterlog", "torch", "diffusers", "accelerate"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path = RESULTS / "advantage-weighted-matching.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
