from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, LogError
from counterlog.core.saved_trees import load_trees, read_saved

pytestmark = pytest.mark.trees
for name in ("lightgbm", "xgboost", "catboost", "pandas"):
    pytest.importorskip(name, reason=f"{name} is not installed (extra trees)")
import catboost  # noqa: E402
import lightgbm  # noqa: E402
import xgboost  # noqa: E402


def table(n=240, classes=2):
    gen = np.random.default_rng(0)
    X = gen.normal(size=(n, 3))
    score = X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * gen.normal(size=n)
    code = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(
        label=pl.Series(np.array(["bad", "good", "so"])[code])
    )
    return frame, X, code


def saved(kind, folder, X, code, **extra):
    path = folder / f"m.{kind}"
    if kind == "txt":
        model = lightgbm.LGBMClassifier(
            n_estimators=8, num_leaves=6, reg_lambda=0.4, verbose=-1, n_jobs=1, **extra
        )
        model.fit(X, code).booster_.save_model(path)
    elif kind in ("json", "ubj"):
        model = xgboost.XGBClassifier(
            n_estimators=8, max_depth=3, learning_rate=0.23, reg_lambda=0.6, n_jobs=1, **extra
        )
        model.fit(X, code).save_model(path)
    else:
        model = catboost.CatBoostClassifier(
            iterations=8, depth=3, verbose=0, thread_count=1, leaf_estimation_iterations=1,
            leaf_estimation_method="Newton", allow_writing_files=False,
        )  # fmt: skip
        path = folder / ("m.cbm" if kind == "cbm" else "c.json")
        model.fit(X, code).save_model(str(path), format="cbm" if kind == "cbm" else "json")
    return path, model


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["txt", "json", "ubj", "cbm", "cjson"])
def test_a_file_gives_the_model_and_what_it_forgets(kind, classes, tmp_path):
    frame, X, code = table(classes=classes)
    path, model = saved(kind, tmp_path, X, code)
    found = load_trees(path)
    Z, names = found.matrix(frame, ["label"])
    assert names == ["a", "b", "c"]
    y = code if kind.startswith("c") else frame["label"].to_numpy()
    trees, notes = read_saved(found, Z, y)
    p = trees.link(trees.library_raw(Z))
    expected = model.predict_proba(X)
    np.testing.assert_allclose(
        p if classes > 2 else p[:, 0], expected if classes > 2 else expected[:, 1], atol=1e-6
    )
    if kind in ("json", "ubj"):
        assert trees.learning_rate == pytest.approx(0.23, rel=1e-4)
        assert trees.l2 == pytest.approx(0.6, rel=2e-2)
        assert any("its leaves and rows give" in n for n in notes)
    if not kind.startswith("c"):
        assert trees.classes.tolist() == ["bad", "good", "so"][:classes]


def test_labels_in_another_order_are_noticed_and_can_be_said(tmp_path):
    frame, X, code = table()
    path, _ = saved("json", tmp_path, X, 1 - code)
    found = load_trees(path)
    with pytest.raises(LogError, match="another order"):
        read_saved(found, X, frame["label"].to_numpy())
    trees, _ = read_saved(found, X, frame["label"].to_numpy(), classes=("good", "bad"))
    assert trees.learning_rate == pytest.approx(0.23, rel=1e-4)
    with pytest.raises(ConfigError, match="bad, good"):
        read_saved(found, X, frame["label"].to_numpy(), classes=("yes", "no"))
    with pytest.raises(LogError, match="2 classes apart and the labels have 240"):
        read_saved(found, X, np.arange(240))


def test_pickles_dumps_and_broken_files_are_refused(tmp_path):
    _, X, code = table()
    _, model = saved("txt", tmp_path, X, code)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "renamed.txt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("m.pkl", "renamed.txt"):
        with pytest.raises(ConfigError, match="loading one runs its code"):
            load_trees(tmp_path / name)
    import json

    (tmp_path / "dump.json").write_text(json.dumps(model.booster_.dump_model()))
    with pytest.raises(ConfigError, match="save_model"):
        load_trees(tmp_path / "dump.json")
    (tmp_path / "notes.md").write_text("no model")
    with pytest.raises(ConfigError, match=r"notes\.md is not known"):
        load_trees(tmp_path / "notes.md")
    with pytest.raises(ConfigError, match="no model file"):
        load_trees(tmp_path / "absent.txt")
    whole, _ = saved("ubj", tmp_path, X, code)
    (tmp_path / "cut.ubj").write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ConfigError, match="cut off"):
        load_trees(tmp_path / "cut.ubj")
