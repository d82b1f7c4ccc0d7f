"""The verdict against logs whose answer is known, and sentence by sentence."""

import numpy as np
import pytest

from counterlog.core.evaluate import evaluate
from counterlog.report.contest import contest
from counterlog.report.verdict import sentences, summary

POLICIES = ["logged", "uniform", "best-fixed", "always:a", "always:b", "always:c"]


def valued(log, estimators=("IPS", "SNIPS")):
    return evaluate(log, POLICIES, estimators, on_error="record")


def test_a_clear_winner_is_named_with_its_gain_unit_and_interval(simulated):
    made = valued(simulated(4000))
    text = sentences(contest(made.estimates, made.table), made.estimates)
    assert text[0].startswith("Always “c” would earn 0.5")
    assert "sales per decision" in text[0] and "95% interval" in text[0] and "6 policies compared" in text[0]
    assert "The best single action comes to the same; every other candidate is clearly behind" in text[1]


def test_without_a_difference_the_verdict_says_so_and_how_many_decisions_are_missing(simulated):
    made = valued(simulated(2000, gap=0.0))
    held = contest(made.estimates, made.table)
    text = sentences(held, made.estimates)
    assert text[0].startswith(("No candidate can be told apart", "Keep what was done"))
    assert "more decisions would show it with 80% power" in text[1]


def test_keeping_what_was_done_is_a_verdict(simulated):
    log = simulated(6000)
    chosen = np.flatnonzero(log.action == 2)
    best = log.take(np.concatenate([chosen, np.flatnonzero(log.action != 2)[:400]]))
    p = best.table["action"].replace_strict({"c": len(chosen) / best.n, "a": 0.5, "b": 0.5}).cast(float)
    again = type(log)(
        best.table.with_columns(p=p), action="action", reward={"reward": "sales"}, propensity="p"
    )
    made = evaluate(again, ["logged", "always:a"], ["SNIPS"])
    assert summary(made).startswith("Keep what was done: it earned")


def test_paired_differences_are_exact_for_single_actions(simulated):
    log = simulated(3000)
    made = valued(log, ("SNIPS",))
    held = contest(made.estimates, made.table)
    mean = [log.reward[log.action == k].mean() for k in range(3)]
    assert held.compare("always:c", "always:a").value == pytest.approx(mean[2] - mean[0])
    assert held.compare("always:a", "always:c").value == pytest.approx(mean[0] - mean[2])
    assert held.compare("always:a", "always:c").hi == pytest.approx(-held.compare("always:c", "always:a").lo)


def test_simultaneous_intervals_are_wider_than_one_alone_and_twins_are_recognised(simulated):
    made = valued(simulated(3000), ("SNIPS",))
    held = contest(made.estimates, made.table)
    pair = held.compare("always:c", "always:a")
    assert (pair.hi - pair.lo) / 2 > 1.96 * pair.se
    assert held.compare("always:c", "best-fixed").same
    assert not held.compare("always:c", "best-fixed").told_apart
    assert held.compare("always:c", "best-fixed").more == -1


def test_decisions_needed_follow_the_power_formula(simulated):
    made = valued(simulated(2000), ("SNIPS",))
    pair = contest(made.estimates, made.table).compare("always:b", "always:a")
    by_hand = 2000 * ((1.959964 + 0.841621) * pair.se / pair.value) ** 2
    assert pair.needed == pytest.approx(by_hand, abs=1.5)
    assert pair.more == max(0, pair.needed - 2000)


def test_a_log_too_small_for_any_candidate_says_so(simulated):
    made = evaluate(simulated(40), POLICIES, ["SNIPS"], on_error="record")
    held = contest(made.estimates, made.table)
    first = sentences(held, made.estimates)[0]
    assert first.startswith("Only the logging policy (what was done) has a value")


def test_the_summary_of_several_rewards_names_each(simulated):
    made = evaluate(
        simulated(2000, reward={"reward": "sales", "amount": "euros"}), ["logged", "uniform"], ["IPS"]
    )
    lines = summary(made).splitlines()
    assert [line.split(":")[0] for line in lines] == ["reward", "amount"]
    assert "euros per decision" in lines[1]


def test_false_alarms_stay_at_their_level(simulated):
    alarms = 0  # each alarm is any pair told apart where all policies are alike
    for k in range(40):
        made = valued(simulated(1200, gap=0.0, rng=k), ("SNIPS",))
        held = contest(made.estimates, made.table, rng=k)
        alarms += any(c.told_apart for c in held.comparisons.values())
    assert alarms <= 6  # 5% of 40 is 2; 7 or more has a chance below 0.5%


def test_policies_chosen_by_the_log_have_wider_differences_unless_they_come_to_a_fixed_one(simulated):
    made = evaluate(simulated(2000, gap=0.0, rng=2), ["logged", "best-fixed"], ["SNIPS"])
    held = contest(made.estimates, made.table)
    gap = held.replicates[:, 0] - held.replicates[:, 1]
    assert held.compare("best-fixed", "logged").se == pytest.approx(1.25 * gap.std(ddof=1))
    clear = valued(simulated(4000), ("SNIPS",))
    held = contest(clear.estimates, clear.table)
    one, two = held.compare("best-fixed", "logged"), held.compare("always:c", "logged")
    assert one.se == pytest.approx(two.se) and held.compare("best-fixed", "always:c").same
