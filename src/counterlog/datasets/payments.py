"""A payment processor that can be simulated exactly: contexts, actions that are not always possible, success or not.

    context    x ~ N(0, I_6);  8 actions, each possible with probability 0.6, at least one
    reward     P(success | x, a) = sigmoid(1 + 0.8 tanh(W x)_a + 0.4 sin(2 W' x)_a)
    W, W'      standard normal (8, 6), from seeds 7 and 8

Switches, one claim each: `delay` (half of the rewards arrive one generation late), `shift` (W turns by 10 degrees a
generation), `newarm` (action 7 appears in generation 5), `legacy` (generation 0 served by a good, nearly deterministic
policy with probabilities of at least 0.01). The expected reward of every action is known, so values are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.online.generation_store import Batch, make_batch

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
ACTIONS, FEATURES, POSSIBLE = 8, 6, 0.6
TURN, NEW_ACTION, NEW_GENERATION, LEAST = math.radians(10.0), 7, 5, 0.01


@dataclass(frozen=True, kw_only=True)
class PaymentsConfig(Config):
    """Switches of `Payments`."""

    batch: int = param(3_000, "decisions a generation", at_least=2)
    tests: int = param(20_000, "fixed contexts for exact values", at_least=1)
    delay: bool = param(False, "half of the rewards arrive one generation late")
    shift: bool = param(False, "the reward weights turn by 10 degrees a generation")
    newarm: bool = param(False, "action 7 appears in generation 5")


class Payments:
    """The environment: call it with a policy, a generation and a generator to serve one batch."""

    actions = ACTIONS

    def __init__(self, config: PaymentsConfig | None = None) -> None:
        self.config = config or PaymentsConfig()

    def __call__(self, policy: Any, generation: int, rng: np.random.Generator) -> Batch:
        """One generation served by `policy.act(x, eligible, rng=rng)`; moments are spread evenly over it."""
        n = self.config.batch
        x, eligible = self.contexts(generation, n, rng)
        action, propensity = policy.act(x, eligible, rng=rng)
        chance = self.expected(x, generation)[np.arange(n), action]
        reward = (rng.random(n) < chance).astype(np.float64)
        late = rng.random(n) < 0.5 if self.config.delay else np.zeros(n, bool)
        return make_batch(
            x,
            action,
            propensity,
            reward,
            eligible=eligible,
            delay=late.astype(np.float64),
            moment=np.arange(n) / n,
        )

    def contexts(self, generation: int, n: int, rng: np.random.Generator) -> tuple[Floats, Mask]:
        """(x (n, 6), eligible (n, 8)): new decisions of a generation."""
        x = rng.standard_normal((n, FEATURES))
        return x, self._possible(generation, rng.random((n, ACTIONS)))

    def expected(self, x: Floats, generation: int = 0) -> Floats:
        """(n, 8) success probabilities."""
        weights, waves = self._weights
        if self.config.shift:
            weights = weights @ _rotation(TURN * generation)
        logit = 1.0 + 0.8 * np.tanh(x @ weights.T) + 0.4 * np.sin(2.0 * x @ waves.T)
        return np.asarray(1.0 / (1.0 + np.exp(-logit)), dtype=np.float64)

    def test(self, generation: int) -> tuple[Floats, Mask, Floats]:
        """(x, eligible, expected reward) of the fixed contexts: the same contexts in every generation."""
        x, uniforms = self._fixed
        return x, self._possible(generation, uniforms), self.expected(x, generation)

    def legacy(self, x: Floats, eligible: Mask) -> Floats:
        """A good, nearly deterministic policy of generation 0: the best action of a linear view, 0.01 to the others."""
        score = np.where(eligible, x @ self._weights[0].T, -np.inf)
        p = LEAST * eligible
        best, rows = score.argmax(axis=1), np.arange(len(x))
        p[rows, best] = 1.0 - LEAST * (eligible.sum(axis=1) - 1)
        return np.asarray(p, dtype=np.float64)

    @cached_property
    def _weights(self) -> tuple[Floats, Floats]:
        first, second = (np.random.default_rng(s).standard_normal((ACTIONS, FEATURES)) for s in (7, 8))
        return first, second

    @cached_property
    def _fixed(self) -> tuple[Floats, Floats]:
        rng, n = np.random.default_rng(9), self.config.tests
        return rng.standard_normal((n, FEATURES)), rng.random((n, ACTIONS))

    def _possible(self, generation: int, uniforms: Floats) -> Mask:
        """Each action with probability 0.6; where none came up, the one with the smallest number."""
        numbers = uniforms.copy()
        if self.config.newarm and generation < NEW_GENERATION:
            numbers[:, NEW_ACTION] = 2.0
        eligible = numbers < POSSIBLE
        eligible[np.arange(len(numbers)), numbers.argmin(axis=1)] = True
        return np.asarray(eligible, dtype=bool)


def _rotation(angle: float) -> Floats:
    """Turns each of the three coordinate planes (0,1), (2,3), (4,5) by `angle`."""
    turn, cos, sin = np.zeros((FEATURES, FEATURES)), math.cos(angle), math.sin(angle)
    for i in range(0, FEATURES, 2):
        turn[i : i + 2, i : i + 2] = [[cos, -sin], [sin, cos]]
    return turn
