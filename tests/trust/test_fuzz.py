"""Corrupted logs: each ends in a named refusal or, where the corruption is harmless, in the truth.

An attack changes the columns or the roles of a small valid log. `refused` ones must end in a `CounterlogError` that
names the column; `harmless` ones must leave IPS and SNIPS as they were; `either` may end in one or the other, but never
in a traceback of a dependency, a NaN in a valid estimate, or a changed input.
"""

from __future__ import annotations

import copy
import datetime as dt
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterlog.audit.decision_log import audit
from counterlog.core.errors import CounterlogError, SupportError
from counterlog.core.evaluate import evaluate
from counterlog.core.rounds import Rounds
from counterlog.report.decision_report import build

ROWS = 90
EPOCH = dt.datetime(2026, 1, 1)
HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE log; --",
    'say "hi"',
    "=1+1",
    "../../etc/passwd",
    "a b\tc",
    "ünï{{7*7}}",
    "a,b|c",
)
INTERNAL = (
    "c0_mean",
    "level",
    "bucket",
    "n",
    "bad",
    "group",
    "count",
    "bad0",
    "term",
    "literal",
    "len",
    "index",
    "w0",
    "q0",
    "v1",
    "t0_mean",
    "w0_sum",
    "__row",
    "__bucket",
    "__key",
)
INTERNAL += ("row", "reward", "share")
RESERVED = ("__counterlog_w0", "__counterlog_row", "__counterlog_")
PATTERNS = ("*", "^.*$", "^click$")


@dataclass
class Case:
    """A log under attack: its columns, its roles, where the damage is, and which row is hit."""

    columns: dict[str, Any]
    roles: dict[str, Any]
    row: int = 0
    blamed: list[str] = field(default_factory=list)
    kinds: dict[str, Any] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Rows left."""
        return len(next(iter(self.columns.values())))

    def name(self, role: str) -> str:
        """The column that has the role now."""
        found = self.roles[role]
        return next(iter(found)) if isinstance(found, (dict, list, tuple)) else found

    def holds(self, name: Any) -> bool:
        """Whether there is such a column; where an earlier attack has taken it away, nothing is done."""
        found = isinstance(name, str) and name in self.columns
        self.touched += [] if found else ["nothing"]
        return found

    def put(self, role: str, value: Any) -> None:
        """One entry becomes `value`."""
        name = self.name(role)
        self.blamed.append(name)
        self.touched.append(role)
        if self.n and self.holds(name):
            self.columns[name][self.row % self.n] = value

    def every(self, role: str, make: Callable[[Any, int], Any], kind: Any = None) -> None:
        """Every entry becomes make(entry, row)."""
        name = self.name(role)
        self.blamed.append(name)
        self.touched.append(role)
        if not self.holds(name):
            return
        self.columns[name] = [make(v, i) for i, v in enumerate(self.columns[name])]
        self.kinds.pop(name, None)
        if kind is not None:
            self.kinds[name] = kind

    def rename(self, role: str, new: str) -> None:
        """The role's column has another name."""
        old = self.name(role)
        if new in self.columns or not self.holds(old):
            self.touched.append("nothing")
            return
        self.blamed.append(new)
        self.touched.append(role)
        self.columns = {new if k == old else k: v for k, v in self.columns.items()}
        self.kinds = {new if k == old else k: v for k, v in self.kinds.items()}
        for key, value in self.roles.items():
            if isinstance(value, dict):
                self.roles[key] = {new if k == old else k: v for k, v in value.items()}
            elif isinstance(value, (list, tuple)):
                self.roles[key] = [new if k == old else k for k in value]
            elif value == old:
                self.roles[key] = new

    def rows(self, keep: list[int]) -> None:
        """Only these rows, in this order."""
        self.columns = {k: [v[i] for i in keep] for k, v in self.columns.items()}

    def frame(self) -> pl.DataFrame:
        """The columns as Polars, each of the type the attack asks for."""
        made = {}
        for name, values in self.columns.items():
            kind = self.kinds.get(name)
            made[name] = pl.Series(name, values, dtype=kind) if kind else pl.Series(name, values, strict=True)
        return pl.DataFrame(made)


def base() -> Case:
    """A valid log of 90 rows and all roles."""
    gen = np.random.default_rng(5)
    p = np.array([0.5, 0.3, 0.2])
    action = gen.choice(3, ROWS, p=p)
    click = (gen.random(ROWS) < 0.2 + 0.2 * action).astype(int)
    columns: dict[str, Any] = {
        "item": [("a", "b", "c")[a] for a in action],
        "click": click.tolist(),
        "p": p[action].tolist(),
        "x": gen.normal(size=ROWS).tolist(),
        "device": gen.choice(["phone", "desk"], ROWS).tolist(),
        "user": np.arange(ROWS).tolist(),
        "day": np.arange(ROWS).tolist(),
        "region": gen.choice(["north", "south"], ROWS).tolist(),
        "slot": [1] * ROWS,
        "open": [["a", "b", "c"]] * ROWS,
        "wait": [1.0] * ROWS,
        "other": gen.normal(size=ROWS).tolist(),
    }
    roles = {"action": "item", "reward": {"click": "clicks"}, "propensity": "p", "context": ["x", "device"]}
    roles |= {"unit": "user", "time": "day", "segment": ["region"], "position": "slot", "delay": "wait"}
    return Case(columns, roles)


Attack = Callable[[Case], None]
ATTACKS: dict[str, tuple[str, Attack]] = {}


def attack(name: str, effect: str, act: Attack) -> None:
    """Adds one to the list."""
    assert name not in ATTACKS
    ATTACKS[name] = (effect, act)


def entry(role: str, value: Any) -> Attack:
    """One entry of the role's column becomes `value`."""
    return lambda case: case.put(role, value)


def column(role: str, make: Callable[[Any, int], Any], kind: Any = None) -> Attack:
    """The whole column is made anew, of the Polars type `kind`."""
    return lambda case: case.every(role, make, kind)


def role(key: str, value: Any) -> Attack:
    """The role is given another value."""

    def act(case: Case) -> None:
        case.touched.append(key)
        case.blamed += [key, *map(str, value if isinstance(value, list) else [value])]
        case.roles[key] = value

    return act


def named(part: str, new: str) -> Attack:
    """The role's column is renamed."""
    return lambda case: case.rename(part, new)


def number(value: Any) -> float:
    """A number whatever the entry has become."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


# the whole table

attack("no rows", "refused", lambda case: (case.blamed.append("0 rows"), case.rows([]))[1])
attack("one row", "refused", lambda case: (case.blamed.append("1 row"), case.rows([0][: case.n]))[1])
attack("rows upside down", "harmless", lambda case: case.rows(list(range(case.n))[::-1]))
attack(
    "rows shuffled", "harmless", lambda case: case.rows(np.random.default_rng(1).permutation(case.n).tolist())
)
attack("duplicate rows", "either", lambda case: case.rows([*range(case.n), *range(min(case.n, 5))]))
attack(
    "columns in another order",
    "harmless",
    lambda case: case.columns.update(item=case.columns.pop("item")) if "item" in case.columns else None,
)
for i, text in enumerate(HOSTILE):
    attack(
        f"a hostile column nobody asked for {i}",
        "harmless",
        lambda case, t=text: case.columns.setdefault(t, [t] * case.n),
    )
attack("nulls where nobody looks", "harmless", lambda case: case.columns.update(other=[None] * case.n))
attack(
    "mixed where nobody looks",
    "harmless",
    lambda case: case.columns.update(other=["nan" if i % 2 else None for i in range(case.n)]),
)

# columns of any name

for part in ("action", "reward", "propensity", "context", "unit", "time", "segment", "delay"):
    for i, text in enumerate(HOSTILE):
        attack(f"{part} column is called hostile {i}", "harmless", named(part, text))
    for text in INTERNAL:
        attack(f"{part} column is called {text}", "harmless", named(part, text))
    for text in RESERVED:
        attack(f"{part} column is called {text}", "refused", named(part, text))
    for text in PATTERNS:
        attack(f"{part} column is called the pattern {text}", "refused", named(part, text))
    attack(f"{part} column has an empty name", "either", named(part, ""))
    attack(f"{part} column has a name of 5,000 letters", "harmless", named(part, "x" * 5000))
    if part not in ("context", "segment", "reward"):
        attack(f"{part} is no column", "refused", role(part, "no such column"))
        attack(f"{part} is a number", "either" if part == "propensity" else "refused", role(part, 7))
attack("context is no column", "refused", role("context", ["no such column"]))
attack("segment is no column", "refused", role("segment", ["no such column"]))
attack("reward is no column", "refused", role("reward", "no such column"))
attack("reward is also context", "refused", lambda case: role("context", [case.name("reward")])(case))
attack("action is also context", "refused", lambda case: role("context", [case.name("action")])(case))
attack("no reward", "refused", role("reward", []))

# actions

for label, value in {"null": None}.items():
    attack(f"an action is {label}", "refused", entry("action", value))
for label, value in {"nan": math.nan, "infinite": math.inf}.items():
    attack(
        f"an action is {label} among numbers",
        "refused",
        lambda case, v=value: (
            case.every("action", lambda a, i: float(ord(str(a)[0])), pl.Float64),
            case.put("action", v),
        )[1],
    )
attack("an action is a number among text", "either", entry("action", 3))
attack("an action is a list among text", "refused", entry("action", ["a"]))
attack("actions are integers", "harmless", column("action", lambda v, i: ord(str(v)[0])))
attack("actions are negative", "harmless", column("action", lambda v, i: -ord(str(v)[0])))
attack("actions are huge", "harmless", column("action", lambda v, i: 2**62 + ord(str(v)[0])))
attack(
    "actions need 64 bits without sign",
    "harmless",
    column("action", lambda v, i: 2**63 + ord(str(v)[0]), pl.UInt64),
)
attack("actions need 128 bits", "either", column("action", lambda v, i: 2**70 + ord(str(v)[0]), pl.Int128))
attack("actions are beyond every integer", "refused", column("action", lambda v, i: 2**200 + ord(str(v)[0])))
attack("an action is half a character", "refused", entry("action", "\ud800"))
attack("actions are floats", "harmless", column("action", lambda v, i: ord(str(v)[0]) / 10))
attack("actions are categorical", "harmless", column("action", lambda v, i: str(v), pl.Categorical))
attack("actions are hostile text", "harmless", column("action", lambda v, i: HOSTILE[ord(str(v)[0]) % 3]))
attack("actions are booleans", "either", column("action", lambda v, i: v == "a"))
attack("actions are decimals", "either", column("action", lambda v, i: Decimal(ord(str(v)[0]))))
attack(
    "actions are dates", "refused", column("action", lambda v, i: dt.date(2026, 1, 1 + ord(str(v)[0]) % 20))
)
attack("actions are lists", "refused", column("action", lambda v, i: [str(v)]))
attack("actions are records", "refused", column("action", lambda v, i: {"a": str(v)}))
attack("actions are bytes", "refused", column("action", lambda v, i: str(v).encode()))
attack("actions are nothing", "refused", column("action", lambda v, i: None))
attack("an action is empty text", "either", entry("action", ""))
attack("an action has 100,000 letters", "either", entry("action", "x" * 100_000))
attack("an action holds a zero byte", "either", entry("action", "a\x00b"))
attack("an action was seen once", "either", entry("action", "never before"))
attack("one action", "refused", column("action", lambda v, i: "a"))
attack("every action once", "either", column("action", lambda v, i: f"a{i}"))

# rewards

for label, value in {
    "null": None,
    "nan": math.nan,
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "text": "many",
}.items():
    attack(f"a reward is {label}", "refused", entry("reward", value))
attack("a reward is a date", "refused", entry("reward", dt.date(2026, 1, 1)))
attack("rewards are booleans", "harmless", column("reward", lambda v, i: bool(number(v))))
attack("rewards are decimals", "harmless", column("reward", lambda v, i: Decimal(int(number(v)))))
attack("rewards are small integers", "harmless", column("reward", lambda v, i: int(number(v)), pl.Int8))
attack("rewards are 32-bit floats", "harmless", column("reward", lambda v, i: number(v), pl.Float32))
attack(
    "rewards are true and false as text",
    "refused",
    column("reward", lambda v, i: "true" if number(v) else "false"),
)
attack("rewards are numbers as text", "refused", column("reward", lambda v, i: str(v)))
attack("rewards are empty text", "refused", column("reward", lambda v, i: ""))
attack("rewards are lists", "refused", column("reward", lambda v, i: [number(v)]))
attack("rewards are durations", "refused", column("reward", lambda v, i: dt.timedelta(days=1)))
attack("rewards are nothing", "refused", column("reward", lambda v, i: None))
attack("rewards are constant", "either", column("reward", lambda v, i: 1))
attack("rewards are zero", "either", column("reward", lambda v, i: 0))
attack("rewards are negative", "either", column("reward", lambda v, i: -number(v)))
attack("a reward is 1e308", "either", entry("reward", 1e308))
attack("rewards are 1e308", "either", column("reward", lambda v, i: 1e308 if i % 2 else -1e308))
attack("rewards are 1e200", "either", column("reward", lambda v, i: 1e200 * number(v)))
attack("a reward is 5e-324", "either", entry("reward", 5e-324))
attack("rewards need 64 bits without sign", "either", column("reward", lambda v, i: 2**63 + i, pl.UInt64))
attack(
    "two rewards",
    "harmless",
    lambda case: case.roles.update(reward={case.name("reward"): "clicks", "other": "others"}),
)

# propensities

for value in (None, math.nan, 0.0, -0.1, 1.5, 50.0, math.inf, -math.inf, "half"):
    attack(f"a propensity is {value}", "refused", entry("propensity", value))
attack("propensities are text", "refused", column("propensity", lambda v, i: str(v)))
attack("propensities are dates", "refused", column("propensity", lambda v, i: dt.date(2026, 1, 1)))
attack("propensities are nothing", "refused", column("propensity", lambda v, i: None))
attack("propensities are all 1", "either", column("propensity", lambda v, i: 1))
attack("propensities are true", "either", column("propensity", lambda v, i: True))
attack("a propensity is 1e-300", "either", entry("propensity", 1e-300))
attack("propensities are 5e-324", "either", column("propensity", lambda v, i: 5e-324))
attack("propensities are 1e-160", "either", column("propensity", lambda v, i: 1e-160))
attack(
    "propensities are decimals",
    "harmless",
    column("propensity", lambda v, i: Decimal(str(round(number(v), 9))), pl.Decimal(12, 9)),
)
for value in (0, -1, 2, math.nan, math.inf):
    attack(f"the constant propensity is {value}", "refused", role("propensity", value))
attack("the constant propensity is fine", "either", role("propensity", 0.4))
attack(
    "no propensity",
    "refused",
    lambda case: (case.blamed.append("propensity"), case.roles.update(propensity=None))[1],
)
attack("uniform propensity", "either", role("propensity", "uniform"))
attack("estimated propensity", "either", role("propensity", "estimate"))
attack("the propensity is a list", "refused", role("propensity", ["p"]))

# context

for label, value in {"null": None, "nan": math.nan}.items():
    attack(f"a context value is {label}", "harmless", entry("context", value))
for label, value in {"infinite": math.inf, "minus infinite": -math.inf}.items():
    attack(f"a context value is {label}", "refused", entry("context", value))
attack("a context value is text among numbers", "either", entry("context", "seven"))
attack("context is nothing", "either", column("context", lambda v, i: None))
attack("context is constant", "harmless", column("context", lambda v, i: 4.0))
attack("context is 1e99", "harmless", column("context", lambda v, i: 1e99 if i % 2 else -1e99))
attack("context is 1e308", "refused", column("context", lambda v, i: 1e308 if i % 2 else -1e308))
attack("context is 1e-320", "harmless", column("context", lambda v, i: 1e-320 * i))
attack("context is decimals", "harmless", column("context", lambda v, i: Decimal(i)))
attack("context needs 128 bits", "harmless", column("context", lambda v, i: 2**70 + i, pl.Int128))
attack("context is booleans", "harmless", column("context", lambda v, i: i % 2 == 0))
attack("context is categorical", "harmless", column("context", lambda v, i: f"c{i % 5}", pl.Categorical))
attack("context is text of 5,000 letters", "harmless", column("context", lambda v, i: f"{i % 2}" * 5000))
attack("context is a category a row", "harmless", column("context", lambda v, i: f"c{i}"))
attack("context is hostile", "harmless", column("context", lambda v, i: HOSTILE[i % len(HOSTILE)]))
attack("context is dates", "either", column("context", lambda v, i: dt.date(2026, 1, 1)))
attack("context is lists", "either", column("context", lambda v, i: [1.0, 2.0]))
attack("context is records", "either", column("context", lambda v, i: {"a": i}))
attack("context is bytes", "either", column("context", lambda v, i: b"x"))
attack(
    "context is twice the same column",
    "either",
    lambda case: role("context", [case.name("context")] * 2)(case),
)

# units

attack("a unit is null", "refused", entry("unit", None))
attack("units are text", "harmless", column("unit", lambda v, i: f"u{v}"))
attack("units are categorical", "harmless", column("unit", lambda v, i: f"u{v}", pl.Categorical))
attack("units are negative", "harmless", column("unit", lambda v, i: -5 - i))
attack("units are huge", "harmless", column("unit", lambda v, i: 2**62 + i))
attack("units are the smallest integers", "harmless", column("unit", lambda v, i: -(2**63) + i))
attack("units need 64 bits without sign", "harmless", column("unit", lambda v, i: 2**63 + i, pl.UInt64))
attack("units need 128 bits", "either", column("unit", lambda v, i: 2**70 + i, pl.Int128))
attack("units are decimals", "harmless", column("unit", lambda v, i: Decimal(i)))
attack("units are floats", "harmless", column("unit", lambda v, i: i + 0.5))
attack(
    "a unit is nan",
    "refused",
    lambda case: (case.every("unit", lambda v, i: float(i)), case.put("unit", math.nan))[1],
)
attack("units are dates", "harmless", column("unit", lambda v, i: EPOCH.date() + dt.timedelta(days=i)))
attack("units are moments", "harmless", column("unit", lambda v, i: EPOCH + dt.timedelta(seconds=i)))
attack("units are booleans", "either", column("unit", lambda v, i: i % 2 == 0))
attack("one unit", "refused", column("unit", lambda v, i: 1))
attack("one unit, as text", "refused", column("unit", lambda v, i: "u"))
attack("units are empty text", "refused", column("unit", lambda v, i: ""))
attack("units are lists", "refused", column("unit", lambda v, i: [i]))
attack("units are records", "refused", column("unit", lambda v, i: {"a": i}))
attack("units are bytes", "either", column("unit", lambda v, i: f"{i}".encode()))
attack("units are hostile", "either", column("unit", lambda v, i: HOSTILE[i % len(HOSTILE)] * (1 + i)))

# time

attack("a time is null", "refused", entry("time", None))
attack("time goes backwards", "harmless", column("time", lambda v, i: -i))
attack("time stands still", "harmless", column("time", lambda v, i: 3))
attack("times are dates", "harmless", column("time", lambda v, i: EPOCH.date() + dt.timedelta(days=i)))
attack("times are moments", "harmless", column("time", lambda v, i: EPOCH + dt.timedelta(minutes=i)))
attack(
    "times have a zone",
    "harmless",
    column("time", lambda v, i: EPOCH.replace(tzinfo=dt.UTC) + dt.timedelta(minutes=i)),
)
attack("times are hours of a day", "either", column("time", lambda v, i: dt.time(i % 24)))
attack("times are text", "either", column("time", lambda v, i: f"day {i}"))
attack(
    "a time is nan",
    "either",
    lambda case: (case.every("time", lambda v, i: float(i)), case.put("time", math.nan))[1],
)
attack(
    "a time is infinite",
    "either",
    lambda case: (case.every("time", lambda v, i: float(i)), case.put("time", math.inf))[1],
)
attack("times are decimals", "either", column("time", lambda v, i: Decimal(i)))
attack("times are booleans", "either", column("time", lambda v, i: i % 2 == 0))
attack("times are lists", "either", column("time", lambda v, i: [i]))
attack("times need 64 bits without sign", "harmless", column("time", lambda v, i: 2**63 + i, pl.UInt64))
attack("times are extreme", "harmless", column("time", lambda v, i: (-1) ** i * (2**63 - 1 - i)))

# segments, positions, delays

attack("a segment is null", "refused", entry("segment", None))
attack("segments are hostile", "harmless", column("segment", lambda v, i: HOSTILE[i % len(HOSTILE)]))
attack("a segment a row", "harmless", column("segment", lambda v, i: f"s{i}"))
attack("segments are empty text", "harmless", column("segment", lambda v, i: ""))
attack(
    "segments are dates", "harmless", column("segment", lambda v, i: EPOCH.date() + dt.timedelta(days=i % 2))
)
attack("segments are booleans", "harmless", column("segment", lambda v, i: i % 2 == 0))
attack(
    "segments are floats",
    "either",
    lambda case: (case.every("segment", lambda v, i: 0.5 * (i % 3)), case.put("segment", math.nan))[1],
)
attack("segments are lists", "refused", column("segment", lambda v, i: [i % 2]))
attack("segments are records", "refused", column("segment", lambda v, i: {"a": i % 2}))
attack("segments are bytes", "either", column("segment", lambda v, i: b"\xff" if i % 2 else b"x"))
attack("segments are categorical", "harmless", column("segment", lambda v, i: f"s{i % 3}", pl.Categorical))
attack("the segment is the action", "harmless", lambda case: case.roles.update(segment=[case.name("action")]))
attack("the segment is the unit", "either", lambda case: case.roles.update(segment=[case.name("unit")]))
for part in ("position", "delay"):
    attack(f"{part} has a null", "either", entry(part, None))
    attack(f"{part} is text", "either", column(part, lambda v, i: "first"))
    attack(f"{part} is negative", "either", column(part, lambda v, i: -1))
    attack(f"{part} is nan", "either", column(part, lambda v, i: math.nan))
    attack(f"{part} is infinite", "either", column(part, lambda v, i: math.inf))
    attack(f"{part} is lists", "either", column(part, lambda v, i: [1]))
    attack(f"{part} is nothing", "either", column(part, lambda v, i: None))
    attack(f"{part} is a duration", "either", column(part, lambda v, i: dt.timedelta(days=i)))


# available actions


def listing(make: Callable[[Any, int], Any], kind: Any = None, *, one: bool = False) -> Attack:
    """The log says which actions were available; `one` row only differs from the full list."""

    def act(case: Case) -> None:
        case.roles["available"] = "open"
        case.blamed.append("open")
        case.touched.append("action")
        if not case.holds(case.name("action")):
            return
        actions = case.columns[case.name("action")]
        hit = case.row % case.n if case.n else -1
        full = sorted({str(a) for a in actions})
        case.columns["open"] = [full if one and i != hit else make(a, i) for i, a in enumerate(actions)]
        case.kinds.pop("open", None)
        if kind is not None:
            case.kinds["open"] = kind

    return act


attack("an action was taken although not available", "refused", listing(lambda a, i: ["other"], one=True))
attack("a row lists no action", "refused", listing(lambda a, i: [], one=True))
attack("a row's list is null", "refused", listing(lambda a, i: None, one=True))
attack("a list holds a null", "either", listing(lambda a, i: [str(a), None], one=True))
attack("a list holds an action twice", "either", listing(lambda a, i: [str(a), str(a)], one=True))
attack(
    "a list holds an action that was never taken", "either", listing(lambda a, i: [str(a), "zz"], one=True)
)
attack("an action was never available", "either", listing(lambda a, i: [str(a)]))
attack("lists are text", "either", listing(lambda a, i: "a|b|c"))
attack("lists are empty text", "refused", listing(lambda a, i: ""))
attack("lists are numbers", "refused", listing(lambda a, i: 7))
attack("lists are lists of numbers", "refused", listing(lambda a, i: [1, 2]))
attack("lists are lists of lists", "refused", listing(lambda a, i: [["a"]]))
attack("lists are records", "refused", listing(lambda a, i: {"a": 1}))
attack("lists are dates", "refused", listing(lambda a, i: dt.date(2026, 1, 1)))
attack("lists are nothing", "refused", listing(lambda a, i: None))
attack("lists are arrays", "either", listing(lambda a, i: ["a", "b", "c"], pl.Array(pl.String, 3)))

SOURCES = ("dict", "polars", "lazy", "pandas", "arrow", "parquet", "csv")
TEXTUAL = ("csv",)


def make_source(case: Case, kind: str, folder: Path) -> Any:
    """The log as something that users hold. None where this container cannot hold it."""
    if kind == "dict":
        return case.columns
    try:
        frame = case.frame()
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return None
    try:
        if kind == "polars":
            return frame
        if kind == "lazy":
            return frame.lazy()
        if kind == "pandas":
            return pd.DataFrame(
                {
                    k: pd.Series(frame[k].to_list(), dtype=object if None in frame[k] else None)
                    for k in frame.columns
                }
            )
        if kind == "arrow":
            return frame.to_arrow()
        path = folder / f"log.{kind}"
        if kind == "parquet":
            frame.write_parquet(path)
        else:
            frame.drop([] if "available" in case.roles else ["open"]).write_csv(path)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError, NotImplementedError):
        return None
    return path


def photograph(source: Any) -> bytes:
    """Content of a source, to see whether it changed."""
    if isinstance(source, Path):
        return source.read_bytes()
    return pickle.dumps(source.collect() if isinstance(source, pl.LazyFrame) else source)


def check_numbers(estimates: Any) -> None:
    """A valid estimate is made of numbers."""
    for e in estimates:
        assert not e.valid or all(math.isfinite(v) for v in (e.value, e.lo, e.hi)), e
        assert e.valid or e.reason


def ask(source: Any, roles: dict[str, Any], *, page: bool = False) -> dict[tuple[str, str], float]:
    """Values of two policies by two estimators on the whole log; everything else must go through."""
    log = Rounds(source, **roles)
    plain = evaluate(log, ["uniform", "logged"], ["IPS", "SNIPS"])
    check_numbers(plain.estimates)
    modelled = evaluate(log, ["uniform", "best-fixed"], ["IPS", "DR"], model="linear", on_error="record")
    check_numbers(modelled.estimates)
    audit(log, ["uniform"]).to_json()
    if page:
        made = build(log, policies=["uniform"], estimators=["SNIPS", "DR"], model="linear")
        check_numbers(made.policies)
        made.html()
    return {
        (e.policy, e.estimator): e.value
        for e in plain.estimates
        if not e.segment and e.reward == next(iter(log.rewards))
    }


TRUTH = ask(base().frame(), base().roles)


def assault(names: tuple[str, ...], kind: str, folder: Path, *, row: int = 7, page: bool = False) -> str:
    """Carries the attacks out; returns how it ended."""
    case = base()
    case.row = row
    effects: set[str] = set()
    seen: set[str] = set()
    for name in names:
        case.touched.clear()
        ATTACKS[name][1](case)
        if seen & set(case.touched):  # the later attack may have undone the earlier one
            effects = {"either"}
        seen |= set(case.touched)
        effects.add("either" if "nothing" in case.touched else ATTACKS[name][0])
    case.touched = sorted(seen)
    source = make_source(case, kind, folder)
    if source is None:
        return "no such log"
    before, roles = photograph(source), copy.deepcopy(case.roles)
    try:
        values = ask(source, case.roles, page=page)
    except CounterlogError as refusal:
        text = str(refusal)
        assert effects != {"harmless"} or kind in TEXTUAL, text
        words = [repr(b)[1:-1] for b in case.blamed]
        words += case.touched if isinstance(refusal, SupportError) else []
        assert any(w in text for w in words), (text, words)
        outcome = "refused"
    else:
        if kind not in TEXTUAL:
            assert "refused" not in effects, f"{names} went through"
        if effects == {"harmless"}:
            assert values == pytest.approx(TRUTH, rel=1e-9)
        outcome = "answered"
    assert photograph(source) == before
    assert case.roles == roles
    return outcome


def test_the_log_that_is_attacked_is_valid() -> None:
    assert len(TRUTH) == 4 and all(math.isfinite(v) for v in TRUTH.values())
    assert len(ATTACKS) > 400


@pytest.mark.parametrize("part", range(10))
def test_every_attack_alone_ends_in_a_named_refusal_or_in_the_truth(part: int, tmp_path: Path) -> None:
    """Every tenth attack from `part` on, each in one container that can hold it, in turn."""
    ended: dict[str, int] = {}
    for i, name in enumerate(list(ATTACKS)[part::10]):
        for k in range(len(SOURCES)):
            outcome = assault((name,), SOURCES[(i + part + k) % len(SOURCES)], tmp_path)
            if outcome != "no such log":
                break
        ended[outcome] = ended.get(outcome, 0) + 1
    assert ended["refused"] > 5 and ended["answered"] > 5


names = st.sampled_from(sorted(ATTACKS))
FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(FUZZ, max_examples=60)
@given(first=names, second=names, kind=st.sampled_from(SOURCES), row=st.integers(0, 10**6))
def test_some_pairs_of_attacks(tmp_path_factory: Any, first: str, second: str, kind: str, row: int) -> None:
    assault((first, second), kind, tmp_path_factory.getbasetemp(), row=row)


@pytest.mark.slow
@settings(FUZZ, max_examples=2_000)
@given(first=names, second=names, kind=st.sampled_from(SOURCES), row=st.integers(0, 10**6))
def test_two_thousand_pairs_of_attacks(
    tmp_path_factory: Any, first: str, second: str, kind: str, row: int
) -> None:
    assault((first, second), kind, tmp_path_factory.getbasetemp(), row=row)


@pytest.mark.parametrize("name", list(ATTACKS)[::120])
def test_the_page_withstands_some_attacks(name: str, tmp_path: Path) -> None:
    assault((name,), "polars", tmp_path, page=True)


@pytest.mark.slow
@settings(FUZZ, max_examples=150)
@given(first=names, second=names, row=st.integers(0, 10**6))
def test_the_page_withstands_pairs_of_attacks(
    tmp_path_factory: Any, first: str, second: str, row: int
) -> None:
    assault((first, second), "polars", tmp_path_factory.getbasetemp(), row=row, page=True)


@pytest.mark.parametrize("name", [*RESERVED, *PATTERNS])
def test_a_policy_column_that_could_be_mistaken_is_refused(name: str) -> None:
    case = base()
    log = Rounds({**case.columns, name: case.columns["p"]}, **case.roles)
    with pytest.raises(CounterlogError, match=f"policy column {re.escape(repr(name))} would be read as"):
        evaluate(log, [f"column:{name}"], ["IPS"])


@pytest.mark.parametrize("part", ["action", "reward", "propensity", "context", "unit", "time", "segment"])
def test_python_objects_in_a_column_are_refused(part: str) -> None:
    case = base()
    name = case.name(part)
    frame = case.frame().with_columns(pl.Series(name, [object() for _ in range(ROWS)], dtype=pl.Object))
    with pytest.raises(CounterlogError, match=f"'{name}'"):
        ask(frame, case.roles)
