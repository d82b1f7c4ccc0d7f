"""Counterlog: learn, evaluate and decide from logged data.

The names below are the front door; everything else is found by the question it answers (`counterlog systems`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterlog.audit.decision_log import audit
    from counterlog.core.column_predictions import ColumnPredictions
    from counterlog.core.episodes import Episodes
    from counterlog.core.errors import CounterlogError
    from counterlog.core.evaluate import Evaluation, evaluate
    from counterlog.core.policies import Always, Function, Logged, Policy, Uniform
    from counterlog.core.results import Estimate, Finding
    from counterlog.core.rounds import Rounds
    from counterlog.core.saved_policies import SoftmaxPolicy, load_policy
    from counterlog.report.decision_report import build as report

__version__ = "0.1.0"

_HOMES = {
    "Rounds": "core.rounds",
    "Episodes": "core.episodes",
    "evaluate": "core.evaluate",
    "ColumnPredictions": "core.column_predictions",
    "Evaluation": "core.evaluate",
    "Policy": "core.policies",
    "Logged": "core.policies",
    "Uniform": "core.policies",
    "Always": "core.policies",
    "Function": "core.policies",
    "SoftmaxPolicy": "core.saved_policies",
    "load_policy": "core.saved_policies",
    "Estimate": "core.results",
    "Finding": "core.results",
    "CounterlogError": "core.errors",
    "audit": "audit.decision_log",
    "report": "report.decision_report:build",
}

__all__ = [
    "Always",
    "ColumnPredictions",
    "CounterlogError",
    "Episodes",
    "Estimate",
    "Evaluation",
    "Finding",
    "Function",
    "Logged",
    "Policy",
    "Rounds",
    "SoftmaxPolicy",
    "Uniform",
    "audit",
    "evaluate",
    "load_policy",
    "report",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import counterlog` stays light."""
    if name not in _HOMES:
        msg = f"module 'counterlog' has no attribute {name!r}"
        raise AttributeError(msg)
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"counterlog.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
