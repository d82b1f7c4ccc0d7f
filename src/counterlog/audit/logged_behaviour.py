"""How random the policy was that made the log: mean entropy of its actions over the logged states, in nats.

From the logged probabilities where they are known: - mean log p(a|s) (a differential entropy for continuous actions).
Otherwise, for discrete actions: from the counts of each state's actions where states return often enough, else from
the held-out predictions of a small network.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.distinct_pairs import entropy, frequencies, good_turing
from counterlog.audit.visit_cells import CHUNK, CellGrid
from counterlog.core.episodes import Episodes

RETURNING = 0.99
FIT_ROWS = 20_000
HIDDEN, EPOCHS, BATCH, STEP = (64, 64), 5, 64, 1e-3


def behaviour_entropy(log: Episodes, grid: CellGrid, *, rng: int = 0) -> tuple[float | None, str]:
    """The entropy and how it was had; None for continuous actions without probabilities."""
    if log.log_propensity is not None:
        return float(-log.log_propensity.mean()) + 0.0, "logged probabilities"
    if not log.discrete:
        return None, "continuous actions without probabilities"
    if len(log.actions) == 1:
        return 0.0, "one action"
    rows = np.linspace(0, log.rows - 1, min(log.rows, 10 * CHUNK)).astype(np.int64)
    keys = [np.concatenate(x) for x in zip(*grid.chunks(log, rows), strict=True)]
    states, pairs = (frequencies(np.unique(k, return_counts=True)[1]) for k in keys)
    if good_turing(pairs) >= RETURNING:
        return entropy(pairs) - entropy(states), "counts of each state's actions"
    return held_out_entropy(log, rng), "a network's predictions"


def held_out_entropy(log: Episodes, rng: int) -> float:
    """Mean entropy, on rows it did not see, of a network that was taught to predict the action."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    gen = np.random.default_rng(rng)
    rows = gen.permutation(log.rows)[:FIT_ROWS]
    state: NDArray[np.float64] = np.asarray(log.state[rows], np.float64)
    if state.ndim == 1:
        state = (np.unique(state)[None] == state[:, None]).astype(np.float64)
    if len(np.unique(log.action[rows])) == 1:
        return 0.0
    cut = max(1, len(rows) * 4 // 5)
    scale = StandardScaler().fit(state[:cut])
    network = MLPClassifier(
        HIDDEN, batch_size=min(BATCH, cut), max_iter=EPOCHS, learning_rate_init=STEP, random_state=rng
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # five epochs are meant
        network.fit(scale.transform(state[:cut]), log.action[rows[:cut]])
    p = network.predict_proba(scale.transform(state[cut:] if cut < len(rows) else state))
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean())
