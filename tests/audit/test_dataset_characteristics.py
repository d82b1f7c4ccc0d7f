"""Quality and coverage of a log of trajectories: by hand, by occupancy theory, and every refusal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from counterlog.audit.dataset_characteristics import (
    CellReference,
    DatasetCharacteristics,
    DatasetCharacteristicsConfig,
    LogProfile,
)
from counterlog.audit.distinct_pairs import (
    Counter,
    Sketch,
    chao1,
    entropy,
    extrapolated,
    good_turing,
    rarefied,
)
from counterlog.audit.log_plane import LogPlane, correlation, ridge_fit
from counterlog.audit.trajectory_quality import finished, trajectory_quality
from counterlog.audit.visit_cells import CellGrid, binned, digitized
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, SupportError


def two_episodes(**changed: Any) -> Episodes:
    """Returns 2 and 4; pairs (0, 0), (1, 1), (1, 0), the first twice."""
    given: dict[str, Any] = {
        "offsets": [0, 2, 4],
        "state": [0, 1, 0, 1],
        "action": [0, 1, 0, 0],
        "reward": [0.0, 2.0, 1.0, 3.0],
        "terminated": [False, True, False, True],
        "actions": 2,
    }
    return Episodes(**{**given, **changed})


def six_pairs() -> Episodes:
    """Six distinct pairs in four rows is impossible; six rows, six pairs."""
    return Episodes(
        offsets=[0, 3, 6],
        state=[0, 0, 1, 1, 2, 2],
        action=[0, 1, 0, 1, 0, 1],
        reward=np.ones(6),
        terminated=[False, False, True] * 2,
        actions=2,
    )


def walks(n: int, *, rng: int = 0, width: float = 1.0, length: int = 20) -> Episodes:
    """Continuous states of d = 2, two actions."""
    gen = np.random.default_rng(rng)
    ends = np.zeros((n, length), bool)
    ends[:, -1] = True
    return Episodes(
        offsets=np.arange(n + 1) * length,
        state=width * gen.uniform(size=(n * length, 2)),
        action=gen.integers(0, 2, n * length),
        reward=gen.uniform(size=n * length),
        truncated=ends.ravel(),
        actions=2,
    )


def contract_example(frame: Any) -> Any:
    table = pl.DataFrame(frame)
    labels = {"a": 0, "b": 1, "c": 2}
    rows = len(table)
    ends = np.zeros(rows, bool)
    ends[3::4] = True
    log = Episodes(
        offsets=np.arange(0, rows + 1, 4),
        state=table["x"].to_numpy()[:, None].copy(),
        action=[labels[a] for a in table["item"].to_list()],
        reward=table["money"].to_numpy().copy(),
        truncated=ends,
        actions=3,
    )
    return DatasetCharacteristics().check(log, reference=log, random=0.0, best=40.0)


def check(log: Any, *, config: dict[str, Any] | None = None, **given: Any) -> LogProfile:
    return DatasetCharacteristics(DatasetCharacteristicsConfig(**(config or {}))).check(log, **given)


# quality and coverage by hand


def test_the_hand_example_gives_one_half_and_its_logarithms() -> None:
    small, big = two_episodes(), six_pairs()
    kept = DatasetCharacteristics().reference(big)
    # four rows of the reference: as if it had four rows, so that nothing is rarefied
    same = CellReference(
        **{**vars(kept), "rows": 4, "pairs": type(kept.pairs)(value=6, low=6, high=6, rows=4)}
    )
    p = check(small, reference=same, random=1.0, best=5.0)
    assert p.tq == 0.5
    assert p.pairs.value == 3 and p.saco == 0.5
    assert p.lsaco == pytest.approx(math.log(3) / math.log(6), abs=1e-12)
    assert p.lsaco == pytest.approx(0.613147, abs=1e-6)
    assert p.tq_quantiles[2] == 0.5


def test_shift_and_scale_of_rewards_leave_tq_alone() -> None:
    log = walks(30)
    random, best = 8.0, 12.0
    first = check(log, random=random, best=best)
    moved = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=log.action,
        reward=3.0 * np.asarray(log.reward) + 2.0,
        truncated=log.truncated,
        actions=2,
    )
    second = check(moved, random=3 * random + 40, best=3 * best + 40)
    assert second.tq == pytest.approx(first.tq, abs=1e-12)
    assert second.tq_low == pytest.approx(first.tq_low, abs=1e-12)


def test_order_and_repeats_of_episodes_leave_the_pairs_alone() -> None:
    log = walks(12)
    once = check(log, config={"bins": 8}).pairs.value
    assert check(log.take([*range(11, -1, -1), 3, 3]), config={"bins": 8}).pairs.value == once


def test_tq_is_neither_cut_at_zero_nor_at_one() -> None:
    log = two_episodes()
    assert check(log, random=4.0, best=5.0).tq == -1.0
    assert check(log, random=0.0, best=2.0).tq == 1.5


def test_the_interval_of_tq_covers_the_true_mean() -> None:
    hits = 0
    for rng in range(100):
        p = check(walks(60, rng=rng, length=5), random=0.0, best=2.5, rng=rng)
        assert p.tq_low is not None and p.tq_high is not None
        hits += p.tq_low <= 1.0 <= p.tq_high
    assert 86 <= hits <= 100


def test_unfinished_episodes_do_not_count_for_tq() -> None:
    log = two_episodes(terminated=[False, True, False, False], truncated=[False, False, False, True])
    assert finished(log).tolist() == [True, True]
    assert finished(log, 3).tolist() == [True, False]
    p = check(log, config={"limit": 3}, random=0.0, best=4.0)
    assert (p.finished, p.tq) == (1, 0.5)
    assert any("not finished" in f.message for f in p.findings)


# counting


def test_uniform_visits_follow_the_occupancy_formula() -> None:
    gen = np.random.default_rng(1)
    cells, rows = 1000, 1000
    seen = [len(np.unique(gen.integers(0, cells, rows))) for _ in range(400)]
    expected = cells * (1 - (1 - 1 / cells) ** rows)
    assert expected == pytest.approx(632.305, abs=1e-3)
    assert np.mean(seen) == pytest.approx(expected, abs=1.5)


def test_rarefaction_of_three_and_one_to_two_rows_is_one_and_a_half() -> None:
    assert rarefied(((1, 1), (3, 1)), 2) == pytest.approx(1.5, abs=1e-12)
    assert rarefied(((1, 1), (3, 1)), 4) == pytest.approx(2.0, abs=1e-12)
    assert rarefied(((1, 1), (3, 1)), 0) == pytest.approx(0.0, abs=1e-12)


def test_rarefaction_is_the_mean_of_random_subsets() -> None:
    gen = np.random.default_rng(2)
    visits = gen.zipf(1.5, 500) % 90
    freq = tuple(zip(*np.unique(np.unique(visits, return_counts=True)[1], return_counts=True), strict=True))
    drawn = [len(np.unique(gen.choice(visits, 120, replace=False))) for _ in range(2000)]
    assert rarefied(freq, 120) == pytest.approx(
        np.mean(drawn), abs=4 * float(np.std(drawn)) / math.sqrt(2000)
    )


def test_good_turing_chao_and_entropy_by_hand() -> None:
    freq = ((1, 3), (2, 2), (5, 1))  # 12 visits of 6 cells
    assert good_turing(freq) == pytest.approx(1 - 3 / 12)
    assert chao1(freq) == pytest.approx(6 + 3 * 2 / (2 * 3))
    shares = np.array([1, 1, 1, 2, 2, 5]) / 12
    assert entropy(freq) == pytest.approx(-(shares * np.log(shares)).sum())
    assert extrapolated(freq, 0) == 6 and 6 < extrapolated(freq, 12) < extrapolated(freq, 10**6) <= chao1(
        freq
    )
    assert extrapolated(((2, 4),), 100) == 4


def test_a_sketch_is_unbiased_and_as_exact_as_its_size_says() -> None:
    n, errors = 200_000, []
    for seed in range(24):
        keys = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
        sketch = Sketch(14)
        sketch.add(keys)
        errors.append(sketch.estimate() / n - 1)
    assert 0.0045 < np.sqrt(np.mean(np.square(errors))) < 0.0125
    assert abs(np.mean(errors)) < 0.006


@pytest.mark.slow
def test_a_sketch_of_a_million_keys_over_64_hash_seeds() -> None:
    n, errors = 1_000_000, []
    grid = CellGrid(low=(0.0,), high=(1.0,), exact=(True,), bins=1, state_columns=1, discrete=True)
    state, action = np.arange(n), np.zeros(n, np.int64)
    for seed in range(64):
        sketch = Sketch(14, seed=seed)
        sketch.add(grid.keys(state, action, seed)[1])
        errors.append(sketch.estimate() / n - 1)
    assert 0.0055 <= np.sqrt(np.mean(np.square(errors))) <= 0.011
    assert abs(np.mean(errors)) < 0.0035


def test_a_thousand_keys_are_within_two_percent_and_none_is_zero() -> None:
    sketch = Sketch(14)
    assert sketch.estimate() == 0
    sketch.add(np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64))
    assert sketch.estimate() == pytest.approx(1000, rel=0.02)


def test_united_sketches_are_the_sketch_of_everything_bit_for_bit(tmp_path: Path) -> None:
    keys = np.random.default_rng(3).integers(0, 2**64, 50_000, dtype=np.uint64)
    a, b, both = Sketch(12), Sketch(12), Sketch(12)
    a.add(keys[:30_000])
    b.add(keys[20_000:])
    both.add(keys)
    shared, error = a.shared(b)
    assert abs(shared - 10_000) < 4 * error
    a.unite(Sketch.load(b.save(tmp_path / "b.npz")))
    assert np.array_equal(a.registers, both.registers)
    edge = Sketch(11)
    edge.add(np.array([0, 1, 2**53 - 1, 2**53], np.uint64))
    assert edge.registers[0] == 54  # an empty tail: all 53 bits are zero, and one


def test_exact_counts_are_those_of_a_set_whatever_the_parts() -> None:
    keys = np.random.default_rng(4).integers(0, 5000, 20_000).astype(np.uint64)
    counter = Counter(most=6000)
    for part in np.array_split(keys, 7):
        counter.add(part)
    assert counter.value().value == len(set(keys.tolist())) and counter.value().method == "exact"
    found, counts = counter.counts()
    assert counts.sum() == len(keys) and len(found) == len(set(keys.tolist()))


def test_too_many_cells_become_a_sketch_of_the_same_keys() -> None:
    keys = np.random.default_rng(5).integers(0, 2**64, 30_000, dtype=np.uint64)
    counter, straight = Counter(most=10_000), Sketch()
    for part in np.array_split(keys, 5):
        counter.add(part)
    straight.add(keys)
    assert counter.value().method == "hll"
    assert np.array_equal(counter.sketch.registers, straight.registers)
    with pytest.raises(SupportError, match="more than 100 distinct"):
        Counter("exact", most=100).add(keys)
    with pytest.raises(SupportError, match="keeps no counts"):
        counter.counts()


# cells


def test_official_cells_are_numpys_digitize() -> None:
    x = np.array([-1, 0, 0.5, 98.9, 99, 150])
    assert digitized(x, 0, 99, 100).tolist() == [0, 1, 1, 99, 100, 100]
    gen = np.random.default_rng(6)
    y = gen.normal(size=500)
    assert np.array_equal(digitized(y, -1.0, 2.0, 100), np.digitize(y, np.linspace(-1.0, 2.0, 100)))


def test_cells_beyond_the_limits_are_their_own_and_a_constant_column_is_one() -> None:
    assert binned(np.array([-0.1, 0, 0.99, 1.0, 7.0]), 0.0, 1.0, 10).tolist() == [-1, 0, 9, 10, 10]
    assert binned(np.array([3.0, 3.0]), 3.0, 3.0, 10).tolist() == [0, 0]


def test_pairs_are_told_apart_as_a_set_of_tuples_tells_them() -> None:
    gen = np.random.default_rng(7)
    state = gen.integers(0, 6, (4000, 3)).astype(float) / 5
    state[:50] = -0.0 * state[:50]
    action = gen.integers(0, 4, 4000)
    log = Episodes(
        offsets=[0, 4000], state=state, action=action, truncated=np.arange(4000) == 3999, actions=4
    )
    p = check(log)
    assert p.grid.cut == 0
    assert p.pairs.value == len({(*map(float, s + 0.0), int(a)) for s, a in zip(state, action, strict=True)})
    assert p.states.value == len({tuple(map(float, s + 0.0)) for s in state})


def test_continuous_actions_are_cells_too() -> None:
    gen = np.random.default_rng(8)
    log = Episodes(
        offsets=[0, 5000],
        state=gen.uniform(size=(5000, 1)),
        action=gen.uniform(-2, 2, (5000, 1)),
        truncated=np.arange(5000) == 4999,
    )
    p = check(log, config={"bins": 10})
    assert p.pairs.value <= 11 * 11 and p.pairs.value >= 100
    assert p.states.value <= 11


def test_wide_states_are_projected_and_near_ones_share_cells() -> None:
    gen = np.random.default_rng(9)
    centres = gen.normal(size=(5, 80))
    which = gen.integers(0, 5, 3000)
    state = centres[which] + 1e-4 * gen.normal(size=(3000, 80))
    log = Episodes(
        offsets=[0, 3000], state=state, action=which % 2, truncated=np.arange(3000) == 2999, actions=2
    )
    p = check(log, config={"bins": 4})
    assert p.grid.directions == 16
    assert 5 <= p.states.value < 60


def test_bins_are_chosen_so_that_half_of_the_steps_return() -> None:
    log = walks(200)
    chosen = DatasetCharacteristics().reference(log)
    finer = check(log, config={"bins": 2 * chosen.grid.bins})
    mine = check(log, config={"bins": chosen.grid.bins})
    assert mine.coverage is not None and finer.coverage is not None
    assert mine.coverage >= 0.5 > finer.coverage
    assert [row["bins"] for row in mine.sensitivity] == sorted(
        {max(2, round(chosen.grid.bins * f)) for f in (0.25, 0.5, 1, 2)}
    )


# comparing


def test_a_log_against_itself_has_saco_one_and_sizes_are_brought_together() -> None:
    log = walks(100)
    assert check(log, reference=log).saco == 1.0
    half = log.take(np.arange(50))
    by_formula = check(half, reference=log)
    by_drawing = check(half, reference=log, config={"sizes": "subsample"})
    assert by_formula.compared_rows == 1000
    assert by_formula.saco == pytest.approx(by_drawing.saco, rel=0.03)
    longer = check(log, reference=half, config={"bins": by_formula.grid.bins})
    assert longer.saco is not None and 0.85 < longer.saco < 1.25


def test_a_kept_reference_gives_the_same_as_its_log(tmp_path: Path) -> None:
    log, replay = walks(40), walks(60, rng=1)
    path = DatasetCharacteristics().reference(replay).save(tmp_path / "reference.json")
    assert check(log, reference=CellReference.load(path)).saco == check(log, reference=replay).saco
    assert check(replay).as_reference() == DatasetCharacteristics().reference(replay)


def test_parts_give_the_numbers_of_the_whole() -> None:
    log = walks(60)
    reference = DatasetCharacteristics().reference(log)
    whole = check(log, reference=reference, random=0.0, best=20.0)
    parts = check(
        (log.take(np.arange(k, k + 20)) for k in (0, 20, 40)), reference=reference, random=0.0, best=20.0
    )
    for name in ("pairs", "states", "tq", "saco", "n", "rows", "sparsity", "coverage", "action_counts"):
        assert (
            getattr(parts, name) == pytest.approx(getattr(whole, name))
            if name == "sparsity"
            else getattr(parts, name) == getattr(whole, name)
        )
    assert [row["rows"] for row in parts.drift] == [400, 400, 400]


def test_sketched_profiles_are_near_exact_ones() -> None:
    log, replay = walks(400), walks(400, rng=1)
    exact = check(log, reference=replay)
    sketched = check(log, reference=replay, config={"counting": "hll"})
    assert sketched.saco == pytest.approx(exact.saco, rel=0.05)
    assert sketched.coverage is None and sketched.pairs.method == "hll"
    assert any("sketch" in f.message for f in sketched.findings)


def test_drift_in_the_last_part_is_found_and_none_where_there_is_none() -> None:
    calm = walks(200)
    assert not any(f.check == "drift" for f in check(calm, config={"bins": 8}).findings)
    shifted = Episodes(
        offsets=calm.offsets,
        state=np.where(np.arange(calm.rows)[:, None] >= 3600, calm.state + 3, calm.state),
        action=calm.action,
        reward=calm.reward,
        truncated=calm.truncated,
        actions=2,
    )
    assert any(f.check == "drift" for f in check(shifted, config={"bins": 32}).findings)


def test_the_entropy_of_the_behaviour_by_its_three_ways() -> None:
    gen = np.random.default_rng(10)
    rows, p = 6000, np.array([0.1, 0.9])
    state, action = gen.integers(0, 2, rows), (gen.random(rows) < 0.9).astype(int)
    given: dict[str, Any] = {
        "offsets": [0, rows],
        "action": action,
        "truncated": np.arange(rows) == rows - 1,
        "actions": 2,
    }
    truth = float(-(p * np.log(p)).sum())
    known = check(Episodes(state=state, propensity=p[action], **given))
    counted = check(Episodes(state=state, **given))
    taught = check(Episodes(state=gen.normal(size=(rows, 2)), **given), config={"bins": 40})
    assert (known.behaviour_method, counted.behaviour_method) == (
        "logged probabilities",
        "counts of each state's actions",
    )
    assert taught.behaviour_method == "a network's predictions"
    assert known.behaviour_entropy == pytest.approx(truth, abs=0.03)
    assert counted.behaviour_entropy == pytest.approx(truth, abs=0.03)
    assert taught.behaviour_entropy == pytest.approx(truth, abs=0.06)


# the plane


def plane() -> LogPlane:
    gen = np.random.default_rng(11)
    points = []
    for environment in ("a", "b", "c"):
        for k in range(12):
            tq, saco = gen.uniform(0, 1, 2)
            for learner, p in {"bc": 100 * tq, "discrete-bcq": 100 * max(tq, saco)}.items():
                points.append(
                    {
                        "environment": environment,
                        "regime": f"r{k % 4}",
                        "learner": learner,
                        "tq": tq,
                        "saco": saco,
                        "performance": p,
                    }
                )
    return LogPlane(points=tuple(points), n=36)


def test_the_plane_finds_what_it_was_made_of() -> None:
    rows = {r["learner"]: r for r in plane().correlations()}
    assert rows["bc"]["r_tq"] == pytest.approx(1.0) and abs(rows["bc"]["r_saco"]) < 0.5
    fits = {r["learner"]: r for r in plane().regressions()}
    assert fits["bc"]["b_tq"] == pytest.approx(100, abs=1) and fits["bc"]["r2_left_out"] > 0.99
    assert fits["discrete-bcq"]["isotonic_slope"] == 1.0
    assert fits["discrete-bcq"]["isotonic_r2_left_out"] > 0.9
    x = np.column_stack([np.ones(4), np.arange(4.0)])
    assert ridge_fit(x, 3 + 2 * np.arange(4.0)) == pytest.approx([3, 2], abs=1e-2)
    r, low, high = correlation(np.arange(10.0), np.array([0, 2, 1, 3, 5, 4, 6, 8, 7, 9.0]))
    z = math.atanh(r)
    assert (low, high) == pytest.approx(
        (math.tanh(z - 1.959964 / 7**0.5), math.tanh(z + 1.959964 / 7**0.5)), abs=1e-6
    )


def test_the_recommendation_is_the_highest_lower_bound_and_says_when_it_is_far() -> None:
    made = plane()
    inside = made.recommend(0.3, 0.6)
    assert inside.learner == "discrete-bcq" and inside.inside
    assert inside.low == max(row["low"] for row in inside.table)
    assert not made.recommend(2.0, 3.0).inside
    log = walks(150)
    p = check(log, reference=log, random=0.0, best=20.0, plane=made)
    assert p.recommendation is not None and p.recommendation.learner in p.verdict
    assert "is the safest" in p.verdict
    assert p.plot(made) is not None and made.plot("bc") is not None
    with pytest.raises(SupportError, match="no learner has 8 logs"):
        LogPlane(points=made.points[:4], n=2).recommend(0.5, 0.5)


# verdicts


@pytest.mark.parametrize(
    ("best", "saco", "words"),
    [(9.0, 1.0, "any family"), (9.0, 0.1, "clone them"), (30.0, 1.0, "learn values"), (30.0, 0.1, "Neither")],
)
def test_the_verdict_names_the_family(best: float, saco: float, words: str) -> None:
    log = walks(150)
    thin = Episodes(
        offsets=log.offsets,
        state=log.state if saco == 1.0 else 0.3 * np.asarray(log.state),
        action=log.action,
        reward=log.reward,
        truncated=log.truncated,
        actions=2,
    )
    p = check(thin, reference=log, random=0.0, best=best)
    assert words in p.verdict
    assert str(p).startswith(p.verdict)


def test_without_references_the_verdict_says_what_to_give(tmp_path: Path) -> None:
    p = check(walks(20))
    assert "Give a reference log" in p.verdict and p.tq is None and p.saco is None
    assert repr(LogProfile.load(p.save(tmp_path / "p.json"))) == repr(p)
    assert p.plot() is not None and p.to_frame().height == 1
    assert "Give a reference log" in check(walks(20), random=0.0, best=20.0).verdict
    assert "Give a random" in check(walks(20), reference=walks(20)).verdict


# refusals


def test_references_that_cannot_be_used_are_refused() -> None:
    log = walks(20)
    with pytest.raises(SupportError, match=r"random return 5 is not below the reference return 5"):
        check(log, random=5.0, best=5.0)
    with pytest.raises(SupportError, match="random return 9 is not below"):
        trajectory_quality(1.0, 9.0, 2.0)
    with pytest.raises(ConfigError, match="best is missing"):
        check(log, random=1.0)
    with pytest.raises(SupportError, match="none of 20 episodes is finished"):
        check(log, config={"limit": 50}, random=0.0, best=5.0)
    with pytest.raises(SupportError, match="none of 20 episodes is finished"):
        check(log, config={"limit": 50}, random=log, best=5.0)
    bare = Episodes(
        offsets=log.offsets, state=log.state, action=log.action, truncated=log.truncated, actions=2
    )
    with pytest.raises(LogError, match="no 'reward'"):
        check(bare, random=0.0, best=5.0)
    with pytest.raises(LogError, match="no parts"):
        check(())


def test_counts_that_do_not_compare_are_refused() -> None:
    log, more = walks(20), walks(30, rng=1)
    sketched = DatasetCharacteristics(DatasetCharacteristicsConfig(counting="hll"))
    with pytest.raises(SupportError, match="counted by exact, the reference's by hll"):
        check(log, reference=sketched.reference(log))
    with pytest.raises(SupportError, match="cannot be brought to 400"):
        sketched.check(log, reference=more)
    with pytest.raises(SupportError, match="400 rows against 600"):
        check(log, reference=more, config={"sizes": "refuse"})
    with pytest.raises(SupportError, match="cannot be drawn"):
        check(log, reference=DatasetCharacteristics().reference(more), config={"sizes": "subsample"})
    with pytest.raises(LogError, match="not the reference's"):
        check(log, reference=more, grid=CellGrid.fit(log))
    with pytest.raises(LogError, match="bins=7; expected"):
        check(log, reference=DatasetCharacteristics().reference(more), config={"bins": 7})
    with pytest.raises(LogError, match="0 continuous action columns; expected 1 and 0"):
        check(log, reference=two_episodes())
    with pytest.raises(ConfigError, match="hash seed 1"):
        Sketch(14).unite(Sketch(14, seed=1))
    with pytest.raises(ConfigError, match="precision 13"):
        Sketch(14).unite(Sketch(13))
    with pytest.raises(ConfigError, match="precision 5"):
        Sketch(5)
    with pytest.raises(ConfigError, match="rarefaction to 9 rows"):
        rarefied(((1, 2),), 9)


def test_a_file_that_is_no_sketch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(LogError, match="not a saved sketch"):
        Sketch.load(path)
    np.savez(path, registers=np.zeros(100, np.uint8), seed=0)
    with pytest.raises(LogError, match="not a saved sketch"):
        Sketch.load(path)


def test_logs_that_deserve_care_are_named() -> None:
    gen = np.random.default_rng(12)
    noise = Episodes(
        offsets=[0, 500],
        state=np.column_stack([gen.normal(size=(500, 40)), np.full(500, 2.0)]),
        action=np.zeros(500, int),
        reward=np.ones(500),
        truncated=np.arange(500) == 499,
        actions=3,
    )
    said = {f.message: f.remedy for f in check(noise, config={"bins": 50}, random=0.0, best=1000.0).findings}
    assert any("occur once" in k and "round the pixels" in v for k, v in said.items())
    assert any("2 of 3 actions were never logged" in k for k in said)
    assert any("1 finished episodes" in k for k in said)
    flat = walks(20)
    constant = Episodes(
        offsets=flat.offsets,
        state=np.column_stack([flat.state, np.ones(400)]),
        action=flat.action,
        truncated=flat.truncated,
        actions=2,
    )
    assert any("[2] never change" in f.message for f in check(constant).findings)


@pytest.mark.graphs
@pytest.mark.parametrize("discrete", [True, False])
def test_machine_code_gives_the_keys_and_registers_of_numpy(discrete: bool) -> None:
    pytest.importorskip("numba")
    from counterlog.audit.visit_cells import machine_code

    gen = np.random.default_rng(13)
    state = gen.normal(size=(3000, 4)).astype(np.float32)
    state[:, 2] = gen.integers(-2, 3, 3000) * 0.5
    state[:40, 2] = -0.0
    state[:, 3] = 7.0
    action = gen.integers(0, 5, 3000) if discrete else gen.uniform(-1, 1, (3000, 2))
    log = Episodes(offsets=[0, 3000], state=state, action=action, truncated=np.arange(3000) == 2999)
    grid = CellGrid.fit(log.take([0]), 30)
    wide = 2 * state
    for given in (state, wide, state.astype(np.float64)):
        plain, fused = (grid.keys(given, log.action, 5, fused=f) for f in (False, True))
        assert np.array_equal(plain[0], fused[0]) and np.array_equal(plain[1], fused[1])
    one, two = Sketch(12), Sketch(12)
    one.add(plain[1])
    two.add(plain[1], machine_code())
    two.add(np.array([0, 2**63, 1], np.uint64), machine_code())
    one.add(np.array([0, 2**63, 1], np.uint64))
    assert np.array_equal(one.registers, two.registers)
    codes = Episodes(
        offsets=[0, 500],
        state=gen.integers(0, 9, 500),
        action=gen.integers(0, 3, 500),
        truncated=np.arange(500) == 499,
    )
    exact = CellGrid.fit(codes)
    assert np.array_equal(
        exact.keys(codes.state, codes.action)[1], exact.keys(codes.state, codes.action, fused=True)[1]
    )


def test_a_log_with_too_many_pairs_is_sketched_and_nothing_exact_is_set_against_it() -> None:
    log = walks(100)
    p = check(log, config={"bins": 90, "most": 1200})
    assert p.pairs.method == "hll" and p.good_coverage is None and p.drift == ()
    assert p.pairs.value == pytest.approx(check(log, config={"bins": 90}).pairs.value, rel=0.05)
    with pytest.raises(SupportError, match="counted by hll, the reference's by exact"):
        check(
            log, reference=DatasetCharacteristics().reference(log.take(np.arange(10))), config={"most": 200}
        )
