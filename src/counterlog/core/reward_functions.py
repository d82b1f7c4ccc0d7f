"""Reward functions with the signature that users of TRL know: f(prompts, completions, **columns) -> numbers or None."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, first_rows, message

RewardFunction = Callable[..., Sequence[float | None]]


def load_reward(name: str) -> RewardFunction:
    """The function that `module:function` or `file.py:function` names. Raises `ConfigError`."""
    place, sign, function = name.rpartition(":")
    if not sign or not place or not function.isidentifier():
        msg = message(f"reward {name!r}", expected="module:function, or path/to/file.py:function")
        raise ConfigError(msg)
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(place)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
    except (ImportError, OSError) as cause:
        msg = message(
            f"{place!r} cannot be imported ({cause})", hint="run in the folder that holds it, or install it"
        )
        raise ConfigError(msg) from cause
    found = getattr(module, function, None)
    if not callable(found):
        msg = message(f"{place!r} has no function {function!r}")
        raise ConfigError(msg)
    return found  # type: ignore[no-any-return]


def scored(
    functions: Sequence[RewardFunction],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    weights: Sequence[float] = (),
) -> NDArray[np.float64]:
    """(n,) the weighted sum of what the functions give; NaN where all of them gave None. Raises `LogError`."""
    n = len(completions)
    shares = list(weights) or [1.0] * len(functions)
    if len(shares) != len(functions):
        msg = message(f"{len(shares)} reward weights for {len(functions)} reward functions")
        raise ConfigError(msg)
    given = {"prompts": prompts, "completions": completions, **columns}
    total, known = np.zeros(n), np.zeros(n, bool)
    for function, share in zip(functions, shares, strict=True):
        values = _checked(function, function(**_accepted(function, given)), n)
        judged = np.isfinite(values)
        total[judged] += share * values[judged]
        known |= judged
    return np.where(known, total, np.nan)


def _accepted(function: RewardFunction, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function has room for."""
    wanted = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in wanted.values()):
        return dict(given)
    return {k: v for k, v in given.items() if k in wanted}


def _checked(function: RewardFunction, values: Any, n: int) -> NDArray[np.float64]:
    name = getattr(function, "__name__", type(function).__name__)
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(listed) != n:
        msg = message(f"reward {name!r} gave {len(listed)} values for {n} completions", expected="one each")
        raise LogError(msg)
    bad = [
        i
        for i, v in enumerate(listed)
        if v is not None and (not isinstance(v, (int, float, np.number)) or not np.isfinite(v))
    ]
    if bad:
        msg = message(
            f"reward {name!r} gave {listed[bad[0]]!r}: {first_rows(bad)}",
            expected="finite numbers, or None where it cannot judge",
        )
        raise LogError(msg)
    return np.array([np.nan if v is None else float(v) for v in listed])
