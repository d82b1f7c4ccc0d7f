"""Slates: value a policy that fills several slots at once, by how far a reward depends on the other slots.

Use when    the log has a row a slot, a reward a slot, and slots of one slate share an id.
Not when    there is one reward for the whole slate: give it to every estimator but SIPS and the split is arbitrary.
Data        Rounds(action, reward, propensity, unit = the slate's id, position = the slot; context for CascadeDR). The
            propensity is the chance of the slot's action given the slots above it, p(a_k | x, a_1..a_k-1)
Paper       Li, Abbasi-Yadkori, Kveton et al. (2018), IIPS; McInerney et al. (2020), arXiv 2007.12986, RIPS;
            Kiyohara et al. (2022), arXiv 2202.01562, cascade DR
Equation    w_k = pi(a_k|x, a_<k) / p(a_k|x, a_<k),   w_1:k = prod_{j<=k} w_j,  w_1:0 = 1
            SIPS       mean sum_k w_1:L r_k               any dependence between the slots                (1)
            RIPS       mean sum_k w_1:k r_k               a reward depends on the slots above             (2)
            IIPS       mean sum_k m_k r_k                 a reward depends on its own slot                (3)
                       m_k = pi(a_k|x)/p(a_k|x), marginal chances; w_k where slots are filled independently
            CascadeDR  mean sum_k w_1:k (r_k - q_k) + w_1:k-1 sum_a pi(a|x, a_<k) q_k(a)                  (4)
                       q_k = E[r_k + sum_a pi(a|..) q_k+1(a)], fitted backwards from the last slot        (5)
            SN...      the weights of each slot divided by their mean                                     (6)
Shapes      w, r, q (n,) a row a slot | value: a mean over slates
Units       value: reward units per slate
Raises      LogError: no slate or slot column, a slot twice, a gap between slots | SupportError: all weights of a slot
            are 0 | PropensityError: a marginal chance is none
Differs     slates may differ in length. (5) is the value to go, so that the terms of (4) telescope; any q keeps (4)
            unbiased. (6) adds the denominators' influence to the terms, so that their interval is that of ratios;
            the denominators are those of the whole log, also in segments and replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.crossfit import action_features, folds_of, make_model, splits
from counterlog.core.errors import LogError, PropensityError, SupportError, message
from counterlog.core.estimators import (
    Estimator,
    Floats,
    Parts,
    Row,
    importance_weights,
    no_terms,
    number_columns,
)
from counterlog.core.features import Encoder
from counterlog.core.policies import Logged, Policy, checked_probs
from counterlog.core.rounds import Rounds

Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IIPSConfig(Config):
    """Settings of `IIPS`."""

    target: str = param("", "column of the candidate's marginal chance of the slot's action; empty: w_k")
    marginal: str = param("", "column of the logging policy's marginal chance; empty: w_k")


@dataclass(frozen=True, kw_only=True)
class CascadeDRConfig(Config):
    """Settings of `CascadeDR`."""

    model: str = param("linear", "model of q (5)", choices=("linear", "boosting"))
    folds: int = param(3, "folds of the cross-fitting, by slate", at_least=2)


@dataclass(frozen=True)
class Layout:
    """`order` (n,) sorts rows by slate and slot; `slate` and `slot` (n,) are codes in that order."""

    order: Codes
    slate: Codes
    slot: Codes

    @property
    def starts(self) -> NDArray[np.bool_]:
        """(n,) whether a row, in order, is its slate's first."""
        return np.asarray(self.slot == 0)

    def back(self, ordered: Any) -> Any:
        """Values in order -> values by row of the log."""
        out = np.empty_like(ordered)
        out[self.order] = ordered
        return out


def layout_of(log: Rounds) -> Layout:
    """The slates of a log. Raises `LogError` when a slot is missing, or is there twice."""
    if log.unit_column is None or log.position_column is None:
        lacks = "unit" if log.unit_column is None else "position"
        what = "the slate's id" if lacks == "unit" else "the slot"
        msg = message(f"the log does not say {what}", hint=f"name its column: Rounds(..., {lacks}=...)")
        raise LogError(msg)
    (unit, position) = log.need("unit", "position")
    order = np.lexsort((position, unit)).astype(np.int64)
    slate, place = unit[order], position[order]
    fresh = np.concatenate([[True], slate[1:] != slate[:-1]])
    first = np.flatnonzero(fresh)
    slot = np.arange(len(slate)) - np.repeat(first, np.diff(np.append(first, len(slate))))
    odd = np.flatnonzero(place - place.min() != slot)
    if odd.size:
        row = int(order[odd[0]])
        msg = message(
            f"slots are missing or doubled in {len(np.unique(slate[odd])):,} slates, first at row {row} "
            f"({log.unit_column}={log.table[log.unit_column][row]}, {log.position_column}={place[odd[0]]})",
            expected=f"slots {place.min()}, {place.min() + 1}, ... without gaps in every slate",
            hint="bring all slots of a slate, or drop it",
        )
        raise LogError(msg)
    return Layout(order, slate, slot.astype(np.int64))


def running_products(w: Floats, slot: Codes) -> Floats:
    """w_1:k, (n,) in order -> (n,)."""
    out = w.copy()
    for k in range(1, int(slot.max()) + 1):
        at = np.flatnonzero(slot == k)
        out[at] *= out[at - 1]
    return out


def before(products: Floats, slot: Codes) -> Floats:
    """w_1:k-1, (n,) in order: 1 in the first slot."""
    return np.where(slot == 0, 1.0, np.concatenate([[1.0], products[:-1]]))


def whole(products: Floats, slot: Codes) -> Floats:
    """w_1:L of the row's slate, (n,) in order."""
    last = np.flatnonzero(np.append(slot[1:] == 0, True))
    first = np.flatnonzero(slot == 0)
    return np.repeat(products[last], last - first + 1)


def self_normalised(w: Floats, y: Floats, slot: Codes) -> Floats:
    """Equation (6): (n,) terms whose mean in a slot is sum w y / sum w, with the influence of both sums."""
    n = np.bincount(slot)
    mass = np.bincount(slot, weights=w)
    if (mass == 0).any():
        k = int(np.flatnonzero(mass == 0)[0])
        msg = message(
            f"all weights in slot {k + 1} are 0",
            hint="the log does not support this policy; use CascadeDR or SIPS",
        )
        raise SupportError(msg)
    ratio = np.bincount(slot, weights=w * y) / mass
    return np.asarray(ratio[slot] + w * (y - ratio[slot]) * (n / mass)[slot])


class Slates(Estimator):
    """Base of the slate estimators. `normalise` asks for (6)."""

    normalise: ClassVar[bool] = False

    def parts(self, row: Row) -> Parts:
        """Raises `ConfigError`: the slates are in the log."""
        raise no_terms(self)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The slots' terms over the number of slates."""
        where = layout_of(log)
        w = np.ones(log.n) if isinstance(policy, Logged) else importance_weights(log, policy)
        used, terms = self.terms(log, policy, where, w[where.order], rng=rng)
        count = where.starts.astype(np.float64)
        return {
            "w": where.back(used),
            "parts": Parts(top=where.back(terms), bottom=where.back(count)),
            "unit": f"{log.reward_unit} per slate",
        }

    def terms(
        self, log: Rounds, policy: Policy, where: Layout, w: Floats, *, rng: int
    ) -> tuple[Floats, Floats]:
        """The weights used and the terms, (n,) each, in order."""
        used, r = self.weights(log, where, w), log.reward[where.order]
        return used, self_normalised(used, r, where.slot) if self.normalise else used * r

    def weights(self, log: Rounds, where: Layout, w: Floats) -> Floats:
        """(n,) in order, from the slots' ratios w (n,)."""
        raise NotImplementedError


class SIPS(Slates):
    """Equation (1)."""

    name: ClassVar[str] = "SIPS"

    def weights(self, log: Rounds, where: Layout, w: Floats) -> Floats:
        """w_1:L."""
        return whole(running_products(w, where.slot), where.slot)


class RIPS(Slates):
    """Equation (2)."""

    name: ClassVar[str] = "RIPS"

    def weights(self, log: Rounds, where: Layout, w: Floats) -> Floats:
        """w_1:k."""
        return running_products(w, where.slot)


class IIPS(Slates):
    """Equation (3)."""

    name: ClassVar[str] = "IIPS"

    def __init__(self, config: IIPSConfig | None = None) -> None:
        self.config = config or IIPSConfig()

    def weights(self, log: Rounds, where: Layout, w: Floats) -> Floats:
        """m_k."""
        c = self.config
        if not (c.target or c.marginal):
            return w
        setting = "IIPSConfig(target='column', marginal='column')"
        chances = number_columns(
            log, tuple(n for n in (c.target, c.marginal) if n), "a marginal chance", setting
        )
        if chances.shape[1] != 2:
            msg = message("one marginal chance was named of two", expected=setting)
            raise LogError(msg)
        if not ((chances >= 0) & (chances <= 1)).all() or not (chances[:, 1] > 0).all():
            msg = message(
                f"{c.target!r} or {c.marginal!r} holds numbers that are no chance",
                expected=f"[0, 1], and {c.marginal!r} above 0",
            )
            raise PropensityError(msg)
        return np.asarray((chances[:, 0] / chances[:, 1])[where.order])


class CascadeDR(Slates):
    """Equation (4). `q` (n, actions) by row of the log may be given; it is fitted by (5) otherwise."""

    name: ClassVar[str] = "CascadeDR"

    def __init__(self, config: CascadeDRConfig | None = None, *, q: Floats | None = None) -> None:
        self.config, self.q = config or CascadeDRConfig(), q

    def terms(
        self, log: Rounds, policy: Policy, where: Layout, w: Floats, *, rng: int
    ) -> tuple[Floats, Floats]:
        """Equation (4), slot by slot."""
        upto = running_products(w, where.slot)
        above, r, action = before(upto, where.slot), log.reward[where.order], log.action[where.order]
        if isinstance(policy, Logged):
            return upto, r
        pi = checked_probs(policy, log)[where.order]
        q = self._q(log, pi, where, rng=rng)
        logged, value = q[np.arange(log.n), action], (pi * q).sum(axis=1)
        return upto, self.combine(upto, above, r - logged, value, where.slot)

    def combine(self, upto: Floats, above: Floats, residual: Floats, value: Floats, slot: Codes) -> Floats:
        """Terms of (4), (n,); with (6) when normalised."""
        if not self.normalise:
            return upto * residual + above * value
        return self_normalised(upto, residual, slot) + self_normalised(above, value, slot)

    def _q(self, log: Rounds, pi: Floats, where: Layout, *, rng: int) -> Floats:
        if self.q is None:
            return value_to_go(log, pi, where, self.config.model, self.config.folds, rng=rng)
        given = np.asarray(self.q, dtype=np.float64)
        if given.shape != pi.shape:
            raise LogError(message(f"q has shape {given.shape}", expected=f"{pi.shape}: rows x actions"))
        return given[where.order]


class SNSIPS(SIPS):
    """SIPS with (6)."""

    name: ClassVar[str] = "SNSIPS"
    normalise: ClassVar[bool] = True


class SNRIPS(RIPS):
    """RIPS with (6)."""

    name: ClassVar[str] = "SNRIPS"
    normalise: ClassVar[bool] = True


class SNIIPS(IIPS):
    """IIPS with (6)."""

    name: ClassVar[str] = "SNIIPS"
    normalise: ClassVar[bool] = True


class SNCascadeDR(CascadeDR):
    """CascadeDR with (6)."""

    name: ClassVar[str] = "SNCascadeDR"
    normalise: ClassVar[bool] = True


def value_to_go(log: Rounds, pi: Floats, where: Layout, model: Any, folds: int, *, rng: int = 0) -> Floats:
    """Equation (5): (n, actions) out-of-fold q_k in order; a row knows its context, its action and the one above."""
    order, slot, actions = where.order, where.slot, pi.shape[1]
    x, action = Encoder.fit(log.context).transform(log.context)[order], log.action[order]
    above = np.where(slot == 0, -1, np.concatenate([[-1], action[:-1]]))
    seen = np.hstack([x, (above[:, None] == np.arange(actions)).astype(np.float64)])
    r, fold = log.reward[order], folds_of(log, folds, rng=rng)[order]
    every = [np.full(log.n, a) for a in range(actions)]
    interact = model != "boosting"
    q = np.zeros((log.n, actions))
    for fit, _ in splits(fold):
        inside = np.zeros(log.n, dtype=bool)
        inside[fit] = True
        ahead = np.zeros(log.n)
        for k in range(int(slot.max()), -1, -1):
            rows = np.flatnonzero(slot == k)
            train = rows[inside[rows]]
            goal = r[train] + ahead[train]
            if not train.size:
                continue
            fitted = make_model(model, binary=False, rng=rng).fit(
                action_features(seen[train], action[train], actions, interact=interact), goal
            )
            found = np.column_stack(
                [
                    fitted.predict(action_features(seen[rows], e[rows], actions, interact=interact))
                    for e in every
                ]
            )
            value = (pi[rows] * found).sum(axis=1)
            if k > 0:
                ahead[rows - 1] = value
            held = ~inside[rows]
            q[rows[held]] = found[held]
    return q
