"""`trace` of a language model's folder: the page and the folder hold what the text trace says."""

from __future__ import annotations

from importlib.util import find_spec

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    out = tmp_path_factory.mktemp("texts")
    words = ["[UNK]", *sorted({w for t in TEXTS for w in t.split()})]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(words), **shape))
    model.save_pretrained(out / "lm")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[UNK]")
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
