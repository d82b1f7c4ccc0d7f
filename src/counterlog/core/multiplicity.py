"""Many tests at once: p-values adjusted so that the chance of any false alarm keeps its level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def holm(p: NDArray[Any]) -> Floats:
    """Holm's step-down adjusted p-values, of the same shape; NaN entries were not tested and stay NaN.

    Rejecting where the result is below `alpha` makes at least one false rejection with probability at most `alpha`,
    however the tests depend on each other.
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    adjusted = np.full(flat.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(flat))
    if tested.size:
        order = tested[np.argsort(flat[tested], kind="stable")]
        stepped = flat[order] * np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.reshape(np.shape(p))
