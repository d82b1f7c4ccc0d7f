"""The record of every question put to a holdout: append-only JSON lines, chained by hash, one writer at a time.

Row k carries the hash of row k - 1, so that an edited, removed or reordered row shows. A chain cannot show that its
end was cut off together with the state file; for that, keep `head` somewhere else (the report prints it) and pass it
to `verify`. A row is written, flushed and forced to the disk before its answer is shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from counterlog.core.errors import CounterlogError, message
from counterlog.core.results import plain

FIRST = "0" * 64


def row_hash(row: dict[str, Any]) -> str:
    """SHA-256 of the row's canonical JSON; the field `hash` itself is left out."""
    content = {k: v for k, v in row.items() if k != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Ledger:
    """Rows in memory and, when it has a path, in a file. `durable` forces every row to the disk."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, durable: bool = True) -> None:
        self.path = None if path is None else Path(path)
        self.durable = durable
        self.rows: list[dict[str, Any]] = []
        self._stream: IO[str] | None = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.rows = read_rows(self.path)
                self.verify()
            self._stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - held until close()

    @property
    def head(self) -> str:
        """Hash of the last row: the one value that pins the whole history."""
        return str(self.rows[-1]["hash"]) if self.rows else FIRST

    def append(self, **fields: Any) -> dict[str, Any]:
        """Add one row; index, UTC time and hashes are set here. Returns the row as written."""
        row = {
            "index": len(self.rows),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **plain(fields),
            "prev_hash": self.head,
        }
        row["hash"] = row_hash(row)
        if self._stream is not None:
            try:
                self._stream.write(json.dumps(row, separators=(",", ":")) + "\n")
                self._stream.flush()
                if self.durable:
                    os.fsync(self._stream.fileno())
            except (OSError, ValueError) as cause:
                msg = message(
                    f"cannot write the ledger {self.path} ({cause})",
                    hint="an answer that cannot be recorded is not given; free the disk or reopen the holdout",
                )
                raise CounterlogError(msg) from cause
        self.rows.append(row)
        return row

    def verify(self, *, head: str | None = None) -> int:
        """Recompute the chain; with `head`, also require that it ends there. Returns the number of rows.

        Raises `CounterlogError` naming the first row that was edited, removed or moved.
        """
        rows = self.rows if self.path is None or self._stream is None else read_rows(self.path)
        previous = FIRST
        for k, row in enumerate(rows):
            if row.get("index") != k or row.get("prev_hash") != previous or row.get("hash") != row_hash(row):
                msg = message(
                    f"row {k} of the holdout ledger ({row.get('name', '?')!r}) does not fit the chain",
                    expected="every row to be as it was written",
                    hint="rows were edited, removed or reordered; the answers after it cannot be trusted",
                )
                raise CounterlogError(msg)
            previous = str(row["hash"])
        if head is not None and head != previous:
            msg = message(
                f"the ledger ends at {previous[:12]} after {len(rows)} rows",
                expected=f"the end {head[:12]} that was noted elsewhere",
                hint="the last rows were cut off, or this is an older copy",
            )
            raise CounterlogError(msg)
        return len(rows)

    def close(self) -> None:
        """Close the file; appending afterwards raises."""
        if self._stream is not None:
            self._stream.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ledger file. Raises `CounterlogError` for a line that is not JSON."""
    rows = []
    for k, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as cause:
            msg = message(
                f"line {k + 1} of {path} is not a ledger row ({cause})",
                hint="if it is the last line, a kill cut it short before its answer was shown: delete that line",
            )
            raise CounterlogError(msg) from cause
    return rows


class Lock:
    """A file that one open holdout owns; the operating system lets go of it when its process ends."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = open(target, "a+b")  # noqa: SIM115 - holding it is the lock
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._stream.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            self._stream.close()
            msg = message(
                f"the holdout in {target.parent} is open in another object or process",
                expected="one holder of the budget at a time",
                hint="use that object, or close() it first",
            )
            raise CounterlogError(msg) from cause

    def release(self) -> None:
        """Let another holder in."""
        self._stream.close()
