"""What scale.py measures, each in a fresh process: `python scale_workers.py WORKER ARGUMENT...` prints JSON.

Seconds are processor seconds, user and system, of the process and its children (Spark computes in one); memory is the
peak resident memory of the process and its children, imports included.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from scale_logs import ACTIONS, COLUMNS, FEATURES, POLICIES

from counterlog.core.column_predictions import ColumnPredictions
from counterlog.core.derive import derive
from counterlog.core.engine_scan import scan_log
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import LoggedColumn, Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.direct_method import DM
from counterlog.estimate.doubly_robust import DR
from counterlog.estimate.importance_weighting import IPS, SNIPS

TEN = [LoggedColumn(f"pi_{k}") for k in range(POLICIES)]


def family():
    """This process and its living descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def processor():
    """Processor seconds of the family so far."""
    ticks = 0
    for pid in family():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mb():
    """Peak resident megabytes of the family."""
    total = 0
    for pid in family():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


def cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def alternate(jobs, repeats):
    """Least processor seconds of each job over repeats in turn; the first round warms up, and counts only alone."""
    least = dict.fromkeys(jobs, float("inf"))
    for k in range(repeats + 1):
        for name, work in jobs.items():
            seconds = cpu(work)
            if k or not repeats:
                least[name] = min(least[name], seconds)
    return least


def open_log(path, **roles):
    return Rounds(path, **{"action": "action", "reward": "reward", "propensity": "propensity", **roles})


def bare(log, columns):
    """The engine's own scan: the sums of the columns and nothing else."""
    native = log.frame.to_native()
    if isinstance(native, pl.LazyFrame):
        return lambda: native.select(pl.sum(c) for c in columns).collect(engine="streaming")
    sums = ", ".join(f"sum({c})" for c in columns)
    return lambda: native.aggregate(sums).fetchall()


def scan(path, engine, repeats):
    """The scan of a narrow log beside the engine's bare scan."""
    log = open_log(path, engine=engine)

    def made(count, *, sums_only=False):
        return scan_log(log, TEN[:count], [IPS(), SNIPS()], ("reward",), (), sums_only=sums_only)

    tables = {}

    def drawn():
        tables["made"] = made(10)
        tables["drawn"] = derive(tables["made"], interval="bootstrap")

    jobs = {
        "bare scan of 3 columns": bare(log, COLUMNS[:3]),
        "bare scan of 12 columns": bare(log, COLUMNS),
        "statistics, 1 policy": lambda: derive(made(1, sums_only=True)),
        "statistics, 10 policies": lambda: derive(made(10, sums_only=True)),
        "buckets and t intervals, 1 policy": lambda: derive(made(1)),
        "buckets and t intervals, 10 policies": lambda: derive(made(10)),
        "buckets and 1,000 replicates, 10 policies": drawn,
        "opening and checking the log": lambda: open_log(path, engine=engine),
    }
    if int(repeats) == 0:  # the largest log: the first and last questions of the bars, once each
        asked = ("bare scan of 3 columns", "bare scan of 12 columns", "statistics, 1 policy")
        jobs = {name: work for name, work in jobs.items() if name in asked or "replicates" in name}
    seconds = alternate(jobs, int(repeats))
    exact = derive(tables["made"])  # t intervals are exact: second moments are those of rows
    width = max(abs((d.hi - d.lo) / (e.hi - e.lo) - 1) for e, d in zip(exact, tables["drawn"], strict=True))
    values = [e.value for e in exact]
    return {"seconds": seconds, "width_difference": width, "values": values}


def memory(path, engine, kind):
    """Peak memory of ten policies with bootstrap intervals, of the bare scan, or of the imports alone."""
    if kind == "bare scan":
        bare(open_log(path, engine=engine), COLUMNS)()
    elif kind != "imports":
        evaluate(open_log(path, engine=engine), TEN, [IPS(), SNIPS()], interval="bootstrap")
    return {"rss_mb": peak_mb()}


def once(path, engine):
    """One question as a user asks it, Parquet to intervals: one policy by IPS and SNIPS; seconds without imports."""
    if engine == "spark":
        from counterlog.core.engines import spark_session

        spark_session()
    before, wall = processor(), time.monotonic()
    found = evaluate(open_log(path, engine=engine), TEN[:1], [IPS(), SNIPS()])
    return {
        "seconds": processor() - before,
        "wall_seconds": time.monotonic() - wall,
        "rss_mb": peak_mb(),
        "values": [e.value for e in found.estimates],
    }


def streamed(path):
    """DR with its own model over a log that is never collected: linear model, two folds."""
    log = open_log(path, context=[f"x{j}" for j in range(FEATURES)])
    names = ["always:0", "uniform"]
    start = processor()
    found = evaluate(log, names, [DR()], model="linear", folds=2, streamed=True)
    return {"seconds": processor() - start, "rss_mb": peak_mb(), "values": [e.value for e in found.estimates]}


def points(path):
    """Reading Parquet included: columns, arrays, and intervals from buckets; the least of 3."""
    log = dict(np.load(Path(path).parent / "arrays.npz"))
    policy, column, best = Table("pi", log["pi"]), LoggedColumn("pi_0"), LoggedColumn("best")
    q = {"reward": ColumnPredictions("q", {"column:pi_0": "v"})}
    four = [IPS(), SNIPS(), DM(), DR()]
    evaluate(open_log(path), [column], [IPS()])
    answers = {}

    def kept(name, work):
        def run():
            answers[name] = work().estimates

        return run

    jobs = {
        "IPS and SNIPS": kept("columns", lambda: evaluate(open_log(path), [column], [IPS(), SNIPS()])),
        "IPS and SNIPS, sums alone": kept(
            "alone", lambda: evaluate(open_log(path), [column], [IPS(), SNIPS()], sums_only=True)
        ),
        "IPS, SNIPS, DM and DR": kept("scan", lambda: evaluate(open_log(path), [column], four, q=q)),
        "IPS, SNIPS, DM and DR, sums alone": kept(
            "scan alone", lambda: evaluate(open_log(path), [column], four, q=q, sums_only=True)
        ),
        "IPS, SNIPS, DM and DR, arrays": kept(
            "arrays", lambda: evaluate(open_log(path), [policy], four, q={"reward": log["q"]})
        ),
        "IPS of a deterministic policy": kept("best", lambda: evaluate(open_log(path), [best], [IPS()])),
        "IPS and SNIPS, 1,000 replicates": kept(
            "drawn", lambda: evaluate(open_log(path), [column], [IPS(), SNIPS()], interval="bootstrap")
        ),
    }
    seconds = {name: min(cpu(work) for _ in range(3)) for name, work in jobs.items()}
    values = {e.estimator: e.value for e in answers["scan"]} | {"best": answers["best"][0].value}
    return {"seconds": seconds, "values": values, "rss_mb": peak_mb()}


def learnt(path):
    """DR with its model: cross-fitted logistic regression on two folds for the policy that VW is asked about."""
    log = dict(np.load(Path(path).parent / "arrays.npz"))
    policy = Table("best", np.eye(ACTIONS)[log["best"]])
    names = [f"x{j}" for j in range(FEATURES)]
    answers = []
    seconds = cpu(
        lambda: answers.append(
            evaluate(open_log(path, context=names), [policy], [DR()], model="linear", folds=2)
        )
    )
    return {"seconds": seconds, "value": answers[0].estimates[0].value}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
