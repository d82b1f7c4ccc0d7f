"""`Episodes`: a log of trajectories of any lengths, flat arrays end to end, checked before anybody trusts it.

Trajectory i owns rows offsets[i] .. offsets[i + 1] - 1. A row is one step: state, action, reward, the logging policy's
probability of the action, and how the trajectory ended there, if it did. `terminated`: the task was over, nothing
follows. `truncated`: the recording stopped (a time limit), more would have followed. What is wrong is refused with the
column, the count, the first rows and the remedy; the input is never changed and no gap is filled.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core import ragged
from counterlog.core.episode_checks import (
    action_labels,
    checked_flags,
    checked_log_propensity,
    checked_numbers,
    checked_offsets,
    checked_table,
    coded_column,
    number_column,
    ordered_rows,
    refuse_missing,
    sealed,
)
from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.files import write_whole
from counterlog.core.frames import collect, open_frame

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]
ROLES = (
    "state",
    "action",
    "reward",
    "propensity",
    "log_propensity",
    "terminated",
    "truncated",
    "final_state",
)


class EpisodeWarning(UserWarning):
    """A log of trajectories stands, but something was decided on its behalf."""


class Episodes:
    """A log of n trajectories with N steps in all. Arrays are read-only.

    offsets          (n + 1,) first row of each trajectory, and N
    state            (N,) integer codes, or (N, d) numbers
    action           (N,) integer codes in [0, actions), or (N, k) numbers for continuous actions
    reward           (N,) reward units a step; None when the log has none
    propensity       (N,) the logging policy's probability of the action, in (0, 1] (a density above 0 for continuous
                     actions), or `log_propensity`, its logarithm; both None when unknown
    terminated       (N,) the task ended with this step; truncated (N,) the recording stopped after it
    actions          the actions by code: a number of actions, or their labels
    final_state      (n,) or (n, d) the state after the last step, where it was recorded (NaN or -1 where not)
    reward_unit      what a reward is, for results

    Raises `LogError` and `PropensityError`. A trajectory whose last step carries neither flag counts as truncated, with
    an `EpisodeWarning`.
    """

    def __init__(
        self,
        *,
        offsets: ArrayLike,
        state: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        log_propensity: ArrayLike | None = None,
        terminated: ArrayLike | None = None,
        truncated: ArrayLike | None = None,
        actions: int | Sequence[Any] | None = None,
        final_state: ArrayLike | None = None,
        reward_unit: str = "reward",
    ) -> None:
        self.offsets: Codes = sealed(checked_offsets(offsets))
        rows = int(self.offsets[-1])
        self.state = sealed(checked_table("state", state, rows))
        self.action = sealed(checked_table("action", action, rows))
        self.actions = action_labels(actions, self.action)
        self.reward: Floats | None = (
            None if reward is None else sealed(checked_numbers("reward", reward, rows))
        )
        self.log_propensity = checked_log_propensity(propensity, log_propensity, rows, discrete=self.discrete)
        self.terminated: Flags = sealed(checked_flags("terminated", terminated, rows))
        self.truncated: Flags = sealed(self._ends(checked_flags("truncated", truncated, rows)))
        self.final_state = None if final_state is None else sealed(self._final(final_state))
        self.reward_unit = reward_unit

    # what is in it

    @property
    def n(self) -> int:
        """Number of trajectories: the independent units."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> int:
        """Number of steps of all trajectories together."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        size = self.lengths
        span = f"{size.min()}" if size.min() == size.max() else f"{size.min()} to {size.max()}"
        kind = f"{len(self.actions)} actions" if self.discrete else "continuous actions"
        known = "known" if self.log_propensity is not None else "unknown"
        return f"Episodes({self.n:,} trajectories of {span} steps, {kind}, propensity {known})"

    @property
    def discrete(self) -> bool:
        """Whether actions are codes."""
        return self.action.ndim == 1

    @property
    def lengths(self) -> Codes:
        """(n,) steps of each trajectory."""
        return ragged.lengths(self.offsets)

    @cached_property
    def steps(self) -> Codes:
        """(N,) step within the trajectory, counted from 0."""
        return ragged.steps(self.offsets)

    @cached_property
    def owners(self) -> Codes:
        """(N,) trajectory of each row."""
        return ragged.owners(self.offsets)

    @property
    def first(self) -> Codes:
        """(n,) first row of each trajectory."""
        return self.offsets[:-1]

    @property
    def last(self) -> Codes:
        """(n,) last row of each trajectory."""
        return self.offsets[1:] - 1

    @property
    def propensity(self) -> Floats | None:
        """(N,) the logging policy's probability of the logged action."""
        return None if self.log_propensity is None else np.exp(self.log_propensity)

    def returns(self, gamma: float = 1.0) -> Floats:
        """(n,) discounted sum of rewards; the first step has weight gamma^0 = 1."""
        (reward,) = self.need("reward")
        return ragged.sums(gamma**self.steps * reward, self.offsets)

    @cached_property
    def next_state(self) -> NDArray[Any]:
        """(N,) or (N, d) state after each step; the step's own state where no successor is known (see `continues`)."""
        follow = np.minimum(np.arange(self.rows) + 1, self.rows - 1)
        successor = np.array(self.state[follow])
        successor[self.last] = self.state[self.last]
        if self.final_state is not None:
            known = self._final_known()
            successor[self.last[known]] = self.final_state[known]
        return successor

    @cached_property
    def continues(self) -> Flags:
        """(N,) whether the state after the step is known and not past a termination."""
        follows = np.ones(self.rows, bool)
        follows[self.last] = self._final_known()
        return follows & ~self.terminated

    def _final_known(self) -> Flags:
        if self.final_state is None:
            return np.zeros(self.n, bool)
        if np.issubdtype(self.final_state.dtype, np.integer):
            return np.asarray(self.final_state >= 0, bool)
        return np.asarray(np.isfinite(self.final_state).all(axis=1), bool)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: equal for every source of equal values."""
        digest = hashlib.sha256()
        for name in ("offsets", *ROLES):
            array = None if name == "propensity" else getattr(self, name)
            if array is not None:
                kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
                digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array, kind).tobytes())
        digest.update(repr(self.actions).encode())
        return digest.hexdigest()

    def need(self, *roles: str) -> tuple[Any, ...]:
        """The named roles as arrays: `state, action, reward = log.need("state", "action", "reward")`.

        Raises `LogError` naming the role that the log lacks.
        """
        found = []
        for role in roles:
            if role not in ROLES:
                msg = message(
                    f"{role!r} is not a role of a log of trajectories", expected=f"one of {', '.join(ROLES)}"
                )
                raise LogError(msg)
            if (array := getattr(self, role)) is None:
                hint = f"give {role}=... (the logging policy's probabilities cannot be made up)"
                msg = message(f"the log has no {role!r}", hint=hint if "prop" in role else f"give {role}=...")
                raise LogError(msg)
            found.append(array)
        return tuple(found)

    def take(self, trajectories: ArrayLike) -> Episodes:
        """The given trajectories (indices, repeats allowed, or a mask) as a log with the same actions."""
        chosen = np.asarray(trajectories)
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        size = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(size)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], size)
        return Episodes(
            offsets=offsets,
            state=self.state[rows],
            action=self.action[rows],
            reward=None if self.reward is None else self.reward[rows],
            log_propensity=None if self.log_propensity is None else self.log_propensity[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
            actions=self.actions if self.discrete else None,
            final_state=None if self.final_state is None else self.final_state[index],
            reward_unit=self.reward_unit,
        )

    # sources

    @classmethod
    def from_table(
        cls,
        source: Any,
        *,
        trajectory: str,
        t: str,
        state: str | Sequence[str],
        action: str | Sequence[str],
        reward: str | None = None,
        propensity: str | None = None,
        log_propensity: str | None = None,
        terminated: str | None = None,
        truncated: str | None = None,
        actions: int | Sequence[Any] | None = None,
        reward_unit: str = "reward",
    ) -> Self:
        """From a long table, one row a step: any dataframe narwhals wraps, a dict of columns, or a path.

        Roles are column names; rows may come in any order. One integer `state` column is a code, several columns (or
        a list of one) are features. One integer or text `action` column is a discrete action, a list of columns a
        continuous one. Raises `LogError` for a missing column, repeated (trajectory, t), gaps in t, rows after an end.
        """
        named = {
            "trajectory": [trajectory],
            "t": [t],
            "state": [state] if isinstance(state, str) else list(state),
            "action": [action] if isinstance(action, str) else list(action),
        }
        single = {
            "reward": reward,
            "propensity": propensity,
            "log_propensity": log_propensity,
            "terminated": terminated,
            "truncated": truncated,
        }
        named |= {role: [name] for role, name in single.items() if name is not None}
        frame = open_frame(source)
        present = frame.collect_schema().names()
        for role, names in named.items():
            for name in names:
                if name not in present:
                    msg = message(
                        f"the log has no column {name!r} for {role}",
                        expected=f"one of {', '.join(map(repr, present))}",
                    )
                    raise LogError(msg)
        table = collect(frame.select(list(dict.fromkeys(c for names in named.values() for c in names))))
        order, offsets = ordered_rows(table, trajectory, t)
        labels: int | Sequence[Any] | None = actions
        arrays: dict[str, Any] = {}
        for role, names in named.items():
            if role in ("trajectory", "t"):
                continue
            as_matrix = role in ("state", "action") and not isinstance(
                state if role == "state" else action, str
            )
            columns = [table[c] for c in names]
            if (
                role == "action"
                and not as_matrix
                and not columns[0].dtype.is_numeric()
                and not columns[0].is_null().any()
            ):
                values, labels = coded_column(columns[0], actions)
            else:
                values = (
                    np.column_stack([number_column(c, role) for c in columns])
                    if as_matrix
                    else number_column(columns[0], role)
                )
            arrays[role] = values
        for role, values in arrays.items():
            refuse_missing(role, values)
        ordered = {role: values[order] for role, values in arrays.items()}
        return cls(offsets=offsets, **ordered, actions=labels, reward_unit=reward_unit)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], *, actions: int | Sequence[Any] | None = None) -> Self:
        """From a NumPy archive with arrays named as the roles (and `offsets`). Pickled objects are not read."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = {k: archive[k] for k in archive.files}
        except (OSError, ValueError, EOFError) as cause:
            msg = message(f"{os.fspath(path)!r} is not a NumPy archive of plain arrays ({cause})")
            raise LogError(msg) from cause
        labels = content.pop("actions", None)
        unknown = sorted(set(content) - {"offsets", *ROLES})
        missing = sorted({"offsets", "state", "action"} - set(content))
        if unknown or missing:
            found = f"has no array {missing[0]!r}" if missing else f"has an unknown array {unknown[0]!r}"
            msg = message(
                f"{os.fspath(path)!r} {found}",
                expected=f"offsets, state, action and any of {', '.join(ROLES)}",
            )
            raise LogError(msg)
        listed = actions if actions is not None else (None if labels is None else labels.tolist())
        return cls(**content, actions=listed)

    def to_npz(self, path: str | os.PathLike[str]) -> Path:
        """Write what `from_npz` reads, whole or not at all."""
        from io import BytesIO

        arrays = {k: getattr(self, k) for k in ("offsets", *ROLES) if k != "propensity"}
        arrays = {k: v for k, v in arrays.items() if v is not None}
        if self.discrete:
            arrays["actions"] = np.array(self.actions)
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return write_whole(path, buffer.getvalue())

    # checks

    def _ends(self, truncated: Flags) -> Flags:
        """The truncation flags, with unflagged last steps added; ends in mid-trajectory are refused."""
        done = self.terminated | truncated
        inside = done.copy()
        inside[self.last] = False
        if inside.any():
            rows = np.flatnonzero(inside)
            msg = message(
                f"{len(rows):,} steps end their trajectory although more steps follow: {first_rows(rows)}",
                hint="start a new trajectory after each end, or repair the terminated/truncated flags",
            )
            raise LogError(msg)
        if both := int((self.terminated & truncated).sum()):
            warnings.warn(
                f"{both:,} steps are both terminated and truncated; they count as terminated",
                EpisodeWarning,
                stacklevel=3,
            )
        open_ended = ~done[self.last]
        if open_ended.any():
            where = first_rows(np.flatnonzero(open_ended)).replace("row", "trajector" + "y", 1)
            where = where.replace("trajectorys", "trajectories")
            warnings.warn(
                f"{int(open_ended.sum()):,} of {self.n:,} trajectories do not say how they ended ({where}); "
                "they count as truncated",
                EpisodeWarning,
                stacklevel=3,
            )
        flags = truncated & ~self.terminated
        flags[self.last[open_ended]] = True
        return flags

    def _final(self, values: ArrayLike) -> NDArray[Any]:
        array = np.array(values)
        shape = (self.n, *self.state.shape[1:])
        if array.shape != shape:
            msg = message(f"final_state has shape {array.shape}", expected=f"{shape}, one state a trajectory")
            raise LogError(msg)
        return array.astype(self.state.dtype)
