"""PPO and SAC beside stable-baselines3's: whole runs with equal settings and equal budgets.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/online/rl_parity.py
     (writes benchmarks/results/rl-parity.json; about six minutes of processor time)
Tests hold losses, gradients and updates to the peer's numbers on one batch. Here PPO learns Hopper and SAC the swing-up
of a pendulum. Processor seconds are those of whole runs, the environment included; our seeds run
in one pass, the peer's one after another.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.env_util import make_vec_env

from counterlog.core.environments import episode_returns
from counterlog.core.rl_evaluation import iqm_interval, stacked_returns
from counterlog.core.study import versions
from counterlog.core.training_loop import TrainingReport, one_thread
from counterlog.datasets.pendulum import Pendulum
from counterlog.online.ppo import PPO, PPOConfig
from counterlog.online.sac import SAC, SACConfig

OURS, PEER = "counterlog", "stable-baselines3"
FULL = {"ppo": 20_480, "sac": 5_000, "seeds": 3}
STARTS, START_RNG, LEVEL = 20, 1000, 0.90


def our_ppo(steps: int, seeds: int, rng: int) -> tuple[list[float], int]:
    """Means of the last 20 training episodes, and the steps taken."""
    c = PPOConfig(steps=steps, seeds=seeds, normalise_states=False)
    report = PPO(c).improve("Hopper-v5", rng=rng).report
    assert isinstance(report, TrainingReport)
    return report.last("return"), seeds * report.n


def their_ppo(steps: int, seed: int) -> tuple[list[float], int]:
    """The same from the peer, one seed."""
    env = make_vec_env("Hopper-v5", n_envs=4, seed=seed)
    model = sb3.PPO("MlpPolicy", env, n_steps=512, seed=seed, device="cpu", stats_window_size=20)
    model.learn(steps)
    return [float(np.mean([e["r"] for e in model.ep_info_buffer]))], model.num_timesteps


def our_sac(steps: int, seeds: int, rng: int) -> tuple[list[float], int]:
    """Mean returns of 20 episodes from the same starts, and the steps taken."""
    settings: dict[str, Any] = {"hidden": (64, 64), "batch": 128, "warmup": 500, "lr": 1e-3}
    policy = SAC(SACConfig(steps=steps, seeds=seeds, alpha=0.2, learn_alpha=False, **settings)).improve(
        "Pendulum-v1", rng=rng
    )
    total, _ = stacked_returns(policy, Pendulum, starts=STARTS, rng=START_RNG)
    return total.mean(axis=1).tolist(), seeds * steps


def their_sac(steps: int, seed: int) -> tuple[list[float], int]:
    """The same from the peer, one seed."""
    model = sb3.SAC(
        "MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [64, 64]}, batch_size=128, learning_starts=500,
        learning_rate=1e-3, ent_coef=0.2, buffer_size=steps, seed=seed, device="cpu",
    )  # fmt: skip
    model.learn(steps)

    def act(state: Any) -> Any:
        return model.predict(np.asarray(state, np.float32), deterministic=True)[0]

    total, _ = episode_returns(Pendulum(STARTS), act, rng=START_RNG)
    return [float(total.mean())], steps


def cell(algorithm: str, side: str, steps: int, seeds: int, rng: int) -> dict[str, Any]:
    """One side of one algorithm, all seeds: returns, steps and processor seconds."""
    with one_thread():
        begun = time.process_time()
        if side == OURS:
            returns, taken = (our_ppo if algorithm == "PPO" else our_sac)(steps, seeds, rng)
        else:
            runs = [(their_ppo if algorithm == "PPO" else their_sac)(steps, rng + k) for k in range(seeds)]
            returns, taken = [r for run, _ in runs for r in run], sum(n for _, n in runs)
        seconds = time.process_time() - begun
    return {"algorithm": algorithm, "side": side, "returns": returns, "steps": taken, "seconds": seconds}


def row(c: dict[str, Any]) -> dict[str, Any]:
    """A side with the interval of its final return and its speed."""
    value, low, high = iqm_interval(c["returns"], level=LEVEL)
    return {**c, "return": value, "low": low, "high": high, "steps per second": c["steps"] / c["seconds"]}


def main() -> None:
    from joblib import Parallel, delayed

    jobs = [
        (name, side, FULL[name.lower()], FULL["seeds"], 0) for name in ("SAC", "PPO") for side in (PEER, OURS)
    ]
    rows = [row(c) for c in Parallel(n_jobs=2)(delayed(cell)(*job) for job in jobs)]
    at = {(r["algorithm"], r["side"]): r for r in rows}
    checks = []
    for name in ("PPO", "SAC"):
        ours, theirs = at[name, OURS], at[name, PEER]
        gap = max(ours["low"] - theirs["high"], theirs["low"] - ours["high"])
        ratio = theirs["steps per second"] / ours["steps per second"]
        for what, unit, measured, bar in (
            (
                "gap between the 90 % intervals of the final return (below 0: they overlap)",
                "reward",
                gap,
                0.0,
            ),
            (f"time a step in whole runs, 3 seeds in one pass, against {PEER}'s", "ratio", ratio, 1.0),
        ):
            held = measured <= bar
            checks.append(
                {"what": f"{name}: {what}", "unit": unit, "measured": measured, "bar": bar, "held": held}
            )
    result = {
        "checks": checks,
        "runs": rows,
        "versions": versions("counterlog", "numpy", "torch", "gymnasium", "mujoco"),
        "peers": {PEER: sb3.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread a process",
    }
    path = Path(__file__).parents[1] / "results" / "rl-parity.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
