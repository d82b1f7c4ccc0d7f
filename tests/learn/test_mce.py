"""MCE: returns by hand, exact values of a chain, cut trajectories, what it refuses."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from discrete_logs import SMALL, STEPPED, chain, log_of, stepped, two_armed  # noqa: E402

from counterlog.core.episodes import Episodes, EpisodeWarning  # noqa: E402
from counterlog.core.errors import SupportError  # noqa: E402
from counterlog.learn.mce import MCE, MCEConfig, completed  # noqa: E402

pytestmark = pytest.mark.torch


def contract_example(frame):
    return MCE(MCEConfig(**SMALL)).fit(log_of(frame), rng=1)


def fitted(log, steps=1000, **more):
    """A small learner with gamma 0.9, stepped `steps` times."""
    return stepped(MCE(MCEConfig(**{**STEPPED, **more})), log, steps)


def test_the_chain_has_its_exact_values_and_a_cut_is_no_end() -> None:
    ended = fitted(chain()).critic(torch.eye(2)[None])[0]
    assert ended.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    cut = fitted(chain("truncated"), 2500).critic(torch.eye(2)[None])[0]
    assert cut.detach().ravel().tolist() == pytest.approx([9.0, 10.0], abs=0.15)


def test_returns_and_tails_by_hand() -> None:
    log = Episodes(
        offsets=[0, 3, 5],
        state=[0, 1, 2, 0, 1],
        action=[0, 0, 0, 0, 0],
        reward=[1.0, 2.0, 4.0, 1.0, 1.0],
        terminated=[False, False, True, False, False],
        truncated=[False, False, False, False, True],
        final_state=[2, 2],
        actions=1,
    )
    learner = MCE(MCEConfig(**SMALL, gamma=0.5))
    learner.start(learner.prepare(log))
    assert learner.returns.tolist() == [1 + 1 + 1, 2 + 2, 4, 1.5, 1.0]
    assert learner.tail.tolist() == [0, 0, 0, 0.25, 0.5]
    assert learner.last.tolist() == [2, 2, 2, 4, 4]
    assert completed(torch.tensor([1.5]), torch.tensor([0.25]), torch.tensor([8.0])).tolist() == [3.5]


def test_cut_trajectories_are_dropped_or_taken_for_ended_on_request() -> None:
    values = fitted(chain("truncated"), cut="end").critic(torch.eye(2)[None])[0]
    assert values.detach().ravel().tolist() == pytest.approx([0.9, 1.0], abs=1e-3)
    with pytest.raises(SupportError, match="no trajectory in the log has an end"):
        fitted(chain("truncated"), 1, cut="drop")
    mixed = two_armed(40)
    assert len(fitted(mixed, 1, cut="drop").kept) == 40


def test_a_trajectory_without_a_final_state_is_completed_from_its_last_known_one() -> None:
    log = Episodes(
        offsets=[0, 3],
        state=[0, 1, 2],
        action=[0, 0, 0],
        reward=[1.0, 2.0, 4.0],
        truncated=[False, False, True],
    )
    learner = MCE(MCEConfig(**SMALL, gamma=0.5))
    with pytest.warns(EpisodeWarning, match="1 of 3 steps"):
        learner.start(learner.prepare(log))
    # the third row has no successor and is left out; its reward is not counted, state 2 is bootstrapped
    assert learner.returns.tolist() == [2.0, 2.0] and learner.tail.tolist() == [0.25, 0.5]
