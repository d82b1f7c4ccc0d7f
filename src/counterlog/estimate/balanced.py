"""BIPW: importance weights from a classifier that tells the candidate's decisions from the logged ones.

Use when    logging probabilities are unknown or wrong, and context and action together are learnable.
Not when    propensities were logged: they are better than anything learnt.
Data        Rounds(action, reward, context); no propensity
Paper       Sondhi, Arbour and Dimmery (2020), arXiv 1906.03694
Equation    rows (x_i, a_i) with label 0 and (x_i, a~pi(.|x_i)) with label 1; c(x, a) = P(label 1 | x, a)
            w_i = c_i / (1 - c_i)  estimates pi(a_i|x_i) / p(a_i|x_i)                                     (1)
            value = sum w_i r_i / sum w_i                                                                 (2)
Shapes      c, w, r (n,)
Units       w: none | value: reward units per decision
Raises      LogError: no context | SupportError: the policy is not known action by action, takes actions that were never
            logged, or all weights are 0
Differs     the classifier is cross-fitted by unit and calibrated (Platt, on folds of its own); instead of one sampled
            action, every action enters with label 1 and weight pi(a|x) (the exact expectation, no noise);
            where pi(a_i|x_i) = 0 the weight is 0, as it must be. The interval takes the weights as known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.crossfit import action_features, folds_of, make_model, splits
from counterlog.core.errors import LogError, SupportError, message
from counterlog.core.estimators import Estimator, Floats, Parts, Row, check_support
from counterlog.core.features import Encoder
from counterlog.core.policies import Logged, Policy, checked_probs
from counterlog.core.rounds import Rounds

EDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class BIPWConfig(Config):
    """Settings of `BIPW`."""

    model: str = param("linear", "classifier", choices=("linear", "boosting"))
    folds: int = param(3, "folds of the cross-fitting", at_least=2)
    calibrate: bool = param(True, "Platt's calibration of the classifier on held-out folds")


class BIPW(Estimator):
    """Equations (1) and (2). `classifier` may be any scikit-learn classifier; it is cloned for every fold."""

    name: ClassVar[str] = "BIPW"
    needs_propensity: ClassVar[bool] = False

    def __init__(self, config: BIPWConfig | None = None, *, classifier: Any = None) -> None:
        self.config, self.classifier = config or BIPWConfig(), classifier

    def parts(self, row: Row) -> Parts:
        """w r over w."""
        return Parts(top=row.w * row.r, bottom=row.w)

    def prepare(
        self, log: Rounds, policy: Policy, *, q: Floats | None = None, rng: int = 0
    ) -> dict[str, Any]:
        """The learnt weights."""
        if isinstance(policy, Logged):
            return {"w": np.ones(log.n)}
        if not log.context_columns:
            msg = message(
                "BIPW needs context to learn weights from", hint="name it: Rounds(..., context=...)"
            )
            raise LogError(msg)
        check_support(log, policy)
        c = self.config
        model = c.model if self.classifier is None else self.classifier
        w = density_ratio(log, checked_probs(policy, log), model, c.folds, calibrate=c.calibrate, rng=rng)
        if not (w > 0).any():
            msg = message(
                f"no logged decision agrees with policy {policy.name!r}", hint="use the direct method (DM)"
            )
            raise SupportError(msg)
        return {
            "w": w,
            "notes": ("the weights were learnt by a classifier; the interval takes them as known",),
        }


def density_ratio(
    log: Rounds, pi: Floats, model: Any, folds: int, *, calibrate: bool = True, rng: int = 0
) -> Floats:
    """Equation (1), out of fold. pi (n, actions) -> w (n,), 0 where pi of the logged action is 0."""
    x = Encoder.fit(log.context).transform(log.context)
    w, fold = np.empty(log.n), folds_of(log, folds, rng=rng)
    for fit, rest in splits(fold):
        score = _classifier(x, log.action, pi, fit, model, calibrate=calibrate, rng=rng)
        c = np.clip(score(x[rest], log.action[rest]), EDGE, 1 - EDGE)
        w[rest] = c / (1 - c)
    return np.where(pi[np.arange(log.n), log.action] > 0, w, 0.0)


def _stacked(
    x: Floats, action: NDArray[np.int64], pi: Floats, rows: NDArray[np.int64], interact: bool
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Features, labels and weights: the logged rows with label 0, every action of positive chance with label 1."""
    who, what = np.nonzero(pi[rows] > 0)
    actions = pi.shape[1]
    phi = np.vstack(
        [
            action_features(x[rows], action[rows], actions, interact=interact),
            action_features(x[rows[who]], what, actions, interact=interact),
        ]
    )
    label = np.concatenate([np.zeros(len(rows), dtype=np.int64), np.ones(len(who), dtype=np.int64)])
    return phi, label, np.concatenate([np.ones(len(rows)), pi[rows[who], what]])


def _classifier(
    x: Floats,
    action: NDArray[np.int64],
    pi: Floats,
    rows: NDArray[np.int64],
    model: Any,
    *,
    calibrate: bool,
    rng: int,
) -> Any:
    """A function (x, action) -> P(label 1), fitted on `rows`."""
    interact, actions = model != "boosting", pi.shape[1]

    def fitted(on: NDArray[np.int64]) -> Any:
        phi, label, weight = _stacked(x, action, pi, on, interact)
        return make_model(model, binary=True, rng=rng).fit(phi, label, sample_weight=weight)

    def log_odds(classifier: Any, phi: Floats) -> Floats:
        p = np.clip(classifier.predict_proba(phi)[:, 1], 1e-6, 1 - 1e-6)
        return np.asarray(np.log(p) - np.log1p(-p))

    whole, slope, shift = fitted(rows), 1.0, 0.0
    if calibrate:
        half = np.random.default_rng(rng).permutation(len(rows)) % 2 == 0
        scores, labels, weights = [], [], []
        for part in (half, ~half):
            phi, label, weight = _stacked(x, action, pi, rows[~part], interact)
            scores.append(log_odds(fitted(rows[part]), phi))
            labels.append(label)
            weights.append(weight)
        platt = make_model("linear", binary=True, rng=rng)
        platt.fit(
            np.concatenate(scores)[:, None], np.concatenate(labels), sample_weight=np.concatenate(weights)
        )
        slope, shift = float(platt.coef_[0, 0]), float(platt.intercept_[0])

    def score(context: Floats, logged: NDArray[np.int64]) -> Floats:
        z = slope * log_odds(whole, action_features(context, logged, actions, interact=interact)) + shift
        return np.asarray(1 / (1 + np.exp(-z)))

    return score
