"""What kind of propensities are these? Missing, estimated, deterministic, tiny, or rounded.

Use when    always: it is the first thing a weight depends on.
Not when    never.
Data        Rounds(propensity)
Paper       none: rounding is read off the digits, e.g. propensities that were simulated are multiples of 1/draws.
Equation    step = largest 10^-d or 5 * 10^-d of which 99% of the propensities are multiples                   (1)
            relative error of the weight 1/p from rounding: at most step / (2 p)                             (2)
            if p is a share of 1/step simulated draws: relative standard error sqrt(step (1 - p) / p)        (3)
Shapes      propensity (n,)
Units       propensity: none | errors: share of the weight
Raises      ConfigError: a threshold is outside its bounds. No valid log raises
Differs     rounding is told from the digits alone; a policy that really draws with such propensities is told so too
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.results import Finding
from counterlog.core.rounds import ESTIMATED, Rounds

CHECK = "propensity values"


@dataclass(frozen=True, kw_only=True)
class PropensityValuesConfig(Config):
    """Thresholds of the check of the propensities' values."""

    tiny: float = param(0.001, "propensities below this are called tiny", above=0, below=1)
    warn_weight: float = param(
        0.05, "share of the sum of weights in one row from which it is a `warning`", above=0, below=1
    )
    rounding: float = param(
        0.1, "relative error of a weight from which rounding is a `warning`", above=0, below=1
    )
    distinct: int = param(30, "distinct propensities needed before rounding is looked for", at_least=2)


class PropensityValues:
    """The check. One finding, or one for tiny and one for rounded propensities."""

    def __init__(self, config: PropensityValuesConfig = PropensityValuesConfig()) -> None:
        self.config = config

    def check(self, log: Rounds, *, rng: int = 0) -> tuple[Finding, ...]:
        """What the propensities are. `rng` is unused: nothing here is random."""
        n = log.n
        if log.propensity_role is None:
            text = "the log gives no propensities, so no other policy can be valued by weighting"
            remedy = "name the column with the logged action's probability, or say propensity='uniform' or 'estimate'"
            return (Finding(check=CHECK, severity="stop", message=text, remedy=remedy, n=n),)
        if log.propensity_role == ESTIMATED:
            on = (
                f"from {len(log.context_columns)} context columns"
                if log.context_columns
                else "with no context"
            )
            text = f"the propensities are estimated ({on}): they correct only for what the context holds"
            remedy = "log the propensities; until then add every column that the logging policy looked at to context"
            return (Finding(check=CHECK, severity="warning", message=text, remedy=remedy, n=n),)
        p = log.propensity
        if bool((p >= 1).all()) and len(log.actions) > 1:
            text = "every propensity is 1: the logging was deterministic, so nothing is known of what was not done"
            remedy = (
                "log decisions drawn at random (a share of the traffic is enough); if they were random, log their "
                "probabilities or say propensity='estimate'"
            )
            return (Finding(check=CHECK, severity="stop", message=text, remedy=remedy, n=n),)
        found = [f for f in (self._sure(log), self._tiny(log), self._rounded(log)) if f is not None]
        if found:
            return tuple(found)
        text = f"propensities lie between {p.min():.3g} and {p.max():.3g} ({log.propensity_label})"
        return (
            Finding(
                check=CHECK,
                severity="ok",
                message=text,
                n=n,
                unit="smallest propensity",
                value=float(p.min()),
                evidence=(_spread(p),),
            ),
        )

    def _sure(self, log: Rounds) -> Finding | None:
        share = float((log.propensity >= 1).mean())
        if share == 0 or len(log.actions) < 2:
            return None
        text = (
            f"{share:.1%} of the rows were decided without any randomness (propensity 1): they say nothing of "
            "other actions"
        )
        return Finding(
            check=CHECK,
            severity="warning" if share >= 0.5 else "note",
            message=text,
            n=log.n,
            unit="share of rows",
            value=share,
            evidence=(_spread(log.propensity),),
            remedy="candidates must agree with the log there; see overlap, or leave these rows out",
        )

    def _tiny(self, log: Rounds) -> Finding | None:
        c, p = self.config, log.propensity
        tiny = p < c.tiny
        if not tiny.any() or p.min() >= 0.5 / len(log.actions):
            return None
        weight = 1.0 / p
        top = float(weight.max() / weight.sum())
        few = counted(int(tiny.sum()))
        text = (
            f"{few} {'has' if tiny.sum() == 1 else 'have'} a propensity below {c.tiny:g}, down to {p.min():.2g}: one "
            f"row may weigh as much as {weight.max():,.0f}, and the heaviest holds {top:.1%} of the sum of all weights"
        )
        return Finding(
            check=CHECK,
            severity="warning" if top >= c.warn_weight else "note",
            message=text,
            n=log.n,
            unit="smallest propensity",
            value=float(p.min()),
            evidence=(_spread(p),),
            remedy="use self-normalised, clipped or doubly robust estimates, and give the logging policy a floor",
        )

    def _rounded(self, log: Rounds) -> Finding | None:
        c, p = self.config, log.propensity
        if len(np.unique(p)) < c.distinct or (step := rounding_step(p)) is None:
            return None
        error, noise = step / 2 / p, np.sqrt(step * np.maximum(1 - p, 0) / p)
        worst, rows = float(error.max()), int((error >= c.rounding).sum())
        below = int((p < step * (1 - 1e-6)).sum())
        if worst < c.rounding / 10:
            return None
        text = f"the propensities are multiples of {step:g}, so the smallest ({p.min():.2g}) may be off by {worst:.0%}"
        if rows:
            text += f" ({counted(rows)} by {c.rounding:.0%} or more)"
        if noise.max() >= 2 * worst:
            text += f"; if they were simulated with {1 / step:,.0f} draws, its standard error is {noise.max():.0%}"
        if below:
            text += f"; rows below one step: {below:,}, which looks like a floor put in place of 0"
        record = {
            "step": step,
            "rows off by the threshold": rows,
            "rows below one step": below,
            "largest rounding error": worst,
            "largest simulation error": float(noise.max()),
        }
        return Finding(
            check=CHECK,
            severity="warning" if rows else "note",
            message=text,
            n=log.n,
            unit="relative error",
            value=worst,
            evidence=(record,),
            remedy="log the exact probability, or simulate it with more draws; until then clip these weights",
        )


def rounding_step(p: NDArray[np.float64]) -> float | None:
    """Equation (1), from 1e-2 down to 5e-8, for 99% of the rows; None when the propensities keep more digits."""
    for digits in range(2, 8):
        for step in (float(f"1e-{digits}"), float(f"5e-{digits + 1}")):
            multiple = p / step
            tolerance = np.minimum(
                1e-6 + 1e-7 * multiple, 0.02
            )  # values that passed through 32-bit floats count
            if float((np.abs(multiple - np.round(multiple)) <= tolerance).mean()) >= 0.99:
                return step
    return None


def counted(rows: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def _spread(p: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = (float(q) for q in np.quantile(p, (0.01, 0.5, 0.99)))
    return {
        "smallest": float(p.min()),
        "1%": low,
        "median": middle,
        "99%": high,
        "largest": float(p.max()),
        "sum of weights / (rows x 1)": float((1 / p).sum() / len(p)),
    }
