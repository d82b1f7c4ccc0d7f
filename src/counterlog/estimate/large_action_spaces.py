"""MIPS: importance weights on what an action is like, for logs with more actions than weights can bear.

Use when    there are hundreds of actions, and columns describe them (category, price band) well enough to explain the
            reward.
Not when    the reward depends on the action beyond its description: that bias is not in the interval.
Data        Rounds(action, reward, propensity, context), with columns that describe the logged action
Paper       Saito and Joachims (2022), arXiv 2202.06317; choice of columns: section 3.2 with Su et al. (2020), SLOPE
Equation    w(x, e) = P_pi(e|x) / P_p(e|x),  P_.(e|x) = sum_a .(a|x) P(e|a)                 exact, P(e|a) known     (1)
            w(x, e) = sum_a [pi(a|x) / p(a|x)] P(a|x, e),  terms with p(a|x) = 0 are 0      P(a|x, e) a classifier  (2)
            w(x, e) = E[pi(a|x) / p(a|x) | x, e]                                            a regression of w       (3)
            value   = mean_i w(x_i, e_i) r_i                                                                        (4)
Shapes      pi, p, P(a|x, e) (n, actions) | P(e|a) (actions, levels) a column | e (n, columns)
Units       w: none | value: reward units per decision
Raises      LogError: no column named, or a column has gaps | SupportError: (1) and (2) need the logging probability of
            every action, and the log does not tell it
Differs     when every action has one description, P(e|a) is 0 or 1 and (1) is used unasked; (2) and (3) are
            cross-fitted; (3), equal to (2) in expectation, serves logs that tell the logged action's propensity alone.
Builds on   estimate/slope
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.crossfit import folds_of, make_model, splits
from counterlog.core.errors import ConfigError, LogError, SupportError, first_rows, message
from counterlog.core.estimators import (
    Estimator,
    Floats,
    Parts,
    Row,
    check_support,
    extra_columns,
    importance_weights,
    logging_probs,
)
from counterlog.core.features import Encoder
from counterlog.core.policies import Logged, Policy, checked_probs
from counterlog.core.rounds import Rounds
from counterlog.estimate.slope import accept, value_and_width

MOST_EXACT = 6


@dataclass(frozen=True, kw_only=True)
class MIPSConfig(Config):
    """Settings of `MIPS`."""

    embedding: tuple[str, ...] = param((), "columns that describe the logged action")
    weights: str = param(
        "auto",
        "(1), (2) or (3); auto takes the first that the log allows",
        choices=("auto", "exact", "classifier", "regression"),
    )
    selection: str = param(
        "none", "which columns to use: all, or chosen by SLOPE", choices=("none", "greedy", "exact")
    )
    delta: float = param(0.1, "one minus the confidence in the choice of columns", above=0, below=1)
    folds: int = param(3, "folds of the cross-fitting", at_least=2)


class MIPS(Estimator):
    """Equation (4).

    `probs` gives P(e|a) where it is known: by column, (actions, levels) probabilities of the column's sorted distinct
    values in the log; columns are independent given the action. `logging` is the logging policy, where the log does
    not tell the chances of all actions. `model` is a name of `core.crossfit` or scikit-learn's.
    """

    name: ClassVar[str] = "MIPS"

    def __init__(
        self,
        config: MIPSConfig | None = None,
        *,
        probs: Mapping[str, Floats] | None = None,
        logging: Policy | str | None = None,
        model: Any = "linear",
    ) -> None:
        self.config, self.probs, self.logging, self.model = config or MIPSConfig(), probs, logging, model

    @property
    def label(self) -> str:
        """Names its columns."""
        return f"MIPS({','.join(self.config.embedding)})" if self.config.embedding else "MIPS"

    def parts(self, row: Row) -> Parts:
        """w r."""
        return Parts(mean=row.w * row.r)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The weights of (1), (2) or (3) on the chosen columns."""
        c = self.config
        frame = extra_columns(
            log, c.embedding, "the embedding", "MIPS(MIPSConfig(embedding=('column', ...)))"
        )
        if isinstance(policy, Logged):
            return {"w": np.ones(log.n)}
        work = _Weights(log, policy, frame, self, rng=rng)
        names = c.embedding
        if c.selection == "exact" and len(names) > MOST_EXACT:
            msg = message(
                f"the exact choice among {len(names)} columns tries {2 ** len(names) - 1} sets",
                expected=f"at most {MOST_EXACT} columns",
                hint="selection='greedy'",
            )
            raise ConfigError(msg)
        if c.selection != "none" and len(names) > 1:
            search = greedy if c.selection == "greedy" else exhaustive
            names = search(
                names, lambda s: value_and_width(Parts(mean=work(s) * log.reward), log.unit, delta=c.delta)
            )
        w = work(names)
        notes = [f"the weights are {work.how}, on {', '.join(names)}"]
        if len(names) < len(c.embedding):
            notes.append(
                f"{len(names)} of {len(c.embedding)} columns were chosen by slope; the interval leaves that out"
            )
        return {"w": w, "notes": tuple(notes)}


def greedy(names: tuple[str, ...], measure: Any) -> tuple[str, ...]:
    """Drop one column at a time, the one whose loss narrows the interval most, while the SLOPE test holds.

    `measure(columns)` gives (theta, c).
    """
    current, history = names, [measure(names)]
    while len(current) > 1:
        fewer = [tuple(n for n in current if n != gone) for gone in current]
        found = sorted(((measure(s), s) for s in fewer), key=lambda pair: pair[0][1])
        step = None
        for (theta, width), s in found:
            trial = [*history, (theta, width)]
            last = len(trial) - 1
            widths = np.array([w for _, w in trial])
            if width <= history[-1][1] and accept(np.array([t for t, _ in trial]), widths) == last:
                step = ((theta, width), s)
                break
        if step is None:
            break
        history.append(step[0])
        current = step[1]
    return current


def exhaustive(names: tuple[str, ...], measure: Any) -> tuple[str, ...]:
    """The SLOPE test over every set of columns that is not empty."""
    sets = [s for k in range(len(names), 0, -1) for s in combinations(names, k)]
    found = [measure(s) for s in sets]
    return sets[accept(np.array([f[0] for f in found]), np.array([f[1] for f in found]))]


def exact_weights(pi: Floats, p: Floats, given_action: Floats) -> Floats:
    """Equation (1). pi, p (n, actions) and P(e_i|a) (n, actions) of each row's own description -> (n,)."""
    top, bottom = (pi * given_action).sum(axis=1), (p * given_action).sum(axis=1)
    if (bad := np.flatnonzero(~(bottom > 0))).size:
        msg = message(
            f"the logging policy cannot have shown the description of {bad.size:,} rows: {first_rows(bad)}",
            expected="P(e|a) > 0 for an action that the logging policy takes there",
        )
        raise SupportError(msg)
    return np.asarray(top / bottom)


def marginalised(pi: Floats, p: Floats, posterior: Floats) -> Floats:
    """Equation (2). (n, actions) each -> (n,)."""
    ratio = np.divide(pi, p, out=np.zeros_like(pi), where=p > 0)
    return np.asarray((ratio * posterior).sum(axis=1))


class _Weights:
    """The weights of one log and policy for any set of columns, each made once; `how` says by which equation."""

    def __init__(self, log: Rounds, policy: Policy, frame: pl.DataFrame, mips: MIPS, *, rng: int) -> None:
        self.log, self.policy, self.frame, self.mips, self.rng = log, policy, frame, mips, rng
        self.made: dict[tuple[str, ...], Floats] = {}
        self.how, self.p, asked = "", None, mips.config.weights
        try:
            if asked != "regression":
                self.p = logging_probs(log, mips.logging, rng=rng)
        except SupportError:
            if asked != "auto" or mips.probs:
                raise
        self.pi = checked_probs(policy, log) if self.p is not None else None

    def __call__(self, names: tuple[str, ...]) -> Floats:
        if names not in self.made:
            self.made[names] = self._make(names)
        return self.made[names]

    def _make(self, names: tuple[str, ...]) -> Floats:
        asked, p, pi = self.mips.config.weights, self.p, self.pi
        if p is None or pi is None:
            self.how = "a regression of pi/p (3)"
            return self._regression(names)
        known = self._given_action(names) if asked in ("auto", "exact") else None
        if known is not None:
            self.how = "exact (1)"
            return exact_weights(pi, p, known)
        if asked == "exact":
            msg = message(
                f"P(e|a) is not known for {', '.join(names)}: some action shows several descriptions",
                hint="give probs={column: (actions, levels)}, or weights='classifier'",
            )
            raise LogError(msg)
        self.how = "from a classifier of the action (2)"
        return marginalised(pi, p, self._posterior(names))

    def _given_action(self, names: tuple[str, ...]) -> Floats | None:
        """(n, actions) P(e_i|a): the product of the given tables, or 0/1 where each action has one description."""
        if not self.mips.probs:
            check_support(self.log, self.policy)
            return one_description(
                _codes_of(self.frame.select(names)), self.log.action, len(self.log.actions)
            )
        out = np.ones((self.log.n, len(self.log.actions)))
        for name in names:
            if name not in self.mips.probs:
                raise ConfigError(
                    message(f"probs has no entry for column {name!r}", expected="one for every column")
                )
            table = np.asarray(self.mips.probs[name], dtype=np.float64)
            levels, code = np.unique(self.frame[name].to_numpy(), return_inverse=True)
            shape = (len(self.log.actions), len(levels))
            if table.shape != shape or (table < 0).any() or (table.sum(axis=1) > 1 + 1e-6).any():
                msg = message(
                    f"probs[{name!r}] of shape {table.shape}",
                    expected=f"{shape}: probabilities, a row an action, a column a sorted value of the log",
                )
                raise ConfigError(msg)
            out *= table[:, code].T
        return out

    def _features(self, names: tuple[str, ...]) -> Floats:
        whole = [c for c in names if self.frame[c].dtype.is_integer()]
        columns = self.frame.select(names).with_columns(pl.col(c).cast(pl.String) for c in whole)
        context = Encoder.fit(self.log.context).transform(self.log.context)
        return np.hstack([context, Encoder.fit(columns).transform(columns)])

    def _posterior(self, names: tuple[str, ...]) -> Floats:
        """(n, actions) P(a|x, e), out of fold."""
        x, action = self._features(names), self.log.action
        out = np.zeros((self.log.n, len(self.log.actions)))
        for fit, rest in splits(folds_of(self.log, self.mips.config.folds, rng=self.rng)):
            fitted = make_model(self.mips.model, binary=True, rng=self.rng).fit(x[fit], action[fit])
            out[np.ix_(rest, fitted.classes_)] = fitted.predict_proba(x[rest])
        return out

    def _regression(self, names: tuple[str, ...]) -> Floats:
        """(n,) E[pi/p | x, e], out of fold, not below 0."""
        x, w = self._features(names), importance_weights(self.log, self.policy)
        out = np.empty(self.log.n)
        for fit, rest in splits(folds_of(self.log, self.mips.config.folds, rng=self.rng)):
            fitted = make_model(self.mips.model, binary=False, rng=self.rng).fit(x[fit], w[fit])
            out[rest] = fitted.predict(x[rest])
        return np.maximum(out, 0.0)


def one_description(code: NDArray[np.int64], action: NDArray[np.int64], actions: int) -> Floats | None:
    """(n, actions) 1 where the action's only description is that of the row; None when an action shows several."""
    of_action = np.full(actions, -1, dtype=np.int64)
    of_action[action] = code
    if (of_action[action] != code).any():
        return None
    return np.asarray(of_action[None, :] == code[:, None], dtype=np.float64)


def _codes_of(frame: pl.DataFrame) -> NDArray[np.int64]:
    """(n,) code of each row's combination of values."""
    ranks = frame.select(pl.struct(frame.columns).rank("dense").cast(pl.Int64) - 1)
    return ranks.to_series().to_numpy()
