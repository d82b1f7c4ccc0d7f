"""Certificates of many predictions: time and memory of arrays, beside loops over predictions with a table.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/audit/run_off_election.py
(writes benchmarks/results/run-off-election.json). The loops are a plain transcription of the published algorithm made
for this comparison: one prediction at a time, a table of V2, a pass over all pairs of classes, a sort for every greedy
count. With COUNTERLOG_PEER_ROE naming a checkout of github.com/k1rezaei/Run-Off-Election, its own scripts run as well
(`.cuda()` does nothing, torchvision and tqdm are stood in for); theirs is the time for all predictions minus the time
for one, so that imports and the reading of the table do not count. All times are processor seconds, in the same run.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from counterlog.audit.run_off_election import certify, two_rivals
from counterlog.core.study import versions

ROOT = Path(__file__).parents[1]
MOST = 1_210


def seconds(work, least=0.3):
    """Best processor time of repeated calls, at least `least` seconds in all."""
    best, spent = np.inf, 0.0
    while spent < least:
        start = time.process_time()
        work()
        last = time.process_time() - start
        best, spent = min(best, last), spent + max(last, 1e-6)
    return best


def table_of(most):
    v = np.zeros((most + 1, most + 1), dtype=int)
    for i in range(most + 1):
        for j in range(most + 1):
            if i or j:
                v[i, j] = 1 + min(v[max(i - 2, 0), max(j - 1, 0)], v[max(i - 1, 0), max(j - 2, 0)])
    return v


def gap(votes, a, b):
    return votes[a] - votes[b] + (b > a)


def election(s):
    m, classes = s.shape
    votes = [0] * classes
    choice = [max(range(classes), key=lambda c: (row[c], -c)) for row in s]
    for c in choice:
        votes[c] += 1
    one, two = sorted(range(classes), key=lambda c: (-votes[c], c))[:2]
    ahead = 2 * preferring(s, one, two) - m + (two > one)
    return (votes, choice, one, two) if ahead > 0 else (votes, choice, two, one)


def preferring(s, p, c):
    return sum(1 for row in s if row[p] > row[c] or (row[p] == row[c] and p < c))


def loop_dpa_roe(scores, table):
    found = []
    for s in scores:
        m, classes = s.shape
        votes, _, p, other = election(s)
        rivals = [c for c in range(classes) if c != p]
        out = min(
            table[max(gap(votes, p, a), 0), max(gap(votes, p, b), 0)] for a in rivals for b in rivals if a < b
        )
        lost = min(
            max(
                0 if c == other else -(-max(gap(votes, other, c), 0) // 2),
                -(-max(2 * preferring(s, p, c) - m + (c > p), 0) // 2),
            )
            for c in rivals
        )
        found.append((p, min(out, lost) - 1))
    return np.array(found)


def greedy(power, need):
    if need <= 0:
        return 0
    total = 0
    for count, value in enumerate(sorted(power, reverse=True), 1):
        total += value
        if total >= need:
            return count
    return len(power) + 1


def loop_fa_roe(scores, shifts):
    found = []
    for s in scores:
        m, classes = s.shape
        votes, choice, p, other = election(s)
        homes = [[(b + h) % m for h in shifts] for b in range(m)]

        def alone(a, c, choice=choice, homes=homes):
            return [sum(1 + (choice[j] == a) - (choice[j] == c) for j in home) for home in homes]

        rivals, costs = [c for c in range(classes) if c != p], []
        for a in rivals:
            for b in rivals:
                if a < b:
                    both = [
                        sum(1 + 2 * (choice[j] == p) - (choice[j] == a) - (choice[j] == b) for j in home)
                        for home in homes
                    ]
                    costs.append(
                        max(
                            greedy(alone(p, a), gap(votes, p, a)),
                            greedy(alone(p, b), gap(votes, p, b)),
                            greedy(both, gap(votes, p, a) + gap(votes, p, b)),
                        )
                    )
        for c in rivals:
            reach = 0 if c == other else greedy(alone(other, c), gap(votes, other, c))
            prefers = [row[p] > row[c] or (row[p] == row[c] and p < c) for row in s]
            duel = greedy(
                [2 * sum(prefers[j] for j in home) for home in homes], 2 * sum(prefers) - m + (c > p)
            )
            costs.append(max(reach, duel))
        found.append((p, min(costs) - 1))
    return np.array(found)


OFFICIAL = """
import sys, time, types, runpy, torch, numpy as np
for name in ("torchvision", "torchvision.transforms", "tqdm"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
sys.modules["tqdm"].tqdm = lambda x: x
torch.set_num_threads(1)
torch.Tensor.cuda = lambda self: self
script, rows, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
scores = torch.from_numpy(np.load("scores.npy")[:rows])
torch.save({"scores": scores, "labels": torch.from_numpy(np.load("labels.npy")[:rows])}, "evaluations/s_v0.pth")
sys.argv = [script, "--evaluations", "s", "--version", "0", *options]
start = time.process_time()
runpy.run_path(script)
print("SECONDS", time.process_time() - start)
"""


def official(script, scores, prediction, *options):
    """Processor seconds of the official script for all rows beyond one, and its certificates; None without it."""
    folder = os.environ.get("COUNTERLOG_PEER_ROE")
    if not folder:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in ("evaluations", "certs", "data"):
            (work / name).mkdir()
        i, j = np.indices((MOST, MOST))
        (work / "data" / "array_v2.json").write_text(
            json.dumps(two_rivals(i, j).tolist())
        )  # as its dp_calc.py
        np.save(work / "scores.npy", scores)
        np.save(work / "labels.npy", prediction)
        took = []
        for rows in (1, len(scores)):
            command = [
                sys.executable,
                "-c",
                OFFICIAL,
                str(Path(folder).resolve() / script),
                str(rows),
                *options,
            ]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
            took.append(float(done.stdout.rsplit("SECONDS", 1)[1]))
    return took[1] - took[0]


def scores_of(gen, n, m, classes):
    s = gen.standard_normal((n, m, classes), dtype=np.float32)
    s[np.arange(n), :, gen.integers(0, classes, n)] += np.float32(1.0)
    return s


def compare(name, ours, loops, theirs):
    a, b = seconds(ours), seconds(loops)
    row = {"case": name, "ours_seconds": a, "loops_seconds": b, "loops_over_ours": b / a, "official_seconds": theirs,
           "official_over_ours": theirs / a if theirs else None}  # fmt: skip
    print(row)
    return row


def main():
    gen, bars = np.random.default_rng(0), []

    def bar(name, measured, at_most=None, at_least=None):
        passed = measured <= at_most if at_most is not None else measured >= at_least
        limit = {"at_most": at_most} if at_most is not None else {"at_least": at_least}
        bars.append({"bar": name, "measured": measured, **limit, "passed": bool(passed)})
        print(bars[-1])

    small, table = scores_of(gen, 300, 50, 10), table_of(60)
    ours = certify(small, "dpa+roe")
    assert (loop_dpa_roe(small, table) == np.stack([ours.prediction, ours.radius], axis=1)).all()
    rows = [compare("DPA+ROE, 300 x 50 x 10", lambda: certify(small, "dpa+roe"), lambda: loop_dpa_roe(small, table),
                    official("dpa_roe_certify.py", small, ours.prediction))]  # fmt: skip
    if rows[0]["official_seconds"]:
        bar(
            "DPA+ROE, 300 x 50 x 10: official loop over arrays", rows[0]["official_over_ours"], at_least=100.0
        )

    few, shifts = scores_of(gen, 120, 40, 10), (22, 5, 30, 2)
    ours = certify(few, "fa+roe", shifts=shifts)
    assert (loop_fa_roe(few, shifts) == np.stack([ours.prediction, ours.radius], axis=1)).all()
    theirs = official("fa_roe_certify.py", few, ours.prediction, "--k", "10", "--d", "4")
    rows.append(compare("FA+ROE, 120 x 40 x 10, d = 4", lambda: certify(few, "fa+roe", shifts=shifts),
                        lambda: loop_fa_roe(few, shifts), theirs))  # fmt: skip
    if theirs:
        bar(
            "FA+ROE, 120 x 40 x 10, d = 4: official loop over arrays",
            rows[1]["official_over_ours"],
            at_least=20.0,
        )
    bar("FA+ROE, 120 x 40 x 10, d = 4: plain loops over arrays", rows[1]["loops_over_ours"], at_least=20.0)

    large = scores_of(gen, 10_000, 1_200, 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took = seconds(lambda: certify(large, "dpa+roe"), least=0.0001)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    bar("DPA+ROE, 10,000 x 1,200 x 10: processor seconds", took, at_most=20.0)
    bar("DPA+ROE, 10,000 x 1,200 x 10: peak memory of the process, GiB, scores included", peak, at_most=1.0)
    print(f"before: {before:.3f} GiB")

    record = {"slug": "run-off-election", "bars": bars, "comparisons": rows, "memory_before_gib": before}
    record["versions"] = versions("counterlog", "numpy")
    out = ROOT / "results" / "run-off-election.json"
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
