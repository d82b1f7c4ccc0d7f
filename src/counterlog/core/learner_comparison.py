"""Several learners that act in one environment, from the same seeds and for as many steps: what each earned and cost.

Returns are those of training: the mean of a seed's last 20 finished episodes, of the policy as it was played. `area` is
the mean of that over all logged rounds. `beyond` is the share of rounds whose KL(old || new) left the trust region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.neural_policies import NeuralPolicy
from counterlog.core.online_learner import Environment, OnlineLearner
from counterlog.core.results import Result
from counterlog.core.rl_evaluation import interquartile_mean, iqm_interval
from counterlog.core.training_loop import Progress, TrainingReport


@dataclass(frozen=True, kw_only=True)
class LearnerRow(Result):
    """One learner: interquartile mean over seeds of the last return, its interval (none for one seed), and the rest."""

    learner: str
    last: float
    low: float | None
    high: float | None
    area: float
    returns: tuple[float, ...]
    updates: int
    beyond: float | None
    kl: float | None
    seconds: float = field(compare=False)
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Learners side by side. `n` counts seeds."""

    environment: str
    unit: str
    n: int
    steps: int
    rows: tuple[LearnerRow, ...]

    def records(self) -> list[dict[str, Any]]:
        """One row a learner."""
        shown = ("learner", "last", "low", "high", "area", "updates", "beyond", "kl", "seconds")
        return [{name: getattr(r, name) for name in shown} for r in self.rows]

    def plot(self) -> Any:
        """Mean return over seeds against environment steps, as a plotly figure."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for r in self.rows:
            x, y = zip(*r.curve, strict=True)
            figure.add_scatter(x=x, y=y, name=r.learner, mode="lines")
        return figure.update_layout(
            title=self.environment, xaxis_title="environment steps of each seed", yaxis_title=self.unit
        )


def learner_row(name: str, learner: OnlineLearner, policy: NeuralPolicy, rng: int = 0) -> LearnerRow:
    """What a finished run says. Raises `SupportError` when some seed has not finished an episode."""
    report = policy.report
    if not isinstance(report, TrainingReport) or not any("return" in r for r in report.metrics):
        msg = message(
            f"{name} finished no episode in some seed", hint="raise steps beyond an episode's length"
        )
        raise SupportError(msg)
    points = report.curve("return")
    last = np.array(report.last("return"))
    ends = iqm_interval(last, rng=rng)[1:] if len(last) > 1 else (None, None)
    rounds = np.array([[value for _, value in line] for line in points.values()])
    steps = [step * learner.round_size for step, _ in next(iter(points.values()))]
    found = {
        k: float(np.mean([r[k] for r in report.metrics])) if k in report.metrics[-1] else None
        for k in ("beyond", "kl_old_new")
    }
    return LearnerRow(
        learner=name,
        last=interquartile_mean(last),
        low=ends[0],
        high=ends[1],
        area=float(rounds.mean()),
        returns=tuple(last.tolist()),
        updates=learner.updates,
        beyond=found["beyond"],
        kl=found["kl_old_new"],
        seconds=report.seconds,
        curve=tuple(zip(map(float, steps), rounds.mean(axis=0).tolist(), strict=True)),
    )


def compare(
    learners: Mapping[str, OnlineLearner],
    environment: Environment,
    *,
    rng: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Train every learner on the environment, one after another. Raises `ConfigError` when steps or seeds differ."""
    shapes = {(x.config.steps, x.config.seeds) for x in learners.values()}
    if len(shapes) != 1:
        msg = message(f"learners with (steps, seeds) {sorted(shapes)}", expected="one budget for all")
        raise ConfigError(msg)
    rows = []
    for name, learner in learners.items():
        policy = learner.improve(environment, rng=rng, progress=progress)
        rows.append(learner_row(name, learner, policy, rng))
    (steps, seeds) = next(iter(shapes))
    one = next(iter(learners.values())).worlds
    return Comparison(
        environment=one.name, unit=f"{one.reward_unit} per episode", n=seeds, steps=steps, rows=tuple(rows)
    )
