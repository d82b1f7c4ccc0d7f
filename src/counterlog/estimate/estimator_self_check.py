"""Estimator self-check: which estimator would have chosen the best portfolio on your own data.

Use when    you have two logs of one system (two loggers, or two periods) and ask which estimator to trust here.
Not when    the log that plays the truth is small: the chances then say that nothing can be told apart, and mean it.
Data        Rounds(action, reward, propensity; time or segment to split one log), twice
Paper       Kiyohara and others (2024), arXiv 2311.18207, for the metric; Saito, Aihara, Matsutani and Narita (2021),
            arXiv 2008.07146, for one logger's data as the truth of another's
Equation    J*_j = value of candidate j on the truth log by an unbiased or nearly unbiased estimator, J*(b) its
            bootstrap replicates, b = 1..B  (1)
            order of each estimator from the other log alone;  S_e(b) = its SharpeRatio@k under the truth J*(b)  (2)
            chance_best_e = mean_b 1{S_e(b) = max S(b)} / ties  (3)
Shapes      J* (m,) | J*(b) (B, m) | order (m,) an estimator
Units       J: reward units per decision | S, chance: none
Raises      SupportError: fewer than 2 candidates have a value on both logs | ConfigError: k > m; a policy whose meaning
            depends on the log (logged, best-fixed) | LogError: a split without rows on one side
Differs     the truth is itself an estimate, so every comparison is repeated under its bootstrap; replicates whose
            portfolio has no spread count for nobody. J_b is the mean reward of the log, or of the truth log.
Builds on   estimate/sharpe-ratio-at-k
Call        compare(log, truth, policies, estimators) judges estimators and estimates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.buckets import column_matrix
from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.estimators import Estimator
from counterlog.core.evaluate import Evaluation, evaluate
from counterlog.core.intervals import poisson_multiplicities, replicate_values
from counterlog.core.policies import Policy
from counterlog.core.results import Result
from counterlog.core.rounds import Rounds
from counterlog.estimate.sharpe_ratio_at_k import best_at_k, ranking, sharpe_ratio, spearman, std_at_k

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EstimatorSelfCheckConfig(Config):
    """Settings of the comparison."""

    k: int = param(0, "test budget; 0: half of the candidates, at least 2", at_least=0)
    truth: str = param(
        "SNIPS", "estimator of the values on the truth log", choices=("IPS", "SNIPS", "DR", "SNDR")
    )
    behaviour: str = param(
        "log", "whose mean reward is J_b: the log's own, or the truth log's", choices=("log", "truth")
    )
    ddof: int = param(0, "divisor of std@k is k - ddof", choices=(0, 1))
    replicates: int = param(1000, "bootstrap replicates of the truth", at_least=2)
    level: float = param(0.95, "coverage of the intervals", above=0, below=1)


@dataclass(frozen=True, kw_only=True)
class CheckedEstimator(Result):
    """`ratio`: SharpeRatio@k under the truth log's estimates, with the central interval of its replicates.

    `chance_best`: how likely it is the best here (3). `regret`: what the best candidate earns beyond the best of the k;
    `chosen`: the k candidates.
    """

    estimator: str
    ratio: float
    lo: float
    hi: float
    chance_best: float
    regret: float
    spearman: float
    chosen: tuple[str, ...]
    unit: str


@dataclass(frozen=True, kw_only=True)
class SelfCheck(Result):
    """Estimators, the likeliest best first. `n` and `n_truth` count rows; `left_out` says who has no place and why.

    `told_apart` is whether the first is best with a chance of at least `level`.
    """

    estimators: tuple[CheckedEstimator, ...]
    candidates: tuple[str, ...]
    true_values: tuple[float, ...]
    behaviour: float
    k: int
    n: int
    n_truth: int
    unit: str
    level: float
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def told_apart(self) -> bool:
        """Whether the data can name the best estimator."""
        return self.estimators[0].chance_best >= self.level

    def records(self) -> list[dict[str, Any]]:
        """One record an estimator."""
        return [{**vars(e), "chosen": ", ".join(e.chosen)} for e in self.estimators]


def chances_best(ratios: Floats) -> Floats:
    """Equation (3): (B, E) -> (E,); ties share a replicate, and one in which some ratio is NaN counts for nobody."""
    known = ratios[~np.isnan(ratios).any(axis=1)]
    if not len(known):
        return np.full(ratios.shape[1], np.nan)
    top = np.isclose(known, known.max(axis=1, keepdims=True), rtol=1e-12, atol=0)
    return np.asarray((top / top.sum(axis=1, keepdims=True)).mean(axis=0), np.float64)


def split_by_time(log: Rounds, share: float = 0.5) -> tuple[Rounds, Rounds]:
    """The log before and from the time that parts `share` of its rows; needs a time column."""
    if not 0 < share < 1:
        raise ConfigError(message(f"share={share!r}", expected="a number between 0 and 1"))
    (time,) = log.need("time")
    cut = np.sort(time, kind="stable")[min(int(share * log.n), log.n - 1)]
    return _split(log, time < cut, f"rows before {cut}")


def split_by_level(log: Rounds, column: str, level: Any) -> tuple[Rounds, Rounds]:
    """The rows whose segment `column` is not `level`, and those where it is: the latter as the truth."""
    if column not in log.segment_columns:
        msg = message(f"{column!r} is no segment column", hint=f"name it: Rounds(..., segment=({column!r},))")
        raise LogError(msg)
    return _split(log, log.table[column].to_numpy() != level, f"rows with another {column} than {level!r}")


def _split(log: Rounds, first: Any, what: str) -> tuple[Rounds, Rounds]:
    mask = np.asarray(first, bool)
    if mask.all() or not mask.any():
        msg = message(f"{mask.sum():,} of {log.n:,} {what}", expected="rows on both sides of the split")
        raise LogError(msg)
    return log.take(mask), log.take(~mask)


class EstimatorSelfCheck:
    """Let one log judge the estimators that saw the other."""

    def __init__(self, config: EstimatorSelfCheckConfig | None = None) -> None:
        self.config = config or EstimatorSelfCheckConfig()

    def compare(
        self,
        log: Rounds,
        truth: Rounds,
        policies: Sequence[Policy | str],
        estimators: Sequence[Estimator | str] = (),
        *,
        model: Any = "boosting",
        rng: int = 0,
    ) -> SelfCheck:
        """Estimators on `log`, judged by `truth`. Both have the same reward; a policy means the same in both."""
        c = self.config
        for policy in policies:
            if policy in ("logged", "best-fixed"):
                msg = message(f"{policy!r} means another policy in each log", hint="name a policy of its own")
                raise ConfigError(msg)
        settings: dict[str, Any] = {
            "rewards": [log.reward_name], "segments": False, "model": model, "on_error": "record", "rng": rng
        }  # fmt: skip
        said = evaluate(log, policies, estimators, **settings)
        judged = evaluate(truth, policies, [c.truth], **settings)
        names, true, replicates, left_out = _truth(judged, said, c.replicates, rng)
        k = c.k or max(2, len(names) // 2)
        if k > len(names):
            msg = message(f"k={k} of {len(names)} candidates with a value", expected="k at most their number")
            raise ConfigError(msg)
        j_b = float((log if c.behaviour == "log" else truth).reward.mean())
        orders: dict[str, NDArray[np.int64]] = {}
        agreement: dict[str, float] = {}
        for estimator in dict.fromkeys(cell.estimator for cell in said.table.cells):
            values = np.array([said.find(n, estimator).value for n in names])
            orders[estimator] = ranking(values, names)
            agreement[estimator] = spearman(true, values)
        ratios = np.column_stack([_ratio(replicates[:, o], k, j_b, c.ddof) for o in orders.values()])
        chance = chances_best(ratios)
        ends = np.nanquantile(ratios, [(1 - c.level) / 2, (1 + c.level) / 2], axis=0)
        rows = [
            CheckedEstimator(
                estimator=name,
                ratio=float(_ratio(true[order], k, j_b, c.ddof)),
                lo=float(ends[0, e]),
                hi=float(ends[1, e]),
                chance_best=float(chance[e]),
                regret=float(true.max() - true[order[:k]].max()),
                spearman=agreement[name],
                chosen=tuple(names[j] for j in order[:k]),
                unit=log.reward_unit,
            )
            for e, (name, order) in enumerate(orders.items())
        ]
        return SelfCheck(
            estimators=tuple(sorted(rows, key=lambda r: (-r.chance_best, r.estimator))),
            candidates=tuple(names),
            true_values=tuple(true.tolist()),
            behaviour=j_b,
            k=k,
            n=log.n,
            n_truth=truth.n,
            unit=log.reward_unit,
            level=c.level,
            left_out=left_out,
        )


def _ratio(picked: Floats, k: int, j_b: float, ddof: int) -> Floats:
    """Equation (2): (..., m) true values in order -> (...)."""
    tested = picked[..., :k]
    return sharpe_ratio(best_at_k(tested)[..., -1], std_at_k(tested, ddof)[..., -1], j_b)


def _truth(
    judged: Evaluation, said: Evaluation, replicates: int, rng: int
) -> tuple[list[str], Floats, Floats, tuple[tuple[str, str], ...]]:
    """Candidates with a value by every estimator on both logs, their values (m,) and replicates (B, m)."""
    part = judged.table.part()
    counts = part["n"].to_numpy()
    draws = poisson_multiplicities(len(counts), replicates, rng)
    left_out = {e.policy: e.reason for e in (*judged.estimates, *said.estimates) if not np.isfinite(e.value)}
    names, values, columns = [], [], []
    for cell in judged.table.cells:
        if cell.policy in left_out:
            continue
        try:
            columns.append(replicate_values(column_matrix(part, cell), counts, draws))
        except SupportError as cause:
            left_out[cell.policy] = str(cause).splitlines()[0]
            continue
        names.append(cell.policy)
        values.append(judged.find(cell.policy, cell.estimator).value)
    if len(names) < 2:
        msg = message(
            f"{len(names)} candidates have a value on both logs",
            expected="at least 2",
            hint="; ".join(f"{n}: {r}" for n, r in left_out.items()),
        )
        raise SupportError(msg)
    return names, np.array(values), np.column_stack(columns), tuple(left_out.items())
