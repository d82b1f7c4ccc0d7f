"""Learnt policies on disk: the same answers after a round trip, and nothing but a policy is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import CounterlogError, SupportError
from counterlog.core.features import Encoder
from counterlog.core.policies import checked_probs
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import SoftmaxPolicy, load_policy, softmax


@pytest.fixture
def log(small_log: pl.DataFrame) -> Rounds:
    return Rounds(small_log, action="item", reward="click", propensity="p", context=["x", "device"])


def make(log: Rounds, **changes: object) -> SoftmaxPolicy:
    gen = np.random.default_rng(0)
    encoder = Encoder.fit(log.context)
    d = len(encoder.names)
    layers = ((gen.normal(size=(d, 4)), gen.normal(size=4)), (gen.normal(size=(4, 3)), gen.normal(size=3)))
    usual = {"name": "mine", "actions": log.actions, "encoder": encoder, "layers": layers, "explore": 0.1}
    return SoftmaxPolicy(**{**usual, **changes})  # type: ignore[arg-type]


def test_a_saved_policy_answers_as_before(log: Rounds, tmp_path: Path) -> None:
    policy = make(log, origin={"rows": 400})
    read = load_policy(policy.save(tmp_path / "p.safetensors"))
    np.testing.assert_array_equal(read.probs(log), policy.probs(log))
    assert (read.name, read.actions, read.origin) == ("mine", ("a", "b", "c"), {"rows": 400})


def test_exploration_and_temperature_bound_the_probabilities(log: Rounds) -> None:
    matrix = checked_probs(make(log), log)
    assert matrix.min() >= 0.1 / 3 - 1e-12
    greedy = checked_probs(make(log, temperature=0.0, explore=0.0), log)
    np.testing.assert_array_equal(np.sort(greedy, axis=1), np.tile([0.0, 0.0, 1.0], (log.n, 1)))


def test_softmax_by_hand_and_masked() -> None:
    scores = np.array([[0.0, np.log(3.0), 5.0]])
    allowed = np.array([[True, True, False]])
    np.testing.assert_allclose(softmax(scores, allowed, temperature=1.0, explore=0.0), [[0.25, 0.75, 0.0]])
    np.testing.assert_allclose(softmax(scores, allowed, temperature=1.0, explore=0.5), [[0.375, 0.625, 0.0]])
    np.testing.assert_allclose(softmax(scores, allowed, temperature=0.0, explore=0.0), [[0.0, 1.0, 0.0]])


def test_actions_are_matched_by_name_not_by_place(log: Rounds) -> None:
    policy = make(log)
    moved = log.table.with_columns(pl.col("item").replace({"a": "z"}))
    renamed = Rounds(moved, action="item", reward="click", propensity="p", context=["x", "device"])
    with pytest.raises(SupportError, match="'mine' may choose 'a', an action the log does not have"):
        policy.probs(renamed)
    more = pl.concat([log.table, log.table.head(1).with_columns(item=pl.lit("0"))])
    wider = Rounds(more, action="item", reward="click", propensity="p", context=["x", "device"])
    np.testing.assert_array_equal(policy.probs(wider)[:-1, 1:], policy.probs(log))
    np.testing.assert_array_equal(policy.probs(wider)[:, 0], 0.0)


def test_a_pickle_in_disguise_is_refused_unread(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("the pickle was executed",))

    path = tmp_path / "p.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CounterlogError, match="is not a saved policy"):
        load_policy(path)
    with pytest.raises(CounterlogError, match="is not a saved policy"):
        load_policy(tmp_path / "absent")


def test_tensors_of_another_origin_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(
        CounterlogError, match="it was not saved by this library; expected counterlog-policy-1"
    ):
        load_policy(tmp_path / "w.safetensors")
