"""`Units`: a table with one row an observed unit, its columns named by role, for questions of cause and effect.

A role is given by column name. What is wrong is refused at once with the column, the first rows and the remedy; the
table itself is never changed and no gap is filled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import LogError, first_rows, message
from counterlog.core.features import Encoder
from counterlog.core.frames import collect, open_frame
from counterlog.core.hashing import Keys, row_keys, unit_keys

Floats = NDArray[np.float64]
LARGEST = 1e50  # squares and their products are still numbers
NUMERIC_ROLES = ("outcome", "treatment", "instrument", "weights")


class Units:
    """Observed units.

    `source`: any dataframe that narwhals wraps, a dict of columns, a Parquet/CSV/JSONL path or glob, or
    `database.duckdb::table`.  Roles, by column name:

    outcome      what came of it, a number
    treatment    what was done: 0/1, booleans, or a number
    instrument   what pushed units towards the treatment, 0/1, where there is one
    covariates   columns known before the instrument was set: numbers, text, booleans
    weights      sampling weights, positive numbers
    cluster      rows that belong together (a firm, a village): folds and standard errors keep them together

    Raises `LogError`; every message names the column, the first rows, and a remedy.
    """

    def __init__(
        self,
        source: Any,
        *,
        outcome: str,
        treatment: str,
        instrument: str | None = None,
        covariates: Sequence[str] = (),
        weights: str | None = None,
        cluster: str | None = None,
    ) -> None:
        self.outcome_column, self.treatment_column = outcome, treatment
        self.instrument_column, self.weights_column, self.cluster_column = instrument, weights, cluster
        self.covariate_columns = (
            (covariates,) if isinstance(covariates, str) else tuple(dict.fromkeys(covariates))
        )
        self.frame = open_frame(source)
        self._check_names(self.frame.collect_schema().names())
        self.table = collect(self.frame.select(list(self.columns)))
        self._check_values()

    # the table

    @property
    def roles(self) -> dict[str, str | None]:
        """Role -> column, covariates apart."""
        return {
            "outcome": self.outcome_column,
            "treatment": self.treatment_column,
            "instrument": self.instrument_column,
            "weights": self.weights_column,
            "cluster": self.cluster_column,
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have a role, each once."""
        return tuple(
            dict.fromkeys([*(c for c in self.roles.values() if c is not None), *self.covariate_columns])
        )

    @property
    def n(self) -> int:
        """Number of rows (units)."""
        return self.table.height

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        named = ", ".join(f"{role} {c!r}" for role, c in self.roles.items() if c is not None)
        return f"Units({self.n:,} rows, {named}, {len(self.covariate_columns)} covariates)"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the role columns' content: equal for pandas, Polars and Arrow of equal values."""
        digest = hashlib.sha256()
        for name in self.columns:
            series = self.table[name]
            digest.update(name.encode() + b"\x00")
            if series.dtype.is_numeric() or series.dtype == pl.Boolean:
                digest.update(series.cast(pl.Float64).to_numpy().tobytes())
            else:
                digest.update("\x1f".join(map(str, series.to_list())).encode())
        return digest.hexdigest()

    # roles as arrays

    @cached_property
    def outcome(self) -> Floats:
        """(n,)."""
        return self._numbers(self.outcome_column)

    @cached_property
    def treatment(self) -> Floats:
        """(n,)."""
        return self._numbers(self.treatment_column)

    @cached_property
    def instrument(self) -> Floats:
        """(n,). Raises `LogError` when no instrument was named."""
        if self.instrument_column is None:
            msg = message("no instrument was named", hint="instrument='column'")
            raise LogError(msg)
        return self._numbers(self.instrument_column)

    @cached_property
    def weights(self) -> Floats:
        """(n,) with mean 1; ones when none were named."""
        if self.weights_column is None:
            return np.ones(self.n)
        values = self._numbers(self.weights_column)
        return np.asarray(values / values.mean())

    @cached_property
    def encoder(self) -> Encoder:
        """How covariates become numbers: standardised numbers, one-hot categories."""
        return Encoder.fit(self.table.select(self.covariate_columns))

    @cached_property
    def covariates(self) -> Floats:
        """(n, p) encoded."""
        return self.encoder.transform(self.table.select(self.covariate_columns))

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Names of the p encoded columns."""
        return self.encoder.names

    def keys(self) -> Keys:
        """(n,) hash keys: of the clusters, else of the row numbers."""
        return unit_keys(self.table[self.cluster_column]) if self.cluster_column else row_keys(self.n)

    @cached_property
    def cluster(self) -> NDArray[np.int64] | None:
        """(n,) codes 0.. of the clusters in order of first appearance, or None when rows are independent."""
        if self.cluster_column is None:
            return None
        _, first, codes = np.unique(self.keys(), return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[codes].astype(np.int64)

    @property
    def independent(self) -> int:
        """Number of independent units: clusters, else rows."""
        return self.n if self.cluster is None else int(self.cluster.max()) + 1

    def is_binary(self, role: str) -> bool:
        """Whether the role's column holds 0 and 1 alone."""
        return bool(np.isin(getattr(self, role), (0.0, 1.0)).all())

    # checks

    def _numbers(self, name: str) -> Floats:
        return self.table[name].cast(pl.Float64).to_numpy().astype(np.float64)

    def _check_names(self, present: list[str]) -> None:
        named = [(role, c) for role, c in self.roles.items() if c is not None]
        named += [("covariates", c) for c in self.covariate_columns]
        for role, name in named:
            if name not in present:
                near = get_close_matches(name, present, n=1)
                msg = message(
                    f"the table has no column {name!r} for {role}",
                    expected=f"one of {', '.join(map(repr, present))}",
                    hint=f"did you mean {near[0]!r}?" if near else "check the spelling",
                )
                raise LogError(msg)
        taken: dict[str, str] = {}
        for role, name in named:
            if name in taken:
                msg = message(
                    f"column {name!r} is {taken[name]} and also {role}",
                    hint="give a column one role; an outcome, treatment or instrument is no covariate",
                )
                raise LogError(msg)
            taken[name] = role

    def _check_values(self) -> None:
        if self.n == 0:
            msg = message("the table has no rows", hint="check the filter or the file")
            raise LogError(msg)
        for name in self.columns:
            self._refuse(name, self.table[name].is_null(), "missing values", "drop these rows or fill them")
        for role in NUMERIC_ROLES:
            if (column := self.roles[role]) is not None:
                self._check_number(role, column)
        for name in self.covariate_columns:
            if self.table[name].dtype.is_numeric():
                self._check_finite(name)
        if self.weights_column is not None:
            bad = self.table[self.weights_column].cast(pl.Float64) <= 0
            self._refuse(self.weights_column, bad, "weights that are not positive", "drop these rows")

    def _check_number(self, role: str, name: str) -> None:
        kind = self.table[name].dtype
        if not (kind.is_numeric() or kind == pl.Boolean):
            msg = message(
                f"{role} column {name!r} is of type {kind}",
                expected="numbers" if role == "outcome" else "numbers, 0/1 or booleans",
                hint="code it as a number (for two groups: 0 and 1)",
            )
            raise LogError(msg)
        self._check_finite(name)

    def _check_finite(self, name: str) -> None:
        values = self.table[name].cast(pl.Float64)
        self._refuse(
            name, values.is_nan() | values.is_infinite(), "NaN or infinite values", "drop these rows"
        )
        self._refuse(name, values.abs() > LARGEST, f"values beyond {LARGEST:g}", "rescale the column")

    def _refuse(self, name: str, bad: pl.Series, what: str, hint: str) -> None:
        if bad.any():
            rows = np.flatnonzero(bad.to_numpy())
            msg = message(f"column {name!r} has {what}: {first_rows(rows.tolist())}", hint=hint)
            raise LogError(msg)

    def constant(self, role: str) -> bool:
        """Whether the role's column has a single value."""
        values = getattr(self, role)
        return bool((values == values[0]).all())

    def with_roles(self, **roles: Any) -> Units:
        """The same table with some roles changed."""
        arguments: dict[str, Any] = {**self.roles, "covariates": self.covariate_columns}
        return type(self)(self.frame.to_native(), **{**arguments, **roles})
