"""Certificates of predictions as a result: radius, rival, the way of the cheapest attack; accuracy by budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from counterlog.core.errors import LogError, message
from counterlog.core.results import Result

if TYPE_CHECKING:
    from counterlog.audit.run_off_election import Certified


@dataclass(frozen=True, kw_only=True)
class Certificates(Result):
    """One entry a prediction. The guarantee is for each prediction alone: budgets add up over predictions.

    `radius`: no attacker who adds or removes at most so many `unit` changes the prediction; changing a record in place
    counts as two, or as one where the change leaves its hash as it was (a label flip). `runner_up`: the class it won
    against; `binding` and `rivals`: how the cheapest attack counted would go. `accuracy` is the clean accuracy.
    """

    method: str
    unit: str
    n: int
    parts: int
    spread: int
    prediction: tuple[Any, ...]
    radius: tuple[int, ...]
    runner_up: tuple[Any, ...]
    binding: tuple[str, ...]
    rivals: tuple[tuple[Any, ...], ...]
    correct: tuple[bool, ...] = ()
    accuracy: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def replacements(self) -> tuple[int, ...]:
        """(n,) records that may be replaced by others: each is one removed and one added."""
        return tuple(r // 2 for r in self.radius)

    def certified_accuracy(self, budgets: Sequence[int]) -> tuple[float, ...]:
        """Share of predictions that are right and stay so under each budget. Raises `LogError` without labels."""
        if not self.correct:
            msg = message("these certificates were made without labels", hint="pass `labels` for an accuracy")
            raise LogError(msg)
        kept = np.where(self.correct, self.radius, -1)
        return tuple(float(np.mean(kept >= max(b, 0))) for b in budgets)

    def curve(self) -> list[dict[str, Any]]:
        """Certified accuracy (or, without labels, the certified share) at each budget up to the largest radius."""
        radius, right = np.asarray(self.radius), np.asarray(self.correct or (True,) * self.n)
        name = "certified_accuracy" if self.correct else "certified_share"
        return [
            {"budget": b, name: float(np.mean(right & (radius >= b)))} for b in range(int(radius.max()) + 1)
        ]

    def records(self) -> list[dict[str, Any]]:
        """One row a prediction."""
        right: Sequence[bool | None] = self.correct or (None,) * self.n
        rows = zip(
            self.prediction, self.radius, self.runner_up, self.binding, self.rivals, right, strict=True
        )
        return [
            {"prediction": p, "radius": r, "runner_up": s, "binding": b, "rivals": " and ".join(map(str, c)),
             "correct": ok}
            for p, r, s, b, c, ok in rows
        ]  # fmt: skip


def as_certificates(
    found: Certified, *, classes: Sequence[Any], labels: ArrayLike | None, parts: int, spread: int, unit: str,
    notes: tuple[str, ...] = (),
) -> Certificates:  # fmt: skip
    """Class numbers as class names, and right or wrong where labels are given. Raises `LogError`."""
    names = np.asarray(classes)
    predicted = names[found.prediction]
    correct: tuple[bool, ...] = ()
    if labels is not None:
        given = np.asarray(labels)
        if given.shape != predicted.shape:
            msg = message(
                f"labels have shape {given.shape}", expected=f"({len(predicted)},), one a prediction"
            )
            raise LogError(msg)
        if strange := sorted(set(given.tolist()) - set(names.tolist()), key=str):
            msg = message(f"labels hold {strange[0]!r}", expected=f"one of the {len(names)} classes")
            raise LogError(msg)
        correct = tuple((given == predicted).tolist())
    return Certificates(
        method=found.method,
        unit=unit,
        n=len(predicted),
        parts=parts,
        spread=spread,
        prediction=tuple(predicted.tolist()),
        radius=tuple(found.radius.tolist()),
        runner_up=tuple(names[found.runner_up].tolist()),
        binding=tuple(found.binding.tolist()),
        rivals=tuple(tuple(names[[c for c in pair if c >= 0]].tolist()) for pair in found.rivals.tolist()),
        correct=correct,
        accuracy=float(np.mean(correct)) if correct else math.nan,
        notes=notes,
    )
