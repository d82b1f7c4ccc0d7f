"""What holds for every system: one `rng` one answer, inputs unchanged, unit and n, save and load, any frame alike.

A system that reads `Rounds` and follows its question's verb is run on a small log. Any other gives
`contract_example(frame)` in
its own test file: it gets the small log as a frame of some library and returns the system's result.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from counterlog.core.results import Result
from counterlog.core.rounds import Rounds
from counterlog.index import Card, cards

REPOSITORY = Path(__file__).parents[2]
ROLES: dict[str, Any] = {
    "action": "item",
    "reward": {"click": "clicks", "money": "euros"},
    "propensity": "p",
    "context": ["x", "device"],
    "unit": "user",
    "time": "day",
    "segment": "device",
}
FRAMES: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas(),
    "arrow": lambda frame: frame.to_arrow(),
}


def runners(card: Card) -> dict[str, Callable[[Any], Any]]:
    """How to run the system on a frame: by its own example, else each class that has the verb."""
    path = REPOSITORY / "tests" / card.question / f"test_{card.path.stem}.py"
    if path.exists() and "def contract_example" in path.read_text():
        spec = importlib.util.spec_from_file_location(f"contract_{card.path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        tests = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tests)
        return {card.slug: tests.contract_example}
    module = importlib.import_module(card.module)
    found = {}
    for name in card.classes:
        kind = getattr(module, name)
        if hasattr(kind, card.verb) and not inspect.isabstract(kind):
            found[name] = _by_verb(kind, card.verb)
    return found


def _by_verb(kind: Any, verb: str) -> Callable[[Any], Any]:
    def run(frame: Any) -> Any:
        method = getattr(kind(), verb)
        wanted = inspect.signature(method).parameters
        extra: dict[str, Any] = {}
        if "policy" in wanted:
            extra["policy"] = "uniform"
        if "rng" in wanted:
            extra["rng"] = 3
        return method(Rounds(frame, **ROLES), **extra)

    return run


def content(result: Any) -> Any:
    """A result as plain values, for comparison."""
    if isinstance(result, Result):
        return repr(result.to_dict())
    if isinstance(result, tuple):
        return [content(r) for r in result]
    if hasattr(result, "report"):
        return content(result.report)
    if hasattr(result, "layers"):
        return [[w.tolist(), b.tolist()] for w, b in result.layers]
    raise AssertionError(f"{type(result).__name__} is neither a result nor a policy")


CASES = [(card, name, run) for card in cards() for name, run in runners(card).items()]


@pytest.fixture
def frame(small_log: pl.DataFrame) -> pl.DataFrame:
    return small_log


def test_every_system_can_be_run_here() -> None:
    covered = {card.slug for card, _, _ in CASES}
    assert sorted({c.slug for c in cards()} - covered) == []


@pytest.mark.parametrize(("card", "name", "run"), CASES, ids=[f"{c.slug}:{n}" for c, n, _ in CASES])
def test_a_system_keeps_the_contract(
    card: Card, name: str, run: Callable[[Any], Any], frame: pl.DataFrame, tmp_path: Path
) -> None:
    before = frame.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = {kind: run(make(frame)) for kind, make in FRAMES.items()}
        again = run(frame)
    assert content(again) == content(results["polars"]), "the same rng gave another result"
    assert frame.equals(before), "the input was changed"
    assert content(results["pandas"]) == content(results["polars"]), "pandas and Polars differ"
    assert content(results["arrow"]) == content(results["polars"]), "Arrow and Polars differ"
    found = results["polars"]
    for i, result in enumerate(found if isinstance(found, tuple) else (found,)):
        if isinstance(result, Result):
            names = set(result.__dataclass_fields__)
            assert {"unit", "n"} <= names, f"{type(result).__name__} lacks unit or n"
            assert result.n > 0
            assert content(type(result).load(result.save(tmp_path / f"{i}.out"))) == content(result)
            assert result.to_frame().height > 0
