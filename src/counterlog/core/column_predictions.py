"""Predictions of a reward that stand in columns of the log, so that DM, DR and their kin run inside an engine's scan.

They must be out-of-fold: no row predicted by a model that saw its unit. `core.streamed` writes such columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import narwhals as nw

from counterlog.core.errors import ConfigError, message
from counterlog.core.policies import Logged, Policy
from counterlog.core.rounds import Rounds
from counterlog.core.rounds_checks import check_usable


@dataclass(frozen=True)
class ColumnPredictions:
    """Columns that hold the predictions of one reward.

    `logged` holds q(x, a) of the logged action; `values` names, for each policy by its name, the column that holds
    v = sum over a of pi(a|x) q(x, a).
    """

    logged: str
    values: Mapping[str, str] = field(default_factory=dict)

    def value_of(self, policy: Policy) -> str:
        """The column of v of a policy; that of the logged policy is q itself. Raises `ConfigError`."""
        if policy.name in self.values:
            return self.values[policy.name]
        if isinstance(policy, Logged):
            return self.logged
        msg = message(
            f"no column holds the predicted value of policy {policy.name!r}",
            expected=f"one of {', '.join(map(repr, self.values)) or 'those named'}",
            hint="name the column with its sum over actions of pi(a|x) q(x, a)",
        )
        raise ConfigError(msg)

    def check(self, log: Rounds, policies: Sequence[Policy]) -> None:
        """Raise `ConfigError` for columns that the log does not have, or that hold no numbers."""
        schema = log.frame.collect_schema()
        for name in (self.logged, *(self.value_of(p) for p in policies)):
            check_usable(log.frame, name, "prediction")
            if name not in schema.names() or not schema[name].is_numeric():
                what = f"is of type {schema[name]}" if name in schema.names() else "is not in the log"
                msg = message(f"prediction column {name!r} {what}", expected="a column of numbers")
                raise ConfigError(msg)


def not_finite(name: str) -> nw.Expr:
    """True where a column of predictions holds no finite number."""
    value = nw.col(name).cast(nw.Float64)
    return value.is_null() | ~value.is_finite()
