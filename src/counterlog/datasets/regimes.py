"""Logs of one environment under different behaviours, from a good policy and its dilutions, with known probabilities.

    random    uniform actions                       expert   the good policy
    noisy     a fifth of the actions uniform        medium   half of them
    eps-X     a share X of the actions uniform, X in [0, 1]
    mixed     80 % of the steps uniform, then 20 % of the good policy, whole episodes;  mix-X: a share X of the latter
    replay    like the record of a learner: the uniform share falls from 1 to 0 over the first 80 % of the steps
    narrow    the good policy with half of its actions uniform, from three start states only

A log ends with the first whole episode that brings it to the number of steps that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Act, MakeEnvironment, Moves, VectorEnvironment, record_episodes
from counterlog.core.episodes import Episodes
from counterlog.core.errors import DatasetError, message
from counterlog.datasets.pendulum import joined

Expert = Callable[[Any], NDArray[np.int64]]
REGIMES = ("random", "mixed", "replay", "noisy", "medium", "expert", "narrow")
PHASES, RISING = 20, 0.8
EXPERT_SHARE = 0.2
STARTS = 3
UNIFORM = {"random": 1.0, "expert": 0.0, "noisy": 0.2, "medium": 0.5}


def diluted(expert: Expert, actions: int, share: float) -> Act:
    """The expert with a share of its actions replaced by uniform ones, and the exact log-probability."""

    def act(state: Any, gen: np.random.Generator) -> tuple[Any, Any]:
        best = expert(state)
        drawn = gen.integers(0, actions, len(best))
        action = np.where(gen.random(len(best)) < share, drawn, best)
        chance = share / actions + (1 - share) * (action == best)
        return action, np.log(chance)

    return act


class FewStarts:
    """An environment that begins in the same few states whatever the seed."""

    def __init__(self, inner: VectorEnvironment, starts: int = STARTS) -> None:
        self.inner, self.starts = inner, starts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def reset(self, rng: int, *, groups: int = 1) -> NDArray[Any]:
        """(copies, d) states, `starts` different ones."""
        return self.inner.reset(0, groups=self.inner.copies // self.starts)

    def step(self, action: Any) -> Moves:
        """One step of all copies."""
        return self.inner.step(action)


def steps_of(make: MakeEnvironment, act: Act, rows: int, rng: int) -> Episodes:
    """Whole episodes of one behaviour with at least `rows` steps, the fewest that do."""
    copies = 12
    env = make(copies)
    logs = [record_episodes(env, act, rng=rng)]
    while (have := sum(log.rows for log in logs)) < rows:
        rate = have / sum(log.n for log in logs)
        rounds = int(np.clip((rows - have) / (rate * copies) + 1, 1, 400))
        logs.append(record_episodes(env, act, rng=rng + 104_729 * len(logs), rounds=rounds))
    log = joined(*logs)
    return log.take(np.arange(int(np.searchsorted(log.offsets[1:], rows)) + 1))


def regime_log(make: MakeEnvironment, expert: Expert, regime: str, rows: int, *, rng: int = 0) -> Episodes:
    """A log of about `rows` steps under a regime of the table above. Raises `DatasetError` for another name."""
    actions = make(1).action_size
    kind, _, share = regime.partition("-")
    seed = 1_000 * rng

    def part(uniform: float, n: int, k: int = 0) -> Episodes:
        return steps_of(make, diluted(expert, actions, uniform), n, seed + k)

    try:
        level = float(share) if share else None
    except ValueError:
        level = -1.0
    if level is not None and (kind not in ("eps", "mix") or not 0 <= level <= 1):
        raise DatasetError(message(f"regime {regime!r}", expected=f"{', '.join(REGIMES)}, eps-X or mix-X"))
    if kind == "eps" and level is not None:
        return part(level, rows)
    if kind == "mixed" or (kind == "mix" and level is not None):
        good = EXPERT_SHARE if level is None else level
        parts = [(1.0, round((1 - good) * rows)), (0.0, round(good * rows))]
        return joined(*(part(u, n, k) for k, (u, n) in enumerate(parts) if n))
    if kind == "replay":
        return joined(*_fading(part, rows))
    if kind == "narrow":
        env = lambda copies: FewStarts(make(copies))  # noqa: E731
        return steps_of(env, diluted(expert, actions, UNIFORM["medium"]), rows, seed)
    if kind in UNIFORM:
        return part(UNIFORM[kind], rows)
    raise DatasetError(message(f"regime {regime!r}", expected=f"{', '.join(REGIMES)}, eps-X or mix-X"))


def _fading(part: Callable[[float, int, int], Episodes], rows: int) -> list[Episodes]:
    """Phases of a falling uniform share; one that an earlier phase's last episode has run over is left out."""
    logs: list[Episodes] = []
    have = 0
    for k in range(PHASES):
        if (wanted := round((k + 1) * rows / PHASES) - have) > 0:
            logs.append(part(max(0.0, 1 - (k + 0.5) / (RISING * PHASES)), wanted, k))
            have += logs[-1].rows
    return logs


def grid_log(name: str, rows: int, *, rng: int = 0) -> Episodes:
    """`LAYOUT-REGIME`: the planned policy of a grid world and its dilutions; states are cell numbers."""
    from counterlog.datasets.grid_worlds import LAYOUTS, GridWorld

    layout = next((k for k in LAYOUTS if name.startswith(f"{k}-")), "")
    if not layout:
        raise DatasetError(
            message(f"grid log {name!r}", expected=f"one of {', '.join(LAYOUTS)}, then a regime")
        )
    plan = GridWorld(layout=layout).plan()
    return regime_log(
        lambda copies: GridWorld(copies, layout),
        lambda state: plan[np.asarray(state, np.int64)],
        name[len(layout) + 1 :],
        rows,
        rng=rng,
    )
