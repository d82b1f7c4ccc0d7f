"""Files that are either whole or absent: write beside, then rename; and checksums."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from counterlog.core.errors import CounterlogError, message

if TYPE_CHECKING:
    import polars as pl


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` so that a reader, or a kill, never sees half of it. Raises `CounterlogError` when the
    disk refuses."""
    target = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as cause:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        msg = message(
            f"cannot write {target} ({cause.strerror or cause})",
            hint="choose a writable folder with free space",
        )
        raise CounterlogError(msg) from cause
    return target


def write_parquet(path: str | os.PathLike[str], frame: pl.DataFrame) -> Path:
    """Write a Polars frame as Parquet, whole or not at all."""
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return write_whole(path, stream.getvalue())


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
