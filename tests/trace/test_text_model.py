"""Tracing causal language models from files: tiny random GPT-2 and Llama, nothing downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterlog.core.bm25 import BM25
from counterlog.core.errors import CounterlogError, LogError
from counterlog.core.language_rows import (
    ByteTokenizer,
    TextRow,
    default_layers,
    load_text_model,
    read_texts,
    text_loss_rows,
    token_rows,
)

pytestmark = pytest.mark.language
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.trace.text_model import TextScores, TextTraceConfig, trace_text_model, trace_texts  # noqa: E402

TEXTS = [
    f"{city} is the capital of {land}." for city in ("Paris", "Rome", "Oslo") for land in ("France", "Italy")
]


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("\n".join(json.dumps({"text": t}) for t in TEXTS) + "\n")
    test.write_text(json.dumps({"prompt": "Paris is the capital of", "completion": " France."}))
    return train, test


@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_saved_folder_is_traced_and_its_parts_add_up(make: Any, files: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    config = TextTraceConfig(top=3, batch=4)
    found = trace_text_model(folder, *files, config=config, store=tmp_path / "store", rng=1)
    assert all("mlp" in name for name in found.layers)
    (query,) = found.queries
    for pair in (*query.helpful, *query.harmful):
        assert pair.text == TEXTS[pair.row]
        assert "".join(pair.tokens) == pair.text
        assert sum(pair.token_scores) == pytest.approx(pair.score, rel=1e-5)
        assert sum(pair.layer_scores) == pytest.approx(pair.score, rel=1e-5)
    scores = [p.score for p in query.helpful]
    assert scores == sorted(scores, reverse=True)
    assert query.helpful[0].row == 0  # the query's own sentence
    assert len(found.self_influence) == found.n == len(TEXTS)
    assert sum(query.layer_share) == pytest.approx(1)
    assert found.to_frame().height == 6
    assert repr(TextScores.load(found.save(tmp_path / "r.json"))) == repr(found)
    again = trace_text_model(folder, *files, config=config, store=tmp_path / "store", rng=1)
    assert repr(again) == repr(found)  # from the stored factors
    assert found.plot().data


def test_padding_and_batches_change_nothing() -> None:
    model, tokenizer = gpt2(), ByteTokenizer()
    rows = [TextRow("", t) for t in TEXTS] + [TextRow("", "short")]
    test = [TextRow("Rome is", " the capital")]
    settings: Any = {"fisher": "empirical", "damping": 1e-3, "query_rank": 0, "top": 7}
    one, all_at_once = (
        trace_texts(model, tokenizer, rows, test, config=TextTraceConfig(batch=b, **settings)) for b in (1, 7)
    )
    a, b = ({p.row: p.score for p in r.queries[0].helpful} for r in (one, all_at_once))
    assert a == pytest.approx(b, rel=1e-3)
    # a row's loss does not depend on the padding beside it
    x, y = token_rows(rows, tokenizer, 64)
    alone = token_rows(rows[-1:], tokenizer, 64)
    with torch.no_grad():
        assert float(text_loss_rows(model, x, y)[-1]) == pytest.approx(
            float(text_loss_rows(model, *alone)[0]), rel=1e-5
        )


def test_the_filter_keeps_texts_that_share_rare_words_and_reports_its_recall() -> None:
    rows = [TextRow("", t) for t in TEXTS] + [TextRow("", f"nothing to see {i}") for i in range(30)]
    config = TextTraceConfig(candidates=3, top=2, recall_rows=20, self_influence=False)
    found = trace_texts(
        gpt2(), ByteTokenizer(), rows, [TextRow("Oslo is the capital of", " Italy.")], config=config
    )
    assert found.queries[0].candidates == 3
    assert {p.row for p in found.queries[0].helpful} <= set(range(6))
    assert 0 <= found.filter_recall <= 1
    assert found.self_influence == ()


def test_bm25_by_hand() -> None:
    # N = 2, "b" in one document of length 2, mean length 1.5: idf = log(1 + 1.5/1.5), f = 1
    found = BM25.fit(["a b", "a"]).scores(["b", "z"])
    weight = np.log(2) * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / 1.5))
    assert found[:, 0] == pytest.approx([weight, 0])
    assert found[:, 1] == pytest.approx([0, 0])


def test_prompts_are_not_counted() -> None:
    x, y = token_rows([TextRow("ab", "cd")], ByteTokenizer(), 64)
    assert x.tolist() == [[97, 98, 99, 100]]
    assert y[0, 0].tolist() == [-100, -100, 99, 100]
    assert y[0, 1].tolist() == [1, 1, 1, 1]


def test_files_and_folders_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    for content, said in (
        ('{"text": "a"}\n{oops', "line 2 is not JSON"),
        ('{"body": "a"}', r"line 1 has 'body'[\s\S]*prompt"),
        ("\n", "has no line"),
        ('{"text": 3}', "line 1 has 'text'"),
    ):
        file.write_text(content)
        with pytest.raises(LogError, match=said):
            read_texts(file)
    with pytest.raises(LogError, match="cannot be read"):
        read_texts(tmp_path / "missing.jsonl")
    with pytest.raises(CounterlogError, match=r"no config\.json"):
        load_text_model(tmp_path)
    with pytest.raises(LogError, match=r"at least one token to predict"):
        token_rows([TextRow("abc", "d")], ByteTokenizer(), 3)
    assert default_layers(gpt2()) == ("*mlp*",)
