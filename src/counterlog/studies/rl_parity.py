"""Study of the cores that act: PPO and SAC beside stable-baselines3's, with equal settings and equal budgets.

Tests hold losses, gradients and updates to the peer's numbers on one batch. Here whole runs are compared: PPO on
Hopper, SAC on the swing-up of a pendulum. Processor seconds are those of whole runs, the
environment included; our seeds run in one pass, the peer's one after another. Needs stable-baselines3.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

import numpy as np

from counterlog.core.environments import episode_returns
from counterlog.core.errors import MissingExtraError, message
from counterlog.core.rl_evaluation import iqm_interval, stacked_returns
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.core.training_loop import TrainingReport, one_thread
from counterlog.datasets.pendulum import Pendulum
from counterlog.online.ppo import PPO, PPOConfig
from counterlog.online.sac import SAC, SACConfig

OURS, PEER = "counterlog", "stable-baselines3"
FULL = {"ppo": 20_480, "sac": 5_000, "seeds": 3}
QUICK = {"ppo": 0, "sac": 900, "seeds": 1}
STARTS, START_RNG, LEVEL = 20, 1000, 0.90


def peer() -> Any:
    """stable-baselines3. Raises `MissingExtraError` without it."""
    try:
        return import_module("stable_baselines3")
    except ImportError as cause:
        msg = message("'stable_baselines3' is not installed", hint="pip install stable-baselines3")
        raise MissingExtraError(msg) from cause


def our_ppo(steps: int, seeds: int, rng: int) -> tuple[list[float], int]:
    """Means of the last 20 training episodes, and the steps taken."""
    c = PPOConfig(steps=steps, seeds=seeds, normalise_states=False)
    report = PPO(c).improve("Hopper-v5", rng=rng).report
    assert isinstance(report, TrainingReport)
    return report.last("return"), seeds * report.n


def their_ppo(steps: int, seed: int) -> tuple[list[float], int]:
    """The same from the peer, one seed."""
    make = import_module("stable_baselines3.common.env_util").make_vec_env
    env = make("Hopper-v5", n_envs=4, seed=seed)
    model = peer().PPO("MlpPolicy", env, n_steps=512, seed=seed, device="cpu", stats_window_size=20)
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
    model = peer().SAC(
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


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Final returns and speed of both sides, and whether they agree."""
    from joblib import Parallel, delayed

    peer()
    clock, sizes = Clock(), FULL if full else QUICK
    seeds = sizes["seeds"]
    jobs = [
        (name, side, sizes[name.lower()], seeds, rng)
        for name in ("SAC", "PPO")
        for side in (PEER, OURS)
        if sizes[name.lower()]
    ]
    cells = Parallel(n_jobs=2 if full else 1)(delayed(cell)(*job) for job in jobs)
    found = {(c["algorithm"], c["side"]): c for c in cells}
    rows = []
    for c in cells:
        value, low, high = (
            (c["returns"][0],) * 3 if seeds < 2 else iqm_interval(c["returns"], level=LEVEL, rng=rng)
        )
        speed = c["steps"] / c["seconds"]
        rows.append(
            {"algorithm": c["algorithm"], "library": c["side"], "return": value, "low": low, "high": high}
            | {"steps": c["steps"], "seconds": c["seconds"], "steps per second": speed}
        )
    return Study(
        slug="rl-parity",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per episode",
        n=seeds,
        tables=(
            Table(
                title="Final returns with equal settings",
                unit="reward per episode: PPO, last 20 training episodes on Hopper-v5; SAC, 20 episodes of the "
                "pendulum from the same starts; interquartile mean over seeds with 90 % interval; processor seconds "
                "on one thread",
                rows=tuple(rows),
            ),
        ),
        checks=tuple(claims(found, rows, full=full)),
        notes=("Whole runs, in which the environment's own time is the same on both sides.",),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "torch", "gymnasium", "mujoco", "stable-baselines3"),
    )


def claims(
    found: dict[tuple[str, str], dict[str, Any]], rows: list[dict[str, Any]], *, full: bool
) -> list[Check]:
    """Overlapping intervals, and the ratios of speed."""
    at = {(r["algorithm"], r["library"]): r for r in rows}
    checks = []
    for name in dict.fromkeys(a for a, _ in found):
        ours, theirs = at[name, OURS], at[name, PEER]
        if full:
            gap = max(ours["low"] - theirs["high"], theirs["low"] - ours["high"])
            claim = f"{name}: gap between the 90 % intervals of the final return (negative: they overlap)"
            checks.append(Check(claim=claim, measured=gap, bar="<= 0", passed=gap <= 0))
        ratio = ours["steps per second"] / theirs["steps per second"]
        checks.append(
            Check(
                claim=f"{name}: environment steps a processor second, over the peer's, whole runs",
                measured=ratio,
                bar=">= 1",
                passed=ratio >= 1,
            )
        )
    return checks
