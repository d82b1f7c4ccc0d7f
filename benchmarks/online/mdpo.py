"""Speed of the learners that act: PPO, MDPO, TRPO and SAC beside stable-baselines3 and sb3-contrib.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/online/mdpo.py
     (writes benchmarks/results/mdpo.json; sb3-contrib's TRPO is measured when it can be imported)
Hopper-v5, rollouts of 2,048 steps, 64-64 networks, states and rewards as they are on both sides. A turn is one rollout
and what is learnt from it, or a number of updates on a filled replay. Sides take turns in one process; times are
processor seconds, one thread, the median over turns, microseconds an environment step or an update.
"""

import itertools
import json
import os
import platform
import statistics
import time
from pathlib import Path

import stable_baselines3 as sb3
import torch
from stable_baselines3.common.env_util import make_vec_env

from counterlog.core.study import versions
from counterlog.online.mdpo import MDPO, MDPOConfig
from counterlog.online.off_policy_mdpo import OffPolicyMDPO, OffPolicyMDPOConfig
from counterlog.online.ppo import PPO, PPOConfig
from counterlog.online.sac import SAC, SACConfig
from counterlog.online.trpo import TRPO, TRPOConfig

try:
    import sb3_contrib
except ImportError:
    sb3_contrib = None

TURNS, ENV, ROLLOUT = 5, "Hopper-v5", 2048
RAW = {"normalise_states": False, "normalise_rewards": False}


def timed(work, units):
    """Microseconds a unit of one call."""
    start = time.process_time()
    work()
    return 1e6 * (time.process_time() - start) / units


def take_turns(sides):
    """Name -> the median over turns; every side once a turn, after one to warm up."""
    found = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, (work, units) in sides.items():
            spent = timed(work, units)
            if turn:
                found[name].append(spent)
    return {name: statistics.median(times) for name, times in found.items()}


def ours(kind, config, **settings):
    """One of our learners, a round a call; steps of all its seeds."""
    learner = kind(config(steps=10**6, **settings)).begin(ENV)
    counter = itertools.count(1)
    return lambda: learner.advance(next(counter)), learner.round_size * learner.config.seeds


def theirs(kind, copies, **settings):
    """A peer's learner, a rollout a call."""
    model = kind(
        "MlpPolicy",
        make_vec_env(ENV, n_envs=copies, seed=0),
        n_steps=ROLLOUT // copies,
        device="cpu",
        **settings,
    )
    model.learn(ROLLOUT)
    return lambda: model.learn(ROLLOUT, reset_num_timesteps=False), ROLLOUT


def our_updates(kind, config, width, batch, updates, **settings):
    """`updates` updates on a filled replay."""
    learner = kind(config(steps=3000, warmup=3000, hidden=(width, width), batch=batch, **settings)).begin(ENV)
    for _ in range(2000):
        learner.collect(True)
    seeds = learner.config.seeds

    def work():
        for _ in range(updates):
            learner.update(learner.draw())

    return work, updates * seeds


def their_updates(width, batch, updates):
    model = sb3.SAC(
        "MlpPolicy", ENV, policy_kwargs={"net_arch": [width, width]}, buffer_size=3000, learning_starts=2000,
        batch_size=batch, device="cpu", seed=0,
    )  # fmt: skip
    model.learn(2001)
    return lambda: model.train(updates, batch), updates


def check(what, times, a, b, bar):
    ratio = times[a] / times[b]
    return {"what": what, "unit": "ratio", "measured": ratio, "bar": bar, "held": ratio <= bar}


def main():
    torch.set_num_threads(1)
    eight = take_turns(
        {
            "PPO": ours(PPO, PPOConfig, copies=8, horizon=256, batch=512, **RAW),
            "PPO, 3 seeds": ours(PPO, PPOConfig, copies=8, horizon=256, batch=512, seeds=3, **RAW),
            "stable-baselines3 PPO": theirs(sb3.PPO, 8, batch_size=512),
        }
    )
    sides = {
        "MDPO": ours(MDPO, MDPOConfig, **RAW),
        "PPO": ours(PPO, PPOConfig, **RAW),
        "TRPO": ours(TRPO, TRPOConfig, **RAW),
        "stable-baselines3 PPO": theirs(sb3.PPO, 4, batch_size=64),
    }
    if sb3_contrib:
        sides["sb3-contrib TRPO"] = theirs(sb3_contrib.TRPO, 4, batch_size=128)
    four = take_turns(sides)
    small = take_turns(
        {
            "SAC": our_updates(SAC, SACConfig, 64, 128, 200),
            "SAC, 3 seeds": our_updates(SAC, SACConfig, 64, 128, 100, seeds=3),
            "off-policy MDPO": our_updates(OffPolicyMDPO, OffPolicyMDPOConfig, 64, 128, 200),
            "stable-baselines3 SAC": their_updates(64, 128, 200),
        }
    )
    large = take_turns(
        {
            "SAC": our_updates(SAC, SACConfig, 256, 256, 40),
            "stable-baselines3 SAC": their_updates(256, 256, 40),
        }
    )
    peer = "stable-baselines3"
    checks = [
        check(f"PPO, 8 copies, batch 512, against {peer}'s", eight, "PPO", f"{peer} PPO", 1 / 1.4),
        check(f"MDPO, 4 copies, against {peer}'s PPO", four, "MDPO", f"{peer} PPO", 1 / 1.5),
        check(f"SAC update at 64-64, batch 128, against {peer}'s", small, "SAC", f"{peer} SAC", 1 / 1.4),
        check(f"SAC update at 256-256, batch 256, against {peer}'s", large, "SAC", f"{peer} SAC", 1 / 1.2),
        check("off-policy MDPO update at 64-64 against our SAC's", small, "off-policy MDPO", "SAC", 1 / 0.9),
    ]
    if sb3_contrib:
        checks.append(
            check("MDPO, 4 copies, against sb3-contrib's TRPO", four, "MDPO", "sb3-contrib TRPO", 1.0)
        )
    peers = {peer: sb3.__version__} | ({"sb3-contrib": sb3_contrib.__version__} if sb3_contrib else {})
    result = {
        "checks": checks,
        "us_per_step_8_copies_batch_512": eight,
        "us_per_step_4_copies": four,
        "us_per_seed_update_64_64_batch_128": small,
        "us_per_seed_update_256_256_batch_256": large,
        "versions": versions("counterlog", "numpy", "torch", "gymnasium", "mujoco"),
        "peers": peers,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
    }
    path = Path(__file__).parents[1] / "results" / "mdpo.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
