"""Candidate policies: what each would do in every row of a log, from a short specification or a saved file.

A policy answers `probs(log)`, an (n, actions) matrix over `log.actions` whose rows sum to 1.
Specifications, as typed on the command line: `logged`, `uniform`, `always:ACTION`, `best-fixed`,
`column:NAME`, `python:module:function`, `file:PATH`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, SupportError, first_rows, message
from counterlog.core.frames import collect
from counterlog.core.rounds import Rounds
from counterlog.core.rounds_checks import check_usable

Floats = NDArray[np.float64]
TOLERANCE = 1e-6
SPECIFICATIONS = (
    "logged, uniform, always:ACTION, best-fixed, column:NAME, python:module:function or file:POLICY"
)


class Policy:
    """Base of every policy. Subclasses give `probs`; `logged_probs` may be cheaper."""

    name: str = "policy"

    def probs(self, log: Rounds) -> Floats:
        """(n, actions) probabilities over `log.actions`."""
        raise NotImplementedError

    def logged_probs(self, log: Rounds) -> Floats:
        """(n,) probability of the logged action."""
        return self.probs(log)[np.arange(log.n), log.action]

    def logged_expression(self, log: Rounds) -> nw.Expr | None:
        """The same over the log's own columns, for an engine's scan; None where arrays are needed."""
        return None


class Logged(Policy):
    """The policy that made the log. Only its logged probabilities are known, and its value is the log's own mean."""

    name = "logged"

    def probs(self, log: Rounds) -> Floats:
        """Known only for constant or uniform logging. Raises `SupportError` otherwise."""
        if log.propensity_label == "uniform":
            return Uniform().probs(log)
        msg = message(
            "the log holds the logging policy's probability of the logged action only",
            hint="its value needs no model: it is the mean of the logged rewards",
        )
        raise SupportError(msg)

    def logged_probs(self, log: Rounds) -> Floats:
        """The logged propensities: every weight is 1."""
        return log.propensity

    def logged_expression(self, log: Rounds) -> nw.Expr | None:
        """The propensities."""
        return log.propensity_expression


class Uniform(Policy):
    """Every available action with equal probability."""

    name = "uniform"

    def probs(self, log: Rounds) -> Floats:
        """1/k over the k available actions of the row."""
        mask = np.ones((log.n, len(log.actions))) if log.available is None else log.available.astype(float)
        return np.asarray(mask / mask.sum(axis=1, keepdims=True), dtype=np.float64)

    def logged_expression(self, log: Rounds) -> nw.Expr | None:
        """1/k, when every action is always available."""
        return None if log.available_column else nw.lit(1.0 / len(log.actions))


class Always(Policy):
    """One action in every row.

    Raises `SupportError` at `probs` when the log never holds it, or when it was not available in some row.
    """

    def __init__(self, action: Any, *, name: str = "") -> None:
        self.action = action
        self.name = name or f"always:{action}"

    def probs(self, log: Rounds) -> Floats:
        """1 for the action, 0 for the others."""
        matrix = np.zeros((log.n, len(log.actions)))
        matrix[:, action_code(log, self.action)] = 1.0
        return matrix

    def logged_expression(self, log: Rounds) -> nw.Expr | None:
        """Whether the logged action is this one, when every action is always available."""
        if log.available_column:
            return None
        action = log.actions[action_code(log, self.action)]
        return nw.when(nw.col(log.action_column) == action).then(1.0).otherwise(0.0)


class Table(Policy):
    """Probabilities given row by row for one log, such as cross-fitted ones: `matrix` (n, actions)."""

    def __init__(self, name: str, matrix: Floats) -> None:
        self.name, self.matrix = name, matrix

    def probs(self, log: Rounds) -> Floats:
        """The matrix. Raises `LogError` when it was made for a log of another size."""
        if self.matrix.shape != (log.n, len(log.actions)):
            msg = message(
                f"policy {self.name!r} holds probabilities of shape {self.matrix.shape}",
                expected=f"{(log.n, len(log.actions))}: one row a decision, one column an action",
            )
            raise LogError(msg)
        return self.matrix


class LoggedColumn(Policy):
    """A column that holds the candidate's probability of the logged action: enough for IPS and SNIPS, not
    for models."""

    def __init__(self, column: str) -> None:
        self.name, self.column = f"column:{column}", column

    def probs(self, log: Rounds) -> Floats:
        """Unknown. Raises `SupportError`."""
        msg = message(
            f"policy {self.name!r} gives only the probability of the logged action",
            hint="estimators with a reward model (DM, DR, ...) need a policy with a probability for every action",
        )
        raise SupportError(msg)

    def logged_probs(self, log: Rounds) -> Floats:
        """The column's values. Raises `LogError` when the log has no such column of numbers."""
        column = collect(log.frame.select(self._checked(log)))[self.column]
        return column.cast(pl.Float64).fill_null(np.nan).to_numpy()

    def logged_expression(self, log: Rounds) -> nw.Expr | None:
        """The column."""
        return nw.col(self._checked(log)).cast(nw.Float64)

    def _checked(self, log: Rounds) -> str:
        check_usable(log.frame, self.column, "policy")
        schema = log.frame.collect_schema()
        if self.column not in schema:
            msg = message(
                f"the log has no column {self.column!r} for a policy", expected=f"one of {', '.join(schema)}"
            )
            raise LogError(msg)
        if not schema[self.column].is_numeric():
            msg = message(
                f"policy column {self.column!r} is of type {schema[self.column]}", expected="probabilities"
            )
            raise LogError(msg)
        return self.column


class Function(Policy):
    """A Python function `f(context, actions) -> (n, actions)`; `context` is a Polars frame."""

    def __init__(self, function: Callable[..., Any], *, name: str = "") -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", "function")

    def probs(self, log: Rounds) -> Floats:
        """What the function answers, checked."""
        return np.asarray(self.function(log.context, log.actions), dtype=np.float64)


def action_code(log: Rounds, action: Any) -> int:
    """Code of `action` in the log; text from a command line may name an integer or boolean action.

    Raises `SupportError` listing the actions the log has.
    """
    for code, known in enumerate(log.actions):
        if known == action or str(known) == str(action):
            return code
    msg = message(
        f"the log never holds the action {action!r}",
        expected=f"one of {', '.join(map(str, log.actions[:20]))}",
        hint="an action without a single logged row cannot be valued",
    )
    raise SupportError(msg)


def checked_probs(policy: Policy, log: Rounds) -> Floats:
    """`policy.probs(log)` after checking shape, range, row sums and availability.

    Raises `LogError` for rows that are no distribution, `SupportError` for mass on actions that were not available.
    """
    matrix = np.asarray(policy.probs(log), dtype=np.float64)
    shape = (log.n, len(log.actions))
    if matrix.shape != shape:
        msg = message(
            f"policy {policy.name!r} answered shape {matrix.shape}", expected=f"{shape}, one column an action"
        )
        raise LogError(msg)
    wrong = ~(np.abs(np.einsum("ij->i", matrix) - 1) <= TOLERANCE)
    if not (matrix >= 0).all():
        wrong |= ~(matrix >= 0).all(axis=1)
    bad = np.flatnonzero(wrong)
    if bad.size:
        msg = message(
            f"policy {policy.name!r} is not a distribution in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
            expected="probabilities of at least 0 that sum to 1",
        )
        raise LogError(msg)
    if log.available is not None:
        outside = (matrix * ~log.available).sum(axis=1)
        if (bad := np.flatnonzero(outside > TOLERANCE)).size:
            msg = message(
                f"policy {policy.name!r} chooses an unavailable action in {bad.size:,} of {log.n:,} rows "
                f"({outside.mean():.1%} of its mass): {first_rows(bad)}",
                hint="restrict the policy to the available actions of each row",
            )
            raise SupportError(msg)
    return matrix


def checked_logged_probs(policy: Policy, log: Rounds) -> Floats:
    """(n,) probability of the logged action, checked to lie in [0, 1]."""
    values = np.asarray(policy.logged_probs(log), dtype=np.float64)
    if (bad := np.flatnonzero(~((values >= 0) & (values <= 1 + TOLERANCE)))).size:
        msg = message(
            f"policy {policy.name!r} gives no probability in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}",
            expected="numbers in [0, 1]",
        )
        raise LogError(msg)
    return values


def best_fixed(log: Rounds, *, folds: int = 3, rng: int = 0) -> Table:
    """The best single action, chosen by self-normalised value on the other folds, so that its value stays honest."""
    from counterlog.core.crossfit import folds_of, splits

    actions, w = len(log.actions), 1.0 / log.propensity
    matrix = np.zeros((log.n, actions))
    for fit, rest in splits(folds_of(log, folds, rng=rng)):
        total = np.bincount(log.action[fit], w[fit] * log.reward[fit], minlength=actions)
        mass = np.bincount(log.action[fit], w[fit], minlength=actions)
        value = np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), -np.inf)
        if log.available is None:
            matrix[rest, int(np.argmax(value))] = 1.0
        else:
            best = np.where(log.available[rest], value, -np.inf).argmax(axis=1)
            matrix[rest, best] = 1.0
    return Table("best-fixed", matrix)


def parse_policy(specification: str, log: Rounds, *, rng: int = 0) -> Policy:
    """The policy that a specification names. Raises `ConfigError` for an unknown form, with the known ones."""
    kind, _, rest = specification.partition(":")
    if specification == "logged":
        return Logged()
    if specification == "uniform":
        return Uniform()
    if specification == "best-fixed":
        return best_fixed(log, rng=rng)
    if kind == "always" and rest:
        return Always(log.actions[action_code(log, rest)])
    if kind == "column" and rest:
        policy = LoggedColumn(rest)
        policy.logged_expression(log)
        return policy
    if kind == "python" and ":" in rest:
        return _python(rest)
    if kind == "file" and rest:
        from counterlog.core.saved_policies import load_policy

        return load_policy(Path(rest))
    msg = message(f"{specification!r} is not a policy", expected=SPECIFICATIONS)
    raise ConfigError(msg)


def _python(target: str) -> Function:
    module, _, function = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as cause:
        msg = message(
            f"there is no function {function!r} in module {module!r} ({cause})",
            expected="python:module:function",
        )
        raise ConfigError(msg) from cause
    finally:
        sys.path.pop(0)
    return Function(found, name=f"python:{target}")
