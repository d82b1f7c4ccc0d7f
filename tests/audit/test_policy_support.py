"""The support of a policy in a log: by hand, for the logging policy, for continuous actions, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from counterlog.audit.policy_support import policy_support
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError
from counterlog.core.state_policies import TablePolicy


def small() -> Episodes:
    """State 0 three times with actions 0, 0, 1; state 1 once with action 2."""
    return Episodes(
        offsets=[0, 4],
        state=[0, 0, 0, 1],
        action=[0, 0, 1, 2],
        terminated=[False, False, False, True],
        actions=3,
    )


def test_support_by_hand() -> None:
    policy = TablePolicy([[0.5, 0.2, 0.3], [0.9, 0.0, 0.1]])
    assert policy_support(small(), policy) == pytest.approx((3 * 0.7 + 0.1) / 4)
    assert policy_support(small(), TablePolicy([[0, 0, 1], [1, 0, 0]])) == 0.0
    clone = TablePolicy([[2 / 3, 1 / 3, 0], [0, 0, 1]])
    assert policy_support(small(), clone) == pytest.approx(1.0)


class Shifted:
    """The logged action plus a step."""

    def __init__(self, step: float) -> None:
        self.step = step

    def act(self, states: np.ndarray) -> np.ndarray:
        return states[:, :1] + self.step


def test_support_of_continuous_actions() -> None:
    gen = np.random.default_rng(0)
    state = gen.uniform(0, 1, (5000, 1))
    log = Episodes(offsets=[0, 5000], state=state, action=state.copy(), truncated=np.arange(5000) == 4999)
    assert policy_support(log, Shifted(0.0), bins=20) == 1.0
    # the one row at the upper limit shares its cell with everything beyond
    assert policy_support(log, Shifted(5.0), bins=20) <= 1 / 5000


def test_policies_that_cannot_answer_are_refused() -> None:
    log = Episodes(offsets=[0, 2], state=[[0.1], [0.2]], action=[[0.1], [0.3]], truncated=[False, True])
    with pytest.raises(ConfigError, match="cannot act"):
        policy_support(log, object())
    with pytest.raises(LogError):
        policy_support(small(), TablePolicy([[0.5, 0.5, 0.5], [1, 0, 0]]))
