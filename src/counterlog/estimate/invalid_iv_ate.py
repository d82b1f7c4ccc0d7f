"""The average effect of a treatment when the instrument acts on the outcome directly and confounders are hidden.

Use when    an encouragement or eligibility Z (0/1) may also act on the outcome by itself, the treatment has hidden
            confounders, and Z changes the *variance* of the treatment.
Not when    Z moves the mean of A but not its variance (0.3 -> 0.7): there is then nothing to learn from. When Z has no
            direct effect, ordinary instrumental variables are sharper; when nothing is hidden, regression is.
Data        Units(outcome, treatment, instrument, covariates, weights, cluster)
Paper       Sun, Cui, Tchetgen Tchetgen: Selective Machine Learning of the Average Treatment Effect with an Invalid
            Instrumental Variable, JMLR 23, 2022, arXiv 1907.11882.
Equation    C_z = Cov(A, Y | Z=z, X) = delta V_z + omega,  V_z = Var(A | Z=z, X), omega the same for both z       (1)
            delta(X) = (C_1 - C_0) / D,  D = V_1 - V_0 (A 0/1: (e_1 - e_0)(1 - e_1 - e_0));  ATE = E[delta(X)]    (2)
            value_i = delta + (2Z-1) / (f_Z D) { r_A (r_Y - delta r_G) - omega },  ATE = E[value]                 (3)
            group 3, delta = b'q and omega = c'h:   sum (Z-f_1) D q {r_A (r_Y - b'q r_G) - c'h} = 0,
                                                    sum h {r_A (r_Y - b'q r_G) - c'h} = 0                         (4)
            pseudo-outcome zeta = (2Z-1) r_A r_Y / (f_Z D), weight f_0 f_1 D^2                                    (5)
Shapes      value, delta, omega, D, f_1 = Pr(Z=1|X) (n,) | e, v, m, g (2, n): means and variances of A, means of Y and
            of A, by arm | r_A = A - e_Z, r_Y = Y - m_Z, r_G = A - g_Z | q, h (n, k) functions of X
Units       ATE, delta: units of the outcome a unit of treatment | D: squared units of the treatment
Raises      LogError: a role is missing, Z is not 0/1, Z or A is constant
            SupportError: a fold has under 30 rows of one Z; f outside [0.01, 0.99] for over 10 % of the rows
            ConfigError: an unknown learner, one without predict_proba, too many folds, the state of another run
Differs     (4) and (5) weigh by f_0 f_1 D^2, a function of X alone; group 3 has its own regression g of A, so that the
            estimate is right with f and group 3 when group 2 is wrong. The criterion is extended to three groups.
Call        InvalidIV().estimate(units, rng=0)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from counterlog.core.config import Config, param
from counterlog.core.crossfit import folds_by_key, splits
from counterlog.core.nuisances import Floats, Learners, Rows
from counterlog.core.second_order import SecondOrder
from counterlog.core.units import Units
from counterlog.estimate.invalid_iv_answer import Crossed, TripleRows, answer
from counterlog.estimate.invalid_iv_checks import (
    Progress,
    check_arms,
    check_folds,
    check_learners,
    check_overlap,
    fitting_names,
    observed,
    outcome_names,
    plain_learners,
)
from counterlog.estimate.invalid_iv_folds import FoldNuisances, Observed, fold_nuisances
from counterlog.estimate.invalid_iv_group_three import GroupThree, omega_given, solved
from counterlog.estimate.invalid_iv_pieces import Piece, Shelf
from counterlog.estimate.invalid_iv_result import InvalidIVEstimate

TOP, HEAVIEST = 0.01, 0.1
MOST_PRODUCTS = 6


@dataclass(frozen=True, kw_only=True)
class InvalidIVConfig(Config):
    """Learners of the three groups, cross-fitting, selection, and what is reported besides the estimate."""

    folds: int = param(5, "folds of the cross-fitting", at_least=2)
    repeats: int = param(3, "repetitions of the split; the median is reported", at_least=1)
    instrument_learners: tuple[str, ...] = param(
        ("logit", "logit2", "forest", "boosting"), "group 1, the chance of Z: candidates by name"
    )
    treatment_learners: tuple[str, ...] = param(
        ("logit", "logit2", "forest", "boosting"), "group 2, the law of A by arm: candidates by name"
    )
    outcome_learners: tuple[str, ...] = param(
        ("ridge2/constant", "ridge2/ridge", "forest/ridge", "boosting/ridge"),
        "group 3, mean of Y / effect by X (constant, linear, quadratic, ridge, boosting): candidates by name",
    )
    selection: str = param(
        "minimax",
        "how the learners are chosen; none takes the first of each group, stack averages all triples",
        choices=("minimax", "mixed", "none", "stack"),
    )
    inference: str = param(
        "split",
        "after a choice: chosen on half of the folds and estimated on the others, in turn; or ignore the choice",
        choices=("split", "ignore"),
    )
    f_floor: float = param(0.01, "chances of Z are held this far inside [0, 1]", above=0, below=0.5)
    d_floor: float = param(
        0.01, "least |D| as a share of the largest; raised while few rows carry the weight", above=0, below=1
    )
    trim: bool = param(
        False, "leave rows out where f or D is at its floor: the effect is then of the remaining population"
    )
    split_instrument: bool = param(False, "split an instrument that is not 0/1 at its median")
    strength: float = param(
        20.0, "concentration n mean(D^2) / variance below which the interval is called invalid", at_least=0
    )
    level: float = param(0.95, "coverage of the intervals", above=0, below=1)
    gamma: float = param(
        0.3,
        "largest Gamma of the sensitivity curve: difference of the hidden correlations between arms",
        above=0,
    )
    top_rows: int = param(20, "rows listed by their sway on the estimate", at_least=0)
    jobs: int = param(1, "processes that fit folds", at_least=-1)


# ------------------------------------------------------------------------------------------------ the equations


def variance_gap(v: Floats) -> Floats:
    """D of (2): (2, n) variances by arm -> (n,)."""
    return np.asarray(v[1] - v[0])


def least_gap(D: Floats, share: float) -> float:
    """The floor of |D|: `share` of the largest, doubled while 1 % of the rows hold over a tenth of the sum of 1/D^2."""
    size = np.abs(D)
    floor, highest = share * float(size.max(initial=0.0)), float(size.max(initial=0.0))
    count = max(1, int(TOP * len(D)))
    while 0 < floor < highest / 2:
        weight = np.sort(1 / np.maximum(size, floor) ** 2)
        if weight[-count:].sum() <= HEAVIEST * weight.sum():
            break
        floor *= 2
    return max(floor, 1e-12)


def floored(D: Floats, floor: float) -> Floats:
    """sign(D) max(|D|, floor)."""
    return np.where(D < 0, -1.0, 1.0) * np.maximum(np.abs(D), floor)


def pseudo_outcome(z: Floats, f: Floats, D: Floats, r_a: Floats, r_y: Floats) -> tuple[Floats, Floats]:
    """(5): zeta, whose mean given X is delta(X) when f and e are right, and its weight, a function of X alone."""
    return (2 * z - 1) * r_a * r_y / (np.where(z == 1, f, 1 - f) * D), f * (1 - f) * D**2


def debiased_value(
    z: Floats,
    f: Floats,
    D: Floats,
    r_a: Floats,
    r_y: Floats,
    r_g: Floats,
    delta: Floats,
    omega: Floats,
) -> Floats:
    """(3): (n,) values whose mean is the effect when any two of the three groups are right."""
    f_own = np.where(z == 1, f, 1 - f)
    return np.asarray(delta + (2 * z - 1) / (f_own * D) * (r_a * (r_y - delta * r_g) - omega))


# --------------------------------------------------------------------------------- all triples of one fold


def boosted(
    data: Observed, nuisances: FoldNuisances, zeta: Floats, weight: Floats, rng: int
) -> tuple[Floats, Floats]:
    """delta by boosting on the pseudo-outcomes (5): for the rows fitted on (by their other half) and the others."""
    fit = nuisances.train
    inner = np.empty(len(fit))
    for h in (0, 1):
        other = nuisances.half != h
        model = data.features.fit("boosting", fit[other], zeta[other], weight[other], chance=False, rng=rng)
        inner[~other] = model(fit[~other])
    return inner, data.features.fit("boosting", fit, zeta, weight, chance=False, rng=rng)(nuisances.test)


def fold_piece(
    data: Observed, q: Floats, nuisances: FoldNuisances, config: InvalidIVConfig, rng: int
) -> Piece:
    """Every triple of a fold from predictions made once: arrays only, but for boosted effects."""
    ones, twos, threes = config.instrument_learners, config.treatment_learners, config.outcome_learners
    names, fit, rest = outcome_names(threes), nuisances.train, nuisances.test
    shape, k = (len(ones), len(twos), len(threes)), q.shape[1]
    b, c, psi = np.zeros((*shape, k)), np.zeros((*shape, k)), np.zeros(shape)
    delta_free = np.full((*shape, len(rest) if any(t.endswith("/boosting") for t in threes) else 0), np.nan)
    floor = [least_gap(variance_gap(nuisances.v[t].train), config.d_floor) for t in twos]
    z, a, y, w = data.z[fit], data.a[fit], data.y[fit], data.weight[fit]
    own, at, h = z.astype(np.int64), np.arange(len(fit)), q[fit]
    for j2, j1, name in np.ndindex(len(twos), len(ones), len(names)):
        gap = floored(variance_gap(nuisances.v[twos[j2]].train), floor[j2])
        f = np.clip(nuisances.f[ones[j1]].train, config.f_floor, 1 - config.f_floor)
        mean = names[name]
        r_a = a - nuisances.e[twos[j2]].train[own, at]
        r_y, r_g = y - nuisances.m[mean].train[own, at], a - nuisances.g[mean].train[own, at]
        columns = ((z - f) * gap, f * (1 - f) * gap**2, r_a, r_y, r_g, w)
        rows = [nuisances.half == 0, nuisances.half == 1]
        halves = [GroupThree.of(h[i], h[i], *(v[i] for v in columns)) for i in rows]
        for j3, three in enumerate(threes):
            if not three.startswith(f"{mean}/"):
                continue
            here, effect = (j1, j2, j3), three.partition("/")[2]
            if effect == "boosting":
                zeta, weight = pseudo_outcome(z, f, gap, r_a, r_y)
                inner, delta_free[here] = boosted(data, nuisances, zeta, w * weight, rng)
                c[here] = omega_given(h, w, r_a * (r_y - inner * r_g))
            else:
                b[here], c[here] = solved(halves, effect, k)
    made = {
        kind: np.stack([getattr(nuisances, kind)[learner].test for learner in learners])
        for kind, learners in (("f", ones), ("e", twos), ("v", twos), ("m", names), ("g", names))
    }
    piece = Piece(rows=rest, floor=np.array(floor), b=b, c=c, delta=delta_free, psi=psi, **made)
    for here in np.ndindex(*shape):
        psi[here] = np.average(triple_rows(data, q, piece, here, config).value, weights=data.weight[rest])
    return piece


def triple_rows(
    data: Observed, q: Floats, piece: Piece, here: tuple[int, ...], config: InvalidIVConfig
) -> TripleRows:
    """(3) and its ingredients for the held-out rows of a piece, by one triple."""
    j1, j2, j3 = here
    rows, names = piece.rows, outcome_names(config.outcome_learners)
    mean, _, effect = config.outcome_learners[j3].partition("/")
    j = names.index(mean)
    z, own, at = data.z[rows], data.z[rows].astype(np.int64), np.arange(len(rows))
    f = np.clip(piece.f[j1], config.f_floor, 1 - config.f_floor)
    raw = variance_gap(piece.v[j2])
    D, low, high = floored(raw, piece.floor[j2]), piece.m[j][0], piece.m[j][1]
    r_a, r_y, r_g = (
        data.a[rows] - piece.e[j2][own, at],
        data.y[rows] - piece.m[j][own, at],
        data.a[rows] - piece.g[j][own, at],
    )
    delta = piece.delta[here] if effect == "boosting" else q[rows] @ piece.b[here]
    omega = q[rows] @ piece.c[here]
    return TripleRows(
        value=debiased_value(z, f, D, r_a, r_y, r_g, delta, omega),
        delta=delta,
        omega=omega,
        gap=D,
        f=f,
        r_a=r_a,
        r_y=r_y,
        r_g=r_g,
        v_own=piece.v[j2][own, at],
        mean_y=np.stack([low, high]),
        mean_a=piece.e[j2],
        at_floor=(np.abs(raw) < piece.floor[j2]).astype(np.float64),
        outside=((piece.f[j1] < config.f_floor) | (piece.f[j1] > 1 - config.f_floor)).astype(np.float64),
    )


class InvalidIV:
    """The estimator. `learners` are scikit-learn estimators of yours, by the name under which the config lists them."""

    def __init__(
        self, config: InvalidIVConfig = InvalidIVConfig(), *, learners: Learners | None = None
    ) -> None:
        self.config, self.learners = config, dict(learners or {})

    def estimate(
        self,
        units: Units,
        *,
        rng: int = 0,
        state: str | Path | None = None,
        progress: Progress | None = None,
    ) -> InvalidIVEstimate:
        """The effect, with the other estimators, the diagnostics and the sensitivity beside it.

        `state` is a folder for finished folds: a run that was stopped goes on from it to the same result.
        """
        data = observed(units, self.learners, split_instrument=self.config.split_instrument)
        twos = fitting_names(self.config.treatment_learners, binary=data.binary, learners=self.learners)
        c = replace(self.config, treatment_learners=twos)
        check_learners(
            c.instrument_learners, twos, c.outcome_learners, binary=data.binary, learners=self.learners
        )
        check_folds(units, c.folds)
        second = SecondOrder.fit(data.features.plain, most=MOST_PRODUCTS)
        q = second.with_constant(data.features.plain)
        folds = [folds_by_key(data.keys, c.folds, rng=1_009 * rng + r) for r in range(c.repeats)]
        for fold in folds:
            check_arms(data.z, fold, units.instrument_column)
        plan: dict[str, object] = {
            "data": units.fingerprint,
            "roles": units.roles,
            "covariates": units.covariate_columns,
        }
        plan |= {"config": c.to_toml(), "learners": plain_learners(self.learners), "rng": rng}
        pieces = self._pieces(data, q, folds, c, Shelf(state, plan), rng, progress or (lambda *_: None))
        outside = check_overlap(
            {
                name: np.concatenate([p.f[j] for p in pieces[0]])
                for j, name in enumerate(c.instrument_learners)
            },
            c.f_floor,
        )
        crossed = Crossed(
            pieces=pieces,
            data=data,
            cluster=units.cluster,
            independent=units.independent,
            triple=lambda piece, here: triple_rows(data, q, piece, here, c),
            outside=outside,
            second=second,
        )
        return answer(crossed, units, c)

    def _pieces(
        self,
        data: Observed,
        q: Floats,
        folds: list[Rows],
        config: InvalidIVConfig,
        shelf: Shelf,
        rng: int,
        say: Progress,
    ) -> list[list[Piece]]:
        """Every fold of every repeat: kept ones from the shelf, the others fitted, on `jobs` processes."""
        from joblib import Parallel, delayed

        tasks = [
            (r, k, fit, rest) for r, fold in enumerate(folds) for k, (fit, rest) in enumerate(splits(fold))
        ]
        kept = {(r, k): shelf.get(r, k) for r, k, _, _ in tasks}
        left = [task for task in tasks if kept[task[0], task[1]] is None]
        seed = 7_919 * rng
        made = Parallel(n_jobs=config.jobs, return_as="generator")(
            delayed(_fitted)(data, q, fit, rest, config, seed + 101 * r + k) for r, k, fit, rest in left
        )
        for i, ((r, k, _, _), piece) in enumerate(zip(left, made, strict=True)):
            shelf.put(r, k, piece)
            kept[r, k] = piece
            say(f"fold {k + 1} of {config.folds}, repeat {r + 1} of {config.repeats}", (i + 1) / len(left))
        found: list[list[Piece]] = [[] for _ in folds]
        for r, k, _, _ in tasks:
            piece = kept[r, k]
            assert piece is not None
            found[r].append(piece)
        return found


def _fitted(data: Observed, q: Floats, fit: Rows, rest: Rows, config: InvalidIVConfig, seed: int) -> Piece:
    with threadpool_limits(1):
        nuisances = fold_nuisances(
            data,
            fit,
            rest,
            instrument=config.instrument_learners,
            treatment=config.treatment_learners,
            outcome=outcome_names(config.outcome_learners),
            rng=seed,
        )
        return fold_piece(data, q, nuisances, config, seed)
