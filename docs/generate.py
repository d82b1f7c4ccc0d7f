"""Pages made from the code: one reference page a system, one index a question, and the lists by data and by paper."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from counterlog.core.results import show
from counterlog.core.study import Study
from counterlog.index import CONTRACTS, QUESTIONS, ROOT, Card, cards


def write_all(docs: Path) -> None:
    """Write every generated page; a page whose text is unchanged is left alone."""
    found = cards()
    for card in found:
        _write(docs / "reference" / f"{card.slug}.md", reference(card))
    for question, asked in QUESTIONS.items():
        mine = [c for c in found if c.question == question]
        if mine:
            _write(docs / question / "index.md", question_page(docs, question, asked, mine))
    _write(
        docs / "reference" / "index.md", listing("Reference", "One page a system, made from its file.", found)
    )
    _write(docs / "by-data.md", by_data(found))
    _write(docs / "by-paper.md", by_paper(found))
    _write(docs / "studies.md", studies_page())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def reference(card: Card) -> str:
    """Card, parameters and public functions of a system."""
    tree = ast.parse(card.path.read_text())
    parts = [
        f"# {card.slug}: reference",
        f"`{card.module}`. Guide: [{card.slug}](../{card.question}/{card.slug}.md).",
    ]
    parts.append("```text\n" + (ast.get_docstring(tree) or "") + "\n```")
    module = importlib.import_module(card.module)
    for name in card.configs:
        parts.append(f"## {name}")
        rows = [
            f"| {r['name']} | {_cell(r['default'])} | {r['bounds']} | {r['unit']} | {r['help']} |".replace(
                "{", "\\{"
            )
            for r in getattr(module, name).describe()
        ]
        parts.append(
            "| parameter | default | bounds | unit | what |\n|---|---|---|---|---|\n" + "\n".join(rows)
        )
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            if node.name in card.configs:
                continue
            parts.append(f"## {node.name}\n\n```python\n{_signature(node)}\n```")
            if text := ast.get_docstring(node):
                parts.append("```text\n" + text + "\n```")
            parts.extend(_methods(node))
    return "\n\n".join(parts) + "\n"


def _cell(value: object) -> str:
    return "none" if value is None else f"`{value}`"


def _signature(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(b) for b in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def _methods(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    if not isinstance(node, ast.ClassDef):
        return []
    public = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    texts = []
    for m in public:
        text = ast.get_docstring(m) or ""
        texts.append(f"```python\n{_signature(m)}\n```" + (f"\n\n```text\n{text}\n```" if text else ""))
    return texts


def question_page(docs: Path, question: str, asked: str, found: list[Card]) -> str:
    """The systems of one question, with links to their guides."""
    rows = "\n".join(f"| [{c.slug}]({c.slug}.md) | {c.title} | {_first(c, 'Use when')} |" for c in found)
    extra = sorted(p.stem for p in (docs / question).glob("*.md") if p.stem != "index")
    tree = "\n".join(extra)
    return (
        f"# {question}\n\n{asked}\n\n| system | what | use when |\n|---|---|---|\n{rows}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )


def listing(title: str, about: str, found: tuple[Card, ...]) -> str:
    """A page that lists every system's reference page."""
    tree = "\n".join(c.slug for c in found)
    return f"# {title}\n\n{about}\n\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n"


def by_data(found: tuple[Card, ...]) -> str:
    """Systems by the log they read."""
    parts = ["# By data", "Which systems read the log you have, or act where there is none yet."]
    acting = [c for c in found if c.fields.get("Data", "").startswith("an environment")]
    held = {contract: [c for c in found if contract in c.data] for contract in CONTRACTS}
    for name, mine in {**held, "An environment": acting}.items():
        if mine:
            rows = "\n".join(f"- [{c.slug}]({c.question}/{c.slug}.md): {c.title}" for c in mine)
            parts.append(f"## {name}\n\n{rows}")
    return "\n\n".join(parts) + "\n"


def by_paper(found: tuple[Card, ...]) -> str:
    """Systems with the papers they come from."""
    rows = "\n".join(
        f"| [{c.slug}]({c.question}/{c.slug}.md) | {' '.join(c.fields.get('Paper', '').split())} |"
        for c in found
    )
    return f"# By paper\n\n| system | paper |\n|---|---|\n{rows}\n"


def studies_page() -> str:
    """Every committed study: its claims, what was measured, and whether they held."""
    parts = [
        "# Studies",
        "Committed results of `counterlog study SLUG --full`. A claim that did not hold is listed as such.",
    ]
    for path in sorted((ROOT / "studies" / "results").glob("*.json")):
        result = Study.load(path)
        held = sum(c.passed for c in result.checks)
        rows = "\n".join(
            f"| {c.claim} | {show(c.measured)} | {c.bar} | {'held' if c.passed else 'did not hold'} | {c.note} |"
            for c in result.checks
        )
        cost = f"{result.n:,} repetitions; {result.seconds:,.0f} processor seconds in the main process"
        about = f"{held} of {len(result.checks)} claims held; {cost}."
        parts.append(
            f"## {result.slug}\n\n{about}\n\n| claim | measured | bar | | note |\n|---|---|---|---|---|\n{rows}"
        )
        parts.extend(f"- {note}" for note in result.notes)
    return "\n\n".join(parts) + "\n"


def _first(card: Card, label: str) -> str:
    return " ".join(card.fields.get(label, "").split())
