"""Speed of IAU against its bars, all in one run; processor seconds on one thread.

Run: OMP_NUM_THREADS=1 python benchmarks/unlearn/influence_approximation_unlearning.py
Writes benchmarks/results/influence-approximation-unlearning.json
"""

import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from counterlog.core.study import versions
from counterlog.core.torch_models import cross_entropy_rows, mlp
from counterlog.core.torch_training import TrainConfig, train, train_stack
from counterlog.datasets.labelled import digits, mnist_sample
from counterlog.unlearn.influence_approximation_unlearning import IAU, gradient_restriction
from counterlog.unlearn.unlearning_metrics import evaluate

REPEATS = 7


def cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(slow, fast, repeats=REPEATS):
    """Median of slow / fast, each pair measured side by side after one warm-up."""
    slow(), fast()
    return statistics.median(cpu(slow) / cpu(fast) for _ in range(repeats))


def epoch(model, x, y, batch):
    """One plain pass forward and backward, nothing stepped."""
    for start in range(0, len(x), batch):
        model.zero_grad()
        cross_entropy_rows(model, x[start : start + batch], y[start : start + batch]).mean().backward()


def stack_ratio(data, sizes, seeds=5, epochs=3):
    x, y = data
    models = [mlp(sizes, rng=k) for k in range(seeds)]
    config = TrainConfig(epochs=epochs)
    xs, ys = x.expand(seeds, *x.shape), y.expand(seeds, *y.shape)
    return paired(
        lambda: [train(m, x, y, config, rng=k) for k, m in enumerate(models)],
        lambda: train_stack(models, xs, ys, config),
        repeats=3,
    )


def main():
    torch.set_num_threads(1)
    rows = []

    def add(what, measured, bar, *, at_least=False):
        held = measured >= bar if at_least else measured <= bar
        rows.append({"what": what, "measured": measured, "unit": "ratio", "bar": bar, "held": bool(held)})
        print(rows[-1])

    for name, make, sizes, n in (
        ("digits, 64-64-64-10", digits, (64, 64, 64, 10), 1_200),
        ("MNIST sample, 784-128-64-10", mnist_sample, (784, 128, 64, 10), 3_000),
    ):
        x, y = (torch.from_numpy(a[:n]) for a in make())
        if name.startswith("MNIST"):
            order = torch.from_numpy(np.random.default_rng(0).permutation(5_000)[:n])
            x, y = (torch.from_numpy(a)[order] for a in make())
        model, gone = mlp(sizes, rng=0), np.arange(n // 10)
        way = IAU()

        def forget(way=way, model=model, x=x, y=y, gone=gone):
            return way.forget(model, x, y, gone).report.cpu_seconds

        for batch in (64, 1_024):
            forget(), epoch(model, x, y, batch)
            pairs = [(forget(), cpu(lambda: epoch(model, x, y, batch))) for _ in range(3 * REPEATS)]  # noqa: B023
            add(
                f"{name}: IAU to one plain epoch in batches of {batch}",
                statistics.median(a / b for a, b in pairs),
                1.3,
            )
        config = TrainConfig(epochs=2)
        add(
            f"{name}: restricted training to plain",
            paired(
                lambda: train(model, x, y, config, objective=gradient_restriction(0.005)),  # noqa: B023
                lambda: train(model, x, y, config),  # noqa: B023
                repeats=3,
            ),
            2.0,
        )
        add(f"{name}: five seeds one by one to stacked", stack_ratio((x, y), sizes), 2.0, at_least=True)
        trained = train(model, x, y, TrainConfig(epochs=30))
        rest = tuple(torch.from_numpy(a[n : n + 597]) for a in make())
        add(
            f"{name}: evaluation to one retraining",
            cpu(lambda: evaluate(trained, x, y, gone, test=rest))  # noqa: B023
            / cpu(lambda: train(model, x, y, TrainConfig(epochs=30))),  # noqa: B023
            0.2,
        )
    result = {
        "slug": "influence-approximation-unlearning",
        "rows": rows,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions("torch", "numpy", "scikit-learn"),
    }
    target = Path(__file__).parents[1] / "results" / "influence-approximation-unlearning.json"
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
