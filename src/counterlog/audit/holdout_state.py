"""Continue a reusable holdout where it stopped: refuse stale states, and replay what a crash left unsaved.

The state file holds the generator and the noisy threshold, so it is private; the ledger is public. A state is as old as
its `counter`, the number of ledger rows it has seen; the ledger is never behind it, because rows are written first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterlog.audit.holdout_ledger import FIRST
from counterlog.audit.thresholdout import HOLDOUT, SparseValidate
from counterlog.core.errors import CounterlogError, message

if TYPE_CHECKING:
    from counterlog.audit.reusable_holdout import Holdout


def capture(holdout: Holdout) -> dict[str, Any]:
    """Everything that continues `holdout`, private noise included: keep it from the analyst."""
    return {
        "counterlog_holdout": 1,
        "counter": len(holdout.ledger.rows),
        "head": holdout.ledger.head,
        "fingerprint": holdout.halves.fingerprint,
        "config": holdout.config.to_dict(),
        "unit": holdout.unit,
        "left": holdout.left,
        "questions": holdout.questions,
        "released": holdout.released,
        "rho_total": holdout.rho_total,
        "charged": holdout.charged,
        "noisy_threshold": holdout.thresholdout.noisy_threshold,
        "sparse_shift": None if holdout.sparse is None else holdout.sparse.shift,
        "generator": holdout.noise.generator.bit_generator.state,
    }


def restore(holdout: Holdout, saved: dict[str, Any], path: Path, *, replay: bool) -> None:
    """Put a saved state into a holdout just made from the same records. Raises `CounterlogError` when it is not the
    newest (unless `replay`), when the ledger was cut, or when the records differ."""
    rows, counter = holdout.ledger.rows, int(saved["counter"])
    if saved["fingerprint"] != holdout.halves.fingerprint:
        msg = message(f"{path} belongs to other records", expected="the halves that it was started with")
        raise CounterlogError(msg)
    prior = str(rows[counter - 1]["hash"]) if 0 < counter <= len(rows) else FIRST
    if counter > len(rows) or saved["head"] != prior:
        msg = message(
            f"the ledger beside {path} has {len(rows)} rows and does not contain the state's {counter} rows",
            hint="the ledger was cut or replaced; the budget spent cannot be known",
        )
        raise CounterlogError(msg)
    if counter < len(rows) and not replay:
        msg = message(
            f"{path} is stale: it was saved after {counter} rows, the ledger has {len(rows)}",
            expected="the newest state",
            hint="load the newest state file; after a crash, resume(..., replay=True) repeats the missing draws",
        )
        raise CounterlogError(msg)
    holdout.left, holdout.questions = int(saved["left"]), int(saved["questions"])
    holdout.released, holdout.rho_total = int(saved["released"]), float(saved["rho_total"])
    holdout.charged = dict(saved["charged"])
    holdout.noise.generator.bit_generator.state = saved["generator"]
    holdout.thresholdout.noisy_threshold = float(saved["noisy_threshold"])
    if saved["sparse_shift"] is not None:
        state = holdout.noise.generator.bit_generator.state
        holdout.sparse = _sparse(holdout)
        holdout.sparse.shift = float(saved["sparse_shift"])
        holdout.noise.generator.bit_generator.state = state
    for row in rows[counter:]:
        _replay(holdout, row)


def _sparse(holdout: Holdout) -> SparseValidate:
    return SparseValidate(holdout.threshold, holdout.sigma, holdout.budget, draw=holdout.noise.draw)


def _replay(holdout: Holdout, row: dict[str, Any]) -> None:
    """Repeat the draws and the bookkeeping of one recorded row; the data are not touched."""
    kind, source, draw, sigma = str(row["kind"]), row["source"], holdout.noise.draw, holdout.sigma
    if kind == "quote" or (kind == "ask" and holdout.config.mechanism == "direct"):
        holdout.begin(None)
        draw(sigma)
        holdout.spend(None, release=True)
    elif kind == "ask":
        holdout.begin("ask")
        draw(4 * sigma)
        if source == HOLDOUT:
            holdout.thresholdout.noisy_threshold = holdout.threshold + draw(2 * sigma)
            draw(sigma)
            holdout.spend("ask", release=True)
    elif kind == "validate":
        if holdout.sparse is None:
            holdout.sparse = _sparse(holdout)
        holdout.begin("validate")
        draw(4 * sigma)
        if source == "reject":
            holdout.sparse.shift = draw(2 * sigma)
            holdout.spend("validate")


def write_beside(path: str | os.PathLike[str], text: str) -> Path:
    """Replace a file in one step without waiting for the disk: after a power cut the older one may be back."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.new")
    beside.write_text(text)
    os.replace(beside, target)
    return target


def read_state(path: Path) -> dict[str, Any]:
    """A saved state. Raises `CounterlogError` for a file of another kind."""
    try:
        saved = json.loads(path.read_text())
        if saved["counterlog_holdout"] == 1:
            return dict(saved)
        cause: object = "unknown version"
    except (OSError, ValueError, KeyError, TypeError) as failure:
        cause = failure
    msg = message(
        f"{path} is not a holdout's state ({cause})", hint="it must be a file that Holdout.save() wrote"
    )
    raise CounterlogError(msg)
