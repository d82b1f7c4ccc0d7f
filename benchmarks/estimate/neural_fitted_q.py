"""Speed of neural fitted Q evaluation: a step of many networks beside d3rlpy's FQE and plain torch modules.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/estimate/neural_fitted_q.py
     (writes benchmarks/results/neural-fitted-q.json)
PEER_PYTHON, when set, names a Python with d3rlpy 2.8.1. All value a deterministic policy of continuous actions on the
same random rows (3 states, 1 action), networks 64-64, 128 rows a step. Ours steps 4 policies of 8 members together.
Times are processor milliseconds a network and step, one thread, the median over turns, sides in turns. d3rlpy steps one
network, its sampling and its policy's forward pass included: it evaluates the policy in every step, ours once before.
"""

import copy
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
from torch import nn

from counterlog.core.episodes import Episodes
from counterlog.core.policy_rows import Halves, policy_rows
from counterlog.core.study import versions
from counterlog.estimate.neural_fitted_q import NeuralFQEConfig, _Training

TURNS, ROWS, D, K, POLICIES, MEMBERS, BATCH = 5, 20_000, 3, 1, 4, 8, 128
PEER = """
import sys, time, logging
import numpy as np, torch
torch.set_num_threads(1)
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
import d3rlpy
from d3rlpy.models.encoders import VectorEncoderFactory
z = np.load(sys.argv[1])
data = d3rlpy.dataset.MDPDataset(z["state"], z["action"], z["reward"], z["terminal"], z["timeout"])
small = VectorEncoderFactory([64, 64])
policy = d3rlpy.algos.TD3PlusBCConfig(actor_encoder_factory=small, critic_encoder_factory=small).create(device="cpu:0")
policy.build_with_dataset(data)
fqe = d3rlpy.ope.FQE(
    algo=policy, config=d3rlpy.ope.FQEConfig(batch_size=128, learning_rate=1e-3, encoder_factory=small), device="cpu:0"
)
fqe.build_with_dataset(data)
def turn(n):
    start = time.process_time()
    for _ in range(n):
        fqe.update(data.sample_transition_batch(128))
    return 1000 * (time.process_time() - start) / n
turn(5)
print("ready", d3rlpy.__version__, flush=True)
for line in sys.stdin:
    print(turn(int(line)), flush=True)
"""


def random_rows(rng=0):
    gen = np.random.default_rng(rng)
    return {
        "state": gen.normal(size=(ROWS, D)).astype(np.float32),
        "action": gen.uniform(-1, 1, (ROWS, K)).astype(np.float32),
        "reward": gen.normal(size=ROWS).astype(np.float32),
        "terminal": np.zeros(ROWS, np.float32),
        "timeout": (np.arange(ROWS) % 200 == 199).astype(np.float32),
    }


class Still:
    """A policy that always does the same."""

    def act(self, states):
        """(n, 1) zeros."""
        return np.zeros((len(states), K))


def ours(data):
    log = Episodes(
        offsets=np.arange(0, ROWS + 1, 200), state=data["state"], action=data["action"], reward=data["reward"],
        truncated=data["timeout"],
    )  # fmt: skip
    c = NeuralFQEConfig(members=MEMBERS, batch=BATCH, steps=10**6)
    rows = policy_rows(log, {f"p{i}": Still() for i in range(POLICIES)}, gamma=c.gamma)
    training = _Training(rows, Halves(rows, MEMBERS, 0), c, 0)
    count = [0]

    def update():
        count[0] += 1
        training.advance(count[0])

    return update


def plain(data):
    """One network with modules and fused Adam, actions of the policy known beforehand."""
    q = nn.Sequential(nn.Linear(D + K, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    target, adam = copy.deepcopy(q), torch.optim.Adam(q.parameters(), lr=1e-3, fused=True)
    state, action, reward = (torch.from_numpy(data[k]) for k in ("state", "action", "reward"))
    chosen = torch.zeros(ROWS, K)

    def update():
        i = torch.randint(ROWS - 1, (BATCH,))
        with torch.no_grad():
            y = reward[i, None] + 0.99 * target(torch.cat([state[i + 1], chosen[i + 1]], 1))
        loss = (q(torch.cat([state[i], action[i]], 1)) - y).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for t, w in zip(target.parameters(), q.parameters(), strict=True):
                t.lerp_(w, 0.1)

    return update


def turn(update, n, networks):
    start = time.process_time()
    for _ in range(n):
        update()
    return 1000 * (time.process_time() - start) / n / networks


def main():
    torch.set_num_threads(1)
    data = random_rows()
    stack, alone = ours(data), plain(data)
    sides = {
        "ours, 32 networks": (lambda n: turn(stack, n, POLICIES * MEMBERS), 40),
        "plain modules": (lambda n: turn(alone, n, 1), 400),
    }
    process, peer = None, ""
    if python := os.environ.get("PEER_PYTHON"):
        file = Path(tempfile.mkdtemp()) / "rows.npz"
        np.savez(file, **data)
        process = subprocess.Popen(
            [python, "-W", "ignore", "-c", PEER, str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith("ready"):
                peer = line.split()[1]
                break

        def asked(n):
            process.stdin.write(f"{n}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        if peer:
            sides["d3rlpy"] = (asked, 200)
    found = {name: [] for name in sides}
    for go, n in sides.values():
        go(n // 4)
    for _ in range(TURNS):
        for name, (go, n) in sides.items():
            found[name].append(go(n))
    times = {name: statistics.median(t) for name, t in found.items()}
    if process:
        process.stdin.close()
        process.wait()
    checks = [
        {
            "what": f"step of a network, 32 networks together at 64-64, batch 128, against {name}",
            "unit": "ratio",
            "measured": times["ours, 32 networks"] / times[other],
            "bar": bar,
            "held": times["ours, 32 networks"] / times[other] <= bar,
        }
        for other, name, bar in (
            ("plain modules", "plain modules", 0.5),
            ("d3rlpy", "d3rlpy's FQE with its sampling", 0.2),
        )
        if other in times
    ]
    result = {
        "checks": checks,
        "ms_per_network_step": times,
        "versions": versions("counterlog", "numpy", "torch"),
        "peers": {"d3rlpy": peer} if peer else {},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "neural-fitted-q.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
