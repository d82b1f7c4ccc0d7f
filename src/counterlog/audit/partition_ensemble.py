"""Base models of disjoint parts of a training set, so that one record can only reach the models of its own bucket.

What makes the proof void is refused or ruled out: a bucket depends on a record's own features (or unit) alone, never on
its label, its position or other records; rows of a part are sorted before training; a model's seed depends on its
number alone; every model is trained by itself, in one thread, from unfitted parameters; a part of one class, or an
empty one, gives a constant model. Features are to be raw: scaling fitted on all rows lets one record reach every model;
put it into the base learner, where each part fits its own.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import ConfigError, LogError, NotFittedError, first_rows, message
from counterlog.core.files import write_whole
from counterlog.core.hashing import scatter, unit_keys

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Hash = Callable[[Floats], ArrayLike]


def digest_hash(X: Floats, salt: int) -> Ints:
    """(n,) the first 63 bits of the SHA-256 of each row's numbers; equal rows are equal, and -0 is 0."""
    rows = np.ascontiguousarray(X + 0.0)
    start = hashlib.sha256(f"counterlog part {salt}".encode())

    def one(row: memoryview) -> int:
        h = start.copy()
        h.update(row)
        return int.from_bytes(h.digest()[:8], "little") >> 1

    return np.fromiter((one(row.data) for row in rows), dtype=np.int64, count=len(rows))


def sum_hash(X: Floats) -> Ints:
    """(n,) the sum of whole-number features, the rule of the official code. Raises `LogError` for fractions."""
    if (bad := np.flatnonzero((np.rint(X) != X).any(axis=1))).size:
        hint = "use hash='sha256', or a function that rounds"
        msg = message(f"{first_rows(bad)} hold fractions", expected="whole numbers for hash='sum'", hint=hint)
        raise LogError(msg)
    return np.asarray(X.astype(np.int64).sum(axis=1), dtype=np.int64)


def shifts_of(parts: int, spread: int, rng: int) -> tuple[int, ...]:
    """`spread` distinct offsets among the parts * spread models; one part a record needs none."""
    if spread == 1:
        return (0,)
    drawn = np.random.default_rng([rng, 7]).choice(parts * spread, size=spread, replace=False)
    return tuple(int(s) for s in drawn)


def model_seed(rng: int, model: int, version: int) -> int:
    """A seed that depends on nothing but these three numbers."""
    return int(np.random.SeedSequence([rng, model, version]).generate_state(1)[0] >> 1)


class PartitionEnsemble:
    """`parts * spread` base models, each trained on the buckets that lead to it.

    `base`: a scikit-learn classifier, which is copied unfitted and gets its `random_state`, or a function of a seed
    that returns anything with `fit(X, y)` and `predict_proba(X)` or `decision_function(X)` (with `classes_` where a
    part may lack classes). `hash`: "sha256", "sum", or a function of the (n, features) rows to whole numbers.
    """

    def __init__(
        self,
        parts: int,
        *,
        spread: int = 1,
        base: Any = None,
        hash: str | Hash = "sha256",
        salt: int = 0,
        versions: int = 1,
        jobs: int = 1,
        rng: int = 0,
    ) -> None:
        if parts < 2 or spread < 1 or versions < 1 or jobs == 0:
            msg = message(
                f"parts = {parts}, spread = {spread}, versions = {versions}, jobs = {jobs}",
                expected="parts >= 2, spread and versions >= 1, jobs >= 1 or -1",
            )
            raise ConfigError(msg)
        self.parts, self.spread, self.hash, self.salt = parts, spread, hash, salt
        self.versions, self.jobs, self.rng = versions, jobs, rng
        self.base = _logistic if base is None else base
        check_base(self.base)
        self.shifts = shifts_of(parts, spread, rng)
        self.classes: tuple[Any, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.buckets: Ints = np.empty(0, dtype=np.int64)
        self._X: Floats | None = None
        self._y: Ints = np.empty(0, dtype=np.int64)
        self._models: list[list[Any]] = []
        self._folder: Path | None = None

    @property
    def models(self) -> int:
        """m: how many base models vote."""
        return self.parts * self.spread

    def assign(self, X: Floats, units: ArrayLike | None = None) -> Ints:
        """(n,) bucket of each record among parts * spread. Raises `LogError`, `ConfigError`."""
        if units is not None:
            return scatter(unit_keys(pl.Series(np.asarray(units))), self.models, salt=self.salt)
        if callable(self.hash):
            return own_hash(self.hash, X) % self.models
        return (sum_hash(X) if self.hash == "sum" else digest_hash(X, self.salt)) % self.models

    def rows_of(self, model: int) -> Ints:
        """The rows that a model trains on, sorted by features, then label, whatever order they came in."""
        X = self._fitted()
        home = (model - np.asarray(self.shifts)) % self.models
        rows = np.flatnonzero(np.isin(self.buckets, home))
        keys = np.vstack([self._y[rows], X[rows].T[::-1]])
        return np.asarray(rows[np.lexsort(keys)])

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        units: ArrayLike | None = None,
        classes: Sequence[Any] | None = None,
        folder: str | Path | None = None,
    ) -> Self:
        """Assign every record and train every model, `jobs` at a time.

        X (rows, features) numbers, y (rows,) labels, `units` (rows,) ids. `classes`: the label set, known beforehand
        (None: the labels found; an attacker is then taken to stay within them). With a `folder`, trained models are
        not kept but the scores they give are, by the content of their part: a run that was killed goes on, and after a
        change of the data only the models that it reached are trained again. Raises `LogError`, `ConfigError`.
        """
        data, labels = checked_rows(X), np.asarray(y)
        if labels.shape != (len(data),):
            msg = message(f"y has shape {labels.shape} for {len(data)} rows of X", expected="one label a row")
            raise LogError(msg)
        self.classes = tuple(np.unique(labels).tolist() if classes is None else classes)
        if len(self.classes) < 2:
            raise LogError(message(f"{len(self.classes)} class in y", expected="two or more"))
        code = {c: i for i, c in enumerate(self.classes)}
        if strange := [i for i, label in enumerate(labels.tolist()) if label not in code]:
            msg = message(f"labels outside the {len(self.classes)} classes in {first_rows(strange)}")
            raise LogError(msg)
        if units is not None and len(np.asarray(units)) != len(data):
            raise LogError(message(f"{len(np.asarray(units))} unit ids for {len(data)} rows"))
        self._X, self._y = (
            data,
            np.fromiter((code[v] for v in labels.tolist()), dtype=np.int64, count=len(data)),
        )
        self.buckets = self.assign(data, units)
        rows = [self.rows_of(j) for j in range(self.models)]
        empty = sum(not r.size for r in rows)
        single = sum(r.size > 0 and len(np.unique(self._y[r])) == 1 for r in rows)
        told = (
            (empty, "no record: its constant model votes for the first class"),
            (single, "one class only"),
        )
        self.notes = tuple(f"{count} of {self.models} models see {what}" for count, what in told if count)
        if self.notes:
            warnings.warn("; ".join(self.notes), stacklevel=2)
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None and not hasattr(self.base, "get_params"):
            hint = "a function's text is no key: pass a scikit-learn classifier, or no folder"
            raise ConfigError(message("scores of a function's models cannot be kept", hint=hint))
        self._repeatable(max(rows, key=len))
        self._models = [] if self._folder else self._each(_train)
        return self

    def scores(self, new_X: ArrayLike, *, versions: int | None = None) -> Floats:
        """(n, m, C): every model's scores for new inputs, summed over its (first) versions. Raises `NotFittedError`."""
        trained = self._fitted()
        data = checked_rows(new_X)
        if data.shape[1] != trained.shape[1]:
            msg = message(f"{data.shape[1]} features in the new inputs, {trained.shape[1]} in training")
            raise LogError(msg)
        if self._models:
            found = [
                [model_scores(m, data, len(self.classes)) for m in versions] for versions in self._models
            ]
        else:
            found = self._each(_kept, data, len(self.classes), self._folder)
        return np.stack([np.sum(each[:versions], axis=0) for each in found], axis=1)

    def digests(self) -> tuple[str, ...]:
        """A digest of every base model's parameters: equal digests, equal models."""
        import joblib

        self._fitted()
        return tuple(joblib.hash(versions) for versions in self._models)

    def _each(self, work: Callable[..., Any], *more: Any) -> list[list[Any]]:
        """`work(base, X, y, seed, *more)` of every model, by model and version, `jobs` at a time."""
        from joblib import Parallel, delayed

        rows = [self.rows_of(j) for j in range(self.models)]
        flat = Parallel(n_jobs=self.jobs)(
            delayed(work)(self.base, *self._part(rows[j]), model_seed(self.rng, j, v), *more)
            for j in range(self.models)
            for v in range(self.versions)
        )
        return [flat[i : i + self.versions] for i in range(0, len(flat), self.versions)]

    def _part(self, rows: Ints) -> tuple[Floats, Ints]:
        X = self._fitted()
        return X[rows], self._y[rows]

    def _fitted(self) -> Floats:
        if self._X is None:
            msg = message("the ensemble has no training set yet", hint="call fit(X, y) first")
            raise NotFittedError(msg)
        return self._X

    def _repeatable(self, rows: Ints) -> None:
        """Train one part twice: a learner that gives two answers proves nothing. Raises `ConfigError`."""
        X, y = self._part(rows)
        first, second = (model_scores(_train(self.base, X, y, 1), X, len(self.classes)) for _ in range(2))
        if not np.array_equal(first, second):
            msg = message(
                "the base learner gave two models for one part and one seed",
                expected="a learner whose randomness comes from its seed alone",
                hint="pass a function of the seed that sets every random state",
            )
            raise ConfigError(msg)


def checked_rows(X: ArrayLike) -> Floats:
    """(n, features) finite numbers as float64. Raises `LogError`."""
    try:
        found = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise LogError(
            message("features are not numbers", hint="encode categories as numbers first")
        ) from cause
    if found.ndim != 2 or not len(found):
        raise LogError(message(f"features have shape {found.shape}", expected="(rows, features)"))
    if (bad := np.flatnonzero(~np.isfinite(found).all(axis=1))).size:
        raise LogError(message(f"features are missing or infinite in {first_rows(bad)}", expected="numbers"))
    return found


def own_hash(hash: Hash, X: Floats) -> Ints:
    """A user's hash, refused when it depends on other rows or on their order. Raises `ConfigError`."""
    found = np.asarray(hash(X))
    if found.shape != (len(X),) or not np.issubdtype(found.dtype, np.integer):
        msg = message(
            f"the hash gave {found.dtype} of shape {found.shape}", expected=f"({len(X)},) whole numbers"
        )
        raise ConfigError(msg)
    some = np.arange(len(X))[::-2]
    if not np.array_equal(np.asarray(hash(X[some])), found[some]):
        hint = "with such a hash one record moves others to other parts, and no radius holds"
        msg = message("the hash of a row depends on other rows or on its position", hint=hint)
        raise ConfigError(msg)
    return found.astype(np.int64)


def check_base(base: Any) -> None:
    """Raises `ConfigError` for a base learner that is neither kind, or that carries what other rows taught it."""
    if not hasattr(base, "fit"):
        if not callable(base):
            msg = message(
                f"base is a {type(base).__name__}", expected="a classifier, or a function seed -> classifier"
            )
            raise ConfigError(msg)
        return
    parameters = base.get_params(deep=True) if hasattr(base, "get_params") else {}
    frozen = [k for k, v in parameters.items() if type(v).__name__ == "FrozenEstimator" or v == "prefit"]
    if type(base).__name__ == "FrozenEstimator" or frozen:
        msg = message(
            f"the base learner holds a fitted part ({frozen[0] if frozen else 'FrozenEstimator'})",
            hint="what was fitted on all rows crosses parts, and no radius holds; let every part fit its own",
        )
        raise ConfigError(msg)
    if not hasattr(base, "get_params"):
        hint = "pass a function seed -> classifier instead of an object"
        raise ConfigError(message("the base learner cannot be copied unfitted", hint=hint))


def describe(base: Any) -> str:
    """A classifier as text, for the key of kept scores."""
    return f"{type(base).__qualname__} {sorted(base.get_params(deep=True).items(), key=lambda kv: kv[0])!r}"


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, random_state=seed))


class _Constant:
    """The model of a part with fewer than two classes."""

    def __init__(self, chosen: int | None) -> None:
        self.chosen = chosen


def _train(base: Any, X: Floats, y: Ints, seed: int) -> Any:
    """One model from one sorted part, in one thread."""
    from threadpoolctl import threadpool_limits

    seen = np.unique(y)
    if len(seen) < 2:
        return _Constant(int(seen[0]) if len(seen) else None)
    if hasattr(base, "get_params"):
        from sklearn.base import clone

        model = clone(base)
        names = [
            k for k in model.get_params(deep=True) if k == "random_state" or k.endswith("__random_state")
        ]
        model.set_params(**dict.fromkeys(names, seed % 2**31))
    else:
        model = base(seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a base learner may stop at its last step
        model.fit(X, y)
    return model


def _kept(base: Any, X: Floats, y: Ints, seed: int, new_X: Floats, classes: int, folder: Path) -> Floats:
    """Scores of one model, read from the folder when its part, seed, learner and the inputs are the same."""
    key = hashlib.sha256(repr((X.shape, new_X.shape, seed, classes, describe(base))).encode())
    for block in (X, y, new_X):
        key.update(np.ascontiguousarray(block).data)
    path = folder / f"{key.hexdigest()}.npy"
    if path.exists():
        return np.asarray(np.load(path, allow_pickle=False))
    found = model_scores(_train(base, X, y, seed), new_X, classes)
    buffer = io.BytesIO()
    np.save(buffer, found)
    write_whole(path, buffer.getvalue())
    return found


def model_scores(model: Any, X: Floats, classes: int) -> Floats:
    """(n, C) scores of one model. Raises `LogError`.

    A class it has never seen gets the input's mean score: never the first choice, and in a final it yields to classes
    that the model thinks likely, not to all. (The lowest score would make every such model vote against it.)
    """
    if isinstance(model, _Constant):
        flat = np.zeros((len(X), classes))
        if model.chosen is not None:
            flat[:, model.chosen] = 1.0
        return flat
    raw = model.predict_proba(X) if hasattr(model, "predict_proba") else model.decision_function(X)
    found = np.asarray(raw, dtype=np.float64)
    if found.ndim == 1:
        found = np.stack([-found, found], axis=1)
    seen = np.asarray(getattr(model, "classes_", np.arange(found.shape[1])), dtype=np.int64)
    if found.shape != (len(X), len(seen)) or seen.max(initial=0) >= classes or not np.isfinite(found).all():
        msg = message(
            f"a base model gave scores of shape {found.shape}", expected=f"({len(X)}, {len(seen)}) numbers"
        )
        raise LogError(msg)
    out = np.repeat(found.mean(axis=1, keepdims=True), classes, axis=1)
    out[:, seen] = found
    return out
