"""`Rollouts`: logged responses of a generative model, with rewards and what the sampler knew, checked before use.

One row a response; or one row a prompt with lists (`responses`, `rewards`, `old_logprobs`), which are unfolded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.files import write_parquet, write_whole
from counterlog.core.text_logs import (
    TOKENS,
    completion_texts,
    encode_prompts,
    encode_texts,
    fingerprint,
    kind_of,
    list_column,
    need_columns,
    open_text_log,
)
from counterlog.core.token_batches import Ragged, TokenBatch, take, token_batch

ROLES = ("prompt", "completion", "reward", "completion_logprobs", "group", "policy_version", "weight")
OPTIONAL = ("truncated", "source", "temperature", "top_p", "top_k", "propensity")
FOLDED = {"responses": "completion", "completions": "completion", "rewards": "reward"}
FOLDED |= {"old_logprobs": "completion_logprobs", "logprobs": "completion_logprobs"}
POSITIVE = 1e-4


class Rollouts:
    """A log of responses.

    `source`: JSONL, Parquet, a glob, a Hugging Face dataset, any dataframe, or a list of records. Columns, by their
    standard names unless given:

    prompt               text, chat turns, or token numbers
    completion           the response, in the same forms
    reward               a number; null means not judged. The column may be missing when a reward function will be used
    completion_logprobs  natural logs of the sampler's probabilities, one a response token
    group                which responses answer one prompt (default: those with the same prompt)
    policy_version       which iterate of the model sampled the row: an integer, or names in the order of their time
    weight               how much the row counts
    truncated            whether the response was cut off; all others end with the end-of-text token
    temperature, top_p, top_k   how the row was sampled; needed where log-probabilities are used
    source               policy, expert or human

    Any other column is kept and given to reward functions by its name. Raises `LogError`.
    """

    def __init__(
        self,
        source: Any,
        *,
        prompt: str = "prompt",
        completion: str = "completion",
        reward: str = "reward",
        completion_logprobs: str = "completion_logprobs",
        group: str = "group",
        policy_version: str = "policy_version",
        weight: str = "weight",
    ) -> None:
        frame = _renamed(
            open_text_log(source),
            dict(
                zip(
                    (prompt, completion, reward, completion_logprobs, group, policy_version, weight),
                    ROLES,
                    strict=True,
                )
            ),
        )
        frame = _unfolded(frame)
        for ids, name in (("prompt_ids", "prompt"), ("completion_ids", "completion")):
            if name not in frame.columns and ids in frame.columns:
                frame = frame.rename({ids: name})
        need_columns(frame, ("prompt", "completion"), "Rollouts")
        self.prompt_kind, self.completion_kind = kind_of(frame["prompt"]), kind_of(frame["completion"])
        self.versions: tuple[str, ...] = ()
        self.table = self._checked(frame)

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        if "reward" in frame.columns:
            frame = frame.with_columns(_numbers(frame["reward"]))
        if "weight" in frame.columns:
            frame = frame.with_columns(_numbers(frame["weight"]))
            _refuse(frame["weight"], (frame["weight"] < 0) | frame["weight"].is_null(), "at least 0")
        if "completion_logprobs" in frame.columns:
            if frame["completion_logprobs"].null_count() == frame.height:
                frame = frame.drop("completion_logprobs")
            else:
                _check_logprobs(frame, self.completion_kind)
        own = "group" in frame.columns
        key = pl.col("group") if own else _key(frame["prompt"])
        frame = frame.with_columns(group=(key.rank("dense") - 1).cast(pl.Int64))
        if own:
            different = frame.group_by("group").agg(_key(frame["prompt"]).n_unique().alias("prompts"))
            if (bad := different.filter(pl.col("prompts") > 1)).height:
                rows = frame["group"].is_in(bad["group"].to_list()).arg_true().to_list()
                msg = message(
                    f"{bad.height} groups hold more than one prompt: {first_rows(rows)}",
                    hint="make `group` unique across data sets, or drop the column to group by prompt",
                )
                raise LogError(msg)
        if "policy_version" in frame.columns and not frame["policy_version"].dtype.is_integer():
            names = frame["policy_version"].cast(pl.String).unique(maintain_order=True)
            self.versions = tuple(str(n) for n in names)
            codes = pl.Series(range(len(names)), dtype=pl.Int64)
            frame = frame.with_columns(
                policy_version=frame["policy_version"].cast(pl.String).replace_strict(names, codes)
            )
        return frame

    @property
    def n(self) -> int:
        """Responses."""
        return self.table.height

    @property
    def groups(self) -> int:
        """Prompts."""
        return self.table["group"].n_unique()

    def has(self, name: str) -> bool:
        """Whether the log has this column."""
        return name in self.table.columns

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows."""
        return fingerprint(self.table)

    def need_temperature(self, temperature: float) -> None:
        """Raise `LogError` unless the logged log-probabilities are those of the full softmax at this temperature."""
        for name, wanted in (("temperature", temperature), ("top_p", 1.0), ("top_k", 0.0)):
            if not self.has(name):
                continue
            values = self.table[name].cast(pl.Float64).fill_null(wanted)
            if name == "top_k":
                values = values.clip(lower_bound=0)
            if (bad := (values - wanted).abs() > 1e-9).any():
                found = ", ".join(f"{v:g}" for v in values.unique().sort().to_list()[:5])
                msg = message(
                    f"column {name!r} holds {found}: {first_rows(bad.arg_true().to_list())}",
                    expected=f"{wanted:g}, so that ratios compare like with like",
                    hint="set temperature to the log's, keep one temperature a run, or recompute_old=true",
                )
                raise LogError(msg)

    def with_rewards(self, rewards: NDArray[Any]) -> Self:
        """The same log with these rewards (n,); NaN means not judged."""
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        out.table = self.table.with_columns(reward=pl.Series(rewards, dtype=pl.Float64).fill_nan(None))
        return out

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write Parquet, or JSONL when the name ends so; whole or not at all."""
        if str(path).endswith((".jsonl", ".ndjson")):
            return write_whole(path, self.table.write_ndjson())
        return write_parquet(path, self.table)

    def encode(self, tokenizer: Any, *, vocabulary: int, longest: int | None = None) -> EncodedRollouts:
        """The log as token numbers. `longest` cuts responses. Raises `LogError` for tokens that the model lacks and
        for log-probabilities that are not one a token."""
        t = self.table
        prompts, which = encode_prompts(tokenizer, t["prompt"], self.prompt_kind)
        ended = np.ones(self.n, bool)
        if "truncated" in t.columns:
            ended = ~t["truncated"].fill_null(False).to_numpy()
        logprobs = (
            list_column(t["completion_logprobs"], np.float32) if self.has("completion_logprobs") else None
        )
        if self.completion_kind == TOKENS:
            responses = list_column(t["completion"], np.int64)
        else:
            texts = completion_texts(t["completion"], self.completion_kind)
            responses = encode_texts(tokenizer, texts, False)
            closes = ended if logprobs is None else ended & (np.diff(logprobs[1]) > np.diff(responses[1]))
            responses = _closed(responses, int(tokenizer.eos_token_id), closes)
        if (
            logprobs is not None
            and (bad := np.flatnonzero(np.diff(logprobs[1]) != np.diff(responses[1]))).size
        ):
            i = int(bad[0])
            msg = message(
                f"row {i} has {np.diff(logprobs[1])[i]} log-probabilities for {np.diff(responses[1])[i]} tokens "
                f"({len(bad)} such rows)",
                hint="log token numbers with their log-probabilities; another tokenizer cuts text differently",
            )
            raise LogError(msg)
        for name, (flat, start) in (("prompt", prompts), ("completion", responses)):
            if (bad := np.flatnonzero((flat < 0) | (flat >= vocabulary))).size:
                row = int(np.searchsorted(start, bad[0], side="right")) - 1
                msg = message(
                    f"{name} {row} holds token {flat[bad[0]]}",
                    expected=f"0 to {vocabulary - 1}, the model's tokens",
                    hint="the tokenizer is not this model's",
                )
                raise LogError(msg)
        if longest is not None:
            responses, cut = _cut(responses, longest)
            ended &= ~cut
            logprobs = None if logprobs is None else _cut(logprobs, longest)[0]
        return EncodedRollouts(
            prompts=prompts,
            which=which,
            responses=responses,
            logprobs=logprobs,
            rewards=t["reward"].fill_null(np.nan).to_numpy() if self.has("reward") else None,
            group=t["group"].to_numpy(),
            version=t["policy_version"].to_numpy() if self.has("policy_version") else None,
            weights=t["weight"].to_numpy() if self.has("weight") else None,
            ended=ended,
        )


@dataclass
class EncodedRollouts:
    """A log as token numbers: distinct prompts, which of them each row has, and responses."""

    prompts: Ragged
    which: NDArray[np.int64]
    responses: Ragged
    logprobs: Ragged | None
    rewards: NDArray[np.float64] | None
    group: NDArray[np.int64]
    version: NDArray[np.int64] | None
    weights: NDArray[np.float64] | None
    ended: NDArray[np.bool_]

    def batch(self, rows: NDArray[np.int64], pad: int, *, mask_truncated: bool = False) -> TokenBatch:
        """These rows as a padded batch."""

        def some(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[rows]

        return token_batch(
            take(self.prompts, self.which[rows]),
            take(self.responses, rows),
            pad=pad,
            rewards=some(self.rewards),
            group=self.group[rows],
            version=some(self.version),
            weights=some(self.weights),
            old_logprobs=None if self.logprobs is None else take(self.logprobs, rows),
            counts=self.ended[rows] if mask_truncated else None,
        )


def _renamed(frame: pl.DataFrame, roles: dict[str, str]) -> pl.DataFrame:
    """Columns under their standard names; a named column that is missing is refused."""
    given = {column: role for column, role in roles.items() if column != role}
    need_columns(frame, list(given), "Rollouts")
    frame = frame.drop([role for role in given.values() if role in frame.columns and role not in given])
    return frame.rename(given)


def _unfolded(frame: pl.DataFrame) -> pl.DataFrame:
    """A row a prompt with lists of responses becomes a row a response."""
    names = {k: v for k, v in FOLDED.items() if k in frame.columns and v not in frame.columns}
    if "completion" not in names.values():
        return frame
    lists = list(names)
    lengths = [frame[name].list.len() for name in lists if isinstance(frame[name].dtype, pl.List)]
    if any((lengths[0] != other).any() for other in lengths[1:]):
        rows = (lengths[0] != next(o for o in lengths[1:] if (lengths[0] != o).any())).arg_true().to_list()
        msg = message(f"lists of unequal length in {first_rows(rows)}: columns {', '.join(lists)}")
        raise LogError(msg)
    if "group" not in frame.columns:
        frame = frame.with_row_index("group")
    return frame.explode(lists).rename(names)


def _key(prompt: pl.Series) -> pl.Expr:
    """Prompts as something that can be compared."""
    if prompt.dtype == pl.String:
        return pl.col("prompt")
    if isinstance(prompt.dtype, pl.List) and prompt.dtype.inner.is_integer():
        return pl.col("prompt").cast(pl.List(pl.String)).list.join(" ")
    turns = [repr(t) for t in prompt.to_list()]
    return pl.lit(pl.Series(turns))


def _numbers(column: pl.Series) -> pl.Series:
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        msg = message(
            f"column {column.name!r} is of type {column.dtype}",
            expected="numbers",
            hint="null means not judged",
        )
        raise LogError(msg)
    out = column.cast(pl.Float64)
    _refuse(out, ~out.is_finite(), "finite numbers, null where nobody judged")
    return out


def _refuse(column: pl.Series, bad: pl.Series, expected: str) -> None:
    if bad.fill_null(False).any():
        rows = bad.fill_null(False).arg_true().to_list()
        msg = message(
            f"column {column.name!r} holds {column[rows[0]]} in {first_rows(rows)}", expected=expected
        )
        raise LogError(msg)


def _check_logprobs(frame: pl.DataFrame, kind: str) -> None:
    column = frame["completion_logprobs"]
    if not isinstance(column.dtype, pl.List):
        msg = message(f"column 'completion_logprobs' is of type {column.dtype}", expected="lists of numbers")
        raise LogError(msg)
    _refuse(column, column.is_null(), "log-probabilities in every row, or no such column")
    lists = column.cast(pl.List(pl.Float64))
    inner = lists.list.eval((pl.element() > POSITIVE) | ~pl.element().is_finite() | pl.element().is_null())
    _refuse(lists, inner.list.any(), "natural logs of probabilities: finite, at most 0")
    if kind == TOKENS:
        _refuse(lists, lists.list.len() != frame["completion"].list.len(), "one log-probability a token")


def _closed(responses: Ragged, end: int, closes: NDArray[np.bool_]) -> Ragged:
    """Responses with the end-of-text token behind those that end."""
    flat, start = responses
    at = start[1:][closes]
    lengths = np.diff(start) + closes
    return np.insert(flat, at, end), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _cut(values: Ragged, longest: int) -> tuple[Ragged, NDArray[np.bool_]]:
    """At most `longest` of each row, and which rows were longer."""
    flat, start = values
    length = np.diff(start)
    inside = np.arange(len(flat)) - np.repeat(start[:-1], length) < longest
    kept = np.concatenate([[0], np.cumsum(np.minimum(length, longest))]).astype(np.int64)
    return (flat[inside], kept), length > longest


def rollouts_of(batch: TokenBatch, *, temperature: float = 1.0) -> Rollouts:
    """A batch as a log of token numbers, ready to save."""
    width = batch.prompt_width
    mask = batch.attention_mask.bool()
    prompt, answer = mask[:, :width], mask[:, width:]
    ids = batch.input_ids
    columns: dict[str, Any] = {
        "prompt": [row[m].tolist() for row, m in zip(ids[:, :width], prompt, strict=True)],
        "completion": [row[m].tolist() for row, m in zip(ids[:, width:], answer, strict=True)],
        "group": batch.group.tolist(),
        "policy_version": batch.version.tolist(),
        "temperature": [temperature] * len(batch),
    }
    if batch.rewards.isfinite().any():
        columns["reward"] = [r if np.isfinite(r) else None for r in batch.rewards.tolist()]
    if batch.old_logprobs is not None:
        columns["completion_logprobs"] = [
            row[m].tolist() for row, m in zip(batch.old_logprobs, answer, strict=True)
        ]
    return Rollouts(pl.DataFrame(columns))
