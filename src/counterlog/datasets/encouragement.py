"""A simulated encouragement that also acts on the outcome directly, with a hidden confounder: the truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import expit

ATE = 7 / 6  # E[1 + x1 + x2^2 / 2], x uniform on (-1, 1)^2


def encouragement(n: int, *, rng: int = 0) -> pl.DataFrame:
    """n rows: y, a, z, x1, x2. The hidden U = +-1 adds 0.08 to the chance of A and 1 to Y; Z adds 0.8 + 0.4 x2 to Y."""
    gen = np.random.default_rng(rng)
    x, u = gen.uniform(-1, 1, (n, 2)), gen.choice([-1.0, 1.0], n)
    z = (gen.random(n) < expit(0.3 * x[:, 0] - 0.3 * x[:, 1])).astype(np.int64)
    chance = np.where(z == 1, 0.5 + 0.1 * x[:, 0], 0.15 + 0.05 * x[:, 1]) + 0.08 * u
    a = (gen.random(n) < chance).astype(np.int64)
    delta = 1 + x[:, 0] + 0.5 * x[:, 1] ** 2
    y = delta * a + z * (0.8 + 0.4 * x[:, 1]) + x[:, 0] - x[:, 1] + u + gen.normal(size=n)
    return pl.DataFrame({"y": y, "a": a, "z": z, "x1": x[:, 0], "x2": x[:, 1]})
