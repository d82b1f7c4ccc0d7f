"""Chain sum: a task, a corpus and a base model that trains in seconds and is a base model in the sense that matters.

Four numbers are to be added one after the other: "3 1 4 2 =" is answered "4 8 10". The corpus is a mixture of four
annotators, of whom one is right, so that the model knows the right answer and says it rarely. Reward 1 when the last
number is the sum, then the end; else 0.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import need_extra
from counterlog.core.token_batches import Ragged
from counterlog.datasets.registry import cache_folder

PAD, BEGIN, END, EQUALS, STYLE, ZERO = 0, 1, 2, 3, 4, 5
LARGEST = 99
VOCABULARY = ZERO + LARGEST + 1
OPERANDS, HIGHEST = 4, 6
LONGEST = OPERANDS  # three running sums and the end
MODES = (0.30, 0.25, 0.25, 0.20)  # correct, off by one, running maximum, absolute difference
RARE = (0.04, 0.36, 0.35, 0.25)
NOISE = 0.05
Tokens = NDArray[np.int64]


def operands(n: int, gen: np.random.Generator) -> Tokens:
    """(n, 4) numbers to add."""
    return gen.integers(0, HIGHEST + 1, (n, OPERANDS))


def prompts_of(x: Tokens) -> Ragged:
    """The prompts as tokens: begin, the numbers, equals."""
    n = len(x)
    rows = np.concatenate([np.full((n, 1), BEGIN), x + ZERO, np.full((n, 1), EQUALS)], axis=1)
    return rows.ravel(), np.arange(n + 1) * rows.shape[1]


def prompt_texts(x: Tokens) -> list[str]:
    """The prompts as text."""
    return [" ".join(map(str, row)) + " =" for row in x.tolist()]


def answers(x: Tokens, modes: Sequence[float], gen: np.random.Generator) -> Tokens:
    """(n, 3) running answers, each row by one annotator, with a slip now and then."""
    mode = gen.choice(len(modes), size=len(x), p=np.asarray(modes))
    now, out = x[:, 0], []
    slips = np.array([-10, -2, -1, 1, 2, 10])
    for k in range(1, x.shape[1]):
        new = x[:, k]
        ways = (now + new, now + new + 1, np.maximum(now, new), np.abs(now - new))
        now = np.choose(mode, ways)
        slipped = gen.random(len(x)) < NOISE
        now = np.where(slipped, now + gen.choice(slips, len(x)), now).clip(0, LARGEST)
        out.append(now)
    return np.stack(out, axis=1)


def corpus(n: int, gen: np.random.Generator, modes: Sequence[float] = MODES) -> Tokens:
    """(n, 10) tokens: prompt, answers, end."""
    x = operands(n, gen)
    prompt = prompts_of(x)[0].reshape(n, -1)
    return np.concatenate([prompt, answers(x, modes, gen) + ZERO, np.full((n, 1), END)], axis=1)


def reward(
    prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], prompt_ids: Any, **_: Any
) -> list[float]:
    """1 for a response of numbers whose last one is the sum, then the end; else 0."""
    out = []
    for prompt, answer in zip(prompt_ids, completion_ids, strict=True):
        total = sum(t - ZERO for t in prompt if t >= ZERO)
        numbers = list(answer[:-1])
        right = bool(numbers) and answer[-1] == END and min(numbers) >= ZERO and numbers[-1] - ZERO == total
        out.append(float(right))
    return out


def number_tokenizer() -> Any:
    """A tokenizer of words: the numbers 0 to 99, "=", and the marks."""
    transformers, tokenizers = need_extra("transformers", "language"), need_extra("tokenizers", "language")
    words = ["<pad>", "<s>", "</s>", "=", "#", *map(str, range(LARGEST + 1))]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BEGIN)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def untrained_model(rng: int = 0) -> Any:
    """A Llama of 120,256 parameters with weights drawn from `rng`."""
    import torch

    transformers = need_extra("transformers", "language")
    settings = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng)
        return transformers.LlamaForCausalLM(settings)


def warm_start(model: Any, *, steps: int = 600, rng: int = 0, modes: Sequence[float] = MODES) -> Any:
    """The model after supervised training on the corpus, in place: AdamW 4e-3, batch 128, cosine to a twentieth."""
    import torch

    gen = np.random.default_rng(rng)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    start = OPERANDS + 2
    model.train()
    for step in range(steps):
        progress = max(step - 30, 0) / max(steps - 30, 1)
        share = min(1.0, (step + 1) / 30) * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * progress)))
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * share
        ids = torch.from_numpy(corpus(128, gen, modes))
        logits = model(input_ids=ids).logits[:, start - 1 : -1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, start:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


def base_model_folder(*, steps: int = 600, rng: int = 0, modes: Sequence[float] = MODES) -> Path:
    """The folder of the base model (`save_pretrained`, safetensors), trained on first use: some 20 processor seconds.

    Kept under COUNTERLOG_DATA where that can be written, else under the library's cache folder.
    """
    said = json.dumps({"steps": steps, "rng": rng, "modes": list(modes), "form": 1})
    name = f"chain-sum-base-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    places = [Path(d) for d in (os.environ.get("COUNTERLOG_DATA"),) if d] + [cache_folder()]
    for place in places:
        if (place / name / "model.safetensors").exists():
            return place / name
    target = next((p for p in places if _writable(p)), places[-1])
    target.mkdir(parents=True, exist_ok=True)
    model = warm_start(untrained_model(rng), steps=steps, rng=rng, modes=modes)
    with tempfile.TemporaryDirectory(dir=target) as beside:
        model.save_pretrained(beside, safe_serialization=True)
        number_tokenizer().save_pretrained(beside)
        shutil.copytree(beside, target / name, dirs_exist_ok=True)
    return target / name


def _writable(folder: Path) -> bool:
    """Whether the folder is there and meant to be written: a read-only mode counts for the administrator too."""
    return folder.is_dir() and os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)
