from __future__ import annotations

import os
from pathlib import Path

import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.tree_models import read_trees
from counterlog.trace import leaf_derivatives, tree_kernels
from counterlog.trace.boosting_path import trained
from counterlog.trace.tree_influence import Scores, TreeInfluence, TreeInfluenceConfig

TASKS = ("regression", "binary", "multiclass")
ROUNDS = 5


def contract_example(frame):
    table = nw.from_native(frame, eager_only=True)
    X = np.column_stack([table["x"].to_numpy(), (table["device"] == "phone").to_numpy()]).astype(float)
    y = table["click"].to_numpy()
    model = HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=6).fit(X, y)
    return TreeInfluence(model, X, y).score(X[:3], y[:3], k=4)


def small(task, n=40, seed=0):
    gen = np.random.default_rng(seed)
    X = gen.normal(size=(n + 9, 3))
    raw = X[:, 0] - X[:, 1] ** 2 + 0.5 * gen.normal(size=n + 9)
    y = {"regression": raw, "binary": (raw > -0.5) * 1, "multiclass": np.digitize(raw, [-1.2, 0.0])}[task]
    return X[:n], y[:n], X[n:], y[n:]


def boosted(task, X, y, weight=None, **extra):
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    given = {"max_iter": ROUNDS, "max_leaf_nodes": 5, "min_samples_leaf": 4, "learning_rate": 0.3, **extra}
    return kind(**given).fit(X, y, sample_weight=weight)


def explainer(task, method="boostin", n=40, **extra):
    X, y, X_test, y_test = small(task, n)
    model = boosted(task, X, y, **extra)
    return TreeInfluence(model, X, y, config=TreeInfluenceConfig(method=method)), X_test, y_test


def catboost_explainer(method):
    catboost = pytest.importorskip("catboost", reason="catboost is not installed (extra trees)")
    X, y, X_test, y_test = small("multiclass")
    model = catboost.CatBoostClassifier(
        loss_function="MultiClass", iterations=ROUNDS, depth=2, learning_rate=0.3, verbose=0, thread_count=1,
        leaf_estimation_iterations=1, leaf_estimation_method="Newton", allow_writing_files=False,
    ).fit(X, y)  # fmt: skip
    return TreeInfluence(model, X, y, config=TreeInfluenceConfig(method=method)), X_test, y_test


def any_explainer(task, method):
    return (
        catboost_explainer(method) if task == "catboost" else explainer(task, method, l2_regularization=0.5)
    )


ALL = (*TASKS, pytest.param("catboost", marks=pytest.mark.trees))


# ------------------------------------------------------------------------------------------------ the reference


@pytest.fixture
def reference():
    folder = os.environ.get("COUNTERLOG_REFS", "")
    path = Path(folder) / "tree-influence" / "lgb_binary.npz"
    if not folder or not path.exists():
        pytest.skip("COUNTERLOG_REFS names no folder with tree-influence/lgb_binary.npz")
    return np.load(path)


@pytest.mark.trees
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("BoostIn", {}, 1e-10),
        ("BoostInW1", {"leaf_weight": "size"}, 1e-10),
        ("LeafInfSP", {"method": "leafinfsp"}, 1e-10),
        ("TreeSim_lpw_dot", {"method": "treesim"}, 1e-10),
        ("TreeSim_lpw_dot", {"method": "leafsim"}, 1e-10),
        ("LeafInf", {"method": "leafinfluence"}, 1e-8),
        ("LeafRefit_exact", {"method": "leafrefit"}, 1e-8),
    ],
)
def test_scores_of_the_released_code_are_met(reference, name, options, tolerance):
    lgb = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    booster = lgb.Booster(model_str=str(reference["model_txt"]))
    found = TreeInfluence(booster, reference["X_train"], reference["y_train"])
    np.testing.assert_allclose(found.data.trees.bias, reference["bias"], atol=1e-12)
    scores = found.using(**options).explain(reference["X_test"], reference["y_test"])
    assert np.abs(scores - reference[f"inf_{name}"]).max() <= tolerance


@pytest.mark.trees
def test_the_surrogate_ranks_rows_as_the_released_code_does(reference):
    lgb = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    from scipy.stats import spearmanr

    booster = lgb.Booster(model_str=str(reference["model_txt"]))
    found = TreeInfluence(booster, reference["X_train"], reference["y_train"]).using(method="trex")
    scores = found.explain(reference["X_test"], reference["y_test"])
    ranks = [spearmanr(a, b).statistic for a, b in zip(scores.T, reference["inf_Trex"].T, strict=True)]
    assert min(ranks) >= 0.999


# ------------------------------------------------------------------------------------------------ by hand


def test_one_tree_of_squares_has_the_closed_form():
    X = np.array([[0.0], [0.0], [0.0], [1.0], [1.0]])
    y = np.array([1.0, 2.0, 6.0, 10.0, 14.0])
    model = HistGradientBoostingRegressor(
        max_iter=1, min_samples_leaf=1, learning_rate=0.5, l2_regularization=1.0
    )
    found = TreeInfluence(model.fit(X, y), X, y, config=TreeInfluenceConfig(method="leafrefit"))
    # Mean 6.6; residuals of the left leaf -5.6, -4.6, -0.6; leaf 0.5 * -10.8 / (3 + 1) = -1.35; target y = 4 at x = 0.
    now = 0.5 * (4 - (6.6 - 1.35)) ** 2
    left = [0.5 * (-10.8 - r) / (2 + 1) for r in (-5.6, -4.6, -0.6)]
    expected = [0.5 * (4 - (6.6 + leaf)) ** 2 - now for leaf in left]
    scores = found.explain(np.array([[0.0]]), np.array([4.0]))[:, 0]
    np.testing.assert_allclose(scores, [*expected, 0.0, 0.0], atol=1e-6)
    # First order: slope of the target 1.25; row i moves its leaf by 0.5 (g_i + theta* ) / 4, theta* = -2.7.
    moves = [0.5 * (-r - 2.7) / 4 for r in (-5.6, -4.6, -0.6)]
    for method in ("leafinfluence", "leafinfsp"):
        scores = found.using(method=method).explain(np.array([[0.0]]), np.array([4.0]))[:, 0]
        np.testing.assert_allclose(scores, [*(1.25 * m for m in moves), 0.0, 0.0], atol=1e-6)
    # BoostIn's slope is before the round: 6.6 - 4 = 2.6; its theta is the leaf itself, -1.35.
    moves = [0.5 * (-r - 1.35) / 4 for r in (-5.6, -4.6, -0.6)]
    scores = found.using(method="boostin").explain(np.array([[0.0]]), np.array([4.0]))[:, 0]
    np.testing.assert_allclose(scores, [*(2.6 * m for m in moves), 0.0, 0.0], atol=1e-6)


def brute_refit(data, leaves, test, gone):
    """Structure-fixed refit by plain loops over rounds, outputs, leaves and rows."""
    trees = data.trees
    rows = [i for i in range(data.n) if i != gone]
    F = np.tile(trees.bias, (data.n, 1))
    out = np.tile(trees.bias, (len(test), 1))
    T, K = trees.shape
    for t in range(T):
        p = trees.link(F)
        step = {}
        if trees.full_hessian:
            for s in range(trees.n_leaves // K):
                mine = [i for i in rows if leaves[i, t, 0] // K == s]
                H = sum((np.diag(p[i]) - np.outer(p[i], p[i]) for i in mine), trees.l2 * np.eye(K))
                G = sum((p[i] - data.target[i] for i in mine), np.zeros(K))
                for k, v in enumerate(-trees.learning_rate * np.linalg.inv(H) @ G):
                    step[s * K + k] = v
        else:
            for leaf in range(trees.n_leaves):
                G, H = 0.0, trees.l2
                for i in rows:
                    for k in range(K):
                        if leaves[i, t, k] == leaf:
                            G += p[i, k] - data.target[i, k]
                            H += trees.curvature(p[i])[k]
                step[leaf] = -trees.learning_rate * G / H if H > 1e-12 else 0.0
        F = F + np.array([[step[v] for v in row] for row in leaves[:, t]])
        out = out + np.array([[step[v] for v in row] for row in test[:, t]])
    return out


@pytest.mark.parametrize("task", ALL)
def test_leaf_refit_is_a_plain_loop_done_at_once(task):
    found, X_test, y_test = any_explainer(task, "leafrefit")
    d = found.data
    leaves, test, target = d.trees.leaves(d.X), d.trees.leaves(X_test), d.trees.targets(y_test)
    now = d.trees.loss(d.trees.raw(X_test), target)
    scores = found.explain(X_test, y_test)
    for i in (0, 7, 23):
        expected = d.trees.loss(brute_refit(d, leaves, test, i), target) - now
        # The library's own leaves are in single precision, which is in `now`.
        np.testing.assert_allclose(scores[i], expected, atol=1e-10)


@pytest.mark.parametrize("task", ALL)
def test_leaf_influence_is_the_derivative_of_leaf_refit(task):
    found, X_test, y_test = any_explainer(task, "leafinfluence")
    d, step = found.data, 1e-5
    leaves, test, target = d.trees.leaves(d.X), d.trees.leaves(X_test), d.trees.targets(y_test)
    up, down = (np.ones((d.n, d.n)) + sign * step * np.eye(d.n) for sign in (1, -1))
    slope = [leaf_derivatives.refitted(d, leaves, test, w) for w in (up, down)]
    high, low = (d.trees.loss(raw, target[:, None, :]).T for raw in slope)
    expected = -(high - low) / (2 * step)
    scores = found.explain(X_test, y_test)
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


def test_leaf_refit_follows_training_without_the_row_when_the_structure_stays():
    X = np.repeat([[0.0], [1.0]], 12, axis=0)
    y = np.random.default_rng(4).normal(size=24) + X[:, 0] * 5
    kept = {"max_iter": 4, "max_leaf_nodes": 2, "min_samples_leaf": 2, "learning_rate": 0.4}
    model = HistGradientBoostingRegressor(**kept).fit(X, y)
    found = TreeInfluence(model, X, y, config=TreeInfluenceConfig(method="leafrefit"))
    scores = found.explain(X[:1], y[:1])
    d = found.data
    # The start value is held fixed too: move the targets by it, and train without the row from there.
    for i in (0, 5, 20):
        rows = np.arange(24) != i
        F, bias = np.full(24, d.trees.bias[0]), d.trees.bias[0]
        for _ in range(4):
            for side in (0.0, 1.0):
                leaf = X[:, 0] == side
                F[leaf] += 0.4 * (y - F)[leaf & rows].mean()
        assert bias == pytest.approx(y.mean())
        now = 0.5 * (y[0] - model.predict(X[:1])[0]) ** 2
        assert scores[i, 0] == pytest.approx(0.5 * (y[0] - F[0]) ** 2 - now, abs=1e-5)


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("task", ALL)
def test_carrying_only_the_row_itself_is_the_single_point_score(task):
    found, X_test, y_test = any_explainer(task, "leafinfluence")
    single = found.using(method="leafinfsp").explain(X_test, y_test)
    np.testing.assert_allclose(found.using(update_set=0).explain(X_test, y_test), single, atol=1e-12)
    assert not np.allclose(found.explain(X_test, y_test), single, atol=1e-6)


def test_without_shrinking_both_leaf_scales_agree():
    found, X_test, y_test = explainer("binary", learning_rate=1.0)
    one, other = (found.using(leaf_scale=s).explain(X_test, y_test) for s in ("shrunk", "newton"))
    np.testing.assert_allclose(one, other, atol=1e-12)
    slow, *_ = explainer("binary", learning_rate=0.1)
    assert not np.allclose(*(slow.using(leaf_scale=s).explain(X_test, y_test) for s in ("shrunk", "newton")))


@pytest.mark.parametrize("task", TASKS)
def test_leaf_similarity_is_tree_similarity_by_weighted_paths(task):
    found, X_test, y_test = explainer(task, "leafsim")
    other = found.using(method="treesim", space="lpw", measure="dot")
    np.testing.assert_allclose(found.explain(X_test, y_test), other.explain(X_test, y_test), atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_steps_of_a_leafs_rows_add_up_to_its_ridge(task):
    found, *_ = any_explainer(task, "boostin")
    d = found.data
    sums = np.zeros(d.trees.n_leaves)
    for b in d.blocks():
        theta = d.trees.values[b.leaves] / d.trees.learning_rate
        np.add.at(sums, b.leaves, b.g + theta * b.h)
    np.testing.assert_allclose(sums, -0.5 * d.trees.values / d.trees.learning_rate, atol=1e-5)


def test_a_row_that_shares_no_leaf_has_no_boostin():
    X = np.repeat([[0.0], [1.0]], 10, axis=0)
    y = np.r_[np.zeros(9), 1, np.ones(9), 0].astype(int)
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2).fit(X, y)
    scores = TreeInfluence(model, X, y).explain(X[:1], y[:1])[:, 0]
    assert (scores[10:] == 0).all()
    assert (scores[:9] > 0).all() and scores[9] < 0, "same label helps, the mislabelled neighbour harms"


# ------------------------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize("method", ["boostin", "leafinfsp", "leafsim"])
@pytest.mark.parametrize("task", TASKS)
def test_blocks_of_any_size_give_the_same_scores(method, task):
    found, X_test, y_test = explainer(task, method, n=150)
    whole = found.explain(X_test, y_test)
    X, y, *_ = small(task, 150)
    tight = TreeInfluence(found.model, X, y, config=TreeInfluenceConfig(method=method, memory_mb=0.02))
    assert tight.data.rows_per_block < 50
    np.testing.assert_allclose(tight.explain(X_test, y_test), whole, atol=1e-13)
    (up, gains), (down, harms) = tight.topk(X_test, y_test, 7)
    order = np.argsort(-whole, axis=0, kind="stable").T
    np.testing.assert_allclose(gains, np.take_along_axis(whole.T, order[:, :7], 1), atol=1e-13)
    np.testing.assert_allclose(harms, np.take_along_axis(whole.T, order[:, ::-1][:, :7], 1), atol=1e-13)
    np.testing.assert_allclose(np.take_along_axis(whole.T, up, 1), gains, atol=1e-13)
    np.testing.assert_allclose(np.take_along_axis(whole.T, down, 1), harms, atol=1e-13)
    np.testing.assert_allclose(tight.aggregate(X_test, y_test), whole.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("method", ["boostin", "leafinfsp", "leafrefit", "leafinfluence"])
def test_self_influence_is_each_row_as_its_own_target(method):
    found, *_ = explainer("multiclass", method)
    X, y, *_ = small("multiclass")
    np.testing.assert_allclose(found.self_influence(), np.diag(found.explain(X, y)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_rows_and_a_thousand_targets_stream_in_bounded_memory():
    import resource

    gen = np.random.default_rng(0)
    X = gen.normal(size=(1_000_000, 4)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + gen.normal(size=len(X)) > 0).astype(int)
    model = HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, early_stopping=False).fit(X, y)
    found = TreeInfluence(model, X, y, config=TreeInfluenceConfig(memory_mb=256))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (_, gains), _ = found.topk(X[:1000], y[:1000], 5)
    assert gains.shape == (1000, 5) and (np.diff(gains, axis=1) <= 0).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000, (
        "kilobytes; the answer is 8 GB"
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_reordered_rows_have_reordered_scores(seed):
    X, y, X_test, y_test = small("multiclass")
    model = boosted("multiclass", X, y)
    order = np.random.default_rng(seed).permutation(len(y))
    for method in ("boostin", "leafinfluence", "leafrefit"):
        settings_ = TreeInfluenceConfig(method=method)
        one = TreeInfluence(model, X, y, config=settings_).explain(X_test, y_test)
        other = TreeInfluence(model, X[order], y[order], config=settings_).explain(X_test, y_test)
        np.testing.assert_allclose(other, one[order], atol=1e-10)


# ------------------------------------------------------------------------------------------------ weights, labels


def test_weights_of_training_are_weights_of_the_scores():
    X, y, X_test, y_test = small("binary", 120)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(y))
    model = boosted("binary", X, y, weight)
    found = TreeInfluence(model, X, y, weight, config=TreeInfluenceConfig(method="leafrefit"))
    assert max(r["distance"] for r in found.check()) < 1e-5
    half = weight.copy()
    half[3] = 0.0
    d = found.data
    raw = leaf_derivatives.refitted(d, d.trees.leaves(X), d.trees.leaves(X_test), half[:, None])
    expected = d.trees.loss(raw[:, 0], d.trees.targets(y_test)) - d.trees.loss(
        d.trees.raw(X_test), d.trees.targets(y_test)
    )
    np.testing.assert_allclose(found.explain(X_test, y_test)[3], expected, atol=1e-12)
    with pytest.raises(LogError, match="differ from the Newton steps"):
        TreeInfluence(model, X, y)


@pytest.mark.parametrize("method", ["boostin", "leafrefit"])
def test_relabelling_a_row_with_its_own_label_changes_nothing(method):
    found, X_test, y_test = explainer("multiclass", method)
    y = small("multiclass")[1]
    edits = found.label_edit(X_test, y_test, 2)
    now = found.using(method="leafrefit").data
    drift = np.abs(now.reconstruction()).max()
    np.testing.assert_allclose(edits[y == 2], 0.0, atol=1e-12 + 10 * drift)
    assert np.abs(edits[y != 2]).max() > 1e-3


def test_relabelled_scores_agree_in_sign_with_training_on_the_label():
    X, y, X_test, y_test = small("binary", 200)
    model = boosted("binary", X, y)
    found = TreeInfluence(model, X, y)
    quick = found.label_edit(X_test, y_test, 1)[y == 0]
    exact = found.using(method="leafrefit").label_edit(X_test, y_test, 1)[y == 0]
    assert np.corrcoef(quick.ravel(), exact.ravel())[0, 1] > 0.8


# ------------------------------------------------------------------------------------------------ by training again


def test_leave_one_out_subsample_and_shapley_train_again():
    X, y, X_test, y_test = small("regression", 16)
    model = boosted("regression", X, y, max_iter=2)
    found = TreeInfluence(model, X, y, config=TreeInfluenceConfig(method="loo"))
    scores = found.explain(X_test, y_test)
    without = boosted("regression", np.delete(X, 4, 0), np.delete(y, 4), max_iter=2).predict(X_test)
    expected = 0.5 * (y_test - without) ** 2 - 0.5 * (y_test - model.predict(X_test)) ** 2
    np.testing.assert_allclose(scores[4], expected, atol=1e-12)
    shapley = found.using(method="shapley", permutations=2, shapley_truncation=1.0)
    # Efficient: a whole order pays out what all rows together earn over the constant guess.
    earned = 0.5 * (y_test - y.mean()) ** 2 - 0.5 * (y_test - model.predict(X_test)) ** 2
    np.testing.assert_allclose(shapley.explain(X_test, y_test).sum(axis=0), earned, atol=1e-12)
    sub = found.using(method="subsample", fits=20)
    np.testing.assert_array_equal(sub.explain(X_test, y_test), sub.explain(X_test, y_test))


def test_subsampled_values_find_the_row_that_matters():
    from counterlog.trace.retraining import subsampled

    def losses(rows):
        return np.array([0.0 if 2 in rows else 1.0])

    scores = subsampled(losses, np.arange(6), 200, 0.5, 0)[:, 0]
    assert scores[2] == 1.0 and np.abs(np.delete(scores, 2)).max() < 0.5


# ------------------------------------------------------------------------------------------------ the surrogate


@pytest.mark.parametrize("task", TASKS)
def test_representers_are_at_the_optimum_and_add_up_to_the_prediction(task):
    found, X_test, y_test = explainer(task, "trex")
    d, l2 = found.data, 0.003
    phi = tree_kernels.features(d, d.trees.leaves(d.X), "lpw")
    kernel = (phi @ phi.T).toarray()
    alpha = tree_kernels.representers(d.trees, kernel, d.target, l2)
    slope = d.trees.link(kernel @ alpha) - d.target
    np.testing.assert_allclose(alpha, -slope / (2 * l2 * d.n), atol=1e-6 / (2 * l2 * d.n) * 1e3)
    cross = (phi @ tree_kernels.features(d, d.trees.leaves(X_test), "lpw").T).toarray()
    target = d.trees.targets(y_test)
    f = cross.T @ alpha
    without = f - cross[5][:, None] * alpha[5]
    expected = d.trees.loss(without, target) - d.trees.loss(f, target)
    np.testing.assert_allclose(found.explain(X_test, y_test)[5], expected, atol=1e-6)


@pytest.mark.parametrize("measure", ["cosine", "euclid"])
def test_similarity_is_largest_to_the_row_itself(measure):
    found, *_ = explainer("binary", "treesim")
    X, y, *_ = small("binary")
    scores = found.using(measure=measure, space="lp").explain(X, y)
    assert (np.diag(scores) >= scores.max(axis=0) - 1e-9).all()


@pytest.mark.parametrize("method", ["random", "randomsl", "minority", "loss", "inputsim"])
@pytest.mark.parametrize("task", TASKS)
def test_baselines_answer_and_repeat_themselves(method, task):
    found, X_test, y_test = explainer(task, method)
    scores = found.explain(X_test, y_test)
    assert scores.shape == (40, 9) and np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, found.explain(X_test, y_test))
    if method == "randomsl" and task != "regression":
        y = small(task)[1]
        assert ((scores > 0) == (y[:, None] == y_test[None])).all()


# ------------------------------------------------------------------------------------------------ truth


def test_mislabelled_rows_harm_and_are_found():
    X, y = load_breast_cancer(return_X_y=True)
    gen = np.random.default_rng(0)
    order = gen.permutation(len(y))
    X, y = X[order], y[order]
    noisy, wrong = y[:350].copy(), gen.choice(350, 35, replace=False)
    noisy[wrong] = 1 - noisy[wrong]
    model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8).fit(X[:350], noisy)
    found = TreeInfluence(model, X[:350], noisy)
    worst = np.argsort(found.aggregate(X[350:], y[350:]))[:35]
    assert np.isin(worst, wrong).mean() > 0.7
    assert np.isin(np.argsort(-found.self_influence())[:35], wrong).mean() > 0.5


def test_scores_name_rows_values_sign_and_unit(tmp_path):
    found, X_test, y_test = explainer("binary")
    scores = found.score(X_test, y_test, k=3)
    dense = found.explain(X_test, y_test)
    assert scores.targets[2].helpful_rows == tuple(np.argsort(-dense[:, 2], kind="stable")[:3])
    assert scores.targets[2].harmful[0] == dense[:, 2].min()
    assert "nats" in scores.unit and "removing it raises the target's loss" in scores.sign
    assert scores.n == 40 and scores.leaf_error < 1e-5
    assert scores.to_frame().shape == (9 * 6, 5)
    assert Scores.load(scores.save(tmp_path / "s.json")) == scores
    tight = found.using(memory_mb=0.002).score(X_test, y_test, k=3)
    assert [t.helpful_rows for t in tight.targets] == [t.helpful_rows for t in scores.targets]
    assert [t.target for t in tight.targets] == list(range(9))
    assert 0 < scores.targets[0].share_top_1_percent <= scores.targets[0].share_top_10_percent <= 1


# ------------------------------------------------------------------------------------------------ refusals


def test_rows_that_did_not_train_the_model_are_refused():
    X, y, X_test, y_test = small("regression", 80)
    model = boosted("regression", X, y)
    with pytest.raises(LogError, match=r"differ from the Newton steps.*(?s:.)*not all the rows"):
        TreeInfluence(model, X[:-5], y[:-5])
    inexact = TreeInfluence(model, X[:-5], y[:-5], config=TreeInfluenceConfig(allow_inexact=True))
    assert inexact.score(X_test, y_test).leaf_error > 1e-3


@pytest.mark.trees
def test_catboosts_several_leaf_steps_are_named():
    catboost = pytest.importorskip("catboost", reason="catboost is not installed (extra trees)")
    X, y, *_ = small("binary", 100)
    model = catboost.CatBoostClassifier(
        iterations=5, learning_rate=0.3, leaf_estimation_iterations=10, verbose=0, allow_writing_files=False
    ).fit(X, y)
    with pytest.raises(LogError, match="leaf_estimation_iterations=10"):
        TreeInfluence(model, X, y)


@pytest.mark.trees
def test_bagged_rows_are_named():
    lgb = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    X, y, *_ = small("binary", 200)
    model = lgb.LGBMClassifier(n_estimators=5, subsample=0.5, subsample_freq=1, verbose=-1, n_jobs=1).fit(
        X, y
    )
    with pytest.raises(LogError, match="bagging_freq=1"):
        TreeInfluence(model, X, y)


def test_bad_input_is_refused_by_name():
    found, X_test, y_test = explainer("binary")
    X, y, *_ = small("binary")
    with pytest.raises(LogError, match="no target row"):
        found.explain(X_test[:0], y_test[:0])
    with pytest.raises(LogError, match="9 rows and y_test has 8"):
        found.explain(X_test, y_test[:8])
    with pytest.raises(LogError, match="never saw"):
        found.explain(X_test, y_test + 5)
    with pytest.raises(LogError, match="X has 40 rows and y has 39"):
        trained(read_trees(found.model), X, y[:-1])
    with pytest.raises(LogError, match="sample_weight is not a positive number in row 2"):
        trained(read_trees(found.model), X, y, np.r_[1, 1, -1, np.ones(37)])
    with pytest.raises(LogError, match="k = 41"):
        found.topk(X_test, y_test, 41)
    with pytest.raises(ConfigError, match="max_rows=10"):
        found.using(method="leafinfluence", max_rows=10).explain(X_test, y_test)
    with pytest.raises(ConfigError, match="label_edit by 'trex'"):
        found.using(method="trex").label_edit(X_test, y_test, 1)
    with pytest.raises(ConfigError, match="one of boostin"):
        TreeInfluenceConfig(method="magic")
    bare = TreeInfluence(read_trees(found.model), X, y, config=TreeInfluenceConfig(method="loo"))
    with pytest.raises(ConfigError, match="cannot be trained again"):
        bare.explain(X_test, y_test)


def test_inputs_are_left_as_they_were():
    X, y, X_test, y_test = small("multiclass")
    copies = [a.copy() for a in (X, y, X_test, y_test)]
    found = TreeInfluence(boosted("multiclass", X, y), X, y)
    for method in ("boostin", "leafrefit", "leafinfluence", "trex"):
        found.using(method=method).explain(X_test, y_test)
    for a, b in zip((X, y, X_test, y_test), copies, strict=True):
        np.testing.assert_array_equal(a, b)
