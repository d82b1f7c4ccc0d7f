"""Study of `ad-load`: does learning from a log beat every static load, in both objectives, as the paper reports?

The paper's traffic is not public, so the world is `datasets.ad_load`, where the true value of any policy is known. Each
seed draws a log and learns every policy from it; values are exact over 50,000 fresh
contexts. Reward: continue + revenue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.action_ridge import action_ridge, predict
from counterlog.core.crossfit import folds_of
from counterlog.core.features import Encoder
from counterlog.core.policies import Always, Function, Policy
from counterlog.core.rounds import Rounds
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets import ad_load as world
from counterlog.learn.softmax_policy import SoftmaxLearner, SoftmaxLearnerConfig
from counterlog.rank import load_rules
from counterlog.rank.ad_load import AdLoad, AdLoadConfig
from counterlog.rank.carry_over import CarryOver

Floats = NDArray[np.float64]
WEIGHTS = (0.5, 1.0, 1.25, 1.5, 2.0, 4.0)
SHORT = (1.0, 1.25)
WORLDS = (
    ("fetches independent", 0.0, False),
    ("ads cost patience of the next fetch", 0.1, False),
    ("the same, and an exit ends the session", 0.1, True),
)
NO_DEPTH = ("type_0", "type_1", "type_2", "noise_0", "noise_1", "noise_2")
LEARNT = ("IPS", "IPS centred", "SNIPS", "BanditNet", "DR")


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study; quick is 2 seeds of 10,000 fetches and leaves out what so few cannot show, full 10 seeds of 20,000."""
    clock = Clock()
    seeds, n, chains = (10, 20_000, 20) if full else (2, 10_000, 4)
    weights = WEIGHTS if full else SHORT
    test = world.visits(world.TEST_ROWS, rng=world.TEST_SEED)
    truth, log = world.truth(test), world.fetch_log(test)

    def value(policy: Policy) -> tuple[float, float]:
        p = policy.probs(log)
        return float((p * truth[0]).sum(axis=1).mean()), float((p * truth[1]).sum(axis=1).mean())

    found: dict[str, list[tuple[float, float]]] = {}
    sweep: dict[float, list[tuple[float, float]]] = {w: [] for w in weights}
    covered: list[bool] = []
    for seed in range(seeds):
        logged = world.as_rounds(world.make_fetches(n, rng=1000 * rng + seed))
        for name, policy in candidates(logged, seed).items():
            found.setdefault(name, []).append(value(policy))
        for w in weights:
            sweep[w].append(value(learn(logged, seed, weight=w)))
        covered += static_coverage(logged, seed, [value(Always(a)) for a in range(world.LEVELS)])
    flags = carry_over_flags(chains, users=10_000 if full else 3_000, rng=rng)
    best_static = max((sum(value(Always(a))), a) for a in range(world.LEVELS))
    oracle = float((truth[0] + truth[1]).max(axis=1).mean())
    tables = (
        policies_table(found, best_static, oracle, value),
        sweep_table(sweep),
        Table(title="Carry-over check: share of sessions logs flagged", rows=tuple(flags), unit="share"),
    )
    checks = claims(found, sweep, covered, flags, best_static[0], value(Always(2)), full=full)
    return Study(
        slug="ad-load",
        mode="full" if full else "quick",
        rng=rng,
        unit="per fetch",
        n=seeds,
        tables=tables,
        checks=checks,
        notes=(
            f"logs of {n:,} fetches; true values over {world.TEST_ROWS:,} contexts; half widths are 1.96 se over seeds",
            "online A/B results on 80 million users cannot be repeated here",
        ),
        seconds=clock.seconds(),
        versions=versions("numpy", "scipy", "polars"),
    )


def total_of(log: Rounds, weight: float = 1.0) -> Floats:
    """continue + weight x revenue, (n,)."""
    return log.reward_of("continued") + weight * log.reward_of("revenue")


def learn(log: Rounds, seed: int, *, weight: float = 1.0, q: Floats | None = None, **settings: Any) -> Policy:
    """A linear softmax policy of the weighted reward."""
    config = SoftmaxLearnerConfig(**settings)
    return SoftmaxLearner(config).fit(log, rng=seed, reward=total_of(log, weight), q=q)


def candidates(log: Rounds, seed: int) -> Mapping[str, Policy]:
    """Every learnt policy of the comparison."""
    short = log.copy_with(context=NO_DEPTH)
    additive = additive_model(log)
    x = Encoder.fit(log.context)
    _, theta = action_ridge(
        x.transform(log.context), log.action, total_of(log), world.LEVELS, fold=folds_of(log, 3, rng=seed)
    )
    return {
        "segment rule": segment_rule(log),
        "DM greedy": greedy("DM greedy", lambda c: predict(theta, x.transform(c))),
        "DM greedy, no interactions": greedy(
            "DM greedy, no interactions", lambda c: additive(x.transform(c))
        ),
        "IPS": learn(log, seed, objective="ips", centre=False),
        "IPS centred": learn(log, seed, objective="ips"),
        "SNIPS": learn(log, seed, objective="snips"),
        "BanditNet": learn(log, seed, objective="banditnet"),
        "DR": learn(log, seed),
        "DR, no interactions": learn(log, seed, q=additive(x.transform(log.context))),
        "DR, depth hidden": learn(short, seed),
    }


def greedy(name: str, model: Callable[[Any], Floats]) -> Policy:
    """The level that a model likes best."""
    return Function(lambda context, actions: load_rules.best(model(context), None), name=name)


def additive_model(log: Rounds) -> Callable[[Floats], Floats]:
    """A wrong reward model on purpose: context plus level, without their products."""
    x = Encoder.fit(log.context).transform(log.context)
    hot = load_rules.one_hot(log.action, world.LEVELS)
    beta = np.linalg.lstsq(np.hstack([x, hot]), total_of(log), rcond=None)[0]
    slope, level = beta[: x.shape[1]], beta[x.shape[1] :]
    return lambda new: (new @ slope)[:, None] + level[None, :]


def segment_rule(log: Rounds) -> Policy:
    """The level of best SNIPS lower bound in each segment."""
    names, code = np.unique(log.table["patience"].to_numpy(), return_inverse=True)
    table = load_rules.segment_levels(
        code, log.action, log.propensity, total_of(log), len(names), world.LEVELS, z=1.645
    )
    order = [list(names).index(s) for s in world.SEGMENTS]
    return Function(
        lambda context, actions: load_rules.best(table[order][world.signal(context)], None),
        name="segment rule",
    )


def static_coverage(log: Rounds, seed: int, true: list[tuple[float, float]]) -> list[bool]:
    """Whether each static load's DR intervals for satisfaction and revenue hold its true value."""
    config = AdLoadConfig(scale="raw", front=0, steps=50)
    report = AdLoad(config).fit(log, rng=seed).report
    inside = []
    for level, pair in enumerate(true):
        for group, target in zip(("satisfaction", "revenue"), pair, strict=True):
            e = report.find(f"static {level}", group)
            inside.append(e.lo <= target <= e.hi)
    return inside


def carry_over_flags(seeds: int, *, users: int, rng: int) -> list[dict[str, Any]]:
    """How often the carry-over check warns, where nothing carries over and where it does."""
    rows = []
    for label, carry, ends in WORLDS:
        warned = {"regression": 0, "whole sessions": 0}
        for seed in range(seeds):
            log = world.as_rounds(world.make_sessions(users, rng=1000 * rng + seed, carry=carry, ends=ends))
            checks = CarryOver()
            warned["regression"] += checks.check(log, "session_id").severity == "warning"
            warned["whole sessions"] += checks.compare(log, Always(3), "session_id").severity == "warning"
        rows.append({"world": label, "sessions logs": seeds} | {k: v / seeds for k, v in warned.items()})
    return rows


def policies_table(
    found: Mapping[str, list[tuple[float, float]]],
    best_static: tuple[float, int],
    oracle: float,
    value: Callable[[Policy], tuple[float, float]],
) -> Table:
    """Total, satisfaction and revenue of every policy, mean over seeds with its interval."""
    rows: list[dict[str, Any]] = []
    for level in range(world.LEVELS):
        s, r = value(Always(level))
        rows.append(
            {
                "policy": f"static {level}",
                "total": s + r,
                "half_width": 0.0,
                "sd": 0.0,
                "satisfaction": s,
                "revenue": r,
            }
        )
    for name, pairs in found.items():
        both = np.array(pairs)
        total = both.sum(axis=1)
        sd = float(total.std(ddof=1))
        rows.append(
            {
                "policy": name,
                "total": float(total.mean()),
                "half_width": 1.96 * sd / float(np.sqrt(len(total))),
                "sd": sd,
                "satisfaction": float(both[:, 0].mean()),
                "revenue": float(both[:, 1].mean()),
            }
        )
    rows.append(
        {
            "policy": "oracle",
            "total": oracle,
            "half_width": 0.0,
            "sd": 0.0,
            "satisfaction": None,
            "revenue": None,
        }
    )
    return Table(
        title=f"True value of every policy (best static: {best_static[1]})",
        rows=tuple(rows),
        unit="per fetch",
    )


def sweep_table(sweep: Mapping[float, list[tuple[float, float]]]) -> Table:
    """The trade-off of the DR policies."""
    rows = []
    for w, pairs in sweep.items():
        both = np.array(pairs)
        half = 1.96 * both.std(axis=0, ddof=1) / np.sqrt(len(both))
        rows.append(
            {
                "revenue weight": w,
                "satisfaction": float(both[:, 0].mean()),
                "satisfaction half width": float(half[0]),
                "revenue": float(both[:, 1].mean()),
                "revenue half width": float(half[1]),
            }
        )
    return Table(title="Trade-off: DR policies by the weight of revenue", rows=tuple(rows), unit="per fetch")


def claims(
    found: Mapping[str, list[tuple[float, float]]],
    sweep: Mapping[float, list[tuple[float, float]]],
    covered: list[bool],
    flags: list[dict[str, Any]],
    static: float,
    production: tuple[float, float],
    *,
    full: bool,
) -> tuple[Check, ...]:
    """The paper's claim and ours, each against its bar."""
    total = {name: np.array(pairs).sum(axis=1) for name, pairs in found.items()}
    mean = {name: float(t.mean()) for name, t in total.items()}
    sd = {name: float(t.std(ddof=1)) for name, t in total.items()}
    gain = {name: m - static for name, m in mean.items()}
    se = sd["DR"] / np.sqrt(len(total["DR"]))
    both = {
        w: sum(s > production[0] and r > production[1] for s, r in pairs) / len(pairs)
        for w, pairs in sweep.items()
    }
    best = max(both, key=lambda w: both[w])
    keep = gain["DR, no interactions"] / gain["DR"]
    robust = (
        at_least("DR-learned beats the best static load, in true total", gain["DR"], 0.035 if full else 0.02),
        at_least("DR minus plain IPS, true total", mean["DR"] - mean["IPS"], 0.0),
        at_least(
            "the wrong model alone loses, true total", mean["DR"] - mean["DM greedy, no interactions"], 0.01
        ),
        at_least("DR intervals of static loads hold the truth: share", float(np.mean(covered)), 0.9),
        at_least("regression flags carry-over of patience: share", flags[1]["regression"], 0.9),
        at_most("regression flags independent fetches: share", flags[0]["regression"], 0.05),
    )
    if not full:
        return robust
    return (
        *robust,
        at_least("that gain in standard errors over seeds", gain["DR"] / max(float(se), 1e-9), 10.0),
        at_least(
            "some weight beats the production load in both objectives: share of seeds",
            both[best],
            1.0,
            f"weight {best:g}",
        ),
        at_least(
            "that weight's mean gain over the production load in the worse objective, in its 95% half widths",
            margin(sweep[best], production),
            1.0,
            f"weight {best:g}",
        ),
        at_least("SNIPS minus plain IPS, true total", mean["SNIPS"] - mean["IPS"], 0.0),
        at_least("sd over seeds: plain IPS over DR", sd["IPS"] / sd["DR"], 1.0),
        at_least("sd over seeds: plain IPS over SNIPS", sd["IPS"] / sd["SNIPS"], 1.0),
        at_least("hiding depth costs, true total", mean["DR"] - mean["DR, depth hidden"], 0.001),
        at_least("DR keeps its gain with a wrong reward model: share kept", keep, 0.95),
        at_least("session values flag sessions that end by exit: share", flags[2]["whole sessions"], 0.9),
        at_most(
            "session values flag independent fetches (level 5%): share", flags[0]["whole sessions"], 0.15
        ),
    )


def margin(pairs: list[tuple[float, float]], production: tuple[float, float]) -> float:
    """The smaller of both objectives' mean gains over `production`, in 1.96 standard errors over seeds."""
    gain = np.array(pairs) - np.array(production)
    half = 1.96 * gain.std(axis=0, ddof=1) / np.sqrt(len(gain))
    return float((gain.mean(axis=0) / half).min())


def at_least(claim: str, measured: float, bar: float, note: str = "") -> Check:
    """measured >= bar."""
    return Check(claim=claim, measured=measured, bar=f">= {bar:g}", passed=bool(measured >= bar), note=note)


def at_most(claim: str, measured: float, bar: float, note: str = "") -> Check:
    """measured <= bar."""
    return Check(claim=claim, measured=measured, bar=f"<= {bar:g}", passed=bool(measured <= bar), note=note)
