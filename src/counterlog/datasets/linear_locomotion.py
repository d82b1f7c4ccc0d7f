"""MuJoCo logs of cheap behaviours: linear policies found by augmented random search, with noise on the action.

    a = clip(M (s - mean) / deviation + N(0, noise), +-1)

The matrices are a named data set. Gymnasium's -v5 returns are not D4RL's: never put them in one table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Act, GymnasiumEnvironment, record_episodes
from counterlog.core.episodes import Episodes
from counterlog.core.errors import DatasetError, message
from counterlog.datasets.pendulum import joined
from counterlog.datasets.registry import get

Floats = NDArray[np.float64]
SKILLS = ("medium", "expert")
COPIES = 10


def linear_policy(task: str, skill: str, *, noise: float = 0.1) -> Act:
    """The matrix of a task ("Hopper-v5") and skill, acting with normal noise; a cut end counts as an atom."""
    from scipy.stats import norm

    with np.load(get("ars-linear-policies", f"{task}.npz"), allow_pickle=False) as content:
        matrix, mean, deviation = (content[f"{skill}_{k}"] for k in ("M", "mu", "sd"))

    def act(state: Any, gen: np.random.Generator) -> tuple[Floats, Floats]:
        centre = ((np.asarray(state, np.float64) - mean) / deviation) @ matrix.T
        action = (centre + noise * gen.normal(size=centre.shape)).clip(-1, 1)
        inside = norm.logpdf(action, centre, noise)
        low, high = norm.logcdf(-1, centre, noise), norm.logsf(1, centre, noise)
        return action, np.where(action <= -1, low, np.where(action >= 1, high, inside)).sum(axis=1)

    return act


def locomotion_log(name: str, rows: int = 20_000, *, rng: int = 0) -> Episodes:
    """`hopper-linear-medium`, `-expert`, or `-medium-expert` (half the rows of each): at least `rows` steps.

    Raises `DatasetError` for another name.
    """
    skill = name.removeprefix("hopper-linear-")
    skills = SKILLS if skill == "medium-expert" else (skill,)
    if not name.startswith("hopper-linear-") or not set(skills) <= set(SKILLS):
        raise DatasetError(
            message(f"there is no log {name!r}", expected="hopper-linear-medium, -expert, -medium-expert")
        )
    logs: list[Episodes] = []
    for k, each in enumerate(skills):
        act, have, turn = linear_policy("Hopper-v5", each), 0, 0
        while have < rows / len(skills):
            log = record_episodes(GymnasiumEnvironment("Hopper-v5", COPIES), act, rng=rng + 1000 * turn + k)
            logs.append(log)
            have, turn = have + log.rows, turn + 1
    return joined(*logs)
