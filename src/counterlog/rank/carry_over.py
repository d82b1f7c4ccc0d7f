"""Carry-over: does what was shown in earlier fetches of a session change what a fetch earns now?

Use when    decisions come in sessions and a policy was valued one decision at a time.
Not when    every decision has its own user: there is nothing to carry over.
Data        Rounds(action as whole numbers, reward, propensity, context, position), and a session column
Paper       none: a check of the assumption behind bandit learning of ad loads (Sagtani et al., WSDM 2024).
Equation    R_t = b0 + b'x_t + c a_t + d1 a_{t-1} + d2 a_{t-2} + e_t,  errors clustered by user              (1)
            Wald = d' V^-1 d ~ chi2(2) when nothing carries over;  flagged when p < alpha and |d1| > share |c| (2)
            session value, decisions alone:   E[T] mean(w_t r_t)                                             (3)
            session value, whole sessions:    mean over sessions of sum_t (w_1 ... w_t) r_t                   (4)
            w_t = 1 - mix + mix pi(a_t|x_t) / p_t: a small step from the logging policy towards pi
Shapes      x (n, d) | a, R, w (n,) | session, position (n,)
Units       c, d: reward units per ad | (3), (4): reward units per session
Raises      LogError: no session or position, fewer than 100 fetches with an earlier one
Call        check(log, session) -> Finding;  compare(log, policy, session) -> Finding
Differs     (2) compares the previous fetch with the current one; survivors of a high load are the patient users, so in
            sessions that end by exit d1 mixes selection with carry-over: both break the bandit's assumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri

from counterlog.core.config import Config, param
from counterlog.core.errors import LogError, message
from counterlog.core.features import Encoder
from counterlog.core.policies import Policy
from counterlog.core.results import Finding
from counterlog.core.rounds import Rounds
from counterlog.rank.ad_load_checks import column_of

Floats = NDArray[np.float64]
FEWEST = 100


@dataclass(frozen=True, kw_only=True)
class CarryOverConfig(Config):
    """Settings of `CarryOver`."""

    alpha: float = param(0.01, "largest p-value that is flagged (2)", above=0, below=1)
    share: float = param(
        0.1, "smallest effect of the previous fetch, as a share of this one's (2)", at_least=0
    )
    mix: float = param(0.2, "step from the logging policy towards the candidate (3), (4)", above=0, at_most=1)
    level: float = param(0.95, "coverage of the interval of (3) - (4)", above=0, below=1)


def clustered_least_squares(z: Floats, y: Floats, unit: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Coefficients (k,) and their covariance (k, k), errors clustered by unit with the factor G / (G - 1)."""
    inverse = np.linalg.pinv(z.T @ z)
    beta = inverse @ (z.T @ y)
    codes, dense = np.unique(unit, return_inverse=True)
    scores = z * (y - z @ beta)[:, None]
    sums = np.column_stack([np.bincount(dense, s, minlength=len(codes)) for s in scores.T])
    g = len(codes)
    return beta, inverse @ (sums.T @ sums) @ inverse * (g / max(g - 1, 1))


def lagged(values: Floats, start: NDArray[np.bool_], by: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Values of `by` rows before in the same session (0 where there is none), and where there is one.

    Rows are in session order and `start` marks each session's first.
    """
    n = len(values)
    first = np.maximum.accumulate(np.where(start, np.arange(n), 0))
    has = np.arange(n) - by >= first
    return np.where(has, np.roll(values, by), 0.0), has


class CarryOver:
    """Checks whether decisions of a session can be valued one at a time."""

    def __init__(self, config: CarryOverConfig | None = None) -> None:
        self.config = config or CarryOverConfig()

    def check(self, log: Rounds, session: str) -> Finding:
        """Equations (1) and (2) for the primary reward."""
        order, start = sessions_in_order(log, session)
        load = np.array([float(a) for a in log.actions])[log.action][order]
        one, has_one = lagged(load, start, 1)
        two, has_two = lagged(load, start, 2)
        if (many := int(has_one.sum())) < FEWEST:
            msg = message(
                f"only {many} fetches have an earlier one in their session", expected=f"at least {FEWEST}"
            )
            raise LogError(msg)
        x = Encoder.fit(log.context).transform(log.context)[order]
        z = np.column_stack([load, one, two, np.ones(len(x)), has_two, x])[has_one]
        unit = (np.cumsum(start) if log.unit is None else log.unit[order])[has_one]
        beta, cov = clustered_least_squares(z, log.reward[order][has_one], unit.astype(np.int64))
        d, v = beta[1:3], cov[1:3, 1:3]
        wald = float(d @ np.linalg.pinv(v) @ d)
        p = float(chdtrc(2, max(wald, 0.0)))
        ratio = float(beta[1] / beta[0]) if beta[0] != 0 else math.inf
        flagged = p < self.config.alpha and abs(ratio) > self.config.share
        text = (
            f"one more ad in the previous fetch changes {log.reward_name!r} by {beta[1]:.3g}, "
            f"{ratio:.0%} of what one more now does (p = {p:.2g})"
        )
        evidence = tuple(
            {"term": t, "effect": float(beta[i]), "se": math.sqrt(float(cov[i, i]))}
            for i, t in enumerate(("this fetch", "one before", "two before"))
        )
        return Finding(
            check="carry-over",
            severity="warning" if flagged else "ok",
            message=text,
            remedy="value whole sessions, or give the context what was shown before" if flagged else "",
            unit=f"{log.reward_unit} an ad",
            n=len(np.unique(unit)),
            value=float(beta[1]),
            evidence=(*evidence, {"term": "joint p-value", "effect": p, "se": math.nan}),
        )

    def compare(self, log: Rounds, policy: Policy, session: str) -> Finding:
        """Equations (3) and (4) for the primary reward: a warning when their difference leaves its interval."""
        c = self.config
        order, start = sessions_in_order(log, session)
        w = (1 - c.mix + c.mix * policy.logged_probs(log) / log.propensity)[order]
        r, which = log.reward[order], np.cumsum(start) - 1
        many = int(which[-1]) + 1
        steps = np.log(np.maximum(w, 1e-300)).cumsum()
        before = np.concatenate([[0.0], steps[:-1]])[start]
        through = np.exp(steps - before[which])
        whole = np.bincount(which, through * r, minlength=many)
        length = np.bincount(which, minlength=many)
        single = np.bincount(which, w * r, minlength=many)
        gap = whole - single
        se = float(gap.std(ddof=1)) / math.sqrt(many)
        z = float(ndtri(0.5 + c.level / 2))
        off = abs(float(gap.mean())) > z * se
        ratio = float(whole.mean() / single.mean()) if single.mean() else math.nan
        return Finding(
            check="session value",
            severity="warning" if off else "ok",
            message=(
                f"a step of {c.mix:g} towards {policy.name!r}: {single.mean():.4g} a session when decisions are valued "
                f"alone, {whole.mean():.4g} over whole sessions (ratio {ratio:.3f})"
            ),
            remedy="choose loads by what the whole session earns" if off else "",
            unit=f"{log.reward_unit} a session",
            n=many,
            value=float(gap.mean()),
            evidence=(
                {
                    "difference": float(gap.mean()),
                    "lo": float(gap.mean()) - z * se,
                    "hi": float(gap.mean()) + z * se,
                    "mean length": float(length.mean()),
                },
            ),
        )


def sessions_in_order(log: Rounds, session: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row order by session and position, and which rows of that order start a session."""
    log.need("position")
    column = column_of(log, session, "the session")
    keys = pl.DataFrame({"s": column, "i": log.table[log.position_column or ""]})
    order = keys.with_row_index("row").sort("s", "i", maintain_order=True)
    start = (order["s"] != order["s"].shift(1)).fill_null(True)
    return order["row"].to_numpy().astype(np.int64), np.asarray(start.to_numpy(), dtype=bool)
