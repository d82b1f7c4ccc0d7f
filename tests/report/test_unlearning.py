"""`unlearn`: every way of forgetting on a saved network, exact removal from trees, texts; refusals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")

from counterlog.core.errors import ConfigError, LogError  # noqa: E402
from counterlog.core.saved_networks import SavedNetwork, load_network  # noqa: E402
from counterlog.core.torch_training import TrainConfig  # noqa: E402
from counterlog.report.unlearning import METHODS, UnlearningReport, named_rows, unlearn  # noqa: E402


def table(n=260):
    gen = np.random.default_rng(0)
    x = gen.normal(size=(n, 3))
    y = np.where(x[:, 0] + 0.8 * gen.normal(size=n) > 0, "yes", "no")
    return pl.DataFrame(x, schema=["a", "b", "c"]).with_columns(y=y, user=np.arange(n) % 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("unlearn")
    table()[:200].write_parquet(out / "table.parquet")
    table()[200:].write_parquet(out / "test.parquet")
    training = TrainConfig(epochs=15, lr=0.01)
    made = SavedNetwork.fit(
        table()[:200], "y", columns=("a", "b", "c"), hidden=(16,), training=training, rng=1
    )
    made.save(out / "net.safetensors")
    return out


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder, out, **extra):
    given = {"where": "user = 3", "test": folder / "test.parquet", **extra}
    return unlearn(given.pop("model", folder / "net.safetensors"), folder / "table.parquet", out, **given)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_a_model_and_its_measures(folder, tmp_path, method):
    found = run(folder, tmp_path, method=method)
    assert (found.forgotten, found.kept, found.exact) == (10, 190, method == "retrain")
    net = load_network(tmp_path / found.file)
    x, y = net.rows(table()[200:])
    assert float((net.model(x).argmax(1) == y).double().mean()) == pytest.approx(found.after["test_accuracy"])
    assert (
        set(found.before) == set(found.after) >= {"forget_accuracy", "attack_confidence", "attack_loss_auc"}
    )
    page = found.html()
    assert "Unlearning report" in page and found.digest in page


def test_retraining_is_the_training_of_the_kept_rows(folder, tmp_path):
    found = run(folder, tmp_path, method="retrain")
    net = load_network(tmp_path / found.file)
    kept = table()[:200].filter(pl.col("user") != 3)
    again = SavedNetwork.fit(
        table()[:200], "y", columns=("a", "b", "c"), hidden=(16,), training=net.training, rng=1
    )
    from counterlog.core.torch_training import train

    x, y = again.rows(kept)
    expected = train(again.start(), x, y, again.training, rng=1)
    assert torch.allclose(expected(x), net.model(x), atol=1e-6)


def test_comparing_gives_gaps_and_the_result_is_read_back(folder, tmp_path):
    found = run(folder, tmp_path, method="fine-tune", compare=True)
    assert found.retrained and 0 <= found.average_gap < 0.5
    found.write(tmp_path)
    assert UnlearningReport.load(tmp_path / "result.json").to_dict() == found.to_dict()
    assert "trained again" in (tmp_path / "report.html").read_text()


def test_rows_that_cannot_be_forgotten_are_refused(folder, tmp_path):
    frame = table()[:200]
    for where, said in (("user = 99", "no row is"), ("user >= 0", "every row is")):
        with pytest.raises(LogError, match=said):
            named_rows(frame, None, where, None)
    for rows, said in (([200], "row 200"), ([1, 1], "named twice"), ([-1], "row -1")):
        pl.DataFrame({"row": rows}).write_csv(tmp_path / "rows.csv")
        with pytest.raises(LogError, match=said):
            named_rows(frame, tmp_path / "rows.csv", None, None)


def test_models_and_methods_that_are_not_known_are_refused(folder, tmp_path):
    (tmp_path / "m.pt").write_bytes(b"\x80\x04")
    with pytest.raises(ConfigError, match="loading one runs its code"):
        run(folder, tmp_path, model=tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="no way of forgetting 'prayer'"):
        run(folder, tmp_path, method="prayer")


@pytest.mark.trees
def test_a_tree_model_is_the_model_of_the_kept_rows(folder, tmp_path):
    lightgbm = pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    frame = table()[:200]
    X, y = frame.select("a", "b", "c").to_numpy(), (frame["y"] == "yes").cast(int).to_numpy()
    fit = lambda rows: lightgbm.LGBMClassifier(  # noqa: E731
        n_estimators=6, num_leaves=5, min_child_samples=5, verbose=-1, n_jobs=1, random_state=4
    ).fit(X[rows], y[rows])
    fit(np.arange(200)).booster_.save_model(tmp_path / "m.txt")
    frame.drop("user").write_parquet(tmp_path / "t.parquet")
    pl.DataFrame({"row": [3, 77, 120]}).write_csv(tmp_path / "rows.csv")
    found = unlearn(
        tmp_path / "m.txt", tmp_path / "t.parquet", tmp_path, forget=tmp_path / "rows.csv", target="y"
    )
    assert found.exact
    made = lightgbm.Booster(model_file=str(tmp_path / found.file)).predict(X)
    expected = fit(np.setdiff1d(np.arange(200), [3, 77, 120])).predict_proba(X)[:, 1]
    np.testing.assert_allclose(made, expected, atol=1e-9)
    with pytest.raises(ConfigError, match="splits have no gradients"):
        unlearn(
            tmp_path / "m.txt", tmp_path / "t.parquet", tmp_path, where="a > 1", target="y", method="scrub"
        )
    with pytest.raises(LogError, match="give another model"):
        unlearn(
            tmp_path / "m.txt",
            tmp_path / "t.parquet",
            tmp_path,
            where="a > 1",
            target="y",
            options=("num_leaves=3",),
        )


@pytest.mark.trees
def test_an_xgboost_file_needs_its_parameters_said(tmp_path):
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (extra trees)")
    frame = table()[:200].drop("user")
    X, y = frame.select("a", "b", "c").to_numpy(), (frame["y"] == "yes").cast(int).to_numpy()
    xgboost.XGBClassifier(n_estimators=4, max_depth=2, n_jobs=1).fit(X, y).save_model(tmp_path / "m.json")
    frame.write_parquet(tmp_path / "t.parquet")
    given = {"where": "a > 1.5", "target": "y"}
    with pytest.raises(ConfigError, match="--set eta="):
        unlearn(tmp_path / "m.json", tmp_path / "t.parquet", tmp_path / "o", **given)
    found = unlearn(
        tmp_path / "m.json", tmp_path / "t.parquet", tmp_path / "o", options=("max_depth=2",), **given
    )
    assert found.exact and "recipe was proved" in found.notes[-1]


@pytest.mark.language
@pytest.mark.parametrize("method", ["gradient-ascent", "influence-approximation-unlearning"])
def test_texts_are_forgotten_from_a_folder(tmp_path, method):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed (extra language)"
    )
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [
        "[UNK]",
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "dog",
        "ran",
        "to",
        "red",
        "house",
        "secret",
        "code",
        "is",
        "nine",
    ]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(words), **shape))
    model.save_pretrained(tmp_path / "lm")
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]").save_pretrained(
        tmp_path / "lm"
    )
    texts = ["the cat sat on a mat", "the dog ran to the red house", "the secret code is nine"] * 3
    pl.DataFrame({"text": texts}).write_ndjson(tmp_path / "t.jsonl")
    found = unlearn(
        tmp_path / "lm", tmp_path / "t.jsonl", tmp_path / "out", where="text LIKE '%secret%'", method=method,
        options=("lr=0.003",), test=tmp_path / "t.jsonl",
    )  # fmt: skip
    rise = found.after["forget_loss"] - found.before["forget_loss"]
    assert rise > 0.05 > found.after["kept_loss"] - found.before["kept_loss"]
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "model", use_safetensors=True
    )
    assert sum(p.numel() for p in again.parameters()) == found.model["parameters"]
    with pytest.raises(ConfigError, match="does not forget by 'scrub'"):
        unlearn(
            tmp_path / "lm", tmp_path / "t.jsonl", tmp_path / "o", where="text LIKE '%cat%'", method="scrub"
        )
    with pytest.raises(ConfigError, match="holds no safetensors"):
        (tmp_path / "empty").mkdir()
        unlearn(tmp_path / "empty", tmp_path / "t.jsonl", tmp_path / "o", where="text LIKE '%cat%'")
