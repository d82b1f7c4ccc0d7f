"""Several rewards, many policies, one pass: stored components from which every trade-off is recombined.

    J_pj     value of reward j under policy p by IPS, SNIPS, DM or DR                                       (1)
    u_pj     influence of one independent unit on J_pj (as `core.moments`);  C = Cov(J) = u'u / (n (n - 1))    (2)
    J_p(w)   = sum_j w_j J_pj,   Var = w' C_pp w     (exact: the estimators are linear in the reward)       (3)
    A - B    = J_A(w) - J_B(w),  Var from the same C: what two policies share cancels                       (4)
    band     c = quantile of max_k |Z_k| / sqrt(chi2_v / v),  Z ~ N(0, corr C),  v = n - 1                   (5)

(3) to (5) never read the log again. Shapes: P policies, J rewards; J_pj (P, J), C (P J, P J).
Units: of each reward; a weighted sum of several has the unit its caller names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from counterlog.core.errors import CounterlogError, SupportError, message
from counterlog.core.estimators import Parts, Row
from counterlog.core.evaluate import make_estimator
from counterlog.core.hashing import row_keys, scatter
from counterlog.core.intervals import adequate
from counterlog.core.results import Estimate, Result
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Weights = Mapping[str, float]
DRAWS = 20_000
BUCKETS, MOST_UNITS = 4096, 200_000
_SALT = 307


@dataclass(frozen=True, kw_only=True)
class Components(Result):
    """Equations (1) and (2) of P policies and J rewards by one estimator, over the log or one segment of it.

    `value` (P, J) and `covariance` (P J, P J, policies outermost) are in the rewards' units; `n` counts independent
    units, `groups` what the covariance was taken over (units, or hash buckets of very many); `ess` is each policy's
    effective sample size in `rows`.
    """

    policies: tuple[str, ...]
    rewards: tuple[str, ...]
    units: tuple[str, ...]
    value: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[float, ...], ...]
    ess: tuple[float, ...]
    n: int
    groups: int
    rows: int
    estimator: str = "DR"
    segment: str = ""
    level: float = 0.95

    def estimate(self, policy: str, weights: Weights, *, unit: str = "", reward: str = "") -> Estimate:
        """Equation (3): the value of a weighted sum of rewards, with its t interval over units."""
        p = self._place(policy)
        found = self._weighted({policy: 1.0}, weights, unit, reward)
        good, why = adequate(self.ess[p], self.rows, found.se)
        return replace(found, policy=policy, ess=self.ess[p], valid=good, reason=why)

    def difference(
        self, policy: str, baseline: str, weights: Weights, *, unit: str = "", reward: str = ""
    ) -> Estimate:
        """Equation (4): `policy` minus `baseline` on the same units."""
        found = self._weighted({policy: 1.0, baseline: -1.0}, weights, unit, reward)
        return replace(found, policy=f"{policy} - {baseline}", interval="t paired")

    def lower(self, policy: str, baseline: str, weights: Weights, *, alpha: float = 0.05) -> float:
        """One-sided bound: the difference (4) is above it with confidence 1 - alpha."""
        found = self.difference(policy, baseline, weights)
        return found.value - float(stdtrit(self.groups - 1, 1 - alpha)) * found.se

    def critical(
        self, cells: Sequence[tuple[str, Weights]], *, level: float | None = None, rng: int = 0
    ) -> float:
        """Equation (5): standard errors either side that cover all the `cells` (policy, weights) together."""
        loads = np.array([self._load({policy: 1.0}, weights) for policy, weights in cells])
        cov = loads @ np.array(self.covariance) @ loads.T
        sd = np.sqrt(np.diag(cov))
        live = sd > 0
        if not live.any():
            return 0.0
        corr = cov[np.ix_(live, live)] / np.outer(sd[live], sd[live])
        values, vectors = np.linalg.eigh(corr)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        gen = np.random.default_rng(rng)
        z = gen.standard_normal((DRAWS, len(corr))) @ root.T
        scale = np.sqrt(gen.chisquare(self.groups - 1, DRAWS) / (self.groups - 1))
        return float(np.quantile(np.abs(z).max(axis=1) / scale, self.level if level is None else level))

    def records(self) -> list[dict[str, Any]]:
        """One record a policy and reward."""
        return [
            self.estimate(p, {r: 1.0}, unit=u, reward=r).records()[0]
            for p in self.policies
            for r, u in zip(self.rewards, self.units, strict=True)
        ]

    def _place(self, policy: str) -> int:
        if policy not in self.policies:
            msg = message(f"no policy {policy!r}", expected=f"one of {', '.join(self.policies)}")
            raise CounterlogError(msg)
        return self.policies.index(policy)

    def _load(self, policies: Weights, weights: Weights) -> Floats:
        """(P J,) coefficients of a weighted sum."""
        if unknown := [r for r in weights if r not in self.rewards]:
            msg = message(f"no reward {unknown[0]!r}", expected=f"one of {', '.join(self.rewards)}")
            raise CounterlogError(msg)
        load = np.zeros((len(self.policies), len(self.rewards)))
        for policy, sign in policies.items():
            for reward, weight in weights.items():
                load[self._place(policy), self.rewards.index(reward)] += sign * weight
        return load.ravel()

    def _weighted(self, policies: Weights, weights: Weights, unit: str, reward: str) -> Estimate:
        load = self._load(policies, weights)
        used = [u for r, u in zip(self.rewards, self.units, strict=True) if r in weights]
        point = float(load @ np.array(self.value).ravel())
        se = math.sqrt(max(float(load @ np.array(self.covariance) @ load), 0.0))
        half = float(stdtrit(self.groups - 1, 0.5 + self.level / 2)) * se
        return Estimate(
            value=point,
            lo=point - half,
            hi=point + half,
            se=se,
            unit=unit or (used[0] if len(used) == 1 else "weighted sum"),
            n=self.n,
            level=self.level,
            interval="t",
            estimator=self.estimator,
            reward=reward or " + ".join(weights),
            segment=self.segment,
        )


def measure(
    log: Rounds,
    policies: Mapping[str, Floats | None],
    rewards: Mapping[str, Floats],
    *,
    q: Mapping[str, Floats] | None = None,
    known: Mapping[str, Mask] | None = None,
    units: Mapping[str, str] | None = None,
    estimator: str = "DR",
    rows: NDArray[np.int64] | None = None,
    segment: str = "",
    level: float = 0.95,
) -> Components:
    """Equations (1) and (2) in one pass over the rows (all of them, or the given ones).

    policies   (n, actions) probabilities by name; None is the logging policy, whose weights are 1
    rewards    (n,) by name;  q  (n, actions) predictions by reward, needed by DM and DR
    known      (n,) by reward, False where the outcome has not matured: that reward leaves these rows out
    """
    terms = Terms.of(log, policies, rewards, q=q, known=known, units=units, estimator=estimator)
    return terms.components(rows, segment=segment, level=level)


@dataclass(frozen=True)
class Terms:
    """Per-row terms of every policy and reward: what `measure` sums. Make it once for the log and all its segments.

    `cells` holds a `Parts` a policy and reward, policies outermost; `weights` (n,) a policy.
    """

    log: Rounds
    policies: tuple[str, ...]
    rewards: tuple[str, ...]
    units: tuple[str, ...]
    label: str
    cells: tuple[Parts, ...]
    weights: tuple[Floats, ...]
    known: tuple[Floats | None, ...]

    @classmethod
    def of(
        cls,
        log: Rounds,
        policies: Mapping[str, Floats | None],
        rewards: Mapping[str, Floats],
        *,
        q: Mapping[str, Floats] | None = None,
        known: Mapping[str, Mask] | None = None,
        units: Mapping[str, str] | None = None,
        estimator: str = "DR",
    ) -> Terms:
        """The arguments are those of `measure`."""
        kind, given, index = make_estimator(estimator), q or {}, np.arange(log.n)
        if kind.needs_model and (missing := [r for r in rewards if r not in given]):
            msg = message(
                f"{estimator} needs predictions of {missing[0]!r}", hint="pass q={reward: (n, actions)}"
            )
            raise CounterlogError(msg)
        use = given if kind.needs_model else {}
        logged = {r: m[index, log.action] for r, m in use.items()}
        cells, weights = [], []
        for pi in policies.values():
            w = np.ones(log.n) if pi is None else pi[index, log.action] / log.propensity
            weights.append(w)
            for name, r in rewards.items():
                model = use.get(name)
                expected = (
                    logged.get(name) if pi is None or model is None else np.einsum("ij,ij->i", pi, model)
                )
                cells.append(kind.parts(Row(w=w, r=r, q=logged.get(name), v=expected)))
        found = {name: mask.astype(np.float64) for name, mask in (known or {}).items()}
        return cls(
            log=log,
            policies=tuple(policies),
            rewards=tuple(rewards),
            units=tuple((units or {}).get(r, log.rewards.get(r, "reward")) for r in rewards),
            label=kind.label,
            cells=tuple(cells),
            weights=tuple(weights),
            known=tuple(found.get(r) for r in rewards),
        )

    def components(
        self, rows: NDArray[np.int64] | None = None, *, segment: str = "", level: float = 0.95
    ) -> Components:
        """Equations (1) and (2) over the rows."""
        count = self.log.n if rows is None else len(rows)
        group, n, many = _units(self.log, slice(None) if rows is None else rows, count)

        def part(column: Any) -> Any:
            return column if column is None or rows is None else column.take(rows)

        known = [part(k) for k in self.known]
        u = np.empty((len(self.cells), n))
        points = []
        for k, cell in enumerate(self.cells):
            mask = known[k % len(self.rewards)]
            point, u[k] = _cell(part(cell.mean), part(cell.top), part(cell.bottom), mask, group, n)
            points.append(point)
        covariance = u @ u.T / (n * max(n - 1, 1))
        width = len(self.rewards)
        return Components(
            policies=self.policies,
            rewards=self.rewards,
            units=self.units,
            value=tuple(tuple(points[k : k + width]) for k in range(0, len(points), width)),
            covariance=tuple(map(tuple, covariance.tolist())),
            ess=tuple(_effective(part(w)) for w in self.weights),
            n=many,
            groups=n,
            rows=count,
            estimator=self.label,
            segment=segment,
            level=level,
        )


def _effective(w: Floats) -> float:
    square = float(w @ w)
    return float(w.sum()) ** 2 / square if square > 0 else 0.0


def _units(log: Rounds, part: Any, rows: int) -> tuple[NDArray[np.int64] | None, int, int]:
    """Group of every row (None when rows are the groups), how many groups, how many units.

    A group is a unit, or a hash bucket of units when there are more than `MOST_UNITS`: the covariance then costs memory
    for the buckets alone.
    """
    if log.unit is None:
        many = rows
        if rows <= MOST_UNITS:
            return None, rows, rows
        group = scatter(row_keys(rows), BUCKETS, salt=_SALT)
    else:
        codes, group = np.unique(log.unit[part], return_inverse=True)
        many = len(codes)
        if many <= MOST_UNITS:
            return (None if many == rows else group.astype(np.int64)), many, many
        group = scatter(group.astype(np.uint64), BUCKETS, salt=_SALT)
    return group, BUCKETS, many


def _cell(
    mean: Any, top: Any, bottom: Any, known: Floats | None, group: NDArray[np.int64] | None, n: int
) -> tuple[float, Floats]:
    """Value and influence (n,) of one cell from its per-row terms, summed by unit."""

    def add(column: Any) -> Floats:
        kept = np.asarray(column, dtype=np.float64) if known is None else column * known
        return kept if group is None else np.bincount(group, kept, minlength=n).astype(np.float64)

    rows = len(mean if mean is not None else top)
    total = rows if known is None else float(known.sum())
    point, u = 0.0, np.zeros(n)
    if mean is not None:
        a = add(mean)
        point = float(a.sum()) / total
        size = 1.0 if known is None and group is None else add(np.ones(rows))
        u += (a - point * size) * (n / total)
    if top is not None:
        b, c = add(top), add(bottom)
        mass = float(c.sum())
        if mass == 0:
            msg = message(
                "every weight is 0: the log holds no decision that the policy would make",
                hint="use a policy closer to the log, or the direct method",
            )
            raise SupportError(msg)
        ratio = float(b.sum()) / mass
        point += ratio
        u += (b - ratio * c) * (n / mass)
    return point, u
