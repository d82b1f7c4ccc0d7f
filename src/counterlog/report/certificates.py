"""Certified predictions from two tables: what `counterlog certify` calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from counterlog.audit.certified_predictions import Certificates
from counterlog.audit.run_off_election import RunOffElection, RunOffElectionConfig
from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.files import sha256, write_parquet, write_whole
from counterlog.core.labelled_tables import labels, read_table, require_columns
from counterlog.core.study import Clock, versions

LEARNERS = ("logistic", "boosting")


def certify_tables(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str,
    unit: str | None = None,
    learner: str = "logistic",
    config: RunOffElectionConfig | None = None,
    rng: int = 0,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> Certificates:
    """Certificates of predictions for `test` from models trained on parts of `train`; writes the folder `out`.

    Numbers enter as they are: a statistic of all rows that scaled them would cross the parts. Test labels are used
    where the column is there. With `unit`, all records of a unit lie in one part and radii count units. Raises
    `LogError`, `ConfigError`.
    """
    clock, say = Clock(), progress or (lambda _text, _share: None)
    say("reading the tables", 0.0)
    frame, asked = read_table(train), read_table(test)
    require_columns(frame, [c for c in (target, unit) if c is not None], str(train))
    names = [c for c in frame.columns if c not in (target, unit)]
    require_columns(asked, names, str(test))
    if text := [c for c in names if not frame[c].dtype.is_numeric()]:
        msg = message(
            f"column {text[0]!r} holds {frame[text[0]].dtype}",
            expected="numbers",
            hint="indicators must not be chosen from all rows (a record would then touch every part): make them "
            "beforehand from a fixed list of values",
        )
        raise LogError(msg)
    X, new = (f.select(names).cast(pl.Float64).to_numpy() for f in (frame, asked))
    say(f"training {(config or RunOffElectionConfig()).parts} models on their own parts", 0.1)
    chosen = config or RunOffElectionConfig()
    found = RunOffElection(chosen).check(
        X,
        labels(frame, target),
        new,
        labels(asked, target) if target in asked.columns else None,
        base=_base(learner),
        units=None if unit is None else frame[unit].to_numpy(),
        rng=rng,
    )
    say("writing", 0.95)
    made = [
        ("command", command or "counterlog.report.certificates.certify_tables(...)"),
        *(
            (k, f"{p}, {f.height:,} rows, SHA-256 {_digest(p)}")
            for k, p, f in (("train", train, frame), ("test", test, asked))
        ),
        ("base learner", learner),
        ("settings", ", ".join(f"{k}={v}" for k, v in {**chosen.to_dict(), "rng": rng}.items())),
        (
            "versions",
            ", ".join(f"{k} {v}" for k, v in versions("counterlog", "numpy", "scikit-learn").items()),
        ),
        ("processor time", f"{clock.seconds():.1f} s"),
    ]
    _write(found, Path(out), made)
    say("done", 1.0)
    return found


def _write(found: Certificates, out: Path, made: list[tuple[str, str]]) -> None:
    import json

    from counterlog.report.certificates_page import page

    write_whole(out / "run.json", json.dumps(dict(made), indent=1))
    write_parquet(out / "certificates.parquet", found.to_frame())
    found.save(out / "result.json")
    write_whole(out / "report.html", page(found, made))


def _digest(path: Any) -> str:
    file = Path(os.fspath(path))
    return sha256(file) if file.is_file() else ""


def _base(learner: str) -> Any:
    """A function seed -> classifier. Raises `ConfigError` for a name that is none of `LEARNERS`."""
    if learner == "logistic":
        return None
    if learner == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return lambda seed: HistGradientBoostingClassifier(
            max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
        )
    raise ConfigError(message(f"there is no base learner {learner!r}", expected=", ".join(LEARNERS)))
