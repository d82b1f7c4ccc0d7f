"""Every system, found by its card: the card is whole, its parameters travel, its neighbours exist, its
imports are declared."""

from __future__ import annotations

import ast
import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from counterlog.core import errors
from counterlog.core.config import Config
from counterlog.index import LABELS, REQUIRED, ROOT, Card, cards

CARDS = cards()
REPOSITORY = Path(__file__).parents[2]
MOST_LINES = 450
VAGUE = {"utils", "common", "helpers", "misc", "base", "core", "tools"}


def each(found: tuple[Card, ...] = CARDS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", found, ids=lambda c: c.slug)


def test_there_are_systems_and_no_two_share_a_slug() -> None:
    slugs = [c.slug for c in CARDS]
    assert len(slugs) >= 10
    assert len(set(slugs)) == len(slugs)


@each()
def test_the_card_is_complete(card: Card) -> None:
    assert [label for label in REQUIRED if not card.fields.get(label)] == []
    assert set(card.fields) <= set(LABELS)
    assert card.title.endswith((".", "?"))


@each()
def test_the_card_raises_only_errors_that_exist(card: Card) -> None:
    named = re.findall(r"\b[A-Z]\w*(?:Error|Exhausted)\b", card.fields["Raises"])
    assert named, "Raises names no error"
    assert [n for n in named if not hasattr(errors, n)] == []


@each()
def test_tests_and_docs_stand_at_the_same_path(card: Card) -> None:
    assert (REPOSITORY / "tests" / card.question / f"test_{card.path.stem}.py").exists()
    assert (REPOSITORY / "docs" / card.question / f"{card.slug}.md").exists()


@each()
def test_imports_of_other_systems_are_declared(card: Card) -> None:
    known = {c.module: c.slug for c in CARDS}
    tree = ast.parse(card.path.read_text())
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    built_on = card.fields.get("Builds on", "")
    undeclared = [known[m] for m in modules if m in known and m != card.module and known[m] not in built_on]
    assert undeclared == []


@each()
def test_parameters_have_help_and_travel_through_options_and_toml(card: Card) -> None:
    module = importlib.import_module(card.module)
    for name in card.configs:
        kind: type[Config] = getattr(module, name)
        made = kind()
        assert kind.from_toml(made.to_toml()) == made
        given = {
            k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in made.to_dict().items()
        }
        assert kind.from_options([f"{k}={v}" for k, v in given.items() if v != ""]) == made
        for parameter in kind.describe():
            assert parameter["help"], f"{name}.{parameter['name']} has no help"
            default = parameter["default"]
            assert not (isinstance(default, float) and math.isnan(default))


@each(tuple(c for c in CARDS if c.study.exists()))
def test_a_study_has_its_committed_full_result(card: Card) -> None:
    from counterlog.core.study import Study

    result = Study.load(ROOT / "studies" / "results" / f"{card.slug}.json")
    assert result.slug == card.slug
    assert result.mode == "full"
    assert result.checks


def test_files_are_small_and_their_names_say_something() -> None:
    modules = sorted((ROOT).rglob("*.py"))
    assert [str(p) for p in modules if p.stem in VAGUE] == []
    assert [str(p) for p in modules if len(p.read_text().splitlines()) > MOST_LINES] == []


@pytest.mark.parametrize(
    "command", ["import counterlog", "from counterlog.cli import app", "import counterlog.index"]
)
def test_the_front_door_loads_no_torch(command: str) -> None:
    program = (
        f"import sys; {command}; print([m for m in ('torch', 'lightgbm', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_source_speaks_of_where_it_was_made() -> None:
    words = re.compile(r"/work/|shared/specs|\bsession\b.*\bhelper\b|\bLLM agent\b|localhost:\d", re.I)
    files = [
        p for folder in ("src", "docs", "examples", "benchmarks") for p in (REPOSITORY / folder).rglob("*")
    ]
    texts = [
        p for p in files if p.suffix in (".py", ".md", ".json", ".toml", ".html") and "_build" not in p.parts
    ]
    assert [str(p) for p in texts if words.search(p.read_text(errors="ignore"))] == []
