"""A reward model and an exploration rule as one policy that can be served: probabilities, actions, propensities."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import CounterlogError, SupportError, message
from counterlog.core.features import Encoder
from counterlog.core.frames import collect, open_frame
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds
from counterlog.online import exploration
from counterlog.online.generation_report import GenerationReport
from counterlog.online.igw import fastcb, igw
from counterlog.online.reward_regressors import Ensemble, LinearRewards, RewardModel

if TYPE_CHECKING:
    from counterlog.core.saved_policies import SoftmaxPolicy

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
First = Callable[[Floats, Mask], Floats]


@dataclass(frozen=True)
class ExplorationRule:
    """How probabilities follow from scores: `name` is igw, fastcb, epsilon, softmax, greedy, thompson or uniform.

    gamma, floor serve igw and fastcb; epsilon and temperature the rules of their name.
    """

    name: str = "igw"
    gamma: float = math.nan
    floor: float = 0.0
    epsilon: float = 0.05
    temperature: float = 0.1

    def probs(self, scores: Floats, eligible: Mask) -> Floats:
        """(n, k) probabilities from scores (n, k); members' votes, for thompson, are the policy's matter."""
        if self.name == "igw":
            return igw(scores, eligible, gamma=self.gamma, floor=self.floor)
        if self.name == "fastcb":
            return fastcb(scores, eligible, gamma=self.gamma, floor=self.floor)
        if self.name == "epsilon":
            return exploration.epsilon_greedy(scores, eligible, epsilon=self.epsilon)
        if self.name == "softmax":
            return exploration.softmax(scores, eligible, temperature=self.temperature)
        f, mask = exploration.checked_scores(scores, eligible)
        return exploration.uniform(mask) if self.name == "uniform" else exploration.greedy(f, mask)


@dataclass
class RegressionOraclePolicy(Policy):
    """A reward model and the rule that turns its scores into probabilities.

    `probs(context, eligible)` takes a frame of the context columns, an array (n, d), or a `Rounds`; columns follow
    `actions`, or the log's actions for a `Rounds`. `report` tells what happened in each generation; `deploy` is False
    when the guard would keep the policy that served before.
    """

    model: RewardModel
    rule: ExplorationRule
    actions: tuple[Any, ...]
    encoder: Encoder | None = None
    first: First | None = None
    name: str = "regression-oracle"
    report: GenerationReport | None = None
    deploy: bool = True
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def gamma(self) -> float:
        """Exploration parameter of the rule, in 1/reward; NaN for rules without one."""
        return self.rule.gamma

    def features(self, context: Any) -> Floats:
        """(n, d) numbers of a context frame or array."""
        if isinstance(context, Rounds):
            context = context.context
        if self.encoder is None or isinstance(context, np.ndarray):
            return np.asarray(context, dtype=np.float64)
        frame = context if isinstance(context, pl.DataFrame) else collect(open_frame(context))
        return self.encoder.transform(frame)

    def scores(self, context: Any, eligible: Mask | None = None) -> Floats:
        """(n, k) predicted rewards in [0, 1] of the rescaled reward."""
        return self.model.scores(self.features(context), eligible)

    def probs(self, context: Any, eligible: Mask | None = None) -> Floats:
        """(n, k) probabilities. Raises `LogError` for rows without an eligible action."""
        if isinstance(context, Rounds):
            return self._probs_of_log(context)
        return self.probs_of(self.features(context), eligible)

    def probs_of(self, x: Floats, eligible: Mask | None = None) -> Floats:
        """The same for encoded contexts (n, d)."""
        mask = np.ones((len(x), len(self.actions)), bool) if eligible is None else np.asarray(eligible, bool)
        if self.first is not None:
            return np.asarray(self.first(x, mask), dtype=np.float64)
        if self.rule.name == "thompson" and isinstance(self.model, Ensemble):
            return exploration.thompson(self.model.member_scores(x, mask), mask)
        return self.rule.probs(self.model.scores(x, mask), mask)

    def act(
        self, context: Any, eligible: Mask | None = None, *, rng: int | np.random.Generator = 0
    ) -> tuple[Any, Floats]:
        """(actions (n,), propensity (n,)): log both. Codes for arrays, the log's own action names for frames."""
        code, propensity = exploration.draw(self.probs(context, eligible), np.random.default_rng(rng))
        if self.encoder is None or isinstance(context, np.ndarray):
            return code, propensity
        names = context.actions if isinstance(context, Rounds) else self.actions
        return np.array(names)[code], propensity

    def saved(self, *, explore: float = 0.0) -> SoftmaxPolicy:
        """The best action of a ridge model, with a share `explore` of uniform choice, as a policy that can be saved.

        Raises `CounterlogError` for other models: keep the log and the configuration, and fit again where you serve.
        """
        if not isinstance(self.model, LinearRewards) or self.encoder is None:
            msg = message(
                f"a {type(self.model).__name__} model is not a saved policy",
                expected="regressor='ridge' fitted on a log",
                hint="serve it in the process that fitted it, or fit again from the same log and rng",
            )
            raise CounterlogError(msg)
        from counterlog.core.saved_policies import SoftmaxPolicy

        return SoftmaxPolicy(
            name=self.name,
            actions=self.actions,
            encoder=self.encoder,
            layers=((self.model.weights, self.model.bias),),
            temperature=0.0,
            explore=explore,
            origin={"system": "regression-oracle-bandits", **self.origin},
        )

    def save(self, path: str | os.PathLike[str], *, explore: float = 0.0) -> Path:
        """Write `saved(explore=...)`, whole or not at all."""
        return self.saved(explore=explore).save(path)

    def _probs_of_log(self, log: Rounds) -> Floats:
        place = {str(a): i for i, a in enumerate(log.actions)}
        if unknown := [a for a in self.actions if str(a) not in place]:
            msg = message(f"policy {self.name!r} may choose {unknown[0]!r}, an action the log does not have")
            raise SupportError(msg)
        columns = [place[str(a)] for a in self.actions]
        matrix = np.zeros((log.n, len(log.actions)))
        mask = None if log.available is None else log.available[:, columns]
        matrix[:, columns] = self.probs_of(self.features(log), mask)
        return matrix
