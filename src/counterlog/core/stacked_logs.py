"""One learner on several logs at once: seed k of the stack learns from log k alone.

The logs lie end to end in one set of transitions; every seed draws from its own rows. Small networks are bound by the
number of calls, so that thirty logs in one stack cost little more than a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_learner import Evaluate, OfflineLearner
from counterlog.core.training_loop import History, Progress, run_training
from counterlog.core.transition_rows import Batch


def fit_logs(
    learner: OfflineLearner,
    log: Episodes,
    owner: ArrayLike,
    *,
    rng: int = 0,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    progress: Progress | None = None,
) -> History:
    """Train the stack; `owner` (n,) says to which log each trajectory belongs, in order: 0, 0, 1, ...

    Scales of states are those of all logs together. Returns what was measured; `learner.policy()` acts. Raises
    `ConfigError` unless the learner has one seed a log.
    """
    logs = np.asarray(owner)
    count = int(logs.max()) + 1
    if count != learner.config.seeds or (np.diff(logs) < 0).any() or len(logs) != log.n:
        msg = message(f"{count} logs of {len(logs)} trajectories for {learner.config.seeds} seeds")
        raise ConfigError(message(msg, expected="one seed a log, the trajectories of a log side by side"))
    data = learner.prepare(log)
    learner.start(data, rng=rng)
    rows = logs[data.trajectory]
    size = torch.from_numpy(np.bincount(rows, minlength=count)).float()[:, None]
    first = torch.from_numpy(np.searchsorted(rows, np.arange(count)))[:, None]
    if not bool((size > 0).all()):
        raise ConfigError(message(f"log {int(size[:, 0].argmin())} has no step to learn from"))
    streams = SeedStreams(learner.seeds, "rows of own log")

    def draw() -> Batch:
        drawn = (streams.uniform(learner.config.batch) * size).long()
        return data.batch(first + torch.minimum(drawn, size.long() - 1))

    def measured(step: int) -> Mapping[str, Any]:
        assert evaluate is not None
        return evaluate(learner.policy())

    return run_training(
        lambda step: learner.update(draw()),
        steps=learner.config.steps,
        seeds=learner.seeds,
        stateful={"learner": learner},
        log_every=learner.config.log_every,
        evaluate=None if evaluate is None else measured,
        evaluate_every=evaluate_every,
        progress=progress,
        what=type(learner).__name__,
    )
