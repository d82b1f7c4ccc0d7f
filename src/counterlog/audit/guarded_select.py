"""Compare many candidate policies on the same rows and quote the winner honestly: `guarded_select`.

Two roads, and the answer says which and why:
    guarded   candidates may have been invented after looking at earlier answers. Each is asked of a `Holdout`, best
              training value first. The winner is the best by the lower of answer and training value, so that luck in
              the holdout alone cannot win; its number is then quoted afresh from the holdout, for one unit of budget.
    frozen    the list was fixed before the holdout was looked at. Then every look is known in advance: m plain
              intervals at level 1 - beta/m hold together (Bonferroni), and they are narrower.

Values are per unit: importance-weighted rewards, already summed per unit, (units, m). They are clipped to the declared
bounds, and the clipping bias on the training half is reported. A ratio (SNIPS) also passes its denominators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from counterlog.audit.holdout_answers import Answer
from counterlog.audit.holdout_bounds import certified_error
from counterlog.audit.holdout_halves import Floats, bounds_from_train, unguarded_notes
from counterlog.audit.reusable_holdout import Holdout, HoldoutConfig
from counterlog.core.errors import ConfigError, LogError, first_rows, message
from counterlog.core.results import Result


@dataclass(frozen=True, kw_only=True)
class Selection(Result):
    """The chosen candidate, its honest value, and what every candidate was told.

    `candidates` are records {name, value, lo, hi, source, train_value, clip_bias, order}; `source` is `train`,
    `holdout`, `frozen` or `exhausted` (no answer: the budget ran out). Intervals hold together at `level`.
    """

    winner: str
    value: float
    lo: float
    hi: float
    unit: str
    n: int
    level: float
    road: str
    reason: str
    bounds: tuple[float, float]
    candidates: tuple[dict[str, Any], ...]
    questions: int
    budget: int
    budget_left: int
    head: str
    ledger: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """The candidates, one a row."""
        return [dict(row) for row in self.candidates]


def guarded_select(
    train_values: ArrayLike,
    holdout_values: ArrayLike,
    names: Sequence[str],
    *,
    bounds: tuple[float, float] | None = None,
    denominators: tuple[ArrayLike, ArrayLike] | None = None,
    denominator_bounds: tuple[float, float] | None = None,
    frozen_first: bool = False,
    level: float = 0.95,
    config: HoldoutConfig | None = None,
    guard: Holdout | None = None,
    unit: str = "reward per unit",
    rng: int = 0,
) -> Selection:
    """Choose among m candidates by (units, m) values of two halves that share no unit.

    `bounds` are per unit; None takes them from the training half's quantile (config.clip_quantile). Pass the same
    `guard` to every call on one log: a fresh one has a fresh budget and knows nothing of earlier looks. Without a
    configured threshold, T is four training standard errors (public). Raises `LogError` for values that
    do not fit, `ConfigError` for names or level, `BudgetExhausted` when nothing may be asked any more.
    """
    if not 0 < level < 1:
        msg = message(f"level = {level}", expected="0 < level < 1")
        raise ConfigError(msg)
    settings = replace(config or HoldoutConfig(), beta=1 - level) if guard is None else guard.config
    top = _pair(train_values, holdout_values, names, "values")
    limits = bounds or bounds_from_train(top[0], settings.clip_quantile)
    below = None if denominators is None else _pair(denominators[0], denominators[1], names, "denominators")
    below_limits = None
    if below is not None:
        below_limits = denominator_bounds or bounds_from_train(below[0], settings.clip_quantile)
    if guard is None:
        if settings.threshold is None:
            spread = float(np.clip(top[0], *limits).std(axis=0, ddof=1).max()) / (limits[1] - limits[0])
            if spread > 0:
                settings = replace(settings, threshold=4 * spread / math.sqrt(len(top[1])))
        guard = Holdout(len(top[0]), len(top[1]), config=settings, unit=unit, rng=rng)
    elif (guard.halves.train.n, guard.halves.holdout.n) != (len(top[0]), len(top[1])):
        msg = message(
            f"values of {len(top[0]):,} and {len(top[1]):,} units for a guard of "
            f"{guard.halves.train.n:,} and {guard.halves.holdout.n:,}",
            expected="the same halves that the guard was made for",
        )
        raise LogError(msg)
    if frozen_first:
        return _frozen(top, below, names, limits, below_limits, level, guard, unit)
    return _guarded(top, below, names, limits, below_limits, guard, unit)


def _pair(train: ArrayLike, holdout: ArrayLike, names: Sequence[str], what: str) -> tuple[Floats, Floats]:
    """Both halves as (units, m) float64, checked."""
    out = []
    for values, half in ((train, "train"), (holdout, "holdout")):
        x = np.asarray(values, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(names) or x.shape[0] < 2:
            msg = message(
                f"{half} {what} of shape {x.shape}", expected=f"(units, {len(names)}): one column a name"
            )
            raise LogError(msg)
        if (bad := np.flatnonzero(~np.isfinite(x).all(axis=1))).size:
            msg = message(f"{half} {what} are not numbers in {first_rows(bad)}", expected="finite values")
            raise LogError(msg)
        out.append(x)
    if len(set(names)) != len(names) or not names:
        msg = message(
            f"{len(names)} names, {len(set(names))} different", expected="one distinct name a candidate"
        )
        raise ConfigError(msg)
    return out[0], out[1]


def _point(top: Floats, below: Floats | None) -> Floats:
    """(m,) mean values, or ratios of means."""
    if below is None:
        return np.asarray(top.mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(top.mean(axis=0) / below.mean(axis=0))


def _guarded(
    top: tuple[Floats, Floats],
    below: tuple[Floats, Floats] | None,
    names: Sequence[str],
    limits: tuple[float, float],
    below_limits: tuple[float, float] | None,
    guard: Holdout,
    unit: str,
) -> Selection:
    public = _point(
        np.clip(top[0], *limits), None if below is None else np.clip(below[0], *(below_limits or (0, 1)))
    )
    order = np.argsort(-np.nan_to_num(public, nan=-np.inf), kind="stable")
    price = 1 if below is None else 2
    reserve = price if guard.left > price else 0
    start = len(guard.ledger.rows)

    def one(j: int, *, release: bool) -> Answer:
        column = slice(j, j + 1)
        phi = (top[0][:, column], top[1][:, column])
        name = f"{names[j]} / quote" if release else names[j]
        if below is None or below_limits is None:
            ask = guard.quote if release else guard.ask
            return ask(phi, name, bounds=limits, clip=True)
        lower = (below[0][:, column], below[1][:, column])
        return guard.ask_ratio(phi, lower, name, bounds=(limits, below_limits), clip=True, release=release)

    answers: dict[int, Answer] = {}
    for j in order:
        if answers and guard.left < reserve + price:
            break
        answers[int(j)] = one(int(j), release=False)

    def worse(j: int) -> float:
        """The lower of what both halves say: a lucky holdout answer cannot win, an unlucky one can lose."""
        low = min(answers[j].value, float(public[j]))
        return low if math.isfinite(low) else -math.inf

    best = max(answers, key=worse)
    notes = []
    if len(answers) < len(names):
        notes.append(
            f"the budget ended after {len(answers)} of {len(names)} candidates (best training values first); "
            "the others were not compared"
        )
    if guard.left >= price:  # a fresh draw: the answer that won was picked for its luck
        answers[best] = one(best, release=True)
    else:
        notes.append("no budget was left to quote the winner afresh: its value is the answer that won")
    rows = []
    for position, j in enumerate(order.tolist()):
        a = answers.get(j)
        rows.append(
            {
                "name": names[j],
                "value": a.value if a else math.nan,
                "lo": a.lo if a else math.nan,
                "hi": a.hi if a else math.nan,
                "source": a.source if a else "exhausted",
                "train_value": float(public[j]),
                "clip_bias": a.clip_bias if a else math.nan,
                "order": position,
            }
        )
    won = answers[best]
    return Selection(
        winner=names[best],
        value=won.value,
        lo=won.lo,
        hi=won.hi,
        unit=unit,
        n=won.n,
        level=won.level,
        road="guarded",
        reason=(
            "the candidates may depend on earlier answers, so every look is paid for: the bands hold for any analyst, "
            f"after {guard.questions} questions and {guard.spent} holdout answers"
        ),
        bounds=limits,
        candidates=tuple(rows),
        questions=guard.questions,
        budget=guard.budget,
        budget_left=guard.left,
        head=guard.ledger.head,
        ledger=tuple(guard.ledger.rows[start:]),
        notes=(*notes, *unguarded_notes(guard.plain_looks)),
    )


def _frozen(
    top: tuple[Floats, Floats],
    below: tuple[Floats, Floats] | None,
    names: Sequence[str],
    limits: tuple[float, float],
    below_limits: tuple[float, float] | None,
    level: float,
    guard: Holdout,
    unit: str,
) -> Selection:
    """Bonferroni over the m candidates on the holdout half: t intervals at level 1 - (1 - level)/m."""
    m, n = len(names), len(top[1])
    values = np.clip(top[1], *limits)
    bias = (np.clip(top[0], *limits) - top[0]).mean(axis=0)
    lower = None if below is None else np.clip(below[1], *(below_limits or (0.0, 1.0)))
    if lower is not None and (bad := np.flatnonzero(lower.mean(axis=0) <= 0)).size:
        msg = message(
            f"the denominator of {names[int(bad[0])]!r} is not positive", expected="weights that sum above 0"
        )
        raise LogError(msg)
    point = _point(values, lower)
    influence = values - point if lower is None else (values - point * lower) / lower.mean(axis=0)
    half = student.ppf(1 - (1 - level) / (2 * m), n - 1) * influence.std(axis=0, ddof=1) / math.sqrt(n)
    public = _point(
        np.clip(top[0], *limits), None if below is None else np.clip(below[0], *(below_limits or (0.0, 1.0)))
    )
    start, before = len(guard.ledger.rows), guard.questions + guard.plain_looks
    guard.look(f"frozen list of {m}: {names[0]} ...", candidates=m)
    best = int(np.argmax(point))
    scale = limits[1] - limits[0]
    paths = certified_error(
        n, question=m + 1, spent=0, log_outcomes=0.0, budget=guard.budget, beta=(1 - level) / 2
    )
    guarded_half = scale * (paths + guard.grid / 2)
    rows = [
        {
            "name": names[j],
            "value": float(point[j]),
            "lo": float(point[j] - half[j]),
            "hi": float(point[j] + half[j]),
            "source": "frozen",
            "train_value": float(public[j]),
            "clip_bias": float(bias[j]),
            "order": position,
        }
        for position, j in enumerate(np.argsort(-point, kind="stable").tolist())
    ]
    return Selection(
        winner=names[best],
        value=float(point[best]),
        lo=float(point[best] - half[best]),
        hi=float(point[best] + half[best]),
        unit=unit,
        n=n,
        level=level,
        road="frozen",
        reason=(
            f"the list of {m} was fixed before the holdout was looked at, so only {m} means can be asked, and each may "
            f"use its own variance: half-width {half[best]:.3g}. The guarded road must cover every path that an "
            f"analyst could have taken, by bounds instead of variances: at least {guarded_half:.3g}"
        ),
        bounds=limits,
        candidates=tuple(rows),
        questions=guard.questions,
        budget=guard.budget,
        budget_left=guard.left,
        head=guard.ledger.head,
        ledger=tuple(guard.ledger.rows[start:]),
        notes=(
            "intervals hold only if the list was in truth frozen first; the ledger records the look",
            *((f"{before:,} looks came before: the list must be older than they are",) if before else ()),
        ),
    )
