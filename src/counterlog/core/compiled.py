"""Loops that numba compiles: cached on disk beside the source, without the interpreter's lock.

Only modules of kernels import this, and they are imported inside the functions that call them, so that nothing else
loads numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from counterlog.core.errors import need_extra

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function` in machine code, made at its first call. Raises `MissingExtraError` without numba."""
    numba = need_extra("numba", "graphs")
    made: F = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return made
