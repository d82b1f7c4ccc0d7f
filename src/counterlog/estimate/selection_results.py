"""What an assessment of policy selection reads and answers: estimates of any form as arrays, metrics as records.

Estimates come as arrays by estimator, as mappings by candidate, or as the results of the estimators themselves; all
become values and one-sided lower bounds of shape (estimators, seeds, candidates).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.results import Estimate, Result
from counterlog.estimate.return_distribution import ReturnDistribution, functional_of

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
LOWER_IS_BETTER = {
    "MSE",
    "nMSE",
    "Regret best",
    "Regret sum",
    "nRegret",
    "Type I",
    "Type II",
    "std",
    "violations",
}


@dataclass(frozen=True)
class Problem:
    """Candidates (m), their true values (m,), and what each estimator said: `values` and `lower` (E, S, m).

    `lower` is a one-sided lower confidence bound, NaN throughout where some estimate came without a standard error.
    """

    candidates: tuple[str, ...]
    true: Floats
    estimators: tuple[str, ...]
    values: Floats
    lower: Floats

    @property
    def bounded(self) -> bool:
        """Whether selection by the lower bound is possible."""
        return bool(np.isfinite(self.lower).all())


@dataclass(frozen=True, kw_only=True)
class Metric(Result):
    """One number of one estimator: its mean over the seeds where it is defined (`n` of them) with a t interval.

    `k` is 0 for metrics without a test budget. `selection` is `mean` or `lcb`: what the candidates were sorted by.
    `reason` says why the value is NaN, or, with fewer seeds than the assessment, why some seeds have none.
    """

    estimator: str
    selection: str
    metric: str
    k: int
    value: float
    lo: float
    hi: float
    n: int
    unit: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Assessment(Result):
    """How well each estimator selects among the candidates; `n` counts seeds (logs), `unit` is that of the values.

    `metrics` holds every metric at the budgets asked for; `curves` those that depend on k, for k = 1 to m; `paired` the
    mean over seeds of the value under selection by lower bound minus that by mean, at the budgets asked for.
    """

    candidates: tuple[str, ...]
    true_values: tuple[float, ...]
    behaviour: float
    threshold: float
    unit: str
    n: int
    level: float
    metrics: tuple[Metric, ...]
    curves: tuple[Metric, ...]
    paired: tuple[Metric, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record a metric."""
        return [vars(m).copy() for m in self.metrics]

    def find(self, estimator: str, metric: str, k: int = 0, *, selection: str = "mean") -> Metric:
        """The metric at budget `k`, from the table or the curves. Raises `ConfigError` when it is not there."""
        for m in (*self.metrics, *self.curves):
            if (m.estimator, m.metric, m.k, m.selection) == (estimator, metric, k, selection):
                return m
        known = ", ".join(dict.fromkeys(m.metric for m in self.metrics))
        msg = message(f"no {metric!r} at k={k} of {estimator!r} by {selection!r}", expected=f"one of {known}")
        raise ConfigError(msg)

    def best(self, metric: str, k: int = 0, *, selection: str = "mean") -> tuple[str, ...]:
        """The estimators that are best by the metric; several where they tie, none where it is nowhere defined."""
        found = [self.find(e, metric, k, selection=selection) for e in self._estimators()]
        known = [m for m in found if not math.isnan(m.value)]
        if not known:
            return ()
        choose = min if metric in LOWER_IS_BETTER else max
        top = choose(m.value for m in known)
        return tuple(m.estimator for m in known if math.isclose(m.value, top, rel_tol=1e-9, abs_tol=1e-12))

    def table(self, *, selection: str = "mean") -> pl.DataFrame:
        """Estimators by metrics: one row an estimator, columns such as `MSE` and `SharpeRatio@4`."""
        import polars as pl

        rows: dict[str, dict[str, Any]] = {e: {"estimator": e} for e in self._estimators()}
        for m in self.metrics:
            if m.selection == selection:
                rows[m.estimator][f"{m.metric}@{m.k}" if m.k else m.metric] = m.value
        return pl.DataFrame(list(rows.values()), infer_schema_length=None)

    def plot(self, metric: str = "SharpeRatio", *, selection: str = "mean") -> Any:
        """The metric against k, a line an estimator, as a plotly figure; k without a value are left out."""
        import plotly.graph_objects as go

        fig = go.Figure()
        for name in self._estimators():
            chosen = [
                m for m in self.curves if (m.estimator, m.metric, m.selection) == (name, metric, selection)
            ]
            drawn = [m for m in chosen if not math.isnan(m.value)]
            xy = {"x": [m.k for m in drawn], "y": [m.value for m in drawn]}
            fig.add_trace(go.Scatter(**xy, name=name, mode="lines+markers"))
        fig.update_xaxes(title_text="k: policies put to the test", dtick=1)
        fig.update_yaxes(title_text=f"{metric}@k")
        return fig

    def _estimators(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m.estimator for m in self.metrics))


@dataclass(frozen=True, kw_only=True)
class AdvicePoint(Result):
    """Testing the k best-looking candidates, the k-th of which is `policy`. Gains are over the logging policy.

    `gain` is the k-th candidate's estimate and `expected_gain` what the draws of its true gain come to; `best` and
    `worst` are the mean best and worst true gain among the k. `ratio` is the mean SharpeRatio@k over the draws with its
    central interval. `chance_worse`: some of the k is truly worse than the logging policy; `share_worse` the expected
    share of them; `chance_best_inside`: the best of all candidates is among the k; `chance_again`: another such log
    would pick the same k.
    """

    k: int
    policy: str
    gain: float
    expected_gain: float
    best: float
    worst: float
    ratio: float
    lo: float
    hi: float
    chance_worse: float
    share_worse: float
    chance_best_inside: float
    chance_again: float
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Advice(Result):
    """Portfolios of one estimator on one log, k = 1 to m. `n` counts rows; gains are in `unit` per decision.

    `k_within_risk` is the largest k whose chance that some tested policy is worse than the logging policy stays within
    `risk` (0: none); `k_best_ratio` the k of the largest mean SharpeRatio@k (0: nowhere defined).
    """

    estimator: str
    reward: str
    behaviour: str
    behaviour_value: float
    unit: str
    n: int
    level: float
    risk: float
    points: tuple[AdvicePoint, ...]
    k_within_risk: int
    k_best_ratio: int
    left_out: tuple[tuple[str, str], ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record a k."""
        return [vars(p).copy() for p in self.points]


# reading


def lower_tail(returns: Any, functional: str, alpha: float) -> float:
    """A number, or the functional (`mean`, `quantile`, `cvar`) of the returns (n,) of rollouts of one policy."""
    sample = np.sort(np.atleast_1d(np.asarray(returns, np.float64)))
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        msg = message(
            f"a true value of shape {sample.shape} holds NaN or nothing",
            expected="a finite number a candidate, or the finite returns (n,) of its rollouts",
        )
        raise LogError(msg)
    if len(sample) == 1 or functional == "mean":
        return float(sample.mean())
    cdf = np.arange(1, len(sample) + 1)[None] / len(sample)
    return float(functional_of(sample, cdf, functional, alpha)[0])


def true_table(true_values: Any, functional: str, alpha: float) -> tuple[tuple[str, ...], Floats]:
    """Names and true values (m,). A plain sequence names its candidates by position."""
    if not isinstance(true_values, Mapping):
        width = len(str(len(true_values)))
        true_values = {f"policy-{i:0{width}}": v for i, v in enumerate(true_values)}
    names = tuple(str(n) for n in true_values)
    if len(names) < 2:
        msg = message(f"{len(names)} candidate policies", expected="at least 2, to select among")
        raise LogError(msg)
    return names, np.array([lower_tail(v, functional, alpha) for v in true_values.values()])


def read_problem(
    true_values: Any,
    estimates: Any,
    standard_errors: Any = None,
    *,
    functional: str = "mean",
    alpha: float = 0.1,
    level: float = 0.95,
) -> Problem:
    """Everything as arrays. Raises `LogError` for shapes that do not fit and values that are not finite."""
    names, true = true_table(true_values, functional, alpha)
    if not len(estimates):
        raise LogError(message("no estimator", expected="at least one"))
    if isinstance(estimates, Mapping):
        blocks = {str(e): _block(str(e), v, names) for e, v in estimates.items()}
        errors = {e: _block(str(e), v, names) for e, v in (standard_errors or {}).items()}
        spread = {e: errors.get(e, np.full_like(v, np.nan)) for e, v in blocks.items()}
        _same_shape([*blocks.items(), *spread.items()])
        lower = {e: v - float(ndtri(level)) * spread[e] for e, v in blocks.items()}
    else:
        blocks, lower = _from_results(estimates, names, functional, alpha, level)
    values = np.stack(list(blocks.values()))
    for e, s, j in np.argwhere(~np.isfinite(values))[:1]:
        msg = message(
            f"{list(blocks)[e]} has no finite value for {names[j]!r} in seed {s} "
            f"({(~np.isfinite(values)).sum()} such values in all)",
            hint="leave out the estimator, or the candidate for all estimators: a rank needs a number",
        )
        raise LogError(msg)
    return Problem(names, true, tuple(blocks), values, np.stack(list(lower.values())))


def _block(estimator: str, given: Any, names: tuple[str, ...]) -> Floats:
    """(seeds, m) of one estimator from (m,), (seeds, m), or a mapping of candidates to a number or (seeds,)."""
    if isinstance(given, Mapping):
        if missing := [n for n in names if n not in given]:
            msg = message(f"{estimator} has no value for {missing[0]!r}", expected=f"{len(names)} candidates")
            raise LogError(msg)
        columns = [np.atleast_1d(np.asarray(given[n], np.float64)) for n in names]
        if len({c.shape for c in columns}) > 1:
            sizes = sorted({len(c) for c in columns})
            msg = message(
                f"{estimator} has candidates of {sizes} seeds", expected="as many for every candidate"
            )
            raise LogError(msg)
        return np.column_stack(columns)
    block = np.atleast_2d(np.asarray(given, np.float64))
    if block.ndim != 2 or block.shape[1] != len(names) or not len(block):
        msg = message(
            f"{estimator} has values of shape {np.shape(given)}",
            expected=f"({len(names)},) or (seeds, {len(names)}): one a candidate, in the order of the true values",
        )
        raise LogError(msg)
    return block


def _same_shape(blocks: Sequence[tuple[str, Floats]]) -> None:
    first, wanted = blocks[0]
    for name, block in blocks:
        if block.shape != wanted.shape:
            msg = message(
                f"{name} has {len(block)} seeds and {first} has {len(wanted)}",
                expected="the same seeds for every estimator",
            )
            raise LogError(msg)


def _from_results(
    estimates: Any, names: tuple[str, ...], functional: str, alpha: float, level: float
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """(seeds, m) values and lower bounds by estimator, from results of one log or of one log a seed."""
    given = list(estimates)
    one_log = all(isinstance(e, (Estimate, ReturnDistribution)) for e in given)
    seeds: list[Sequence[Any]] = [given] if one_log else given
    labels = list(dict.fromkeys(e.estimator for seed in seeds for e in seed))
    shape = (len(seeds), len(names))
    values = {label: np.full(shape, np.nan) for label in labels}
    lower = {label: np.full(shape, np.nan) for label in labels}
    place = {name: j for j, name in enumerate(names)}
    for s, seed in enumerate(seeds):
        seen: set[tuple[str, str]] = set()
        for e in seed:
            if e.policy not in place:
                continue
            if (e.estimator, e.policy) in seen:
                msg = message(
                    f"{e.estimator} has two estimates of {e.policy!r} in seed {s}",
                    expected="one a candidate",
                    hint="pass the estimates of one reward, over the whole log",
                )
                raise LogError(msg)
            seen.add((e.estimator, e.policy))
            point, bound = _point(e, functional, alpha, level)
            values[e.estimator][s, place[e.policy]] = point
            lower[e.estimator][s, place[e.policy]] = bound
    return values, lower


def _point(
    e: Estimate | ReturnDistribution, functional: str, alpha: float, level: float
) -> tuple[float, float]:
    if isinstance(e, ReturnDistribution):
        if functional == "mean":
            return e.mean(), math.nan
        return (e.cvar(alpha) if functional == "cvar" else e.quantile(alpha)), math.nan
    t = float(stdtrit(e.n - 1, level)) if e.n > 1 else math.nan
    return e.value, e.value - t * e.se
