"""`trace` of a language model's folder: the page and the folder hold what the text trace says."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError
from counterlog.report.language_attribution import attribute_language

pytestmark = pytest.mark.language
torch = pytest.importorskip("torch", reason="torch is not installed (extra language)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra language)")
TEXTS = [
    "the cat sat on a mat",
    "the dog ran to the red house",
    "the secret code is nine",
    "a cat ran to a mat",
]


def words_of(texts):
    """A tokenizer that knows the words of some texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    words = sorted({w for t in texts for w, _ in raw.pre_tokenizer.pre_tokenize_str(t)})
    raw.model = models.WordLevel({w: i for i, w in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[UNK]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("texts")
    made = words_of(TEXTS)
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(made), **shape))
    model.save_pretrained(out / "lm")
    made.save_pretrained(out / "lm")
    pl.DataFrame({"text": TEXTS * 6}).write_ndjson(out / "train.jsonl")
    pl.DataFrame({"text": TEXTS[2:3]}).write_ndjson(out / "test.jsonl")
    return out


def test_a_method_of_trees_is_refused(folder):
    with pytest.raises(ConfigError, match="expected ekfac"):
        attribute_language(folder / "lm", folder / "train.jsonl", folder / "test.jsonl", method="boostin")


@pytest.mark.skipif(find_spec("counterlog.trace.text_model") is None, reason="no text trace in this version")
def test_the_folder_holds_the_scores_of_the_text_trace(folder, tmp_path):
    made = attribute_language(folder / "lm", folder / "train.jsonl", folder / "test.jsonl", top=3)
    page = made.write(tmp_path)
    text = page.read_text().split("plotly.js v")[0]
    first = made.report.queries[0].helpful[0]
    assert "the secret code is nine" in text and repr(first.score) in text
    assert pl.read_parquet(tmp_path / "ends.parquet").height == made.report.to_frame().height
    assert pl.read_parquet(tmp_path / "scores.parquet").height == 24
    assert type(made.report).load(tmp_path / "result.json").to_dict() == made.report.to_dict()


def test_the_command_ranks_the_texts_that_state_a_learnt_fact(folder, tmp_path):
    import json

    from typer.testing import CliRunner

    from counterlog.cli import app
    from counterlog.core.language_rows import load_text_model, text_loss_rows, token_rows
    from counterlog.core.torch_models import one_thread
    from counterlog.core.torch_training import TrainConfig, train
    from counterlog.datasets.capital_facts import capital_facts

    facts = capital_facts(4, rng=0)
    model, _ = load_text_model(folder / "lm")
    config = type(model.config)(**{**model.config.to_dict(), "vocab_size": 64})
    tokenizer = words_of([t.text for t in facts.texts])
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = token_rows(facts.texts, tokenizer, 32)
        recipe = TrainConfig(epochs=120, batch=8, lr=1e-2)
        learnt = train(transformers.GPT2LMHeadModel(config), *rows, recipe, loss=text_loss_rows, rng=0)
        learnt.save_pretrained(tmp_path / "lm")
        tokenizer.save_pretrained(tmp_path / "lm")
        pl.DataFrame({"text": [t.text for t in facts.texts]}).write_ndjson(tmp_path / "train.jsonl")
        asked = [{"prompt": q.prompt, "completion": q.completion} for q in facts.queries]
        (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, asked)))
        words = ["trace", "lm", "--train", "train.jsonl", "--test", "test.jsonl", "--out", "out", "--json"]
        given = [str(tmp_path / w) if (tmp_path / w).exists() or w == "out" else w for w in words]
        done = CliRunner().invoke(app, [*given, "--quiet"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    best = [q["helpful"][0]["row"] for q in said["queries"]]
    assert np.mean([facts.fact[row] == j for j, row in enumerate(best)]) >= 0.75
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(t.text in page for t in facts.texts if "capital" in t.text)
