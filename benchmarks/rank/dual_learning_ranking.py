"""Speed of learning from clicks, beside ULTRA's PyTorch toolbox and a plain softmax-loss step.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/rank/dual_learning_ranking.py
     (writes benchmarks/results/dual-learning-ranking.json)
ULTRA_PYTORCH, when set, is a checkout of ULTR-Community/ULTRA_pytorch: its click models answer the same lists in
the same run. Times are processor seconds, both sides in turns; ratios are medians.
"""

import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from counterlog.core.ranking_metrics import ndcg
from counterlog.core.study import versions
from counterlog.datasets.click_logs import simulated_queries
from counterlog.rank.click_losses import softmax_loss
from counterlog.rank.click_simulators import Cascade, PositionBased, UserBrowsing
from counterlog.rank.click_training import ListSampler
from counterlog.rank.dual_learning_ranking import DualLearner, DualLearningRankingConfig

TURNS = 9


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(first, second, turns=TURNS):
    """Medians of both, and of their ratio second / first."""
    pairs = [(seconds(first), seconds(second)) for _ in range(turns)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def steps(hidden, batch=256, count=60):
    """Seconds of a DLA step and of a plain step, each with the drawing of its lists, and their ratio."""
    log = simulated_queries(0).log(50_000)
    config = DualLearningRankingConfig(hidden=hidden)
    learner = DualLearner(log, config, rng=0)
    sampler = ListSampler(log, config, learner.scaled)

    def dual():
        for k in range(count):
            learner.step(sampler.draw(batch, (0, k)))

    def plain():
        for k in range(count):
            b = sampler.draw(batch, (0, k))
            learner.net.descend(softmax_loss(learner.net.scores(b.x), b.click, None))

    dual(), plain()
    a, b, ratio = in_turns(plain, dual)
    return {"hidden": list(hidden), "plain_s": a / count, "dual_s": b / count, "ratio": ratio}


def ultra_models(path):
    spec = importlib.util.spec_from_file_location(
        "peer_click_models", Path(path) / "ultra/utils/click_models.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def simulation(peer_path, lists=200_000, peer_lists=5_000):
    """Lists a second of ours and of the peer's, for each click model."""
    grade = np.random.default_rng(0).integers(0, 5, size=(lists, 10))
    pairs = {"PBM": (PositionBased(), "PositionBiasedModel"), "UBM": (UserBrowsing(), "UserBrowsingModel")}
    pairs["cascade"] = (Cascade(), "CascadeModel")
    rows = []
    for name, (ours, theirs) in pairs.items():
        gen = np.random.default_rng(1)
        row = {"model": name}
        if peer_path:
            peer = getattr(ultra_models(peer_path), theirs)(0.1, 1.0, 4, 1.0)
            random.seed(0)
            few = grade[:peer_lists].tolist()
            a, b, _ = in_turns(
                lambda m=ours, g=gen: m.clicks(grade, g),
                lambda m=peer, ys=few: [m.sampleClicksForOneList(y) for y in ys],
                5,
            )
            row |= {"ours_lists_per_s": lists / a, "peer_lists_per_s": peer_lists / b}
            row["times_faster"] = row["ours_lists_per_s"] / row["peer_lists_per_s"]
        else:
            row["ours_lists_per_s"] = lists / statistics.median(
                seconds(lambda m=ours, g=gen: m.clicks(grade, g)) for _ in range(5)
            )
        rows.append(row)
    return rows


def metric(lists=100_000):
    gen = np.random.default_rng(2)
    score, label = gen.normal(size=lists * 10), gen.integers(0, 5, size=lists * 10).astype(float)
    offsets = np.arange(lists + 1) * 10
    return statistics.median(seconds(lambda: ndcg(score, label, offsets, 10)) for _ in range(5))


def memory():
    """Added peak memory (MB) of a stream of logs: 20 parts of 10,000 lists, then 60 more parts."""
    population = simulated_queries(0)
    first = population.log(10_000)
    learner = DualLearner(first, DualLearningRankingConfig(), rng=0)
    learner.update(first)
    out = []
    for parts in (20, 60):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for part in range(parts):
            learner.update(population.log(10_000, rng=part))
        out.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    return out


def bar(claim, measured, text, held):
    return {"claim": claim, "measured": measured, "bar": text, "held": bool(held)}


def main():
    torch.set_num_threads(1)
    peer = os.environ.get("ULTRA_PYTORCH")
    stream = memory()  # first: a peak that was reached before would hide it
    small, paper = steps((32,)), steps((512, 256, 128), count=6)
    clicks = simulation(peer)
    ndcg_s = metric()
    by = {row["model"]: row.get("times_faster") for row in clicks}
    bars = [
        bar("DLA step over a plain step, MLP 32", small["ratio"], "<= 1.15", small["ratio"] <= 1.15),
        bar("DLA step over a plain step, MLP 512-256-128", paper["ratio"], "<= 1.15", paper["ratio"] <= 1.15),
        bar("nDCG@10 of 100,000 lists of 10, CPU s", ndcg_s, "<= 0.2", ndcg_s <= 0.2),
        bar("memory added by 600,000 more lists, MB", stream[1], "<= 20", stream[1] <= 20),
    ]
    if peer:
        bars += [
            bar("PBM clicks, times ULTRA's speed", by["PBM"], ">= 15", by["PBM"] >= 15),
            bar("UBM clicks, times ULTRA's speed", by["UBM"], ">= 5", by["UBM"] >= 5),
        ]
    result = {
        "bars": bars,
        "steps": [small, paper],
        "clicks": clicks,
        "ndcg_s": ndcg_s,
        "stream_added_mb": stream,
        "versions": versions("counterlog", "numpy", "torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path = Path(__file__).parents[1] / "results" / "dual-learning-ranking.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.exit(main())
