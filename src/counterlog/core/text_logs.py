"""What logs of text share: any source as Polars columns; prompts as text, chat turns or token numbers; their tokens."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from counterlog.core.errors import LogError, first_rows, message, need_extra
from counterlog.core.frames import collect, open_frame
from counterlog.core.token_batches import Ragged, ragged

TOKENS, TEXT, CHAT = "tokens", "text", "chat"


def open_text_log(source: Any) -> pl.DataFrame:
    """Every row as Polars columns: JSONL, Parquet, a saved or loaded Hugging Face dataset, any dataframe, records."""
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, (str, os.PathLike)) and (Path(source) / "dataset_info.json").exists():
        source = need_extra("datasets", "language").load_from_disk(os.fspath(source))
    if hasattr(source, "with_format") and hasattr(source, "column_names"):
        source = source.with_format("arrow")[:]
    if isinstance(source, list):
        if not source or not all(isinstance(row, dict) for row in source):
            msg = message("a list that is no list of records", expected="dicts, one a row")
            raise LogError(msg)
        source = pl.DataFrame(source, infer_schema_length=None, strict=False)
    found = collect(open_frame(source))
    if found.height == 0:
        msg = message("the log has no rows", hint="write one row a response")
        raise LogError(msg)
    return found


def need_columns(frame: pl.DataFrame, names: Sequence[str], kind: str) -> None:
    """Raise `LogError` naming the first column that is missing."""
    for name in names:
        if name not in frame.columns:
            msg = message(
                f"{kind}: there is no column {name!r}; columns: {', '.join(frame.columns)}",
                hint=f"name the column that holds it, as in {kind}(source, {names[0]}='...')",
            )
            raise LogError(msg)


def kind_of(column: pl.Series) -> str:
    """Whether a column holds text, token numbers or chat turns. Raises `LogError` for anything else, and for gaps."""
    if column.null_count():
        rows = column.is_null().arg_true().to_list()
        msg = message(
            f"column {column.name!r} is empty in {first_rows(rows)}", hint="drop these rows, or fill them"
        )
        raise LogError(msg)
    if column.dtype == pl.String:
        return TEXT
    if isinstance(column.dtype, (pl.List, pl.Array)):
        inner = column.dtype.inner
        if inner.is_integer():
            return TOKENS
        if isinstance(inner, pl.Struct) and {"role", "content"} <= {f.name for f in inner.fields}:
            return CHAT
    msg = message(
        f"column {column.name!r} is of type {column.dtype}",
        expected="text, lists of token numbers, or lists of chat turns with role and content",
    )
    raise LogError(msg)


def list_column(column: pl.Series, dtype: Any) -> Ragged:
    """A list column as a ragged array."""
    lengths = column.list.len().fill_null(0).to_numpy()
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = column.drop_nulls().list.explode(empty_as_null=False) if len(column) else column
    return flat.to_numpy().astype(dtype), start


def prompt_text(tokenizer: Any, turns: Sequence[dict[str, Any]]) -> str:
    """Chat turns as the text that the model was taught to continue. Raises `LogError` without a chat template."""
    if getattr(tokenizer, "chat_template", None) is None:
        msg = message(
            "prompts are chat turns and the tokenizer has no chat template",
            hint="set tokenizer.chat_template, or write prompts as text",
        )
        raise LogError(msg)
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def encode_prompts(tokenizer: Any, column: pl.Series, kind: str) -> tuple[Ragged, np.ndarray[Any, Any]]:
    """Tokens of the distinct prompts, and which of them each row has (n,)."""
    if kind == TOKENS:
        return list_column(column, np.int64), np.arange(len(column))
    special = kind == TEXT  # a chat template writes its own special tokens
    texts = column if kind == TEXT else pl.Series([prompt_text(tokenizer, t) for t in column.to_list()])
    distinct = texts.unique(maintain_order=True)
    index = texts.replace_strict(distinct, pl.Series(range(len(distinct)), dtype=pl.Int64)).to_numpy()
    return encode_texts(tokenizer, distinct.to_list(), special), index


def encode_texts(tokenizer: Any, texts: Sequence[str], special: bool) -> Ragged:
    """Texts as tokens."""
    need_tokenizer(tokenizer)
    return ragged(tokenizer(list(texts), add_special_tokens=special)["input_ids"], np.int64)


def completion_texts(column: pl.Series, kind: str) -> list[str]:
    """Completions as text: chat turns by the content of the last."""
    if kind == TEXT:
        return column.to_list()
    return [str(turns[-1]["content"]) for turns in column.to_list()]


def need_tokenizer(tokenizer: Any) -> None:
    """Raise `LogError` when text must be read and there is no tokenizer."""
    if tokenizer is None:
        msg = message(
            "the log holds text and the model came without a tokenizer",
            hint="save the tokenizer in the model's folder, or log token numbers",
        )
        raise LogError(msg)


def fingerprint(frame: pl.DataFrame) -> str:
    """SHA-256 of the rows."""
    stream = io.BytesIO()
    frame.rechunk().write_ipc(stream, compat_level=pl.CompatLevel.oldest())
    return hashlib.sha256(stream.getbuffer()).hexdigest()
