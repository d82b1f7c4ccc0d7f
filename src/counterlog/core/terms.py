"""Engine expressions that know their own formula, so that one scan sums equal columns once.

IPS and SNIPS both need the sum of w r, every cell of a policy the sum of w. A `Term` carries its formula as
text next to the narwhals expression; two terms of one formula are one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals as nw


@dataclass(frozen=True)
class Term:
    """A column's expression and its formula. Arithmetic and comparisons make new terms."""

    formula: str
    expression: nw.Expr

    def _with(self, sign: str, other: Any, made: nw.Expr, *, swapped: bool = False) -> Term:
        right = other.formula if isinstance(other, Term) else repr(other)
        left, right = (right, self.formula) if swapped else (self.formula, right)
        return Term(f"({left} {sign} {right})", made)

    def __add__(self, other: Any) -> Term:
        return self._with("+", other, self.expression + plain(other))

    def __radd__(self, other: Any) -> Term:
        return self._with("+", other, plain(other) + self.expression, swapped=True)

    def __sub__(self, other: Any) -> Term:
        return self._with("-", other, self.expression - plain(other))

    def __rsub__(self, other: Any) -> Term:
        return self._with("-", other, plain(other) - self.expression, swapped=True)

    def __mul__(self, other: Any) -> Term:
        return self._with("*", other, self.expression * plain(other))

    def __rmul__(self, other: Any) -> Term:
        return self._with("*", other, plain(other) * self.expression, swapped=True)

    def __truediv__(self, other: Any) -> Term:
        return self._with("/", other, self.expression / plain(other))

    def __rtruediv__(self, other: Any) -> Term:
        return self._with("/", other, plain(other) / self.expression, swapped=True)

    def __le__(self, other: Any) -> Term:
        return self._with("<=", other, self.expression <= plain(other))

    def __lt__(self, other: Any) -> Term:
        return self._with("<", other, self.expression < plain(other))

    def __ge__(self, other: Any) -> Term:
        return self._with(">=", other, self.expression >= plain(other))

    def __gt__(self, other: Any) -> Term:
        return self._with(">", other, self.expression > plain(other))

    def clip(self, low: float | None, high: float | None) -> Term:
        """The value between two limits, as `numpy.ndarray.clip`."""
        return Term(f"clip({self.formula}, {low}, {high})", self.expression.clip(low, high))

    def where(self, value: Any) -> Term:
        """`value` where this condition holds, 0 elsewhere."""
        formula = value.formula if isinstance(value, Term) else repr(value)
        chosen = nw.when(self.expression).then(plain(value)).otherwise(0.0)
        return Term(f"where({self.formula}, {formula})", chosen)


def column(name: str) -> Term:
    """The column of that name as float64."""
    return Term(repr(name), nw.col(name).cast(nw.Float64))


def plain(value: Any) -> Any:
    """The expression of a term; anything else as it is."""
    return value.expression if isinstance(value, Term) else value


def distinct(columns: dict[str, Term]) -> tuple[dict[str, nw.Expr], dict[str, str]]:
    """The expressions to sum, one a formula, and for every column the name under which its formula is summed."""
    first: dict[str, str] = {}
    place = {name: first.setdefault(term.formula, name) for name, term in columns.items()}
    return {name: columns[name].expression for name in first.values()}, place
