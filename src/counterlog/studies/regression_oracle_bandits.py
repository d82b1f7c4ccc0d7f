"""Exploration in batches: does it pay, what does it teach the next model, and when do generations become unstable?

Simulated payments (`datasets.payments`): 8 actions, batches of 3,000, 12 generations, the next model fitted on the last
1 or 4 generations; values are exact on fixed contexts and normalised per generation: 0 is uniform choice, 1 the best
possible. Real tables (`datasets.prompt_routing`): which of six prompts for LLaMA-2-7B-chat, batches of 600 GSM8K
questions, exact solve rate on 1,000 held-out questions.

    served        mean normalised value of what served in generations 1..G-1
    next model    mean normalised value of the best actions of the models trained on them
    instability   standard deviation of the change of the next model's value from generation to generation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import spearmanr, t

from counterlog.core.errors import DatasetError
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.payments import Payments, PaymentsConfig
from counterlog.datasets.prompt_routing import RoutingEnvironment, prompts
from counterlog.online.generation_report import GenerationReport
from counterlog.online.regression_oracle_bandits import RegressionOracleBandit, RegressionOracleBanditConfig

Settings = dict[str, Any]
IGW: Settings = {"rule": "igw", "gamma_rule": "fixed"}
POLICIES: dict[str, Settings] = {
    "uniform": {"rule": "uniform"},
    "greedy": {"rule": "greedy"},
    "epsilon 0.05": {"rule": "epsilon", "epsilon": 0.05},
    "epsilon 0.20": {"rule": "epsilon", "epsilon": 0.2},
    "IGW gamma 20": {**IGW, "gamma": 20.0},
    "IGW gamma 100": {**IGW, "gamma": 100.0},
    "IGW gamma 500": {**IGW, "gamma": 500.0},
    "FALCON 0.5": {"rule": "igw", "gamma_rule": "falcon"},
}
REMEDIES: dict[str, tuple[int, Settings]] = {
    "1/p weights": (1, {**IGW, "gamma": 500.0, "weights": "ips"}),
    "floor 0.02": (1, {**IGW, "gamma": 500.0, "floor": 0.02}),
    "guard": (1, {**IGW, "gamma": 500.0, "deploy": "guard", "tol": 0.01}),
}
PLAIN = "IGW gamma 500, window 1"
SWITCHES = ("delay", "shift", "newarm", "legacy")
ROUTING = (
    "uniform",
    "greedy",
    "epsilon 0.05",
    "epsilon 0.20",
    "IGW gamma 20",
    "IGW gamma 100",
    "IGW gamma 500",
)


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study; quick mode has 6 generations, 2 seeds and the ridge regressor. A full run needs the real tables."""
    clock = Clock()
    seeds, generations = (10, 12) if full else (2, 6)
    tests, regressor = (8_000, "boosting") if full else (3_000, "ridge")
    world = {"tests": tests, "generations": generations, "regressor": regressor}
    windows = (1, 4)
    names = (
        tuple(POLICIES) if full else ("uniform", "greedy", "epsilon 0.05", "IGW gamma 100", "IGW gamma 500")
    )
    jobs = [(name, w, POLICIES[name], "") for w in windows for name in names]
    jobs += [(name, w, s, "") for name, (w, s) in REMEDIES.items() if full]
    few = max(2, seeds // 2)
    for switch in SWITCHES if full else ():
        jobs += [(f"{switch}: {p}", 4, POLICIES[p], switch) for p in ("epsilon 0.05", "IGW gamma 100")]
    tasks = [(j, s) for j in jobs for s in range(seeds if not j[3] else few)]
    reports = Parallel(n_jobs=2 if full else None)(
        delayed(simulate)(j[1], j[2], j[3], rng + s, **world) for j, s in tasks
    )
    by_job: dict[tuple[str, int], list[GenerationReport]] = {}
    for (j, _), report in zip(tasks, reports, strict=True):
        by_job.setdefault((j[0], j[1]), []).append(report)
    main = {key: found for key, found in by_job.items() if key[0] in names}
    tables = [Table(title=f"window {w}", rows=_rows(main, w), unit="normalised value") for w in windows]
    checks = _claims(main, names, full=full)
    if full:
        remedies = {PLAIN: main["IGW gamma 500", 1], "window 4": main["IGW gamma 500", 4]}
        remedies |= {n: by_job[n, w] for n, (w, _) in REMEDIES.items()}
        switched = {k[0]: v for k, v in by_job.items() if ":" in k[0]}
        tables += [
            Table(title="remedies", rows=_rows_of(remedies), unit="normalised value"),
            Table(title="scenarios, window 4", rows=_rows_of(switched), unit="normalised value"),
            Table(title="imbalance, window 1", rows=_imbalance(main, names), unit="share"),
        ]
        checks += _remedy_claims(remedies)
    notes = ["values are exact on fixed contexts; intervals are 95% t over seeds"]
    try:
        real_table, real_checks = routing(seeds=seeds if full else 2, full=full, rng=rng)
        tables.append(real_table)
        checks += real_checks
    except DatasetError as cause:
        if full:
            raise
        notes.append(f"real tables skipped: {str(cause).splitlines()[0]}")
    return Study(
        slug="regression-oracle-bandits",
        mode="full" if full else "quick",
        rng=rng,
        unit="normalised value",
        n=seeds,
        tables=tuple(tables),
        checks=tuple(checks),
        notes=tuple(notes),
        seconds=clock.seconds(),
        versions=versions("numpy", "scikit-learn"),
    )


def simulate(
    window: int, settings: Settings, switch: str, seed: int, *, tests: int, generations: int, regressor: str
) -> GenerationReport:
    """One run of the loop against the simulated payments."""
    switches = {switch: True} if switch in ("delay", "shift", "newarm") else {}
    world = Payments(PaymentsConfig(tests=tests, **switches))
    config = RegressionOracleBanditConfig(window=window, regressor=regressor, shift_auc=False, **settings)
    first = world.legacy if switch == "legacy" else None
    policy = RegressionOracleBandit(config).improve(world, generations=generations, first=first, rng=seed)
    if policy.report is None:
        raise RuntimeError("the loop wrote no report")  # noqa: EM101 - cannot happen
    return policy.report


def series(report: GenerationReport, field: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A value of every generation, normalised: 0 is uniform choice, 1 the best possible."""
    g = report.generations
    return np.array([(getattr(x, field) - x.uniform) / (x.best - x.uniform) for x in g])


def served(report: GenerationReport) -> float:
    """Mean normalised value of what served, after generation 0."""
    return float(series(report, "served")[1:].mean())


def taught(report: GenerationReport) -> float:
    """Mean normalised value of the next model's best actions, for models trained on data of the policy itself."""
    return float(series(report, "greedy")[1:].mean())


def instability(report: GenerationReport) -> float:
    """Standard deviation of the change of the next model's value."""
    return float(np.diff(series(report, "greedy")[1:]).std(ddof=1))


def served_instability(report: GenerationReport) -> float:
    """Standard deviation of the change of the served value."""
    return float(np.diff(series(report, "served")[1:]).std(ddof=1))


def off_best(report: GenerationReport) -> float:
    """Mean share of training rows off the serving model's best action."""
    return float(np.mean([g.off_best for g in report.generations[1:]]))


def _rows(reports: dict[tuple[str, int], list[GenerationReport]], window: int) -> tuple[dict[str, Any], ...]:
    return _rows_of({name: found for (name, w), found in reports.items() if w == window})


def _rows_of(reports: dict[str, list[GenerationReport]]) -> tuple[dict[str, Any], ...]:
    rows = []
    for name, found in reports.items():
        row: dict[str, Any] = {"policy": name}
        for title, of in (("served", served), ("next model", taught), ("instability", instability)):
            value, half = _mean([of(r) for r in found])
            row |= {title: value, f"{title} +-": half}
        row["served instability"] = _mean([served_instability(r) for r in found])[0]
        row["off the best"] = _mean([off_best(r) for r in found])[0]
        row["oscillating"] = sum(r.oscillation.verdict == "oscillating" for r in found)
        row["unstable"] = sum(r.oscillation.verdict == "unstable" for r in found)
        row["deployed"] = float(np.mean([g.deployed for r in found for g in r.generations]))
        rows.append(row)
    return tuple(rows)


def _imbalance(
    reports: dict[tuple[str, int], list[GenerationReport]], names: Sequence[str]
) -> tuple[dict[str, Any], ...]:
    """Training set of each generation next to the model it gave."""
    rows = []
    for name in names:
        found = reports[name, 1]
        for g in range(len(found[0].generations)):
            at = [r.generations[g] for r in found]
            rows.append(
                {
                    "policy": name,
                    "generation": g,
                    "positive rate": float(np.mean([x.positive for x in at])),
                    "least-tried action": float(np.mean([x.least_share for x in at])),
                    "next model": float(np.mean([series(r, "greedy")[g] for r in found])),
                }
            )
    return tuple(rows)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95% t interval."""
    x = np.asarray(values, dtype=np.float64)
    half = float(t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan
    return float(x.mean()), half


def _paired(
    of: Callable[[GenerationReport], float], one: list[GenerationReport], two: list[GenerationReport]
) -> tuple[float, float]:
    return _mean([of(a) - of(b) for a, b in zip(one, two, strict=True)])


def _claims(
    reports: dict[tuple[str, int], list[GenerationReport]], names: Sequence[str], *, full: bool
) -> list[Check]:
    """Claims (a) to (c); two seeds of quick mode say nothing of small differences, so only (a) and (c) by sign."""
    checks = []
    for w in (1, 4):
        gain, half = _paired(served, reports["IGW gamma 500", w], reports["uniform", w])
        checks.append(
            Check(
                claim=f"(a) IGW serves far better than uniform, window {w}",
                measured=gain,
                bar="lower end > 0.2" if full else "mean > 0.2",
                passed=gain - (half if full else 0.0) > 0.2,
                note=f"IGW gamma 500 minus uniform, +- {half:.3f}",
            )
        )
    for rival in ("greedy", "epsilon 0.05") if full else ():
        for w in (1, 4):
            gain, half = _paired(taught, reports["IGW gamma 500", w], reports[rival, w])
            cost, _ = _paired(served, reports["IGW gamma 500", w], reports[rival, w])
            checks.append(
                Check(
                    claim=f"(b) IGW's next model is better than {rival}'s, window {w}",
                    measured=gain,
                    bar="lower end > 0",
                    passed=gain - half > 0,
                    note=f"+- {half:.3f}; served differs by {cost:+.3f}",
                )
            )
    less, half = _paired(instability, reports["greedy", 4], reports["uniform", 4])
    checks.append(
        Check(
            claim="(c) less exploration, more instability: greedy minus uniform, window 4",
            measured=less,
            bar="lower end > 0" if full else "mean > 0",
            passed=less - (half if full else 0.0) > 0,
            note=f"+- {half:.3f}",
        )
    )
    shorter, half = _mean(
        [
            instability(a) - instability(b)
            for n in names
            for a, b in zip(reports[n, 1], reports[n, 4], strict=True)
        ]
    )
    checks.append(
        Check(
            claim="(c) shorter memory, more instability: window 1 minus window 4, all policies",
            measured=shorter,
            bar="lower end > 0" if full else "mean > 0",
            passed=shorter - (half if full else 0.0) > 0,
            note=f"+- {half:.3f}",
        )
    )
    for w in (1, 4):
        found = [r for n in names for r in reports[n, w]]
        rank = spearmanr([off_best(r) for r in found], [taught(r) for r in found])
        checks.append(
            Check(
                claim=f"share of rows off the best action goes with the next model's value, window {w}",
                measured=float(rank.statistic),
                bar="Spearman > 0, p < 0.05",
                passed=bool(rank.statistic > 0 and rank.pvalue < 0.05),
                note=f"{len(found)} runs, p = {rank.pvalue:.2g}",
            )
        )
    return checks


def _remedy_claims(reports: dict[str, list[GenerationReport]]) -> list[Check]:
    plain, checks = reports[PLAIN], []
    for name, found in reports.items():
        if found is plain:
            continue
        change, half = _paired(served_instability, found, plain)
        cost, _ = _paired(served, found, plain)
        checks.append(
            Check(
                claim=f"(d) {name} makes the served value steadier",
                measured=change,
                bar="upper end < 0",
                passed=change + half < 0,
                note=f"+- {half:.3f}; served changes by {cost:+.3f}",
            )
        )
    return checks


def routing(*, seeds: int, full: bool, rng: int) -> tuple[Table, list[Check]]:
    """The same loop on real outcomes: six prompts, GSM8K questions. Raises `DatasetError` without the data."""
    train, test = prompts("train"), prompts("test")
    names = ROUTING if full else ROUTING[:1] + ROUTING[4:6]
    batch, generations = (600, 12) if full else (600, 6)
    tasks = [(n, s) for n in names for s in range(seeds)]
    runs = Parallel(n_jobs=2 if full else None)(
        delayed(_route)(train, test, POLICIES[n], rng + s, batch, generations) for n, s in tasks
    )
    found: dict[str, list[dict[str, float]]] = {}
    for (n, _), result in zip(tasks, runs, strict=True):
        found.setdefault(n, []).append(result)
    best, best_value = test.best_fixed()
    rows: list[dict[str, Any]] = []
    for n, results in found.items():
        row: dict[str, Any] = {"policy": n}
        for key in results[0]:
            value, half = _mean([r[key] for r in results])
            row |= {key: value, f"{key} +-": half}
        rows.append(row)
    rows.append({"policy": f"always {best!r} (best prompt on the test questions)", "last model": best_value})
    rows.append({"policy": "best prompt of every question (not reachable)", "last model": test.oracle()})
    gain, half = _mean(
        [a["solved"] - b["solved"] for a, b in zip(found["IGW gamma 100"], found["uniform"], strict=True)]
    )
    last, last_half = _mean([r["last model"] for r in found["IGW gamma 100"]])
    checks = [
        Check(
            claim="prompt routing: IGW solves more questions while it learns than uniform choice of prompts",
            measured=gain,
            bar="lower end > 0" if full else "mean > 0",
            passed=gain - (half if full else 0.0) > 0,
            note=f"solved questions a question, +- {half:.3f}",
        )
    ]
    if full:
        checks.append(
            Check(
                claim="prompt routing: the last IGW model beats the best single prompt on held-out questions",
                measured=last - best_value,
                bar="lower end > 0",
                passed=last - last_half > best_value,
                note=f"{last:.3f} +- {last_half:.3f} against {best_value:.3f} for {best!r}",
            )
        )
    title = f"prompt routing, {generations} batches of {batch} questions"
    return Table(title=title, rows=tuple(rows), unit="solved questions a question"), checks


def _route(
    train: Any, test: Any, settings: Settings, seed: int, batch: int, generations: int
) -> dict[str, float]:
    """One run: solved while learning, and the exact value of the last model's choices on the test questions."""
    config = RegressionOracleBanditConfig(window=generations, regressor="ridge", shift_auc=False, **settings)
    world = RoutingEnvironment(train, test, batch=batch, order=seed)
    report = RegressionOracleBandit(config).improve(world, generations=generations, rng=seed).report
    if report is None:
        raise RuntimeError("the loop wrote no report")  # noqa: EM101 - cannot happen
    g = report.generations
    return {"solved": float(np.mean([x.value for x in g])), "last model": g[-1].greedy}
