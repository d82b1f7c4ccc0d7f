"""A log of trajectories and some policies as tensors: what networks that value policies read, one gather a batch.

States of all steps lie end to end, then the recorded states after the ends, so that every successor has a place; what
each policy does there is computed once. Continuous actions are in [-1, 1] within the log's bounds; a policy with a
distribution is drawn from `samples` times a state. Discrete actions are codes and every expectation is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from counterlog.core.bellman import Truncation
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.scaling import ActionBounds, StateScale
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.state_policies import action_probs

Floats = NDArray[np.float64]
LOGGED = "logged"


@dataclass(frozen=True, eq=False)
class PolicyRows:
    """N steps of n trajectories, T = N [+ n] stacked states, P policies.

    state    (T, d) scaled states, with the share of the horizon as last column when time is known
    action   (N, k) in [-1, 1], or (N,) codes
    chosen   (P, T, samples, k) actions of the policies, or (P, T, A) their probabilities
    follow   (N,) place of the successor; alive (N,) 1 where the task goes on; use (R,) rows with a known transition
    """

    log: Episodes
    names: tuple[str, ...]
    state: Tensor
    action: Tensor
    reward: Tensor
    chosen: Tensor
    follow: Tensor
    alive: Tensor
    use: NDArray[np.int64]
    first: Tensor
    gamma: float

    @property
    def discrete(self) -> bool:
        """Whether actions are codes."""
        return self.log.discrete

    @property
    def inputs(self) -> int:
        """Width of a network's input: states, and continuous actions."""
        return int(self.state.shape[1]) + (0 if self.discrete else self.action.shape[1])

    @property
    def outputs(self) -> int:
        """Width of its output: a number an action, or one."""
        return len(self.log.actions) if self.discrete else 1

    def logged(self, net: Any, rows: Tensor) -> Tensor:
        """(P, M, b) the network at logged states and actions; `rows` (M, b) the same for all policies."""
        x = self.state[rows]
        if not self.discrete:
            x = torch.cat([x, self.action[rows]], dim=-1)
        out: Tensor = net(self._wide(x))
        if not self.discrete:
            return out[..., 0]
        code = self.action[rows].expand(len(self.names), *rows.shape)
        return out.gather(-1, code[..., None])[..., 0]

    def expected(self, net: Any, places: Tensor, pick: Tensor | None = None) -> Tensor:
        """(P, M, b) the network's mean over each policy's actions at the stacked states `places` (M, b).

        Continuous actions: the draw `pick` (M, b), or the mean over all draws without it.
        """
        x = self.state[places]
        if self.discrete:
            return (net(self._wide(x)) * self.chosen[:, places]).sum(dim=-1)
        if pick is not None:
            return self._at(net, x, self.chosen[:, places, pick])
        draws = [self._at(net, x, self.chosen[:, places, j]) for j in range(self.chosen.shape[2])]
        return torch.stack(draws).mean(dim=0)

    def _at(self, net: Any, x: Tensor, action: Tensor) -> Tensor:
        out: Tensor = net(torch.cat([self._wide(x), action], dim=-1))
        return out[..., 0]

    def _wide(self, x: Tensor) -> Tensor:
        """(M, b, d) -> (P, M, b, d)."""
        return x.expand(len(self.names), *x.shape)

    @property
    def draws(self) -> int:
        """Draws from each policy a state; 1 for discrete actions."""
        return 1 if self.discrete else int(self.chosen.shape[2])

    def over_all(self, net: Any, members: int, *, of: str, block: int = 4096) -> Floats:
        """(P, M, N) or (P, M, T) the network everywhere: `of` "logged" actions, or "expected" under the policies."""
        size = self.log.rows if of == "logged" else len(self.state)
        parts = []
        with torch.no_grad():
            for places in torch.arange(size).split(block):
                at = places.expand(members, -1)
                parts.append(self.logged(net, at) if of == "logged" else self.expected(net, at))
        return np.asarray(torch.cat(parts, dim=-1).numpy(), np.float64)


def policy_rows(
    log: Episodes,
    policies: Mapping[str, Any],
    *,
    gamma: float,
    truncation: Truncation = "bootstrap",
    time: bool = False,
    samples: int = 4,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    rng: int = 0,
) -> PolicyRows:
    """Lay out a log for some policies. The name `logged` with the policy None stands for the log's own actions.

    Raises `SupportError` when no transition is known, `ConfigError` for a policy that cannot act on this log.
    """
    (reward,) = log.need("reward")
    states, steps = log.state, log.steps
    follow = np.minimum(np.arange(log.rows) + 1, log.rows - 1)
    follow[log.last] = log.last
    if truncation == "bootstrap" and log.final_state is not None:
        states = np.concatenate([states, log.next_state[log.last]])
        steps = np.concatenate([steps, log.lengths])
        follow[log.last] = log.rows + np.arange(log.n)
    if truncation == "bootstrap":
        alive, known = log.continues, log.continues | log.terminated
    else:
        alive, known = ~(log.terminated | log.truncated), np.ones(log.rows, bool)
    if not known.any():
        raise SupportError(
            message("no step has a known successor", hint="truncation='end' counts cuts as ends")
        )
    scaled = StateScale.fit(log).transform(states)
    if time:
        share = (2 * steps / int(log.lengths.max()) - 1).astype(np.float32)
        scaled = np.concatenate([scaled, share[:, None]], axis=1)
    bounds = None if log.discrete else ActionBounds.fit(log, low, high)
    chosen = [
        _logged(log, bounds, len(states))
        if policy is None
        else _chosen(log, policy, states, bounds, samples, rng)
        for policy in policies.values()
    ]
    if bounds is None:
        table, action = np.stack(chosen), log.action
    else:
        most = max(c.shape[1] for c in chosen)
        table = np.stack([np.broadcast_to(c, (len(c), most, c.shape[2])) for c in chosen])
        action = bounds.inwards(log.action)
    return PolicyRows(
        log=log,
        names=tuple(policies),
        state=torch.from_numpy(scaled),
        action=torch.from_numpy(np.array(action)),
        reward=torch.from_numpy(np.array(reward, np.float32)),
        chosen=torch.from_numpy(np.ascontiguousarray(table, np.float32)),
        follow=torch.from_numpy(follow),
        alive=torch.from_numpy(np.array(alive, np.float32)),
        use=np.flatnonzero(known),
        first=torch.from_numpy(np.array(log.first)),
        gamma=gamma,
    )


def _logged(log: Episodes, bounds: ActionBounds | None, size: int) -> NDArray[Any]:
    """What the log did in its own states; after the last step its last action again."""
    again = np.concatenate([np.arange(log.rows), log.last])[:size]
    if bounds is None:
        return np.asarray(np.eye(len(log.actions), dtype=np.float32)[log.action[again]])
    return bounds.inwards(log.action[again])[:, None]


def _chosen(
    log: Episodes, policy: Any, states: NDArray[Any], bounds: ActionBounds | None, samples: int, rng: int
) -> NDArray[Any]:
    """(T, A) probabilities, or (T, 1 or samples, k) scaled actions."""
    if bounds is None:
        return action_probs(policy, states, len(log.actions)).astype(np.float32)
    if not hasattr(policy, "act"):
        msg = message(
            "a policy of continuous actions without act(states)", hint="log_density alone gives ratios only"
        )
        raise ConfigError(msg)
    if getattr(policy, "stochastic", False):
        drawn = [policy.act(states, rng=1000 * rng + j) for j in range(samples)]
    else:
        drawn = [policy.act(states)]
    found = np.stack([np.asarray(a, np.float64) for a in drawn], axis=1)
    if found.shape[::2] != (len(states), log.action.shape[1]) or not np.isfinite(found).all():
        msg = message(
            f"the policy acted with shape {found[:, 0].shape}",
            expected=f"{(len(states), log.action.shape[1])}",
        )
        raise LogError(msg)
    return bounds.inwards(found)


class Halves:
    """Repeated halves of the trajectories: members 2j and 2j + 1 share none and own all of them.

    Each member reads its own half, so that the other one can judge it, and the spread within pairs is the error of an
    estimate from all trajectories: Var[(theta_a - theta_b) / 2] = Var[theta] for a mean.
    """

    def __init__(self, rows: PolicyRows, members: int, rng: int) -> None:
        n = rows.log.n
        if members < 2 or members % 2 or n < 4:
            msg = message(
                f"{members} members on {n} trajectories",
                expected="an even number, and at least 4 trajectories",
            )
            raise (SupportError if n < 4 else ConfigError)(msg)
        gen = np.random.default_rng([rng, 5])
        inside = np.zeros((members, n), bool)
        for j in range(0, members, 2):
            inside[j, gen.permutation(n)[: n // 2]] = True
            inside[j + 1] = ~inside[j]
        self.inside, self.members = inside, members
        mine = inside[:, rows.log.owners[rows.use]]
        self._rows = self._padded([rows.use[m] for m in mine])
        self._starts = self._padded([np.flatnonzero(m) for m in inside])
        self._streams = SeedStreams([rng], "rows of halves")

    @staticmethod
    def _padded(pools: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        sizes = torch.tensor([len(p) for p in pools])
        if int(sizes.min()) == 0:
            raise SupportError(message("a half of the trajectories has no known transition"))
        table = torch.zeros(len(pools), int(sizes.max()), dtype=torch.int64)
        for line, pool in zip(table, pools, strict=True):
            line[: len(pool)] = torch.from_numpy(pool)
        return table, sizes

    def draw_rows(self, batch: int) -> Tensor:
        """(M, batch) rows, each member's of its half, with replacement."""
        return self._draw(*self._rows, batch)

    def draw_starts(self, batch: int) -> Tensor:
        """(M, batch) trajectories."""
        return self._draw(*self._starts, batch)

    def pick(self, draws: int, batch: int) -> Tensor:
        """(M, batch) which draw from the policy is used."""
        return (self._streams.uniform(self.members, batch)[0] * draws).long().clamp(max=draws - 1)

    def _draw(self, table: Tensor, sizes: Tensor, batch: int) -> Tensor:
        at = (self._streams.uniform(self.members, batch)[0] * sizes[:, None]).long()
        return table.gather(1, torch.minimum(at, sizes[:, None] - 1))

    def state(self) -> dict[str, Tensor]:
        """Where the draws stand."""
        return self._streams.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self._streams.restore(state)
