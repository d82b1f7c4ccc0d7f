"""`Pairs`: logged preferences, a chosen and a rejected response to one prompt, checked before use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.files import write_parquet, write_whole
from counterlog.core.rollouts import EncodedRollouts, Rollouts
from counterlog.core.text_logs import TEXT, fingerprint, kind_of, need_columns, open_text_log


class Pairs:
    """A log of preferences.

    `source`: JSONL, Parquet, a glob, a Hugging Face dataset, any dataframe, or a list of records. Columns:

    prompt             text, chat turns, or token numbers; may be missing when `chosen` and `rejected` are chat turns or
                       texts that begin alike: the part they share is then the prompt
    chosen, rejected   the two responses, in the same forms
    margin             by how much the one is better (optional)

    Raises `LogError`.
    """

    def __init__(
        self,
        source: Any,
        *,
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str = "rejected",
        margin: str = "margin",
    ) -> None:
        frame = open_text_log(source)
        need_columns(frame, (chosen, rejected), "Pairs")
        names = {prompt: "prompt", chosen: "chosen", rejected: "rejected", margin: "margin"}
        frame = frame.rename({k: v for k, v in names.items() if k in frame.columns and k != v})
        kinds = {kind_of(frame["chosen"]), kind_of(frame["rejected"])}
        if len(kinds) > 1:
            msg = message(f"`chosen` and `rejected` are of two kinds: {', '.join(sorted(kinds))}")
            raise LogError(msg)
        (self.kind,) = kinds
        if "prompt" not in frame.columns:
            frame = _split_prompt(frame, self.kind)
        self.prompt_kind = kind_of(frame["prompt"])
        same = frame["chosen"] == frame["rejected"] if self.kind == TEXT else pl.Series([False])
        if same.any():
            msg = message(
                f"chosen and rejected are the same in {first_rows(same.arg_true().to_list())}",
                hint="drop these rows: they say nothing",
            )
            raise LogError(msg)
        if "margin" in frame.columns and not frame["margin"].dtype.is_numeric():
            msg = message(f"column 'margin' is of type {frame['margin'].dtype}", expected="numbers")
            raise LogError(msg)
        self.table = frame

    @property
    def n(self) -> int:
        """Pairs."""
        return self.table.height

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows."""
        return fingerprint(self.table)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write Parquet, or JSONL when the name ends so; whole or not at all."""
        if str(path).endswith((".jsonl", ".ndjson")):
            return write_whole(path, self.table.write_ndjson())
        return write_parquet(path, self.table)

    def as_rollouts(self) -> Rollouts:
        """Two rows a pair, the chosen one first, reward 1 and 0, the pair as group."""
        parts = [
            self.table.select(
                "prompt",
                completion=pl.col(name),
                reward=pl.lit(reward),
                group=pl.int_range(pl.len()),
            )
            for name, reward in (("chosen", 1.0), ("rejected", 0.0))
        ]
        return Rollouts(pl.concat(parts).sort("group", "reward", descending=[False, True]))

    def encode(self, tokenizer: Any, *, vocabulary: int, longest: int | None = None) -> EncodedRollouts:
        """Token numbers: row 2 i is the chosen response of pair i, row 2 i + 1 the rejected one."""
        return self.as_rollouts().encode(tokenizer, vocabulary=vocabulary, longest=longest)

    @property
    def margins(self) -> np.ndarray[Any, Any] | None:
        """(n,) margins, or None."""
        return self.table["margin"].to_numpy() if "margin" in self.table.columns else None


def _split_prompt(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The shared beginning of both responses as the prompt."""
    pairs = list(zip(frame["chosen"].to_list(), frame["rejected"].to_list(), strict=True))
    shared = [_alike(a, b) for a, b in pairs]
    if kind == TEXT:  # cut before a word, so that both responses keep their first word whole
        shared = [
            a.rfind(" ", 0, k) + 1 if k < len(a) else k for (a, _), k in zip(pairs, shared, strict=True)
        ]
    if (bad := [i for i, k in enumerate(shared) if k == 0]) or kind not in (TEXT, "chat"):
        msg = message(
            f"there is no column 'prompt', and chosen and rejected share no beginning: {first_rows(bad)}",
            hint="add a column prompt",
        )
        raise LogError(msg)
    return frame.with_columns(
        prompt=pl.Series([a[:k] for (a, _), k in zip(pairs, shared, strict=True)]),
        chosen=pl.Series([a[k:] for (a, _), k in zip(pairs, shared, strict=True)]),
        rejected=pl.Series([b[k:] for (_, b), k in zip(pairs, shared, strict=True)]),
    )


def _alike(a: Any, b: Any) -> int:
    """How many characters, or turns, two responses share at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
