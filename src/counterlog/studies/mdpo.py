"""Study of MDPO: what several plain gradient steps a rollout buy, beside TRPO and PPO; and off-policy beside SAC.

Hopper with all code-level additions ("loaded"). The paper's claim is that ten steps a rollout clearly beat one; its
ranking against PPO and TRPO is for one to ten million steps, and no such order is asked of this short budget, in which
MDPO takes 240 gradient steps and PPO 7,680. A second row for one step a rollout has ten times the step size: the same
way to go. A small rollout gives MDPO four times the rounds. Off-policy: the swing-up of a pendulum, where the pull to
the old policy, no pull (SAC's case) and SAC should agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from counterlog.core.learner_comparison import learner_row
from counterlog.core.off_policy_learner import OffPolicyLearner
from counterlog.core.online_learner import OnlineLearner
from counterlog.core.rl_evaluation import iqm_interval, stacked_returns
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.pendulum import Pendulum
from counterlog.online.mdpo import MDPO, MDPOConfig
from counterlog.online.off_policy_mdpo import OffPolicyMDPO, OffPolicyMDPOConfig
from counterlog.online.ppo import PPO, PPOConfig
from counterlog.online.sac import SAC, SACConfig
from counterlog.online.trpo import TRPO, TRPOConfig

HOPPER, PENDULUM = "Hopper-v5", "pendulum"
TEN, ONE, FAST, SMALL = "MDPO, m 10", "MDPO, m 1", "MDPO, m 1, lr 3e-3", "MDPO, m 10, rollouts of 512"
PROXIMAL, REGION = "PPO", "TRPO"
PULL, FREE, SOFT, SPARSE = "MDPO, c 1", "MDPO, c = lambda", "SAC, alpha 0.2", "MDPO, c 1, Tsallis q 1.5"
FULL: dict[str, Any] = {"steps": 49_152, "seeds": 3}
QUICK: dict[str, Any] = {"steps": 8_192, "seeds": 1}
SWING: dict[str, Any] = {
    "hidden": (64, 64),
    "batch": 128,
    "warmup": 500,
    "lr": 1e-3,
    "steps": 5000,
    "seeds": 3,
}
STARTS, START_RNG = 20, 1000


def on_policy(name: str, settings: dict[str, Any]) -> OnlineLearner:
    """The learner of that name."""
    if name == PROXIMAL:
        return PPO(PPOConfig(normalise_rewards=True, **settings))
    if name == REGION:
        return TRPO(TRPOConfig(**settings))
    own: dict[str, dict[str, Any]] = {
        TEN: {},
        ONE: {"m": 1},
        FAST: {"m": 1, "lr": 3e-3},
        SMALL: {"horizon": 128},
    }
    return MDPO(MDPOConfig(**settings, **own[name]))


def off_policy(name: str, settings: dict[str, Any]) -> OffPolicyLearner:
    """The learner of that name."""
    if name == SOFT:
        return SAC(SACConfig(alpha=0.2, learn_alpha=False, **settings))
    own: dict[str, dict[str, Any]] = {
        PULL: {},
        FREE: {"c": 0.2, "actor_q": "least"},
        SPARSE: {"divergence": "tsallis", "q": 1.5},
    }
    return OffPolicyMDPO(OffPolicyMDPOConfig(refresh=250, **settings, **own[name]))


def cell(environment: str, name: str, settings: dict[str, Any], rng: int) -> dict[str, Any]:
    """One learner: its row, and the return of every seed."""
    if environment == HOPPER:
        learner = on_policy(name, settings)
        made = learner_row(name, learner, learner.improve(HOPPER, rng=rng), rng)
        at = {f"at {share:.0%}": along(made.curve, share) for share in (0.25, 0.5)}
        row = {k: v for r in [made] for k, v in r.to_dict().items() if k not in ("returns", "curve")}
        return {"key": (environment, name), "returns": made.returns, "row": {**row, **at}}
    actor = off_policy(name, settings)
    policy = actor.improve(Pendulum, rng=rng)
    total, _ = stacked_returns(policy, Pendulum, starts=STARTS, rng=START_RNG)
    means = total.mean(axis=1)
    value, low, high = iqm_interval(means, rng=rng)
    report: Any = policy.report
    row = {"learner": name, "return": value, "low": low, "high": high, "entropy": report.last("entropy")[0]}
    return {"key": (environment, name), "returns": means.tolist(), "row": {**row, "seconds": report.seconds}}


def along(curve: tuple[tuple[float, float], ...], share: float) -> float:
    """The curve's value at a share of the run."""
    return curve[max(0, int(share * len(curve)) - 1)][1]


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Returns of all learners, and the claims."""
    from joblib import Parallel, delayed

    clock, settings = Clock(), FULL if full else QUICK
    names = (PROXIMAL, REGION, SMALL, TEN, ONE, FAST) if full else (TEN, ONE)
    jobs: list[tuple[str, str, dict[str, Any]]] = [(HOPPER, name, settings) for name in names]
    if full:
        jobs += [(PENDULUM, name, SWING) for name in (PULL, FREE, SOFT, SPARSE)]
    cells = Parallel(n_jobs=2 if full else 1)(delayed(cell)(*job, rng) for job in jobs)
    found = {tuple(c["key"]): c for c in cells}
    tables = [
        Table(
            title=f"{HOPPER}, {settings['steps']:,} steps: mean of the last 20 training episodes",
            unit="reward per episode, interquartile mean over seeds with 95 % interval; updates: steps of the value; "
            "beyond: share of rounds with KL(old || new) above 0.01; kl: nats; seconds: processor",
            rows=tuple(found[HOPPER, name]["row"] for name in names),
        )
    ]
    if full:
        tables.append(
            Table(
                title=f"Pendulum, {SWING['steps']:,} steps: {STARTS} episodes from the same starts",
                unit="reward per episode, interquartile mean over seeds with 95 % interval",
                rows=tuple(found[PENDULUM, name]["row"] for name in (PULL, FREE, SOFT, SPARSE)),
            )
        )
    return Study(
        slug="mdpo",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward per episode",
        n=int(settings["seeds"]),
        tables=tuple(tables),
        checks=tuple(claims(found, full=full)),
        notes=(
            f"{settings['steps']:,} steps a seed are a short budget: the paper's tables are for 1e6 to 1e7.",
            "No order between MDPO, TRPO and PPO is claimed at this budget.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scipy", "torch", "gymnasium", "mujoco"),
    )


def claims(found: dict[tuple[str, ...], dict[str, Any]], *, full: bool) -> list[Check]:
    """The paper's claims, at this budget."""

    def mean(environment: str, name: str) -> float:
        return float(np.mean(found[environment, name]["returns"]))

    ratio = mean(HOPPER, TEN) / mean(HOPPER, ONE)
    least = 3.0 if full else 1.2
    checks = [
        Check(
            claim="Hopper, one step size: ten gradient steps a rollout over one (ratio of returns)",
            measured=ratio,
            bar=f">= {least:g}",
            passed=ratio >= least,
        )
    ]
    if not full:
        return checks
    worst = max(found[HOPPER, REGION]["row"]["beyond"] or 0.0, 0.0)
    beyond = found[HOPPER, TEN]["row"]["beyond"]
    checks += [
        Check(
            claim="Hopper: share of MDPO's rounds that leave TRPO's region, without a constraint",
            measured=beyond,
            bar="<= 0.5",
            passed=beyond <= 0.5,
        ),
        Check(
            claim="Hopper: share of TRPO's rounds that leave it",
            measured=worst,
            bar="<= 0",
            passed=worst <= 0,
        ),
    ]
    soft = found[PENDULUM, SOFT]["returns"]
    for name in (PULL, FREE):
        own = found[PENDULUM, name]["returns"]
        pooled = float(np.sqrt((np.var(own, ddof=1) + np.var(soft, ddof=1)) / 2))
        gap = abs(float(np.mean(own) - np.mean(soft)))
        checks.append(
            Check(
                claim=f"Pendulum: {name} is within a pooled deviation of SAC (gap over deviation)",
                measured=gap / pooled,
                bar="<= 1",
                passed=gap <= pooled,
                note=f"gap {gap:.0f}, deviation {pooled:.0f}",
            )
        )
    low = min(mean(PENDULUM, name) for name in (PULL, FREE, SOFT))
    checks.append(
        Check(
            claim="Pendulum: the least mean return of the three",
            measured=low,
            bar=">= -300",
            passed=low >= -300,
        )
    )
    return checks
