"""Parameters: bounds, types, and the three forms they travel in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Shape(Config):
    tau: float = param(1.0, "temperature", unit="reward", above=0)
    steps: int = param(10, "gradient steps", at_least=1, at_most=100)
    name: str = param("linear", "model", choices=("linear", "trees"))
    sizes: tuple[int, ...] = param((8, 4), "layers", at_least=1)
    cap: float | None = param(None, "largest weight, or none", above=0)
    fast: bool = param(False, "skip the check")
    mode: Literal["a", "b"] = param("a", "which")


def test_defaults_are_kept_and_an_int_may_stand_for_a_float() -> None:
    assert Shape(tau=2).tau == 2.0
    assert isinstance(Shape(tau=2).tau, float)
    assert Shape().sizes == (8, 4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tau": 0.0}, r"Shape.tau = 0.0; expected > 0\nhint: temperature"),
        ({"tau": math.nan}, "Shape.tau = nan"),
        ({"steps": 101}, "expected >= 1, <= 100"),
        ({"steps": 1.5}, "is a float; expected int"),
        ({"steps": True}, "is a bool; expected int"),
        ({"name": "forest"}, "one of linear, trees"),
        ({"sizes": (3, 0)}, "Shape.sizes = 0"),
        ({"cap": -1.0}, "Shape.cap = -1.0"),
        ({"fast": 1}, "is a int; expected bool"),
        ({"mode": "c"}, "Shape.mode = 'c'"),
    ],
)
def test_a_value_outside_its_bounds_or_type_is_named(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Shape(**wrong)  # type: ignore[arg-type]


@given(
    tau=st.floats(1e-6, 1e6),
    steps=st.integers(1, 100),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    cap=st.none() | st.floats(1e-3, 1e3) | st.just(math.inf),
    fast=st.booleans(),
)
def test_toml_and_options_give_the_same_object_back(
    tau: float, steps: int, sizes: list[int], cap: float | None, fast: bool
) -> None:
    made = Shape(tau=tau, steps=steps, sizes=tuple(sizes), cap=cap, fast=fast)
    assert Shape.from_toml(made.to_toml()) == made
    assert Shape.from_dict(made.to_dict()) == made
    texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in made.to_dict().items()}
    assert Shape.from_options([f"{k}={v}" for k, v in texts.items()]) == made


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no parameter 'taus'; expected one of tau, steps"):
        Shape.from_options(["taus=1"])
    with pytest.raises(ConfigError, match="has no '='"):
        Shape.from_options(["tau"])
    with pytest.raises(ConfigError, match=r"Shape.steps = 'many' cannot be read; expected int"):
        Shape.from_options(["steps=many"])
    with pytest.raises(ConfigError, match="is not TOML"):
        Shape.from_toml("tau = = 1")


def test_describe_holds_what_help_pages_print() -> None:
    first = Shape.describe()[0]
    assert first == {
        "name": "tau",
        "type": "float",
        "default": 1.0,
        "unit": "reward",
        "bounds": "> 0",
        "help": "temperature",
    }
