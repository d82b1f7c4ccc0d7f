"""A picture for every gallery page: the script's last figure, drawn once more as a small still image.

The page itself shows the interactive figure. The still is drawn by plotly's image engine where a Chromium is
installed; without
one the gallery has its text only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def scrape(block: Any, variables: dict[str, Any], conf: dict[str, Any], **options: Any) -> str:
    """Write the still of a figure named `fig` to the path sphinx-gallery takes its thumbnail from; nothing
    is shown twice."""
    figure = variables["example_globals"].get("fig")
    if figure is None or CHROMIUM is None:
        return ""
    path = Path(next(variables["image_path_iterator"]))
    _draw(figure, path)
    return ""


def _draw(figure: Any, path: Path) -> None:
    from playwright.sync_api import sync_playwright

    page_text = figure.to_html(include_plotlyjs=True, full_html=True, config={"staticPlot": True})
    path.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 800, "height": 500})
        page.set_content(page_text)
        page.wait_for_selector(".main-svg")
        page.screenshot(path=str(path))
        browser.close()
