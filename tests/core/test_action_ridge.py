from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.action_ridge import action_ridge, predict
from counterlog.core.errors import LogError


def direct(x, action, reward, actions, penalty):
    """The two ridge problems solved one after the other, row by row."""
    z = np.column_stack([np.ones(len(x)), x])
    eye = np.eye(z.shape[1])
    beta = np.linalg.solve(z.T @ z + eye, z.T @ reward)
    columns = []
    for a in range(actions):
        rows = action == a
        rest = reward[rows] - z[rows] @ beta
        columns.append(beta + np.linalg.solve(z[rows].T @ z[rows] + penalty * eye, z[rows].T @ rest))
    return np.stack(columns, axis=1)


def made(n=300, d=3, actions=4, seed=0):
    gen = np.random.default_rng(seed)
    x, action = gen.normal(size=(n, d)), gen.integers(actions, size=n)
    return x, action, x[:, 0] * action + gen.normal(size=n), gen.integers(3, size=n)


def test_the_fit_to_all_rows_solves_both_ridge_problems():
    x, action, reward, fold = made()
    _, theta = action_ridge(x, action, reward, 4, fold=fold, penalties=(10.0,))
    np.testing.assert_allclose(theta, direct(x, action, reward, 4, 10.0), atol=1e-10)


def test_predictions_come_from_the_other_folds_alone():
    x, action, reward, fold = made()
    q, _ = action_ridge(x, action, reward, 4, fold=fold, penalties=(5.0,))
    for k in range(3):
        kept = fold != k
        theta = direct(x[kept], action[kept], reward[kept], 4, 5.0)
        np.testing.assert_allclose(q[fold == k], predict(theta, x[fold == k]), atol=1e-10)


def test_a_row_of_weight_0_changes_nothing():
    x, action, reward, fold = made()
    weight = np.ones(300)
    weight[:50] = 0.0
    wrong = reward.copy()
    wrong[:50] = 1e6
    _, with_wrong = action_ridge(x, action, wrong, 4, fold=fold, weight=weight, penalties=(1.0,))
    np.testing.assert_allclose(with_wrong, direct(x[50:], action[50:], reward[50:], 4, 1.0), atol=1e-8)


def test_an_action_without_rows_gets_the_pooled_curve():
    x, action, reward, fold = made()
    _, theta = action_ridge(x, action, reward, 5, fold=fold, penalties=(1.0,))
    z = np.column_stack([np.ones(len(x)), x])
    np.testing.assert_allclose(theta[:, 4], np.linalg.solve(z.T @ z + np.eye(4), z.T @ reward), atol=1e-10)


def test_noise_alone_picks_the_strongest_penalty_and_signal_a_weak_one():
    gen = np.random.default_rng(1)
    x, action, fold = gen.normal(size=(2000, 3)), gen.integers(4, size=2000), gen.integers(3, size=2000)
    noise = gen.normal(size=2000)
    signal = 5.0 * x[:, 0] * (action - 1.5) + noise
    for reward, penalty in ((noise, 1000.0), (signal, 1.0)):
        _, chosen = action_ridge(x, action, reward, 4, fold=fold)
        np.testing.assert_allclose(chosen, direct(x, action, reward, 4, penalty), atol=1e-8)


def test_one_fold_is_refused():
    x, action, reward, _ = made()
    with pytest.raises(LogError, match="one fold"):
        action_ridge(x, action, reward, 4, fold=np.zeros(300, dtype=np.int64))


def test_context_that_is_not_finite_is_refused():
    x, action, reward, fold = made()
    x[3, 0] = np.nan
    with pytest.raises(LogError, match="not finite"):
        action_ridge(x, action, reward, 4, fold=fold)
