"""Results travel through JSON without losing a digit, and refuse to be read as something else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterlog.core.errors import CounterlogError
from counterlog.core.results import Estimate, Finding, show

numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(value=numbers, lo=numbers, hi=numbers, notes=st.lists(st.text(), max_size=3))
def test_an_estimate_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: float, lo: float, hi: float, notes: list[str]
) -> None:
    path = tmp_path_factory.mktemp("r") / "e.json"
    made = Estimate(value=value, lo=lo, hi=hi, unit="dollars", n=3, notes=tuple(notes))
    made.save(path)
    read = Estimate.load(path)
    assert repr(read) == repr(made)


def test_the_file_is_strict_json_and_names_its_kind(tmp_path: Path) -> None:
    path = Estimate(value=math.nan, lo=-math.inf, hi=1.0, unit="clicks", n=1).save(tmp_path / "e.json")
    content = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert content["result"] == "Estimate"
    assert content["value"] == "NaN"


def test_another_kind_or_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = Finding(check="c", severity="ok", message="m").save(tmp_path / "f.json")
    with pytest.raises(CounterlogError, match="holds a Finding; expected a Estimate"):
        Estimate.load(path)
    path.write_text("{}")
    with pytest.raises(CounterlogError, match="is not a saved result"):
        Estimate.load(path)
    with pytest.raises(CounterlogError, match="is not a saved result"):
        Estimate.load(tmp_path / "absent.json")


def test_nested_evidence_survives(tmp_path: Path) -> None:
    made = Finding(check="c", severity="warning", message="m", evidence=({"action": "a", "mean": 1.5},))
    assert Finding.load(made.save(tmp_path / "f.json")).to_json() == made.to_json()


def test_html_of_a_notebook_keeps_hostile_text_as_text() -> None:
    made = Estimate(value=1.0, lo=0.0, hi=2.0, unit="<script>alert(1)</script>", n=2)
    assert "<script>" not in made._repr_html_()
    assert "&lt;script&gt;" in made._repr_html_()


def test_a_frame_has_one_row_and_the_interval() -> None:
    frame = Estimate(value=1.0, lo=0.0, hi=2.0, unit="clicks", n=2).to_frame()
    assert frame.select("value", "lo", "hi", "unit", "n").row(0) == (1.0, 0.0, 2.0, "clicks", 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (1234567.8, "1,234,568"),
        (None, ""),
        (math.nan, "not defined"),
    ],
)
def test_numbers_are_shown_as_people_read_them(value: object, text: str) -> None:
    assert show(value) == text
