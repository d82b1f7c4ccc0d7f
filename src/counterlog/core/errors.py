"""What Counterlog refuses, and how it says so: found, expected, and after `hint:` the next step."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class CounterlogError(Exception):
    """Any refusal of this library; catch it to catch them all."""


class ConfigError(CounterlogError, ValueError):
    """A parameter is outside its bounds, of the wrong type, or unknown."""


class LogError(CounterlogError, ValueError):
    """The log is not what its contract says: column, rows and remedy are in the message."""


class PropensityError(LogError):
    """A logging probability is missing, not a number, or outside (0, 1]."""


class SupportError(CounterlogError):
    """The log cannot answer: the question needs decisions that were never (or too rarely) made."""


class NotFittedError(CounterlogError):
    """A result was asked of an object before it was fitted."""


class ConvergenceError(CounterlogError):
    """An iteration ended without reaching its tolerance."""


class BudgetExhausted(CounterlogError):  # noqa: N818 - the field's term for the state of a holdout
    """A holdout has answered all the questions it may."""


class DatasetError(CounterlogError):
    """A named data set is unknown, cannot be had here, or fails its checksum."""


class MissingExtraError(CounterlogError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def message(found: str, *, expected: str = "", hint: str = "") -> str:
    """One refusal in the house's order: what was found; what was expected; what to do."""
    parts = [found.rstrip(".")]
    if expected:
        parts.append(f"expected {expected.rstrip('.')}")
    text = "; ".join(parts)
    return f"{text}\nhint: {hint}" if hint else text


def first_rows(rows: Iterable[int], show: int = 5) -> str:
    """`rows 3, 8, 12, ... (57 in all)`: where to look, for an error message."""
    numbers = [int(r) for r in rows]
    head = ", ".join(str(r) for r in numbers[:show])
    word = "row" if len(numbers) == 1 else "rows"
    return f"{word} {head}" if len(numbers) <= show else f"{word} {head}, ... ({len(numbers)} in all)"


def need_extra(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise one line naming the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as cause:
        msg = message(f"{module!r} is not installed", hint=f"pip install 'counterlog[{extra}]'")
        raise MissingExtraError(msg) from cause
