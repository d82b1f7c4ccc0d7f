"""How the report speaks: names of policies, units, numbers and intervals in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

BASELINE = "logged"
LEARNT = "learnt"
BEST_FIXED = "best-fixed"
ALWAYS = "always:"


def policy_words(name: str) -> str:
    """A policy's name within a sentence."""
    known = {
        BASELINE: "the logging policy (what was done)",
        "uniform": "drawing actions at random",
        BEST_FIXED: "the best single action",
        LEARNT: "the learnt policy",
    }
    if name in known:
        return known[name]
    return f"always “{name[len(ALWAYS) :]}”" if name.startswith(ALWAYS) else f"“{name}”"


def capital(sentence: str) -> str:
    """The sentence with its first letter in upper case."""
    return sentence[:1].upper() + sentence[1:]


def per_decision(unit: str) -> str:
    """The unit of a policy's value: a value is a mean over decisions."""
    return f"{unit} per decision"


def brief(value: float) -> str:
    """A number as it is said: three significant digits, thousands separated."""
    if not math.isfinite(value):
        return "not defined"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def amount(value: float, unit: str) -> str:
    """`0.182 visits per decision`."""
    return f"{brief(value)} {per_decision(unit)}"


def span(lo: float, hi: float, level: float) -> str:
    """`95% interval 0.17 to 0.19`."""
    return f"{percent(level)} interval {brief(lo)} to {brief(hi)}"


def percent(share: float) -> str:
    """A share as people say it: `95%`, `2.5%`, `below 0.1%`."""
    if math.isnan(share):
        return "not defined"
    if 0 < share < 0.001:
        return "below 0.1%"
    return f"{100 * share:.3g}%"


def rounded(n: float) -> str:
    """A number of decisions to two digits: nobody plans a test of 183,412."""
    if n < 100:
        return f"{max(1, round(n)):,}"
    scale = 10 ** (math.floor(math.log10(n)) - 1)
    return f"{math.ceil(n / scale) * scale:,}"


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """`a, b and c`; the rest is counted when there are more than `most`."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
