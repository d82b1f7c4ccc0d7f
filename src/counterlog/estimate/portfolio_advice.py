"""Which k policies to test when no true value is known: SharpeRatio@k and its risks under the log's own uncertainty.

Draws of the true values given the log stand for the truth. The portfolio is fixed (the k candidates that look best on
this log); what is random is how good they are. See `estimate/sharpe-ratio-at-k` for the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.buckets import Cell, column_matrix
from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.evaluate import Evaluation
from counterlog.core.intervals import poisson_multiplicities, replicate_values
from counterlog.estimate.selection_results import Advice, AdvicePoint
from counterlog.estimate.sharpe_ratio_at_k import UNDEFINED, SharpeRatioAtKConfig, curves_at_k, ranking

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
GRID = 21


def shrunken_gains(gains: Floats, replicates: Floats, *, rng: int = 0) -> Floats:
    """(B, m) draws of the true gains given their estimates (m,) and bootstrap replicates (B, m) of these.

    Estimates g ~ N(J, V), V the covariance of the replicates. J ~ N(0, P), P = tau^2 I + s^2 1 1^T: the candidates
    differ by tau and are, together, off the logging policy by s; both are flat on a grid. A draw picks tau and s by
    their likelihood, J' ~ N(0, P) and the noise n of its replicate, and is J' + P (V + P)^-1 (g - J' - n): what
    looked best by luck is drawn back.
    """
    gen, m = np.random.default_rng([rng, 2]), len(gains)
    noise = replicates - replicates.mean(axis=0)
    v = np.atleast_2d(np.cov(noise.T))
    size = float(np.sqrt(np.mean(gains**2) + np.trace(v) / m)) or 1.0
    grid = 3 * size * np.linspace(0, 1, GRID) ** 2
    tau, s = (axis.ravel() for axis in np.meshgrid(grid, grid))
    prior = tau[:, None, None] ** 2 * np.eye(m) + s[:, None, None] ** 2
    total = v + prior + 1e-10 * size**2 * np.eye(m)
    solved = np.linalg.solve(total, np.broadcast_to(gains[:, None], (len(tau), m, 1)))[..., 0]
    fit = (
        -0.5 * (np.linalg.slogdet(total)[1] + solved @ gains)
        + np.log(np.gradient(grid)[:, None] * np.gradient(grid)).ravel()
    )
    chance = np.exp(fit - fit.max())
    pick = np.sort(gen.choice(len(tau), size=len(noise), p=chance / chance.sum()))
    true = tau[pick, None] * gen.standard_normal(noise.shape) + s[pick, None] * gen.standard_normal(
        (len(noise), 1)
    )
    for i in np.unique(pick):
        mine = pick == i
        true[mine] += np.linalg.solve(total[i], (gains - true[mine] - noise[mine]).T).T @ prior[i]
        if tau[i] == 0:  # all candidates alike: rounding must not pass for a spread
            true[mine] = true[mine].mean(axis=1, keepdims=True)
    return np.asarray(true, np.float64)


def advise(
    evaluation: Evaluation,
    *,
    estimator: str = "",
    reward: str = "",
    behaviour: str = "logged",
    config: SharpeRatioAtKConfig | None = None,
    rng: int = 0,
) -> Advice:
    """What testing the k best-looking candidates of an evaluation risks, for k = 1 to their number.

    True values are unknown: draws given the log stand for them. With the `flat` prior these are the Poisson
    bootstrap replicates; with `normal` they are drawn towards each other (`shrunken_gains`), which takes back the
    luck of those that look best. `behaviour` names the evaluated policy to beat. Candidates whose estimate is not
    valid are left out, with their reason.
    """
    c = config or SharpeRatioAtKConfig()
    estimator, cells = _cells(evaluation, estimator, reward, behaviour)
    part = evaluation.table.part()
    counts = part["n"].to_numpy()
    draws = poisson_multiplicities(len(counts), c.replicates, rng)
    reward = cells[0].reward
    kept: list[tuple[Cell, float, Floats]] = []
    left_out: list[tuple[str, str]] = []
    for cell in cells:
        e = evaluation.find(cell.policy, cell.estimator, reward=reward)
        try:
            replicated = replicate_values(column_matrix(part, cell), counts, draws)
        except SupportError as cause:
            replicated, e = np.empty(0), _refused(e, cause)
        if cell is cells[0] and not replicated.size:
            raise SupportError(e.reason)
        if cell is cells[0] or e.valid:
            kept.append((cell, e.value, replicated))
        else:
            left_out.append((cell.policy, e.reason))
    if len(kept) < 3:
        msg = message(
            f"{len(kept) - 1} candidate with a valid estimate by {estimator}",
            expected="at least 2, beside the logging policy",
            hint="; ".join(f"{n}: {r}" for n, r in left_out) or "evaluate more policies",
        )
        raise SupportError(msg)
    (_, base, base_draws), *rest = kept
    names = [cell.policy for cell, _, _ in rest]
    gains = np.array([value for _, value, _ in rest]) - base
    replicated_gains = np.column_stack([drawn for _, _, drawn in rest]) - base_draws[:, None]
    true = replicated_gains if c.prior == "flat" else shrunken_gains(gains, replicated_gains, rng=rng)
    order = ranking(gains, names)
    points = portfolio_points(c, gains, true, replicated_gains, order, names)
    ratios = [p.ratio for p in points]
    safe = [p.k for p in points if p.chance_worse <= c.risk]
    return Advice(
        estimator=estimator,
        reward=reward,
        behaviour=behaviour,
        behaviour_value=base,
        unit=rest[0][0].unit,
        n=evaluation.n,
        level=c.level,
        risk=c.risk,
        points=points,
        k_within_risk=max(safe, default=0),
        k_best_ratio=int(np.nanargmax(ratios)) + 1 if np.isfinite(ratios).any() else 0,
        left_out=tuple(left_out),
    )


def portfolio_points(
    c: SharpeRatioAtKConfig, gains: Floats, true: Floats, other: Floats, order: Codes, names: Sequence[str]
) -> tuple[AdvicePoint, ...]:
    """A point a k: `true` (B, m) draws of the true gains, `other` (B, m) estimates of other such logs, `gains` (m,) and
    their `order`, best first."""
    picked = true[:, order]
    at = curves_at_k(picked, 0.0, 0.0, c.ddof)
    places = np.argsort(ranking(other, names), axis=1)  # (B, m) rank of each candidate in another log
    ends = [(1 - c.level) / 2, (1 + c.level) / 2]
    made = []
    for k in range(1, len(order) + 1):
        ratio = at["SharpeRatio"][:, k - 1]
        known = ratio[~np.isnan(ratio)]
        lo, hi = np.quantile(known, ends) if known.size else (np.nan, np.nan)
        again = (places[:, order[:k]] < k).all(axis=1)
        made.append(
            AdvicePoint(
                k=k,
                policy=names[order[k - 1]],
                gain=float(gains[order[k - 1]]),
                expected_gain=float(picked[:, k - 1].mean()),
                best=float(at["best"][:, k - 1].mean()),
                worst=float(at["worst"][:, k - 1].mean()),
                ratio=float(known.mean()) if known.size else float("nan"),
                lo=float(lo),
                hi=float(hi),
                chance_worse=float((at["worst"][:, k - 1] < 0).mean()),
                share_worse=float(at["violations"][:, k - 1].mean()),
                chance_best_inside=float((at["Regret best"][:, k - 1] == 0).mean()),
                chance_again=float(again.mean()),
                reason="" if known.size else UNDEFINED["SharpeRatio"],
            )
        )
    return tuple(made)


def _refused(e: Any, cause: SupportError) -> Any:
    return replace(e, valid=False, reason=str(cause).splitlines()[0])


def _cells(evaluation: Evaluation, estimator: str, reward: str, behaviour: str) -> tuple[str, list[Cell]]:
    """The estimator, and its cells of one reward, the logging policy's first (by any estimator: all agree on it)."""
    cells = evaluation.table.cells
    reward = reward or cells[0].reward
    cells = tuple(c for c in cells if c.reward == reward)
    if not cells:
        msg = message(f"the evaluation has no reward {reward!r}")
        raise ConfigError(msg)
    known = list(dict.fromkeys(c.estimator for c in cells if c.policy != behaviour))
    if (not estimator and len(known) > 1) or (estimator and estimator not in known):
        asked = f"no estimator {estimator!r}" if estimator else f"{len(known)} estimators"
        msg = message(f"the evaluation has {asked}", expected=f"one of {', '.join(known)}", hint="name it")
        raise ConfigError(msg)
    estimator = estimator or "".join(known)
    mine = [c for c in cells if c.policy == behaviour]
    if not mine:
        msg = message(
            f"the evaluation has no policy {behaviour!r} to compare with",
            hint='add "logged" to the policies: evaluate(log, ["logged", ...])',
        )
        raise ConfigError(msg)
    first = next((c for c in mine if c.estimator == estimator), mine[0])
    return estimator, [first, *(c for c in cells if c.estimator == estimator and c.policy != behaviour)]
