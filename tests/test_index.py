"""The catalogue is read from docstrings."""

from __future__ import annotations

import pytest

from counterlog.core.errors import ConfigError
from counterlog.index import card, cards, fields_of, search


def test_labels_and_their_continuations_by_hand() -> None:
    lines = ["Title.", "", "Use when    one", "            two", "Data        Rounds(a)", "", "Free text."]
    assert fields_of("\n".join(lines)) == {"Use when": "one\n            two", "Data": "Rounds(a)"}


def test_a_card_knows_its_question_classes_and_data() -> None:
    found = card("doubly-robust")
    assert found.question == "estimate"
    assert found.verb == "estimate"
    assert "DR" in found.classes
    assert "SwitchDRConfig" in found.configs
    assert found.data == ("Rounds",)


def test_search_needs_every_word_in_any_case() -> None:
    assert "doubly-robust" in {c.slug for c in search(text="RESIDUALS model")}
    assert search(text="no such words anywhere zebra") == ()
    assert {c.question for c in search(question="audit")} == {"audit"}
    assert all("Episodes" in c.data for c in search(data="episodes"))


def test_unknown_names_are_refused_with_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean doubly-robust"):
        card("doubly_robus")
    with pytest.raises(ConfigError, match="no question 'guess'"):
        search(question="guess")


def test_slugs_are_unique() -> None:
    slugs = [c.slug for c in cards()]
    assert len(slugs) == len(set(slugs))
