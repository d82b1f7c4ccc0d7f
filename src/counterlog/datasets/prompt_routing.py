"""Complete counterfactual tables of real language models: which prompt, or which model, solves which question?

    prompts("train" | "test")   LLaMA-2-7B-chat on 7,473 / 1,000 questions of GSM8K under six prompts
    models()                    four models (6B and 175B, finetuned or with a verifier) on the 1,319 test questions

Every action's reward (1 solved, 0 not) is known for every question, so the value of any policy is exact and any logging
policy can be played. The context is computed from the question's text alone: lengths, counts, and a bag of words hashed
into a few columns.

Raises `DatasetError` with one line saying how to get the data when they are not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.rounds import Rounds
from counterlog.datasets.registry import get
from counterlog.online.exploration import draw
from counterlog.online.generation_store import Batch, make_batch

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
HASHED = 24
_NUMBER = re.compile(r"\d[\d,.]*")
_ACTION_WORDS = re.compile(
    r"\b(each|every|per|half|twice|times|percent|total|more|less|left|remaining)\b|%", re.I
)


@dataclass(frozen=True)
class CounterfactualTable:
    """Rewards of every action for every question.

    context: one row a question | reward (n, k) in reward units | actions: the k names | text: the questions.
    """

    name: str
    context: pl.DataFrame
    actions: tuple[str, ...]
    reward: Floats
    text: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Questions."""
        return len(self.reward)

    def value(self, probs: Floats) -> float:
        """The exact value of a policy with probabilities (n, k): reward a question."""
        if probs.shape != self.reward.shape:
            msg = message(f"probabilities of shape {probs.shape}", expected=f"{self.reward.shape}")
            raise LogError(msg)
        return float((probs * self.reward).sum(axis=1).mean())

    def best_fixed(self) -> tuple[str, float]:
        """The best single action and its exact value."""
        means = self.reward.mean(axis=0)
        return self.actions[int(means.argmax())], float(means.max())

    def oracle(self) -> float:
        """Value of the best action of every question: no policy that sees only the question need reach it."""
        return float(self.reward.max(axis=1).mean())

    def take(self, rows: NDArray[Any]) -> CounterfactualTable:
        """The rows of an index or mask."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        text = tuple(self.text[i] for i in index) if self.text else ()
        return CounterfactualTable(self.name, self.context[index], self.actions, self.reward[index], text)

    def features(self) -> Floats:
        """(n, d) the context as standardised numbers."""
        x = self.context.to_numpy().astype(np.float64)
        return np.asarray((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12), dtype=np.float64)

    def draw_log(self, probs: Floats, *, rows: int = 0, rng: int = 0) -> Rounds:
        """A log of `rows` questions drawn with replacement (0: every question once), actions drawn from `probs` (n, k).

        Columns action, reward, propensity and the context.
        """
        random = np.random.default_rng(rng)
        index = random.integers(self.n, size=rows) if rows else np.arange(self.n)
        code, propensity = draw(probs[index], random)
        frame = self.context[index].with_columns(
            action=pl.Series(np.array(self.actions)[code].tolist()),
            reward=pl.Series(self.reward[index, code]),
            propensity=pl.Series(propensity),
        )
        return Rounds(
            frame,
            action="action",
            reward={"reward": "solved questions"},
            propensity="propensity",
            context=self.context.columns,
        )


class RoutingEnvironment:
    """The table as an environment: each generation serves questions that were not served before, in a drawn order.

    `test` is a second table, on which every value is exact. Raises `ConfigError` when the questions run out.
    """

    def __init__(
        self, table: CounterfactualTable, test: CounterfactualTable, *, batch: int, order: int = 0
    ) -> None:
        self.table, self.actions, self.batch = table, len(table.actions), batch
        both = np.vstack([table.context.to_numpy(), test.context.to_numpy()]).astype(np.float64)
        scaled = (both - both[: table.n].mean(axis=0)) / np.maximum(both[: table.n].std(axis=0), 1e-12)
        self.x, self._test_x, self._test_reward = scaled[: table.n], scaled[table.n :], test.reward
        self._order = np.random.default_rng(order).permutation(table.n)

    def __call__(self, policy: Any, generation: int, rng: np.random.Generator) -> Batch:
        """One generation."""
        rows = self._order[generation * self.batch : (generation + 1) * self.batch]
        if len(rows) < self.batch:
            msg = message(
                f"generation {generation} needs {self.batch} questions and {len(rows)} are left",
                hint="serve fewer generations or smaller batches",
            )
            raise ConfigError(msg)
        x = self.x[rows]
        code, propensity = policy.act(x, rng=rng)
        return make_batch(x, code, propensity, self.table.reward[rows, code], actions=self.actions)

    def test(self, generation: int) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """(x, eligible, reward) of the test table; the same in every generation."""
        return self._test_x, np.ones(self._test_reward.shape, bool), self._test_reward


def question_features(questions: Sequence[str], *, hashed: int = HASHED) -> pl.DataFrame:
    """Lengths, counts and a hashed bag of words, one row a question; all numbers."""
    from sklearn.feature_extraction.text import HashingVectorizer

    numbers = [_NUMBER.findall(q) for q in questions]
    largest = [max((_amount(n) for n in found), default=0.0) for found in numbers]
    columns = {
        "characters": [float(len(q)) for q in questions],
        "words": [float(len(q.split())) for q in questions],
        "numbers": [float(len(found)) for found in numbers],
        "sentences": [float(max(1, len(re.findall(r"[.?!](?:\s|$)", q)))) for q in questions],
        "relations": [float(len(_ACTION_WORDS.findall(q))) for q in questions],
        "largest_number": np.log1p(largest).tolist(),
        "fractions": [float(len(re.findall(r"\d/\d|\d\.\d|%", q))) for q in questions],
    }
    if hashed:
        words = HashingVectorizer(n_features=hashed, alternate_sign=True, norm="l2", stop_words=None)
        bag = words.transform(list(questions)).toarray()
        columns |= {f"word_{j:02d}": bag[:, j].tolist() for j in range(hashed)}
    return pl.DataFrame(columns)


def _amount(text: str) -> float:
    """`1,200.` as 1200.0; 0 when it is no number."""
    try:
        return float(text.replace(",", "").rstrip("."))
    except ValueError:
        return 0.0


def prompts(part: str = "test", *, hashed: int = HASHED) -> CounterfactualTable:
    """The six prompts on GSM8K questions; `part` is train (7,473) or test (1,000)."""
    if part not in ("train", "test"):
        msg = message(f"there is no part {part!r}", expected="train or test")
        raise ConfigError(msg)
    with np.load(get("prompt-oirl-llama2"), allow_pickle=False) as arrays:
        reward = arrays[f"gsm8k_{part}"].astype(np.float64)
    names = json.loads(get("prompt-oirl-llama2", "prompts.json").read_text(encoding="utf-8"))["aliases"]
    questions = _questions(f"{part}.jsonl")[: len(reward)]
    context = question_features(questions, hashed=hashed)
    return CounterfactualTable(f"prompts-{part}", context, tuple(names), reward, tuple(questions))


def models(*, price: Sequence[float] = (0.0, 0.0, 0.0, 0.0), hashed: int = HASHED) -> CounterfactualTable:
    """The four models on the GSM8K test questions; reward = solved minus the model's `price` a question."""
    lines = get("gsm8k", "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    solved = np.array([[float(r[m]["is_correct"]) for m in MODELS] for r in records])
    questions = [str(r["question"]) for r in records]
    context = question_features(questions, hashed=hashed)
    return CounterfactualTable("models", context, MODELS, solved - np.asarray(price), tuple(questions))


def _questions(file: str) -> list[str]:
    lines = get("gsm8k", file).read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["question"]) for line in lines]
