"""Around the fit: the audit, the exact curve, the value of a new order, drift, saved rankers, real lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterlog.core.clicks import Clicks
from counterlog.core.errors import ConfigError, CounterlogError, LogError, SupportError
from counterlog.core.ranking_metrics import mean, ndcg
from counterlog.datasets.click_logs import lightgbm_rank, simulated_queries
from counterlog.rank.bias_drift import BiasDrift, bias_drift
from counterlog.rank.click_audit import ClickAudit, audit_clicks, position_information
from counterlog.rank.click_simulators import PositionBased, attraction
from counterlog.rank.examination_curve import ExaminationSums, fixed_point, inverse_relevance
from counterlog.rank.ranker_value import ranker_value
from counterlog.rank.ranking_report import examination
from counterlog.rank.saved_rankers import LayeredRanker, load_ranker

TRUTH = PositionBased().examination(10) / 0.68


def true_ranker() -> LayeredRanker:
    u = np.repeat([1.0, -0.8, 0.5, 0.0], 5) / 3
    return LayeredRanker(((u[:, None], np.zeros(1)),), np.zeros(20), np.ones(20))


# ------------------------------------------------------------------------------------------------ exact curve


def test_one_pattern_is_solved_at_once_and_gaps_by_rounds() -> None:
    sums = np.array([[[6.0, 3.0, 1.0]]])
    assert fixed_point(sums, np.array([[True] * 3]))[0] == pytest.approx([0.6, 0.3, 0.1])
    theta = np.array([0.5, 0.3, 0.2])
    shown = np.array([[True, True, True], [True, True, False], [True, False, True]])
    share = shown * theta
    expected = share / share.sum(axis=1, keepdims=True) * np.array([[70.0], [20.0], [50.0]])
    assert fixed_point(expected[None], shown)[0] == pytest.approx(theta, abs=1e-9)


def test_with_true_scores_the_curve_is_the_truth_within_its_intervals_as_often_as_said() -> None:
    pop = simulated_queries(0, queries=200, test=2)
    grade = pop.train.label.astype(int)
    score = np.log(attraction(grade, 4).astype(float))
    inside = []
    for rng in range(20):
        found, _ = examination(pop.log(4_000, rng=rng), score, size=10, replicates=200, rng=rng)
        inside.append((found[0].lo[1:] <= TRUTH[1:]) & (TRUTH[1:] <= found[0].hi[1:]))
    assert 0.88 <= np.mean(inside) <= 0.99


def test_parts_add_up_to_the_whole() -> None:
    log = simulated_queries(0, queries=50, test=2).log(3_000)
    table = log.table(10)
    v = inverse_relevance(np.zeros((3_000, 10)), table.shown, "first", None)
    whole, parts = ExaminationSums(1, 10), ExaminationSums(1, 10)
    whole.add(table.click * v, table.click, table.shown, table.segment)
    for at in (slice(0, 1_000), slice(1_000, 3_000)):
        parts.add((table.click * v)[at], table.click[at], table.shown[at], table.segment[at])
    a, b = (s.curves(reference="first", level=0.9, replicates=50)[0] for s in (whole, parts))
    assert np.allclose(a.value, b.value)
    assert np.allclose(a.hi, b.hi)
    assert np.allclose(a.value, log.clicks_at(10) / log.clicks_at(10)[0])  # equal scores: plain click rates


# ------------------------------------------------------------------------------------------------ audit


def test_the_audit_counts_moved_pairs() -> None:
    columns = {"v": [0, 0, 1, 1], "q": [1, 1, 1, 1], "p": [1, 2, 1, 2], "c": [1, 0, 1, 0]}
    roles = {"list": "v", "query": "q", "position": "p", "click": "c", "features": ["x"]}
    still = audit_clicks(Clicks.read({**columns, "x": [1.0, 2, 1, 2]}, **roles))
    assert (still.pairs, still.repeat_share, still.position_entropy) == (2, 0, 0)
    assert np.isinf(still.implied_sd).all()
    moved = audit_clicks(Clicks.read({**columns, "x": [1.0, 2, 2, 1]}, **roles))
    assert (moved.repeat_share, moved.position_entropy) == (1, 1)
    assert moved.identified


def test_information_by_hand() -> None:
    shown, clicked = np.array([[400.0, 400.0]]), np.array([[200.0, 200.0]])
    # one pair, chance 1/2 at both: 100 a position, level taken out: 100 - 100^2 / 200
    assert position_information(shown, clicked) == pytest.approx(np.array([[50.0]]), rel=1e-3)


def test_skill_of_the_old_ranker_is_seen() -> None:
    found = [
        audit_clicks(simulated_queries(0, queries=300, test=2, skill=s).log(20_000), 10) for s in (0.0, 1.0)
    ]
    assert found[0].agreement < 0.3 < 0.7 < found[1].agreement
    assert (found[0].identified, found[1].identified) == (True, False)
    shuffled = audit_clicks(simulated_queries(0, queries=300, test=2, skill=1).log(20_000, shuffled=True), 10)
    assert shuffled.identified
    assert max(shuffled.implied_sd) < 0.5


def test_the_audit_saves_and_loads(tmp_path: Path) -> None:
    found = audit_clicks(simulated_queries(0, queries=20, test=2).log(100))
    assert ClickAudit.load(found.save(tmp_path / "a.json")).to_dict() == found.to_dict()


# ------------------------------------------------------------------------------------------------ value of an order


def test_value_by_hand() -> None:
    columns = {
        "v": np.arange(400) // 2,
        "p": [1, 2] * 200,
        "c": [1, 0, 0, 1] * 100,
        "x": [1.0, 2, 3, 4] * 100,
    }
    log = Clicks.read(columns, list="v", position="p", click="c", features=["x"])
    up = LayeredRanker(
        ((np.ones((1, 1)), np.zeros(1)),), np.zeros(1), np.ones(1)
    )  # puts the second item first
    theta = [0.8, 0.4]
    assert ranker_value(log, up, theta).value == pytest.approx((0.5 + 2) / 2)
    assert ranker_value(log, None, theta).value == pytest.approx(1)  # the clicks that were seen
    discount = (1 / np.log2(3) + 2) / 2
    assert ranker_value(log, up, theta, metric="dcg").value == pytest.approx(discount)
    assert ranker_value(log, up, theta, metric="dcg", clip=1).value == pytest.approx((1 / np.log2(3) + 1) / 2)
    normal = ranker_value(log, up, theta, metric="dcg", self_normalised=True)
    assert normal.value == pytest.approx(discount * 2 / 3)


def test_value_holds_the_truth() -> None:
    pop = simulated_queries(0, queries=500, test=2)
    ranker, inside = true_ranker(), []
    for rng in range(20):
        log = pop.log(5_000, rng=rng)
        estimate = ranker_value(log, ranker, TRUTH, rng=rng, replicates=200)
        pull = attraction(log.label.astype(int), 4).astype(float).reshape(-1, 10)
        rank = np.argsort(np.argsort(-ranker.score(log.features)[log.doc].reshape(-1, 10), 1), 1)
        true = (pull * PositionBased().examination(10)[rank]).sum(axis=1).mean()
        inside.append(estimate.lo <= true <= estimate.hi)
    assert sum(inside) >= 17


def test_value_refusals() -> None:
    log = simulated_queries(0, queries=20, test=2).log(50)
    with pytest.raises(LogError, match="one for each position"):
        ranker_value(log, None, [1, 0.5])
    with pytest.raises(ConfigError, match="clicks, dcg"):
        ranker_value(log, None, TRUTH, metric="ndcg")
    with pytest.raises(SupportError, match="no click"):
        ranker_value(replace(log, click=np.zeros_like(log.click)), None, TRUTH)


# ------------------------------------------------------------------------------------------------ drift


def test_drift_is_quiet_without_a_change_and_loud_with_one(tmp_path: Path) -> None:
    pop = simulated_queries(0, queries=200, test=2)
    quiet = bias_drift(pop.log(12_000), true_ranker(), window=3_000)
    assert not quiet.drifted
    assert len(quiet.windows) == 4
    after = pop.log(6_000, PositionBased(severity=0.3), rng=1)
    half = pop.log(6_000)
    joined = Clicks(
        offsets=np.concatenate([half.offsets, half.n + after.offsets[1:]]),
        features=half.features,
        doc=np.concatenate([half.doc, after.doc]),
        position=np.concatenate([half.position, after.position]),
        click=np.concatenate([half.click, after.click]),
        query=np.concatenate([half.query, after.query]),
    )
    loud = bias_drift(joined, true_ranker(), window=3_000)
    assert [w.alarm for w in loud.windows] == [False, False, True, True]
    assert BiasDrift.load(loud.save(tmp_path / "d.json")).to_dict() == loud.to_dict()
    with pytest.raises(SupportError, match="at least two windows"):
        bias_drift(half, true_ranker(), window=5_000)


# ------------------------------------------------------------------------------------------------ files and real lists


def test_a_saved_ranker_is_read_without_torch_and_other_files_are_refused(tmp_path: Path) -> None:
    ranker = true_ranker()
    back = load_ranker(ranker.save(tmp_path / "r.safetensors"))
    X = np.random.default_rng(0).normal(size=(9, 20))
    assert np.array_equal(back.score(X), ranker.score(X))
    (tmp_path / "bad").write_bytes(b"\x80\x04no")
    for path in (tmp_path / "bad", tmp_path / "absent"):
        with pytest.raises(CounterlogError, match="not a saved ranker"):
            load_ranker(path)
    with pytest.raises(LogError, match="features of training"):
        back.score(X[:, :3])
    X[4, 0] = np.nan
    with pytest.raises(LogError, match="not finite in row 4"):
        back.score(X)


@pytest.mark.data
def test_real_lists_are_read_whole() -> None:
    train, test = lightgbm_rank(), lightgbm_rank("test")
    assert (train.lists, len(train.label), train.features.shape[1]) == (201, 3_005, 300)
    assert np.bincount(train.label.astype(int)).tolist() == [645, 1211, 858, 222, 69]
    assert (test.lists, int(np.diff(test.offsets).max())) == (50, 24)
    assert 0 < mean(ndcg(np.zeros(len(test.label)), test.label, test.offsets)) < 1
