"""The click log: lists of items as they were shown, with positions, clicks and the items' features.

Lists are ragged and lie end to end; `offsets` says where each begins. An item's features stand once, however often it
was shown. Nothing is mended: what a check refuses is named by column and first bad row, with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, SupportError, first_rows, message
from counterlog.core.frames import collect, open_frame
from counterlog.core.ragged import lengths, owners

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
ROLES = "list, position, click, features; optionally query, doc, segment, logger, time, label, score"


@dataclass(frozen=True)
class ClickTable:
    """Lists as rectangles, a column a position. `doc` (L, K) rows of the features, -1 where nothing was shown."""

    doc: NDArray[np.int32]
    click: NDArray[np.uint8]
    segment: Codes

    @property
    def shown(self) -> NDArray[np.bool_]:
        """(L, K) whether an item stood at the position."""
        return self.doc >= 0


@dataclass(frozen=True, eq=False)
class Clicks:
    """Checked lists. `doc` (N,) are rows of `features` (D, F); `segment`, `query`, `logger` (L,) are codes.

    `label` (N,) graded truth, for evaluation only; `score` (N,) what the logging ranker gave the item.
    """

    offsets: Codes
    features: NDArray[np.float32]
    doc: Codes
    position: Codes
    click: NDArray[np.uint8]
    query: Codes
    segment: Codes | None = None
    logger: Codes | None = None
    time: Floats | None = None
    label: Floats | None = None
    score: Floats | None = None
    segments: tuple[str, ...] = ("all",)
    columns: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_lists(self)

    @property
    def lists(self) -> int:
        """Lists shown."""
        return len(self.offsets) - 1

    @property
    def n(self) -> int:
        """Items shown, all lists together."""
        return len(self.click)

    @property
    def depth(self) -> int:
        """The lowest position that was shown."""
        return int(self.position.max())

    @classmethod
    def read(
        cls,
        source: Any,
        *,
        list: str,
        position: str,
        click: str,
        features: str | Sequence[str],
        query: str | None = None,
        doc: str | None = None,
        segment: str | None = None,
        logger: str | None = None,
        time: str | None = None,
        label: str | None = None,
        score: str | None = None,
        on_single: str = "refuse",
    ) -> Clicks:
        """From a dataframe or a path, a row an item shown. `features` is the names of columns, or of one list column.

        Rows of one list need not stand together. Without `query` every list is a query of its own; without `doc`
        items with equal features are one item. `on_single="drop"` leaves lists of one item out.
        """
        names = [features] if isinstance(features, str) else [*features]
        roles = {"list": list, "position": position, "click": click, "query": query, "doc": doc}
        roles |= {"segment": segment, "logger": logger, "time": time, "label": label, "score": score}
        wanted = [c for c in (*roles.values(), *names) if c is not None]
        lazy = open_frame(source)
        if missing := [c for c in wanted if c not in lazy.collect_schema().names()]:
            msg = message(
                f"the log has no column {missing[0]!r}", expected=ROLES, hint="name the columns by role"
            )
            raise LogError(msg)
        frame = collect(lazy.select(*dict.fromkeys(wanted)))
        return from_frame(frame, {k: v for k, v in roles.items() if v}, names, on_single)

    @property
    def longest(self) -> int:
        """The lowest position shown in any list."""
        return int(self.position.max())

    def clicks_at(self, size: int) -> Floats:
        """(size,) clicks by position, from the top."""
        kept = self.position <= size
        found = np.bincount(self.position[kept], self.click[kept], minlength=size + 1)[1:]
        return np.asarray(found, np.float64)

    def take(self, chosen: Any) -> Clicks:
        """The lists that `chosen` (numbers or a mask) names, in that order; features are shared."""
        rows = np.arange(self.lists)[chosen]
        size = lengths(self.offsets)[rows]
        ends = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        at = np.repeat(self.offsets[rows] - ends[:-1], size) + np.arange(ends[-1])
        cut = {k: v[at] for k in ("doc", "position", "click", "label", "score") if _is(v := getattr(self, k))}
        cut |= {k: v[rows] for k in ("query", "segment", "logger", "time") if _is(v := getattr(self, k))}
        return replace(self, offsets=ends, **cut)

    def table(self, size: int, *, on_long: str = "refuse") -> ClickTable:
        """The lists as (L, size). Raises `LogError` for lower positions unless `on_long="truncate"`."""
        late = self.position > size
        if late.any() and on_long != "truncate":
            msg = message(
                f"column 'position' goes down to {self.depth}: {first_rows(np.flatnonzero(late))}",
                expected=f"at most list_size={size}",
                hint="raise list_size, or set on_long=truncate",
            )
            raise LogError(msg)
        doc = np.full((self.lists, size), -1, np.int32)
        click = np.zeros((self.lists, size), np.uint8)
        at = (owners(self.offsets)[~late], self.position[~late] - 1)
        doc[at], click[at] = self.doc[~late], self.click[~late]
        segment = np.zeros(self.lists, np.int64) if self.segment is None else self.segment
        return ClickTable(doc, click, segment)


def _is(value: Any) -> bool:
    return value is not None


def from_frame(frame: pl.DataFrame, roles: dict[str, str], features: list[str], on_single: str) -> Clicks:
    """A log from columns by role. Raises `LogError`."""
    for role in ("list", "position", "click", *(r for r in ("query", "segment", "doc") if r in roles)):
        if (holes := frame[roles[role]].is_null()).any():
            at = first_rows(holes.arg_true().to_list())
            raise LogError(message(f"column {roles[role]!r} is empty in {at}", hint="fill or drop them"))
    position, click = _whole(frame, roles["position"]), _binary(frame, roles["click"])
    _from_one(position, roles["position"])
    matrix, wide = _matrix(frame, features)
    names = frame[roles["list"]]
    first = names.is_first_distinct()
    code = names.rank("dense").to_numpy().astype(np.int64)
    appearance = np.empty(int(code.max(initial=0)) + 1, np.int64)
    appearance[code[first.to_numpy()]] = np.arange(int(first.sum()))
    owner = appearance[code] if len(code) else code
    order = np.lexsort((position, owner))
    if on_single == "drop":
        order = order[np.bincount(owner)[owner[order]] > 1]
        _, owner_kept = np.unique(owner[order], return_inverse=True)
    else:
        owner_kept = owner[order]
    if not len(order):
        raise LogError(message("the log holds no list of two items", expected="lists of two items or more"))
    frame, position, matrix = frame[order], position[order], matrix[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner_kept))]).astype(np.int64)
    head = frame[offsets[:-1]]
    columns: dict[str, Any] = {r: _number(frame, roles[r]) for r in ("label", "score") if r in roles}
    if "time" in roles:
        columns["time"] = head[roles["time"]].to_physical().cast(pl.Float64).to_numpy()
    for r in ("logger", "segment"):
        if r in roles:
            columns[r] = _codes(head[roles[r]])
    levels = tuple(map(str, head[roles["segment"]].unique().sort())) if "segment" in roles else ("all",)
    items, doc = _items(frame, matrix, roles.get("doc"))
    return Clicks(
        offsets=offsets,
        features=items,
        doc=doc,
        position=position,
        click=click[order],
        query=_codes(head[roles["query"]]) if "query" in roles else np.arange(len(offsets) - 1),
        segments=levels,
        columns=wide,
        **columns,
    )


def _codes(column: pl.Series) -> Codes:
    return column.rank("dense").to_numpy().astype(np.int64) - 1


def _number(frame: pl.DataFrame, name: str) -> Floats:
    try:
        return frame[name].cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as cause:
        msg = message(f"column {name!r} is {frame[name].dtype}", expected="numbers")
        raise LogError(msg) from cause


def _whole(frame: pl.DataFrame, name: str) -> Codes:
    values = _number(frame, name)
    if (bad := ~np.isfinite(values) | (values != np.floor(np.nan_to_num(values)))).any():
        at = first_rows(np.flatnonzero(bad))
        raise LogError(message(f"column {name!r} holds no whole number in {at}", expected="1, 2, 3, ..."))
    return values.astype(np.int64)


def _binary(frame: pl.DataFrame, name: str) -> NDArray[np.uint8]:
    values = _number(frame, name)
    if (bad := ~np.isin(values, (0.0, 1.0))).any():
        row = int(np.flatnonzero(bad)[0])
        msg = message(
            f"column {name!r} holds {values[row]:g} in {first_rows(np.flatnonzero(bad))}",
            expected="0 or 1",
            hint="a count of clicks becomes 1 if it is above 0",
        )
        raise LogError(msg)
    return values.astype(np.uint8)


def _from_one(position: Codes, name: str) -> None:
    """Raise `LogError` for a position below 1."""
    if (low := position < 1).any():
        msg = message(
            f"column {name!r} is {int(position[low][0])} in {first_rows(np.flatnonzero(low))}",
            expected="1 for the top of the list",
            hint="add 1 to positions that start at 0",
        )
        raise LogError(msg)


def _matrix(frame: pl.DataFrame, names: list[str]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Features of every row (N, F), and their names."""
    parts: list[NDArray[np.float32]] = []
    wide: list[str] = []
    for name in names:
        column = frame[name]
        if isinstance(column.dtype, (pl.List, pl.Array)):
            sizes = column.list.len().unique() if isinstance(column.dtype, pl.List) else None
            if sizes is not None and len(sizes) != 1:
                msg = message(
                    f"lists in column {name!r} differ in length", expected="as many numbers in every row"
                )
                raise LogError(msg)
            block = np.stack(list(column.to_numpy())).astype(np.float32)
        else:
            block = _number(frame, name).astype(np.float32)[:, None]
        parts.append(block)
        wide += [name] if block.shape[1] == 1 else [f"{name}[{j}]" for j in range(block.shape[1])]
    matrix = np.ascontiguousarray(np.concatenate(parts, axis=1))
    _finite(matrix, wide)
    return matrix, tuple(wide)


def _items(
    frame: pl.DataFrame, matrix: NDArray[np.float32], doc: str | None
) -> tuple[NDArray[np.float32], Codes]:
    """Features of the distinct items (D, F), and the item of every row."""
    if doc is not None:
        keys = _codes(frame[doc])
        _, first, code = np.unique(keys, return_index=True, return_inverse=True)
        if (moved := (matrix != matrix[first][code]).any(axis=1)).any():
            row = int(np.flatnonzero(moved)[0])
            msg = message(
                f"the features of {doc!r} {frame[doc][row]!r} differ between rows (first: row {row})",
                hint="features depend on the query too? then make doc the pair of query and item",
            )
            raise LogError(msg)
    else:
        keys = np.ascontiguousarray(matrix + np.float32(0)).view(
            np.dtype((np.void, matrix.itemsize * matrix.shape[1]))
        )
        _, first, code = np.unique(keys.ravel(), return_index=True, return_inverse=True)
    return matrix[first], code.astype(np.int64)


def _finite(matrix: NDArray[np.float32], names: Sequence[str]) -> None:
    if (bad := ~np.isfinite(matrix)).any():
        row, column = (int(v[0]) for v in np.nonzero(bad))
        name = names[column] if names else str(column)
        count = int(bad.any(axis=1).sum())
        msg = message(
            f"feature {name!r} is not a finite number in row {row} ({count} rows in all)",
            hint="fill or drop such rows first",
        )
        raise LogError(msg)


def check_lists(log: Clicks) -> None:
    """Raise `LogError` with list and remedy unless the arrays are what the contract says."""
    size = lengths(log.offsets)
    if not len(size) or log.offsets[0] != 0 or log.offsets[-1] != len(log.click) or (size < 1).any():
        raise LogError(message("offsets do not cut the rows into lists", expected="0 = o_0 < o_1 < ... = N"))
    for name in ("doc", "position", "click", "label", "score"):
        if _is(v := getattr(log, name)) and len(v) != log.offsets[-1]:
            raise LogError(
                message(f"{name} has {len(v)} rows", expected=f"{log.offsets[-1]}, one an item shown")
            )
    for name in ("query", "segment", "logger", "time"):
        if _is(v := getattr(log, name)) and len(v) != len(size):
            raise LogError(message(f"{name} has {len(v)} rows", expected=f"{len(size)}, one a list"))
    if log.features.ndim != 2 or log.doc.min() < 0 or log.doc.max() >= len(log.features):
        msg = message("doc does not point into the features", expected=f"0 <= doc < {len(log.features)}")
        raise LogError(msg)
    _finite(log.features, log.columns)
    if (single := size == 1).any():
        msg = message(
            f"lists of one item: {first_rows(np.flatnonzero(single)).replace('row', 'list')}",
            expected="two items or more: one item is no ranking",
            hint='drop them, or read with on_single="drop"',
        )
        raise LogError(msg)
    _from_one(log.position, "position")
    key = owners(log.offsets) * (int(log.position.max()) + 1) + log.position
    order = np.argsort(key, kind="stable")
    if (twice := np.flatnonzero(np.diff(key[order]) == 0)).size:
        row = int(order[twice[0] + 1])
        lists = np.unique(owners(log.offsets)[order[twice]])
        msg = message(
            f"position {int(log.position[row])} stands twice in list {int(lists[0])} ({len(lists)} such lists)",
            hint="give every page view its own list id",
        )
        raise LogError(msg)
    if not np.isin(log.click, (0, 1)).all():
        raise LogError(message("click holds something else than 0 and 1", expected="0 or 1"))
    if log.label is not None and ((log.label < 0) | (log.label != np.floor(log.label))).any():
        bad = np.flatnonzero((log.label < 0) | (log.label != np.floor(log.label)))
        raise LogError(message(f"label is no grade in {first_rows(bad)}", expected="0, 1, 2, ..."))


def need_clicks(clicks: Floats, least: int) -> None:
    """Raise `SupportError` naming positions with fewer than `least` clicks: their weight is not defined."""
    if (few := np.flatnonzero(clicks < least)).size:
        msg = message(
            f"position {int(few[0]) + 1} has {int(clicks[few[0]])} clicks ({len(few)} positions below {least})",
            expected=f"at least min_clicks={least} at every position",
            hint="lower list_size with on_long=truncate, gather more lists, or lower min_clicks",
        )
        raise SupportError(msg)
