"""Every Python block of the docs and the README runs, top to bottom, one page after another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GENERATED = {"by-data.md", "by-paper.md", "studies.md"}
PAGES = [
    page
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    if not {"_build", "gallery", "reference"} & set(page.parts) and page.name not in GENERATED
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(REPOSITORY))
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for i, text in enumerate(blocks(page)):
        exec(compile(text, f"{page.name}, block {i + 1}", "exec"), names)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            made_by_build = (
                "gallery/" in target or "reference/" in target or target.rsplit("/", 1)[-1] in GENERATED
            )
            if not made_by_build and not target.endswith("index.md") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(REPOSITORY)} -> {target}")
    assert broken == []
