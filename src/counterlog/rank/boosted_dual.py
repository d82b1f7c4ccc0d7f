"""Dual learning with trees: a tree down the functional gradient of L_rank, then g towards the minimum of L_exam.

The gradient of the listwise loss is taken at every list, then added up by item: trees are grown on the distinct
items, however many lists were shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.clicks import Clicks, ClickTable
from counterlog.core.errors import need_extra
from counterlog.core.letor import Judged
from counterlog.core.ranking_metrics import mean, ndcg
from counterlog.rank.examination_curve import fixed_point, inverse_relevance, shown_sets
from counterlog.rank.ranking_report import TrainingPoint
from counterlog.rank.saved_rankers import TreeRanker

Floats = NDArray[np.float64]
MOST_LISTS = 20_000


@dataclass(frozen=True)
class BoostedConfig:
    """Trees and how g follows them; described in the system's configuration."""

    trees: int
    leaves: int
    leaf_items: int
    lr: float
    rate: float
    on_long: str


def list_gradient(score: Floats, weighted_click: Floats, shown: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """First and (diagonal) second derivative of sum - c w log softmax(s) by the scores, (L, K) each."""
    logit = np.where(shown, score, -np.inf)
    share = np.exp(logit - logit.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    total = weighted_click.sum(axis=1, keepdims=True)
    return share * total - weighted_click, share * (1 - share) * total


def by_item(values: Floats, table: ClickTable, items: int) -> Floats:
    """(D,) sums over all places where an item was shown."""
    found = np.bincount(table.doc[table.shown], values[table.shown], minlength=items)
    return found.astype(np.float64)


def boosted_dual(
    log: Clicks,
    config: BoostedConfig,
    size: int,
    reference: str,
    most: float | None,
    validation: Judged | None,
    rng: int,
    progress: object,
    log_every: int,
) -> tuple[TreeRanker, Floats, tuple[TrainingPoint, ...]]:
    """(ranker, learnt ratios (S, K), training curves). Beyond `MOST_LISTS` lists every tree sees a new sample."""
    lightgbm = need_extra("lightgbm", "trees")
    params = {
        "num_leaves": config.leaves,
        "learning_rate": config.lr,
        "verbose": -1,
        "num_threads": 1,
        "seed": rng,
        "deterministic": True,
        "force_col_wise": True,
        "boost_from_average": False,
        "min_data_in_leaf": config.leaf_items,
        "min_sum_hessian_in_leaf": 1e-3,
    }
    items, segments = len(log.features), len(log.segments)
    data = lightgbm.Dataset(log.features, np.zeros(items), params=params, free_raw_data=False)
    booster = lightgbm.Booster({**params, "objective": "none"}, data)
    whole = log.table(size, on_long=config.on_long)
    score, logs = np.zeros(items), np.zeros((segments, size))
    training = []
    for tree in range(config.trees):
        table = _sample(whole, rng, tree)
        s = score[table.doc]
        ratio = np.exp(-logs)[table.segment]
        cw = np.asarray(table.click * (ratio if most is None else np.minimum(ratio, most)), np.float64)
        first, second = list_gradient(s, cw, table.shown)
        shown_at = by_item(np.ones_like(first), table, items)
        seen = np.maximum(shown_at.mean(), 1.0)
        gradient, curvature = by_item(first, table, items) / seen, by_item(second, table, items) / seen
        booster.update(data, fobj=lambda _p, _d, g=gradient, h=curvature: (g, h + 1e-9))
        score = (
            np.asarray(booster.predict(log.features, raw_score=True, start_iteration=tree, num_iteration=1))
            + score
        )
        logs = _towards_minimum(logs, score[table.doc], table, reference, most, config.rate)
        if (tree + 1) % max(1, log_every // 10) == 0 or tree + 1 == config.trees:
            training.append(_point(tree + 1, score, cw, table, logs, booster, validation))
            if callable(progress):
                progress(f"tree {tree + 1} of {config.trees}", (tree + 1) / config.trees)
    return TreeRanker(booster), np.exp(logs), tuple(training)


def _sample(table: ClickTable, rng: int, tree: int) -> ClickTable:
    if len(table.doc) <= MOST_LISTS:
        return table
    rows = np.random.default_rng([rng, tree]).integers(len(table.doc), size=MOST_LISTS)
    return ClickTable(table.doc[rows], table.click[rows], table.segment[rows])


def _towards_minimum(
    logs: Floats, score: Floats, table: ClickTable, reference: str, most: float | None, rate: float
) -> Floats:
    """g moved a share `rate` of the way to where L_exam is smallest, each segment by itself."""
    cv = table.click * inverse_relevance(score, table.shown, reference, most)
    patterns, code = shown_sets(table.shown)
    out = logs.copy()
    for s in range(len(logs)):
        mine = table.segment == s
        key = code[mine]
        sums = np.stack([np.bincount(key, c, minlength=len(patterns)) for c in cv[mine].T], axis=-1).astype(
            np.float64
        )
        if sums.sum() <= 0:
            continue
        with np.errstate(divide="ignore"):
            aim = np.log(np.maximum(fixed_point(sums[None], patterns)[0], 1e-9))
        aim -= aim[0] if reference == "first" else aim.mean()
        out[s] = (1 - rate) * logs[s] + rate * aim
    return out


def _point(
    tree: int,
    score: Floats,
    cw: Floats,
    table: ClickTable,
    logs: Floats,
    booster: object,
    judged: Judged | None,
) -> TrainingPoint:
    s = np.where(table.shown, score[table.doc], -np.inf)
    g = np.where(table.shown, logs[table.segment], -np.inf)
    cv = table.click * np.where(table.shown, np.exp(s[:, :1] - np.where(table.shown, s, 0.0)), 0.0)
    both = _log_share(s + np.where(table.shown, g, 0.0), table)
    clicks = float(table.click.sum())
    ranked = float("nan")
    if judged is not None:
        ranked = mean(ndcg(TreeRanker(booster).score(judged.features), judged.label, judged.offsets, 10))
    return TrainingPoint(
        step=tree,
        rank_loss=float(-(cw * _log_share(s, table)).sum() / cw.sum()),
        examination_loss=float(-(cv * _log_share(g, table)).sum() / cv.sum()),
        effective_share=float(cw.sum() ** 2 / (cw**2).sum()) / clicks,
        click_log_likelihood=float((table.click * both).sum()) / clicks,
        last_position=float(np.exp(logs[0, -1])),
        quality=ranked,
    )


def _log_share(logit: Floats, table: ClickTable) -> Floats:
    top = logit.max(axis=1, keepdims=True)
    total = top + np.log(np.exp(logit - top).sum(axis=1, keepdims=True))
    return np.where(table.shown, logit - total, 0.0)
