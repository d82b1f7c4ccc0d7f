"""Speed of dataset characteristics: counting pairs beside the usual ways, and the discrete learners beside d3rlpy.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/audit/dataset_characteristics.py
     (writes benchmarks/results/dataset-characteristics.json)
PEER_SITE, when set, names a site-packages folder with hyperloglog and datasketch; PEER_PYTHON a Python with d3rlpy
2.8.1. Sides take turns; times are processor seconds, one thread, the median over turns. Rows: four numbers and one of
three actions; the usual way bins them, joins each row to a string, and gives it to the sketch of the package.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from counterlog.audit.distinct_pairs import Counter, Sketch
from counterlog.audit.visit_cells import CHUNK, CellGrid, machine_code
from counterlog.core.episodes import Episodes
from counterlog.core.study import versions
from counterlog.learn.discrete_cql import DiscreteCQL, DiscreteCQLConfig
from counterlog.learn.dqn import DQN, DQNConfig

ROWS, SLOW_ROWS, TURNS, SEEDS = 1_000_000, 20_000, 5, 5
STREAMED, FILE_ROWS = 100_000_000, 5_000_000
PEER = """
import sys, time, logging
import numpy as np, torch
torch.set_num_threads(1)
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
import d3rlpy
z = np.load(sys.argv[1])
data = d3rlpy.dataset.MDPDataset(z["state"], z["action"], z["reward"], z["terminal"], z["timeout"])
encoder = d3rlpy.models.VectorEncoderFactory([64, 64])
made = {
    "DQN": d3rlpy.algos.DoubleDQNConfig(batch_size=128, encoder_factory=encoder, target_update_interval=100),
    "CQL": d3rlpy.algos.DiscreteCQLConfig(batch_size=128, encoder_factory=encoder, target_update_interval=100),
}
algos = {k: c.create(device="cpu:0") for k, c in made.items()}
for a in algos.values():
    a.build_with_dataset(data)
def turn(name, n):
    start = time.process_time()
    for _ in range(n):
        algos[name].update(data.sample_transition_batch(128))
    return 1000 * (time.process_time() - start) / n
for k in algos:
    turn(k, 5)
print("ready", d3rlpy.__version__, flush=True)
for line in sys.stdin:
    name, n = line.split()
    print(turn(name, int(n)), flush=True)
"""


def rows(n, rng=0):
    gen = np.random.default_rng(rng)
    return gen.normal(size=(n, 4)).astype(np.float32), gen.integers(0, 3, n)


def clock(work):
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def sketched(grid, state, action, fused):
    kernels = machine_code() if fused else None
    sketch = Sketch()
    for i in range(0, len(state), CHUNK):
        _, pairs = grid.keys(state[i : i + CHUNK], action[i : i + CHUNK], fused=fused)
        sketch.add(pairs, kernels)
    return sketch.estimate()


def exact(grid, state, action):
    counter = Counter("exact")
    counter.add(
        np.concatenate(
            [
                grid.keys(state[i : i + CHUNK], action[i : i + CHUNK], fused=True)[1]
                for i in range(0, len(state), CHUNK)
            ]
        )
    )
    return counter.value().value


def texts(grid, state, action):
    """The usual way to make a row countable: its bins, joined."""
    edges = [np.linspace(lo, hi, grid.bins) for lo, hi in zip(grid.low, grid.high, strict=True)]
    cells = [np.digitize(state[:, j], edges[j]) for j in range(4)]
    return [
        ",".join(map(str, row))
        for row in zip(*(c.astype(float).tolist() for c in cells), action.tolist(), strict=True)
    ]


def usual(grid, state, action):
    import hyperloglog

    sketch = hyperloglog.HyperLogLog(0.01)
    for text in texts(grid, state, action):
        sketch.add(text)
    return len(sketch)


def datasketched(grid, state, action):
    from datasketch import HyperLogLogPlusPlus

    sketch = HyperLogLogPlusPlus(p=14)
    for text in texts(grid, state, action):
        sketch.update(text.encode())
    return sketch.count()


def as_set(grid, state, action):
    return len(set(texts(grid, state, action)))


def counting():
    """Nanoseconds a row, sides in turns."""
    state, action = rows(ROWS)
    log = Episodes(
        offsets=[0, ROWS], state=state, action=action, truncated=np.arange(ROWS) == ROWS - 1, actions=3
    )
    grid = CellGrid.fit(log, 30)
    few = slice(0, SLOW_ROWS)
    sides = {
        "numpy sketch": (lambda: sketched(grid, state, action, False), ROWS),
        "exact, sorted": (lambda: exact(grid, state, action), ROWS),
        "set of strings": (lambda: as_set(grid, state[few], action[few]), SLOW_ROWS),
    }
    if machine_code() is not None:
        sketched(grid, state[few], action[few], True)  # compiled once
        sides["fused sketch"] = (lambda: sketched(grid, state, action, True), ROWS)
    if "PEER_SITE" in os.environ:
        sys.path.append(os.environ["PEER_SITE"])
        sides["usual way (strings, hyperloglog)"] = (lambda: usual(grid, state[few], action[few]), SLOW_ROWS)
        sides["datasketch HyperLogLog++"] = (
            lambda: datasketched(grid, state[few], action[few]),
            SLOW_ROWS,
        )
    times, counts = {k: [] for k in sides}, {}
    for _ in range(TURNS):
        for name, (work, n) in sides.items():
            seconds, counts[name] = clock(work)
            times[name].append(1e9 * seconds / n)
    return {k: statistics.median(v) for k, v in times.items()}, counts


def streamed(fused):
    """Processor seconds and peak memory of a process that sketches a memory-mapped file of float32 rows."""
    state, action = rows(FILE_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.f32"
        np.concatenate([state, action[:, None].astype(np.float32)], axis=1).tofile(path)
        done = subprocess.run(
            [sys.executable, __file__, "--stream", str(path), "fused" if fused else "numpy"],
            capture_output=True,
            text=True,
            check=True,
        )
    return json.loads(done.stdout)


def peak_mb():
    """The most memory that this process has had, file pages included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def stream(path, fused):
    """The other process: what is there before counts apart from what counting adds."""
    state, action = rows(1000)
    log = Episodes(offsets=[0, 1000], state=state, action=action, truncated=np.arange(1000) == 999)
    grid = CellGrid.fit(log, 30)
    table = np.memmap(path, np.float32, "r", shape=(FILE_ROWS, 5))
    kernels = machine_code() if fused else None

    def count(sketch, part):
        _, pairs = grid.keys(part[:, :4], part[:, 4].astype(np.int64), fused=fused)
        sketch.add(pairs, kernels)

    count(Sketch(), np.asarray(table[:100]))  # compiled once
    before = peak_mb()

    def work():
        sketch = Sketch()
        for _ in range(STREAMED // FILE_ROWS):
            for i in range(0, FILE_ROWS, CHUNK):
                count(sketch, np.asarray(table[i : i + CHUNK]))
        return sketch.estimate()

    seconds, pairs = clock(work)
    after = peak_mb()
    print(json.dumps({"seconds": seconds, "added_mb": after - before, "pairs": pairs}))


class Peer:
    """d3rlpy in a process of its own, asked for one turn at a time."""

    def __init__(self, python, data):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "rows.npz"
        np.savez(path, **data)
        environment = {**os.environ, "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            [python, "-c", PEER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for line in self.process.stdout:
            if line.startswith("ready"):
                self.version = line.split()[1]
                break

    def ask(self, name, n):
        self.process.stdin.write(f"{name} {n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def learners():
    """Milliseconds a seed and update at 64-64, 128 rows, five seeds; d3rlpy's with its sampling."""
    import torch

    torch.set_num_threads(1)
    state, action = rows(100_000, 1)
    reward = np.random.default_rng(2).normal(size=len(state)).astype(np.float32)
    cut = np.arange(len(state)) % 200 == 199
    log = Episodes(
        offsets=np.arange(0, len(state) + 1, 200),
        state=state,
        action=action,
        reward=reward,
        truncated=cut,
        final_state=state[::200],
        actions=3,
    )
    settings = {"seeds": SEEDS, "hidden": (64, 64), "batch": 128}
    ours = {"DQN": DQN(DQNConfig(**settings)), "CQL": DiscreteCQL(DiscreteCQLConfig(**settings))}
    for made in ours.values():
        made.start(made.prepare(log))
        for _ in range(5):
            made.update(made.draw())
    peer = None
    if "PEER_PYTHON" in os.environ:
        data = {"state": state, "action": action[:, None], "reward": reward}
        peer = Peer(
            os.environ["PEER_PYTHON"], {**data, "terminal": np.zeros(len(state)), "timeout": cut * 1.0}
        )
    times = {}
    for _ in range(TURNS):
        for name, made in ours.items():
            seconds, _ = clock(lambda m=made: [m.update(m.draw()) for _ in range(60)])
            times.setdefault(name, []).append(1000 * seconds / 60 / SEEDS)
            if peer:
                times.setdefault(f"d3rlpy {name}", []).append(peer.ask(name, 60))
    if peer:
        peer.close()
    return {k: statistics.median(v) for k, v in times.items()}, peer.version if peer else None


def check(what, measured, bar, unit="ratio"):
    return {"what": what, "unit": unit, "measured": measured, "bar": bar, "held": bool(measured <= bar)}


def main():
    ns, counts = counting()
    whole = {"numpy": streamed(False)}
    if machine_code() is not None:
        whole["fused"] = streamed(True)
    ms, peer = learners()
    checks = []
    if slow := ns.get("usual way (strings, hyperloglog)"):
        checks.append(check("numpy sketch against the usual way, a row", ns["numpy sketch"] / slow, 0.15))
        if "fused sketch" in ns:
            checks.append(check("fused sketch against the usual way, a row", ns["fused sketch"] / slow, 0.03))
    for name, bar in (("numpy", 40), ("fused", 10)):
        if name in whole:
            checks.append(check(f"100,000,000 pairs streamed, {name}", whole[name]["seconds"], bar, "s"))
            checks.append(
                check(
                    f"memory that this adds, {name}, pages of the file included",
                    whole[name]["added_mb"],
                    300,
                    "MB",
                )
            )
    for name in ("DQN", "CQL"):
        if f"d3rlpy {name}" in ms:
            ratio = ms[name] / ms[f"d3rlpy {name}"]
            checks.append(check(f"{name}: an update of a seed against d3rlpy's, five seeds", ratio, 0.45))
    packages = {}
    if "PEER_SITE" in os.environ:
        from importlib.metadata import version

        packages = {p: version(p) for p in ("hyperloglog", "datasketch")}
    result = {
        "checks": checks,
        "ns_a_row": ns,
        "pairs_counted": counts,
        "rows": {"ours": ROWS, "string sides": SLOW_ROWS},
        "streamed": whole,
        "ms_a_seed_and_update": ms,
        "versions": versions("counterlog", "numpy", "torch", "numba"),
        "peers": {**packages, **({"d3rlpy": peer} if peer else {})},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "dataset-characteristics.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if "--stream" in sys.argv:
        stream(sys.argv[2], sys.argv[3] == "fused")
    else:
        main()
