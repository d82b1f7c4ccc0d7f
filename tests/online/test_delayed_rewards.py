from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import LogError
from counterlog.online.delayed_rewards import ipcw_weights, kaplan_meier, known_rows, mature, still_unseen


def test_maturity_by_hand() -> None:
    decision, delay = np.array([0.0, 0.5, 0.9, 0.1]), np.array([1.0, 0.5, 0.2, np.nan])
    assert mature(decision, delay, 1.0).tolist() == [True, True, False, False]


def test_kaplan_meier_by_hand() -> None:
    # seen at 1, 2, 2, 4; cut off at 2 and 3: S(1) = 5/6, S(2) = 5/6 * 3/5, S(4) = that * 0
    duration = np.array([1.0, 2, 2, 2, 3, 4])
    seen = np.array([True, True, True, False, False, True])
    times, survival = kaplan_meier(duration, seen)
    assert times.tolist() == [1, 2, 4]
    assert survival == pytest.approx([5 / 6, 1 / 2, 0.0])
    assert still_unseen(np.array([0.5, 1.0, 3.9, 9.0]), times, survival) == pytest.approx([1, 5 / 6, 0.5, 0])


def test_without_cut_off_it_is_the_empirical_distribution() -> None:
    delay = np.random.default_rng(0).exponential(size=500)
    _, survival = kaplan_meier(delay, np.ones(500, bool))
    assert survival == pytest.approx(1 - np.arange(1, 501) / 500)


def test_immediate_rewards_have_weight_one() -> None:
    assert ipcw_weights(np.linspace(0, 0.9, 50), np.zeros(50), 1.0).tolist() == [1.0] * 50


def test_the_weights_undo_the_delay() -> None:
    """Reward mean drifts with the decision time, so dropping young rows is biased and weighting is not."""
    errors = {"drop": [], "ipcw": []}
    for seed in range(60):
        random = np.random.default_rng(seed)
        decision = random.random(3000)
        reward = (random.random(3000) < 0.2 + 0.6 * decision).astype(float)
        delay = random.exponential(0.3, 3000)
        for rule, found in errors.items():
            known, weight = known_rows(decision, delay, reward, 1.0, rule=rule)
            keep = decision < 0.9  # younger rows are almost never mature
            weight = weight * keep
            found.append((weight * known).sum() / weight.sum() - reward[keep].mean())
    drop, ipcw = (np.array(errors[k]) for k in ("drop", "ipcw"))
    assert abs(ipcw.mean()) < 3 * ipcw.std(ddof=1) / np.sqrt(60) + 0.002
    assert drop.mean() < -0.02


def test_half_of_the_rewards_late_at_random_biases_neither_rule() -> None:
    means: dict[str, list[float]] = {"drop": [], "ipcw": [], "zero": []}
    for seed in range(100):
        random = np.random.default_rng(seed)
        reward = (random.random(1000) < 0.6).astype(float)
        delay = np.where(random.random(1000) < 0.5, 1.0, 0.0)
        decision = np.arange(1000) / 1000
        for rule in ("drop", "ipcw"):
            known, weight = known_rows(decision, delay, reward, 1.0, rule=rule)
            means[rule].append(float((weight * known).sum() / weight.sum()))
        known, _ = known_rows(decision, delay, reward, 1.0)
        means["zero"].append(float(known.mean()))
    for rule in ("drop", "ipcw"):
        x = np.array(means[rule])
        assert abs(x.mean() - 0.6) < 3 * x.std(ddof=1) / 10
    assert np.mean(means["zero"]) == pytest.approx(
        0.3, abs=0.01
    )  # what counting silence as failure would give


def test_silence_counts_only_when_asked_and_old_enough() -> None:
    decision, delay, reward = (
        np.array([0.0, 0.9, 0.2]),
        np.array([np.nan, np.nan, 0.1]),
        np.array([1.0, 1, 1]),
    )
    known, weight = known_rows(decision, delay, reward, 1.0, maturity=0.5, silence_is_failure=True)
    assert known.tolist() == [0, 0, 1] and weight.tolist() == [1, 0, 1]
    _, weight = known_rows(decision, delay, reward, 1.0, maturity=0.5)
    assert weight.tolist() == [0, 0, 1]


def test_groups_with_many_events_have_their_own_curve() -> None:
    random = np.random.default_rng(5)
    group = np.repeat([0, 1], 2000)
    decision = random.random(4000)
    delay = random.exponential(np.where(group == 0, 0.1, 1.0))
    weight = ipcw_weights(decision, delay, 1.0, group=group)
    middle = (decision > 0.4) & (decision < 0.6) & (weight > 0)
    assert weight[middle & (group == 1)].mean() > 2 * weight[middle & (group == 0)].mean()


def test_a_reward_before_its_decision_is_refused() -> None:
    with pytest.raises(LogError, match="known before the decision in 1 of 2 rows: row 1"):
        mature(np.zeros(2), np.array([0.0, -1.0]), 1.0)
