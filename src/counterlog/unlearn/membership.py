"""Membership attacks: can what a model says of a row tell whether the row was in its training?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def attack_features(probs: Floats, y: Ints) -> dict[str, Floats]:
    """What each attack looks at: (n, k) probabilities, (n,) classes -> (n, 1) columns, and the (n, k) themselves.

    Entropy is -sum p log p; modified entropy is -(1 - p_y) log p_y - sum over j != y of p_j log(1 - p_j); nats.
    """
    rows = np.arange(len(y))
    own = probs[rows, y]
    log_p = np.log(np.clip(probs, 1e-30, None))
    log_rest = np.log(np.clip(1 - probs, 1e-30, None))
    cross = probs * log_rest
    cross[rows, y] = (1 - own) * log_p[rows, y]
    columns = {
        "correctness": (probs.argmax(axis=1) == y).astype(np.float64),
        "confidence": own,
        "entropy": -(probs * log_p).sum(axis=1),
        "modified_entropy": -cross.sum(axis=1),
    }
    return {**{k: v[:, None] for k, v in columns.items()}, "probabilities": probs}


def svc_attack(member: Floats, other: Floats, target: Floats) -> float:
    """Share of `target` that an RBF support vector classifier (C = 3) takes for never seen; (n, d) features each."""
    from sklearn.svm import SVC

    features = np.concatenate([member, other])
    if np.ptp(features, axis=0).max() == 0:
        return 0.5
    labels = np.repeat([1, 0], [len(member), len(other)])
    return float((SVC(C=3.0, gamma="auto", kernel="rbf").fit(features, labels).predict(target) == 0).mean())


def loss_auc(forgotten: Floats, unseen: Floats) -> float:
    """P(loss of a forgotten row < loss of an unseen row), ties half: 0.5 is nothing, 1 is fully remembered."""
    order = np.sort(unseen)
    below = np.searchsorted(order, forgotten, side="left")
    upto = np.searchsorted(order, forgotten, side="right")
    return float((len(order) - (below + upto) / 2).mean() / len(order))
