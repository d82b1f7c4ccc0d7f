"""How often every interval covers a known truth: bounded weights, rare actions, weights without variance, users with
many rows, logs that are watched while they grow, pairs and families of policies.

World       x uniform on (0, 1), two actions, reward 0/1 with mean q(x, a); the log plays action 1 with chance p(x), the
            target policy with chance 0.8, so the value is 0.8 mean q(x, 1) + 0.2 mean q(x, 0) = 0.47 in every world.
Estimators  IPS, SNIPS, DR and SNDR with a deliberately rough reward model (a constant per action).
Worlds      bounded: p = 0.2 + 0.6 x, weights up to 4.  rare: p = 0.002 + 0.9 x^1.5, weights up to 400.
            heavy: p = 0.9 x^1.5, weights without a bound and without a variance.
            users: p as in bounded, 100 users of 1 to 19 rows who share x and a reward shift of +-0.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from counterlog.core.bootstrap import (
    bca_ends,
    jackknife_values,
    percentile_ends,
    poisson_multiplicities,
    replicate_values,
    simultaneous,
)
from counterlog.core.intervals import (
    Moments,
    adequate,
    asymptotic_cs,
    bernstein,
    confidence_sequence,
    difference,
    heaviest_share,
    hoeffding,
    influence,
    lower_bound,
    rho_for,
    t_interval,
    value,
)
from counterlog.core.moments import Floats
from counterlog.core.sequences import cs_factor
from counterlog.core.study import Check, Clock, Study, Table, versions

TARGET, TRUTH, LEVEL = 0.8, 0.47, 0.95
MODEL = (0.3, 0.6)  # the reward model: one constant an action
BATCH = 50  # logs that share one matrix of multiplicities
PLANNED = 1000  # rounds at which the asymptotic sequence is tuned to be narrow
FIRST_LOOK = 100


@dataclass(frozen=True)
class World:
    """A logging policy p(x), its largest weight where there is one, and the rows of its users where rows cluster."""

    name: str
    propensity: Callable[[Floats], Floats]
    top: float | None
    users: tuple[int, ...] = ()


class Log(NamedTuple):
    """(logs, n) weight of the logged action, reward, model at the logged action; model value of the target."""

    w: Floats
    r: Floats
    q: Floats
    v: float


WORLDS = (
    World("bounded", lambda x: 0.2 + 0.6 * x, 4.0),
    World("rare", lambda x: 0.002 + 0.9 * x**1.5, 400.0),
    World("heavy", lambda x: 0.9 * x**1.5, None),
)
USERS = World("users", lambda x: 0.2 + 0.6 * x, 4.0, tuple(1 + k % 19 for k in range(100)))


def reward_mean(x: Floats, action: Any) -> Floats:
    """q(x, a): 0.8 - 0.6 x for action 1, 0.2 + 0.3 x for action 0; means 0.5 and 0.35 over x."""
    return np.where(action, 0.8 - 0.6 * x, 0.2 + 0.3 * x)


def draw(world: World, logs: int, n: int, gen: np.random.Generator, target: float = TARGET) -> Log:
    """`logs` logs of n rows each; with users, n is the sum of their rows."""
    if world.users:
        owner = np.repeat(np.arange(len(world.users)), world.users)
        x = 1 - gen.random((logs, len(world.users)))[:, owner]
        shift = gen.choice([-0.2, 0.2], size=(logs, len(world.users)))[:, owner]
    else:
        x, shift = 1 - gen.random((logs, n)), np.zeros((1, 1))
    p = world.propensity(x)
    action = gen.random(x.shape) < p
    r = (gen.random(x.shape) < reward_mean(x, action) + shift).astype(np.float64)
    return Log(weights(p, action, target), r, np.where(action, MODEL[1], MODEL[0]), model_value(target))


def weights(p: Floats, action: Any, target: float) -> Floats:
    """Target over logging probability of the logged action."""
    return np.where(action, target / p, (1 - target) / (1 - p))


def model_value(target: float) -> float:
    """What the reward model says the target policy earns."""
    return target * MODEL[1] + (1 - target) * MODEL[0]


def parts(log: Log) -> dict[str, tuple[Floats, Floats, Floats]]:
    """(a, b, c) of every estimator, each (logs, n)."""
    zero, one = np.zeros_like(log.w), np.ones_like(log.w)
    residual = log.w * (log.r - log.q)
    return {
        "IPS": (log.w * log.r, zero, one),
        "SNIPS": (zero, log.w * log.r, log.w),
        "DR": (log.v + residual, zero, one),
        "SNDR": (log.v + zero, residual, log.w),
    }


class Tally:
    """Ends of many intervals by (world, estimator, method), and their summary."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, str, str, int], list[tuple[float, float]]] = {}

    def add(self, world: str, estimator: str, method: str, n: int, lo: float, hi: float) -> None:
        """One interval more."""
        self.ends.setdefault((world, estimator, method, n), []).append((lo, hi))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Coverage, one-sided misses and widths, one record a cell."""
        for (world, estimator, method, n), pairs in self.ends.items():
            lo, hi = np.array(pairs).T
            yield {
                "world": world,
                "estimator": estimator,
                "method": method,
                "n": n,
                "coverage": _round(np.mean((lo <= TRUTH) & (hi >= TRUTH))),
                "truth_above": _round(np.mean(hi < TRUTH)),
                "truth_below": _round(np.mean(lo > TRUTH)),
                "median_width": None if method == "one-sided" else _round(np.median(hi - lo)),
                "logs": len(pairs),
            }


def _round(number: Any) -> float:
    return float(f"{float(number):.4g}")


def _share(hits: Any) -> float | None:
    return _round(hits.mean()) if hits.size else None


def bounds_of(estimator: str, top: float) -> tuple[float, float]:
    """Declared range of one row's value: weight in [0, top], reward in [0, 1]."""
    if estimator == "IPS":
        return 0.0, top
    return model_value(TARGET) - top * MODEL[1], model_value(TARGET) + top * (1 - MODEL[0])


def cover(
    world: World, logs: int, n: int, replicates: int, gen: np.random.Generator, tally: Tally
) -> dict[str, Any]:
    """Every interval of every estimator on `logs` logs; returns the world's effective sample sizes."""
    sizes: Floats = np.array(world.users, dtype=np.float64) if world.users else np.ones(n)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    rows, ess = int(sizes.sum()), []
    flags: list[tuple[bool, bool, bool]] = []
    for first in range(0, logs, BATCH):
        log = draw(world, min(BATCH, logs - first), n, gen)
        times = poisson_multiplicities(len(sizes), replicates, int(gen.integers(2**31)))
        for name, triple in parts(log).items():
            units = np.stack([np.add.reduceat(v, starts, axis=1) for v in triple], axis=-1)
            drawn = replicate_values(units.transpose(1, 0, 2), sizes, times)
            for k in range(len(units)):
                moments = Moments.from_units(units[k, :, 0], units[k, :, 1], units[k, :, 2], sizes)
                label = "clusters, " if world.users else ""
                interval = t_interval(moments, LEVEL)
                tally.add(world.name, name, f"{label}t", rows, interval.lo, interval.hi)
                ends = percentile_ends(drawn[:, k], LEVEL)
                tally.add(world.name, name, f"{label}bootstrap", rows, *ends)
                ends = bca_ends(value(moments), drawn[:, k], jackknife_values(units[k], sizes), LEVEL)
                tally.add(world.name, name, f"{label}bca", rows, *ends)
                if world.users:
                    naive = t_interval(Moments.from_units(*(v[k] for v in triple)), LEVEL)
                    tally.add(world.name, name, "rows, t", rows, naive.lo, naive.hi)
                    continue
                tally.add(world.name, name, "one-sided", rows, lower_bound(moments, 1 - LEVEL), math.inf)
                sequence = asymptotic_cs(moments, LEVEL, rho_for(PLANNED, LEVEL))
                tally.add(world.name, name, "asymptotic cs", rows, sequence.lo, sequence.hi)
                if world.top is not None and name in ("IPS", "DR"):
                    limits, y = bounds_of(name, world.top), triple[0][k]
                    for bounded in (
                        hoeffding(n, value(moments), limits, LEVEL),
                        bernstein(n, value(moments), float(y.var(ddof=1)), limits, LEVEL),
                    ):
                        tally.add(world.name, name, bounded.method, rows, bounded.lo, bounded.hi)
                    lo, hi = confidence_sequence(y, limits, LEVEL)
                    tally.add(world.name, name, "cs", rows, float(lo[-1]), float(hi[-1]))
        effective = log.w.sum(axis=1) ** 2 / (log.w**2).sum(axis=1)
        ess.extend(effective.tolist())
        for e, row in zip(effective, np.add.reduceat(log.w * log.r, starts, axis=1), strict=True):
            u = influence(a=row, size=sizes)
            inside = abs(row.sum() / rows - TRUTH) <= 1.96 * u.std(ddof=1) / math.sqrt(len(u))
            flags.append(
                (adequate(e, rows)[0], adequate(e, rows, None, heaviest_share(u), len(u))[0], bool(inside))
            )
    by_size, by_both, inside_ips = np.array(flags).T
    return {
        "world": world.name,
        "n": rows,
        "independent_units": len(sizes),
        "largest_possible_weight": world.top,
        "median_ess": _round(np.median(ess)),
        "flagged_by_ess": _round(1 - by_size.mean()),
        "flagged_by_ess_or_heaviest_unit": _round(1 - by_both.mean()),
        "ips_coverage_not_flagged_by_ess": _share(inside_ips[by_size]),
        "ips_coverage_not_flagged_by_either": _share(inside_ips[by_both]),
    }


def watch(logs: int, n: int, gen: np.random.Generator) -> list[dict[str, Any]]:
    """Bounded world, looked at after every row from `FIRST_LOOK` on: does an interval ever exclude the truth?"""
    world = WORLDS[0]
    held: dict[tuple[str, str], list[bool]] = {}
    widths: dict[tuple[str, str], list[float]] = {}
    count = np.arange(1, n + 1, dtype=np.float64)
    seen = slice(FIRST_LOOK - 1, None)
    reach: dict[str, Floats] = {
        "t, fixed n": np.asarray(stdtrit(np.maximum(count - 1, 1), 0.5 + LEVEL / 2), dtype=np.float64),
        "asymptotic cs": cs_factor(count, LEVEL, rho_for(PLANNED, LEVEL)),
    }
    for first in range(0, logs, BATCH):
        log = draw(world, min(BATCH, logs - first), n, gen)
        y = log.w * log.r
        running = {"IPS": running_mean(y, count), "SNIPS": running_ratio(y, log.w, count)}
        for name, (point, se) in running.items():
            for method, factor in reach.items():
                inside = np.abs(point - TRUTH) <= factor * se
                held.setdefault((name, method), []).extend(np.asarray(inside[:, seen].all(axis=1)).tolist())
                held.setdefault((name, f"{method}, last row"), []).extend(inside[:, -1].tolist())
                widths.setdefault((name, method), []).extend((2 * factor[-1] * se[:, -1]).tolist())
        lo, hi = confidence_sequence(y, bounds_of("IPS", 4.0), LEVEL)
        inside = (lo <= TRUTH) & (hi >= TRUTH)
        held.setdefault(("IPS", "cs"), []).extend(np.asarray(inside[:, seen].all(axis=1)).tolist())
        held.setdefault(("IPS", "cs, last row"), []).extend(inside[:, -1].tolist())
        widths.setdefault(("IPS", "cs"), []).extend((hi[:, -1] - lo[:, -1]).tolist())
    return [
        {
            "estimator": name,
            "method": method,
            "rows": n,
            "coverage_at_every_look": _round(np.mean(held[name, method])),
            "coverage_at_the_last_row": _round(np.mean(held[name, f"{method}, last row"])),
            "median_width_at_the_last_row": _round(np.median(width)),
        }
        for (name, method), width in widths.items()
    ]


def running_mean(y: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Mean and standard error after every row."""
    mean = np.cumsum(y, axis=1) / count
    square = np.cumsum(y * y, axis=1) / count
    return mean, np.sqrt(np.maximum(square - mean**2, 0) / np.maximum(count - 1, 1))


def running_ratio(y: Floats, w: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Ratio of sums and its delta standard error after every row."""
    total = np.maximum(np.cumsum(w, axis=1), 1e-300)
    ratio = np.cumsum(y, axis=1) / total
    yy, yw, ww = (np.cumsum(p, axis=1) for p in (y * y, y * w, w * w))
    spread = np.maximum(yy - 2 * ratio * yw + ratio**2 * ww, 0)
    return ratio, np.sqrt(spread * count / np.maximum(count - 1, 1)) / total


def compare(logs: int, n: int, replicates: int, gen: np.random.Generator) -> list[dict[str, Any]]:
    """Bounded world, SNIPS of nine policies: pairs against the first, and all at once."""
    world, targets = WORLDS[0], np.linspace(0.1, 0.9, 9)
    truth = 0.5 * targets + 0.35 * (1 - targets)
    gap = truth[-1] - truth[0]
    hits: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for first in range(0, logs, BATCH):
        size = min(BATCH, logs - first)
        x = 1 - gen.random((size, n))
        p = world.propensity(x)
        action = gen.random(x.shape) < p
        r = (gen.random(x.shape) < reward_mean(x, action)).astype(np.float64)
        times = poisson_multiplicities(n, replicates, int(gen.integers(2**31)))
        for k in range(size):
            w = np.stack([weights(p[k], action[k], t) for t in targets], axis=1)
            sums = np.stack([np.zeros_like(w), w * r[k][:, None], w], axis=2)
            moments = [Moments.from_units(b=sums[:, j, 1], c=w[:, j]) for j in range(len(targets))]
            points = [value(m) for m in moments]
            drawn = replicate_values(sums, np.ones(n), times)
            pointwise = [t_interval(m, LEVEL) for m in moments]
            for method, ends in (
                ("all nine: pointwise t", pointwise),
                ("all nine: simultaneous", simultaneous(points, drawn, LEVEL)),
            ):
                inside = [i.lo <= v <= i.hi for i, v in zip(ends, truth, strict=True)]
                hits.setdefault(method, []).append(all(inside))
                widths.setdefault(method, []).append(float(np.mean([i.width for i in ends])))
            last, base = (influence(b=sums[:, j, 1], c=w[:, j]) for j in (-1, 0))
            _, paired = difference(points[-1], last, points[0], base, level=LEVEL)
            half = 1.96 * math.hypot(pointwise[-1].se, pointwise[0].se)
            apart = points[-1] - points[0]
            for method, lo, hi in (
                ("difference: paired", paired.lo, paired.hi),
                ("difference: as if independent", apart - half, apart + half),
            ):
                hits.setdefault(method, []).append(lo <= gap <= hi)
                widths.setdefault(method, []).append(hi - lo)
    return [
        {"interval": m, "n": n, "coverage": _round(np.mean(h)), "median_width": _round(np.median(widths[m]))}
        for m, h in hits.items()
    ]


def run(*, full: bool = False, rng: int = 0) -> Study:
    """Coverage and width of every interval; 4,000 logs a cell in full, 300 in quick mode."""
    clock, gen = Clock(), np.random.default_rng(rng)
    logs, n, small, replicates, watched = (
        (4000, 1000, 100, 1000, 10_000) if full else (300, 400, 100, 500, 2000)
    )
    tally = Tally()
    plan = [(WORLDS[0], small), *((world, n) for world in (*WORLDS, USERS))]
    sizes = tuple(cover(world, logs, rows, replicates, gen, tally) for world, rows in plan)
    cells = tuple(tally.rows())
    stopping, families = tuple(watch(logs, watched, gen)), tuple(compare(logs, n, replicates, gen))
    return Study(
        slug="interval-coverage",
        mode="full" if full else "quick",
        rng=rng,
        unit="share of logs whose interval holds the true value; widths in reward per round",
        n=logs,
        tables=(
            Table(title="Worlds", rows=sizes),
            Table(title="Coverage", rows=cells, unit="nominal 0.95"),
            Table(
                title="Watching a growing log",
                rows=stopping,
                unit=f"looked at every row from {FIRST_LOOK} on",
            ),
            Table(title="Pairs and families of policies", rows=families, unit="nominal 0.95"),
        ),
        checks=tuple(checks(sizes, cells, stopping, families, logs, n)),
        notes=(
            "hoeffding, bernstein and cs are absent in the heavy world: no bound on the weights can be declared there.",
            "A check of a failure (naive intervals, weights without variance) passes when the failure shows.",
            f"Logs share bootstrap multiplicities in batches of {BATCH}.",
        ),
        seconds=clock.seconds(),
        versions=versions("numpy", "scipy"),
    )


def checks(
    sizes: tuple[dict[str, Any], ...],
    cells: tuple[dict[str, Any], ...],
    stopping: tuple[dict[str, Any], ...],
    families: tuple[dict[str, Any], ...],
    logs: int,
    n: int,
) -> Iterator[Check]:
    """The stated claims. Fewer than 1,000 logs widen the bars to 3 binomial standard errors."""
    slack = 0.02 if logs >= 1000 else 3 * math.sqrt(LEVEL * (1 - LEVEL) / logs)
    low, high = LEVEL - slack, min(LEVEL + slack, 1.0)

    def found(world: str, methods: tuple[str, ...], rows: int | None = None) -> list[float]:
        return [
            c["coverage"]
            for c in cells
            if c["world"] == world and c["method"] in methods and rows in (None, c["n"])
        ]

    def between(claim: str, shares: list[float]) -> Check:
        worst = max(shares, key=lambda s: abs(s - LEVEL))
        return Check(
            claim=claim,
            measured=worst,
            bar=f"{low:.3g} to {high:.3g}",
            passed=low <= min(shares) <= max(shares) <= high,
        )

    def at_least(claim: str, share: float, bar: float) -> Check:
        return Check(claim=claim, measured=share, bar=f"at least {bar:.3g}", passed=share >= bar)

    def at_most(claim: str, share: float, bar: float) -> Check:
        return Check(claim=claim, measured=share, bar=f"at most {bar:.3g}", passed=share <= bar)

    for method in ("t", "bootstrap", "bca", "one-sided"):
        yield between(f"bounded weights, n={n}: {method}, worst estimator", found("bounded", (method,), n))
    for world in ("bounded", "rare"):
        yield at_least(
            f"{world} weights: hoeffding, bernstein and cs, lowest",
            min(found(world, ("hoeffding", "bernstein", "cs"))),
            LEVEL,
        )
    ratio = hoeffding(n, 0.5, (0, 4)).width / hoeffding(100 * n, 0.5, (0, 4)).width
    yield Check(
        claim="hoeffding width at n over width at 100 n",
        measured=ratio,
        bar="9 to 11",
        passed=9 <= ratio <= 11,
    )
    yield between("users: cluster-robust t, worst estimator", found("users", ("clusters, t",)))
    yield between("users: bootstrap of clusters, worst estimator", found("users", ("clusters, bootstrap",)))
    yield at_most("users: t that takes rows as independent, highest", max(found("users", ("rows, t",))), low)
    yield at_most("heavy weights: t of IPS falls short", found("heavy", ("t",))[0], low)
    worlds = {
        s["world"]: s["flagged_by_ess_or_heaviest_unit"]
        for s in sizes
        if s["n"] >= n or s["world"] == "users"
    }
    heavy = min(worlds["rare"], worlds["heavy"])
    yield at_least("heavy and rare: logs flagged because of their heaviest unit, lowest", heavy, 0.9)
    yield at_most("bounded weights: logs flagged, false alarms", worlds["bounded"], 0.05)
    every = {(s["estimator"], s["method"]): s["coverage_at_every_look"] for s in stopping}
    yield at_least("watched log: cs at every look", every["IPS", "cs"], LEVEL)
    yield at_least(
        "watched log: asymptotic cs at every look, lowest",
        min(every["IPS", "asymptotic cs"], every["SNIPS", "asymptotic cs"]),
        low,
    )
    yield at_most(
        "watched log: fixed-n t at every look, highest",
        max(every["IPS", "t, fixed n"], every["SNIPS", "t, fixed n"]),
        low,
    )
    family = {f["interval"]: f["coverage"] for f in families}
    yield between("nine policies at once: simultaneous bands", [family["all nine: simultaneous"]])
    yield at_most(
        "nine policies at once: pointwise t",
        family["all nine: pointwise t"],
        family["all nine: simultaneous"],
    )
    yield between("difference of two policies: paired", [family["difference: paired"]])
