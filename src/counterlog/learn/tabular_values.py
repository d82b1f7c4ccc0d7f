"""The discrete learners without networks: fixed points on the counts of a log whose states are codes.

    BC      pi(a|s) = n(s, a) / n(s)
    BVE     Q(s, a) = mean over its rows of r + gamma (1 - terminated) Q(s', a'),  a' the next logged action   (1)
    MCE     Q(s, a) = mean over its rows of the return to the end                                              (2)
    DQN     Q(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) max over actions of Q(s', .)                           (3)
    BCQ     (3) over actions with n(s, a) / max n(s, .) > threshold;  in-sample: over actions with n(s, a) > 0
    CQL     Q(s, a) = target of (3) - alpha (softmax Q(s, .)_a n(s) / n(s, a) - 1);  unlogged actions fall without end
    CRR     pi = n(s, a) 1(A > 0), A as in discrete-crr;  Q of pi

Pairs that were never logged keep a random value in U(0, 1), as an untrained network would give one; BVE and MCE, which
never ask for such a value while they learn, choose among logged actions. QR-DQN and REM have DQN's fixed point. What is
learnt is a table (states, actions) of probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import LogError, message

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
ROUNDS, TOLERANCE = 2000, 1e-12
LEARNERS = ("bc", "bve", "mce", "dqn", "discrete-bcq", "in-sample", "discrete-cql", "discrete-crr")


@dataclass(frozen=True, eq=False)
class Counts:
    """What a log says about each (state, action): `seen` rows, mean `reward`, `move` to the next state (rows of it sum
    to less than 1 by the share that ended), `pair` to the next (state, action), and mean return to the end."""

    seen: Floats
    reward: Floats
    move: Floats
    pair: Floats
    pair_seen: Floats
    pair_reward: Floats
    returns: Floats

    @classmethod
    def of(cls, log: Episodes, states: int, gamma: float) -> Counts:
        """Count a log. Raises `LogError` unless states and actions are codes below `states`."""
        if log.state.ndim != 1 or not log.discrete or int(log.state.max()) >= states:
            raise LogError(message(f"{log!r} is no log of codes below {states}"))
        from counterlog.core.transitions import returns_to_go  # it loads torch

        (reward,) = log.need("reward")
        actions = len(log.actions)
        at = log.state * actions + log.action
        size = states * actions

        def mean(rows: NDArray[np.int64], values: Floats) -> tuple[Floats, Floats]:
            seen = np.bincount(at[rows], minlength=size).astype(float)
            return seen, np.bincount(at[rows], values[rows], size) / np.maximum(seen, 1)

        known = np.flatnonzero(log.continues | log.terminated)
        on = np.flatnonzero(log.continues)
        seen, pay = mean(known, reward)
        move = np.zeros((size, states))
        np.add.at(move, (at[on], log.next_state[on]), 1.0)
        inner = np.ones(log.rows, bool)
        inner[log.last] = False
        sarsa = np.flatnonzero(inner | log.terminated)
        pair_seen, pair_pay = mean(sarsa, reward)
        pair = np.zeros((size, size))
        step = np.flatnonzero(inner)
        np.add.at(pair, (at[step], at[step + 1]), 1.0)
        _, returns = mean(np.arange(log.rows), returns_to_go(reward, log.offsets, gamma))
        return cls(
            seen=seen.reshape(states, actions),
            reward=pay.reshape(states, actions),
            move=(move / np.maximum(seen, 1)[:, None]).reshape(states, actions, states),
            pair=pair / np.maximum(pair_seen, 1)[:, None],
            pair_seen=pair_seen.reshape(states, actions),
            pair_reward=pair_pay.reshape(states, actions),
            returns=returns.reshape(states, actions),
        )


def greedy(q: Floats, allowed: Flags | None = None) -> Floats:
    """(S, A) one-hot argmax of the allowed actions; of all, where none is."""
    if allowed is not None:
        q = np.where(allowed | ~allowed.any(axis=1, keepdims=True), q, -np.inf)
    return np.asarray(np.eye(q.shape[1])[q.argmax(axis=1)])


def cloned(counts: Floats) -> Floats:
    """(S, A) shares of a state's rows; uniform where it has none."""
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, counts / np.maximum(total, 1e-300), 1 / counts.shape[1]))


def behaviour_values(c: Counts, unseen: Floats, gamma: float) -> Floats:
    """Equation (1), solved exactly."""
    logged = c.pair_seen.ravel() > 0
    base = np.where(logged, c.pair_reward.ravel(), unseen.ravel())
    flow = np.where(logged[:, None], gamma * c.pair, 0.0)
    return np.asarray(np.linalg.solve(np.eye(len(base)) - flow, base).reshape(c.seen.shape))


def greedy_values(c: Counts, unseen: Floats, gamma: float, allowed: Flags | None = None) -> Floats:
    """Equation (3), by iteration; the maximum is over `allowed` actions, over all where a state has none."""
    logged = c.seen > 0
    free = None if allowed is None else allowed | ~allowed.any(axis=1, keepdims=True)
    q = np.where(logged, 0.0, unseen)
    for _ in range(ROUNDS):
        value = q.max(axis=1) if free is None else np.where(free, q, -np.inf).max(axis=1)
        new = np.where(logged, c.reward + gamma * c.move @ value, unseen)
        if np.abs(new - q).max() < TOLERANCE:
            return np.asarray(new)
        q = new
    return q


def conservative_values(c: Counts, gamma: float, alpha: float) -> Floats:
    """The fixed point of CQL on counts; -inf for pairs that were not logged."""
    logged, share = c.seen > 0, cloned(c.seen)
    q = np.where(logged, 0.0, -np.inf)
    for _ in range(ROUNDS):
        top = q.max(axis=1)
        best = np.where(np.isfinite(top), top, 0.0)
        weight = np.where(logged, np.exp(q - best[:, None]), 0.0)
        soft = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        new = c.reward + gamma * c.move @ best - alpha * (soft / np.where(logged, share, 1.0) - 1)
        new = np.where(logged, 0.5 * new + 0.5 * np.where(logged, q, 0.0), -np.inf)
        if np.abs(np.where(logged, new - np.where(logged, q, 0.0), 0.0)).max() < TOLERANCE:
            return np.asarray(new)
        q = new
    return q


def filtered_policy(c: Counts, unseen: Floats, gamma: float) -> Floats:
    """CRR on counts: clone the logged actions whose value beats the policy's own mean, until that changes nothing."""
    policy = cloned(c.seen)
    for _ in range(50):
        q = np.where(c.seen > 0, 0.0, unseen)
        for _ in range(ROUNDS):
            new = np.where(c.seen > 0, c.reward + gamma * c.move @ (policy * q).sum(axis=1), unseen)
            if np.abs(new - q).max() < 1e-10:
                break
            q = new
        kept = c.seen * (q > (policy * q).sum(axis=1, keepdims=True) + 1e-12)
        better = np.where(kept.sum(axis=1, keepdims=True) > 0, cloned(kept), policy)
        if np.abs(better - policy).max() < 1e-9:
            break
        policy = better
    return policy


def tabular_policy(
    learner: str,
    log: Episodes,
    states: int,
    *,
    gamma: float = 0.95,
    threshold: float = 0.3,
    alpha: float = 0.1,
    rng: int = 0,
) -> Floats:
    """(states, actions) the policy of a learner of `LEARNERS`."""
    c = Counts.of(log, states, gamma)
    unseen = np.random.default_rng(rng).random(c.seen.shape)
    if learner == "bc":
        return cloned(c.seen)
    if learner == "bve":
        return greedy(behaviour_values(c, unseen, gamma), c.seen > 0)
    if learner == "mce":
        return greedy(c.returns, c.seen > 0)
    if learner == "dqn":
        return greedy(greedy_values(c, unseen, gamma))
    if learner == "discrete-cql":
        q = conservative_values(c, gamma, alpha)
        return greedy(np.where(np.isfinite(q).any(axis=1, keepdims=True), q, unseen))
    if learner == "discrete-crr":
        return filtered_policy(c, unseen, gamma)
    if learner in ("discrete-bcq", "in-sample"):
        least = threshold if learner == "discrete-bcq" else 0.0
        allowed = c.seen > least * c.seen.max(axis=1, keepdims=True)
        return greedy(greedy_values(c, unseen, gamma, allowed), allowed)
    raise LogError(message(f"tabular learner {learner!r}", expected=f"one of {', '.join(LEARNERS)}"))
