"""Results: frozen, with their unit, their n and their interval; they print, save, load and convert to frames.

Every result is a dataclass of plain values, so that its JSON form is the object itself. JSON has no NaN or
infinity: they are written as the strings "NaN", "Infinity", "-Infinity" in fields declared as float, and
read back as numbers.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

from counterlog.core.errors import CounterlogError, message
from counterlog.core.files import write_whole

if TYPE_CHECKING:
    import polars as pl

LARGEST_FILE = 2**28  # bytes: no result that this library writes is near it
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses as objects, tuples as lists, numbers that are not finite as
    strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _restore(value: Any, hint: Any) -> Any:
    """The inverse of `plain` by the declared type of the field."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, str) and value in NOT_FINITE and (hint is float or float in args):
        return NOT_FINITE[value]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = get_type_hints(hint)
        return hint(**{k: _restore(v, hints[k]) for k, v in value.items()})
    if origin is tuple and isinstance(value, list):
        inner = args if args and args[-1] is not Ellipsis else (args[0] if args else Any,) * len(value)
        return tuple(_restore(v, h) for v, h in zip(value, inner, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {k: _restore(v, args[1]) for k, v in value.items()}
    if origin is list and isinstance(value, list):
        return [_restore(v, args[0]) for v in value]
    if args and isinstance(value, (Mapping, list)):
        for option in args:
            if option is not type(None) and isinstance(value, Mapping) == dataclasses.is_dataclass(option):
                return _restore(value, option)
    return value


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of every result: save, load, frames and notebook display from the dataclass fields alone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, ready for JSON."""
        fields: dict[str, Any] = plain(self)
        return fields

    def to_json(self) -> str:
        """The text that `save` writes."""
        content = {"counterlog": version("counterlog"), "result": type(self).__name__, **self.to_dict()}
        return json.dumps(content, indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, whole or not at all."""
        return write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises `CounterlogError` for a file of another kind."""
        try:
            if (size := Path(path).stat().st_size) > LARGEST_FILE:
                raise ValueError(message(f"it has {size:,} bytes", expected=f"at most {LARGEST_FILE:,}"))
            content = json.loads(Path(path).read_text())
            found = content.pop("result")
            content.pop("counterlog")
            restored: Self | None = _restore(content, cls) if found == cls.__name__ else None
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as cause:
            msg = message(
                f"{path} is not a saved result ({cause})", hint="it must be a file that .save() wrote"
            )
            raise CounterlogError(msg) from cause
        if restored is None:
            msg = message(f"{path} holds a {found}", expected=f"a {cls.__name__}")
            raise CounterlogError(msg)
        return restored

    def to_frame(self) -> pl.DataFrame:
        """A Polars frame: one row, or one row a record for results that override `records`."""
        import polars as pl

        return pl.DataFrame(self.records(), infer_schema_length=None)

    def records(self) -> list[dict[str, Any]]:
        """The rows of `to_frame`."""
        scalars = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, (bool, int, float, str)):
                scalars[field.name] = value
        return [scalars]

    def _repr_html_(self) -> str:
        rows = self.records()
        names = list(rows[0]) if rows else []
        head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show(r[n]))}</td>" for n in names) + "</tr>" for r in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def show(value: Any) -> str:
    """A number or word as people read it: four significant digits, thousands separated, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "not defined"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


@dataclass(frozen=True, kw_only=True)
class Estimate(Result):
    """The value of one policy by one estimator, with its interval.

    `value`, `lo`, `hi` and `se` are in `unit`; `n` counts the independent units behind the interval: rows,
    or clusters (for more than 200,000 clusters, the hash buckets that hold them). `ess` is the effective
    sample size of the weights in rows.
    `valid` is False, with the `reason`, when the interval does not deserve its level.
    """

    value: float
    lo: float
    hi: float
    unit: str
    n: int
    se: float = math.nan
    level: float = 0.95
    interval: str = "t"
    policy: str = ""
    estimator: str = ""
    reward: str = ""
    segment: str = ""
    ess: float = math.nan
    valid: bool = True
    reason: str = ""
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record: what was valued first, then the numbers."""
        (record,) = super().records()
        first = ("policy", "estimator", "reward", "segment")
        return [{**{name: record[name] for name in first}, **record}]

    def __str__(self) -> str:
        who = " ".join(p for p in (self.policy, f"({self.estimator})" if self.estimator else "") if p)
        text = f"{show(self.value)} [{show(self.lo)}, {show(self.hi)}] {self.unit}, n={self.n:,}"
        return f"{who}: {text}" if who else text

    def plot(self) -> Any:
        """The estimate and its interval as a plotly figure."""
        from counterlog.report.figures import forest

        return forest([self])


@dataclass(frozen=True, kw_only=True)
class Finding(Result):
    """Something an audit found: how bad, in one sentence, with its evidence and what to do about it.

    `severity` is `ok`, `note`, `warning` or `stop` (the log cannot answer until it is mended). `evidence` is
    a small table of records; `value` is the finding's main number in `unit`, where it has one.
    """

    check: str
    severity: str
    message: str
    remedy: str = ""
    unit: str = ""
    n: int = 0
    value: float = math.nan
    evidence: tuple[dict[str, Any], ...] = ()


SEVERITIES = ("ok", "note", "warning", "stop")
