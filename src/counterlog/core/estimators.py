"""What every estimator of a policy's value is: per-row terms whose sums decide the value.

An estimator turns one row's importance weight w, reward r and model predictions (q of the logged action, v
under the policy) into up to three terms; its value is

    E[mean] + E[top] / E[bottom].

The terms are written with operators only, so that the same equation runs on arrays and inside an engine's scan, and
every interval comes from the sums of the same terms. An estimator that must look at the log first (to fit, to choose
a setting) does so in `prepare`, and may hand back its own ingredients or the finished terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, PropensityError, SupportError, first_rows, message
from counterlog.core.policies import (
    TOLERANCE,
    Logged,
    LoggedColumn,
    Policy,
    Uniform,
    checked_logged_probs,
    checked_probs,
    parse_policy,
)
from counterlog.core.results import Estimate
from counterlog.core.terms import Term

if TYPE_CHECKING:
    from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
MODEL_NOTE = "the interval leaves out the error of the reward model"


@dataclass(frozen=True)
class Row:
    """Ingredients of a row, as arrays (n,) or engine expressions.

    w: importance weight pi(a|x)/p, none; r: reward; q: predicted reward of the logged action; v: sum over a of
    pi(a|x) q(x, a).
    """

    w: Any
    r: Any
    q: Any = None
    v: Any = None


@dataclass(frozen=True)
class Parts:
    """The terms of value = E[mean] + E[top] / E[bottom]; a part may be absent."""

    mean: Any = None
    top: Any = None
    bottom: Any = None


class Estimator:
    """Base of the estimators of a decision policy's value.

    `needs_model` says whether q and v are needed, `needs_propensity` whether the weights pi/p are. `prepare` may
    replace either by its own.
    """

    name: ClassVar[str] = ""
    needs_model: ClassVar[bool] = False
    needs_propensity: ClassVar[bool] = True

    def parts(self, row: Row) -> Parts:
        """The per-row terms."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """How tables name it."""
        return self.name

    @property
    def prepares(self) -> bool:
        """Whether `prepare` looks at the log first, so that the terms are no expressions of a row alone."""
        return type(self).prepare is not Estimator.prepare

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """What this estimator brings for one log and policy; nothing by default.

        Any of: `w`, `q`, `v` (n,) arrays that replace the usual ingredients; `parts`, finished terms as arrays, which
        replace `self.parts`; `notes`, a tuple of sentences for the estimate; `unit`, that of the value. `q`
        (n, actions) are the reward model's predictions when `needs_model`.
        """
        return {}

    def estimate(self, log: Rounds, policy: Policy | str, *, level: float = 0.95, rng: int = 0) -> Estimate:
        """The policy's value with its interval. Raises what `evaluate` raises."""
        from counterlog.core.evaluate import evaluate

        return evaluate(log, [policy], [self], level=level, rng=rng, segments=False).estimates[0]


def keep_where(condition: Any, value: Any) -> Any:
    """`value` where the condition holds, 0 elsewhere; for arrays and engine expressions."""
    if isinstance(condition, Term):
        return condition.where(value)
    return np.where(condition, value, 0.0)


def capped(value: Any, limit: float) -> Any:
    """min(value, limit); for arrays and engine expressions."""
    return value.clip(None, limit)


def subgaussian(w: Any, lam: float) -> Any:
    """w / (1 - lam + lam w): bounded by 1/lam, smooth, w itself for lam = 0 (Metelli, Russo and Restelli 2021).

    A weight of 0 stays 0, also for lam = 1, where every other weight becomes 1.
    """
    return w / (1 - lam + lam * w).clip(1e-300, None)


def array_row(log: Rounds, policy: Policy, q: Floats | None = None, *, weights: bool = True) -> Row:
    """The ingredients of every row as arrays (n,); q and v only when predictions `q` (n, actions) are given.

    Raises `SupportError` when the policy goes where the log has no row, `PropensityError` and `LogError` as the log.
    """
    w = importance_weights(log, policy) if weights else np.ones(log.n)
    if q is None:
        return Row(w, log.reward)
    return Row(w, log.reward, *predictions_under(log, policy, q))


def importance_weights(log: Rounds, policy: Policy) -> Floats:
    """(n,) pi(a|x)/p of the logged actions.

    Raises `SupportError` when no logged action has weight, or when the policy takes actions that were never logged.
    """
    check_support(log, policy)
    w = logged_weights(log, policy)
    if not (w > 0).any():
        msg = message(
            f"no logged decision agrees with policy {policy.name!r}: all {log.n:,} weights are 0",
            expected="some logged decision that the policy would also make",
            hint="use a policy closer to the log, or the direct method (DM)",
        )
        raise SupportError(msg)
    return w


def logged_weights(log: Rounds, policy: Policy) -> Floats:
    """(n,) pi(a|x)/p of the logged actions of a log or of a part of it, which may hold none but zeros."""
    if (
        type(policy).logged_probs is Policy.logged_probs
    ):  # all probabilities are made anyway, so all are checked
        chance = checked_probs(policy, log)[np.arange(log.n), log.action]
    else:
        chance = checked_logged_probs(policy, log)
    return np.asarray(chance / log.propensity, dtype=np.float64)


def check_support(log: Rounds, policy: Policy) -> None:
    """Raise `SupportError` with the share of the policy's mass on actions that the log lists but never holds."""
    missing = np.flatnonzero(np.bincount(log.action, minlength=len(log.actions)) == 0)
    if isinstance(policy, (Logged, LoggedColumn)) or not (missing.size or log.available is not None):
        return
    matrix = checked_probs(policy, log)
    if not missing.size:
        return
    share = matrix[:, missing].sum(axis=1)
    if share.max() > TOLERANCE:
        names = ", ".join(repr(log.actions[k]) for k in missing[:5])
        msg = message(
            f"policy {policy.name!r} puts {share.mean():.1%} of its mass on actions that were never logged ({names})",
            hint="restrict the policy to logged actions, or use the direct method (DM)",
        )
        raise SupportError(msg)


def predictions_under(log: Rounds, policy: Policy, q: Floats) -> tuple[Floats, Floats]:
    """(n,) prediction of the logged action and (n,) of the policy, sum over a of pi(a|x) q(x, a)."""
    logged = q[np.arange(log.n), log.action]
    if isinstance(policy, Logged):
        return logged, logged
    return logged, np.asarray(np.einsum("ij,ij->i", checked_probs(policy, log), q))


def logging_probs(log: Rounds, logging: Policy | str | None = None, *, rng: int = 0) -> Floats:
    """(n, actions) probabilities of the logging policy: `logging` if given, else what the log's own role tells.

    Uniform, estimated and two-valued logs tell all of them. Raises `SupportError` when the log does not, and
    `PropensityError` when `logging` contradicts the logged propensities.
    """
    if logging is not None:
        policy = parse_policy(logging, log, rng=rng) if isinstance(logging, str) else logging
        matrix = checked_probs(policy, log)
        if log.propensity_role is not None:
            here = matrix[np.arange(log.n), log.action]
            if (bad := np.flatnonzero(~(np.abs(here - log.propensity) <= TOLERANCE))).size:
                msg = message(
                    f"logging policy {policy.name!r} differs from the logged propensity in {bad.size:,} of "
                    f"{log.n:,} rows: {first_rows(bad)}",
                    expected="the probabilities with which the actions were drawn",
                )
                raise PropensityError(msg)
        return matrix
    if log.propensity_label == "uniform":
        return Uniform().probs(log)
    if log.propensity_label == "estimated":
        from counterlog.core.propensity import estimate_propensity

        return estimate_propensity(log, rng=rng).matrix
    if log.propensity_role is not None and len(log.actions) == 2 and log.available is None:
        other = 1.0 - log.propensity
        first = log.action == 0
        return np.column_stack(
            [np.where(first, log.propensity, other), np.where(first, other, log.propensity)]
        )
    msg = message(
        "the log holds the logging policy's probability of the logged action only, and this needs all actions'",
        hint="pass the logging policy (logging=...), or read the log with propensity='uniform' or 'estimate'",
    )
    raise SupportError(msg)


def extra_columns(log: Rounds, names: tuple[str, ...], role: str, setting: str) -> pl.DataFrame:
    """Columns of the log that have no role, by name, without gaps. Raises `LogError` naming the setting to give."""
    from counterlog.core.frames import collect

    if not names:
        msg = message(f"no column was named for {role}", hint=f"name it: {setting}")
        raise LogError(msg)
    present = log.frame.collect_schema().names()
    if missing := [n for n in names if n not in present]:
        expected = f"one of {', '.join(map(repr, present))}"
        msg = message(f"the log has no column {missing[0]!r} for {role}", expected=expected, hint=setting)
        raise LogError(msg)
    frame = collect(log.frame.select(list(dict.fromkeys(names))))
    for column in frame.get_columns():
        bad = column.is_null() | (column.is_nan() if column.dtype.is_float() else column.is_null())
        if bad.any():
            rows = bad.arg_true()
            msg = message(
                f"column {column.name!r} ({role}) is empty in {len(rows):,} of {log.n:,} rows: {first_rows(rows)}",
                hint="fill or drop these rows first",
            )
            raise LogError(msg)
    return frame


def number_columns(log: Rounds, names: tuple[str, ...], role: str, setting: str) -> Floats:
    """(n, len(names)) float64 of columns that have no role. Raises `LogError` for gaps, text or infinities."""
    frame = extra_columns(log, names, role, setting)
    for column in frame.get_columns():
        if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            msg = message(f"column {column.name!r} ({role}) is of type {column.dtype}", expected="numbers")
            raise LogError(msg)
    values = np.column_stack([frame[name].cast(pl.Float64).to_numpy() for name in names])
    if (bad := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
        msg = message(f"{role} is infinite in {bad.size:,} of {log.n:,} rows: {first_rows(bad)}")
        raise LogError(msg)
    return np.ascontiguousarray(values, dtype=np.float64)


def no_terms(estimator: Estimator) -> ConfigError:
    """The refusal of an estimator whose terms exist only for a log: `parts` alone cannot give them."""
    msg = message(
        f"{estimator.label} makes its terms from a log", hint="call estimate(log, policy) or evaluate(...)"
    )
    return ConfigError(msg)
