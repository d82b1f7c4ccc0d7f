"""The report's folder: the page, the result, the run, the tables and the learnt policies; each file whole or absent."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterlog.core.files import write_whole

if TYPE_CHECKING:
    from counterlog.report.decision_report import DecisionReport

PAGE = "report.html"
_FORMULA = re.compile(r"^[\s]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]")
_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


def cell_text(value: Any) -> str:
    """A table cell for a CSV file: text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    if isinstance(value, (int, bool)) or _NUMBER.match(text):
        return text
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with a header; see `cell_text` for what is done to formulas."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([cell_text(c) for c in columns])
    writer.writerows([cell_text(v) for v in row] for row in rows)
    return stream.getvalue()


def write_folder(report: DecisionReport, folder: Path) -> Path:
    """Write every file and return the path of the page, which is written last."""
    run = {
        "command": report.command,
        "config": report.settings,
        "rng": report.rng,
        "versions": report.versions,
        "data": {"rows": report.n, "sha256": report.log.fingerprint},
        "seconds": report.seconds,
    }
    write_whole(folder / "run.json", json.dumps(run, indent=1))
    report.save(folder / "result.json")
    columns = [
        "reward",
        "policy",
        "estimator",
        "value",
        "lo",
        "hi",
        "se",
        "unit",
        "n",
        "ess",
        "valid",
        "reason",
    ]
    rows = [[getattr(e, c) for c in columns] for e in report.policies]
    write_whole(folder / "policies.csv", csv_text(columns, rows))
    for part in report.rewards:
        if part.learnt is not None:
            write_whole(folder / part.learnt.file_name, part.learnt.file_bytes())
    return write_whole(folder / PAGE, report.html())
