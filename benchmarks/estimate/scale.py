"""Speed and memory of evaluation over a Parquet log: against the engines' bare scan, obp and VW, in one run.

Run: OMP_NUM_THREADS=1 COUNTERLOG_PEERS=peers/bin/python python benchmarks/estimate/scale.py FOLDER [--full] [--write]
(FOLDER keeps the generated logs and what was measured so far: a run that was killed goes on where it was, and
`--minutes M` stops it after about M minutes. 1e7 rows, or with --full 1e8: 3 GB. `--write` writes
benchmarks/results/estimate-scale.json; peers.py says how the peers' interpreter is made.) Without COUNTERLOG_PEERS the
peers' rows are left out, and the result says so.

Times are processor seconds, user and system, over all threads, of the job alone without imports; every ratio is of two
minima over repeats that alternate. Resident memory is the peak of a fresh process, imports included.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from record import HERE, child, peer, write  # the file beside this one
from scale_logs import narrow, wide

SIZES = {False: (1_000_000, 10_000_000), True: (1_000_000, 10_000_000, 100_000_000)}
ENGINES, EVERY = ("polars", "duckdb"), ("polars", "duckdb", "dask", "spark")
PEER_ROWS = 1_000_000  # the peers' log; their larger ones repeat it
NAMES = {"polars": "Polars", "duckdb": "DuckDB", "dask": "Dask", "spark": "Spark"}
ROUNDS = 3
KINDS = ("imports", "bare scan", "ten policies, bootstrap")


class NotMeasured(Exception):  # noqa: N818 - a state of the notebook, no error
    """Nothing more is measured, and there is no answer under this name."""


class Notebook:
    """What was measured so far, in FOLDER/measured.json; with `finish` nothing more is measured."""

    def __init__(self, folder, minutes, finish=False):
        self.path, self.end = folder / "measured.json", time.monotonic() + 60 * minutes
        self.finish, self.left_out = finish, []
        self.held = json.loads(self.path.read_text()) if self.path.exists() else {}

    def __call__(self, name, work):
        """The answer under this name, measured now unless it was before."""
        if name not in self.held:
            if self.finish:
                self.left_out.append(name)
                raise NotMeasured(name)
            if time.monotonic() > self.end:
                raise SystemExit(f"time is up before {name!r}; the same command goes on from here")
            start = time.monotonic()
            answer = work()
            self.held = (json.loads(self.path.read_text()) if self.path.exists() else {}) | {name: answer}
            self.path.write_text(json.dumps(self.held))
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        return self.held[name]


def ask(worker, *arguments):
    return child([sys.executable, HERE / "scale_workers.py", worker, *map(str, arguments)])


def check(claim, measured, bar, *, above=False):
    return {"claim": claim, "measured": measured, "bar": f"{'>=' if above else '<='} {bar:g}",
            "held": bool(measured >= bar if above else measured <= bar)}  # fmt: skip


def sizes_of(note, folder, sizes):
    """Seconds and memory of every size on the engines that hold it on one machine."""
    measured = []
    for n in sizes:
        note(f"log of {n}", lambda n=n: str(narrow(folder, n)))
        path = folder / f"narrow-{n}"
        for engine in ENGINES:
            with contextlib.suppress(NotMeasured):
                measured.append(size_of(note, path, n, engine))
    return measured


def size_of(note, path, n, engine):
    """Seconds and memory of one size on one engine."""
    repeats = {1_000_000: 3, 10_000_000: 3}.get(n, 0)
    found = note(f"scan {n} {engine}", lambda: ask("scan", path, engine, repeats))
    memory = {}
    for kind in KINDS:
        answer = note(f"memory {n} {engine} {kind}", lambda k=kind: ask("memory", path, engine, k))
        memory[kind] = answer["rss_mb"]
    size = sum(f.stat().st_size for f in path.glob("*.parquet")) / 2**20
    return {"rows": n, "engine": engine, "file_mb": size, "rss_mb": memory, **found}


def checks_of_scan(s):
    seconds, name = s["seconds"], f"{s['rows']:.0e} rows, {s['engine']}: ".replace("+0", "")
    three, twelve = seconds["bare scan of 3 columns"], seconds["bare scan of 12 columns"]
    one, ten = seconds["statistics, 1 policy"], seconds.get("statistics, 10 policies")
    drawn = seconds["buckets and 1,000 replicates, 10 policies"]
    return [
        check(f"{name}statistics of 1 policy to the bare scan of 3 columns", one / three, 1.5),
        *([check(f"{name}statistics of 10 policies to the bare scan of 12 columns", ten / twelve, 1.5)] if ten else []),
        check(f"{name}buckets and 1,000 replicates of 10 policies to the bare scan of 12 columns", drawn / twelve, 6),
        check(f"{name}peak resident MB", s["rss_mb"]["ten policies, bootstrap"], 600),
        check(f"{name}bootstrap width to t width, largest relative difference", s["width_difference"], 0.1),
    ]  # fmt: skip


def growth(sizes):
    """Slope of log seconds over log rows, and memory of the largest log to the smallest, on each engine."""
    checks = []
    for engine in ENGINES:
        held = [s for s in sizes if s["engine"] == engine and s["rows"] >= 10_000_000]
        every = [s for s in sizes if s["engine"] == engine]
        rss = [s["rss_mb"]["ten policies, bootstrap"] for s in every]
        checks.append(
            check(
                f"{engine}: peak memory at {every[-1]['rows']:,} rows to {every[0]['rows']:,}",
                rss[-1] / rss[0],
                1.5,
            )
        )
        if len(held) > 1:
            rows = np.log([s["rows"] for s in held])
            took = np.log([s["seconds"]["buckets and 1,000 replicates, 10 policies"] for s in held])
            slope = float(np.polyfit(rows, took, 1)[0])
            checks.append(check(f"{engine}: slope of log seconds over log rows, 1e7 to 1e8", slope, 1.1))
    values = {}
    for s in sizes:
        values.setdefault(s["rows"], []).append(np.array(s["values"]))
    apart = max(float(np.abs(v / vs[0] - 1).max()) for vs in values.values() for v in vs)
    return [*checks, check("largest relative difference of a value between Polars and DuckDB", apart, 1e-9)]


def everywhere(note, folder, sizes):
    """The same question to every engine and peer, a fresh process each: rows against seconds and memory."""
    asked = []
    for n in sizes:
        for e in EVERY:
            work = lambda e=e, n=n: ask("once", folder / f"narrow-{n}", e)  # noqa: E731
            asked.append((f"Counterlog on {NAMES[e]}", f"once {n} {e}", n, work))
        copies = n // PEER_ROWS
        for who, worker in (("obp", "obp_once"), ("Vowpal Wabbit", "vw_once")):
            work = lambda w=worker, c=copies: peer(w, folder, c)  # noqa: E731
            asked.append((who, f"{worker} {copies}", n, work))
    rows = []
    for who, name, n, work in asked:
        with contextlib.suppress(NotMeasured):
            if found := note(name, work):
                rows.append({"who": who, "rows": n, **found})
    return rows


def least(answers):
    """The least of every number in dictionaries of seconds."""
    return {name: min(a["seconds"][name] for a in answers) for name in answers[0]["seconds"]}


def against_peers(note, folder, path):
    """Ours, obp and VW in turn, three times."""
    ours, obp, weighted, robust = [], [], [], []
    for k in range(ROUNDS):
        ours.append(note(f"points {k}", lambda: ask("points", path)))
        obp.append(note(f"obp_points {k}", lambda: peer("obp_points", folder)))
        weighted.append(note(f"vw ips {k}", lambda: peer("vw", folder, "ips")))
        robust.append(note(f"vw dr {k}", lambda: peer("vw", folder, "dr")))
    drawn = note("obp_bootstrap", lambda: peer("obp_bootstrap", folder))
    mine = least(ours)
    result = {
        "ours_seconds": mine,
        "ours_values": ours[0]["values"],
        "ours_rss_mb": max(a["rss_mb"] for a in ours),
        "ours_learnt_dr": note("learnt", lambda: ask("learnt", path)),
    }
    with contextlib.suppress(NotMeasured):
        result["ours_streamed_dr"] = note("streamed", lambda: ask("streamed", path))
    if obp[0] is None:
        return result, []
    theirs, replicate = least(obp), drawn["seconds"] / drawn["replicates"]
    vw = {kind: min(a["seconds"] for a in found) for kind, found in (("ips", weighted), ("dr", robust))}
    result |= {
        "obp_seconds": theirs,
        "obp_values": obp[0]["values"],
        "obp_rss_mb": max(a["rss_mb"] for a in obp),
        "obp_seconds_1000_replicates": 1_000 * replicate,
        "obp_replicates_run": drawn["replicates"],
        "vw_seconds": vw,
        "vw_values": {"ips": weighted[0]["value"], "dr": robust[0]["value"]},
        "vw_rss_mb": max(a["rss_mb"] for a in (*weighted, *robust)),
    }
    first, all_four = theirs["IPS"] + theirs["SNIPS"], sum(theirs.values())
    apart = max(abs(ours[0]["values"][k] / v - 1) for k, v in obp[0]["values"].items())
    single = abs(ours[0]["values"]["best"] / weighted[0]["value"] - 1)
    checks = [
        check("obp's IPS and SNIPS to ours with reading Parquet", first / mine["IPS and SNIPS"], 3, above=True),
        check("obp's IPS and SNIPS to our sums alone with reading", first / mine["IPS and SNIPS, sums alone"], 3,
              above=True),
        check("obp's IPS, SNIPS, DM, DR to ours with reading", all_four / mine["IPS, SNIPS, DM and DR"], 3, above=True),
        check("obp's IPS, SNIPS, DM, DR to our sums alone with reading",
              all_four / mine["IPS, SNIPS, DM and DR, sums alone"], 3, above=True),
        check("obp's 1,000 replicates to ours with reading Parquet",
              1_000 * replicate / mine["IPS and SNIPS, 1,000 replicates"], 100, above=True),
        check("largest relative difference of a value to obp", apart, 1e-12),
        check("VW's IPS from its text to ours from Parquet", vw["ips"] / mine["IPS of a deterministic policy"], 1,
              above=True),
        check("relative difference of IPS to VW, which computes in float32", single, 1e-4),
    ]  # fmt: skip
    return result, checks


def peers_or_before(note, folder, path):
    """What was measured beside the peers; with `--finish` the committed result's where it was not measured anew."""
    try:
        return against_peers(note, folder, path)
    except NotMeasured:
        before = json.loads((HERE.parent / "results" / "estimate-scale.json").read_text())
        claims = [c for c in before["checks"] if "obp" in c["claim"] or "VW" in c["claim"]]
        return before["against_peers"] | {"measured": "in an earlier run, not beside the sizes"}, claims


def main():
    asked = argparse.ArgumentParser()
    asked.add_argument("folder", type=Path)
    asked.add_argument("--full", action="store_true")
    asked.add_argument("--write", action="store_true")
    asked.add_argument("--finish", action="store_true", help="measure nothing more; list what is left out")
    asked.add_argument("--minutes", type=float, default=1e9)
    options = asked.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    note, folder = Notebook(options.folder, options.minutes, options.finish), options.folder
    path = wide(folder, PEER_ROWS)
    sizes = sizes_of(note, folder, SIZES[options.full])
    checks = [c for s in sizes for c in checks_of_scan(s)] + growth(sizes)
    peers, found = peers_or_before(note, folder, path)
    checks += found
    rows = everywhere(note, folder, SIZES[options.full])
    result = {"sizes": sizes, "against_peers": peers, "everywhere": rows, "left_out": note.left_out,
              "checks": checks}  # fmt: skip
    if options.write:
        write("estimate-scale", result)
    for row in (*rows, *checks):
        print({k: v for k, v in row.items() if k != "values"})


if __name__ == "__main__":
    main()
