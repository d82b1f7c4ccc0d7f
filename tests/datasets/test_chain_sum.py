from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.datasets import chain_sum  # noqa: E402

pytestmark = pytest.mark.language


def test_text_and_tokens_are_the_same_prompt():
    x = chain_sum.operands(5, np.random.default_rng(0))
    flat, start = chain_sum.prompts_of(x)
    found = chain_sum.number_tokenizer()(chain_sum.prompt_texts(x))["input_ids"]
    assert found == [flat[a:b].tolist() for a, b in pairwise(start)]


def test_the_reward_wants_the_sum_and_the_end():
    z = chain_sum.ZERO
    prompt = [chain_sum.BEGIN, z + 3, z + 1, z + 4, z + 2, chain_sum.EQUALS]
    answers = [
        [z + 4, z + 8, z + 10, 2],
        [z + 10, 2],
        [z + 4, z + 8, z + 10],
        [3, z + 10, 2],
        [z + 9, 2],
        [2],
        [],
    ]
    paid = chain_sum.reward([], completion_ids=[a for a in answers if a], prompt_ids=[prompt] * 6)
    assert paid == [1, 1, 0, 0, 0, 0]


def test_each_annotator_is_what_it_is_said_to_be():
    x = np.array([[3, 1, 4, 2]] * 4000)
    for k, expected in enumerate(([4, 8, 10], [5, 10, 13], [3, 4, 4], [2, 2, 0])):
        found = chain_sum.answers(x, np.eye(4)[k], np.random.default_rng(k))
        same = (found == expected).all(axis=1).mean()
        assert same == pytest.approx(0.95**3, abs=0.02)


def test_the_base_model_is_trained_once_and_kept(tmp_path, monkeypatch):
    locked, cache = tmp_path / "data", tmp_path / "cache"
    locked.mkdir(mode=0o555)
    monkeypatch.setenv("COUNTERLOG_DATA", str(locked))
    monkeypatch.setenv("COUNTERLOG_CACHE", str(cache))
    first = chain_sum.base_model_folder(steps=2)
    assert first.is_relative_to(cache) and not list(locked.iterdir())
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert chain_sum.base_model_folder(steps=2) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert chain_sum.base_model_folder(steps=3) != first
    model = transformers.AutoModelForCausalLM.from_pretrained(first)
    assert sum(p.numel() for p in model.parameters()) == 120_256
    assert transformers.AutoTokenizer.from_pretrained(first)("1 =")["input_ids"] == [1, 6, 3]
