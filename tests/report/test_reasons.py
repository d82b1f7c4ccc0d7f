"""Disagreement, risk, sway, segments, the learnt policy and the holdout, each against numbers made by hand."""

import numpy as np
import pytest

from counterlog.core.estimators import Estimator
from counterlog.core.evaluate import evaluate, make_estimator
from counterlog.core.policies import Always, Logged
from counterlog.core.saved_policies import load_policy
from counterlog.estimate.sharpe_ratio_at_k import sharpe_ratio
from counterlog.report.contest import contest
from counterlog.report.deployment import at_k, risk_points
from counterlog.report.disagreement import disagreements
from counterlog.report.holdout import holdout_part
from counterlog.report.segments import segment_codes, segment_gaps, with_segments
from counterlog.report.sway import rows_to_flip, sway, terms
from counterlog.report.wording import brief, listed, percent, policy_words, rounded

POLICIES = ["logged", "uniform", "best-fixed", "always:a", "always:b", "always:c"]


@pytest.fixture(scope="module")
def log(simulated):
    return simulated(2000)


@pytest.fixture(scope="module")
def held(log):
    made = evaluate(log, POLICIES, ["SNIPS"])
    return contest(made.estimates, made.table)


def test_a_wrong_model_is_named_as_the_reason(log):
    zero = np.zeros((log.n, 3))
    made = evaluate(log, ["logged", "always:c"], ["DM", "IPS", "DR"], q={"reward": zero})
    found = disagreements(made.estimates, made.table)
    worst = found[0]
    assert worst.significant and "DM" in (worst.first, worst.second)
    assert "the reward model is off" in worst.reason
    ips = next(e for e in made.estimates if e.policy == "always:c" and e.estimator == "IPS")
    mine = next(d for d in found if d.policy == "always:c" and {d.first, d.second} == {"DM", "IPS"})
    assert abs(mine.value) == pytest.approx(ips.value)


def test_equal_estimators_do_not_disagree(log):
    made = evaluate(log, ["logged"], ["IPS", "SNIPS"])
    (only,) = disagreements(made.estimates, made.table)
    assert only.p == 1.0 and not only.significant and only.reason == "no more than chance"


def test_wrong_propensities_show_in_the_mean_weight(simulated):
    log = simulated(4000)
    wrong = type(log)(
        log.table.with_columns(p=log.table["p"] * 0.5),
        action="action",
        reward={"reward": "sales"},
        propensity="p",
    )
    made = evaluate(wrong, ["always:c"], ["IPS", "SNIPS"])
    (only,) = disagreements(made.estimates, made.table)
    assert (
        only.significant
        and "the mean weight is" in only.reason
        and only.mean_weight == pytest.approx(2, rel=0.1)
    )


def test_risk_counts_the_redrawn_logs_with_a_loss(held):
    points = {p.policy: p for p in risk_points(held)}
    assert set(points) == {"always:c", "always:b", "uniform", "always:a"}  # best-fixed is always:c
    base = held.replicates[:, held.names.index("logged")]
    gap = held.replicates[:, held.names.index("always:a")] - base
    assert points["always:a"].loss_chance == (gap < 0).mean()
    assert points["always:a"].worst == pytest.approx(np.sort(gap)[:50].mean())
    assert points["always:c"].loss_chance == 0


def test_sharpe_ratio_by_hand():
    best, spread = np.array([5.0, 3.0, 2.0]), np.array([2.0, 0.0, 1.0])
    assert sharpe_ratio(best, spread, 3.0)[[0, 2]].tolist() == [1.0, 0.0]
    assert np.isnan(sharpe_ratio(best, spread, 3.0)[1])


def test_testing_everything_leaves_no_regret_and_the_worst_is_the_worst(held):
    points = at_k(held)
    assert [p.k for p in points] == [1, 2, 3, 4] and np.isnan(points[0].ratio)
    values = [held.of(n).value for n in ("always:c", "always:b", "uniform", "always:a")]
    assert points[-1].regret == pytest.approx(0) and points[-1].worst == pytest.approx(min(values))
    by_hand = (max(values) - held.of("logged").value) / np.std(values)
    assert points[-1].ratio == pytest.approx(by_hand)


def both(log, estimator):
    made = make_estimator(estimator)
    q = np.full((log.n, 3), 0.25)
    return [(p.name, terms(log, p, made, q)) for p in (Always("c"), Logged())]


@pytest.mark.parametrize("estimator", ["IPS", "SNIPS", "DR", "SNDR"])
def test_the_answer_without_a_row_is_that_of_the_log_without_it(log, estimator):
    found = sway(log, *both(log, estimator), estimator=estimator, unit="sales")
    row = found.rows[0]
    index = int(row.name.split()[1])
    rest = log.take(np.delete(np.arange(log.n), index))
    again = sway(rest, *both(rest, estimator), estimator=estimator, unit="sales")
    assert row.without == pytest.approx(again.answer)
    assert row.without - found.answer == pytest.approx(-row.influence, rel=0.05)


def test_the_answer_without_a_segment_or_unit_is_recomputed(simulated):
    log = simulated(900, unit="user")
    found = sway(log, *both(log, "SNIPS"), estimator="SNIPS", unit="sales")
    north = next(s for s in found.segments if s.name == "north")
    rest = log.take(log.table["region"].to_numpy() != "north")
    assert north.without == pytest.approx(sway(rest, *both(rest, "SNIPS"), estimator="SNIPS", unit="").answer)
    user = found.units[0]
    rest = log.take(log.table["user"].to_numpy() != int(user.name))
    assert user.without == pytest.approx(sway(rest, *both(rest, "SNIPS"), estimator="SNIPS", unit="").answer)


def test_rows_to_flip_on_four_rows():
    first = np.array([[3.0, 0, 1, 1], [1.0, 0, 1, 1], [-1.0, 0, 1, 1], [-1.0, 0, 1, 1]])
    second = np.zeros((4, 4))
    second[:, 2:] = 1.0
    moves = first[:, 0] / 4
    assert rows_to_flip((first, second), moves, 0.5) == 1
    assert rows_to_flip((np.abs(first), second), moves, 1.5) == -1


def test_every_estimator_has_terms_that_give_its_value(log):
    q = np.full((log.n, 3), 0.3)
    for name in ("IPS", "SNIPS", "DR", "SNDR", "MRDR", "ClippedIPS", "SwitchDR", "DRos"):
        made: Estimator = make_estimator(name)
        t = terms(log, Always("b"), made, q).sum(axis=0)
        value = evaluate(log, ["always:b"], [made], q={"reward": q}, segments=False).estimates[0].value
        assert t[0] / t[3] + t[1] / t[2] == pytest.approx(value), name


def test_segments_are_taken_from_the_context_when_none_are_named(simulated):
    assert with_segments(simulated(300, segment=())).segment_columns == ("region",)
    assert with_segments(simulated(300)).segment_columns == ("region",)
    codes, names = segment_codes(simulated(300), "age")
    assert len(names) == 13 and names[-1] == "(all others)" and codes.max() == 12


def test_segment_gaps_are_differences_of_means(log):
    made = evaluate(log, ["logged", "always:c"], ["SNIPS"])
    held = contest(made.estimates, made.table)
    found = {g.level: g for g in segment_gaps(log, held, made.table, "always:c", "logged")}
    here = log.table["region"].to_numpy() == "south"
    by_hand = log.reward[here & (log.action == 2)].mean() - log.reward[here].mean()
    assert found["south"].value == pytest.approx(by_hand) and found["south"].rows == here.sum()


def test_the_learnt_policy_is_described_saved_and_read_back(report, tmp_path):
    made = report.rewards[0].learnt
    for level in {s.level for s in made.shares}:
        assert sum(s.learnt for s in made.shares if s.level == level) == pytest.approx(1)
        assert sum(s.logged for s in made.shares if s.level == level) == pytest.approx(1)
    (tmp_path / "policy").write_bytes(made.file_bytes())
    policy = load_policy(tmp_path / "policy")
    assert set(policy.actions) == {"a", "b", "c"}
    assert made.against_best.first == "learnt" and made.against_best.second == "best-fixed"


def test_a_log_without_context_says_why_nothing_was_learnt(simulated):
    from counterlog.report.decision_report import build

    made = build(simulated(700, context=(), segment=()))
    assert made.rewards[0].learnt is None and "names no context" in made.rewards[0].notes[0]
    assert {e.estimator for e in made.policies} == {"IPS", "SNIPS"}
    assert "names no context" in made.html()


def test_the_holdout_quotes_the_winner_from_rows_that_did_not_choose_it(log):
    made = holdout_part(log, ["logged", "best-fixed", "always:a", "always:c"], frozen=False)
    assert made.winner in ("always:c", "best-fixed") and made.lo < 0.5 < made.hi
    assert made.road == "guarded" and made.questions >= 4 and made.used + made.left == made.budget
    frozen = holdout_part(log, ["logged", "always:a", "always:c"], frozen=True)
    assert frozen.road == "frozen" and frozen.used == 0
    assert frozen.hi - frozen.lo < made.hi - made.lo
    assert holdout_part(log.take(np.arange(150)), ["logged", "always:a"], frozen=True) is None


def test_words():
    assert rounded(183_412) == "190,000" and rounded(7) == "7"
    assert percent(0.95) == "95%" and percent(0.0001) == "below 0.1%"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"
    assert brief(1234.5) == "1,234" and brief(0.18234) == "0.182" and brief(float("nan")) == "not defined"
    assert policy_words("column:x") == "“column:x”"
