"""What `invalid-iv-ate` refuses before it fits, and the columns as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, SupportError, first_rows, message
from counterlog.core.nuisances import Features, Floats, Learners, make_learner
from counterlog.core.units import Units
from counterlog.estimate.invalid_iv_folds import Observed

Progress = Callable[[str, float], None]
FEWEST, ROWS_PER_FOLD, MOST_OUTSIDE = 30, 50, 0.1
EFFECTS = ("constant", "quadratic", "ridge", "boosting")
FOR_NUMBERS = {"logit": "linear", "logit2": "ridge2"}


def observed(units: Units, learners: Learners, *, split_instrument: bool) -> Observed:
    """The columns as arrays. Raises `LogError` when a role is missing, constant, or Z is not 0/1."""
    z = units.instrument
    for role in ("instrument", "treatment", "outcome"):
        if units.constant(role):
            column = units.roles[role]
            msg = message(
                f"{role} column {column!r} has one value in all {units.n:,} rows",
                hint="the effect cannot be seen without variation; check the filter",
            )
            raise LogError(msg)
    if not units.is_binary("instrument"):
        if not split_instrument:
            bad = np.flatnonzero(~np.isin(z, (0.0, 1.0)))
            msg = message(
                f"instrument column {units.instrument_column!r} is not 0/1: {first_rows(bad.tolist())}",
                expected="0 and 1",
                hint="code it as 0/1, or set split_instrument=true to split it at its median",
            )
            raise LogError(msg)
        z = (z > np.median(z)).astype(np.float64)
        if z.min() == z.max():
            msg = message(
                "over half of the instrument's values are its largest", hint="code it as 0/1 yourself"
            )
            raise LogError(msg)
    return Observed(
        y=units.outcome,
        a=units.treatment,
        z=z,
        weight=units.weights,
        features=Features(units.covariates, learners),
        keys=units.keys(),
        binary=units.is_binary("treatment"),
    )


def outcome_names(threes: Sequence[str]) -> tuple[str, ...]:
    """The learners of the outcome's mean that group 3 names, each once."""
    return tuple(dict.fromkeys(t.partition("/")[0] for t in threes))


def fitting_names(names: Sequence[str], *, binary: bool, learners: Learners) -> tuple[str, ...]:
    """Treatment learners for this kind of treatment: logits become regressions for a number."""
    if binary:
        return tuple(names)
    return tuple(n if n in learners else FOR_NUMBERS.get(n, n) for n in names)


def check_learners(
    ones: Sequence[str], twos: Sequence[str], threes: Sequence[str], *, binary: bool, learners: Learners
) -> None:
    """Every name is known for its target. Raises `ConfigError`."""
    for role, names in (("instrument", ones), ("treatment", twos), ("outcome", threes)):
        if not names:
            msg = message(f"there is no {role} learner", expected="at least one name")
            raise ConfigError(msg)
        if len(set(names)) < len(names):
            msg = message(f"the {role} learners {', '.join(names)} repeat a name", hint="name each once")
            raise ConfigError(msg)
    for name in ones:
        make_learner(name, chance=True, learners=learners)
    for name in twos:
        make_learner(name, chance=binary, learners=learners)
    for three in threes:
        mean, slash, effect = three.partition("/")
        if not slash or effect not in EFFECTS:
            msg = message(
                f"outcome learner {three!r} is not MEAN/EFFECT",
                expected=f"EFFECT one of {', '.join(EFFECTS)}, as in ridge2/ridge",
            )
            raise ConfigError(msg)
        make_learner(mean, chance=False, learners=learners)


def check_folds(units: Units, folds: int) -> None:
    """At least 50 independent units a fold. Raises `ConfigError`."""
    if folds > units.independent / ROWS_PER_FOLD:
        msg = message(
            f"folds={folds} for {units.independent:,} independent units",
            expected=f"at least {ROWS_PER_FOLD} units a fold",
            hint="use fewer folds or more data",
        )
        raise ConfigError(msg)


def check_arms(z: Floats, fold: NDArray[np.int64], column: str | None) -> None:
    """At least 30 rows of Z = 0 and of Z = 1 in every fold. Raises `SupportError`."""
    for k in np.unique(fold):
        for arm in (0, 1):
            count = int(((fold == k) & (z == arm)).sum())
            if count < FEWEST:
                msg = message(
                    f"fold {k} has {count} rows with {column!r} = {arm}",
                    expected=f"at least {FEWEST}",
                    hint="use fewer folds, or more data of that arm",
                )
                raise SupportError(msg)


def check_overlap(chances: dict[str, Floats], floor: float) -> dict[str, float]:
    """Share of rows whose chance of Z lies outside [floor, 1 - floor], by learner. Raises `SupportError` with the table
    when it is above 10 % by every learner."""
    outside = {name: float(np.mean((f < floor) | (f > 1 - floor))) for name, f in chances.items()}
    if min(outside.values()) > MOST_OUTSIDE:
        lines = "\n".join(
            f"  {name}: {share:.1%} outside, range {chances[name].min():.4f} to {chances[name].max():.4f}"
            for name, share in outside.items()
        )
        msg = message(
            f"the chance of the instrument lies outside [{floor:g}, {1 - floor:g}] for many rows\n{lines}\n",
            expected=f"at most {MOST_OUTSIDE:.0%} of the rows",
            hint="leave out covariates that determine the instrument, or restrict the population",
        )
        raise SupportError(msg)
    return outside


def plain_learners(learners: Learners) -> dict[str, Any]:
    """What the caller's learners are, as text, for the record."""
    return {name: repr(model) for name, model in learners.items()}
