"""Sphinx configuration: Markdown pages, a gallery run from `examples/`, reference pages made from the cards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("PLOTLY_RENDERER", "sphinx_gallery")

import generate  # noqa: E402
import thumbnails  # noqa: E402

from counterlog import __version__  # noqa: E402

generate.write_all(HERE)

project = "Counterlog"
author = "The Counterlog authors"
copyright = "2026, The Counterlog authors"
release = version = __version__

extensions = ["myst_parser", "sphinx_gallery.gen_gallery"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "gallery/**/*.md5", "gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.zip"]
suppress_warnings = ["config.cache", "myst.header"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "Counterlog"
html_show_sourcelink = False
html_theme_options = {"navbar_end": ["theme-switcher"], "show_toc_level": 2, "footer_end": []}

sphinx_gallery_conf = {
    "examples_dirs": [str(HERE.parent / "examples")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"plot_",
    "image_scrapers": (thumbnails.scrape,),
    "reset_modules": (),
    "capture_repr": ("_repr_html_",),
    "ignore_repr_types": r"list|tuple|dict",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "min_reported_time": 60,
}
