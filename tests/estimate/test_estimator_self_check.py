from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import ConfigError, LogError, SupportError
from counterlog.core.policies import Function
from counterlog.core.rounds import Rounds
from counterlog.datasets.examples import open_bandit
from counterlog.estimate.estimator_self_check import (
    EstimatorSelfCheck,
    EstimatorSelfCheckConfig,
    SelfCheck,
    chances_best,
    split_by_level,
    split_by_time,
)

ALWAYS = [f"always:a{i}" for i in range(6)]


def contract_example(frame):
    log = Rounds(
        frame, action="item", reward="click", propensity="p", context=("x",), time="day", unit="user"
    )
    halves = split_by_time(log)
    return EstimatorSelfCheck().compare(*halves, ["uniform", "always:a", "always:b"], ["IPS", "SNIPS"], rng=3)


def draw(n, rng, *, chosen_by_x=False) -> Rounds:
    """Six actions; reward depends on action and x. A log whose actions follow x deceives a model that ignores x."""
    gen = np.random.default_rng(rng)
    x = gen.normal(size=n)
    p = np.full((n, 6), 1 / 6)
    if chosen_by_x:
        score = np.exp(2.0 * x[:, None] * np.linspace(1, -1, 6))
        p = 0.9 * score / score.sum(axis=1, keepdims=True) + 0.1 / 6
    a = (p.cumsum(axis=1) < gen.random(n)[:, None]).sum(axis=1)
    r = 0.1 * a + 2.0 * x + gen.normal(0, 0.3, n)
    frame = {"a": [f"a{i}" for i in a], "x": x, "noise": gen.normal(size=n), "r": r, "p": p[np.arange(n), a]}
    return Rounds(frame, action="a", reward={"r": "euros"}, propensity="p", context=("noise",))


def test_chances_share_ties_and_skip_what_has_no_ratio() -> None:
    ratios = np.array([[1.0, 2.0, 2.0], [3.0, 1.0, 1.0], [np.nan, 1.0, 1.0]])
    assert chances_best(ratios).tolist() == [0.5, 0.25, 0.25]
    assert np.isnan(chances_best(np.full((2, 2), np.nan))).all()


def test_a_model_deceived_by_the_logger_is_found_out_by_the_other_log() -> None:
    found = EstimatorSelfCheck(EstimatorSelfCheckConfig(k=3)).compare(
        draw(20_000, 1, chosen_by_x=True), draw(20_000, 2), ALWAYS, ["SNIPS", "DM"], model="linear"
    )
    first, second = found.estimators
    assert (first.estimator, second.estimator) == ("SNIPS", "DM") and found.told_apart
    assert set(first.chosen) == {"always:a3", "always:a4", "always:a5"} and second.regret > 0.1
    assert found.true_values == pytest.approx([0.1 * i for i in range(6)], abs=0.15)


def test_estimators_of_one_order_share_their_chance() -> None:
    found = EstimatorSelfCheck().compare(draw(4000, 1), draw(4000, 2), ALWAYS, ["IPS", "SNIPS"], rng=1)
    if found.estimators[0].chosen == found.estimators[1].chosen:
        assert found.estimators[0].chance_best == found.estimators[1].chance_best == 0.5
    assert sum(e.chance_best for e in found.estimators) == pytest.approx(1)
    assert not found.told_apart


def test_ten_thousand_clicks_rows_tell_nothing_apart() -> None:
    def shelf(i):
        def probs(context, actions):
            w = (np.arange(len(actions)) * 4 // len(actions) == i).astype(float)
            return np.tile(w / w.sum(), (len(context), 1))

        return Function(probs, name=f"shelf-{i}")

    found = EstimatorSelfCheck().compare(
        open_bandit("men", "bts"),
        open_bandit("men", "random"),
        [shelf(i) for i in range(4)],
        ["IPS", "SNIPS"],
    )
    assert not found.told_apart and found.n == found.n_truth == 10_000 and found.k == 2


def test_splits_take_every_row_once() -> None:
    frame = {"a": list("abab"), "r": [1.0, 2, 3, 4], "p": [0.5] * 4, "t": [4, 1, 3, 2], "who": list("xxyy")}
    log = Rounds(frame, action="a", reward="r", propensity="p", time="t", segment=("who",))
    before, after = split_by_time(log)
    assert before.reward.tolist() == [2, 4] and after.reward.tolist() == [1, 3]
    rest, truth = split_by_level(log, "who", "y")
    assert rest.reward.tolist() == [1, 2] and truth.reward.tolist() == [3, 4]
    with pytest.raises(LogError, match="no segment column"):
        split_by_level(log, "device", "y")
    with pytest.raises(LogError, match="rows on both sides"):
        split_by_level(log, "who", "z")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_by_time(log, 1.0)


def test_refusals() -> None:
    log, truth = draw(300, 1), draw(300, 2)
    with pytest.raises(ConfigError, match="'logged' means another policy"):
        EstimatorSelfCheck().compare(log, truth, ["logged", "always:a1"])
    with pytest.raises(SupportError, match="1 candidates have a value"):
        EstimatorSelfCheck().compare(log, truth, ["always:a1"], ["IPS"])
    with pytest.raises(ConfigError, match="k=3 of 2"):
        EstimatorSelfCheck(EstimatorSelfCheckConfig(k=3)).compare(log, truth, ALWAYS[:2], ["IPS"])


def test_the_result_repeats_itself_and_survives_saving(tmp_path) -> None:
    one, two = (
        EstimatorSelfCheck().compare(draw(600, 1), draw(600, 2), ALWAYS, ["IPS"], rng=5) for _ in "ab"
    )
    assert repr(one) == repr(two) == repr(SelfCheck.load(one.save(tmp_path / "s")))
    assert one.to_frame().height == 1
