"""Study of `influence-approximation-unlearning`: is one signed gradient step close to retraining, and how soon?

On handwritten digits, the MNIST sample, made shopping baskets and the Adult table a tenth of the training rows must
go. Every way of forgetting is held against retraining without them, over seeds of rows, weights and order. The
baselines' settings are searched on a probe seed by the average gap to retraining; IAU's step size never sees a
retrained model: it is the largest that keeps retained accuracy within one point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.errors import ConvergenceError
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig, mean_only, train
from counterlog.datasets.labelled import Labelled, baskets, digits, incomes, mnist_sample
from counterlog.unlearn.fine_tune import FineTune, FineTuneConfig
from counterlog.unlearn.fisher_noise import FisherNoise, FisherNoiseConfig
from counterlog.unlearn.forget_request import Forgotten, Unlearner, share_right
from counterlog.unlearn.gradient_ascent import (
    GradientAscent,
    GradientAscentConfig,
    NegGradPlus,
    NegGradPlusConfig,
)
from counterlog.unlearn.influence_approximation_unlearning import IAU, IAUConfig, gradient_restriction
from counterlog.unlearn.influence_newton import InfluenceNewton, InfluenceNewtonConfig
from counterlog.unlearn.random_labels import RandomLabels, RandomLabelsConfig
from counterlog.unlearn.retrain import Retrain, RetrainConfig
from counterlog.unlearn.scrub import Scrub, ScrubConfig
from counterlog.unlearn.unlearning_metrics import UnlearningMetrics, evaluate

ALPHA = 0.005
EPOCHS = 30
LRS = (5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3)
HEADLINE = ("ua", "ra", "ta")
Cell = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """A data set, its network and how many rows train and test it."""

    name: str
    make: Callable[[], Labelled]
    layers: tuple[int, ...]
    train_rows: int


BENCHES = (
    Bench("digits", digits, (64, 64, 10), 1_200),
    Bench("MNIST sample", mnist_sample, (128, 64, 10), 3_000),
    Bench("baskets", baskets, (128, 20), 1_500),
    Bench("Adult incomes", incomes, (64, 32, 2), 3_000),
)
SEARCHED: dict[str, tuple[Unlearner, ...]] = {
    "FT": tuple(FineTune(FineTuneConfig(lr=lr)) for lr in (1e-3, 5e-3, 0.01, 0.05, 0.1)),
    "GA": tuple(GradientAscent(GradientAscentConfig(lr=lr)) for lr in (1e-3, 5e-3, 0.01, 0.02, 0.05)),
    "NegGrad+": tuple(NegGradPlus(NegGradPlusConfig(lr=lr)) for lr in (5e-3, 0.01, 0.02, 0.05, 0.1)),
    "random labels": tuple(RandomLabels(RandomLabelsConfig(lr=lr)) for lr in (5e-3, 0.01, 0.02, 0.05, 0.1)),
    "SCRUB": tuple(Scrub(ScrubConfig(lr=lr)) for lr in (2e-4, 5e-4, 1e-3, 2e-3, 5e-3)),
    "Fisher": tuple(
        FisherNoise(FisherNoiseConfig(alpha=a, most=m))
        for a, m in ((1e-9, 1e-3), (1e-8, 1e-3), (1e-7, 3e-3), (1e-6, 0.01), (1e-6, 0.03))
    ),
    "IU WoodFisher": tuple(
        InfluenceNewton(InfluenceNewtonConfig(curvature="woodfisher", scale=s))
        for s in (1.0, 5.0, 20.0, 50.0, 100.0)
    ),
    "Newton": tuple(
        InfluenceNewton(InfluenceNewtonConfig(damping=d, steps=20)) for d in (1e-4, 1e-3, 0.01, 0.1, 1.0)
    ),
}
QUICK = ("FT", "GA")


@dataclass(frozen=True)
class Case:
    """One seed of a bench: rows, the rows to forget, fresh weights, trained models, the retrained reference."""

    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]
    forget: NDArray[np.int64]
    start: nn.Module
    plain: nn.Module
    restricted: nn.Module
    retrained: Forgotten
    seed: int
    train_seconds: tuple[float, float]

    def measure(self, model: nn.Module | Forgotten) -> UnlearningMetrics:
        """All metrics against the retrained model."""
        return evaluate(
            model,
            self.x,
            self.y,
            self.forget,
            test=self.test,
            retrained=self.retrained,
            attacks=("confidence",),
            rng=self.seed,
        )

    def run(self, way: Unlearner, *, restricted: bool = False) -> Cell:
        """Forget, measure, and what it cost."""
        made = way.forget(
            self.restricted if restricted else self.plain, self.x, self.y, self.forget, rng=self.seed
        )
        return cell(self.measure(made), made.report.cpu_seconds)


def cell(found: UnlearningMetrics, seconds: float) -> Cell:
    """The numbers of the tables."""
    headline = {k: float(getattr(found, k)) for k in HEADLINE}
    signed = {f"{k} gap": v for k, v in found.gaps.items()}
    rest = {
        "avg gap": found.average_gap,
        "ToW": found.tow,
        "KL forget": found.kl_forget,
        "loss AUC": found.loss_auc,
    }
    return {**headline, "mia": found.mia["confidence"], **signed, **rest, "cpu s": seconds}


def prepare(bench: Bench, data: Labelled, seed: int, rng: int) -> Case:
    """Rows drawn, models trained plainly and with restricted gradients, and the reference retrained."""
    gen = np.random.default_rng([rng, seed])
    order = gen.permutation(len(data[0]))
    x, y = (torch.from_numpy(a[order]) for a in data)
    n = bench.train_rows
    rows, labels = x[:n].contiguous(), y[:n].contiguous()
    forget = np.sort(gen.choice(n, n // 10, replace=False))
    start = mlp((x.shape[1], *bench.layers), rng=seed)
    config, models, spent = TrainConfig(epochs=EPOCHS), [], []
    for objective in (mean_only, gradient_restriction(ALPHA)):
        begin = time.process_time()
        models.append(train(start, rows, labels, config, objective=objective, rng=seed))
        spent.append(time.process_time() - begin)
    again = Retrain(RetrainConfig(epochs=EPOCHS), start=start).forget(
        models[0], rows, labels, forget, rng=seed
    )
    test = x[n : n + 1_000], y[n : n + 1_000]
    return Case(rows, labels, test, forget, start, models[0], models[1], again, seed, (spent[0], spent[1]))


def noise_floor(case: Case) -> Cell:
    """Retraining again with other weights and another order: how far apart two exact answers are."""
    seed = case.seed + 500
    sizes = tuple(
        [m.in_features for m in case.start if isinstance(m, nn.Linear)] + [case.start[-1].out_features]
    )
    other = Retrain(RetrainConfig(epochs=EPOCHS), start=mlp(sizes, rng=seed))
    made = other.forget(case.plain, case.x, case.y, case.forget, rng=seed)
    return cell(case.measure(made), made.report.cpu_seconds)


def searched(probe: Case, names: Sequence[str]) -> dict[str, Unlearner]:
    """Each baseline at the setting of its grid with the smallest average gap on the probe; diverging ones lose."""

    def gap(way: Unlearner) -> float:
        found = attempt(probe, way)
        return found[0]["avg gap"] if found else math.inf

    return {name: min(SEARCHED[name], key=gap) for name in names}


def attempt(case: Case, way: Unlearner) -> list[Cell]:
    """One cell, or none when the way diverged."""
    try:
        return [case.run(way)]
    except ConvergenceError:
        return []


def bench_cells(
    bench: Bench, seeds: int, rng: int, *, full: bool
) -> tuple[dict[str, list[Cell]], dict[str, str], float]:
    """Cells by method, the settings chosen, and the mean cost of restricted over plain training."""
    data = bench.make()
    names = tuple(SEARCHED) if full else QUICK
    ways = searched(prepare(bench, data, 1_000, rng), names)
    found: dict[str, list[Cell]] = {}
    ratios = []
    for seed in range(seeds):
        case = prepare(bench, data, seed, rng)
        ratios.append(case.train_seconds[1] / case.train_seconds[0])
        found.setdefault("retrain", []).append(
            cell(case.measure(case.retrained), case.retrained.report.cpu_seconds)
        )
        if full:
            found.setdefault("retrain, other seed", []).append(noise_floor(case))
        found.setdefault("original", []).append(cell(case.measure(case.plain), 0.0))
        for name, way in ways.items():
            found.setdefault(name, []).extend(attempt(case, way))
        for lr in LRS if full else ():
            for restricted in (False, True):
                name = f"IAU{'+GR' if restricted else ''} lr {lr:g}"
                found.setdefault(name, []).append(case.run(IAU(IAUConfig(lr=lr)), restricted=restricted))
        for restricted in (False, True):
            name = f"IAU{'+GR' if restricted else ''}"
            found.setdefault(name, []).append(case.run(IAU(IAUConfig(lrs=LRS)), restricted=restricted))
            one = case.run(IAU(), restricted=restricted)
            found[name][-1]["one step cpu s"] = one["cpu s"]
    return found, {name: _setting(way) for name, way in ways.items()}, float(np.mean(ratios))


def _setting(way: Unlearner) -> str:
    said = way.config.to_dict()
    keys = ("alpha", "most") if isinstance(way, FisherNoise) else ("lr", "curvature", "scale", "damping")
    return ", ".join(f"{k} {said[k]}" for k in keys if k in said)


def sequential(
    bench: Bench, seeds: int, rng: int, requests: int = 20, size: int = 15
) -> list[dict[str, Any]]:
    """Requests one after another, a step of 1e-3 each: test accuracy of plain and of restricted models on the way."""
    data, rows = bench.make(), []
    curves: dict[str, list[list[float]]] = {"plain": [], "restricted": []}
    for seed in range(seeds):
        case = prepare(bench, data, seed, rng)
        order = (
            np.random.default_rng([rng, seed, 1])
            .permutation(len(case.x))[: requests * size]
            .reshape(requests, -1)
        )
        for name, model in (("plain", case.plain), ("restricted", case.restricted)):
            curve = [share_right(model, *case.test)]
            for k in range(requests):
                gone = order[: k + 1].ravel()
                retain = np.setdiff1d(np.arange(len(case.x)), gone)
                model = IAU().forget(model, case.x, case.y, order[k], retain=retain, rng=seed).model
                curve.append(share_right(model, *case.test))
            curves[name].append(curve)
    for k in range(0, requests + 1, 5):
        means = {name: float(np.mean([c[k] for c in found])) for name, found in curves.items()}
        differences = [b[k] - a[k] for a, b in zip(curves["plain"], curves["restricted"], strict=True)]
        rows.append(
            {
                "data": bench.name,
                "requests": k,
                **means,
                "difference": float(np.mean(differences)),
                "half width": half_width(differences),
            }
        )
    return rows


def half_width(values: Sequence[float]) -> float:
    """1.96 standard errors over seeds."""
    return float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def table(bench: Bench, found: Mapping[str, list[Cell]], chosen: Mapping[str, str]) -> Table:
    """Means over seeds, one method a row."""
    rows = []
    for name, cells in found.items():
        if not cells:
            continue
        keys = [k for k in cells[0] if k != "one step cpu s"]
        means = {k: round(float(np.mean([c[k] for c in cells])), 5) for k in keys}
        width = half_width([c["avg gap"] for c in cells])
        rows.append(
            {
                "method": name,
                "setting": chosen.get(name, ""),
                "seeds": len(cells),
                **means,
                "avg gap half width": round(width, 5),
            }
        )
    return Table(title=bench.name, rows=tuple(rows), unit="share; KL in nats; processor seconds")


def claims(name: str, found: Mapping[str, list[Cell]], *, full: bool) -> list[Check]:
    """What the paper and the bars claim, for one data set."""

    def mean(method: str, key: str) -> float:
        return float(np.mean([c[key] for c in found[method]]))

    def below(claim: str, a: float, b: float, bar: str) -> Check:
        return Check(claim=f"{name}: {claim}", measured=round(a, 5), bar=f"{bar} {b:.5g}", passed=a <= b)

    step, again = mean("IAU", "one step cpu s"), mean("retrain", "cpu s")
    checks = [
        below(
            "average gap of IAU is at most fine-tuning's", mean("IAU", "avg gap"), mean("FT", "avg gap"), "<="
        ),
        below(
            "average gap of IAU is at most gradient ascent's",
            mean("IAU", "avg gap"),
            mean("GA", "avg gap"),
            "<=",
        ),
        below("one step's time to retraining's", step / again, 1 / 50, "<="),
        below("one step's time to fine-tuning's", step / mean("FT", "cpu s"), 1 / 5, "<="),
        below(
            "test accuracy of IAU is within a point of retraining's", -mean("IAU", "ta gap"), 0.01, "loss <="
        ),
    ]
    if full:
        smallest, largest = f"IAU lr {LRS[0]:g}", f"IAU lr {LRS[-1]:g}"
        trade = min(
            mean(largest, "ua") - mean(smallest, "ua"),
            mean(largest, "mia") - mean(smallest, "mia"),
            mean(smallest, "ra") - mean(largest, "ra"),
            mean(smallest, "ta") - mean(largest, "ta"),
        )
        checks += [
            Check(
                claim=f"{name}: a larger step raises UA and MIA and lowers RA and TA",
                measured=round(trade, 5),
                bar="smallest of the four changes > 0",
                passed=trade > 0,
            ),
            below(
                "average gap of IAU+GR is at most IAU's",
                mean("IAU+GR", "avg gap"),
                mean("IAU", "avg gap"),
                "<=",
            ),
        ]
    return checks


def work(number: int, seeds: int, rng: int, full: bool) -> dict[str, Any]:
    """One bench whole, in a process of its own; one thread, so that processor seconds compare."""
    clock, threads = Clock(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bench = BENCHES[number]
        found, chosen, ratio = bench_cells(bench, seeds, rng, full=full)
        rows = sequential(bench, seeds, rng) if full and number < 2 else []
    finally:
        torch.set_num_threads(threads)
    return {"found": found, "chosen": chosen, "ratio": ratio, "rows": rows, "seconds": clock.seconds()}


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study; quick is one seed of the digits with fine-tuning and ascent, full five seeds of four data sets."""
    seeds, numbers = (5, range(len(BENCHES))) if full else (1, range(1))
    jobs = joblib.Parallel(n_jobs=len(numbers))
    made = list(jobs(joblib.delayed(work)(number, seeds, rng, full) for number in numbers))
    tables: list[Table] = []
    checks: list[Check] = []
    for bench, part in zip(BENCHES, made, strict=False):
        tables.append(table(bench, part["found"], part["chosen"]))
        checks += claims(bench.name, part["found"], full=full)
    rows = [r for part in made for r in part["rows"]]
    if rows:
        title = "Requests of 15 rows, one after another: test accuracy"
        tables.append(Table(title=title, rows=tuple(rows), unit="share"))
    for last in (part["rows"][-1] for part in made if part["rows"]):
        checks.append(
            Check(
                claim=f"{last['data']}: after 20 requests restricted training keeps more test accuracy",
                measured=round(last["difference"], 5),
                bar="> 0",
                passed=last["difference"] > 0,
                note=f"half width {last['half width']:.4f}",
            )
        )
    costs = tuple(
        {"data": bench.name, "restricted training to plain, processor time": round(part["ratio"], 3)}
        for bench, part in zip(BENCHES, made, strict=False)
    )
    tables.append(Table(title="Cost of restricted gradients", rows=costs, unit="ratio"))
    return Study(
        slug="influence-approximation-unlearning",
        mode="full" if full else "quick",
        rng=rng,
        unit="share",
        n=seeds,
        tables=tuple(tables),
        checks=tuple(checks),
        notes=(
            "gaps are the method's metric minus retraining's; half widths are 1.96 se over seeds",
            "baselines are tuned on a probe seed against its retrained model, five settings each; IAU is not",
            "MIA is the share of forgotten rows that a support vector classifier of confidences takes for unseen",
        ),
        seconds=round(sum(part["seconds"] for part in made), 2),
        versions=versions("torch", "scikit-learn", "numpy"),
    )
