"""Speed and memory of evaluation over a Parquet log: against the engine's bare scan, obp and Vowpal Wabbit, in one run.

Run: OMP_NUM_THREADS=1 COUNTERLOG_PEERS=peers/bin/python python benchmarks/estimate/scale.py FOLDER
(FOLDER keeps the generated logs, 2 GB; writes benchmarks/results/estimate-scale.json; peers.py says how the peers'
interpreter is made). Without COUNTERLOG_PEERS the peers' rows are left out, and the result says so.

Times are processor seconds, user and system, over all threads, of the job alone without imports; every ratio is of two
minima over repeats that alternate. Resident memory is the peak of a fresh process, imports included.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from record import child, peer, write  # the file beside this one

from counterlog.core.derive import derive
from counterlog.core.engine_scan import scan_log
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import LoggedColumn, Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.direct_method import DM
from counterlog.estimate.doubly_robust import DR
from counterlog.estimate.importance_weighting import IPS, SNIPS

ACTIONS, FEATURES, POLICIES, BATCH = 10, 5, 10, 250_000
SIZES = (1_000_000, 10_000_000)
COLUMNS = ["reward", "propensity", *(f"pi_{k}" for k in range(POLICIES))]
PEER_ROWS = SIZES[0]


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def make(folder, n):
    """A log of n rows in Parquet, written in batches; for the peers' size also their arrays and VW's text."""
    path = folder / f"{n}.parquet"
    if path.exists():
        return path
    gen = np.random.default_rng(0)
    beta, gamma = gen.standard_normal((2, FEATURES, ACTIONS))
    others = gen.standard_normal((POLICIES, FEATURES, ACTIONS))
    kept = {k: [] for k in ("reward", "action", "propensity", "pi", "q", "best", "x")}
    writer = None
    for start in range(0, n, BATCH):
        m = min(BATCH, n - start)
        rows, x = np.arange(m), gen.standard_normal((m, FEATURES))
        logging, q = softmax(0.3 * x @ beta), 1 / (1 + np.exp(-(x @ gamma)))
        action = (logging.cumsum(axis=1) < gen.random(m)[:, None]).sum(axis=1).clip(0, ACTIONS - 1)
        reward = (gen.random(m) < q[rows, action]).astype(float)
        chances = [softmax(0.5 * x @ others[k]) for k in range(POLICIES)]
        best = (x @ others[0]).argmax(axis=1)
        columns = {
            "action": action,
            "reward": reward,
            "propensity": logging[rows, action],
            "best": 1.0 * (best == action),
        }
        columns |= {f"pi_{k}": c[rows, action] for k, c in enumerate(chances)} | {
            f"x{j}": v for j, v in enumerate(x.T)
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        if n == PEER_ROWS:
            held = (reward, action, columns["propensity"], chances[0], q.clip(0.1, 0.9), best, x)
            for name, value in zip(kept, held, strict=True):
                kept[name].append(value)
    writer.close()
    if n == PEER_ROWS:
        log = {name: np.concatenate(parts) for name, parts in kept.items()}
        np.savez(folder / "arrays.npz", **log)
        with (folder / "log.vw").open("w") as file:
            for b, a, r, p, x in zip(
                *(log[k].tolist() for k in ("best", "action", "reward", "propensity", "x")), strict=True
            ):
                text = " ".join(f"{j}:{v:.5f}" for j, v in enumerate(x))
                file.write(f"{b + 1} {a + 1}:{-r:g}:{p:.8f} | {text}\n")
    return path


def cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def alternate(jobs, repeats):
    """Least processor seconds of each job over repeats in turn; the first round warms up and is not counted."""
    least = dict.fromkeys(jobs, float("inf"))
    for k in range(repeats + 1):
        for name, work in jobs.items():
            seconds = cpu(work)
            least[name] = min(least[name], seconds) if k else least[name]
    return least


def open_log(path, **roles):
    return Rounds(path, action="action", reward="reward", propensity="propensity", **roles)


def bare(path, columns):
    """The engine's own scan: the sums of the columns and nothing else."""
    return pl.scan_parquet(path).select(pl.sum(c) for c in columns).collect(engine="streaming")


def jobs_of_scan(path):
    log, policies, kinds = (
        open_log(path),
        [LoggedColumn(f"pi_{k}") for k in range(POLICIES)],
        [IPS(), SNIPS()],
    )

    def made(count, *, sums_only=False):
        return scan_log(log, policies[:count], kinds, ("reward",), (), sums_only=sums_only)

    return {
        "bare scan of 3 columns": lambda: bare(path, COLUMNS[:3]),
        "bare scan of 12 columns": lambda: bare(path, COLUMNS),
        "statistics, 1 policy": lambda: derive(made(1, sums_only=True)),
        "statistics, 10 policies": lambda: derive(made(10, sums_only=True)),
        "buckets and t intervals, 1 policy": lambda: derive(made(1)),
        "buckets and t intervals, 10 policies": lambda: derive(made(10)),
        "buckets and 1,000 replicates, 10 policies": lambda: derive(made(10), interval="bootstrap"),
        "opening and checking the log": lambda: open_log(path),
    }


def spread_of_buckets(path):
    """Largest relative difference between standard errors from buckets and exact ones, over policies and estimators."""
    log, policies = open_log(path), [LoggedColumn(f"pi_{k}") for k in range(POLICIES)]
    table = scan_log(log, policies, [IPS(), SNIPS()], ("reward",), ())
    exact, drawn = derive(table), derive(table, interval="bootstrap")
    return max(abs((d.hi - d.lo) / (e.hi - e.lo) - 1) for e, d in zip(exact, drawn, strict=True))


def worker_scan(path, repeats):
    return {
        "seconds": alternate(jobs_of_scan(path), int(repeats)),
        "width_difference": spread_of_buckets(path),
    }


def worker_memory(path, kind):
    if kind == "import":
        pass
    elif kind == "bare":
        bare(path, COLUMNS)
    else:
        policies = [LoggedColumn(f"pi_{k}") for k in range(POLICIES)]
        evaluate(open_log(path), policies, [IPS(), SNIPS()], interval="bootstrap")
    return {"rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def worker_points(path):
    """Reading Parquet included: columns, arrays, and intervals from buckets; the least of 3."""
    log = dict(np.load(Path(path).parent / "arrays.npz"))
    policy, column, best = Table("pi", log["pi"]), LoggedColumn("pi_0"), LoggedColumn("best")
    evaluate(open_log(path), [column], [IPS()])
    answers = {}

    def kept(name, work):
        def run():
            answers[name] = work().estimates

        return run

    jobs = {
        "IPS and SNIPS": kept("columns", lambda: evaluate(open_log(path), [column], [IPS(), SNIPS()])),
        "IPS and SNIPS, sums alone": lambda: derive(
            scan_log(open_log(path), [column], [IPS(), SNIPS()], ("reward",), (), sums_only=True)
        ),
        "IPS, SNIPS, DM and DR": kept(
            "arrays",
            lambda: evaluate(open_log(path), [policy], [IPS(), SNIPS(), DM(), DR()], q={"reward": log["q"]}),
        ),
        "IPS of a deterministic policy": kept("best", lambda: evaluate(open_log(path), [best], [IPS()])),
        "IPS and SNIPS, 1,000 replicates": kept(
            "drawn", lambda: evaluate(open_log(path), [column], [IPS(), SNIPS()], interval="bootstrap")
        ),
    }
    seconds = {name: min(cpu(work) for _ in range(3)) for name, work in jobs.items()}
    values = {e.estimator: e.value for e in answers["arrays"]} | {"best": answers["best"][0].value}
    return {
        "seconds": seconds,
        "values": values,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def worker_learnt(path):
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


def ask(worker, *arguments):
    return child([sys.executable, __file__, "worker", worker, *map(str, arguments)])


def least(answers):
    """The least of every number in dictionaries of seconds."""
    return {name: min(a["seconds"][name] for a in answers) for name in answers[0]["seconds"]}


def against_peers(folder, path, rounds=3):
    """Ours, obp and VW in turn, three times."""
    ours, obp, drawn, weighted, robust = [], [], [], [], []
    for _ in range(rounds):
        ours.append(ask("points", path))
        obp.append(peer("obp_points", folder))
        weighted.append(peer("vw", folder, "ips"))
        robust.append(peer("vw", folder, "dr"))
    drawn.append(peer("obp_bootstrap", folder))
    learnt = ask("learnt", path)
    mine = least(ours)
    result = {
        "ours_seconds": mine,
        "ours_values": ours[0]["values"],
        "ours_rss_mb": max(a["rss_mb"] for a in ours),
    }
    result["ours_learnt_dr"] = learnt
    if obp[0] is None:
        return result, []
    theirs = least(obp)
    replicate = min(d["seconds"] / d["replicates"] for d in drawn)
    vw = {kind: min(a["seconds"] for a in found) for kind, found in (("ips", weighted), ("dr", robust))}
    result |= {
        "obp_seconds": theirs,
        "obp_values": obp[0]["values"],
        "obp_rss_mb": max(a["rss_mb"] for a in obp),
        "obp_seconds_1000_replicates": 1_000 * replicate,
        "obp_replicates_run": drawn[0]["replicates"],
        "vw_seconds": vw,
        "vw_values": {"ips": weighted[0]["value"], "dr": robust[0]["value"]},
        "vw_rss_mb": max(a["rss_mb"] for a in (*weighted, *robust)),
    }
    first, all_four = theirs["IPS"] + theirs["SNIPS"], sum(theirs.values())
    checks = [
        check("obp's IPS and SNIPS to ours with reading Parquet", first / mine["IPS and SNIPS"], 3, above=True),
        check("obp's IPS and SNIPS to our sums alone with reading", first / mine["IPS and SNIPS, sums alone"], 3,
              above=True),
        check("obp's IPS, SNIPS, DM, DR to ours with reading", all_four / mine["IPS, SNIPS, DM and DR"], 3, above=True),
        check("obp's 1,000 replicates to ours with reading Parquet",
              1_000 * replicate / mine["IPS and SNIPS, 1,000 replicates"], 100, above=True),
        check("largest relative difference of a value to obp",
              max(abs(ours[0]["values"][k] / v - 1) for k, v in obp[0]["values"].items()), 1e-12),
        check("VW's IPS from its text to ours from Parquet", vw["ips"] / mine["IPS of a deterministic policy"], 1,
              above=True),
        check("relative difference of IPS to VW, which computes in float32",
              abs(ours[0]["values"]["best"] / weighted[0]["value"] - 1), 1e-4),
    ]  # fmt: skip
    return result, checks


def check(claim, measured, bar, *, above=False):
    return {"claim": claim, "measured": measured, "bar": f"{'>=' if above else '<='} {bar:g}",
            "held": bool(measured >= bar if above else measured <= bar)}  # fmt: skip


def checks_of_scan(n, seconds, width):
    three, twelve = seconds["bare scan of 3 columns"], seconds["bare scan of 12 columns"]
    one, ten = seconds["statistics, 1 policy"], seconds["statistics, 10 policies"]
    rows = f"{n:.0e} rows: ".replace("+0", "")
    return [
        check(f"{rows}statistics of 1 policy to the bare scan of 3 columns", one / three, 1.5),
        check(f"{rows}statistics of 10 policies to the bare scan of 12 columns", ten / twelve, 3),
        check(f"{rows}statistics of 10 policies to those of 1",
              ten / one, 1.5),
        check(f"{rows}buckets and 1,000 replicates of 10 policies to the bare scan of 12 columns",
              seconds["buckets and 1,000 replicates, 10 policies"] / twelve, 6),
        check(f"{rows}bootstrap width to t width, largest relative difference", width, 0.1),
    ]  # fmt: skip


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    sizes, checks = [], []
    for n in SIZES:
        path = make(folder, n)
        scan = ask("scan", path, 7 if n == SIZES[0] else 3)
        memory = {
            kind: ask("memory", path, kind)["rss_mb"]
            for kind in ("import", "bare", "ten policies, bootstrap")
        }
        sizes.append({"rows": n, "file_mb": path.stat().st_size / 2**20, "rss_mb": memory, **scan})
        checks += checks_of_scan(n, scan["seconds"], scan["width_difference"])
        checks.append(
            check(f"{n:.0e} rows: peak resident MB".replace("+0", ""), memory["ten policies, bootstrap"], 600)
        )
    peers, found = against_peers(folder, make(folder, PEER_ROWS))
    checks += found
    write("estimate-scale", {"sizes": sizes, "against_peers": peers, "checks": checks})
    for row in (*sizes, peers, *checks):
        print(row)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        import json

        print(json.dumps(globals()[f"worker_{sys.argv[2]}"](*sys.argv[3:])))
    else:
        main(Path(sys.argv[1]))
