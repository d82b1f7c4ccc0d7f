from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.core.errors import ConfigError, LogError  # noqa: E402
from counterlog.core.pairs import Pairs  # noqa: E402
from counterlog.core.reward_functions import load_reward, scored  # noqa: E402
from counterlog.core.rollouts import Rollouts, rollouts_of  # noqa: E402
from counterlog.datasets import chain_sum  # noqa: E402

pytestmark = pytest.mark.language
ROWS = [
    {"prompt": "1 2 =", "completion": "3", "reward": 1.0, "truncated": False},
    {"prompt": "4 4 =", "completion": "8 8", "reward": None, "truncated": False},
    {"prompt": "1 2 =", "completion": "9", "reward": 0.0, "truncated": True},
]


@pytest.fixture(scope="module")
def tokens():
    return chain_sum.number_tokenizer()


def lists(ragged):
    flat, start = ragged
    return [flat[a:b].tolist() for a, b in itertools.pairwise(start)]


def test_text_becomes_tokens_with_an_end_unless_it_was_cut(tokens):
    log = Rollouts(ROWS)
    found = log.encode(tokens, vocabulary=105)
    assert log.n == 3 and log.groups == 2
    assert lists(found.responses) == [[8, 2], [13, 13, 2], [14]]
    assert [lists(found.prompts)[i] for i in found.which] == [[1, 6, 7, 3], [1, 9, 9, 3], [1, 6, 7, 3]]
    assert found.group[0] == found.group[2] != found.group[1]
    batch = found.batch(np.array([0, 2]), 0, mask_truncated=True)
    assert batch.response_mask.tolist() == [[1, 1], [0, 0]]
    assert np.isnan(found.rewards[1])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset", "pandas", "arrow", "saved"])
def test_every_source_gives_the_same_log(kind, tmp_path, tokens):
    frame = pl.DataFrame(ROWS)
    source = {"pandas": frame.to_pandas, "arrow": frame.to_arrow}.get(kind, lambda: None)()
    if kind == "jsonl":
        frame.write_ndjson(tmp_path / "a.jsonl")
        source = tmp_path / "a.jsonl"
    elif kind == "parquet":
        source = Rollouts(ROWS).save(tmp_path / "a.parquet")
    elif kind in ("dataset", "saved"):
        datasets = pytest.importorskip("datasets")
        source = datasets.Dataset.from_list([*ROWS, ROWS[0]]).select([0, 1, 2])
        if kind == "saved":
            source.save_to_disk(str(tmp_path / "d"))
            source = tmp_path / "d"
    found = Rollouts(source).encode(tokens, vocabulary=105)
    expected = Rollouts(ROWS).encode(tokens, vocabulary=105)
    assert lists(found.responses) == lists(expected.responses)
    assert np.array_equal(found.group, expected.group)
    assert np.array_equal(found.rewards, expected.rewards, equal_nan=True)


def test_a_row_a_prompt_is_unfolded():
    rows = [
        {
            "prompt": [1, 5],
            "responses": [[6, 2], [7]],
            "rewards": [1.0, 0.0],
            "old_logprobs": [[-1.0, -0.5], [-2.0]],
        },
        {"prompt": [1, 5], "responses": [[8]], "rewards": [0.5], "old_logprobs": [[-0.1]]},
    ]
    log = Rollouts(rows)
    found = log.encode(None, vocabulary=105)
    assert found.group.tolist() == [0, 0, 1]
    assert lists(found.responses) == [[6, 2], [7], [8]]
    batch = found.batch(np.arange(3), 0)
    assert torch.allclose(batch.old_logprobs, torch.tensor([[-1.0, -0.5], [-2, 0], [-0.1, 0]]))


def test_columns_by_other_names_and_versions_by_name():
    rows = [
        {"input": [1], "output": [5], "score": 1, "step": "b"},
        {"input": [1], "output": [6], "score": 0, "step": "a"},
    ]
    log = Rollouts(rows, prompt="input", completion="output", reward="score", policy_version="step")
    assert log.versions == ("b", "a") and log.encode(None, vocabulary=9).version.tolist() == [0, 1]


def test_chat_turns_need_a_template(tokens):
    rows = [
        {
            "prompt": [{"role": "user", "content": "1 2 ="}],
            "completion": [{"role": "assistant", "content": "3"}],
        }
    ] * 2
    with pytest.raises(LogError, match="chat template"):
        Rollouts(rows).encode(tokens, vocabulary=105)
    spoken = chain_sum.number_tokenizer()
    spoken.chat_template = "{% for m in messages %}<s> {{ m['content'] }} {% endfor %}"
    found = Rollouts(rows).encode(spoken, vocabulary=105)
    assert lists(found.prompts) == [[1, 6, 7, 3]] and lists(found.responses)[0] == [8, 2]


def test_a_batch_written_and_read_is_the_batch(tmp_path):
    log = Rollouts(
        [
            {
                "prompt": [1, 9],
                "completion": [5, 2],
                "reward": 0.5,
                "completion_logprobs": [-1.25, -0.1],
                "group": 3,
            },
            {"prompt": [1, 9], "completion": [6], "reward": None, "completion_logprobs": [-2.0], "group": 3},
        ]
    )
    batch = log.encode(None, vocabulary=105).batch(np.arange(2), 0)
    for name in ("a.parquet", "a.jsonl"):
        again = (
            Rollouts(rollouts_of(batch).save(tmp_path / name))
            .encode(None, vocabulary=105)
            .batch(np.arange(2), 0)
        )
        for key, value in batch.tensors().items():
            assert torch.allclose(again.tensors()[key], value, equal_nan=True, atol=1e-7), key


LOG = {"prompt": [1, 9], "completion": [5, 2], "reward": 0.5, "completion_logprobs": [-1.0, -0.1]}
REFUSED = [
    ([{**LOG, "reward": "good"}], r"'reward' is of type String"),
    ([{**LOG, "reward": float("inf")}], r"'reward' holds inf in row 0"),
    ([{**LOG, "completion_logprobs": [-1.0, 0.3]}], r"natural logs"),
    ([{**LOG, "completion_logprobs": [-1.0]}], r"one log-probability a token"),
    ([LOG, {**LOG, "completion_logprobs": None}], r"every row"),
    ([{**LOG, "weight": -1.0}], r"'weight' holds -1.0"),
    ([{"prompt": [1], "reward": 1.0}], r"no column 'completion'"),
    ([{**LOG, "completion": None}], r"'completion' is"),
    ([{**LOG, "group": 1}, {**LOG, "prompt": [2], "group": 1}], r"more than one prompt"),
    ([], r"no list of records"),
]


@pytest.mark.parametrize(("rows", "said"), REFUSED, ids=[s for _, s in REFUSED])
def test_what_is_wrong_is_named(rows, said):
    with pytest.raises(LogError, match=said):
        Rollouts(rows)


def test_tokens_that_the_model_lacks_and_text_cut_otherwise_are_refused(tokens):
    with pytest.raises(LogError, match=r"completion 0 holds token 5"):
        Rollouts([{**LOG, "prompt": [1]}]).encode(None, vocabulary=5)
    text = {"prompt": "1 =", "completion": "1 2", "completion_logprobs": [-1.0, -1, -1, -1]}
    with pytest.raises(LogError, match="row 0 has 4 log-probabilities for 3 tokens"):
        Rollouts([text]).encode(tokens, vocabulary=105)
    with pytest.raises(LogError, match="without a tokenizer"):
        Rollouts([text]).encode(None, vocabulary=105)


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.7), ("top_p", 0.9), ("top_k", 50)])
def test_ratios_need_the_full_softmax_at_one_temperature(name, value):
    with pytest.raises(LogError, match=name):
        Rollouts([LOG, {**LOG, name: value}]).need_temperature(1.0)
    Rollouts([LOG, {**LOG, "temperature": 1.0, "top_k": -1}]).need_temperature(1.0)


# ------------------------------------------------------------------------------------------------ pairs


def test_pairs_become_two_rows_each(tokens, tmp_path):
    log = Pairs(
        [
            {"prompt": "1 =", "chosen": "2", "rejected": "3 3"},
            {"prompt": "4 =", "chosen": "5", "rejected": "6"},
        ]
    )
    found = log.encode(tokens, vocabulary=105)
    assert lists(found.responses) == [[7, 2], [8, 8, 2], [10, 2], [11, 2]]
    assert found.rewards.tolist() == [1, 0, 1, 0] and log.margins is None
    assert Pairs(log.save(tmp_path / "p.jsonl")).fingerprint == log.fingerprint


def test_the_shared_beginning_is_the_prompt():
    log = Pairs([{"chosen": "Human: hi Assistant: hello", "rejected": "Human: hi Assistant: help"}])
    assert log.table.row(0, named=True) == {
        "prompt": "Human: hi Assistant: ", "chosen": "hello", "rejected": "help",
    }  # fmt: skip
    turns = [{"role": "user", "content": "hi"}]
    good, bad = ([*turns, {"role": "assistant", "content": c}] for c in ("a", "b"))
    assert Pairs([{"chosen": good, "rejected": bad}]).table["prompt"].to_list() == [turns]


def test_pairs_that_say_nothing_are_refused():
    with pytest.raises(LogError, match="the same in row 0"):
        Pairs([{"prompt": "a", "chosen": "x", "rejected": "x"}])
    with pytest.raises(LogError, match="share no beginning"):
        Pairs([{"chosen": "x", "rejected": "y"}])
    with pytest.raises(LogError, match="'margin' is of type"):
        Pairs([{"prompt": "a", "chosen": "x", "rejected": "y", "margin": "much"}])


# ------------------------------------------------------------------------------------------------ rewards


def test_rewards_add_up_and_none_is_no_judgement():
    first, second = (lambda completions: [1.0, None, None]), (lambda completions, **_: [10.0, 2.0, None])
    found = scored([first, second], ["p"] * 3, ["a", "b", "c"], {}, [1.0, 0.5])
    assert found[:2].tolist() == [6.0, 1.0] and np.isnan(found[2])


def test_reward_functions_that_misbehave_are_named():
    with pytest.raises(LogError, match="2 values for 1 completions"):
        scored([lambda completions: [1, 2]], ["p"], ["a"], {})
    with pytest.raises(LogError, match="'good'"):
        scored([lambda completions: ["good"]], ["p"], ["a"], {})
    with pytest.raises(ConfigError, match="reward weights"):
        scored([lambda completions: [1]], ["p"], ["a"], {}, [1, 2])


def test_reward_functions_by_name(tmp_path):
    (tmp_path / "mine.py").write_text("def score(completions, **_):\n    return [1.0] * len(completions)\n")
    assert load_reward(f"{tmp_path}/mine.py:score")(completions=["a"]) == [1.0]
    assert load_reward("counterlog.datasets.chain_sum:reward") is chain_sum.reward
    for name in ("score", "no.such.module:f", "counterlog.datasets.chain_sum:nothing"):
        with pytest.raises(ConfigError):
            load_reward(name)
