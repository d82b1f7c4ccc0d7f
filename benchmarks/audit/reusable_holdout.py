"""Speed of the reusable holdout against its bars. No maintained peer exists in Python: the limit is the work itself.

Run: OMP_NUM_THREADS=1 python benchmarks/audit/reusable_holdout.py   (writes benchmarks/results/reusable-holdout.json)
Times are processor seconds, except the ledger's, which waits for the disk: there it is wall time.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from counterlog.audit.holdout_ledger import Ledger
from counterlog.audit.private_multiplicative_weights import PMW
from counterlog.audit.reusable_holdout import Holdout, HoldoutConfig, Thresholdout
from counterlog.core.study import versions

REPEATS = 7


def cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def many_means():
    """1e5 questions given precomputed means; about one in a hundred overfits."""
    gen = np.random.default_rng(0)
    a = gen.normal(0.5, 0.01, 100_000)
    h = a + gen.normal(0, 0.012, 100_000)
    return statistics.median(
        cpu(lambda: Thresholdout(0.04, 0.0025, 10**6, rng=1).answers(a, h)) for _ in range(REPEATS)
    )


def screening(n=10_000, d=2_000):
    """Both halves' correlations of d features by one matrix product each, then the guard; ratio to the products."""
    gen = np.random.default_rng(0)
    x, y = gen.standard_normal((2, n, d)), np.sign(gen.standard_normal((2, n)))

    def product():
        return y[0] @ x[0] / n, y[1] @ x[1] / n

    def guarded():
        a, h = product()
        Thresholdout(0.04, 0.01, 10**6, rng=1).answers(a, h)

    product()
    pairs = [(cpu(product), cpu(guarded)) for _ in range(3 * REPEATS)]
    return statistics.median(p for p, _ in pairs), statistics.median(g / p for p, g in pairs)


def pmw(cells=100_000, questions=1_000):
    gen = np.random.default_rng(0)
    counts = gen.multinomial(50_000, gen.dirichlet(np.full(cells, 0.05)))
    asked = [gen.integers(0, 2, cells).astype(float) for _ in range(40)]
    mechanism = PMW(counts, threshold=0.02, sigma=0.001, budget=10**6)
    seconds = cpu(lambda: [mechanism.ask(asked[k % 40]) for k in range(questions)])
    worst = PMW(counts, threshold=1e-9, sigma=1e-12, budget=10**6)
    every = cpu(lambda: [worst.ask(asked[k % 40]) for k in range(questions)])
    return seconds, mechanism.updates, every, worst.updates


def ledger(rows=500):
    """Wall milliseconds a row: forced to the disk; handed to the system only; and a whole `ask` kept in a folder."""
    fields = {"name": "policy 17", "kind": "ask", "query": "0" * 64, "train": 0.5, "source": "train", "answer": 0.5,
              "noise": "laplace", "scales": [0.02, 0.04, 0.01], "threshold_id": 3, "budget_left": 47, "rho_total": 0.01,
              "candidates": None}  # fmt: skip
    out = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for durable in (True, False):
            book, times = Ledger(Path(folder) / f"{durable}.jsonl", durable=durable), []
            for _ in range(rows):
                start = time.perf_counter()
                book.append(**fields)
                times.append(1e3 * (time.perf_counter() - start))
            book.close()
            out["durable" if durable else "not forced"] = {
                "median": statistics.median(times), "p99": float(np.quantile(times, 0.99)),
            }  # fmt: skip
        times = []
        with open(Path(folder) / "bare", "a") as stream:
            for _ in range(rows):
                start = time.perf_counter()
                stream.write("x" * 600 + "\n")
                stream.flush()
                os.fsync(stream.fileno())
                times.append(1e3 * (time.perf_counter() - start))
        out["bare"] = statistics.median(times)
        values = np.random.default_rng(0).random((2, 10_000))
        with Holdout(10_000, 10_000, config=HoldoutConfig(budget=100), folder=Path(folder) / "kept") as guard:
            times = []
            for _ in range(200):
                start = time.perf_counter()
                guard.ask((values[0], values[1]), "q", bounds=(0, 1))
                times.append(1e3 * (time.perf_counter() - start))
        out["ask in a folder, n = 10,000"] = {
            "median": statistics.median(times),
            "p99": float(np.quantile(times, 0.99)),
        }
    return out


def main():
    means, (product, ratio), (free, updates, every, all_updates), disk = (
        many_means(),
        screening(),
        pmw(),
        ledger(),
    )
    small = screening(n=2_000)
    rows = [
        {"what": "1e5 questions, means given", "measured": means, "unit": "CPU s", "bar": 0.5, "held": means <= 0.5},
        {"what": "screening 2,000 features of 10,000 rows, to the product alone", "measured": ratio, "unit": "ratio",
         "bar": 1.2, "held": ratio <= 1.2, "product_s": product},
        {"what": "screening 2,000 features of 2,000 rows, to the product alone", "measured": small[1], "unit": "ratio",
         "bar": 1.2, "held": small[1] <= 1.2, "product_s": small[0]},
        {"what": "PMW, 1e5 cells, 1,000 questions", "measured": free, "unit": "CPU s", "bar": 5, "held": free <= 5,
         "updates": updates},
        {"what": "PMW, the same, every question an update", "measured": every, "unit": "CPU s", "bar": 5,
         "held": every <= 5, "updates": all_updates},
        {"what": "ledger append, forced to the disk", "measured": disk["durable"]["median"], "unit": "wall ms",
         "bar": 1, "held": disk["durable"]["median"] <= 1, "p99": disk["durable"]["p99"]},
        {"what": "ledger append, not forced", "measured": disk["not forced"]["median"], "unit": "wall ms", "bar": 1,
         "held": disk["not forced"]["median"] <= 1, "p99": disk["not forced"]["p99"]},
        {"what": "the disk alone: 600 bytes written and forced, no ledger", "unit": "wall ms",
         "measured": disk["bare"]},
        {"what": "one ask kept in a folder, 10,000 rows a half", "unit": "wall ms",
         **disk["ask in a folder, n = 10,000"]},
    ]  # fmt: skip
    result = {"slug": "reusable-holdout", "rows": rows, "threads": os.environ.get("OMP_NUM_THREADS"),
              "machine": platform.machine(), "cores": os.cpu_count(),
              "versions": versions("counterlog", "numpy")}  # fmt: skip
    target = Path(__file__).parents[1] / "results" / "reusable-holdout.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
