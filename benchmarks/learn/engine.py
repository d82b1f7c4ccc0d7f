"""Speed of the stacked networks: one TD3+BC update beside CORL's class, d3rlpy, and plain torch modules.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/learn/engine.py
     (writes benchmarks/results/rl-engine.json)
CORL_TD3_BC, when set, names CORL's algorithms/offline/td3_bc.py: its classes are run as published, sampling and logging
included, its imports of simulators and trackers left empty. PEER_PYTHON, when set, names a Python with d3rlpy 2.8.1.
Both learn on the same random rows of HalfCheetah's sizes (17 states, 6 actions). Sides take turns; times are processor
seconds, one thread, the median over turns, milliseconds a seed and update.
"""

import copy
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

from counterlog.core.episodes import Episodes
from counterlog.core.replay import Replay
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_nets import Descent, StackedMLP
from counterlog.core.study import versions
from counterlog.core.transition_rows import Columns
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

TURNS, ROWS, D, K = 5, 100_000, 17, 6
PEER = """
import sys, time, logging
import numpy as np, torch
torch.set_num_threads(1)
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
import d3rlpy
z = np.load(sys.argv[1])
data = d3rlpy.dataset.MDPDataset(z["state"], z["action"], z["reward"], z["terminal"], z["timeout"])
algo = d3rlpy.algos.TD3PlusBCConfig(batch_size=256).create(device="cpu:0")
algo.build_with_dataset(data)
def turn(n):
    start = time.process_time()
    for _ in range(n):
        algo.update(data.sample_transition_batch(256))
    return 1000 * (time.process_time() - start) / n
turn(5)
print("ready", d3rlpy.__version__, flush=True)
for line in sys.stdin:
    print(turn(int(line)), flush=True)
"""


def random_rows(rng=0):
    gen = np.random.default_rng(rng)
    cut = np.arange(ROWS) % 1000 == 999
    return {
        "state": gen.normal(size=(ROWS, D)).astype(np.float32),
        "action": gen.uniform(-1, 1, (ROWS, K)).astype(np.float32),
        "reward": gen.normal(size=ROWS).astype(np.float32),
        "terminal": np.zeros(ROWS, np.float32),
        "timeout": cut.astype(np.float32),
    }


def ours(log, seeds, hidden, batch):
    learner = TD3BC(TD3BCConfig(seeds=seeds, hidden=hidden, batch=batch))
    learner.start(learner.prepare(log))
    return lambda: learner.update(learner.draw()), seeds


def perceptron(*sizes):
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b)] if i == 0 else [nn.ReLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def plain(data, width, batch):
    """TD3+BC written with modules, fused Adam, no reading back: what a careful author writes for one seed."""
    actor, q1, q2 = (
        perceptron(D, width, width, K),
        perceptron(D + K, width, width, 1),
        perceptron(D + K, width, width, 1),
    )
    targets = [copy.deepcopy(m) for m in (actor, q1, q2)]
    actor_adam = torch.optim.Adam(actor.parameters(), lr=3e-4, fused=True)
    critic_adam = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=3e-4, fused=True)
    state, action, reward = (torch.from_numpy(data[k]) for k in ("state", "action", "reward"))
    count = [0]

    def update():
        i = torch.randint(ROWS - 1, (batch,))
        s, a, r, after = state[i], action[i], reward[i, None], state[i + 1]
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(a)).clamp(-0.5, 0.5)
            a2 = (torch.tanh(targets[0](after)) + noise).clamp(-1, 1)
            x = torch.cat([after, a2], 1)
            y = r + 0.99 * torch.min(targets[1](x), targets[2](x))
        x = torch.cat([s, a], 1)
        loss = (q1(x) - y).square().mean() + (q2(x) - y).square().mean()
        critic_adam.zero_grad()
        loss.backward()
        critic_adam.step()
        count[0] += 1
        if count[0] % 2 == 0:
            p = torch.tanh(actor(s))
            q = q1(torch.cat([s, p], 1))
            loss = -2.5 / q.abs().mean().detach() * q.mean() + (p - a).square().mean()
            actor_adam.zero_grad()
            loss.backward()
            actor_adam.step()
            with torch.no_grad():
                for target, net in zip(targets, (actor, q1, q2), strict=True):
                    for t, w in zip(target.parameters(), net.parameters(), strict=True):
                        t.lerp_(w, 0.005)

    return update, 1


def corl(data, path):
    """CORL's TD3_BC and its buffer."""
    empty = {name: types.ModuleType(name) for name in ("d4rl", "gym", "wandb", "pyrallis")}
    empty["pyrallis"].wrap = lambda: lambda f: f
    empty["gym"].Env = object
    kept = {name: sys.modules.get(name) for name in empty}
    sys.modules.update(empty)
    module = types.ModuleType("corl_td3_bc")
    sys.modules["corl_td3_bc"] = module
    try:
        exec(compile(Path(path).read_text(), path, "exec"), module.__dict__)
    finally:
        for name, before in kept.items():
            sys.modules.pop(name) if before is None else sys.modules.__setitem__(name, before)
    buffer = module.ReplayBuffer(D, K, ROWS)
    following = np.roll(data["state"], -1, axis=0)
    buffer.load_d4rl_dataset(
        {
            "observations": data["state"],
            "actions": data["action"],
            "rewards": data["reward"],
            "next_observations": following,
            "terminals": data["terminal"],
        }
    )
    actor, q1, q2 = module.Actor(D, K, 1.0), module.Critic(D, K), module.Critic(D, K)
    adams = [torch.optim.Adam(m.parameters(), lr=3e-4) for m in (actor, q1, q2)]
    learner = module.TD3_BC(1.0, actor, adams[0], q1, adams[1], q2, adams[2])
    return lambda: learner.train(buffer.sample(256)), 1


class Peer:
    """d3rlpy in its own Python, asked for a turn at a time."""

    def __init__(self, python, data):
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "rows.npz"
        np.savez(file, **data)
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-c", PEER, str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for line in self.process.stdout:
            if line.startswith("ready"):
                self.version = line.split()[1]
                break

    def turn(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def turn(work, n):
    update, seeds = work
    start = time.process_time()
    for _ in range(n):
        update()
    return 1000 * (time.process_time() - start) / n / seeds


def take_turns(sides):
    """Name -> milliseconds of each turn; every side once a turn."""
    found = {name: [] for name in sides}
    for go, _ in sides.values():
        go(6)
    for _ in range(TURNS):
        for name, (go, n) in sides.items():
            found[name].append(go(n))
    return {name: statistics.median(times) for name, times in found.items()}


def ensembles():
    """A critic step of 4 members at 64-64, batch 128: one stack beside 4 modules in a loop."""
    x = torch.randn(1, 128, D + K)
    net = StackedMLP((D + K, 64, 64, 1), seeds=(0,), role="q", members=4)
    descent = Descent(net, lr=3e-4)
    alone = [perceptron(D + K, 64, 64, 1) for _ in range(4)]
    adams = [torch.optim.Adam(m.parameters(), lr=3e-4, fused=True) for m in alone]

    def stack():
        descent.step(net(x)[..., 0].square().mean(dim=2).sum(dim=1))

    def loop():
        for model, adam in zip(alone, adams, strict=True):
            adam.zero_grad()
            model(x[0]).square().mean().backward()
            adam.step()

    return take_turns(
        {"stack": (lambda n: turn((stack, 1), n), 200), "loop": (lambda n: turn((loop, 1), n), 200)}
    )


def sampling():
    """Microseconds to sample 256 rows of a million (Hopper's sizes)."""
    columns = Columns({"state": 11, "action": 3, "reward": 0, "next_state": 11, "terminated": 0})
    replay, streams = Replay(columns, seeds=1, capacity=1_000_000), SeedStreams((0,))
    replay.rows.normal_()
    replay.written = 1_000_000
    return 1000 * statistics.median(turn((lambda: replay.sample(streams, 256), 1), 500) for _ in range(TURNS))


def main():
    torch.set_num_threads(1)
    data = random_rows()
    log = Episodes(
        offsets=np.arange(0, ROWS + 1, 1000), state=data["state"], action=data["action"], reward=data["reward"],
        truncated=data["timeout"],
    )  # fmt: skip
    big = {
        "ours, 1 seed": (ours(log, 1, (256, 256), 256), 60),
        "ours, 5 seeds": (ours(log, 5, (256, 256), 256), 16),
        "plain modules": (plain(data, 256, 256), 60),
    }
    if path := os.environ.get("CORL_TD3_BC"):
        big["CORL"] = (corl(data, path), 60)
    sides = {name: (lambda n, work=work: turn(work, n), n) for name, (work, n) in big.items()}
    peer = None
    if python := os.environ.get("PEER_PYTHON"):
        peer = Peer(python, data)
        sides["d3rlpy"] = (peer.turn, 60)
    at_256 = take_turns(sides)
    if peer:
        peer.close()
    small = {
        "ours, 1 seed": (ours(log, 1, (64, 64), 64), 200),
        "ours, 5 seeds": (ours(log, 5, (64, 64), 64), 100),
        "plain modules": (plain(data, 64, 64), 200),
    }
    at_64 = take_turns({name: (lambda n, work=work: turn(work, n), n) for name, (work, n) in small.items()})
    critics = ensembles()
    measured = [
        ("5 seeds at 256-256, batch 256, against CORL's class", at_256, "ours, 5 seeds", "CORL", 0.70),
        (
            "5 seeds at 256-256, batch 256, against d3rlpy with its sampling",
            at_256,
            "ours, 5 seeds",
            "d3rlpy",
            0.45,
        ),
        ("5 seeds at 64-64, batch 64, against plain modules", at_64, "ours, 5 seeds", "plain modules", 0.33),
        ("step of 4 critics at 64-64, batch 128, against a loop", critics, "stack", "loop", 0.60),
    ]
    checks = [
        {"what": what, "unit": "ratio", "measured": t[a] / t[b], "bar": bar, "held": t[a] / t[b] <= bar}
        for what, t, a, b, bar in measured
        if b in t
    ]
    micro = sampling()
    checks.append(
        {
            "what": "sampling 256 rows of a million",
            "unit": "us",
            "measured": micro,
            "bar": 60.0,
            "held": micro <= 60,
        }
    )
    result = {
        "checks": checks,
        "ms_per_seed_update_256_256_batch_256": at_256,
        "ms_per_seed_update_64_64_batch_64": at_64,
        "ms_per_step_of_4_critics_64_64_batch_128": critics,
        "versions": versions("counterlog", "numpy", "torch"),
        "peers": {"d3rlpy": peer.version} if peer else {},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "rl-engine.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
