"""Speed of influence for boosted trees, side by side with the authors' code and with training again.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/trace/tree_influence.py
     (writes benchmarks/results/tree-influence.json; --large: the peer's leaf methods at 455 rows x 100 rounds, minutes;
     --million: a million rows x 1,000 targets x 100 rounds; --only NAME: one row, the others kept from the last run)
PEER_PYTHON, when set, names a Python 3.10 with `tree-influence`: it trains the same LightGBM model on the same rows and
answers the same questions in the same run. Times are processor seconds, medians of REPEATS for ours.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightgbm
import numpy as np
from sklearn.datasets import load_breast_cancer

from counterlog.core.study import versions
from counterlog.trace.tree_influence import TreeInfluence, TreeInfluenceConfig

REPEATS = 5
PEER = """
import json, sys, time
import lightgbm, numpy as np
import sklearn.preprocessing
from tree_influence.explainers import BoostIn, LeafInfluence, LeafRefit, Trex
from tree_influence.explainers import parsers
z = np.load(sys.argv[1]); name = sys.argv[2]
model = lightgbm.LGBMClassifier(n_estimators=int(sys.argv[3]), num_leaves=15, n_jobs=1, verbose=-1).fit(z["X"], z["y"])
kind = {"boostin": BoostIn, "leafinfluence": LeafInfluence, "leafrefit": LeafRefit, "trex": Trex}[name]
start = time.process_time()
found = kind().fit(model, z["X"], z["y"]).get_local_influence(z["X_test"], z["y_test"])
print(json.dumps([time.process_time() - start, float(np.abs(found).sum())]))
"""


def cpu(work, repeats=REPEATS):
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def fit(X, y, rounds):
    return lightgbm.LGBMClassifier(n_estimators=rounds, num_leaves=15, n_jobs=1, verbose=-1).fit(X, y)


def simulated(n, m, rng=0):
    gen = np.random.default_rng(rng)
    X = gen.normal(size=(n + m, 10))
    y = (X[:, 0] + X[:, 1] * X[:, 2] + gen.normal(size=n + m) > 0).astype(int)
    return X[:n], y[:n], X[n:], y[n:]


def cancer(n, m):
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(y))
    X, y = X[order], y[order]
    return X[:n], y[:n], X[n : n + m], y[n : n + m]


def beside_peer(name, data, rounds, repeats=REPEATS):
    """Our seconds (reading the model, checking it, explaining), and the peer's for the same."""
    X, y, X_test, y_test = data
    model, config = fit(X, y, rounds), TreeInfluenceConfig(method=name)
    ours = cpu(lambda: TreeInfluence(model, X, y, config=config).explain(X_test, y_test), repeats)
    total = float(np.abs(TreeInfluence(model, X, y, config=config).explain(X_test, y_test)).sum())
    row = {
        "method": name,
        "n": len(y),
        "targets": len(y_test),
        "rounds": rounds,
        "ours_s": ours,
        "sum_abs": total,
    }
    peer = os.environ.get("PEER_PYTHON")
    if peer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(path, X=X, y=y, X_test=X_test, y_test=y_test)
            done = subprocess.run(
                [peer, "-W", "ignore", "-c", PEER, str(path), name, str(rounds)],
                capture_output=True,
                text=True,
            )
        if done.returncode:
            row["peer_failed"] = done.stderr.strip().splitlines()[-1]
        else:
            row["peer_s"], row["peer_sum_abs"] = json.loads(done.stdout.splitlines()[-1])
            row["times_faster"] = row["peer_s"] / ours
    return row


def beside_retraining(n=2_000, targets=30, rounds=50, trained=40):
    """All scores by BoostIn against n trainings (a sample of them, scaled up)."""
    X, y, X_test, y_test = simulated(n, targets)
    model = fit(X, y, rounds)
    boostin = cpu(lambda: TreeInfluence(model, X, y).explain(X_test, y_test))
    rows = np.arange(n)

    def some():
        for i in range(trained):
            fit(X[rows != i], y[rows != i], rounds).predict_proba(X_test)

    loo = cpu(some, 1) * n / trained
    return {
        "n": n,
        "targets": targets,
        "rounds": rounds,
        "boostin_s": boostin,
        "loo_s": loo,
        "ratio": loo / boostin,
    }


def streaming(n, targets, rounds):
    """Seconds and added peak memory (MB) of sums over targets, and of the ten best rows of every target."""
    X, y, X_test, y_test = simulated(n, targets)
    model = fit(X, y, rounds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    aggregate = cpu(
        lambda: TreeInfluence(model, X, y, config=TreeInfluenceConfig(memory_mb=256)).aggregate(
            X_test, y_test
        ),
        1,
    )
    middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    topk = cpu(
        lambda: TreeInfluence(model, X, y, config=TreeInfluenceConfig(memory_mb=256)).topk(
            X_test, y_test, 10
        ),
        1,
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "n": n,
        "targets": targets,
        "rounds": rounds,
        "aggregate_s": aggregate,
        "aggregate_added_mb": (middle - before) / 1024,
        "topk_s": topk,
        "topk_added_mb": (after - before) / 1024,
    }


def memory(n, targets, rounds):
    """Peak memory that `explain` adds, as a multiple of the (n, targets) answer; a process of its own would be cleaner,
    so this runs first."""
    X, y, X_test, y_test = simulated(n, targets)
    model = fit(X, y, rounds)
    config = TreeInfluenceConfig(memory_mb=2 * 8 * n * targets / 2**20 / 4)
    TreeInfluence(model, X[:500], y[:500], config=TreeInfluenceConfig(allow_inexact=True)).explain(
        X_test[:5], y_test[:5]
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TreeInfluence(model, X, y, config=config).explain(X_test, y_test)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "n": n,
        "targets": targets,
        "rounds": rounds,
        "times_the_answer": (after - before) * 1024 / (8 * n * targets),
    }


def merged(path, name, row):
    """The last result with one of its `beside_peer` rows (same method, n and rounds) replaced or added."""
    result = json.loads(path.read_text())
    if name == "memory":
        return {**result, "memory": row}
    same = ("method", "n", "rounds")
    kept = [r for r in result["beside_peer"] if any(r[k] != row[k] for k in same)]
    return {**result, "beside_peer": [*kept, row]}


def main():
    large = "--large" in sys.argv  # minutes in the peer
    path = Path(__file__).parents[1] / "results" / "tree-influence.json"
    leaves = (cancer(455, 114), 100) if large else (cancer(300, 20), 20)
    rows = {
        "boostin": lambda: beside_peer("boostin", simulated(5_000, 500), 100, 3),
        "leafinfluence": lambda: beside_peer("leafinfluence", *leaves),
        "leafrefit": lambda: beside_peer("leafrefit", *leaves),
        "trex": lambda: beside_peer("trex", cancer(455, 114), 100, 3),
    }
    if "--only" in sys.argv:
        name = sys.argv[sys.argv.index("--only") + 1]
        row = memory(5_000, 500, 100) if name == "memory" else rows[name]()
        result = merged(path, name, row)
    else:
        used = memory(5_000, 500, 100)
        result = {"beside_peer": [row() for row in rows.values()], "memory": used}
        result |= {"beside_retraining": beside_retraining(), "streaming": [streaming(32_561, 1_000, 100)]}
        if "--million" in sys.argv:
            result["streaming"].append(streaming(1_000_000, 1_000, 100))
        result["versions"] = versions("counterlog", "numpy", "scipy", "lightgbm")
        result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
