"""Reusable holdout: answer adaptively chosen questions from one log so that the answers can still be believed.

Use when    many policies, segments or models are compared on the same log, each idea prompted by earlier answers.
Not when    the list was frozen before anybody looked: plain simultaneous intervals are narrower (`guarded_select`).
            It guards against overfitting to the holdout, not against a biased log, drift or wrong propensities.
Data        two halves that share no row and no unit: arrays, frames or Rounds; a query gives every row a bounded number
Paper       Dwork, Feldman, Hardt, Pitassi, Reingold, Roth: Preserving Statistical Validity in Adaptive Data Analysis
            (STOC 2015); The Reusable Holdout (Science 2015); Generalization in Adaptive Data Analysis and Holdout
            Reuse (NIPS 2015).
Equation    That = T + Lap(2 sigma)                                   drawn at the start and after each overfit     (1)
            |h - a| + ... > That + Lap(4 sigma)  ->  h + Lap(sigma), one unit of budget;  else  a                   (2)
            |h - mu| <= sqrt(ln(2 paths / beta) / 2n),  paths = C(questions - 1, spent) L^released                  (3)
Shapes      a, h () query means on the train and holdout half | phi (n,) or (n, m) values in [lo, hi]
Units       T, sigma, grid: query ranges (hi - lo) | answers, intervals: the query's own unit | budget: overfits
Raises      LogError: undeclared or broken bounds, shared rows or units, another number of rows than the halves have
            ConfigError: T, sigma or budget out of bounds | BudgetExhausted: no budget is left
            CounterlogError: a stale state file, an edited ledger, a copy of the object, a second opener
Differs     paper: sigma = T/4, in a demonstration without a budget; with one, that noise alone spends it on a fifth
            of all questions, so the default is T/16. Answers as drawn; `Holdout` rounds what it takes from the holdout
            to `grid`, so that the transcript is countable and (3) holds for any analyst and any noise. `Thresholdout`
            alone is the paper's algorithm. Noise comes from floating-point generators: their low bits matter for
            secrecy, not for validity.
Builds on   thresholdout, holdout_answers, holdout_bounds, holdout_halves, holdout_ledger, holdout_planner,
            holdout_state
Call        Holdout(train, holdout).ask(query, name, bounds=(lo, hi))
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from numpy.typing import ArrayLike

from counterlog.audit.holdout_answers import Answer, Verdict, ratio
from counterlog.audit.holdout_bounds import (
    capacity,
    certified_error,
    comparison_tail,
    outcomes,
    release_tail,
    required_n,
    rho_comparison,
    rho_release,
)
from counterlog.audit.holdout_halves import (
    Halves,
    Means,
    Query,
    checked_bounds,
    clipping_notes,
    query_hash,
    unguarded_notes,
)
from counterlog.audit.holdout_ledger import Ledger, Lock
from counterlog.audit.holdout_planner import accuracy, plan
from counterlog.audit.holdout_state import capture, read_state, restore, write_beside
from counterlog.audit.thresholdout import (
    EXHAUSTED,
    HOLDOUT,
    TRAIN,
    Noise,
    SparseValidate,
    Thresholdout,
    positive,
    refuse,
)
from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, CounterlogError, message
from counterlog.core.files import write_whole

__all__ = [
    "EXHAUSTED", "HOLDOUT", "TRAIN", "Answer", "Holdout", "HoldoutConfig", "SparseValidate", "Thresholdout", "Verdict",
    "accuracy", "capacity", "plan", "required_n",
]  # fmt: skip
FEW = 100


@dataclass(frozen=True, kw_only=True)
class HoldoutConfig(Config):
    """Every parameter of a reusable holdout; None means a value from the sample size n."""

    threshold: float | None = param(None, "T: largest train-holdout gap that costs nothing; None: 4/sqrt(n)",
                                    unit="query ranges", above=0)  # fmt: skip
    sigma: float | None = param(None, "noise scale; None: threshold/16", unit="query ranges", above=0)
    budget: int | None = param(
        None, "B: overfits answered; None: n/50, rounded up", unit="answers", at_least=1
    )
    noise: str = param("laplace", "noise law; `none` relies on the budget and the grid alone",
                       choices=("laplace", "gaussian", "none"))  # fmt: skip
    mechanism: str = param("thresholdout", "`direct` answers everything from the holdout, a unit of budget each",
                           choices=("thresholdout", "direct"))  # fmt: skip
    grid: float | None = param(
        None, "holdout answers are rounded to this; None: threshold/8", unit="query ranges", above=0
    )
    beta: float = param(0.05, "chance that any interval of the whole transcript misses", above=0, below=1)
    unit_rows: int | None = param(
        None, "rows' worth that one unit may count; None: a train quantile", at_least=1
    )
    durable: bool = param(True, "force every ledger row to the disk before its answer is shown")
    clip_quantile: float = param(
        0.995, "train quantile at which bounds and unit sizes are clipped", above=0.5, at_most=1
    )


class Holdout:
    """A holdout that may be asked again and again, its budget, and its ledger.

    `train` and `holdout` are records (array, frame, Rounds) or, when only values or means are at hand, numbers of rows.
    `units` are two vectors of unit ids. With a `folder` every answer is in `ledger.jsonl` before it is shown, and the
    object can be closed, resumed with `Holdout.resume`, and not opened twice.
    """

    def __init__(
        self,
        train: Any,
        holdout: Any,
        *,
        units: tuple[ArrayLike, ArrayLike] | None = None,
        config: HoldoutConfig = HoldoutConfig(),
        unit: str = "reward",
        rng: int = 0,
        folder: str | os.PathLike[str] | None = None,
        _resume: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.unit = config, unit
        self.halves = Halves(
            train, holdout, units=units, unit_rows=config.unit_rows, unit_quantile=config.clip_quantile
        )
        n = self.halves.n_effective
        if n < FEW:
            warnings.warn(
                f"the holdout counts as {n:.0f} independent rows; below {FEW} the noise dominates every answer",
                stacklevel=2,
            )
        self.threshold = config.threshold if config.threshold is not None else 4 / math.sqrt(n)
        self.sigma = config.sigma if config.sigma is not None else self.threshold / 16
        self.grid = config.grid if config.grid is not None else self.threshold / 8
        self.budget = config.budget if config.budget is not None else math.ceil(n / 50)
        self.left, self.questions, self.released, self.rho_total = self.budget, 0, 0, 0.0
        self.charged = {"ask": False, "validate": False}
        self.folder = None if folder is None else Path(folder)
        self._lock: Lock | None = None
        self.noise = Noise(config.noise, rng)
        if _resume is None and self.folder is not None and (self.folder / "state.json").exists():
            msg = message(
                f"{self.folder} already holds a holdout's state",
                expected="one budget for one holdout",
                hint="continue it with Holdout.resume(folder, train, holdout); a fresh budget needs fresh rows",
            )
            raise CounterlogError(msg)
        if self.folder is not None:
            self._lock = Lock(self.folder / "lock")
        try:
            path = None if self.folder is None else self.folder / "ledger.jsonl"
            self.ledger = Ledger(path, durable=config.durable)
        except CounterlogError:
            if self._lock is not None:
                self._lock.release()
            raise
        draw = self.noise.draw
        self.thresholdout = Thresholdout(self.threshold, self.sigma, self.budget, draw=draw)
        self.sparse: SparseValidate | None = None
        self._unguarded = unguarded_notes(self.plain_looks)
        if _resume is None and self.folder is not None:
            self.save(self.folder / "state.json")

    @property
    def spent(self) -> int:
        """Budget used so far."""
        return self.budget - self.left

    def ask(
        self, phi: Query, name: str, *, bounds: tuple[float, float] | None = None, clip: bool = False
    ) -> Answer:
        """One question: `phi(records)` gives (n,) values, or a pair of value vectors, or a pair of two means.

        Raises `BudgetExhausted` before the query is evaluated, and `LogError` for values outside `bounds`.
        """
        limits = checked_bounds(bounds)
        if self.left < 1:
            refuse(name)
        return self._answer(self.halves.means(phi, limits, clip=clip)[0], name, limits)

    def ask_all(
        self,
        phi: Query,
        names: Sequence[str],
        *,
        bounds: tuple[float, float] | None = None,
        clip: bool = False,
        reserve: int = 0,
    ) -> tuple[Answer, ...]:
        """m questions from one pass: `phi` gives (n, m) values. Stops, without raising, when only `reserve` is left."""
        limits = checked_bounds(bounds)
        if self.left <= reserve:
            return ()
        found = self.halves.means(phi, limits, clip=clip)
        if len(found) != len(names):
            msg = message(f"{len(names)} names for {len(found)} queries", expected="one name a query")
            raise ConfigError(msg)
        out = []
        for means, name in zip(found, names, strict=True):
            if self.left <= reserve:
                break
            out.append(self._answer(means, name, limits))
        return tuple(out)

    def quote(
        self, phi: Query, name: str, *, bounds: tuple[float, float] | None = None, clip: bool = False
    ) -> Answer:
        """The holdout's own value, for one unit of budget whatever the gap: for a winner picked by train answers."""
        limits = checked_bounds(bounds)
        if self.left < 1:
            refuse(name)
        return self._answer(self.halves.means(phi, limits, clip=clip)[0], name, limits, release=True)

    def ask_ratio(
        self,
        numerator: Query,
        denominator: Query,
        name: str,
        *,
        bounds: tuple[tuple[float, float], tuple[float, float]],
        clip: bool = False,
        release: bool = False,
    ) -> Answer:
        """A ratio of two means (SNIPS): two questions, at most two units; the interval is the ratio of theirs."""
        if self.left < 2:
            refuse(f"{name} (a ratio needs two units)")
        ask = self.quote if release else self.ask
        top = ask(numerator, f"{name} / numerator", bounds=bounds[0], clip=clip)
        below = ask(denominator, f"{name} / denominator", bounds=bounds[1], clip=clip)
        return ratio(top, below, name)

    def validate(
        self,
        phi: Query,
        train_value: float,
        tolerance: float,
        name: str,
        *,
        bounds: tuple[float, float] | None = None,
        clip: bool = False,
    ) -> Verdict:
        """Whether the holdout agrees with `train_value` within `tolerance` (query's unit); only a rejection costs."""
        lo, hi = checked_bounds(bounds)
        positive(tolerance=tolerance)
        if self.left < 1:
            refuse(name)
        means = self.halves.means(phi, (lo, hi), clip=clip)[0]
        if self.sparse is None:
            self.sparse = SparseValidate(self.threshold, self.sigma, self.budget, draw=self.noise.draw)
        self.begin("validate")
        scale = hi - lo
        self.sparse.left = self.left
        accepted = self.sparse.check((train_value - lo) / scale, means.holdout, tolerance=tolerance / scale)
        margin = tolerance / scale + self._sampling() + self._gap_tail()
        if not accepted:
            self.spend("validate")
        source = "accept" if accepted else "reject"
        self._record(name, "validate", query=query_hash(means, name), train=train_value, source=source)
        return Verdict(
            name=name,
            accepted=accepted,
            claimed=train_value,
            margin=margin * scale if accepted else math.nan,
            budget_left=self.left,
            unit=self.unit,
            n=self.halves.holdout.units,
            level=1 - self.config.beta,
        )

    def look(self, name: str, *, candidates: int = 1) -> None:
        """Record a plain, unguarded evaluation on this log: it costs no budget, but it is counted and shown."""
        self._record(name, "plain look", candidates=candidates)
        self._unguarded = unguarded_notes(self.plain_looks)

    @property
    def plain_looks(self) -> int:
        """Candidates compared without the guard; later intervals do not cover what they taught."""
        rows = (r for r in self.ledger.rows if r["kind"] == "plain look")
        return sum(int(r["candidates"] or 0) for r in rows)

    def looks(self) -> dict[str, int]:
        """What a report prints: questions asked, budget used and left, and every candidate ever compared."""
        counts = {"questions": self.questions, "used": self.spent, "left": self.left}
        return {**counts, "plain_looks": self.plain_looks, "candidates": self.questions + self.plain_looks}

    def begin(self, kind: str | None) -> None:
        """Count a question; `ask` and `validate` open an epoch of comparisons, which costs privacy once."""
        self.questions += 1
        if kind and (not self.charged[kind] or self.config.noise == "gaussian"):
            self.rho_total += rho_comparison(1 / self.halves.sensitivity, self.sigma, self.config.noise)
            self.charged[kind] = True

    def spend(self, kind: str | None, *, release: bool = False) -> None:
        """Take one unit of budget; the epoch of `kind` ends."""
        self.left -= 1
        if kind:
            self.charged[kind] = False
        if release:
            self.released += 1
            self.rho_total += rho_release(1 / self.halves.sensitivity, self.sigma, self.config.noise)

    def _sampling(self) -> float:
        """Equation (3) for the question being answered, in query ranges; half of beta is kept for the noise."""
        return certified_error(
            self.halves.n_effective,
            question=self.questions,
            spent=self.spent,
            log_outcomes=self.released * math.log(outcomes(self.grid)),
            budget=self.budget,
            beta=self.config.beta / 2,
        )

    def _gap_tail(self) -> float:
        law, beta = self.config.noise, self.config.beta / 4
        return comparison_tail(self.sigma, law, question=self.questions, budget=self.budget, beta=beta)

    def _answer(
        self, means: Means, name: str, bounds: tuple[float, float], *, release: bool = False
    ) -> Answer:
        lo, hi = bounds
        if release or self.config.mechanism == "direct":
            self.begin(None)
            value, source = means.holdout + self.noise.draw(self.sigma), HOLDOUT
        else:
            self.begin("ask")
            self.thresholdout.left = self.left
            value, source = self.thresholdout.ask(means.train, means.holdout)
        sampling = self._sampling()  # before this answer is counted: the query was fixed before it
        if source == HOLDOUT:
            self.spend(None if release else "ask", release=True)
            rounded = round(value / self.grid) * self.grid
            band = (
                sampling
                + release_tail(
                    self.sigma, self.config.noise, question=self.questions, beta=self.config.beta / 4
                )
                + self.grid / 2
            )
            value = min(max(rounded, 0.0), 1.0)  # clipped only where it is shown
        else:
            band = sampling + self.threshold + self._gap_tail()
        scale = hi - lo
        answer = Answer(
            name=name,
            value=lo + scale * value,
            lo=max(lo, lo + scale * (value - band)),
            hi=min(hi, lo + scale * (value + band)),
            source=source,
            train_value=lo + scale * means.train,
            budget_left=self.left,
            unit=self.unit,
            n=self.halves.holdout.units,
            level=1 - self.config.beta,
            clip_bias=(means.bound_bias - means.unit_clipped) * scale,
            notes=(*clipping_notes(means, self.halves.cap, scale), *self._unguarded),
        )
        kind = "quote" if release else "ask"
        told = {"train": answer.train_value, "source": source, "answer": answer.value}
        self._record(name, kind, query=query_hash(means, name), **told)
        return answer

    def _record(self, name: str, kind: str, **fields: Any) -> None:
        """One ledger row, and the state after it."""
        empty = dict.fromkeys(("query", "train", "source", "answer", "candidates"))
        self.ledger.append(
            name=name,
            kind=kind,
            **{**empty, **fields},
            noise=self.config.noise,
            scales=[2 * self.sigma, 4 * self.sigma, self.sigma],
            threshold_id=self.spent,
            budget_left=self.left,
            rho_total=self.rho_total,
        )
        if self.folder is not None:
            self.save(self.folder / "state.json", durable=False)

    def save(self, path: str | os.PathLike[str], *, durable: bool = True) -> Path:
        """Write the state, whole or not at all. The ledger is its own file. A state that is not `durable` may be lost
        in a power cut; `resume` then replays the ledger, which never is."""
        text = json.dumps(capture(self), indent=1)
        return write_whole(path, text) if durable else write_beside(path, text)

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        train: Any,
        holdout: Any,
        *,
        units: tuple[ArrayLike, ArrayLike] | None = None,
        state: str | os.PathLike[str] | None = None,
        head: str | None = None,
        replay: bool = False,
    ) -> Self:
        """Continue the holdout kept in `folder` (from another `state` file, where given).

        Raises `CounterlogError` when the state is older than the ledger, unless `replay`, which repeats the missing
        draws; when the ledger was cut, edited or does not end at `head`; when the records are not those it began with.
        """
        path = Path(folder) / "state.json" if state is None else Path(state)
        saved = read_state(path)
        kept = cls(
            train, holdout, units=units, config=HoldoutConfig.from_dict(saved["config"]), unit=saved["unit"],
            folder=folder, _resume=saved,
        )  # fmt: skip
        try:
            kept.ledger.verify(head=head)
            restore(kept, saved, path, replay=replay)
            kept.save(Path(folder) / "state.json")
        except CounterlogError:
            kept.close()
            raise
        return kept

    def close(self) -> None:
        """Let go of the folder; a later `resume` goes on from here."""
        self.ledger.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse `copy`, `deepcopy` and `pickle`."""
        msg = message(
            "a holdout cannot be copied: a copy would have a budget of its own",
            hint="pass the object itself; to continue later use a folder and Holdout.resume",
        )
        raise CounterlogError(msg)
