"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from counterlog.core.errors import CounterlogError, MissingExtraError, first_rows, message, need_extra
from counterlog.core.files import sha256, write_whole


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "deep" / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CounterlogError, match=r"cannot write .*a.txt \(No space left on device\)\nhint: choose"
    ):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CounterlogError, match="cannot write"):
        write_whole(tmp_path / "file" / "below.txt", "x")


def test_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a", b"\x00\x01" * 1000)
    assert sha256(path) == hashlib.sha256(b"\x00\x01" * 1000).hexdigest()


def test_messages_say_found_expected_and_hint() -> None:
    assert message("two rows.", expected="one", hint="drop it") == "two rows; expected one\nhint: drop it"
    assert first_rows([4]) == "row 4"
    assert first_rows(range(7), show=2) == "rows 0, 1, ... (7 in all)"


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(
        MissingExtraError, match=r"'no_such_module' is not installed\nhint: pip install 'counterlog\[rl\]'"
    ):
        need_extra("no_such_module", "rl")
