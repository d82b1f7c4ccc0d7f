"""Speed of A2PR: an update beside the authors' class and beside our own TD3+BC.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/learn/a2pr.py
     (writes benchmarks/results/a2pr.json)
A2PR_CODE, when set, names a checkout of the authors' repository (ltlhuuu/A2PR): its class and buffer are run as
published, sampling and logging included. All learn on the same random rows of HalfCheetah's sizes (17 states, 6
actions), batch 256. Sizes of the paper: policy 3 x 256, critics and V 4 x 256, VAE 2 x 750. Sides take turns; times are
processor milliseconds a seed and update, one thread, medians over turns.
"""

import importlib
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from counterlog.core.episodes import Episodes
from counterlog.core.study import versions
from counterlog.learn.a2pr import A2PR, A2PRConfig
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

TURNS, ROWS, D, K = 5, 100_000, 17, 6


def random_rows(rng=0):
    gen = np.random.default_rng(rng)
    return {
        "observations": gen.normal(size=(ROWS, D)).astype(np.float32),
        "actions": gen.uniform(-1, 1, (ROWS, K)).astype(np.float32),
        "rewards": gen.normal(size=ROWS).astype(np.float32),
        "terminals": np.zeros(ROWS, np.float32),
    }


def ours(learner, log):
    learner.start(learner.prepare(log))
    return lambda: learner.update(learner.draw()), len(learner.seeds)


def authors(data, folder):
    """Their class and buffer, one seed."""
    sys.path.insert(0, folder)
    try:
        theirs = importlib.import_module("A2PR")
        from utils.buffer import ReplayBuffer
    finally:
        sys.path.remove(folder)
    buffer = ReplayBuffer(D, K, "cpu", "", 1.0, 0.0, max_size=1)
    buffer.D4RL_convert({**data, "next_observations": np.roll(data["observations"], -1, axis=0)})
    learner = theirs.A2PR(D, K, 1.0, torch.device("cpu"))
    return lambda: learner.train(buffer, 256), 1


def turn(work, n):
    update, seeds = work
    start = time.process_time()
    for _ in range(n):
        update()
    return 1000 * (time.process_time() - start) / n / seeds


def take_turns(sides):
    """Name -> milliseconds; every side once a turn."""
    found = {name: [] for name in sides}
    for work, _ in sides.values():
        turn(work, 2)
    for _ in range(TURNS):
        for name, (work, n) in sides.items():
            found[name].append(turn(work, n))
    return {name: statistics.median(times) for name, times in found.items()}


def main():
    torch.set_num_threads(1)
    data = random_rows()
    log = Episodes(
        offsets=np.arange(0, ROWS + 1, 1000), state=data["observations"], action=data["actions"],
        reward=data["rewards"], truncated=np.arange(ROWS) % 1000 == 999,
    )  # fmt: skip
    big = {
        "A2PR, 1 seed": (ours(A2PR(), log), 10),
        "A2PR, 5 seeds": (ours(A2PR(A2PRConfig(seeds=5)), log), 2),
        "A2PR, 5 seeds, guide held": (ours(A2PR(A2PRConfig(seeds=5, detach_guide=True)), log), 2),
        "A2PR, 5 seeds, guide held, VAE every 2": (
            ours(A2PR(A2PRConfig(seeds=5, detach_guide=True, vae_every=2)), log),
            2,
        ),
        "TD3+BC, 5 seeds": (ours(TD3BC(TD3BCConfig(seeds=5, hidden=(256, 256, 256))), log), 4),
    }
    if folder := os.environ.get("A2PR_CODE"):
        big["authors' class"] = (authors(data, folder), 10)
    at_paper = take_turns(big)
    small = {"seeds": 5, "hidden": (64, 64), "batch": 128}
    at_64 = take_turns(
        {
            "A2PR": (ours(A2PR(A2PRConfig(critic_hidden=(64, 64), vae_hidden=(128, 128), **small)), log), 20),
            "TD3+BC": (ours(TD3BC(TD3BCConfig(**small)), log), 40),
        }
    )

    def ratio(what, times, a, b, bar):
        measured = times[a] / times[b]
        return {"what": what, "unit": "ratio", "measured": measured, "bar": bar, "held": measured <= bar}

    checks = [
        ratio(
            "paper's sizes, 5 seeds, against our TD3+BC", at_paper, "A2PR, 5 seeds", "TD3+BC, 5 seeds", 4.0
        ),
        ratio("64-64, VAE 128, 5 seeds, batch 128, against our TD3+BC", at_64, "A2PR", "TD3+BC", 4.0),
    ]
    if "authors' class" in at_paper:
        checks = [
            ratio(
                "paper's sizes, 5 seeds, against the authors' class",
                at_paper,
                "A2PR, 5 seeds",
                "authors' class",
                0.65,
            ),
            ratio(
                "the same with the guide held constant",
                at_paper,
                "A2PR, 5 seeds, guide held",
                "authors' class",
                0.65,
            ),
            *checks,
        ]
    result = {
        "checks": checks,
        "ms_per_seed_update_paper_sizes": at_paper,
        "ms_per_seed_update_64_64": at_64,
        "versions": versions("counterlog", "numpy", "torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "a2pr.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
