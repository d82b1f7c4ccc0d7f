"""From the pieces of all folds to the answer: which triple, its value and error, and everything reported beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from counterlog.core.nuisances import CHANCES, Floats, out_of_fold_loss
from counterlog.core.orthogonal import Clusters, normal_estimate, over_repeats, standard_error
from counterlog.core.results import Estimate
from counterlog.core.second_order import SecondOrder
from counterlog.core.units import Units
from counterlog.estimate import invalid_iv_diagnostics as diagnostics
from counterlog.estimate.effect_baselines import baselines
from counterlog.estimate.invalid_iv_checks import outcome_names
from counterlog.estimate.invalid_iv_folds import Observed
from counterlog.estimate.invalid_iv_pieces import Piece
from counterlog.estimate.invalid_iv_result import InvalidIVEstimate
from counterlog.estimate.learner_selection import best, minimax, mixed, soft_weights

if TYPE_CHECKING:
    from counterlog.estimate.invalid_iv_ate import InvalidIVConfig

Triple = tuple[int, ...]


@dataclass(frozen=True)
class TripleRows:
    """(n,) by one triple: the values whose mean is the effect, and what they are made of; `mean_y`, `mean_a` (2, n)."""

    value: Floats
    delta: Floats
    omega: Floats
    gap: Floats
    f: Floats
    r_a: Floats
    r_y: Floats
    r_g: Floats
    v_own: Floats
    mean_y: Floats
    mean_a: Floats
    at_floor: Floats
    outside: Floats


@dataclass(frozen=True)
class Crossed:
    """All pieces by repeat, and what is needed to make a triple's rows from them."""

    pieces: list[list[Piece]]
    data: Observed
    cluster: Clusters
    independent: int
    triple: Callable[[Piece, Triple], TripleRows]
    outside: dict[str, float]
    second: SecondOrder

    @property
    def psi(self) -> Floats:
        """(splits, J1, J2, J3): the estimate of every triple on every fold of every repeat."""
        return np.stack([p.psi for pieces in self.pieces for p in pieces])

    def by_one(self, repeat: int, here: Triple) -> TripleRows:
        """The rows of a repeat, all folds by one triple."""
        return self.rows(repeat, lambda _: here)

    def rows(self, repeat: int, of_fold: Callable[[int], Triple]) -> TripleRows:
        """The rows of a repeat, fold k by the triple `of_fold(k)`, in the order of the table."""
        parts = [(p.rows, self.triple(p, of_fold(k))) for k, p in enumerate(self.pieces[repeat])]
        order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
        return TripleRows(
            **{
                f.name: np.concatenate([getattr(made, f.name) for _, made in parts], axis=-1)[..., order]
                for f in fields(TripleRows)
            }
        )


def kept(rows: TripleRows, trim: bool) -> Floats:
    """(n,) 1 for the rows in the estimate: all, or with `trim` those at no floor."""
    return np.where((rows.at_floor > 0) | (rows.outside > 0), 0.0, 1.0) if trim else np.ones(len(rows.value))


def mean_and_error(crossed: Crossed, value: Floats, keep: Floats) -> tuple[float, float]:
    """Weighted mean of the values and its standard error."""
    weight = crossed.data.weight * keep
    weight = weight / weight.mean()
    mean = float(np.mean(weight * value))
    return mean, standard_error(value - mean, weight, crossed.cluster)


def answer(crossed: Crossed, units: Units, config: InvalidIVConfig) -> InvalidIVEstimate:
    """Select, estimate, and report."""
    psi, data, c = crossed.psi, crossed.data, config
    rule = c.selection if c.selection in ("minimax", "mixed") else "minimax"
    chosen: Triple = (0, 0, 0) if c.selection == "none" else best(psi, rule)
    runs, notes = _estimates(crossed, c, chosen, rule)
    value, se = over_repeats(*zip(*runs, strict=True))
    rows = crossed.by_one(0, chosen)
    keep = kept(rows, c.trim)
    weight = data.weight * keep / (data.weight * keep).mean()
    unit = f"{units.outcome_column} per unit of {units.treatment_column}"
    relevance = diagnostics.relevance(data.z, rows, weight)
    weak = relevance.strength < c.strength
    reason = (
        f"weak heteroscedasticity: concentration {relevance.strength:.1f} < {c.strength:g}; the instrument hardly "
        "changes the treatment's variance. Trust the weak-identification set, or use another design"
        if weak
        else ""
    )
    shared: dict[str, Any] = {
        "unit": unit,
        "n": crossed.independent,
        "policy": "ATE",
        "reward": units.outcome_column,
    }
    made = normal_estimate(value, se, level=c.level, **shared)
    robust = diagnostics.robust_set(data.z, rows, weight, crossed.cluster, c.level, max(abs(value), se))
    averaged = np.mean([crossed.by_one(r, chosen).value for r in range(c.repeats)], axis=0)
    top, without = diagnostics.sway(averaged, weight, c.top_rows)
    return InvalidIVEstimate(
        **{
            f.name: getattr(made, f.name)
            for f in fields(Estimate)
            if f.name not in ("estimator", "notes", "valid", "reason", "ess")
        },
        estimator="selective ML, invalid instrument"
        if c.selection != "none"
        else "multiply robust, invalid instrument",
        ess=relevance.effective,
        valid=not weak,
        reason=reason,
        notes=(*notes, *_notes(crossed, relevance, c, keep)),
        beside=baselines(
            data.y,
            data.a,
            data.z,
            data.features.plain,
            f=rows.f,
            mean_a=(rows.mean_a[0], rows.mean_a[1]),
            mean_y=(rows.mean_y[0], rows.mean_y[1]),
            weight=data.weight,
            cluster=crossed.cluster,
            level=c.level,
            **shared,
        ),
        chosen=_names(chosen, c),
        selection=_selection(crossed, c, chosen),
        nuisances=_nuisances(crossed, c),
        relevance=relevance,
        sensitivity=diagnostics.sensitivity(
            value, se, diagnostics.bias_slope(rows, weight), c.gamma, c.level
        ),
        checks=(diagnostics.omega_check(data.z, rows, weight, crossed.cluster),),
        robust_form=robust.form,
        robust=robust.pieces,
        robust_meaning=robust.meaning,
        sway=top,
        without=without,
        **_effect(crossed, units, c, chosen),
    )


def _estimates(
    crossed: Crossed, c: InvalidIVConfig, chosen: Triple, rule: str
) -> tuple[list[tuple[float, float]], list[str]]:
    """(estimate, error) of every repeat, and how they were made."""
    if c.selection == "stack":
        weights = soft_weights(crossed.psi, rule)
        found = []
        for r in range(c.repeats):
            value, keep = np.zeros(crossed.data.n), np.ones(crossed.data.n)
            for here in np.ndindex(*weights.shape):
                if weights[here] > 1e-6:
                    rows = crossed.by_one(r, here)
                    value += weights[here] * rows.value
                    keep = np.minimum(keep, kept(rows, c.trim))
            found.append(mean_and_error(crossed, value / weights[weights > 1e-6].sum(), keep))
        return found, [
            "all triples averaged, the steadier ones more; the weights are taken as known in the error"
        ]
    if c.selection == "none" or c.inference == "ignore" or np.prod(crossed.psi.shape[1:]) == 1:
        found = []
        for r in range(c.repeats):
            rows = crossed.by_one(r, chosen)
            found.append(mean_and_error(crossed, rows.value, kept(rows, c.trim)))
        searched = c.selection != "none" and c.inference == "ignore"
        return found, ["the error does not count the choice of learners"] if searched else []
    found = []
    for r, pieces in enumerate(crossed.pieces):
        psi, cut = np.stack([p.psi for p in pieces]), len(pieces) // 2
        early, late = best(psi[:cut], rule), best(psi[cut:], rule)
        choice = [late if k < cut else early for k in range(len(pieces))]
        rows = crossed.rows(r, choice.__getitem__)
        found.append(mean_and_error(crossed, rows.value, kept(rows, c.trim)))
    return found, ["learners chosen on one half of the folds, the effect estimated on the other, in turn"]


def _names(here: Triple, c: InvalidIVConfig) -> tuple[str, ...]:
    return (c.instrument_learners[here[0]], c.treatment_learners[here[1]], c.outcome_learners[here[2]])


def _selection(crossed: Crossed, c: InvalidIVConfig, chosen: Triple) -> tuple[dict[str, Any], ...]:
    """A record a triple: its estimate, error, criteria and weight, the steadiest first."""
    psi = crossed.psi
    steady, mix, soft = minimax(psi), mixed(psi), soft_weights(psi)
    table = []
    for here in np.ndindex(*psi.shape[1:]):
        runs = [
            mean_and_error(crossed, rows.value, kept(rows, c.trim))
            for rows in (crossed.by_one(r, here) for r in range(c.repeats))
        ]
        value, se = over_repeats(*zip(*runs, strict=True))
        names = dict(zip(("instrument", "treatment", "outcome"), _names(here, c), strict=True))
        table.append(
            {
                **names,
                "estimate": value,
                "se": se,
                "minimax": float(np.sqrt(steady[here])),
                "mixed": float(np.sqrt(mix[here])),
                "soft weight": float(soft[here]),
                "chosen": here == chosen,
            }
        )
    return tuple(sorted(table, key=lambda row: row["mixed" if c.selection == "mixed" else "minimax"]))


def _nuisances(crossed: Crossed, c: InvalidIVConfig) -> tuple[dict[str, Any], ...]:
    """A record a learner: its out-of-fold loss over all repeats."""
    data, table = crossed.data, []
    pieces = [p for repeat in crossed.pieces for p in repeat]
    at = np.concatenate([p.rows for p in pieces])
    own, weight = data.z[at].astype(np.int64), data.weight[at]

    def record(group: str, name: str, target: Floats, predicted: Floats, *, chance: bool) -> None:
        loss = out_of_fold_loss(target[at], predicted, weight, chance=chance)
        mean = np.full(len(at), np.average(target[at], weights=weight))
        least = out_of_fold_loss(target[at], mean, weight, chance=chance)
        table.append(
            {
                "group": group,
                "learner": name,
                "loss": loss,
                "of the mean alone": least,
                "measure": "log-loss, nats" if chance else "squared error",
            }
        )

    def by_arm(stack: str, j: int) -> Floats:
        both = np.concatenate([getattr(p, stack)[j] for p in pieces], axis=1)
        return np.asarray(both[own, np.arange(len(at))])

    for j, name in enumerate(c.instrument_learners):
        record("Z given X", name, data.z, np.concatenate([p.f[j] for p in pieces]), chance=True)
    for j, name in enumerate(c.treatment_learners):
        record("A given Z, X", name, data.a, by_arm("e", j), chance=data.binary)
    for j, name in enumerate(outcome_names(c.outcome_learners)):
        record("Y given Z, X", name, data.y, by_arm("m", j), chance=False)
        if name not in CHANCES:
            record("A given Z, X (outcome side)", name, data.a, by_arm("g", j), chance=False)
    return tuple(table)


def _notes(crossed: Crossed, relevance: Any, c: InvalidIVConfig, keep: Floats) -> list[str]:
    """What a reader must know before using the number."""
    data, notes = crossed.data, []
    if relevance.at_floor > 0:
        notes.append(f"|D| was raised to its floor in {relevance.at_floor:.1%} of the rows")
    if relevance.outside > 0:
        notes.append(f"the chance of Z was held inside its floor in {relevance.outside:.1%} of the rows")
    if c.trim:
        notes.append(
            f"trimmed: the effect is of the {keep.mean():.1%} of the rows with overlap and relevance"
        )
    one_sided = [arm for arm in (0, 1) if len(np.unique(data.a[data.z == arm])) == 1]
    notes += [
        f"one-sided: the treatment never varies at Z = {arm}. A hidden confounder that acts on the treatment "
        "alike in both arms is then impossible: the model holds only if nothing hidden acts on the treatment"
        for arm in one_sided
    ]
    return notes


def _effect(crossed: Crossed, units: Units, c: InvalidIVConfig, chosen: Triple) -> dict[str, Any]:
    """The effect by covariates, the mean of the folds' coefficients; nothing for boosted effects."""
    if c.outcome_learners[chosen[2]].endswith("/boosting"):
        return {}
    b = np.mean([p.b[chosen] for pieces in crossed.pieces for p in pieces], axis=0)
    second = crossed.second
    return {
        "effect_terms": ("1", *second.names(units.covariate_names)),
        "effect_coefficients": tuple(float(v) for v in b),
        "encoding": {
            "columns": units.encoder.to_json(),
            "pairs": [list(p) for p in second.pairs],
            "centre": list(second.centre),
            "scale": list(second.scale),
        },
    }
