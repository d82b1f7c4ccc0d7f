"""The answer to "what does the treatment do": an estimate, the other estimators beside it, and the table of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.special import ndtr

from counterlog.core.results import Estimate


@dataclass(frozen=True, kw_only=True)
class EffectEstimate(Estimate):
    """An effect, in units of the outcome a unit of treatment; `beside` holds what other estimators say of it."""

    beside: tuple[Estimate, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `summary_frame`."""
        return [_row(e) for e in (self, *self.beside)]

    def summary_frame(self) -> Any:
        """The table that econometricians know, an estimator a row: coef, std err, z, P>|z|, interval (Polars)."""
        import polars as pl

        return pl.DataFrame(self.rows(), infer_schema_length=None)

    def plot(self) -> Any:
        """The coefficients with their intervals, this one first, as a plotly figure."""
        from counterlog.core.effect_charts import coefficients

        return coefficients((self, *self.beside))


def _row(e: Estimate) -> dict[str, Any]:
    z = e.value / e.se if e.se > 0 else math.nan
    low, high = (1 - e.level) / 2, (1 + e.level) / 2
    return {
        "estimator": e.estimator,
        "coef": e.value,
        "std err": e.se,
        "z": z,
        "P>|z|": float(2 * ndtr(-abs(z))),
        f"[{low:.3g}": e.lo,
        f"{high:.3g}]": e.hi,
        "n": e.n,
        "note": e.reason,
    }
