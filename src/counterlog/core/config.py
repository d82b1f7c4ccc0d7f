"""Configuration: every default, bound, unit and help text exists once, in a frozen dataclass.

A system writes `class XConfig(Config)` with one `param(...)` a line. The bounds are checked when the object
is made; the command line, the TOML form and the docs are read from the same metadata.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

from counterlog.core.errors import ConfigError, message


def param(
    default: Any,
    help: str,
    *,
    unit: str = "",
    above: float | None = None,
    below: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A field of a `Config`: its default, its help text, its unit and its bounds (checked for every item of
    a tuple)."""
    bounds = {"above": above, "below": below, "at_least": at_least, "at_most": at_most}
    metadata = {"help": help, "unit": unit, "choices": choices, **bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration. Raises `ConfigError` naming the parameter, its value and its bounds."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(type(self).__name__, field.name, getattr(self, field.name), hints[field.name])
            _check_bounds(type(self).__name__, field, value)
            object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by parameter name; tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises `ConfigError` for a name this system does not have."""
        names = [f.name for f in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(names)):
            msg = message(
                f"{cls.__name__} has no parameter {unknown[0]!r}", expected=f"one of {', '.join(names)}"
            )
            raise ConfigError(msg)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_toml(self) -> str:
        """TOML text; a parameter that is None is left out, which means its default when it is read back."""
        import tomli_w

        return tomli_w.dumps({k: v for k, v in self.to_dict().items() if v is not None})

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The inverse of `to_toml`."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as cause:
            msg = message(f"the configuration is not TOML ({cause})", hint="write one `name = value` a line")
            raise ConfigError(msg) from cause
        return cls.from_dict(values)

    @classmethod
    def from_options(cls, options: Iterable[str]) -> Self:
        """From command-line settings `name=value`; the value is read by the parameter's type."""
        hints, values = get_type_hints(cls), {}
        for option in options:
            name, sign, text = option.partition("=")
            name = name.strip().replace("-", "_")
            if not sign:
                msg = message(f"setting {option!r} has no '='", expected="name=value, as in --set tau=0.5")
                raise ConfigError(msg)
            values[name] = _parse(text.strip(), hints.get(name, str), cls.__name__, name)
        return cls.from_dict(values)

    @classmethod
    def describe(cls) -> list[dict[str, Any]]:
        """One record a parameter (name, type, default, unit, bounds, help): what docs and `counterlog show`
        print."""
        hints = get_type_hints(cls)
        return [
            {
                "name": f.name,
                "type": _type_name(hints[f.name]),
                "default": f.default,
                "unit": f.metadata.get("unit", ""),
                "bounds": _bounds_text(f.metadata),
                "help": f.metadata.get("help", ""),
            }
            for f in dataclasses.fields(cls)
        ]


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union type, or the type alone."""
    return get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _coerce(owner: str, name: str, value: Any, hint: Any) -> Any:
    """`value` as its declared type: an int may stand for a float and a list for a tuple; nothing else is
    guessed."""
    for kind in _options(hint):
        origin = get_origin(kind) or kind
        if kind is type(None) and value is None:
            return None
        if origin is tuple and isinstance(value, (tuple, list)):
            inner = get_args(kind)[0] if get_args(kind) else Any
            return tuple(value if inner is Any else _coerce(owner, name, v, inner) for v in value)
        if origin is typing.Literal and value in get_args(kind):
            return value
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if origin is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if origin in (str, bool) and isinstance(value, origin):
            return value
    msg = message(f"{owner}.{name} = {value!r} is a {type(value).__name__}", expected=_type_name(hint))
    raise ConfigError(msg)


def _check_bounds(owner: str, field: dataclasses.Field[Any], value: Any) -> None:
    m = field.metadata
    for item in value if isinstance(value, tuple) else (value,):
        bad = (m.get("choices") is not None and item not in m["choices"]) or (
            isinstance(item, (int, float))
            and not isinstance(item, bool)
            and (
                math.isnan(item)
                or (m.get("above") is not None and not item > m["above"])
                or (m.get("below") is not None and not item < m["below"])
                or (m.get("at_least") is not None and not item >= m["at_least"])
                or (m.get("at_most") is not None and not item <= m["at_most"])
            )
        )
        if bad:
            msg = message(
                f"{owner}.{field.name} = {item!r}",
                expected=_bounds_text(m) or "a number",
                hint=m.get("help", ""),
            )
            raise ConfigError(msg)


def _bounds_text(m: Mapping[str, Any]) -> str:
    if m.get("choices") is not None:
        return "one of " + ", ".join(map(str, m["choices"]))
    signs = (("above", ">"), ("at_least", ">="), ("below", "<"), ("at_most", "<="))
    return ", ".join(f"{sign} {m[key]:g}" for key, sign in signs if m.get(key) is not None)


def _type_name(hint: Any) -> str:
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
    )


def _parse(text: str, hint: Any, owner: str, name: str) -> Any:
    """A command-line value by its declared type; comma-separated for tuples."""
    for kind in _options(hint):
        origin = get_origin(kind) or kind
        try:
            if kind is type(None):
                if text.lower() in ("none", ""):
                    return None
            elif origin is tuple:
                inner = get_args(kind)[0]
                return tuple(_parse(t.strip(), inner, owner, name) for t in text.split(",") if t.strip())
            elif origin is bool:
                if text.lower() in ("true", "false"):
                    return text.lower() == "true"
            elif origin in (int, float):
                return origin(text)
            elif origin is typing.Literal:
                return next((v for v in get_args(kind) if str(v) == text), text)
            else:
                return text
        except ValueError:
            continue
    msg = message(f"{owner}.{name} = {text!r} cannot be read", expected=_type_name(hint))
    raise ConfigError(msg)
