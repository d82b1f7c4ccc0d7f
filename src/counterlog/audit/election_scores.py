"""Scores of base models before an election: checked, made from votes, summed over versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message

METHODS = ("dpa", "fa", "dpa+roe", "fa+roe")


def checked_scores(scores: ArrayLike) -> NDArray[Any]:
    """(n, m, C) finite floats. Raises `LogError`."""
    found = np.asarray(scores)
    if found.ndim == 2:
        msg = message(
            f"scores have shape {found.shape}: votes alone",
            expected="(inputs, models, classes)",
            hint="from_votes(votes, classes) makes scores of votes; every duel between two classes that a model did "
            "not choose is then a tie, and a run-off gains little",
        )
        raise LogError(msg)
    if found.ndim != 3 or found.shape[2] < 2 or 0 in found.shape:
        msg = message(
            f"scores have shape {found.shape}", expected="(inputs, models, classes), two classes or more"
        )
        raise LogError(msg)
    if not np.issubdtype(found.dtype, np.floating):
        if not np.issubdtype(found.dtype, np.integer) and found.dtype != np.bool_:
            raise LogError(message(f"scores are {found.dtype}", expected="numbers"))
        found = found.astype(np.float64)
    return found


def checked_finite(part: NDArray[Any], start: int) -> None:
    """Raises `LogError` naming the inputs, counted from `start`, whose scores are not numbers."""
    if not np.isfinite(part.sum(dtype=np.float64)) and not np.isfinite(part).all():
        bad = start + np.flatnonzero(~np.isfinite(part).all(axis=(1, 2)))
        hint = "a class that a model has never seen gets its mean score, not minus infinity"
        raise LogError(message(f"scores are not finite in {first_rows(bad)}", expected="numbers", hint=hint))


def checked_shifts(method: str, shifts: Sequence[int] | None, models: int) -> tuple[int, ...] | None:
    """The offsets for FA, None for DPA. Raises `ConfigError`."""
    if method not in METHODS:
        raise ConfigError(message(f"method = {method!r}", expected=f"one of {', '.join(METHODS)}"))
    if method.startswith("dpa"):
        if shifts is not None and len(shifts) != 1:
            hint = "use 'fa' or 'fa+roe': with a spread one record reaches several models"
            raise ConfigError(
                message(f"{len(shifts)} offsets with method {method!r}", expected="one", hint=hint)
            )
        return None
    if shifts is None:
        hint = "pass the ensemble's `shifts`"
        raise ConfigError(
            message(f"method {method!r} without offsets", expected="d distinct offsets", hint=hint)
        )
    found = tuple(int(s) for s in shifts)
    if len({s % models for s in found}) != len(found) or not found:
        raise ConfigError(message(f"offsets {found}", expected=f"distinct modulo the {models} models"))
    if models % len(found):
        msg = message(f"{models} models with {len(found)} offsets", expected="a multiple: m = parts * spread")
        raise ConfigError(msg)
    return found


def from_votes(votes: ArrayLike, classes: int) -> NDArray[np.float32]:
    """(n, m) chosen classes -> (n, m, C) scores of 0 and 1, for `certify`. Raises `LogError`."""
    found = np.asarray(votes)
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.integer):
        raise LogError(
            message(f"votes are {found.dtype} of shape {found.shape}", expected="(n, m) class numbers")
        )
    if (bad := np.flatnonzero(((found < 0) | (found >= classes)).any(axis=1))).size:
        raise LogError(message(f"votes outside 0..{classes - 1} in {first_rows(bad)}"))
    return np.asarray(found[..., None] == np.arange(classes), dtype=np.float32)


def boost(scores: Sequence[ArrayLike]) -> NDArray[Any]:
    """DPA*: the sum of the scores of differently seeded models of the same parts. One record still reaches one part."""
    if not scores or len({np.shape(s) for s in scores}) != 1:
        msg = message(f"score arrays of shapes {[np.shape(s) for s in scores]}", expected="one shape")
        raise LogError(msg)
    return np.asarray(sum(np.asarray(s) for s in scores))
