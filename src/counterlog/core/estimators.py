"""What every estimator of a policy's value is: per-row terms whose sums decide the value.

An estimator turns one row's importance weight w, reward r and model predictions (q of the logged action, v
under the policy)
into up to three terms; its value is

    E[mean] + E[top] / E[bottom].

The terms are written with operators only, so that the same equation runs on arrays and inside an engine's
scan, and every
interval comes from the sums of the same terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import narwhals as nw
import numpy as np

from counterlog.core.results import Estimate

if TYPE_CHECKING:
    from counterlog.core.policies import Policy
    from counterlog.core.rounds import Rounds


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

    `needs_model` says whether q and v are needed. `prepare` may replace the weights or the model's
    predictions by its own.
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

    def prepare(self, log: Rounds, policy: Policy, *, rng: int) -> dict[str, Any]:
        """Own ingredients for this log and policy: any of `w` (n,), `q` (n,), `v` (n,) as arrays. None by default."""
        return {}

    def estimate(self, log: Rounds, policy: Policy | str, *, level: float = 0.95, rng: int = 0) -> Estimate:
        """The policy's value with its interval. Raises what `evaluate` raises."""
        from counterlog.core.evaluate import evaluate

        return evaluate(log, [policy], [self], level=level, rng=rng, segments=False).estimates[0]


def keep_where(condition: Any, value: Any) -> Any:
    """`value` where the condition holds, 0 elsewhere; for arrays and engine expressions."""
    if isinstance(condition, nw.Expr):
        return nw.when(condition).then(value).otherwise(0.0)
    return np.where(condition, value, 0.0)


def capped(value: Any, limit: float) -> Any:
    """min(value, limit); for arrays and engine expressions."""
    return value.clip(None, limit)


def subgaussian(w: Any, lam: float) -> Any:
    """w / (1 - lam + lam w): bounded by 1/lam, smooth, w itself for lam = 0 (Metelli, Russo and Restelli 2021)."""
    return w / (1 - lam + lam * w)
