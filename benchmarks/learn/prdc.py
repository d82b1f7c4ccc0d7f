"""Speed of PRDC: a whole update beside TD3+BC's and d3rlpy's PRDC, and the search beside a k-d tree and a product.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/learn/prdc.py
     (writes benchmarks/results/prdc.json)
PEER_PYTHON, when set, names a Python with d3rlpy 2.8.1. 100,000 rows of 17 + 6 columns near a surface of four
dimensions, 256-256 networks, batch 256, beta 2, rows drawn from the whole log. Two policies are measured: fresh
weights, far from the log, and weights fitted to the logged actions; ours and TD3+BC's are put back before every turn,
since random rewards drive them away. Making the tree is timed apart. Sides take turns; times are processor
milliseconds (all threads of a side), medians over turns.
"""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KDTree

from counterlog.core.episodes import Episodes
from counterlog.core.stacked_nets import Descent
from counterlog.core.study import versions
from counterlog.learn.prdc import PRDC, PRDCConfig
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

TURNS, ROWS, D, K, BATCH, BETA = 5, 100_000, 17, 6, 256, 2.0
FIT = 200
PEER = """
import sys, time, logging
import numpy as np, torch
torch.set_num_threads(1)
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
import d3rlpy
from sklearn.neighbors import NearestNeighbors
z = np.load(sys.argv[1])
fit = int(sys.argv[2])
data = d3rlpy.dataset.MDPDataset(z["state"], z["action"], z["reward"], z["terminal"], z["timeout"])
algo = d3rlpy.algos.PRDCConfig(batch_size=256, beta=2.0).create(device="cpu:0")
algo.build_with_dataset(data)
algo.impl._nbsr.fit(np.concatenate([2.0 * z["state"], z["action"]], axis=1))
policy = algo.impl.policy
adam = torch.optim.Adam(policy.parameters(), lr=1e-3)
s, a = torch.from_numpy(z["state"]), torch.from_numpy(z["action"])
def near():
    for _ in range(fit):
        i = torch.randint(len(s), (256,))
        loss = (policy(s[i]).squashed_mu - a[i]).square().mean()
        adam.zero_grad(); loss.backward(); adam.step()
def turn(n):
    start = time.process_time()
    for _ in range(n):
        algo.update(data.sample_transition_batch(256))
    return 1000 * (time.process_time() - start) / n
turn(2)
print("ready", d3rlpy.__version__, flush=True)
for line in sys.stdin:
    if line.startswith("near"):
        near()
        print(0.0, flush=True)
    else:
        print(turn(int(line)), flush=True)
"""


def rows_near_a_surface(rng=0):
    """A slow walk of four numbers, seen through 17 smooth columns with a little noise, and actions that follow it."""
    gen = np.random.default_rng(rng)
    walk = np.zeros((ROWS, 4))
    steps = 0.1 * gen.normal(size=(ROWS, 4))
    for t in range(1, ROWS):
        walk[t] = 0.995 * walk[t - 1] + steps[t]
    state = np.tanh(walk @ gen.normal(size=(4, D))) + 0.05 * gen.normal(size=(ROWS, D))
    state = (state - state.mean(axis=0)) / state.std(axis=0)
    action = np.tanh(walk @ gen.normal(size=(4, K)) + 0.3 * gen.normal(size=(ROWS, K)))
    return {
        "state": state.astype(np.float32),
        "action": action.astype(np.float32),
        "reward": gen.normal(size=ROWS).astype(np.float32),
        "terminal": np.zeros(ROWS, np.float32),
        "timeout": (np.arange(ROWS) % 1000 == 999).astype(np.float32),
    }


class Peer:
    """d3rlpy in its own Python, asked for a turn at a time."""

    def __init__(self, python, data):
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "rows.npz"
        np.savez(file, **data)
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-c", PEER, str(file), str(FIT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in self.process.stdout:
            if line.startswith("ready"):
                self.version = line.split()[1]
                break

    def ask(self, what):
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def take_turns(sides):
    """Name -> median milliseconds; every side once a turn."""
    found = {name: [] for name in sides}
    for go, _ in sides.values():
        go(2)
    for _ in range(TURNS):
        for name, (go, n) in sides.items():
            found[name].append(go(n))
    return {name: statistics.median(times) for name, times in found.items()}


def timed(work):
    def go(n):
        start = time.process_time()
        for _ in range(n):
            work()
        return 1000 * (time.process_time() - start) / n

    return go


def updates(learner):
    """Turns of updates from the policy as it is; a hundred first, so that the faster way of searching is known."""
    begun = learner.actor.flat.clone()

    def once():
        learner.update(learner.draw())

    go = timed(once)
    for _ in range(10):
        learner.actor.flat.copy_(begun)
        go(10)

    def turn(n):
        learner.actor.flat.copy_(begun)
        return go(n)

    return turn


def fit_actor(learner):
    """Pull the actor to the logged actions, so that its neighbours are near."""
    descent = Descent(learner.actor, lr=1e-3)
    for _ in range(FIT):
        batch = learner.draw()
        descent.step((learner.actor.mode(batch.state) - batch.action).square().mean(dim=(1, 2)))


def searches(index, learner, gen):
    """Milliseconds for 256 questions by each way, and where they agree."""
    keys = index.keys
    norms = keys.square().sum(dim=1)
    tree = KDTree(keys.double().numpy())
    rows = torch.randint(ROWS - ROWS // 1000, (BATCH,), generator=gen)
    with torch.no_grad():
        action = learner.actor.mode(learner.data.column("state")[rows][None])[0]
    query = torch.cat([index.state[rows], action], dim=1)
    found = index.of_rows(rows, action)
    by_tree = torch.from_numpy(tree.query(query.double().numpy(), k=1)[1][:, 0])
    times = take_turns(
        {
            "ours": (timed(lambda: index.of_rows(rows, action)), 4),
            "scikit-learn KD-tree": (timed(lambda: tree.query(query.double().numpy(), k=1)), 1),
            "product": (timed(lambda: torch.addmm(norms, query, keys.T, alpha=-2).argmin(dim=1)), 1),
        }
    )
    return {
        **times,
        "agrees with the tree": float((by_tree == found.row[:, 0]).double().mean()),
        "median distance": float(found.squared.sqrt().median()),
    }


def main():
    torch.set_num_threads(1)
    data = rows_near_a_surface()
    log = Episodes(
        offsets=np.arange(0, ROWS + 1, 1000), state=data["state"], action=data["action"], reward=data["reward"],
        truncated=data["timeout"],
    )  # fmt: skip
    gen = torch.Generator().manual_seed(0)
    ours, plain = PRDC(PRDCConfig(beta=BETA)), TD3BC(TD3BCConfig())
    for learner in (ours, plain):
        learner.start(learner.prepare(log))
    start = time.process_time()
    _ = ours.index._tree
    making = 1000 * (time.process_time() - start)
    peer = Peer(os.environ["PEER_PYTHON"], data) if "PEER_PYTHON" in os.environ else None
    at, search = {}, {}
    for name in ("fresh policy", "policy near the log"):
        if name != "fresh policy":
            fit_actor(ours)
            fit_actor(plain)
            if peer:
                peer.ask("near")
        sides = {
            "PRDC": (updates(ours), 10),
            "TD3+BC": (updates(plain), 20),
        }
        if peer:
            sides["d3rlpy PRDC"] = (peer.ask, 4)
        at[name] = take_turns(sides)
        search[name] = searches(ours.index, ours, gen)
        at[name]["PRDC's search"] = "tree" if ours.index._cost[0] < ours.index._cost[1] else "product"
    if peer:
        peer.close()
    pairs = [
        ("against TD3+BC", "TD3+BC", 1.3),
        ("against d3rlpy's PRDC with its sampling", "d3rlpy PRDC", 0.35),
    ]
    checks = [
        {
            "what": f"update at 17/6 columns, 100,000 rows, {name}, {what}",
            "unit": "ratio",
            "measured": times["PRDC"] / times[other],
            "bar": bar,
            "held": times["PRDC"] / times[other] <= bar,
        }
        for name, times in at.items()
        for what, other, bar in pairs
        if other in times
    ] + [
        {
            "what": f"search for 256 pairs, {name}, against {other}",
            "unit": "ratio",
            "measured": times["ours"] / times[other],
            "bar": 1.0,
            "held": times["ours"] <= times[other],
        }
        for name, times in search.items()
        for other in ("scikit-learn KD-tree", "product")
    ]
    result = {
        "checks": checks,
        "ms_per_update": at,
        "ms_per_search_of_256": search,
        "ms_to_make_the_tree": making,
        "versions": versions("counterlog", "numpy", "torch", "scikit-learn"),
        "peers": {"d3rlpy": peer.version} if peer else {},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "prdc.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
