"""Study of influence for networks: whose scores predict retraining, flip predictions, find wrong labels and facts?

Part one trains a small network on digits and on the MNIST sample, scores all training rows for queries by every method
and compares with models retrained on random halves (linear datamodeling score), with rows removed, with flipped labels.
Part two trains a two-layer GPT-2 on made facts and asks which texts made it state one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.bm25 import BM25
from counterlog.core.errors import need_extra
from counterlog.core.language_rows import TEXT_TASK, ByteTokenizer, text_loss_rows, token_rows
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.core.torch_models import losses, mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.datasets.capital_facts import Facts, capital_facts
from counterlog.datasets.labelled import Labelled, digits, mnist_sample
from counterlog.trace import attribution_checks as checks_of
from counterlog.trace.datainf import DataInf
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig
from counterlog.trace.fisher_influence import FisherInfluence, FisherInfluenceConfig
from counterlog.trace.hessian_influence import HessianInfluence, HessianInfluenceConfig
from counterlog.trace.logra import LoGra
from counterlog.trace.network_scores import NetworkInfluence
from counterlog.trace.tracin import TracIn, TracInConfig
from counterlog.trace.trak import TRAK, TRAKConfig

SLUG = "ekfac-influence"
Floats = NDArray[np.float64]
STAGES = (0.2, 0.4, 0.6, 0.8)  # shares of the training at which TracInCP looks, beside the end


@dataclass(frozen=True)
class Bench:
    """A data set, its network, its sizes."""

    name: str
    make: Callable[[], Labelled]
    layers: tuple[int, ...]
    rows: int
    epochs: int

    @property
    def recipe(self) -> TrainConfig:
        """How its models are trained."""
        return TrainConfig(epochs=self.epochs, batch=64, lr=2e-3)


@dataclass(frozen=True)
class Case:
    """One bench ready: rows, queries, the trained model and its earlier states."""

    x: Tensor
    y: Tensor
    x_query: Tensor
    y_query: Tensor
    layers: tuple[int, ...]
    model: nn.Module
    stages: list[nn.Module]

    def fresh(self, seed: int) -> nn.Module:
        """Untrained weights."""
        return mlp(self.layers, rng=seed)


BENCHES = (
    Bench("digits", digits, (64, 96, 48, 10), 1_200, 30),
    Bench("MNIST sample", mnist_sample, (784, 64, 10), 2_000, 12),
)


def prepare(bench: Bench, queries: int, rng: int) -> Case:
    """Rows drawn, the model and its stages trained."""
    inputs, labels = bench.make()
    order = np.random.default_rng(rng).permutation(len(labels))
    x, y = torch.from_numpy(inputs[order]), torch.from_numpy(labels[order])
    n = bench.rows

    def trained(epochs: int) -> nn.Module:
        return train(
            mlp(bench.layers, rng=rng),
            x[:n],
            y[:n],
            replace(bench.recipe, epochs=epochs),
            rng=rng,
        )

    asked = slice(n, n + queries)
    stages = [trained(round(share * bench.epochs)) for share in STAGES]
    return Case(x[:n], y[:n], x[asked], y[asked], bench.layers, trained(bench.epochs), stages)


def methods(case: Case, rng: int, full: bool) -> dict[str, Callable[[], NetworkInfluence]]:
    """Every method by name, not yet run."""
    m, x, y = case.model, case.x, case.y

    def ekfac(**settings: Any) -> Callable[[], NetworkInfluence]:
        return lambda: EKFACInfluence(m, x, y, config=EKFACInfluenceConfig(**settings), rng=rng)

    def hessian(**settings: Any) -> Callable[[], NetworkInfluence]:
        return lambda: HessianInfluence(m, x, y, config=HessianInfluenceConfig(**settings), rng=rng)

    def fisher(damping: float) -> Callable[[], NetworkInfluence]:
        return lambda: FisherInfluence(m, x, y, config=FisherInfluenceConfig(damping=damping))

    found: dict[str, Callable[[], NetworkInfluence]] = {
        "GradDot": lambda: TracIn(m, x, y),
        "GradCos": lambda: TracIn(m, x, y, config=TracInConfig(cosine=True)),
        "TracInCP": lambda: TracIn(m, x, y, checkpoints=[*case.stages, m]),
        "diagonal": ekfac(strategy="diagonal", fisher="empirical"),
        "K-FAC": ekfac(strategy="kfac", fisher="empirical"),
        "EK-FAC": ekfac(fisher="empirical"),
        "EK-FAC, true Fisher, 1 draw": ekfac(),
        "EK-FAC, true Fisher, 16 draws": ekfac(draws=16),
        "EK-FAC, rank 8 queries": ekfac(fisher="empirical", query_rank=8),
        "EK-FAC, damping 1e-8": ekfac(fisher="empirical", damping=1e-8),
        "EK-FAC, damping 1e-3": ekfac(fisher="empirical", damping=1e-3),
        "exact empirical Fisher, damping 1e-3": fisher(1e-3),
        "DataInf": lambda: DataInf(m, x, y),
        "LoGra 16 x 16": lambda: LoGra(m, x, y, rng=rng),
        "TRAK, 1 model, k=256": lambda: TRAK(m, x, y, config=TRAKConfig(dimension=256), rng=rng),
    }
    if full:
        found |= {
            "exact empirical Fisher, damping 1e-2": fisher(1e-2),
            "TRAK, 1 model, k=1024": lambda: TRAK(m, x, y, config=TRAKConfig(dimension=1024), rng=rng),
        }
    if full and len(case.layers) > 3:  # one query at a time: the small network only
        found |= {
            "Arnoldi, 50 pairs": hessian(solver="arnoldi"),
            "CG, damping 0.01 (20 queries)": hessian(damping=0.01, cg_steps=25),
            "LiSSA, damping 0.01 (20 queries)": hessian(solver="lissa", damping=0.01, lissa_depth=300),
        }
    return found


def bake_off(
    bench: Bench, case: Case, subsets: int, rng: int, full: bool
) -> tuple[list[dict[str, Any]], dict[str, Floats]]:
    """LDS of every method, and the scores themselves."""
    masks = checks_of.random_subsets(len(case.x), subsets, rng)
    runs = checks_of.retrained(case.fresh, case.x, case.y, masks, bench.recipe, seeds=(rng + 1, rng + 2))
    by_seed = [checks_of.measured_losses(r, case.x_query, case.y_query) for r in runs]
    truth = np.mean(by_seed, axis=0)
    rows, scores = [], {}
    for name, make in methods(case, rng, full).items():
        few = 20 if "20 queries" in name else len(case.x_query)
        clock = Clock()
        found = make().explain(case.x_query[:few], case.y_query[:few])
        spent = clock.seconds()
        score = checks_of.lds(found, masks, truth[:, :few])
        scores[name] = found
        rows.append(
            {
                "data": bench.name,
                "method": name,
                "LDS": score.value,
                "lo": score.lo,
                "hi": score.hi,
                "queries": few,
                "cpu s": spent,
            }
        )
    ceiling = checks_of.rank_correlation(*by_seed)
    rows.append(
        {
            "data": bench.name,
            "method": "ceiling: one retraining seed against another",
            "LDS": float(ceiling.mean()),
            "queries": len(ceiling),
        }
    )
    return rows, scores


def brittleness(
    bench: Bench, case: Case, scores: dict[str, Floats], k: int, rng: int, seeds: int
) -> list[dict[str, Any]]:
    """Share of rightly answered queries that flip when k rows are removed and the model is trained again."""
    with torch.no_grad():
        said = case.model(case.x_query).argmax(dim=1)
    right = torch.nonzero(said == case.y_query)[:, 0][:25]
    gen = np.random.default_rng(rng + 7)
    orders = {name: scores[name][:, right.numpy()] for name in ("EK-FAC", "GradDot")}
    orders["random"] = gen.normal(size=(len(case.x), len(right)))
    rows = []
    for name, found in orders.items():
        masks = checks_of.without_best(found, k)
        runs = checks_of.retrained(
            case.fresh, case.x, case.y, masks, bench.recipe, seeds=range(rng + 1, rng + 1 + seeds)
        )
        flips = [checks_of.flipped(r, case.x_query[right], said[right].numpy()) for r in runs]
        rows.append(
            {"data": bench.name, "removed by": name, "flipped": float(np.mean(flips)), "queries": len(right)}
        )
    return rows


def mislabels(bench: Bench, case: Case, rng: int) -> list[dict[str, Any]]:
    """Area under the curve of finding a tenth of wrong labels by self-influence or by loss."""
    from sklearn.metrics import roc_auc_score

    gen = np.random.default_rng(rng + 3)
    wrong = np.zeros(len(case.y), dtype=bool)
    wrong[gen.permutation(len(wrong))[: len(wrong) // 10]] = True
    y = case.y.clone()
    y[wrong] = (y[wrong] + torch.from_numpy(gen.integers(1, 10, int(wrong.sum())))) % 10
    model = train(case.fresh(rng), case.x, y, replace(bench.recipe, epochs=8), rng=rng)
    found = {
        "EK-FAC self-influence": EKFACInfluence(model, case.x, y, rng=rng).self_influence(),
        "GradDot self-influence": TracIn(model, case.x, y).self_influence(),
        "loss": losses(model, case.x, y).numpy(),
    }
    return [
        {"data": bench.name, "score": name, "AUC": float(roc_auc_score(wrong, v))}
        for name, v in found.items()
    ]


def proximal(case: Case, rows: int, rng: int) -> list[dict[str, Any]]:
    """Correlation of scores with what weighting a row up does in the proximal problem, damping 0.01."""
    chosen = np.random.default_rng(rng + 5).permutation(len(case.x))[:rows]
    asked = case.x_query[:25], case.y_query[:25]
    truth = checks_of.pbrf_changes(
        case.model, case.x, case.y, chosen.tolist(), *asked, damping=0.01, weight=0.01
    )
    m, x, y = case.model, case.x, case.y
    factored = EKFACInfluenceConfig(damping=0.01, draws=16)
    ways = {
        "EK-FAC, 16 draws": EKFACInfluence(m, x, y, config=factored, rng=rng),
        "K-FAC, 16 draws": EKFACInfluence(m, x, y, config=replace(factored, strategy="kfac"), rng=rng),
        "CG": HessianInfluence(m, x, y, config=HessianInfluenceConfig(damping=0.01, cg_steps=40)),
        "GradDot": TracIn(m, x, y),
    }
    out = []
    for name, way in ways.items():
        found = -way.explain(*asked)[chosen]
        correlation = float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])
        out.append({"method": name, "correlation": correlation, "rows": rows})
    return out


def tiny_gpt(rng: int) -> nn.Module:
    """GPT-2 of two layers, width 64, two heads, a token a byte; weights from `rng`."""
    transformers = need_extra("transformers", "language")
    config = transformers.GPT2Config(
        vocab_size=256,
        n_positions=64,
        n_embd=64,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(rng)
        model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def facts_part(n: int, steps: int, rng: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Who made the model state a fact? Recall among the ten best, and what turning the fact round does."""
    facts: Facts = capital_facts(n, rng=rng)
    tokenizer = ByteTokenizer()
    x, y = token_rows(facts.texts, tokenizer, 64)
    epochs = max(1, steps * 32 // len(x))
    config = TrainConfig(epochs=epochs, batch=32, lr=3e-3)
    model = train(tiny_gpt(rng), x, y, config, loss=text_loss_rows, rng=rng)
    x_query, y_query = token_rows(facts.queries, tokenizer, 64)
    known = losses(model, x_query, y_query, text_loss_rows, rows=64).mean()
    stated = np.asarray(facts.fact)[:, None] == np.arange(n)
    settings: dict[str, Any] = {"include": ("*mlp*",), "batch": 64, "draws": 4}
    ways = {
        "EK-FAC": EKFACInfluence(
            model, x, y, task=TEXT_TASK, config=EKFACInfluenceConfig(**settings), rng=rng
        ),
        "EK-FAC, rank 32": EKFACInfluence(
            model, x, y, task=TEXT_TASK, config=EKFACInfluenceConfig(**settings, query_rank=32), rng=rng
        ),
        "GradDot": EKFACInfluence(
            model, x, y, task=TEXT_TASK, config=EKFACInfluenceConfig(strategy="identity", **settings)
        ),
    }
    scores = {name: way.explain(x_query, y_query) for name, way in ways.items()}
    scores["BM25"] = BM25.fit([t.text for t in facts.texts]).scores([q.text for q in facts.queries])
    rows = []
    for name, found in scores.items():
        best = np.argsort(-found, axis=0, kind="stable")[:10]
        recall = np.take_along_axis(stated, best, axis=0).sum(axis=0) / stated.sum(axis=0)
        first = stated[best[0], np.arange(n)]
        rows.append(
            {"method": name, "recall at 10": float(recall.mean()), "first is the fact": float(first.mean())}
        )
    plain = [int(np.flatnonzero(stated[:, j])[0]) for j in range(n)]
    turned = token_rows(facts.turned, tokenizer, 64)
    way = EKFACInfluence(model, x, y, task=TEXT_TASK, config=EKFACInfluenceConfig(**settings), rng=rng)
    other = way.others(*turned)
    after = other.explain(x_query, y_query)[np.arange(n), np.arange(n)]
    before = scores["EK-FAC"][plain, np.arange(n)]
    return rows, {
        "loss": float(known),
        "fall": float(1 - after.mean() / before.mean()),
        "median fall": float(np.median(1 - after / before)),
    }


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study. Quick: digits, 10 subsets, 20 queries, no language model. Raises `MissingExtraError`."""
    clock = Clock()
    queries, subsets = (100, 40) if full else (20, 10)
    table: list[dict[str, Any]] = []
    flips: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    near: list[dict[str, Any]] = []
    for bench in BENCHES if full else BENCHES[:1]:
        case = prepare(bench, queries, rng)
        rows, scores = bake_off(bench, case, subsets, rng, full)
        table += rows
        if full:
            wrong += mislabels(bench, case, rng)
        if full and bench.name == "digits":
            flips += brittleness(bench, case, scores, 30, rng, 2)
            near += proximal(case, 8, rng)
    facts, swap = facts_part(50, 900, rng) if full else ([], {})
    tables = [
        Table(
            title="Linear datamodeling score",
            rows=tuple(table),
            unit="rank correlation over subsets, mean over queries",
        ),
        Table(
            title="Predictions flipped by removing 30 rows a query",
            rows=tuple(flips),
            unit="share of right answers",
        ),
        Table(title="A tenth of wrong labels found", rows=tuple(wrong), unit="area under the curve"),
        Table(title="Proximal problem on digits", rows=tuple(near), unit="correlation over rows and queries"),
    ]
    if full:
        tables.append(
            Table(title="Which texts state the fact that the model recites", rows=tuple(facts), unit="share")
        )
        tables.append(
            Table(title="The fact turned round", rows=(swap,), unit="loss: nats; falls: share of influence")
        )
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="linear datamodeling score",
        n=2 * subsets,
        tables=tuple(tables),
        checks=tuple(claims(table, flips, near, facts, swap)),
        notes=(
            "Retrained halves: two seeds a subset, averaged. EK-FAC without a remark: labels of the data, damping a "
            "tenth of the mean eigenvalue by layer.",
        ),
        seconds=clock.seconds(),
        versions=versions(
            "counterlog", "numpy", "torch", "scikit-learn", *(("transformers",) if full else ())
        ),
    )


def claims(
    table: list[dict[str, Any]],
    flips: list[dict[str, Any]],
    near: list[dict[str, Any]],
    facts: list[dict[str, Any]],
    swap: dict[str, float],
) -> list[Check]:
    """The claims against their bars."""
    out: list[Check] = []

    def claim(said: str, measured: float, bar: str, passed: bool) -> None:
        out.append(Check(claim=said, measured=measured, bar=bar, passed=bool(passed)))

    for data in dict.fromkeys(r["data"] for r in table):
        score = {r["method"]: float(r["LDS"]) for r in table if r["data"] == data}
        best, gain = score["EK-FAC"], score["EK-FAC"] - score["diagonal"]
        bar = max(0.35, 1.7 * score["GradDot"])
        claim(
            f"{data}: LDS of EK-FAC is 1.7 times GradDot's, at least 0.35", best, f">= {bar:.3f}", best >= bar
        )
        claim(f"{data}: LDS of EK-FAC is above the diagonal's by 0.10", gain, ">= 0.10", gain >= 0.1)
        flip = {r["removed by"]: float(r["flipped"]) for r in flips if r["data"] == data}
        if flip:
            said = f"{data}: removing 30 rows by EK-FAC flips twice as many answers as random rows"
            twice = 2 * flip["random"]
            claim(said, flip["EK-FAC"], f">= {twice:.3f}, above 0", flip["EK-FAC"] >= max(twice, 1e-9))
    if near:
        by = {r["method"]: float(r["correlation"]) for r in near}
        gain = by["EK-FAC, 16 draws"] - by["GradDot"]
        claim("digits: EK-FAC is closer to the proximal problem than GradDot", gain, "> 0", gain > 0)
    if facts:
        recall = {r["method"]: float(r["recall at 10"]) for r in facts}["EK-FAC"]
        claim(
            "facts: the ten best texts hold those that state the fact", recall, ">= 0.8 recall", recall >= 0.8
        )
        fall = swap["fall"]
        claim("facts: turning the fact round halves its influence", fall, ">= 0.5", fall >= 0.5)
    return out
