"""Every system, read from the docstring cards with `ast`: no registry to edit, nothing imported.

A system is a module under a question's folder whose docstring is a card: a title line, then labelled lines
(`Use when`, `Data`,
`Equation`, ...). Its file name is its slug.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from counterlog.core.errors import ConfigError, message

ROOT = Path(__file__).parent
QUESTIONS = {
    "audit": "What can this log support, and what may I still ask of it?",
    "estimate": "What would have happened under another policy or treatment?",
    "learn": "What policy can I learn from the log alone?",
    "online": "I may also interact: how do I use the log and the new data?",
    "posttrain": "How do I tune a generative model on preferences or rewards?",
    "rank": "What should I show, learnt from clicks and visits?",
    "spread": "Whom do I seed, or what do I reveal, when others pass it on?",
    "trace": "Which rows or regions made the model do this?",
    "unlearn": "What changes when rows must go?",
}
VERBS = {
    "audit": "check",
    "estimate": "estimate",
    "learn": "fit",
    "online": "improve",
    "posttrain": "tune",
    "rank": "fit",
    "spread": "choose",
    "trace": "score",
    "unlearn": "forget",
}
REQUIRED = ("Use when", "Not when", "Data", "Paper", "Equation", "Shapes", "Units", "Raises", "Differs")
LABELS = (*REQUIRED, "Builds on", "Call")
CONTRACTS = ("Rounds", "Episodes", "Pairs", "Rollouts", "Clicks", "Units", "Network")
_LABEL = re.compile(rf"^({'|'.join(LABELS)})(?:\s+|$)(.*)$")


@dataclass(frozen=True)
class Card:
    """One system: where it is, what its card says, which public classes and configurations its file defines."""

    slug: str
    question: str
    title: str
    fields: dict[str, str]
    classes: tuple[str, ...]
    configs: tuple[str, ...]
    path: Path

    @property
    def module(self) -> str:
        """Import path."""
        return f"counterlog.{self.question}.{self.path.stem}"

    @property
    def verb(self) -> str:
        """The public verb of its question."""
        return VERBS[self.question]

    @property
    def data(self) -> tuple[str, ...]:
        """The data contracts it reads."""
        return tuple(c for c in CONTRACTS if re.search(rf"\b{c}\b", self.fields.get("Data", "")))

    @property
    def study(self) -> Path:
        """Where its study is, if it has one."""
        return ROOT / "studies" / f"{self.path.stem}.py"


def cards() -> tuple[Card, ...]:
    """All systems, by question and slug."""
    found = []
    for question in QUESTIONS:
        for path in sorted((ROOT / question).glob("*.py")):
            card = _read(path, question)
            if card is not None:
                found.append(card)
    return tuple(found)


def card(slug: str) -> Card:
    """The system of that slug. Raises `ConfigError` with the nearest slugs."""
    from difflib import get_close_matches

    known = {c.slug: c for c in cards()}
    wanted = slug.replace("_", "-")
    if wanted not in known:
        near = get_close_matches(wanted, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`counterlog systems` lists them"
        raise ConfigError(message(f"there is no system {slug!r}", hint=hint))
    return known[wanted]


def search(*, question: str = "", data: str = "", text: str = "") -> tuple[Card, ...]:
    """Systems of a question, that read a data contract, whose card holds every word of `text` (any case)."""
    if question and question not in QUESTIONS:
        raise ConfigError(message(f"there is no question {question!r}", expected=", ".join(QUESTIONS)))
    words = text.lower().split()
    return tuple(
        c
        for c in cards()
        if question in ("", c.question)
        and (not data or data.lower() in (d.lower() for d in c.data))
        and all(w in f"{c.slug} {c.title} {' '.join(c.fields.values())}".lower() for w in words)
    )


def _read(path: Path, question: str) -> Card | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    if text is None or "\nUse when" not in text:
        return None
    classes = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    return Card(
        slug=path.stem.replace("_", "-"),
        question=question,
        title=text.splitlines()[0].strip(),
        fields=fields_of(text),
        classes=tuple(n for n in classes if not n.endswith("Config")),
        configs=tuple(n for n in classes if n.endswith("Config")),
        path=path,
    )


def fields_of(text: str) -> dict[str, str]:
    """The labelled lines of a card; a line that starts with a blank continues the one before."""
    fields: dict[str, list[str]] = {}
    label = ""
    for line in text.splitlines()[1:]:
        if found := _LABEL.match(line):
            label = found[1]
            fields[label] = [found[2]]
        elif label and line.startswith(" "):
            fields[label].append(line)
        elif line.strip():
            label = ""
    return {k: "\n".join(v).strip() for k, v in fields.items()}
