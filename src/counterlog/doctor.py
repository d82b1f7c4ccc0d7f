"""What is installed, what is missing, and where data is looked for: the rows of `counterlog doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from counterlog.datasets.registry import BUNDLED, DATASETS, cache_folder

OLDEST_PYTHON = (3, 11)


def examine() -> list[dict[str, Any]]:
    """Records with `what`, `state` (ok, missing, broken) and `detail`."""
    rows = [_python(), *_packages()]
    for dataset in DATASETS.values():
        if dataset.bundled:
            there = (BUNDLED / dataset.bundled).exists()
            rows.append(_row(f"bundled log {dataset.name}", "ok" if there else "broken", dataset.bundled))
    folder = os.environ.get("COUNTERLOG_DATA", "")
    state = "missing" if not folder else ("ok" if os.path.isdir(folder) else "broken")  # noqa: PTH112
    rows.append(_row("COUNTERLOG_DATA", state, folder or "not set: data sets are downloaded to the cache"))
    rows.append(_row("cache folder", "ok", str(cache_folder())))
    return rows


def _row(what: str, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "state": state, "detail": detail}


def _python() -> dict[str, Any]:
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return _row("python", "ok" if ok else "broken", f"{platform.python_version()} on {platform.machine()}")


def needed() -> list[tuple[str, str]]:
    """Distributions with the extra that asks for each ("" for the light core), from the package's own metadata."""
    found = []
    for line in requires("counterlog") or ():
        name = line.split(";")[0].split("[")[0].strip()
        for sign in "<>=!~ ":
            name = name.split(sign)[0]
        extra = line.partition("extra == ")[2].strip().strip("'\"")
        if extra != "all" and name != "counterlog":
            found.append((name, extra))
    return found


def extra_with(module: str) -> str:
    """The extra that brings a module, its namesake before any other; "" when none does."""
    package = module.partition(".")[0]
    extras = [extra for name, extra in needed() if extra and name == package]
    return package if package in extras else next(iter(extras), "")


def _packages() -> list[dict[str, Any]]:
    """Core dependencies (missing is broken) and extras (missing is only missing)."""
    rows = []
    for name, extra in needed():
        what = f"{name} ({extra})" if extra else name
        try:
            rows.append(_row(what, "ok", version(name)))
        except PackageNotFoundError:
            hint = f"pip install 'counterlog[{extra}]'" if extra else "pip install counterlog"
            rows.append(_row(what, "missing" if extra else "broken", hint))
    return rows
