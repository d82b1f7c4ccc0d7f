"""Study of dual learning from clicks: order and bias against the baselines, by severity of the bias and by the old
ranker.

1,000 queries of 20 items are logged by a weak ranker that shows its top 10; readers click by the position-based
model. Every method trains the same network on the same number of batches; 300 other queries with grades judge the
order of all 20 items.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from counterlog.core.clicks import Clicks
from counterlog.core.errors import DatasetError, need_extra
from counterlog.core.letor import Judged
from counterlog.core.ranking_metrics import mean, ndcg
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.click_logs import Population, lightgbm_rank, simulated_queries
from counterlog.rank.click_audit import audit_clicks
from counterlog.rank.click_simulators import PositionBased
from counterlog.rank.dual_learning_ranking import DualLearningRanking, DualLearningRankingConfig
from counterlog.rank.inverse_propensity_ranking import (
    InversePropensityRanking,
    InversePropensityRankingConfig,
    all_pairs_curve,
    pair_counts,
)
from counterlog.rank.pairwise_debiasing import PairwiseDebiasing, PairwiseDebiasingConfig
from counterlog.rank.ranker_value import ranker_value
from counterlog.rank.ranking_report import FittedRanking
from counterlog.rank.regression_em import RegressionEM, RegressionEMConfig
from counterlog.rank.saved_rankers import TreeRanker

SLUG = "dual-learning-ranking"
FULL = (3, 2_000, 1, 1_000)  # seeds and steps of the main table, seeds and steps of the grids
QUICK = (1, 300, 1, 300)
JOINED = ("doc", "position", "click", "query", "label", "score")
HARVEST = 50_000  # lists of each of the two rankers that all-pairs compares
FEW: dict[str, Any] = {"replicates": 100}


def fitted(
    method: str, pop: Population, log: Clicks, model: PositionBased, steps: int, rng: int
) -> FittedRanking:
    """One method on one log."""
    if method.startswith("DLA"):
        lr = 0.05 if "0.05" in method else 0.5
        settings: dict[str, Any] = {"ranker": "trees", "trees": 40} if "trees" in method else {}
        dual = DualLearningRankingConfig(steps=steps, examination_lr=lr, log_every=10_000, **FEW, **settings)
        return DualLearningRanking(dual).fit(log, rng=rng)
    if method == "regression-EM":
        return RegressionEM(RegressionEMConfig(steps=steps)).fit(log, rng=rng)
    if method == "pairwise debiasing":
        return PairwiseDebiasing(PairwiseDebiasingConfig(steps=steps)).fit(log, rng=rng)
    way = "given" if method in ("oracle IPW", "all-pairs IPW") else method.removesuffix(" IPW")
    ipw = InversePropensityRanking(InversePropensityRankingConfig(steps=steps, way=way))
    if way == "given":
        curve = model.examination(10) if method == "oracle IPW" else harvested(pop, model, rng)
        return ipw.fit(log, rng=rng, propensity=curve)
    shuffled = pop.log(10_000, model, rng=rng + 500, shuffled=True) if way == "randomised" else None
    return ipw.fit(log, rng=rng, randomised=shuffled)


def harvested(pop: Population, model: PositionBased, rng: int) -> Any:
    """All-pairs curve of lists of the old ranker and of a second one, which has other weights."""
    gen = np.random.default_rng([rng, 5])
    other = pop.logging + gen.normal(size=len(pop.logging)) * pop.logging.std()
    parts = [
        pop.log(HARVEST, model, rng=rng + 600),
        replace(pop, logging=other).log(HARVEST, model, rng=rng + 700),
    ]
    return all_pairs_curve(*pair_counts(joined(*parts), 10))


def joined(first: Clicks, second: Clicks) -> Clicks:
    """Two logs of the same items as one."""
    both: dict[str, Any] = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in JOINED}
    return replace(first, offsets=np.concatenate([first.offsets, second.offsets[1:] + first.n]), **both)


def in_two(work: Callable[..., Any], cells: list[tuple[Any, ...]]) -> list[Any]:
    """The work of every cell, in two processes; in this one when there is one cell."""
    return list(Parallel(n_jobs=min(2, len(cells)))(delayed(work)(*c) for c in cells))


def from_labels(pop: Population, steps: int, rng: int) -> FittedRanking:
    """The network trained on attraction itself: lists clicked without position bias."""
    log = pop.log(steps * 256, PositionBased(severity=0), rng=rng)
    return fitted("naive", pop, log, PositionBased(severity=0), steps, rng)


def lightgbm_position_bias(log: Clicks, pop: Population, debias: bool, rng: int) -> TreeRanker:
    """LightGBM's lambdarank on the clicks of 5,000 lists, with or without its own position bias correction."""
    lightgbm = need_extra("lightgbm", "trees")
    part = log.take(slice(0, 5_000))
    data = lightgbm.Dataset(
        part.features[part.doc],
        part.click.astype(np.float64),
        group=np.diff(part.offsets),
        position=part.position - 1 if debias else None,
    )
    params = {
        "objective": "lambdarank",
        "num_leaves": 15,
        "learning_rate": 0.1,
        "verbose": -1,
        "num_threads": 1,
    }
    params |= {"seed": rng, "deterministic": True, "force_col_wise": True, "min_data_in_leaf": 50}
    params |= {"lambdarank_position_bias_regularization": 0.0}
    return TreeRanker(lightgbm.train(params, data, num_boost_round=60))


def at(score: Any, judged: Judged, k: int) -> float:
    """Mean nDCG@k."""
    return mean(ndcg(score(judged.features), judged.label, judged.offsets, k))


def row(method: str, cells: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and the spread of nDCG@10."""
    names = list(cells[0])
    means = {n: float(np.mean([c[n] for c in cells])) for n in names}
    out: dict[str, Any] = {"method": method, **{n: None if np.isnan(m) else m for n, m in means.items()}}
    return out | {"nDCG@10 sd": float(np.std([c["nDCG@10"] for c in cells]))}


def measured(fit: FittedRanking, pop: Population, model: PositionBased) -> dict[str, float]:
    """Quality on the test queries, and the curve's error against the truth."""
    truth = model.examination(10) / model.examination(10)[0]
    learnt = np.array([p.learnt for p in fit.report.propensity])
    found = {f"nDCG@{k}": at(fit.score, pop.test, k) for k in (1, 5, 10)}
    return found | {
        "theta_10/theta_1": float(learnt[-1]),
        "curve error": float(np.abs(learnt - truth).mean()),
        "refit curve error": float(np.abs(fit.report.curve() - truth).mean()),
    }


def main_cell(method: str, seed: int, steps: int) -> dict[str, float]:
    """One method on one seed at severity 1."""
    pop, model = simulated_queries(seed), PositionBased()
    if method == "true attraction":
        return measured(from_labels(pop, steps, seed), pop, model)
    log = pop.log(steps * 256, model, rng=seed)
    if method.startswith("LightGBM"):
        trees = lightgbm_position_bias(log, pop, "bias" in method, seed)
        cell = {f"nDCG@{k}": at(trees.score, pop.test, k) for k in (1, 5, 10)}
        nothing = ("theta_10/theta_1", "curve error", "refit curve error")
        return cell | dict.fromkeys(nothing, float("nan"))
    return measured(fitted(method, pop, log, model, steps, seed), pop, model)


def main_table(
    methods: tuple[str, ...], seeds: int, steps: int, rng: int
) -> dict[str, list[dict[str, float]]]:
    """Every method on every seed at severity 1."""
    cells = [(m, rng + s, steps) for m in methods for s in range(seeds)]
    found = in_two(main_cell, cells) if len(methods) > 3 else [main_cell(*c) for c in cells]
    return {m: found[i * seeds : (i + 1) * seeds] for i, m in enumerate(methods)}


def severity_cell(eta: float, method: str, seed: int, steps: int) -> float:
    """nDCG@10 of one method at one severity."""
    pop, model = simulated_queries(seed), PositionBased(severity=eta)
    fit = fitted(method, pop, pop.log(steps * 256, model, rng=seed), model, steps, seed)
    return at(fit.score, pop.test, 10)


def by_severity(levels: tuple[float, ...], seeds: int, steps: int, rng: int) -> list[dict[str, Any]]:
    """nDCG@10 of naive, DLA and oracle at each severity of the bias."""
    kinds = [(eta, m) for eta in levels for m in ("naive", "DLA", "oracle IPW")]
    found = in_two(severity_cell, [(*k, rng + s, steps) for k in kinds for s in range(seeds)])
    rows = []
    for i, (eta, m) in enumerate(kinds):
        own = found[i * seeds : (i + 1) * seeds]
        rows.append({"severity": eta, "method": m, "nDCG@10": float(np.mean(own)), "sd": float(np.std(own))})
    return rows


def skill_cell(skill: float, seed: int, steps: int) -> dict[str, float]:
    """DLA and oracle behind a logging ranker of this skill, and whether the audit warned."""
    pop, model = simulated_queries(seed, skill=skill), PositionBased()
    log = pop.log(steps * 256, model, rng=seed)
    audit = audit_clicks(log.take(slice(0, 50_000)), 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = measured(fitted("DLA", pop, log, model, steps, seed), pop, model)
    return found | {
        "old nDCG@10": mean(ndcg(pop.logging, pop.train.label, pop.train.offsets, 10)),
        "agreement": audit.agreement,
        "oracle nDCG@10": at(fitted("oracle IPW", pop, log, model, steps, seed).score, pop.test, 10),
        "warned": float(not audit.identified),
    }


def by_skill(levels: tuple[float, ...], seeds: int, steps: int, rng: int) -> list[dict[str, Any]]:
    """The better the old ranker, the more position and relevance are one: the curve's error and the audit's verdict."""
    found = in_two(skill_cell, [(skill, rng + s, steps) for skill in levels for s in range(seeds)])
    kept = ("old nDCG@10", "agreement", "nDCG@10", "oracle nDCG@10", "theta_10/theta_1", "curve error")
    rows = []
    for i, skill in enumerate(levels):
        own = found[i * seeds : (i + 1) * seeds]
        rows.append({"skill": skill, **{k: float(np.mean([c[k] for c in own])) for k in (*kept, "warned")}})
    return rows


def adaptation(steps: int, rng: int) -> dict[str, float]:
    """Bias for three quarters of the stream, then none: the learnt last ratio before and after, and the order."""
    pop = simulated_queries(rng)
    learner = DualLearningRanking().online(pop.log(256, rng=rng), rng=rng)
    learner.update(pop.log(256 * steps * 3 // 4, rng=rng))
    before = float(learner.learnt()[0, -1])
    learner.update(pop.log(256 * steps // 4, PositionBased(severity=0), rng=rng + 1))
    found = {"before (true 0.088)": before, "after (true 1)": float(learner.learnt()[0, -1])}
    return found | {"nDCG@10 after": at(learner.ranker().score, pop.test, 10)}


def by_segment(steps: int, rng: int) -> list[dict[str, Any]]:
    """Two segments with theta and theta squared: learnt and true ratio at position 5."""
    pop = simulated_queries(rng)
    models = (PositionBased(), PositionBased(severity=2))
    log = pop.log(steps * 256, segment_models=models, rng=rng)
    config = DualLearningRankingConfig(steps=steps, log_every=10_000, **FEW)
    report = DualLearningRanking(config).fit(log, rng=rng).report
    rows = []
    for s, model in enumerate(models):
        true = float(model.examination(10)[4] / model.examination(10)[0])
        p = next(p for p in report.propensity if p.segment == f"segment {s}" and p.position == 5)
        rows.append(
            {"segment": p.segment, "true": true, "learnt": p.learnt, "value": p.value, "lo": p.lo, "hi": p.hi}
        )
    return rows


def value_of_new_ranker(steps: int, rng: int) -> dict[str, float]:
    """Expected clicks of the learnt order by the log, beside the truth by the click model."""
    pop = simulated_queries(rng)
    model = PositionBased()
    log = pop.log(steps * 256, model, rng=rng)
    fit = fitted("DLA", pop, log, model, steps, rng)
    part = log.take(slice(0, 50_000))
    estimate = ranker_value(part, fit.ranker, fit.report.curve(), rng=rng)
    assert part.label is not None
    pull = 0.1 + 0.9 * (np.exp2(part.label) - 1) / 15
    score = fit.score(part.features)[part.doc].reshape(-1, 10)
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    true = float((pull.reshape(-1, 10) * model.examination(10)[rank]).sum(axis=1).mean())
    logged = ranker_value(part, None, fit.report.curve(), rng=rng)
    return {
        "estimate": estimate.value,
        "lo": estimate.lo,
        "hi": estimate.hi,
        "true": true,
        "logged": logged.value,
    }


def real_lists(steps: int, rng: int) -> list[dict[str, Any]]:
    """LightGBM's ranking example with simulated clicks; too few queries for claims, reported as it is."""
    train, test = lightgbm_rank(), lightgbm_rank("test")
    gen = np.random.default_rng(rng)
    start = train.features @ gen.normal(size=300)
    pop = Population(train, start.astype(np.float64), test)
    model = PositionBased()
    log = pop.log(steps * 64, model, rng=rng)
    rows = []
    for m in ("naive", "DLA", "oracle IPW"):
        fit = fitted(m, pop, log, model, steps, rng)
        rows.append({"method": m, "nDCG@10 (50 test queries)": at(fit.score, test, 10)})
    return rows


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study. Quick: one seed, 300 steps, naive, DLA and oracle. Raises `MissingExtraError`."""
    clock = Clock()
    seeds, steps, few, short = FULL if full else QUICK
    methods: tuple[str, ...] = ("naive", "DLA", "oracle IPW")
    if full:
        methods = ("naive", "pairwise debiasing", "regression-EM", "DLA, g lr 0.05", "DLA", "randomised IPW")
        methods += (
            "all-pairs IPW",
            "oracle IPW",
            "true attraction",
            "DLA, trees",
            "LightGBM",
            "LightGBM, position bias",
        )
    found = main_table(methods, seeds, steps, rng)
    tables = [
        Table(
            title=f"Methods at severity 1, {steps:,} steps",
            rows=tuple(row(m, c) for m, c in found.items()),
            unit="nDCG, mean over seeds",
        )
    ]
    checks = ordering(found, full)
    if full:
        severity = by_severity((0.0, 0.5, 1.5, 2.0), few, short, rng)
        skill = by_skill((0.0, 0.5, 1.0), few, short, rng)
        works = (adaptation, by_segment, value_of_new_ranker)
        adapted, segments, value = in_two(_called, [(w, steps, rng) for w in works])
        tables += [
            Table(title="By severity of the bias", rows=tuple(severity), unit="nDCG@10"),
            Table(
                title="By skill of the logging ranker",
                rows=tuple(skill),
                unit="nDCG@10, shares",
            ),
            Table(
                title="Bias that vanishes after three quarters of the stream",
                rows=(adapted,),
                unit="ratio, nDCG",
            ),
            Table(
                title="Two segments, position 5",
                rows=tuple(segments),
                unit="examination relative to position 1",
            ),
            Table(title="Value of the learnt order from the old log", rows=(value,), unit="clicks a list"),
        ]
        checks += rest(severity, skill, adapted, segments, value)
        try:
            tables.append(
                Table(
                    title="Real lists, simulated clicks",
                    rows=tuple(real_lists(short // 4, rng)),
                    unit="nDCG@10",
                )
            )
        except DatasetError as missing:
            tables.append(Table(title="Real lists, simulated clicks", rows=({"not run": str(missing)},)))
    packages = ("counterlog", "numpy", "torch", "lightgbm") if full else ("counterlog", "numpy", "torch")
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="nDCG@10 of all 20 items of 300 test queries",
        n=seeds,
        tables=tuple(tables),
        checks=tuple(checks),
        notes=("`curve error` is the mean over positions of |learnt - true| theta_k / theta_1.",),
        seconds=clock.seconds(),
        versions=versions(*packages),
    )


def ordering(found: dict[str, list[dict[str, float]]], full: bool) -> list[Check]:
    """Who beats whom at severity 1."""
    q = {m: float(np.mean([c["nDCG@10"] for c in cells])) for m, cells in found.items()}
    error = float(np.mean([c["curve error"] for c in found["DLA"]]))
    out = [
        _above("DLA beats naive training", q["DLA"] - q["naive"], 0.1),
        _below("DLA comes near oracle weighting", q["oracle IPW"] - q["DLA"], 0.02 if full else 0.05),
        _below("DLA's curve is near the truth", error, 0.05 if full else 0.1),
    ]
    if full:
        last = {
            m: float(np.mean([c["theta_10/theta_1"] for c in found[m]])) for m in ("DLA, g lr 0.05", "DLA")
        }
        by_chance = float(np.mean([c["curve error"] for c in found["randomised IPW"]]))
        out += [
            _above("regression-EM beats naive training", q["regression-EM"] - q["naive"], 0.0),
            _above("DLA beats regression-EM", q["DLA"] - q["regression-EM"], 0.0),
            _above("DLA beats pairwise debiasing", q["DLA"] - q["pairwise debiasing"], 0.0),
            _above("DLA beats randomised IPW (the paper's claim)", q["DLA"] - q["randomised IPW"], 0.0),
            _below("DLA's curve error is below randomisation's (the paper's claim)", error, by_chance),
            _above(
                "g with step 0.05 stays half way: its last ratio is higher",
                last["DLA, g lr 0.05"] - last["DLA"],
                0.05,
            ),
            _above("DLA beats LightGBM with its position bias", q["DLA"] - q["LightGBM, position bias"], 0.0),
        ]
    return out


def rest(severity: Any, skill: Any, adapted: Any, segments: Any, value: Any) -> list[Check]:
    """Severity, the confounding limit, online, segments, value."""
    naive = {r["severity"]: r["nDCG@10"] for r in severity if r["method"] == "naive"}
    dual = {r["severity"]: r["nDCG@10"] for r in severity if r["method"] == "DLA"}
    inside = value["lo"] <= value["true"] <= value["hi"]
    return [
        _below("without bias DLA loses little to naive", naive[0.0] - dual[0.0], 0.02),
        _above(
            "at severity 2 DLA beats naive by more than at 0.5",
            dual[2.0] - naive[2.0] - dual[0.5] + naive[0.5],
            0.0,
        ),
        _above("the audit warns of a skilled old ranker", skill[-1]["warned"], 1.0),
        _below("the audit is silent on the weak one", skill[0]["warned"], 0.0),
        _above(
            "confounding: a skilled old ranker raises the last ratio",
            skill[-1]["theta_10/theta_1"] - 0.088,
            0.0,
        ),
        _above("online: the last ratio rises when bias vanishes", adapted["after (true 1)"], 0.7),
        _below(
            "segments: the largest error at position 5",
            max(abs(r["value"] - r["true"]) for r in segments),
            0.1,
        ),
        Check(
            claim="the interval of the new order's clicks holds the truth",
            measured=value["estimate"],
            bar=f"{value['true']:.3f} inside",
            passed=inside,
        ),
    ]


def _called(work: Callable[[int, int], Any], steps: int, rng: int) -> Any:
    return work(steps, rng)


def _above(claim: str, measured: float, bar: float) -> Check:
    return Check(claim=claim, measured=measured, bar=f">= {bar:g}", passed=measured >= bar)


def _below(claim: str, measured: float, bar: float) -> Check:
    return Check(claim=claim, measured=measured, bar=f"<= {bar:g}", passed=measured <= bar)
